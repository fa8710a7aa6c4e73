use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use super::exit::{self, Failure, Status};
use super::users;
use crate::config::{self, Config};
use crate::node_state::NodeState;

/// User/node affinity for mail clusters.
#[derive(Parser)]
#[command(name = "mailaffinity", version)]
struct Arguments {
    /// Configuration file
    #[arg(long, short, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Map(Map),
}

/// Print the node of each user, by the Director's mapping.
///
/// Each line of output has the user, the node, the host that webmail connects to
/// and the queue group, with tabs between them. Nodes that the node state calls
/// down get no users. A user for whom no node is up, and a node without a queue
/// group, show "-"; the exit status is 75 when any user has no node.
#[derive(Args)]
struct Map {
    /// Map to the nodes with this tag [default: the tag of the configuration]
    #[arg(long, short)]
    tag: Option<String>,

    /// Users; without any, one on each line of standard input
    users: Vec<OsString>,
}

/// The command `mailaffinity`.
pub fn mailaffinity() -> ExitCode {
    exit::run(|arguments: Arguments| match arguments.command {
        Command::Map(map) => map.run(&arguments.config),
    })
}

impl Map {
    fn run(self, config: &Path) -> Result<(), Failure> {
        let config = Config::load(config).map_err(Failure::config)?;
        let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
        let cluster = config.cluster(&state).map_err(Failure::config)?;
        let tag = self.tag.as_deref().unwrap_or(&config.tag);
        let mut users_without_node = 0u64;
        users::write_line_for_each(self.users, |user| {
            let Some(node) = cluster
                .index_of(user, tag)
                .and_then(|index| config.nodes.get(index))
            else {
                users_without_node += 1;
                return vec!["-".into(); 3];
            };
            let queue_group = node.queue_group.as_deref().unwrap_or("-");
            vec![node.node.name.clone(), node.imap_host.clone(), queue_group.into()]
        })?;
        if users_without_node > 0 {
            let message = format!(
                "no node with the tag \"{}\" is up, for {users_without_node} users",
                tag.escape_debug()
            );
            return Err(Failure::new(Status::TempFail, message));
        }
        Ok(())
    }
}
