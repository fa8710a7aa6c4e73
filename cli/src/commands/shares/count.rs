//! How many users each node has before and after a change, and who must move for it.

use crate::exit::{Failure, Status};
use mailaffinity::config::Config;
use mailaffinity::mapping::{Cluster, Node, Strategy};
use mailaffinity::node_state::NodeState;

/// Users counted by one strategy, among the nodes with one tag.
pub(crate) struct Counts {
    pub(crate) strategy: Strategy,
    pub(crate) is_configured: bool,
    /// In the configuration's order.
    nodes: Vec<NodeCount>,
    nobodys: NodeCount,
    before: Cluster,
    after: Cluster,
    tag: String,
}

/// The users of one node, or those whom no node takes.
pub(crate) struct NodeCount {
    /// None where no node takes them.
    pub(crate) name: Option<String>,
    pub(crate) before: Place,
    pub(crate) after: Place,
    /// Users who are on it before and after.
    pub(crate) stay: u64,
    /// Users who are on it before only.
    pub(crate) leave: Moves,
    /// Users who are on it after only.
    pub(crate) come: Moves,
}

/// What a node is in a cluster.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place {
    pub(crate) is_up: bool,
    /// None while it is down.
    pub(crate) vhosts: u64,
}

/// Users who move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    /// From a node that goes, or to one that comes.
    pub(crate) must: u64,
    /// From one node that is up all the time to another.
    pub(crate) needless: u64,
}

/// What becomes of all users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) stay: u64,
    pub(crate) moves: Moves,
}

impl Counts {
    /// Nobody counted yet.
    ///
    /// # Errors
    /// When no node has the tag, or the node state has too many vhosts.
    pub(crate) fn new(
        config: &Config,
        strategy: Strategy,
        tag: &str,
        now: &NodeState,
        then: &NodeState,
    ) -> Result<Counts, Failure> {
        let is_configured = strategy == config.strategy;
        let config = Config {
            strategy,
            ..config.clone()
        };
        let cluster = |state| config.cluster(state).map_err(Failure::config);
        let (before, after) = (cluster(now)?, cluster(then)?);
        if before.nodes().iter().all(|node| node.tag != tag) {
            let message = format!("no node has the tag \"{}\"", tag.escape_debug());
            return Err(Failure::new(Status::Usage, message));
        }
        let nodes = before.nodes().iter().zip(after.nodes());
        let count = |name, before, after| NodeCount {
            name,
            before,
            after,
            stay: 0,
            leave: Moves::default(),
            come: Moves::default(),
        };
        Ok(Counts {
            strategy,
            is_configured,
            nodes: nodes
                .map(|(before, after)| count(Some(before.name.clone()), before.into(), after.into()))
                .collect(),
            nobodys: count(None, Place::default(), Place::default()),
            before,
            after,
            tag: tag.to_owned(),
        })
    }

    /// Counts a user, by the hash of the name.
    pub(crate) fn add(&mut self, hash: u32) {
        let from = self.before.index_of_hash(hash, &self.tag);
        let to = self.after.index_of_hash(hash, &self.tag);
        if from == to {
            self.at(from).stay += 1;
            return;
        }
        let moves = |node: &mut NodeCount| node.before.is_up && node.after.is_up;
        let is_needless = moves(self.at(from)) && moves(self.at(to));
        self.at(from).leave.add(is_needless);
        self.at(to).come.add(is_needless);
    }

    fn at(&mut self, index: Option<usize>) -> &mut NodeCount {
        index
            .and_then(|index| self.nodes.get_mut(index))
            .unwrap_or(&mut self.nobodys)
    }

    /// The nodes that have the tag and, if there are any, the users without a node.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &NodeCount> + Clone {
        let has_tag = |(_, node): &(&NodeCount, &Node)| node.tag == self.tag;
        let nodes = self.nodes.iter().zip(self.before.nodes()).filter(has_tag);
        let nobodys =
            Some(&self.nobodys).filter(|nobodys| nobodys.users_before() + nobodys.users_after() > 0);
        nodes.map(|(count, _)| count).chain(nobodys)
    }

    /// What becomes of all users.
    pub(crate) fn total(&self) -> Total {
        self.rows().fold(Total::default(), |total, row| Total {
            stay: total.stay + row.stay,
            moves: Moves {
                must: total.moves.must + row.leave.must,
                needless: total.moves.needless + row.leave.needless,
            },
        })
    }

    /// The vhosts of all nodes that are up, before and after.
    pub(crate) fn vhosts(&self) -> (u64, u64) {
        self.rows().fold((0, 0), |(before, after), row| {
            (before + row.before.vhosts, after + row.after.vhosts)
        })
    }
}

