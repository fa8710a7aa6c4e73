//! What the C library and the PHP module answer, in the form in which the programs that
//! ask them print it: a line of JSON with [`Facts`], then one for each user.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Answer, Opinion, Question, described};

/// What an edge says of itself.
#[derive(Debug, Deserialize, Serialize)]
pub struct Facts {
    /// Its release, such as "0.1.0".
    pub version: String,
    /// The configuration that it reads.
    pub config: PathBuf,
    /// Its nodes.
    pub nodes: Vec<NodeFacts>,
}

/// What an edge says of a node.
#[derive(Debug, Deserialize, Serialize)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its address, as `inet_ntop` prints it.
    pub address: String,
    /// `up` or `down`.
    pub state: String,
}

/// What an edge prints, as far as it is well-formed and complete: an answer for each line
/// of [`input`].
pub(crate) fn parse<T: for<'de> Deserialize<'de>>(
    question: &Question<'_>,
    stdout: &[u8],
) -> Option<(Facts, Vec<T>)> {
    let mut lines = stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let facts = serde_json::from_slice(lines.next()?).ok()?;
    let answers: Vec<T> = lines
        .map(|line| serde_json::from_slice(line).ok())
        .collect::<Option<_>>()?;
    let asked = question.users.iter().filter(|user| takes(user)).count();
    (answers.len() == asked).then_some((facts, answers))
}

/// A line for each user that can be asked for on one, with something before the name.
pub(crate) fn input(question: &Question<'_>, before: impl Fn(usize) -> &'static str) -> Vec<u8> {
    let users = question.users.iter().enumerate();
    users
        .filter(|(_, user)| takes(user))
        .flat_map(|(index, user)| [before(index).as_bytes(), user, b"\n"].concat())
        .collect()
}

fn takes(user: &[u8]) -> bool {
    !user.contains(&b'\n')
}

/// An opinion, of an answer for each line of [`input`]. `answer` is given the place of the
/// user, too.
pub(crate) fn opinion<T>(
    part: &'static str,
    question: &Question<'_>,
    given: &[T],
    answer: impl Fn(usize, &T) -> Answer,
) -> Opinion {
    let mut given = given.iter();
    let users = question.users.iter().enumerate();
    let answers = users.map(|(index, user)| match takes(user) {
        true => given
            .next()
            .map_or(Answer::Other("no answer".into()), |given| answer(index, given)),
        false => Answer::NotAsked("the name has a newline"),
    });
    Opinion {
        answers: answers.collect(),
        ..Opinion::new(part)
    }
}

/// The node of this name; without one, nobody.
pub(crate) fn of_name(question: &Question<'_>, name: Option<&str>) -> Answer {
    match name {
        None => Answer::Other("no node".into()),
        Some(name) => match question.config.nodes.index_of(name) {
            Some(node) => Answer::Node(node),
            None => Answer::Other(name.escape_debug().to_string()),
        },
    }
}

/// Whose nodes are not those of the configuration, and why that may be.
pub(crate) fn differences(who: &str, question: &Question<'_>, facts: &Facts) -> Vec<String> {
    let mut problems = Vec::new();
    for node in &question.config.nodes {
        let name = &node.node.name;
        let address = mailaffinity::mapping::ring_label(node.node.address);
        let state = up_or_down(!question.state.is_down(name));
        match facts.nodes.iter().find(|facts| &facts.name == name) {
            None => problems.push(format!("{who} does not know the node {}", described(node))),
            Some(facts) if facts.address != address => problems.push(format!(
                "{who} has the node {name} at {}, and the configuration at {address}",
                facts.address.escape_debug()
            )),
            Some(facts) if facts.state != state => problems.push(format!(
                "{who} takes the node {name} for {}, while {} says that it is {}; can it read that file?",
                facts.state.escape_debug(),
                question.config.node_state.display(),
                state
            )),
            Some(_) => {}
        }
    }
    if is_other_file(question, facts) && !problems.is_empty() {
        problems.insert(0, other_configuration(who, question, facts));
    }
    if facts.version != env!("CARGO_PKG_VERSION") {
        problems.push(format!(
            "{who} is of release {}, and this command of release {}: install the same",
            facts.version.escape_debug(),
            env!("CARGO_PKG_VERSION")
        ));
    }
    problems
}

/// The cause of different answers where the nodes are the same.
pub(crate) fn cause(who: &str, question: &Question<'_>, facts: &Facts) -> String {
    if is_other_file(question, facts) {
        return other_configuration(who, question, facts);
    }
    format!("{who} reads the same configuration; was that changed a moment ago?")
}

fn is_other_file(question: &Question<'_>, facts: &Facts) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(&facts.config) != real(question.config_path)
}

fn other_configuration(who: &str, question: &Question<'_>, facts: &Facts) -> String {
    format!(
        "{who} reads another configuration, {}, and not {}",
        facts.config.display().to_string().escape_debug(),
        question.config_path.display()
    )
}

fn up_or_down(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}
