//! How many users each node has before and after a change, and who must move for it.

use crate::exit::{Failure, Status};
use mailaffinity::config::Config;
use mailaffinity::mapping::{Cluster, Node, Strategy};
use mailaffinity::node_state::NodeState;

/// Users counted by one strategy, among the nodes with one tag.
pub(crate) struct Moves {
    pub(crate) strategy: Strategy,
    pub(crate) is_configured: bool,
    /// In the configuration's order.
    nodes: Vec<Row>,
    without_node: Row,
    before: Cluster,
    after: Cluster,
    tag: String,
}

/// A node, or what users without a node have in place of one.
#[derive(Default)]
pub(crate) struct Row {
    /// `None` for users without a node.
    pub(crate) name: Option<String>,
    pub(crate) before: Side,
    pub(crate) after: Side,
}

/// A node before a change or after it.
#[derive(Default)]
pub(crate) struct Side {
    pub(crate) is_up: bool,
    /// 0 while it is down.
    pub(crate) vhosts: u64,
    /// Those who are on it: also after or before, or only now.
    pub(crate) users: Users,
}

/// What becomes of users, or became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Users {
    pub(crate) stay: u64,
    /// From a node that goes, or to one that comes back.
    pub(crate) must_move: u64,
    /// From one node that is up all the time to another.
    pub(crate) move_needlessly: u64,
}

impl Moves {
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
    ) -> Result<Moves, Failure> {
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
        Ok(Moves {
            strategy,
            is_configured,
            nodes: nodes
                .map(|(before, after)| Row {
                    name: Some(before.name.clone()),
                    before: before.into(),
                    after: after.into(),
                })
                .collect(),
            without_node: Row::default(),
            before,
            after,
            tag: tag.to_owned(),
        })
    }

    /// Counts a user, by the hash of the name.
    pub(crate) fn add(&mut self, hash: u32) {
        let from = self.before.index_of_hash(hash, &self.tag);
        let to = self.after.index_of_hash(hash, &self.tag);
        let is_up_all_the_time = |row: &mut Row| row.before.is_up && row.after.is_up;
        let kind: fn(&mut Users) -> &mut u64 = if from == to {
            |users| &mut users.stay
        } else if is_up_all_the_time(self.row(from)) && is_up_all_the_time(self.row(to)) {
            |users| &mut users.move_needlessly
        } else {
            |users| &mut users.must_move
        };
        *kind(&mut self.row(from).before.users) += 1;
        *kind(&mut self.row(to).after.users) += 1;
    }

    fn row(&mut self, index: Option<usize>) -> &mut Row {
        index
            .and_then(|index| self.nodes.get_mut(index))
            .unwrap_or(&mut self.without_node)
    }

    /// The names of a user's nodes before and after.
    pub(crate) fn of(&self, hash: u32) -> (Option<&str>, Option<&str>) {
        let name = |cluster: &Cluster| {
            let row = self.nodes.get(cluster.index_of_hash(hash, &self.tag)?)?;
            row.name.as_deref()
        };
        (name(&self.before), name(&self.after))
    }

    /// The nodes that have the tag and, if there are any, the users without a node.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> + Clone {
        let nodes = self.nodes.iter().zip(self.before.nodes());
        let with_tag = nodes.filter(|(_, node)| node.tag == self.tag);
        let is_used = |row: &&Row| row.before.users.all() + row.after.users.all() > 0;
        with_tag
            .map(|(row, _)| row)
            .chain(Some(&self.without_node).filter(is_used))
    }

    /// What becomes of all users.
    pub(crate) fn total(&self) -> Users {
        let users = self.rows().map(|row| row.before.users);
        users.fold(Users::default(), |total, users| Users {
            stay: total.stay + users.stay,
            must_move: total.must_move + users.must_move,
            move_needlessly: total.move_needlessly + users.move_needlessly,
        })
    }

    /// The vhosts of all nodes that are up before.
    pub(crate) fn vhosts(&self) -> u64 {
        self.rows().map(|row| row.before.vhosts).sum()
    }
}

impl From<&Node> for Side {
    fn from(node: &Node) -> Side {
        Side {
            is_up: node.up,
            vhosts: if node.up { node.vhost_count.into() } else { 0 },
            users: Users::default(),
        }
    }
}

impl Side {
    pub(crate) fn state(&self) -> &'static str {
        if self.is_up { "up" } else { "down" }
    }
}

impl Row {
    pub(crate) fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("no node")
    }
}

impl Users {
    pub(crate) fn all(self) -> u64 {
        self.stay + self.must_move + self.move_needlessly
    }

    /// In the order in which bars have them.
    pub(crate) fn parts(self) -> [u64; 3] {
        [self.stay, self.must_move, self.move_needlessly]
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

    fn moves(strategy: Strategy, now: &[&str], then: &[&str]) -> Moves {
        let mut moves = Moves::new(&config(), strategy, "", &down(now), &down(then)).unwrap();
        // Evenly all over the hashes.
        (0..10_000).for_each(|n| moves.add(n * 429_497));
        moves
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
                let moves = moves(strategy, now, then);
                let total = moves.total();
                assert_eq!(total.all(), 10_000);
                let sum = |of: fn(&Row) -> u64| moves.rows().map(of).sum::<u64>();
                assert_eq!(sum(|row| row.after.users.all()), 10_000);
                assert_eq!(sum(|row| row.after.users.must_move), total.must_move);
                assert_eq!(sum(|row| row.after.users.move_needlessly), total.move_needlessly);
                for row in moves.rows() {
                    assert_eq!(row.before.users.stay, row.after.users.stay);
                    for side in [&row.before, &row.after] {
                        assert!(side.is_up || side.users.all() == 0 || row.name.is_none());
                    }
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
            assert_eq!(moves(Strategy::Ring, now, then).total().move_needlessly, 0);
            // A node that comes in the place of one that goes has the same vhosts.
            let needlessly = moves(Strategy::Modulo, now, then).total().move_needlessly;
            assert_eq!(
                needlessly > 3_000,
                now.is_empty() || then.is_empty(),
                "{needlessly}"
            );
        }
    }

    #[test]
    fn users_without_a_node_are_counted() {
        let all = ["node1", "node2", "node3"];
        let moves = moves(Strategy::Ring, &[], &all);
        let last = moves.rows().last().unwrap();
        assert_eq!((last.name.as_deref(), last.after.users.all()), (None, 10_000));
        assert_eq!(moves.total().must_move, 10_000);
        assert_eq!(moves.of(0).1, None);
        assert_eq!(moves.vhosts(), 300);
    }

    #[test]
    fn tags_are_apart() {
        let config = config();
        let state = NodeState::default();
        let moves = |tag| Moves::new(&config, Strategy::Ring, tag, &state, &state);
        let names = |tag| -> Vec<String> {
            let moves = moves(tag).unwrap_or_else(|failure| panic!("{failure}"));
            moves.rows().map(|row| row.label().to_owned()).collect()
        };
        assert_eq!(names(""), ["node1", "node2", "node3"]);
        assert_eq!(names("far"), ["far"]);
        assert_eq!(
            moves("near").err().unwrap().to_string(),
            "no node has the tag \"near\""
        );
    }
}
