use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::super::exit::{Failure, Status};
use super::super::users::{self, json_name, write_user};
use super::what_if;
use crate::agreement::{Opinion, Question};
use crate::config::Config;
use crate::node_state::NodeState;
use crate::update;

/// As long as an update may take.
const UPDATE: Duration = Duration::from_secs(60);

/// Check that all parts give the same node for every user; exit with status 1 if not
///
/// Asks the Director, the access map, sendmail's rule set, the C library and the PHP
/// module for each user, and compares what they say with the configuration and node
/// state. Prints a table, the first user whose answer differs for each part, and why.
/// What is not on this machine is not asked. Nothing is changed.
///
/// As root, PHP is asked as the user www-data: what the web server cannot read is found
/// too. See [agreement] in mailaffinity.toml(5).
#[derive(Args)]
#[command(after_long_help = "\
Exit status:
  0   all that could be asked agree
  1   a part differs, has a problem or does not answer
  69  there is no part on this machine to ask
  75  no node is up
  The others are those of mailaffinity(1).

Examples:
  For cron, which mails what is printed:
      mailaffinity agreement --quiet
  The same for some users only:
      mailaffinity agreement -- anna bert")]
pub(super) struct Agreement {
    /// Print a JSON object a line, one for each part
    #[arg(long)]
    json: bool,

    /// Print nothing if all agree
    #[arg(long, short)]
    quiet: bool,

    /// Users, after "--"; without any, all that the configuration's [users] lists
    #[arg(last = true)]
    users: Vec<OsString>,
}

impl Agreement {
    pub(super) fn run(self, path: &Path, config: &Config) -> Result<ExitCode, Failure> {
        let path = std::path::absolute(path)?;
        let mut users = Vec::new();
        what_if::given_or_all(self.users, config)?.try_for_each(|user| {
            users.push(user.to_vec());
            Ok(())
        })?;
        let mut last = false;
        loop {
            let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
            let question = Question::new(&path, config, &state, &users)
                .map_err(|error| Failure::new(Status::TempFail, error))?;
            let opinions = question.ask();
            let agree = opinions.iter().all(|opinion| agrees(&question, opinion));
            if !agree && !last {
                // An update that was at work may be all that is behind it.
                let _ = update::lock_map(config, UPDATE);
                last = true;
                continue;
            }
            if opinions.iter().all(|opinion| opinion.absent.is_some()) {
                let message =
                    "there is no part on this machine to compare with; see [agreement] of the configuration";
                return Err(Failure::new(Status::Unavailable, message));
            }
            if !(agree && self.quiet) {
                users::print(|out| match self.json {
                    true => write_json(out, &question, &opinions),
                    false => write_table(out, &question, &opinions, users.len()),
                })?;
            }
            return Ok(if agree {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
    }
}

fn agrees(question: &Question<'_>, opinion: &Opinion) -> bool {
    opinion.problems.is_empty() && question.differences(opinion).next().is_none()
}

fn write_json(out: &mut impl Write, question: &Question<'_>, opinions: &[Opinion]) -> io::Result<()> {
    for opinion in opinions {
        let first = question.differences(opinion).next().map(|first| {
            json!({"user": json_name(first.user), "expected": first.expected, "answer": first.answer})
        });
        let line = json!({
            "part": opinion.part,
            "agrees": opinion.absent.is_none().then(|| agrees(question, opinion)),
            "asked": opinion.asked(),
            "differ": question.differences(opinion).count(),
            "first": first,
            "problems": opinion.problems,
            "not_here": opinion.absent,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn write_table(
    out: &mut impl Write,
    question: &Question<'_>,
    opinions: &[Opinion],
    users: usize,
) -> io::Result<()> {
    let width = opinions
        .iter()
        .map(|opinion| opinion.part.len())
        .max()
        .unwrap_or(0);
    writeln!(
        out,
        "{:width$}  {:>8} {:>8} {:>8}",
        "", "asked", "agree", "differ"
    )?;
    for opinion in opinions {
        if let Some(why) = &opinion.absent {
            writeln!(out, "{:width$}  {:>8}  {why}", opinion.part, "-")?;
            continue;
        }
        if opinion.answers.is_empty() {
            writeln!(out, "{:width$}  {:>8}  no answer", opinion.part, "-")?;
            continue;
        }
        let (asked, differ) = (opinion.asked(), question.differences(opinion).count());
        let agree = asked.saturating_sub(differ);
        writeln!(out, "{:width$}  {asked:>8} {agree:>8} {differ:>8}", opinion.part)?;
    }
    for opinion in opinions.iter().filter(|opinion| !agrees(question, opinion)) {
        write!(out, "\n{}:", opinion.part)?;
        if let Some(first) = question.differences(opinion).next() {
            out.write_all(b" ")?;
            write_user(out, first.user)?;
            write!(out, " -> {}, and not {}", first.answer, first.expected)?;
        }
        writeln!(out)?;
        for problem in &opinion.problems {
            writeln!(out, "  {problem}")?;
        }
    }
    let asked = opinions.iter().filter(|opinion| opinion.absent.is_none());
    if asked.clone().all(|opinion| agrees(question, opinion)) {
        writeln!(out, "\nAll {} agree, for {users} users.", asked.count())?;
    }
    Ok(())
}
