//! `mailaffinity map`: the node of each user.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::exit::{Failure, Status};
use crate::names;
use mailaffinity::config::{Config, NoNodeUp};
use mailaffinity::node_state::NodeState;

/// Print the node of each user, by the Director's mapping
///
/// Each line of output has the user, the node, the host that webmail connects to
/// and the queue group, with tabs between them. Nodes that the node state calls
/// down get no users. A user for whom no node is up, and a node without a queue
/// group, show "-".
#[derive(Args)]
#[command(after_long_help = "\
Exit status:
  0   all users have nodes
  75  some have none
  The others are those of mailaffinity(1).

Examples:
  The nodes of two users:
      mailaffinity map anna bert
  How many users each node has:
      mailaffinity map --all | cut -f2 | sort | uniq -c")]
pub(crate) struct Map {
    /// Map to the nodes with this tag [default: the tag of the configuration]
    #[arg(long, short)]
    tag: Option<String>,

    /// Map all users that the configuration's [users] lists
    #[arg(long, short, conflicts_with = "users")]
    all: bool,

    /// Print a JSON object a line
    #[arg(long)]
    json: bool,

    /// Users; without any, one on each line of standard input
    users: Vec<OsString>,
}

impl Map {
    pub(crate) fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
        let cluster = config.cluster(&state).map_err(Failure::config)?;
        let tag = self.tag.as_deref().unwrap_or(&config.tag);
        let node_of = |hash: u32| config.nodes.get(cluster.index_of_hash(hash, tag)?);
        let users = if self.all {
            names::all(config)?
        } else {
            names::given(self.users)
        };
        let mut users_without_node = 0u64;
        let mut not_hashed = None;
        let printed = names::print(|out| {
            users.try_for_each(|user| {
                let hash = config.hash_of(user);
                let node = hash.ok().and_then(node_of);
                users_without_node += u64::from(node.is_none());
                not_hashed = hash.err().or(not_hashed);
                let queue_group = node.and_then(|node| node.queue_group.as_deref());
                if self.json {
                    let fields = json!({
                        "user": names::json_name(user),
                        "node": node.map(|node| &node.node.name),
                        "host": node.map(|node| &node.host),
                        "queue_group": queue_group,
                    });
                    return writeln!(out, "{fields}");
                }
                let (name, host) = node.map_or(("-", "-"), |node| (&node.node.name, &node.host));
                names::write_line(out, user, &[name, host, queue_group.unwrap_or("-")])
            })
        })?;
        if users_without_node > 0 {
            let problem = match not_hashed {
                Some(not_hashed) => not_hashed.to_string(),
                None => NoNodeUp(tag.to_owned()).to_string(),
            };
            let message = format!("{problem}; users without a node: {users_without_node}");
            return Err(Failure::new(Status::TempFail, message));
        }
        Ok(printed)
    }
}
