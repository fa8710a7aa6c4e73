//! sendmail: the rule set `queuegroup` and the access map as sendmail itself opens it, in
//! its address test mode (`sendmail -bt`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Once, mpsc};
use std::thread;
use std::time::Duration;

use super::access_map::of_queue_group;
use super::{Answer, Opinion, Question};
use crate::aliases::is_plain;
use crate::child::ChildError;
use crate::entries::{LeftOut, NoEntry};
use crate::mail_names::Unplaced;
use crate::nodes::is_this_machine;
use crate::test_mode::{self, Session};
use crate::update::Plan;
use mailaffinity::access_map::search_order;

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
    if let Some(program) = test_mode::not_installed(question.config) {
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

/// How many users are asked for in one session, which prints some 3 KB for each.
const AT_ONCE: usize = 20_000;

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
    let timeout = *question.config.agreement.timeout;
    let mut returned: Vec<Recipient> = Vec::new();
    for asked in asked.chunks(AT_ONCE) {
        let input = [
            b"queuegroup postmaster\n/tryflags ER\n".to_vec(),
            lines(b"/parse ", asked),
        ]
        .concat();
        let session = told(question, || test_mode::ask(question.config, &input, timeout))?;
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
        let recipients = recipients(&session);
        if recipients.len() != asked.len() {
            return Ok(Opinion::failed(PART, session.complaint()));
        }
        returned.extend(recipients);
    }
    let groups = returned.iter().map(|recipient| recipient.queue_group.as_deref());
    let mut opinion = question.opinion(PART, not_asked, groups.clone(), |_, group| match group {
        Some(group) => of_queue_group(question, group.as_bytes()),
        None => Answer::Other("no queue group".into()),
    });
    for group in groups.flatten().collect::<BTreeSet<&str>>() {
        if let Some(problem) = unknown_queue_group(question, group)? {
            opinion.problems.push(problem);
        }
    }
    let plan = match question.plan() {
        Ok(Plan::Map(plan)) => Some(plan),
        _ => None,
    };
    if let Some((place, user)) = question.first_different(&opinion) {
        let before = (0..place).zip(&question.users);
        let number = before
            .filter(|(place, user)| not_asked(*place, user).is_none())
            .count();
        let asked_for = returned
            .get(number)
            .map_or(user, |recipient| recipient.name.as_bytes());
        let mut left_out = plan.iter().flat_map(|plan| &plan.left_out);
        let shares = |other: &&LeftOut<'_>| {
            other.reason == NoEntry::SharedLocalPart && other.user.eq_ignore_ascii_case(user)
        };
        let problem = match left_out.find(shares) {
            Some(left_out) => left_out.reason.to_string(),
            None => cause(question, access_map, &opinion, place, asked_for)?,
        };
        opinion.problems.push(problem);
    }
    opinion.remarks = plan.map_or_else(Vec::new, |plan| unplaced(&plan.unplaced));
    Ok(opinion)
}

/// How many aliases have no entry, for each reason.
fn unplaced(aliases: &[Unplaced]) -> Vec<String> {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Unplaced { alias, reason } in aliases {
        reasons
            .entry(reason)
            .or_default()
            .push(alias.escape_ascii().to_string());
    }
    let reasons = reasons.into_iter();
    reasons
        .map(|(reason, aliases)| {
            let more = match aliases.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let shown: Vec<&str> = aliases.iter().take(SHOWN).map(String::as_str).collect();
            format!("no entry for the alias {}{more}: {reason}", shown.join(", "))
        })
        .collect()
}

/// How many aliases are named.
const SHOWN: usize = 5;

/// What sendmail makes of a recipient.
struct Recipient {
    /// The name that it asks the rule set for.
    name: String,
    /// What the rule set returns, if it is a queue group.
    queue_group: Option<String>,
}

/// What sendmail makes of each address, as when it takes a message: it resolves the
/// address, and asks the rule set for what the mailer leaves of it.
fn recipients(session: &Session) -> Vec<Recipient> {
    let mut recipients: Vec<Recipient> = Vec::new();
    for line in session.answers() {
        if line.starts_with("Cracked address") {
            recipients.push(Recipient {
                name: String::new(),
                queue_group: None,
            });
        }
        let Some(recipient) = recipients.last_mut() else {
            continue;
        };
        let Some(call) = line.strip_prefix("queuegroup ").map(str::trim_start) else {
            continue;
        };
        if let Some(name) = call.strip_prefix("input:") {
            recipient.name = name.replace(' ', "");
        } else if let Some(value) = call.strip_prefix("returns:") {
            recipient.queue_group = value.trim().strip_prefix("$# ").map(str::to_owned);
        }
    }
    recipients
}

fn lines(before: &[u8], items: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let line = |item: &_| [before, AsRef::<[u8]>::as_ref(item), b"\n"].concat();
    items.iter().flat_map(line).collect()
}

/// Runs sendmail, and tells whoever waits why it takes its time.
fn told<T>(question: &Question<'_>, run: impl FnOnce() -> T) -> T {
    let say = question.tell;
    thread::scope(|scope| {
        let (_ends, ended) = mpsc::channel::<()>();
        let tell = move || {
            static TOLD: Once = Once::new();
            if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                TOLD.call_once(|| say(WAITS));
            }
        };
        // Without a thread left nothing is told.
        let _ = thread::Builder::new().spawn_scoped(scope, tell);
        run()
    })
}

/// sendmail ignores a queue group that it does not have, and takes the default one
/// (`parseaddr` in sendmail 8.17). Listing the queue is what tells of it, here for a
/// message that there is none of.
fn unknown_queue_group(question: &Question<'_>, group: &str) -> Result<Option<String>, ChildError> {
    let timeout = *question.config.agreement.timeout;
    let session = test_mode::run(
        question.config,
        &["-bp", &format!("-qG{group}"), "-qInone"],
        b"",
        timeout,
    )?;
    Ok(session.says(&format!("Queue group {group} unknown")).then(|| {
        format!(
            "sendmail has no queue group {group}, and puts mail for it into the default one: add the lines of \
             \"mailaffinity queue-groups\" to its .mc file"
        )
    }))
}

/// Why sendmail answers otherwise for a user whom it asks for by this name: its map, its
/// rule set, or what all have from the map.
fn cause(
    question: &Question<'_>,
    access_map: &Opinion,
    own: &Opinion,
    place: usize,
    name: &[u8],
) -> Result<String, ChildError> {
    if own.answers.get(place) == access_map.answers.get(place) {
        return Ok("it is what the access map has".into());
    }
    let keys = search_order::keys(name);
    let timeout = *question.config.agreement.timeout;
    let session = test_mode::ask(question.config, &lines(b"/map access ", &keys), timeout)?;
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
            name.escape_ascii()
        ),
        None => format!(
            "its map access has no entry for {}: is it {spec} (the line Kaccess of its configuration)?",
            name.escape_ascii()
        ),
    })
}
