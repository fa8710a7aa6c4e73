//! sendmail: the rule set `queuegroup` and the access map as sendmail itself opens it, in
//! its address test mode (`sendmail -bt`).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Once, mpsc};
use std::thread;
use std::time::Duration;

use super::access_map::of_queue_group;
use super::{Answer, Opinion, Question};
use crate::child::{self, ChildError};
use crate::nodes::is_this_machine;
use mailaffinity::access_map::search_order;
use mailaffinity::config::DEFAULT_SENDMAIL;

const PART: &str = "sendmail";

/// Far longer than sendmail takes for its answers, and less than it waits.
const PATIENCE: Duration = Duration::from_secs(15);

/// It says nothing itself while it waits (`myhostname` in sendmail 8.17).
const WAITS: &str = "sendmail takes its time: it waits for this host's name, for a minute, where that has no dot; in \
                     /etc/hosts, put a full name before the short one";

pub(crate) fn ask(question: &Question<'_>, access_map: &Opinion) -> Opinion {
    if question.config.access_map.is_none() {
        return Opinion::absent(PART, "the configuration has no [access_map]");
    }
    let sendmail = &question.config.sendmail;
    if *sendmail.command == [DEFAULT_SENDMAIL]
        && let Some(program) = sendmail.command.first().map(Path::new)
        && program.try_exists().is_ok_and(|exists| !exists)
    {
        return Opinion::absent(PART, format!("{} is not installed", program.display()));
    }
    match try_ask(question, access_map) {
        Ok(opinion) => opinion,
        Err(error) if error.problem.starts_with("did not end") => Opinion::failed_for_good(
            PART,
            format!("{error} (it waits for a minute at its start where the host's name has no dot)"),
        ),
        Err(error) => Opinion::failed(PART, error),
    }
}

fn try_ask(question: &Question<'_>, access_map: &Opinion) -> Result<Opinion, ChildError> {
    let not_asked = |place, user: &[u8]| {
        let reason = "sendmail's test mode takes no such name";
        let without_entry = question.without_entry(place);
        without_entry.or_else(|| (!is_plain(user)).then_some(reason))
    };
    let users = question.users.iter().enumerate();
    let asked: Vec<&Vec<u8>> = users
        .filter(|(place, user)| not_asked(*place, user).is_none())
        .map(|(_, user)| user)
        .collect();
    let session = test_mode(question, &lines(b"queuegroup ", &asked))?;
    if session.says("Undefined ruleset queuegroup") {
        // That of a web server need not know of the cluster.
        if !question.config.nodes.iter().any(is_this_machine) {
            let why = "sendmail has no rule set queuegroup, and this machine has no node's address";
            return Ok(Opinion::absent(PART, why));
        }
        return Ok(Opinion::failed_for_good(
            PART,
            format!(
                "{} has no rule set queuegroup: add FEATURE(`mailaffinity') to its .mc file",
                session.command
            ),
        ));
    }
    let returned = session.returned("queuegroup");
    if returned.len() != asked.len() {
        return Ok(Opinion::failed(PART, session.complaint()));
    }
    let mut opinion = question.opinion(PART, not_asked, &returned, |_, group| match group {
        Some(group) => of_queue_group(question, group.as_bytes()),
        None => Answer::Other("no queue group".into()),
    });
    let groups: BTreeSet<&str> = returned.into_iter().flatten().collect();
    for group in groups {
        if let Some(problem) = unknown_queue_group(question, group)? {
            opinion.problems.push(problem);
        }
    }
    if let Some((place, user)) = question.first_different(&opinion) {
        let problem = cause(question, access_map, &opinion, place, user)?;
        opinion.problems.push(problem);
    }
    Ok(opinion)
}

/// Whether the test mode takes a name as it stands: it has syntax of its own for commas,
/// blanks, quotes and more.
fn is_plain(user: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-+=@'".contains(byte);
    !user.is_empty() && user.len() < 200 && user.iter().all(plain)
}

fn lines(before: &[u8], items: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let line = |item: &_| [before, AsRef::<[u8]>::as_ref(item), b"\n"].concat();
    items.iter().flat_map(line).collect()
}

/// What the address test mode prints.
struct Session {
    command: String,
    stdout: String,
    stderr: String,
}

fn test_mode(question: &Question<'_>, input: &[u8]) -> Result<Session, ChildError> {
    run(question, &["-bt"], input)
}

