mod bars;
mod count;
mod picture;
mod words;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use self::bars::Screen;
use self::count::Counts;
use super::what_if::{self, Change};
use crate::exit::{Failure, Status};
use crate::files::replace;
use crate::names::{self, Users};
use mailaffinity::config::Config;
use mailaffinity::mapping::Strategy;
use mailaffinity::node_state::NodeState;

/// Show each node's share of the users, and what moves when nodes go down or come back
///
/// Bars on the terminal, or a picture: each node's share, beside the one that its
/// vhost_count stands for. With --down or --up: what would happen to the users of each
/// node by the strategy of the configuration, and by the other one. Those who must move
/// are those of a node that goes, and those whose node comes back; the others move
/// needlessly from one node that is up to another. Nothing is changed.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  How even the shares are:
      mailaffinity shares
  What happens if a node goes down, on the terminal and as a picture:
      mailaffinity shares --down node2
      mailaffinity shares --down node2 --svg node2-down.svg
  The same for a million made-up names:
      mailaffinity shares --down node2 --generate 1000000")]
pub(crate) struct Shares {
    #[command(flatten)]
    change: Change,

    /// Take the nodes with this tag [default: the tag of the configuration]
    #[arg(long, short)]
    tag: Option<String>,

    /// Take N users: user1, user2 and so on
    #[arg(long, value_name = "N", conflicts_with_all = ["stdin", "users"])]
    generate: Option<u64>,

    /// Take the users from standard input, one on each line
    #[arg(long, conflicts_with = "users")]
    stdin: bool,

    /// Write a picture to FILE ("-": standard output) in place of the bars
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Print a JSON object a line
    #[arg(long, conflicts_with = "svg")]
    json: bool,

    /// Users, after "--"; without any, all that the configuration's [users] lists
    #[arg(last = true)]
    users: Vec<OsString>,
}

impl Shares {
    pub(crate) fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let now = NodeState::load(&config.node_state).map_err(Failure::config)?;
        let then = self.change.of(config, &now)?;
        let tag = self.tag.as_deref().unwrap_or(&config.tag);
        let strategies = match (config.strategy, &then) {
            (strategy, None) => vec![strategy],
            (Strategy::Ring, Some(_)) => vec![Strategy::Ring, Strategy::Modulo],
            (Strategy::Modulo, Some(_)) => vec![Strategy::Modulo, Strategy::Ring],
        };
        let mut counts = strategies
            .into_iter()
            .map(|strategy| Counts::new(config, strategy, tag, &now, then.as_ref().unwrap_or(&now)))
            .collect::<Result<Vec<_>, _>>()?;
        let users = match (self.generate, self.stdin) {
            (Some(number), _) => Users::Generated(number),
            (None, true) => Users::OnStdin,
            (None, false) => what_if::given_or_all(self.users, config)?,
        };
        users.try_for_each(|user| {
            let hash = config.username_hash.hash(user);
            counts.iter_mut().for_each(|counts| counts.add(hash));
            Ok(())
        })?;
        let is_change = then.is_some();
        let Some(file) = self.svg else {
            return names::print(|out| match (self.json, is_change) {
                (true, _) => print_json(out, &counts, is_change),
                (false, true) => bars::print_moves(out, &counts, Screen::of_stdout()),
                (false, false) => counts
                    .iter()
                    .try_for_each(|counts| bars::print_shares(out, counts, Screen::of_stdout())),
            });
        };
        let svg = match is_change {
            true => picture::moves(&counts)?,
            false => counts.first().map_or(Ok(String::new()), picture::shares)?,
        };
        if file.as_os_str() == "-" {
            return names::print(|out| out.write_all(svg.as_bytes()));
        }
        write(&file, &svg).map_err(|error| {
            let message = format!("{}: cannot write the picture: {error}", file.display());
            Failure::new(Status::IoError, message)
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Numbers of users, and shares of 1.
fn print_json(out: &mut impl Write, counts: &[Counts], is_change: bool) -> io::Result<()> {
    let state = |is_up| if is_up { "up" } else { "down" };
    for counts in counts {
        let strategy = counts.strategy.to_string();
        let total = counts.total();
        let (vhosts, _) = counts.vhosts();
        for row in counts.rows() {
            let line = match is_change {
                false => json!({
                    "strategy": strategy,
                    "node": row.name,
                    "state": row.name.is_some().then(|| state(row.before.is_up)),
                    "users": row.users_before(),
                    "share": share(row.users_before(), total.users()),
                    "share_by_vhosts": share(row.before.vhosts, vhosts),
                }),
                true => json!({
                    "strategy": strategy,
                    "node": row.name,
                    "state_before": row.name.is_some().then(|| state(row.before.is_up)),
                    "state_after": row.name.is_some().then(|| state(row.after.is_up)),
                    "before": row.users_before(),
                    "after": row.users_after(),
                    "stay": row.stay,
                    "must_leave": row.leave.must,
                    "leave_needlessly": row.leave.needless,
                    "must_come": row.come.must,
                    "come_needlessly": row.come.needless,
                }),
            };
            writeln!(out, "{line}")?;
        }
        let line = match is_change {
            false => json!({"strategy": strategy, "users": total.users()}),
            true => json!({
                "strategy": strategy,
                "users": total.users(),
                "stay": total.stay,
                "must_move": total.moves.must,
                "move_needlessly": total.moves.needless,
            }),
        };
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn share(part: u64, all: u64) -> f64 {
    part as f64 / all.max(1) as f64
}

/// Puts a picture in the place of a file in one step. What is no file, such as
/// /dev/stdout, is written to.
fn write(path: &Path, svg: &str) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => fs::write(path, svg),
        _ => replace::replace_for_now(path, svg),
    }
}