impl From<&Node> for Place {
    fn from(node: &Node) -> Place {
        Place {
            is_up: node.up,
            vhosts: if node.up { node.vhost_count.into() } else { 0 },
        }
    }
}

impl NodeCount {
    pub(crate) fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("-")
    }

    /// Whether it is a node that is down before the change.
    pub(crate) fn is_down(&self) -> bool {
        self.name.is_some() && !self.before.is_up
    }

    pub(crate) fn users_before(&self) -> u64 {
        self.stay + self.leave.all()
    }

    pub(crate) fn users_after(&self) -> u64 {
        self.stay + self.come.all()
    }
}

impl Moves {
    fn add(&mut self, is_needless: bool) {
        match is_needless {
            true => self.needless += 1,
            false => self.must += 1,
        }
    }

    pub(crate) fn all(self) -> u64 {
        self.must + self.needless
    }
}

impl Total {
    pub(crate) fn users(self) -> u64 {
        self.stay + self.moves.all()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use mailaffinity::node_state::{Mark, State};

    /// Three nodes, and a fourth one with a tag.
    fn config() -> Config {
        let mut text = String::new();
        for number in 1..=3 {
            text += &format!("[[node]]\nname = \"node{number}\"\naddress = \"10.0.0.{number}\"\n");
        }
        text += "[[node]]\nname = \"far\"\naddress = \"10.9.0.1\"\ntag = \"far\"\n";
        Config::parse(&text, Path::new("x")).unwrap()
    }

    fn down(nodes: &[&str]) -> NodeState {
        let mut state = NodeState::default();
        for node in nodes {
            state.set_mark(node, Some(Mark::new(State::Down)));
        }
        state
    }

    fn counts(strategy: Strategy, now: &[&str], then: &[&str]) -> Counts {
        let mut counts = Counts::new(&config(), strategy, "", &down(now), &down(then)).unwrap();
        // Evenly all over the hashes.
        (0..10_000).for_each(|n| counts.add(n * 429_497));
        counts
    }

    #[test]
    fn the_numbers_add_up() {
        for strategy in [Strategy::Ring, Strategy::Modulo] {
            for (now, then) in [
                (&[][..], &["node2"][..]),
                (&["node2"], &[]),
                (&["node2"], &["node3"]),
                (&[], &["node1", "node2", "node3"]),
                (&["node1", "node2", "node3"], &[]),
                (&["node1"], &["node1"]),
            ] {
                let counts = counts(strategy, now, then);
                let total = counts.total();
                assert_eq!(total.users(), 10_000);
                let sum = |of: fn(&NodeCount) -> u64| counts.rows().map(of).sum::<u64>();
                assert_eq!(sum(NodeCount::users_before), 10_000);
                assert_eq!(sum(NodeCount::users_after), 10_000);
                assert_eq!(sum(|row| row.come.must), total.moves.must);
                assert_eq!(sum(|row| row.come.needless), total.moves.needless);
                for row in counts.rows().filter(|row| row.name.is_some()) {
                    assert!(row.before.is_up || row.users_before() == 0);
                    assert!(row.after.is_up || row.users_after() == 0);
                }
            }
        }
    }

    #[test]
    fn only_modulo_moves_needlessly() {
        for (now, then) in [
            (&[][..], &["node2"][..]),
            (&["node2"], &[]),
            (&["node2"], &["node3"]),
        ] {
            assert_eq!(counts(Strategy::Ring, now, then).total().moves.needless, 0);
            // A node that comes in the place of one that goes has the same vhosts.
            let needless = counts(Strategy::Modulo, now, then).total().moves.needless;
            assert_eq!(needless > 3_000, now.is_empty() || then.is_empty(), "{needless}");
        }
    }

    #[test]
    fn without_nodes_users_are_nobodys() {
        let all = ["node1", "node2", "node3"];
        let counts = counts(Strategy::Ring, &[], &all);
        let nobodys = counts.rows().last().unwrap();
        assert_eq!((nobodys.name.as_deref(), nobodys.users_after()), (None, 10_000));
        assert_eq!(counts.total().moves.must, 10_000);
        assert_eq!(counts.vhosts(), (300, 0));
    }

    #[test]
    fn tags_are_apart() {
        let config = config();
        let state = NodeState::default();
        let counts = |tag| Counts::new(&config, Strategy::Ring, tag, &state, &state);
        let names = |tag| -> Vec<String> {
            let counts = counts(tag).unwrap_or_else(|failure| panic!("{failure}"));
            counts.rows().map(|row| row.label().to_owned()).collect()
        };
        assert_eq!(names(""), ["node1", "node2", "node3"]);
        assert_eq!(names("far"), ["far"]);
        assert_eq!(
            counts("near").err().unwrap().to_string(),
            "no node has the tag \"near\""
        );
    }
}
