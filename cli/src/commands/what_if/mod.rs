//! `mailaffinity what-if`: who would move if nodes went down or came back.

mod moves;
mod picture;
mod text;
mod words;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde_json::json;

use self::moves::Moves;
use self::text::Screen;
use self::words::share;
use crate::exit::{Failure, Status};
use crate::files::replace;
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
      mailaffinity what-if --up node2 --list
  Where two users would be:
      mailaffinity what-if --down node2 --list -- anna bert"
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
        let is_change = !(self.down.is_empty() && self.up.is_empty());
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
        if is_change {
            moves.push(moves_by(match config.strategy {
                Strategy::Ring => Strategy::Modulo,
                Strategy::Modulo => Strategy::Ring,
            })?);
        }
        users.try_for_each(|user| {
            let hash = config.username_hash.hash(user);
            moves.iter_mut().for_each(|moves| moves.add(hash));
            Ok(())
        })?;
        match self.svg {
            None => names::print(|out| match (self.json, is_change) {
                (true, false) => moves.iter().try_for_each(|moves| print_shares(out, moves)),
                (true, true) => moves.iter().try_for_each(|moves| print_moves(out, moves)),
                (false, false) => text::shares(out, &moves, Screen::of_stdout()),
                (false, true) => text::moves(out, &moves, Screen::of_stdout()),
            }),
            Some(file) => put(&file, &picture::draw(&moves, is_change)),
        }
    }

    fn state_after(&self, config: &Config, now: &NodeState) -> Result<NodeState, Failure> {
        for name in self.down.iter().chain(&self.up) {
            nodes::find_node(config, name)?;
        }
        if let Some(both) = self.down.iter().find(|name| self.up.contains(name)) {
            let message = format!("node \"{}\" cannot be --down and --up", both.escape_debug());
            return Err(Failure::new(Status::Usage, message));
        }
        let mut then = now.clone();
        for name in &self.up {
            then.set_mark(name, None);
        }
        for name in &self.down {
            then.set_mark(name, Some(Mark::new(State::Down)));
        }
        Ok(then)
    }
}

fn print_list(config: &Config, moves: &Moves, users: Users, is_json: bool) -> Result<ExitCode, Failure> {
    names::print(|out| {
        users.try_for_each(|user| {
            let (from, to) = moves.of(config.username_hash.hash(user));
            if from == to {
                return Ok(());
            }
            if is_json {
                let line = json!({"user": json_name(user), "from": from, "to": to});
                return writeln!(out, "{line}");
            }
            write_user(out, user)?;
            writeln!(out, "\t{} -> {}", from.unwrap_or("-"), to.unwrap_or("-"))
        })
    })
}

/// Numbers of users, and shares of 1.
fn print_shares(out: &mut impl Write, moves: &Moves) -> io::Result<()> {
    let strategy = moves.strategy.to_string();
    let all = moves.total().all();
    for row in moves.rows() {
        let users = row.before.users.all();
        let line = json!({
            "strategy": strategy,
            "node": row.name,
            "state": row.name.as_ref().map(|_| row.before.state()),
            "users": users,
            "share": share(users, all),
            "share_by_vhosts": share(row.before.vhosts, moves.vhosts()),
        });
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", json!({"strategy": strategy, "users": all}))
}

fn print_moves(out: &mut impl Write, moves: &Moves) -> io::Result<()> {
    let strategy = moves.strategy.to_string();
    for row in moves.rows() {
        let (before, after) = (row.before.users, row.after.users);
        let line = json!({
            "strategy": strategy,
            "node": row.name,
            "state_before": row.name.as_ref().map(|_| row.before.state()),
            "state_after": row.name.as_ref().map(|_| row.after.state()),
            "before": before.all(),
            "after": after.all(),
            "stay": before.stay,
            "must_leave": before.must_move,
            "leave_needlessly": before.move_needlessly,
            "must_come": after.must_move,
            "come_needlessly": after.move_needlessly,
        });
        writeln!(out, "{line}")?;
    }
    let total = moves.total();
    let line = json!({
        "strategy": strategy,
        "users": total.all(),
        "stay": total.stay,
        "must_move": total.must_move,
        "move_needlessly": total.move_needlessly,
    });
    writeln!(out, "{line}")
}

/// Puts a picture in the place of a file in one step. What is no file, such as
/// /dev/stdout, is written to.
fn put(path: &Path, svg: &str) -> Result<ExitCode, Failure> {
    if path.as_os_str() == "-" {
        return names::print(|out| out.write_all(svg.as_bytes()));
    }
    let written = match fs::metadata(path) {
        Ok(found) if !found.is_file() => fs::write(path, svg),
        _ => replace::replace_for_now(path, svg),
    };
    written.map(|()| ExitCode::SUCCESS).map_err(|error| {
        let message = format!("{}: cannot write the picture: {error}", path.display());
        Failure::new(Status::IoError, message)
    })
}