/// sendmail's exit status says nothing here: it is that of the last lookup.
fn run(question: &Question<'_>, arguments: &[&str], input: &[u8]) -> Result<Session, ChildError> {
    let mut command = question.config.sendmail.command.to_vec();
    command.extend(arguments.iter().map(|argument| argument.to_string()));
    let finished = thread::scope(|scope| {
        let (_ends, ended) = mpsc::channel::<()>();
        let tell = move || {
            static TOLD: Once = Once::new();
            if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                TOLD.call_once(|| (question.tell)(WAITS));
            }
        };
        // Without a thread left nothing is told.
        let _ = thread::Builder::new().spawn_scoped(scope, tell);
        child::run(&command, input, *question.config.agreement.timeout)
    })?;
    Ok(Session {
        command: child::name(&command),
        stdout: String::from_utf8_lossy(&finished.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&finished.stderr).into_owned(),
    })
}

impl Session {
    fn says(&self, words: &str) -> bool {
        self.stdout.contains(words) || self.stderr.contains(words)
    }

    /// What a rule set returned, each time it was called by name: a queue group, or `None`
    /// for something else.
    fn returned(&self, rule_set: &str) -> Vec<Option<&str>> {
        let mut values = Vec::new();
        for line in self.stdout.lines() {
            let call = line.trim_start_matches("> ").strip_prefix(rule_set);
            if let Some(value) = call.and_then(|rest| rest.trim_start().strip_prefix("returns:")) {
                values.push(value.trim().strip_prefix("$# ").map(str::trim));
            }
        }
        values
    }

    fn complaint(&self) -> String {
        let lines: Vec<&str> = self
            .stderr
            .lines()
            .chain(self.stdout.lines())
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("ADDRESS TEST MODE"))
            .take(3)
            .collect();
        let said = lines.join("; ").replace(char::is_control, "?");
        format!("{} does not answer for all users; it says: {said}", self.command)
    }
}

/// sendmail ignores a queue group that it does not have, and takes the default one
/// (`parseaddr` in sendmail 8.17). Listing the queue is what tells of it, here for a
/// message that there is none of.
fn unknown_queue_group(question: &Question<'_>, group: &str) -> Result<Option<String>, ChildError> {
    let session = run(question, &["-bp", &format!("-qG{group}"), "-qInone"], b"")?;
    Ok(session.says(&format!("Queue group {group} unknown")).then(|| {
        format!(
            "sendmail has no queue group {group}, and puts mail for it into the default one: add the lines of \
             \"mailaffinity queue-groups\" to its .mc file"
        )
    }))
}

/// Why sendmail answers otherwise: its map, its rule set, or what all have from the map.
fn cause(
    question: &Question<'_>,
    access_map: &Opinion,
    own: &Opinion,
    place: usize,
    user: &[u8],
) -> Result<String, ChildError> {
    if own.answers.get(place) == access_map.answers.get(place) {
        return Ok("it is what the access map has".into());
    }
    let keys = search_order::keys(user);
    let session = test_mode(question, &lines(b"/map access ", &keys))?;
    let spec = question
        .config
        .access_map
        .as_ref()
        .map_or("", |map| map.map.spec());
    if session.says("Map named \"access\" not found") {
        return Ok(
            "its configuration has no map named access: add FEATURE(`access_db') to its .mc file".into(),
        );
    }
    // "no match (0)" is the answer of a map that has none.
    if session.says("Map named \"access\" not open") || session.says("no match (75)") {
        let said = session.stdout.lines().chain(session.stderr.lines());
        let why = said
            .filter(|line| line.contains("map \"access\":"))
            .map(|line| line.trim_start_matches("> "));
        return Ok(match why.map(|why| why.replace(char::is_control, "?")).next() {
            Some(why) => format!("it cannot read its map access (the line Kaccess of its configuration): {why}"),
            None => "it cannot read its map access (the line Kaccess of its configuration), or calls it or a folder \
                     above it unsafe: see sendmail -d44.4 -bv postmaster"
                .into(),
        });
    }
    let entries: Vec<Answer> = session
        .stdout
        .lines()
        .filter_map(|line| {
            let (value, _status) = line.split_once(") returns ")?.1.rsplit_once(" (")?;
            Some(of_queue_group(question, value.as_bytes()))
        })
        .collect();
    Ok(match entries.first() {
        // It is in the map that sendmail has.
        Some(entry) if Some(entry) == access_map.answers.get(place) => "it has the same entry in its map, but its rule \
             set queuegroup does not find it: put FEATURE(`mailaffinity') in place of FEATURE(`queuegroup') into its \
             .mc file"
            .into(),
        Some(_) => format!(
            "its map access has another entry for {} than {spec}: does its configuration name another file (the line \
             Kaccess)?",
            user.escape_ascii()
        ),
        None => format!(
            "its map access has no entry for {}: is it {spec} (the line Kaccess of its configuration)?",
            user.escape_ascii()
        ),
    })
}
