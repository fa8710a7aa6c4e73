//! What monitoring wants, in the text format of Prometheus (0.0.4): a file for the textfile
//! collector of its node_exporter.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use jiff::Timestamp;

use super::ending::Ended;
use super::steps::Program;
use crate::files::place::Place;
use crate::files::replace::{remove_leftovers, replace_for_now};
use mailaffinity::config::Config;
use mailaffinity::node_state::{NodeEntry, NodeState};

/// What the watcher knows.
pub(crate) struct Facts<'f> {
    pub(crate) config: &'f Config,
    pub(crate) state: &'f NodeState,
    /// When it began.
    pub(crate) since: Timestamp,
    /// How often each node fell since then, if it sees that.
    pub(crate) falls: Vec<u64>,
    pub(crate) state_seconds: Option<f64>,
    pub(crate) sessions: Option<&'f Ended>,
    pub(crate) update_seconds: Option<f64>,
    /// When the last update ended, and whether all went well.
    pub(crate) updated: Option<(Timestamp, bool)>,
    pub(crate) programs: &'f [Program],
    pub(crate) drain_seconds: Option<f64>,
    pub(crate) problems: usize,
}

/// Replaces the file in one step.
///
/// # Errors
/// When that cannot be done: the old one then stays.
pub(crate) fn write(path: &Path, facts: &Facts<'_>) -> io::Result<()> {
    // Nobody else writes it: only one watcher is at work.
    let place = Place::of(path)?;
    remove_leftovers(&place);
    replace_for_now(&place, &text(facts))
}

fn text(facts: &Facts<'_>) -> String {
    let Facts { config, state, .. } = facts;
    let nothing = NodeEntry::default();
    let nodes = || {
        let nodes = config.nodes.iter().map(|node| node.node.name.as_str());
        nodes.map(|name| (name, state.nodes.get(name).unwrap_or(&nothing)))
    };
    let mut text = Text(String::new());
    text.of_nodes(
        "node_up",
        "gauge",
        "Whether the node is up",
        nodes().map(|(name, _)| (name, f64::from(u8::from(!state.is_down(name))))),
    );
    text.of_nodes(
        "node_since_timestamp_seconds",
        "gauge",
        "Since when the node is marked down, or up by hand",
        nodes().filter_map(|(name, entry)| Some((name, seconds(entry.mark.as_ref()?.since?)))),
    );
    text.of_nodes(
        "node_falls_total",
        "counter",
        "How often checks found the node down",
        nodes()
            .map(|(name, _)| name)
            .zip(facts.falls.iter().map(|falls| *falls as f64)),
    );
    text.of_nodes(
        "node_moved_users",
        "gauge",
        "Users who were moved to the node, though the mapping gives another",
        nodes().map(|(name, entry)| (name, entry.moved.len() as f64)),
    );
    let sessions = facts.sessions;
    text.one(
        "sessions_wrong",
        "gauge",
        "Sessions on another node than their user's that were not ended",
        sessions.map(|sessions| sessions.wrong as f64),
    );
    text.one(
        "sessions_ended_total",
        "counter",
        "Sessions that were ended, since their users belong on other nodes",
        sessions.map(|sessions| sessions.total as f64),
    );
    let on_change = facts.programs.iter().filter_map(|program| program.seconds);
    let steps = [
        ("node_state", facts.state_seconds),
        ("sessions", sessions.map(|sessions| sessions.seconds)),
        ("update", facts.update_seconds),
        ("on_change", on_change.reduce(|sum, seconds| sum + seconds)),
        ("drain", facts.drain_seconds),
    ];
    text.family(
        "step_seconds",
        "gauge",
        "How long each step took when it was done last",
        "step",
        steps
            .into_iter()
            .filter_map(|(step, seconds)| Some((step, seconds?))),
    );
    text.one(
        "update_timestamp_seconds",
        "gauge",
        "When the last update ended",
        facts.updated.map(|(at, _)| seconds(at)),
    );
    text.one(
        "update_success",
        "gauge",
        "Whether all went well then",
        facts.updated.map(|(_, is_well)| f64::from(u8::from(is_well))),
    );
    text.one(
        "problems",
        "gauge",
        "Things that are wrong",
        Some(facts.problems as f64),
    );
    text.one(
        "watch_start_time_seconds",
        "gauge",
        "When the watcher began",
        Some(seconds(facts.since)),
    );
    text.0
}

fn seconds(time: Timestamp) -> f64 {
    time.as_second() as f64
}

struct Text(String);

impl Text {
    /// A metric of each node.
    fn of_nodes<'n>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        nodes: impl Iterator<Item = (&'n str, f64)>,
    ) {
        self.family(name, kind, help, "node", nodes);
    }

    /// A metric that is one number, if it is known.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: Option<f64>) {
        self.family(name, kind, help, "", value.map(|value| ("", value)).into_iter());
    }

    /// A metric with a value for each of these in a label, or without one. Of nothing there is
    /// no metric.
    fn family<'v>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'v str, f64)>,
    ) {
        let mut values = values.peekable();
        if values.peek().is_some() {
            let name = format!("mailaffinity_{name}");
            let text = &mut self.0;
            // Writing to a string does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (of, value) in values {
                let _ = match label {
                    "" => writeln!(text, "{name} {value}"),
                    label => writeln!(text, "{name}{{{label}=\"{}\"}} {value}", escaped(of)),
                };
            }
        }
    }
}

/// As the value of a label stands between quotes.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_documented() {
        let node = "[[node]]\nname = \"node1\"\naddress = \"192.0.2.1\"\n";
        let config = Config::parse(node, Path::new("mailaffinity.toml")).unwrap();
        let program = r#"{"program": "", "digest": "", "told_down": [], "seconds": 1}"#;
        let facts = Facts {
            config: &config,
            state: &NodeState::default(),
            since: Timestamp::UNIX_EPOCH,
            falls: Vec::new(),
            state_seconds: Some(1.0),
            sessions: Some(&Ended::default()),
            update_seconds: Some(1.0),
            updated: None,
            programs: &[serde_json::from_str(program).unwrap()],
            drain_seconds: Some(1.0),
            problems: 0,
        };
        let text = text(&facts);
        let steps: Vec<&str> = text
            .split("{step=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert_eq!(steps.len(), 5, "{text}");
        let page = include_str!("../../../doc/watch.md");
        let row = page
            .lines()
            .find(|line| line.starts_with("| `mailaffinity_step_seconds"))
            .unwrap();
        for step in steps {
            assert!(row.contains(&format!("`{step}`")), "{step}");
        }
    }
}
