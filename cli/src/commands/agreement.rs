//! `mailaffinity agreement`: asks all parts, and prints who differs and why.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::agreement::{Opinion, Question};
use crate::exit::{Failure, NAME, Status, say};
use crate::names::{self, json_name, write_user};
use crate::update::{self, UpdateError};
use crate::users;
use mailaffinity::config::Config;
use mailaffinity::files::file_stamp::FileStamp;
use mailaffinity::node_state::NodeState;

/// As long as an update may take.
const UPDATE: Duration = Duration::from_secs(60);

/// How often it is asked at most, where the answers differ.
const ATTEMPTS: u32 = 5;

/// Check that all parts give the same node for every user; exit with status 1 if not
///
/// Asks the Director, the access map, sendmail's rule set, the C library, the PHP module
/// and, where [agreement] names any, Dovecots without a Director for each user, and compares what they say with the configuration and node
/// state. Prints a table, the first user whose answer differs for each part, and why.
/// What is not on this machine is not asked. Nothing is changed.
///
/// The Director's socket knows nothing of authentication: with login_user in [agreement],
/// that user logs in through the Director's IMAP, and must then be on the right node.
///
/// PHP is asked by its command line, with the configuration of PHP-FPM or Apache where
/// those are installed, and by root as the user www-data: what the web server cannot read
/// is found too, but not what a pool or a virtual host sets itself. See [agreement] in mailaffinity.toml(5).
#[derive(Args)]
#[command(after_long_help = "\
Exit status:
  0   all that could be asked agree
  1   a part differs, has a problem or does not answer
  69  no part on this machine can be asked
  75  no node is up, or an update was at work all the time
  The others are those of mailaffinity(1).

Examples:
  For cron, which mails what is printed:
      mailaffinity agreement --quiet
  The same for some users only:
      mailaffinity agreement -- anna bert")]
pub(crate) struct Agreement {
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
    pub(crate) fn run(self, path: &Path, config: &Config) -> Result<ExitCode, Failure> {
        let path = std::path::absolute(path)?;
        let mut users = Vec::new();
        let silent_services = match self.users.is_empty() {
            true => users::silent_services(&config.users.source, *config.users.timeout),
            false => Vec::new(),
        };
        names::given_or_all(self.users, config)?.try_for_each(|user| {
            users.push(user.to_vec());
            Ok(())
        })?;
        let ask_library = [
            std::env::current_exe()?.into_os_string(),
            "--config".into(),
            path.clone().into_os_string(),
            "c-library".into(),
            "--".into(),
        ];
        let own_domains = OnceCell::new();
        wait_for_moves(config)?;
        for attempt in 1..=ATTEMPTS {
            let before = Files::read(config)?;
            let tell = if self.quiet {
                |_: &str| {}
            } else {
                |what: &str| say(NAME, what)
            };
            let question = Question::new(
                &path,
                config,
                &before.state,
                &users,
                &ask_library,
                tell,
                &own_domains,
            )
            .map_err(|error| Failure::new(Status::TempFail, error))?;
            let mut opinions = question.ask();
            let agree = opinions.iter().all(|opinion| agrees(&question, opinion));
            // What changes meanwhile has several right answers, and an update that is at
            // work may be all that is behind a difference.
            let passes = |opinion: &Opinion| !agrees(&question, opinion) && !opinion.lasts;
            if opinions.iter().any(passes) && (attempt == 1 || Files::read(config)? != before) {
                match update::wait_until_done(config, UPDATE) {
                    Err(UpdateError::Locked(error)) if error.kind() != ErrorKind::WouldBlock => {}
                    done => done?,
                }
                wait_for_moves(config)?;
                continue;
            }
            if agree && opinions.iter().all(|opinion| opinion.asked() == 0) {
                let reasons = opinions.iter().flat_map(|opinion| question.not_asked(opinion));
                let reason = reasons
                    .map(|(why, (_, user))| format!(", such as {}: {why}", user.escape_ascii()))
                    .next();
                let message = format!(
                    "no part on this machine can be asked for these users{}; see [agreement] of the configuration",
                    reason.unwrap_or_default()
                );
                return Err(Failure::new(Status::Unavailable, message));
            }
            opinions.extend(Opinion::of_list(silent_services));
            if !(agree && self.quiet) {
                names::print(|out| match self.json {
                    true => write_json(out, &question, &opinions),
                    false => write_table(out, &question, &opinions),
                })?;
            }
            return Ok(if agree {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        let message = "node state or access map changed each time while they were asked about; try again";
        Err(Failure::new(Status::TempFail, message))
    }
}

/// Until users have moved who do so now: the parts are of two opinions on them meanwhile.
fn wait_for_moves(config: &Config) -> Result<(), Failure> {
    let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
    let now = Timestamp::now();
    if let Some(before) = state.before.filter(|before| before.is_under_way(now)) {
        let left = before.until.duration_since(now);
        thread::sleep(left.try_into().unwrap_or_default());
    }
    Ok(())
}

/// What an update changes.
#[derive(PartialEq)]
struct Files {
    state: NodeState,
    map: Option<FileStamp>,
    published: Option<FileStamp>,
}

impl Files {
    fn read(config: &Config) -> Result<Files, Failure> {
        let map = config.access_map.as_ref();
        let stamp = |path: &Path| fs::metadata(path).ok().map(|file| FileStamp::of(&file));
        Ok(Files {
            state: NodeState::load(&config.node_state).map_err(Failure::config)?,
            map: map.and_then(|map| stamp(map.map.path())),
            published: map.and_then(|map| stamp(map.published.as_deref()?)),
        })
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
            "not_asked": question
                .not_asked(opinion)
                .into_iter()
                .map(|(why, (users, first))| json!({"reason": why, "users": users, "first": json_name(first)}))
                .collect::<Vec<_>>(),
            "problems": opinion.problems,
            "remarks": opinion.remarks,
            "not_here": opinion.absent,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn write_table(out: &mut impl Write, question: &Question<'_>, opinions: &[Opinion]) -> io::Result<()> {
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
    for opinion in opinions {
        for (why, (users, first)) in question.not_asked(opinion) {
            write!(out, "\n{}: not asked for {users}, such as \"", opinion.part)?;
            write_user(out, first)?;
            writeln!(out, "\": {why}")?;
        }
    }
    for opinion in opinions {
        for remark in &opinion.remarks {
            writeln!(out, "\n{}: {remark}", opinion.part)?;
        }
    }
    if opinions.iter().all(|opinion| agrees(question, opinion)) {
        let parts = opinions.iter().filter(|opinion| opinion.asked() > 0).count();
        writeln!(out, "\nThe configuration and {parts} parts agree.")?;
    }
    Ok(())
}
