//! sendmail's access map, read as the PHP module and the C library's users read it.

use std::io::ErrorKind;

use super::{Answer, Opinion, Question};
use crate::entries::Override;
use crate::update::Plan;
use mailaffinity::access_map::{AccessMap, Entry, Error, Published, PublishedError, key};
use mailaffinity::config::AccessMapConfig;

const PART: &str = "access map";

pub(crate) fn ask(question: &Question<'_>) -> Opinion {
    let Some(AccessMapConfig { map, published, .. }) = &question.config.access_map else {
        return Opinion::absent(PART, "the configuration has no [access_map]");
    };
    let published = published.as_deref().map(Published::new);
    let mut misstated = None;
    let mut answers = Vec::with_capacity(question.users.len());
    for (user, without_entry) in question.users.iter().zip(&question.without_entry) {
        let found = match map.queue_group(user) {
            Err(error) => return Opinion::failed(PART, with_remedy(&error)),
            Ok(found) => found,
        };
        misstated = misstated.or_else(|| misstatement(published.as_ref()?, user, found.as_ref()));
        let answer = match found {
            Some(entry) => of_queue_group(question, &entry.value),
            None => match without_entry {
                Some(why) => Answer::NotAsked(why),
                None => Answer::Other("no entry".into()),
            },
        };
        answers.push(answer);
    }
    let mut opinion = Opinion {
        answers,
        ..Opinion::new(PART)
    };
    if let Some((_, user)) = question.first_different(&opinion) {
        opinion.problems = cause(question, map, user);
    }
    opinion.problems.extend(misstated);
    opinion
}

/// What is wrong with what is published of the map, as far as this user shows it.
fn misstatement(published: &Published, user: &[u8], found: Option<&Entry>) -> Option<String> {
    match published.queue_group(user) {
        Ok(answer) if answer.as_ref() == found => None,
        Ok(_) => Some(format!(
            "{} has another entry for {} than the map: run \"mailaffinity update\"",
            published.path().display(),
            user.escape_ascii()
        )),
        Err(error @ PublishedError::Damaged { .. }) => Some(error.to_string()),
        Err(error) => Some(format!("{error}; run \"mailaffinity update\"")),
    }
}

fn with_remedy(error: &Error) -> String {
    let is_to_be_built = match error {
        Error::Damaged { .. } => true,
        Error::Io { source, .. } => source.kind() == ErrorKind::NotFound,
        _ => false,
    };
    match is_to_be_built {
        true => format!("{error}; run \"mailaffinity update\""),
        false => error.to_string(),
    }
}

/// What a queue group says of its users' node.
pub(crate) fn of_queue_group(question: &Question<'_>, queue_group: &[u8]) -> Answer {
    match question.config.nodes.index_of_queue_group(queue_group) {
        Some(node) => Answer::Node(node),
        None => Answer::Other(format!("queue group {}", queue_group.escape_ascii())),
    }
}

fn cause(question: &Question<'_>, map: &AccessMap, user: &[u8]) -> Vec<String> {
    let path = map.path().display();
    let plan = match question.plan() {
        Ok(Plan::Map(plan)) => plan,
        Ok(_) => return Vec::new(),
        Err(error) => {
            return vec![format!(
                "{path} is not as the nodes are, and an update would fail: {error}"
            )];
        }
    };
    let mut problems = Vec::new();
    if !plan.is_in_force() {
        problems.push(format!(
            "{path} is stale: run \"mailaffinity update\". Was the configuration changed, or do timer and cron not \
             run? (\"mailaffinity diff\" shows what changes)"
        ));
    }
    let moved_by_hand = |own: &&Override<'_>| own.entry.value != own.computed.as_bytes();
    let by_hand: Vec<&Override<'_>> = plan.by_hand.iter().filter(moved_by_hand).collect();
    if let Some(own) = by_hand.first() {
        problems.push(format!(
            "{}:{}: an entry by hand gives {} the queue group {}; remove it if that is not on purpose ({} such \
             entries)",
            plan.source().display(),
            own.line,
            key::name(&own.entry.key).escape_ascii(),
            own.entry.value.escape_ascii(),
            by_hand.len()
        ));
    }
    if problems.is_empty() {
        let key = key::own(user);
        let has_key = |other: &&Vec<u8>| other.as_slice() != user && key::own(other) == key;
        problems.push(match question.users.iter().find(has_key) {
            Some(other) => format!(
                "sendmail and its map cannot tell {} from {}, whose name differs in case only: they have one entry, \
                 and two nodes by username_hash",
                user.escape_ascii(),
                other.escape_ascii()
            ),
            None => format!(
                "{path} has what the last update put there; does [users] of the configuration list {}?",
                user.escape_ascii()
            ),
        });
    }
    problems
}
