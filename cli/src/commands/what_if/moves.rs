//! How many users each node has before and after a change, and who must move for it.

use serde::Serialize;

use crate::exit::{Failure, Status};
use mailaffinity::config::Config;
use mailaffinity::mapping::{Cluster, Node, Strategy};
use mailaffinity::node_state::NodeState;

/// Users counted by one strategy, among the nodes with one tag.
pub(crate) struct Moves {
    pub(crate) strategy: Strategy,
    /// What becomes of all users.
    pub(crate) total: Users,
    /// The nodes in the configuration's order, and a last row for users without a node.
    rows: Vec<Row>,
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
#[derive(Default, Serialize)]
pub(crate) struct Side {
    /// "up" or "down".
    pub(crate) state: Option<&'static str>,
    /// 0 while it is down.
    pub(crate) vhost_count: u64,
    /// Those who are on it.
    #[serde(flatten)]
    pub(crate) users: Users,
}

/// What becomes of users, or became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Users {
    /// All of them.
    pub(crate) users: u64,
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
        let rows = nodes.map(|(before, after)| Row {
            name: Some(before.name.clone()),
            before: before.into(),
            after: after.into(),
        });
        Ok(Moves {
            strategy,
            total: Users::default(),
            rows: rows.chain([Row::default()]).collect(),
            before,
            after,
            tag: tag.to_owned(),
        })
    }

    /// The rows of a user before and after, by the hash of the name if it has one.
    pub(crate) fn of(&self, hash: Option<u32>) -> (usize, usize) {
        let row = |cluster: &Cluster| {
            let node = hash.and_then(|hash| cluster.index_of_hash(hash, &self.tag));
            node.unwrap_or(cluster.nodes().len())
        };
        (row(&self.before), row(&self.after))
    }

    pub(crate) fn name(&self, row: usize) -> Option<&str> {
        self.rows.get(row)?.name.as_deref()
    }

    /// Counts a user, by the hash of the name.
    #[expect(
        clippy::indexing_slicing,
        reason = "each node has a row, and having none is the last"
    )]
    pub(crate) fn add(&mut self, hash: Option<u32>) {
        let (from, to) = self.of(hash);
        let is_up = |side: &Side| side.state == Some("up");
        let stays_up = |row: usize| is_up(&self.rows[row].before) && is_up(&self.rows[row].after);
        let is_needless = stays_up(from) && stays_up(to);
        let count = |users: &mut Users| {
            users.users += 1;
            *match (from == to, is_needless) {
                (true, _) => &mut users.stay,
                (false, true) => &mut users.move_needlessly,
                (false, false) => &mut users.must_move,
            } += 1;
        };
        count(&mut self.total);
        count(&mut self.rows[from].before.users);
        count(&mut self.rows[to].after.users);
    }

    /// The nodes that have the tag and, if there are any, the users without a node.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        let mut nodes = self.before.nodes().iter();
        self.rows.iter().filter(move |row| match nodes.next() {
            Some(node) => node.tag == self.tag,
            None => row.before.users.users + row.after.users.users > 0,
        })
    }
}

impl From<&Node> for Side {
    fn from(node: &Node) -> Side {
        Side {
            state: Some(if node.up { "up" } else { "down" }),
            vhost_count: if node.up { node.vhost_count.into() } else { 0 },
            users: Users::default(),
        }
    }
}

impl Row {
    pub(crate) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| "no node".into())
    }
}

impl Users {
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

    fn all(users: Users) -> u64 {
        users.parts().iter().sum()
    }

    fn moves(strategy: Strategy, now: &[&str], then: &[&str]) -> Moves {
        let mut moves = Moves::new(&config(), strategy, "", &down(now), &down(then)).unwrap();
        // Evenly all over the hashes.
        (0..10_000).for_each(|n| moves.add(Some(n * 429_497)));
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
                let total = moves.total;
                assert_eq!(all(total), 10_000);
                let sum = |of: fn(&Row) -> u64| moves.rows().map(of).sum::<u64>();
                assert_eq!(sum(|row| all(row.after.users)), 10_000);
                assert_eq!(sum(|row| row.after.users.must_move), total.must_move);
                assert_eq!(sum(|row| row.after.users.move_needlessly), total.move_needlessly);
                for row in moves.rows() {
                    assert_eq!(row.before.users.stay, row.after.users.stay);
                    for side in [&row.before, &row.after] {
                        assert!(side.state == Some("up") || all(side.users) == 0 || row.name.is_none());
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
            assert_eq!(moves(Strategy::Ring, now, then).total.move_needlessly, 0);
            // A node that comes in the place of one that goes has the same vhosts.
            let needlessly = moves(Strategy::Modulo, now, then).total.move_needlessly;
            assert_eq!(
                needlessly > 3_000,
                now.is_empty() || then.is_empty(),
                "{needlessly}"
            );
        }
    }

    #[test]
    fn users_without_a_node_are_counted() {
        let every = ["node1", "node2", "node3"];
        let moves = moves(Strategy::Ring, &[], &every);
        let last = moves.rows().last().unwrap();
        assert_eq!((last.name.as_deref(), all(last.after.users)), (None, 10_000));
        assert_eq!(moves.total.must_move, 10_000);
    }

    #[test]
    fn tags_are_apart() {
        let config = config();
        let state = NodeState::default();
        let moves = |tag| Moves::new(&config, Strategy::Ring, tag, &state, &state);
        let names = |tag| -> Vec<String> {
            let moves = moves(tag).unwrap_or_else(|failure| panic!("{failure}"));
            moves.rows().map(|row| row.name.clone().unwrap()).collect()
        };
        assert_eq!(names(""), ["node1", "node2", "node3"]);
        assert_eq!(names("far"), ["far"]);
        assert_eq!(
            moves("near").err().unwrap().to_string(),
            "no node has the tag \"near\""
        );
    }
}
