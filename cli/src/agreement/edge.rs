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

/// What an edge says of a user.
#[derive(Deserialize)]
pub(crate) struct Given {
    node: Option<String>,
    /// Only PHP has hosts, and none for a user who can have no entry: the module would
    /// rightly complain.
    pub(crate) host: Option<String>,
}

/// What an edge prints, as far as it is well-formed and complete: an answer for each line
/// of [`input`].
pub(crate) fn parse(question: &Question<'_>, stdout: &[u8]) -> Option<(Facts, Vec<Given>)> {
    let mut lines = stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let facts = serde_json::from_slice(lines.next()?).ok()?;
    let given: Vec<Given> = lines
        .map(|line| serde_json::from_slice(line).ok())
        .collect::<Option<_>>()?;
    let users = 0..question.typed.len();
    let asked = users
        .filter(|place| not_asked(question, *place).is_none())
        .count();
    (given.len() == asked).then_some((facts, given))
}

/// A line for each user that can be asked for on one, with something before the name.
pub(crate) fn input(question: &Question<'_>, before: impl Fn(usize) -> &'static str) -> Vec<u8> {
    let users = question.typed.iter().enumerate();
    users
        .filter(|(place, _)| not_asked(question, *place).is_none())
        .flat_map(|(place, user)| [before(place).as_bytes(), user, b"\n"].concat())
        .collect()
}

pub(crate) fn not_asked(question: &Question<'_>, place: usize) -> Option<&'static str> {
    let has_newline = question.typed.get(place)?.contains(&b'\n');
    has_newline.then_some("the name has a newline")
}

/// What an edge, called `who` in a sentence, says of the users' nodes.
pub(crate) fn opinion(
    part: &'static str,
    who: &str,
    question: &Question<'_>,
    facts: &Facts,
    given: &[Given],
) -> Opinion {
    let mut opinion = question.opinion(
        part,
        |place, _| not_asked(question, place),
        given,
        |_, given| of_name(question, given.node.as_deref()),
    );
    opinion.problems = differences(who, question, facts);
    opinion.explain(question, || cause(who, question, facts));
    opinion
}

/// The node of this name; without one, nobody.
fn of_name(question: &Question<'_>, name: Option<&str>) -> Answer {
    match name {
        None => Answer::Other("no node".into()),
        Some(name) => match question.config.nodes.index_of(name) {
            Some(node) => Answer::Node(node),
            None => Answer::Other(name.escape_debug().to_string()),
        },
    }
}

/// Whose nodes are not those of the configuration, and why that may be.
fn differences(who: &str, question: &Question<'_>, facts: &Facts) -> Vec<String> {
    let mut problems = Vec::new();
    for node in &question.config.nodes {
        let name = &node.node.name;
        let address = mailaffinity::mapping::ring_label(node.node.address);
        let state = if question.state.is_down(name) {
            "down"
        } else {
            "up"
        };
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
