//! `mailaffinity what-if`: who would move if nodes went down or came back.

mod figures;
mod moves;
mod picture;
mod text;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde_json::json;

use self::figures::Figures;
use self::moves::{Moves, Row};
use crate::exit::{Failure, Status};
use crate::names::{self, Users, json_name, write_user};
use crate::nodes;
use mailaffinity::config::Config;
use mailaffinity::mapping::Strategy;
use mailaffinity::node_state::{Mark, NodeState, State};

/// Show who would move if nodes went down or came back
///
/// The users of each node before and after, by the strategy of the configuration and by
/// the other one. Those who must move are those of a node that goes, and those whose node
/// comes back; the others move needlessly from one node that is up to another.
///
/// Without --down and --up: each node's share of the users, beside the one that its
/// vhost_count stands for. Nothing is changed.
#[derive(Args)]
#[command(
    group = ArgGroup::new("change").args(["down", "up"]).multiple(true),
    after_long_help = "\
Examples:
  How even the shares are:
      mailaffinity what-if
  What happens if a node goes down, on the terminal and as a picture:
      mailaffinity what-if --down node2
      mailaffinity what-if --down node2 --svg node2-down.svg
  The same for a million made-up names:
      mailaffinity what-if --down node2 --generate 1000000
  Who moves back when a node is up again:
      mailaffinity what-if --up node2 --list"
)]
pub(crate) struct WhatIf {
    /// Nodes that would be down
    #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',')]
    down: Vec<String>,

    /// Nodes that would be up
    #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',')]
    up: Vec<String>,

    /// Take the nodes with this tag [default: the tag of the configuration]
    #[arg(long, short)]
    tag: Option<String>,

    /// Print each user who moves, with the node before and after
    #[arg(long, short, requires = "change", conflicts_with = "svg")]
    list: bool,

    /// Print a JSON object a line
    #[arg(long, conflicts_with = "svg")]
    json: bool,

    /// Write a picture to FILE ("-": standard output) in place of the bars
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Take N users: user1, user2 and so on
    #[arg(long, value_name = "N", conflicts_with_all = ["stdin", "users"])]
    generate: Option<u64>,

    /// Take the users from standard input, one on each line
    #[arg(long, conflicts_with = "users")]
    stdin: bool,

    /// Users, after "--"; without any, all that the configuration's [users] lists
    #[arg(last = true)]
    users: Vec<OsString>,
}

impl WhatIf {
    pub(crate) fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let now = NodeState::load(&config.node_state).map_err(Failure::config)?;
        let then = self.state_after(config, &now)?;
        let change = self.change();
        let tag = self.tag.as_deref().unwrap_or(&config.tag);
        let moves_by = |strategy| Moves::new(config, strategy, tag, &now, &then);
        let configured = moves_by(config.strategy)?;
        let users = match (self.generate, self.stdin) {
            (Some(number), _) => Users::Generated(number),
            (None, true) => Users::OnStdin,
            (None, false) => names::given_or_all(self.users, config)?,
        };
        if self.list {
            return print_list(config, &configured, users, self.json);
        }
        let mut moves = vec![configured];
        if change.is_some() {
            moves.push(moves_by(match config.strategy {
                Strategy::Ring => Strategy::Modulo,
                Strategy::Modulo => Strategy::Ring,
            })?);
        }
        users.try_for_each(|user| {
            let hash = config.hash_of(user).ok();
            moves.iter_mut().for_each(|moves| moves.add(hash));
            Ok(())
        })?;
        let figures = Figures::new(&moves, change.as_deref());
        match self.svg {
            Some(file) if file.as_os_str() != "-" => {
                fs::write(&file, picture::draw(&figures)).map_err(|error| {
                    let message = format!("{}: cannot write the picture: {error}", file.display());
                    Failure::new(Status::IoError, message)
                })?;
                Ok(ExitCode::SUCCESS)
            }
            Some(_) => names::print(|out| out.write_all(picture::draw(&figures).as_bytes())),
            None if self.json => {
                names::print(|out| moves.iter().try_for_each(|moves| print_json(out, moves)))
            }
            None => names::print(|out| text::print(out, &figures)),
        }
    }

    fn state_after(&self, config: &Config, now: &NodeState) -> Result<NodeState, Failure> {
        let mut then = now.clone();
        for name in &self.up {
            nodes::find_node(config, name)?;
            then.set_mark(name, None);
        }
        for name in &self.down {
            nodes::find_node(config, name)?;
            if self.up.contains(name) {
                let message = format!("node \"{}\" cannot be --down and --up", name.escape_debug());
                return Err(Failure::new(Status::Usage, message));
            }
            then.set_mark(name, Some(Mark::new(State::Down)));
        }
        Ok(then)
    }

    /// "if node1, node2 are down and node3 is up".
    fn change(&self) -> Option<String> {
        let are = [(&self.down, "down"), (&self.up, "up")].map(|(nodes, state)| {
            let are = if nodes.len() == 1 { "is" } else { "are" };
            (!nodes.is_empty()).then(|| format!("{} {are} {state}", nodes.join(", ")))
        });
        let are: Vec<String> = are.into_iter().flatten().collect();
        (!are.is_empty()).then(|| format!("if {}", are.join(" and ")))
    }
}

fn print_list(config: &Config, moves: &Moves, users: Users, is_json: bool) -> Result<ExitCode, Failure> {
    names::print(|out| {
        users.try_for_each(|user| {
            let (from, to) = moves.of(config.hash_of(user).ok());
            if from == to {
                return Ok(());
            }
            let (from, to) = (moves.name(from), moves.name(to));
            if is_json {
                let line = json!({"user": json_name(user), "from": from, "to": to});
                return writeln!(out, "{line}");
            }
            write_user(out, user)?;
            writeln!(out, "\t{} -> {}", from.unwrap_or("-"), to.unwrap_or("-"))
        })
    })
}

fn print_json(out: &mut impl Write, moves: &Moves) -> io::Result<()> {
    let strategy = moves.strategy.to_string();
    for Row { name, before, after } in moves.rows() {
        let line = json!({"strategy": strategy, "node": name, "before": before, "after": after});
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", json!({"strategy": strategy, "total": moves.total}))
}
