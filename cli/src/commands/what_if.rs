use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::map;
use crate::exit::{Failure, Status};
use crate::names::unknown_node;
use crate::names::{self, Users, json_name, write_user};
use mailaffinity::config::Config;
use mailaffinity::node_state::{Mark, NodeState};

/// Print who would move if nodes went down or came back
///
/// How many users move from which node to which, and how many stay. Nothing is changed.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  How many users would move:
      mailaffinity what-if --down node2
  Who moves back when a node is up again:
      mailaffinity what-if --up node2 --list
  Where two users would be:
      mailaffinity what-if --down node2 --list -- anna bert")]
pub(crate) struct WhatIf {
    #[command(flatten)]
    change: Change,

    /// Print each user who moves, with the node before and after
    #[arg(long, short)]
    list: bool,

    /// Print a JSON object a line
    #[arg(long)]
    json: bool,

    /// Users, after "--"; without any, all that the configuration's [users] lists
    #[arg(last = true)]
    users: Vec<OsString>,
}

/// Nodes that would go down or come back.
#[derive(Args)]
pub(crate) struct Change {
    /// Nodes that would be down
    #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',')]
    down: Vec<String>,

    /// Nodes that would be up
    #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',')]
    up: Vec<String>,
}

impl WhatIf {
    pub(crate) fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let now = NodeState::load(&config.node_state).map_err(Failure::config)?;
        let then = self
            .change
            .of(config, &now)?
            .ok_or_else(|| Failure::new(Status::Usage, "say which nodes would be --down or --up"))?;
        let (before, after) = (
            config.cluster(&now).map_err(Failure::config)?,
            config.cluster(&then).map_err(Failure::config)?,
        );
        let users = given_or_all(self.users, config)?;
        let name = |index: Option<usize>| match index.and_then(|index| config.nodes.get(index)) {
            Some(node) => node.node.name.as_str(),
            None => "-",
        };
        let mut moves: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let mut stay = 0u64;
        names::print(|out| {
            users.try_for_each(|user| {
                let from = name(before.index_of(user, &config.tag));
                let to = name(after.index_of(user, &config.tag));
                if from == to {
                    stay += 1;
                    return Ok(());
                }
                *moves.entry((from, to)).or_default() += 1;
                match (self.list, self.json) {
                    (false, _) => Ok(()),
                    (true, true) => writeln!(
                        out,
                        "{}",
                        json!({"user": json_name(user), "from": from, "to": to})
                    ),
                    (true, false) => {
                        write_user(out, user)?;
                        writeln!(out, "\t{from} -> {to}")
                    }
                }
            })?;
            if self.list {
                return Ok(());
            }
            let all = stay + moves.values().sum::<u64>();
            if self.json {
                for ((from, to), count) in &moves {
                    writeln!(out, "{}", json!({"from": from, "to": to, "users": count}))?;
                }
                return writeln!(out, "{}", json!({"stay": stay, "users": all}));
            }
            for ((from, to), count) in &moves {
                writeln!(out, "{from} -> {to}\t{count}\t{}", percent(*count, all))?;
            }
            writeln!(out, "stay\t{stay}\t{}", percent(stay, all))
        })
    }
}

impl Change {
    /// The node state after it; `None` if it names no node.
    pub(crate) fn of(&self, config: &Config, now: &NodeState) -> Result<Option<NodeState>, Failure> {
        if let Some(stranger) = self
            .down
            .iter()
            .chain(&self.up)
            .find(|name| config.index_of_node(name).is_none())
        {
            return Err(unknown_node(config, stranger));
        }
        if let Some(both) = self.down.iter().find(|name| self.up.contains(name)) {
            let message = format!("node \"{}\" cannot be --down and --up", both.escape_debug());
            return Err(Failure::new(Status::Usage, message));
        }
        if self.down.is_empty() && self.up.is_empty() {
            return Ok(None);
        }
        let mut then = now.clone();
        for name in &self.up {
            then.down.remove(name);
        }
        for name in &self.down {
            then.down.insert(name.clone(), Mark::default());
        }
        Ok(Some(then))
    }
}

/// The users given as arguments or, without any, all of the configuration.
pub(crate) fn given_or_all(arguments: Vec<OsString>, config: &Config) -> Result<Users, Failure> {
    match arguments.is_empty() {
        true => Ok(Users::Listed(map::all(config)?)),
        false => Ok(names::given(arguments)),
    }
}

/// A part of all, in percent with one decimal.
pub(crate) fn percent(count: u64, all: u64) -> String {
    let all = all.max(1);
    // In tenths, rounded.
    let tenths = (count * 1000 + all / 2) / all;
    format!("{}.{}%", tenths / 10, tenths % 10)
}
