//! How many users each node has before and after a change, and who must move for it.

use serde::Serialize;

use crate::exit::{Failure, Status};
use mailaffinity::config::Config;
use mailaffinity::mapping::{Cluster, Node, Strategy};
use mailaffinity::node_state::NodeState;

/// Users counted by one strategy, among the nodes with one tag.
pub(crate) struct Moves {
    pub(crate) strategy: Strategy,
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
            rows: rows.chain([Row::default()]).collect(),
            before,
            after,
            tag: tag.to_owned(),
        })
    }

    /// The rows of a user before and after, by the hash of the name.
    pub(crate) fn of(&self, hash: u32) -> (usize, usize) {
        let row = |cluster: &Cluster| {
            let node = cluster.index_of_hash(hash, &self.tag);
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
    pub(crate) fn add(&mut self, hash: u32) {
        let (from, to) = self.of(hash);
        let stays_up = |row: usize| self.rows[row].before.is_up() && self.rows[row].after.is_up();
        let is_needless = stays_up(from) && stays_up(to);
        self.rows[from].before.users.add(from == to, is_needless);
        self.rows[to].after.users.add(from == to, is_needless);
    }

    /// The nodes that have the tag and, if there are any, the users without a node.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> + Clone {
        let mut nodes = self.before.nodes().iter();
        self.rows.iter().filter(move |row| match nodes.next() {
            Some(node) => node.tag == self.tag,
            None => row.before.users.users + row.after.users.users > 0,
        })
    }

    /// What becomes of all users.
    pub(crate) fn total(&self) -> Users {
        let mut total = Users::default();
        for Row { before, .. } in self.rows() {
            total.users += before.users.users;
            total.stay += before.users.stay;
            total.must_move += before.users.must_move;
            total.move_needlessly += before.users.move_needlessly;
        }
        total
    }

    /// The vhosts of all nodes that are up before.
    pub(crate) fn vhost_count(&self) -> u64 {
        self.rows().map(|row| row.before.vhost_count).sum()
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

impl Side {
    fn is_up(&self) -> bool {
        self.state == Some("up")
    }
}

impl Row {
    pub(crate) fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("no node")
    }
}

impl Users {
    fn add(&mut self, stays: bool, is_needless: bool) {
        self.users += 1;
        *match (stays, is_needless) {
            (true, _) => &mut self.stay,
            (false, true) => &mut self.move_needlessly,
            (false, false) => &mut self.must_move,
        } += 1;
    }

    /// In the order in which bars have them.
    pub(crate) fn parts(self) -> [u64; 3] {
        [self.stay, self.must_move, self.move_needlessly]
    }
}
