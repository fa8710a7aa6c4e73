//! The node state: which nodes are down, since when, and why, and what else a
//! Director's administrator changed while it runs.
//!
//! A small TOML file beside the configuration, which commands write and everything
//! else reads. A node that it does not name is up, and so are all without the file.
//!
//! ```toml
//! [down.node2]
//! since = "2026-11-23T20:45:00Z"
//! reason = "new disks"
//! by = "hand"                  # or "checks", which end what they began
//!
//! [up.node3]                   # held up, whatever the checks say
//! reason = "its firewall drops the probe"
//!
//! [director.node1]             # what the Director has otherwise than the configuration
//! vhost_count = 50
//!
//! [moved]                      # users by their hash, as after `doveadm director move`
//! node1 = [620355934]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::files::regular_file;
use crate::toml_error::line_and_problem;

/// Which nodes are down, and what a Director has otherwise than the configuration. The
/// default: all are up. Nodes have their names of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeState {
    /// The nodes that are down.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub down: BTreeMap<String, Mark>,
    /// The nodes that an administrator holds up, whatever checks say. A node that is
    /// in both is down.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub up: BTreeMap<String, Mark>,
    /// What the Director has otherwise than the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub director: BTreeMap<String, DirectorHost>,
    /// The users, by username hash, whom the Director has on a node that is not the
    /// computed one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moved: BTreeMap<String, BTreeSet<u32>>,
}

/// What the Director has of a node otherwise than the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectorHost {
    /// Its vhost count, as after `doveadm director add`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_count: Option<u32>,
    /// Its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Who says that a node is up or down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// An administrator: it stays until one says otherwise.
    #[default]
    Hand,
    /// The checks of the configuration: it stays until they find otherwise.
    Checks,
}

/// Since when a node is up or down, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Since when (RFC 3339), where that is known. It may be written as text or as a
    /// date of TOML's own.
    #[serde(
        default,
        deserialize_with = "timestamp",
        skip_serializing_if = "Option::is_none"
    )]
    pub since: Option<Timestamp>,
    /// In the words of whoever, or whatever, marked it.
    #[serde(default)]
    pub reason: String,
    /// Who marked it; a file that does not say was written by hand.
    #[serde(default)]
    pub by: By,
}

/// A node state file that cannot be read, understood or written.
#[derive(Debug)]
pub struct NodeStateError {
    path: PathBuf,
    problem: String,
}

impl std::fmt::Display for NodeStateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for NodeStateError {}

impl NodeState {
    /// Whether a node is down.
    pub fn is_down(&self, node: &str) -> bool {
        self.down.contains_key(node)
    }

    /// Reads the file; without one, all nodes are up.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a node state.
    pub fn load(path: &Path) -> Result<NodeState, NodeStateError> {
        let problem = |problem: String| NodeStateError {
            path: path.to_owned(),
            problem,
        };
        match regular_file::read_text(path) {
            Ok(text) => NodeState::parse(&text).map_err(|error| {
                problem(format!(
                    "not a node state: {error}; mend it, or remove it: without it all nodes are up"
                ))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(NodeState::default()),
            Err(error) => Err(problem(format!("cannot read the node state: {error}"))),
        }
    }

    /// Reads a node state from text.
    ///
    /// # Errors
    /// A sentence on what is wrong, with the line.
    pub fn parse(text: &str) -> Result<NodeState, String> {
        toml::from_str(text).map_err(|error| {
            let (line, problem) = line_and_problem(&error, text);
            format!("line {}: {problem}", line.unwrap_or(1))
        })
    }
}

fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a date and time with offset, such as 2026-11-23T20:45:00Z"
    )]
    enum Written {
        Text(String),
        Date(toml::value::Datetime),
    }
    let text = match Written::deserialize(deserializer)? {
        Written::Text(text) => text,
        Written::Date(date) => date.to_string(),
    };
    text.parse().map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};

    fn down(reason: &str) -> Mark {
        Mark {
            since: Some("2026-11-23T20:45:00Z".parse().unwrap()),
            reason: reason.into(),
            by: By::Hand,
        }
    }

    #[test]
    fn dates_as_administrators_write_them() {
        for since in [
            "\"2026-11-23T20:45:00Z\"",
            "2026-11-23T20:45:00Z",
            "2026-11-23 21:45:00+01:00",
        ] {
            let state = NodeState::parse(&format!("[down.node2]\nsince = {since}\n")).unwrap();
            assert_eq!(state.down["node2"], down(""), "{since}");
        }
        assert_eq!(
            NodeState::parse("[down.node2]\n").unwrap().down["node2"],
            Mark::default()
        );
    }

    #[test]
    fn without_a_file_all_are_up() {
        let state = NodeState::load(Path::new("/nonexistent/nodes.toml")).unwrap();
        assert!(!state.is_down("node1"));
        assert_eq!(NodeState::parse("").unwrap(), NodeState::default());
    }

    #[test]
    fn broken_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.toml");
        for text in [
            "[down.node2]\nsince = 2026-11-23\n",
            "[down.node2]\nsince = \"yesterday\"\n",
            "[sideways]\n",
            "[down.no",
        ] {
            fs::write(&path, text).unwrap();
            let error = NodeState::load(&path).expect_err(text).to_string();
            assert!(error.contains("nodes.toml: not a node state: line "), "{error}");
        }
        fs::write(&path, b"\xff").unwrap();
        assert!(NodeState::load(&path).is_err());
    }

    proptest! {
        #[test]
        fn any_state_survives(
            down in marks(), up in marks(),
            director in prop::collection::btree_map(any::<String>(), (any::<Option<u32>>(), any::<Option<String>>()), 0..3),
            moved in prop::collection::btree_map(any::<String>(), prop::collection::btree_set(any::<u32>(), 0..5), 0..3),
        ) {
            let host = |(vhost_count, tag)| DirectorHost { vhost_count, tag };
            let director = director.into_iter().map(|(name, values)| (name, host(values))).collect();
            let state = NodeState { down, up, director, moved };
            prop_assert_eq!(NodeState::parse(&toml::to_string(&state).unwrap()).unwrap(), state);
        }
    }

    fn marks() -> impl Strategy<Value = BTreeMap<String, Mark>> {
        let mark =
            (any::<Option<u32>>(), any::<String>(), any::<bool>()).prop_map(|(second, reason, by_hand)| {
                Mark {
                    since: second.map(|second| Timestamp::from_second(second.into()).unwrap()),
                    reason,
                    by: if by_hand { By::Hand } else { By::Checks },
                }
            });
        prop::collection::btree_map(any::<String>(), mark, 0..4)
    }
}
