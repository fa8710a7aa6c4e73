//! The node state: which nodes are down, since when, and why, and what else a
//! Director's administrator changed while it runs.
//!
//! A small TOML file beside the configuration, which commands write and everything
//! else reads. A node that it does not name is up, and so are all without the file. An empty
//! one is none: commands write a comment at least, and a file that is being written in place
//! is empty for a moment.
//!
//! ```toml
//! [node.node1]
//! vhost_count = 50             # what the Director has otherwise than the configuration
//! # Users by their hash who were moved there, one of them for a time.
//! moved = "24f9e15e 34c33682=2026-11-27T22:00:00Z"
//!
//! [node.node2]
//! state = "down"
//! since = "2026-11-23T20:45:00Z"
//! reason = "new disks"
//! by = "hand"                  # or "checks", which end what they began, or "director"
//!
//! [node.node3]
//! state = "up"                 # held up, whatever the checks say
//! reason = "its firewall drops the probe"
//!
//! [before]                     # where a watcher is at work: users who move between nodes that
//! until = "2026-11-23T20:45:03Z"  # live are not let in until then, and what was before
//! [before.node.node2]
//! vhost_count = 50
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::files::regular_file;
use crate::toml_error::line_and_problem;

/// Which nodes are down, and what a Director has otherwise than the configuration. The
/// default: all are up. Nodes have their names of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeState {
    /// The nodes of which there is something to say.
    #[serde(default, rename = "node", skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, NodeEntry>,
    /// What was before, while users move between nodes that live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// What was before the last change, and the moment from which that change holds for users who
/// move between nodes that live: all machines let them in again at the same time, by their
/// clocks, and their sessions can be ended before (Dovecot's `director_user_kick_delay`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    /// The moment.
    #[serde(deserialize_with = "moment")]
    pub until: Timestamp,
    /// The nodes of which there was something to say.
    #[serde(default, rename = "node", skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, NodeEntry>,
}

impl Before {
    /// The longest time that users can be kept waiting. A moment that is further away is that
    /// of another clock, and over.
    pub const LONGEST: SignedDuration = SignedDuration::from_secs(2 * 60);

    /// Whether the moment is still to come.
    pub fn is_under_way(&self, now: Timestamp) -> bool {
        now < self.until && self.until.duration_since(now) <= Before::LONGEST
    }

    /// The node state that was.
    pub fn state(&self) -> NodeState {
        NodeState {
            nodes: self.nodes.clone(),
            before: None,
        }
    }
}

/// What there is to say of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NodeTable")]
pub struct NodeEntry {
    /// Whether it is down or held up; without a mark it is up until checks find it down.
    #[serde(flatten)]
    pub mark: Option<Mark>,
    /// Its vhost count in the Director, where the configuration has another, as after
    /// `doveadm director add`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_count: Option<u32>,
    /// Its tag in the Director, where the configuration has another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The users, by username hash, who were moved to it, by hand or by the Director, though
    /// the mapping gives another node.
    #[serde(skip_serializing_if = "Moved::is_empty")]
    pub moved: Moved,
}

impl NodeEntry {
    /// Whether users who were moved to it are there. Not while it is down; but a Director leaves
    /// them there, and all have to agree with it.
    pub fn keeps_moved(&self) -> bool {
        let leave = |mark: &Mark| mark.state == State::Down && mark.by != By::Director;
        !self.mark.as_ref().is_some_and(leave)
    }
}

/// Users by their username hashes, each once and in order, and until when they are moved, if
/// that has an end. There may be millions, and all readers of the node state have to read
/// them: so they are one text, in which each has eight hexadecimal digits, perhaps with `=`
/// and a time, with blanks between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Moved {
    hashes: Vec<u32>,
    until: BTreeMap<u32, Timestamp>,
}

impl Moved {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.hashes.iter().copied()
    }

    /// When the move of one of them ends.
    pub fn until(&self, hash: u32) -> Option<Timestamp> {
        self.until.get(&hash).copied()
    }

    /// Adds some, all until then.
    pub fn insert(&mut self, hashes: &BTreeSet<u32>, until: Option<Timestamp>) {
        self.remove(hashes);
        self.hashes.extend(hashes);
        self.hashes.sort_unstable();
        self.until
            .extend(hashes.iter().filter_map(|hash| Some((*hash, until?))));
    }

    /// Takes some out, if they are there.
    pub fn remove(&mut self, hashes: &BTreeSet<u32>) {
        self.hashes.retain(|hash| !hashes.contains(hash));
        self.until.retain(|hash, _| !hashes.contains(hash));
    }
}

impl FromIterator<u32> for Moved {
    fn from_iter<I: IntoIterator<Item = u32>>(hashes: I) -> Moved {
        let mut hashes: Vec<u32> = hashes.into_iter().collect();
        hashes.sort_unstable();
        hashes.dedup();
        let until = BTreeMap::new();
        Moved { hashes, until }
    }
}

impl TryFrom<String> for Moved {
    type Error = String;

    fn try_from(text: String) -> Result<Moved, String> {
        let refused = |word: &str, problem| {
            let shown: String = word.chars().take(40).collect();
            Err(format!("\"{}\" is no {problem}", shown.escape_debug()))
        };
        let mut until = BTreeMap::new();
        let hash = |word: &str| {
            let (digits, end) = match word.split_once('=') {
                Some((digits, end)) => (digits, Some(end)),
                None => (word, None),
            };
            let hash = match u32::from_str_radix(digits, 16) {
                Ok(hash) if digits.len() == 8 && !digits.starts_with('+') => hash,
                _ => return refused(digits, "username hash: it has eight hexadecimal digits"),
            };
            match end.map(str::parse) {
                None => {}
                Some(Ok(end)) => _ = until.insert(hash, end),
                Some(Err(_)) => {
                    return refused(word, "hash with a time, such as 24f9e15e=2026-11-27T22:00:00Z");
                }
            }
            Ok(hash)
        };
        let moved: Moved = text
            .split_ascii_whitespace()
            .map(hash)
            .collect::<Result<_, _>>()?;
        Ok(Moved { until, ..moved })
    }
}

impl Serialize for Moved {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for hash in &self.hashes {
            write!(f, "{between}{hash:08x}")?;
            if let Some(until) = self.until.get(hash) {
                write!(f, "={until}")?;
            }
            between = " ";
        }
        Ok(())
    }
}

/// What a mark makes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It gets no users.
    Down,
    /// It is up, whatever the checks say.
    Up,
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
    /// A Director whom these ask, likewise.
    Director,
}

/// That a node is down or held up, since when, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// What the node is.
    pub state: State,
    /// Since when, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// In the words of whoever, or whatever, marked it.
    pub reason: String,
    /// Who marked it; a file that does not say was written by hand.
    pub by: By,
}

impl Mark {
    /// One by hand that says no more.
    pub fn new(state: State) -> Mark {
        Mark {
            state,
            since: None,
            reason: String::new(),
            by: By::Hand,
        }
    }

    /// Whether checks leave it alone: they find nodes down, and hold none up.
    pub fn is_by_hand(&self) -> bool {
        self.by == By::Hand || self.state == State::Up
    }

    /// Whether checks found the node down: it serves nobody.
    pub fn is_by_checks(&self) -> bool {
        !self.is_by_hand()
    }
}

/// An entry as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeTable {
    state: Option<State>,
    /// As RFC 3339 has it, written as text or as a date of TOML's own.
    #[serde(default, deserialize_with = "timestamp")]
    since: Option<Timestamp>,
    reason: Option<String>,
    by: Option<By>,
    vhost_count: Option<u32>,
    tag: Option<String>,
    #[serde(default)]
    moved: Moved,
}

impl TryFrom<NodeTable> for NodeEntry {
    type Error = &'static str;

    fn try_from(table: NodeTable) -> Result<NodeEntry, &'static str> {
        let says_why = table.since.is_some() || table.reason.is_some() || table.by.is_some();
        if table.state.is_none() && says_why {
            return Err("since, reason and by are of a state: say whether it is \"down\" or \"up\"");
        }
        Ok(NodeEntry {
            mark: table.state.map(|state| Mark {
                state,
                since: table.since,
                reason: table.reason.unwrap_or_default(),
                by: table.by.unwrap_or_default(),
            }),
            vhost_count: table.vhost_count,
            tag: table.tag,
            moved: table.moved,
        })
    }
}

/// A node state file that cannot be read, understood or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct NodeStateError {
    path: PathBuf,
    problem: String,
}

impl NodeState {
    /// Whether a node is down.
    pub fn is_down(&self, node: &str) -> bool {
        self.mark_of(node).is_some_and(|mark| mark.state == State::Down)
    }

    /// The mark of a node, if it has one.
    pub fn mark_of(&self, node: &str) -> Option<&Mark> {
        self.nodes.get(node)?.mark.as_ref()
    }

    /// The nodes that are marked.
    pub fn marks(&self) -> impl Iterator<Item = (&str, &Mark)> {
        self.nodes
            .iter()
            .filter_map(|(name, entry)| Some((name.as_str(), entry.mark.as_ref()?)))
    }

    /// The entry of a node, to be changed; one that says nothing if it had none.
    pub fn entry(&mut self, node: &str) -> &mut NodeEntry {
        self.nodes.entry(node.to_owned()).or_default()
    }

    /// Marks a node, or takes its mark away.
    pub fn set_mark(&mut self, node: &str, mark: Option<Mark>) {
        let mut entry = self.nodes.remove(node).unwrap_or_default();
        entry.mark = mark;
        if entry != NodeEntry::default() {
            self.nodes.insert(node.to_owned(), entry);
        }
    }

    /// Moves users to a node, until then if that is said.
    pub fn move_users(&mut self, hashes: &BTreeSet<u32>, node: &str, until: Option<Timestamp>) {
        if !hashes.is_empty() {
            self.entry(node).moved.insert(hashes, until);
        }
    }

    /// Takes users back from nodes to which they were moved.
    pub fn move_back(&mut self, hashes: &BTreeSet<u32>, is_meant: impl Fn(&str) -> bool) {
        self.nodes.retain(|name, entry| {
            if !is_meant(name) {
                return true;
            }
            entry.moved.remove(hashes);
            *entry != NodeEntry::default()
        });
    }

    /// Whether the time of a move has come.
    pub fn has_moves_to_end(&self, now: Timestamp) -> bool {
        let mut moves = self.nodes.values().flat_map(|entry| entry.moved.until.values());
        moves.any(|until| *until <= now)
    }

    /// Ends the moves whose time has come.
    pub fn end_moves(&mut self, now: Timestamp) {
        self.nodes.retain(|_, entry| {
            let moves = entry.moved.until.iter();
            let ended: BTreeSet<u32> = moves
                .filter(|(_, until)| **until <= now)
                .map(|(hash, _)| *hash)
                .collect();
            if ended.is_empty() {
                return true;
            }
            entry.moved.remove(&ended);
            *entry != NodeEntry::default()
        });
    }

    /// The same, with all nodes up.
    #[must_use]
    pub fn without_marks(&self) -> NodeState {
        let mut state = self.clone();
        for entry in state.nodes.values_mut() {
            entry.mark = None;
        }
        state.before = None;
        state
    }

    /// The same, with nobody moved.
    #[must_use]
    pub fn without_moved(&self) -> NodeState {
        let mut state = self.clone();
        for entry in state.nodes.values_mut() {
            entry.moved = Moved::default();
        }
        state
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
        if text.trim_ascii().is_empty() {
            return Err("it is empty".into());
        }
        toml::from_str(text).map_err(|error| {
            let (line, problem) = line_and_problem(&error, text);
            format!("line {}: {problem}", line.unwrap_or(1))
        })
    }
}

fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    moment(deserializer).map(Some)
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
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
    text.parse().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};

    #[test]
    fn moved_users() {
        let moved = |text: &str| NodeState::parse(&format!("[node.a]\nmoved = \"\"\"{text}\"\"\"\n"));
        let state = moved("00000007 ffffffff\n24FA11EE\t00000007").unwrap();
        let hashes: Vec<u32> = state.nodes["a"].moved.iter().collect();
        assert_eq!(hashes, [7, 0x24fa_11ee, u32::MAX]);
        let text = toml::to_string(&state).unwrap();
        assert_eq!(text, "[node.a]\nmoved = \"00000007 24fa11ee ffffffff\"\n");
        for text in ["00000007=", "00000007=tomorrow", "00000007=2026-11-27"] {
            let error = moved(text).unwrap_err();
            assert!(
                error.contains(&format!("\"{text}\" is no hash with a time")),
                "{error}"
            );
        }
        for text in ["7", "000000007", "+0000007", "0000000g", "00000007,00000008"] {
            let error = moved(text).unwrap_err();
            assert!(
                error.contains(&format!("\"{text}\" is no username hash")),
                "{error}"
            );
        }
    }

    #[test]
    fn dates_as_administrators_write_them() {
        let down = Mark::new(State::Down);
        for since in [
            "\"2026-11-23T20:45:00Z\"",
            "2026-11-23T20:45:00Z",
            "2026-11-23 21:45:00+01:00",
        ] {
            let text = format!("[node.node2]\nstate = \"down\"\nsince = {since}\n");
            let expected = Mark {
                since: Some("2026-11-23T20:45:00Z".parse().unwrap()),
                ..down.clone()
            };
            assert_eq!(
                NodeState::parse(&text).unwrap().mark_of("node2"),
                Some(&expected),
                "{since}"
            );
        }
        let bare = NodeState::parse("[node.node2]\nstate = \"down\"\n").unwrap();
        assert_eq!(bare.mark_of("node2"), Some(&down));
    }

    #[test]
    fn what_was_before_counts_until_its_moment() {
        let text = "[before]\nuntil = 2026-11-23T20:45:03Z\n[before.node.b]\nstate = \"down\"\n";
        let before = NodeState::parse(text).unwrap().before.unwrap();
        assert!(before.state().is_down("b"));
        let under_way = |time: &str| before.is_under_way(format!("2026-11-23T20:{time}Z").parse().unwrap());
        assert!(under_way("45:00") && under_way("45:02.999") && under_way("43:03"));
        assert!(!under_way("45:03") && !under_way("55:00"));
        assert!(!under_way("43:02.999"), "no node state waits so long");
        let error = NodeState::parse("[before]\n").unwrap_err();
        assert!(error.contains("until"), "{error}");
    }

    #[test]
    fn without_a_file_all_are_up() {
        let state = NodeState::load(Path::new("/nonexistent/nodes.toml")).unwrap();
        assert!(!state.is_down("node1"));
        assert_eq!(NodeState::parse("# all up").unwrap(), NodeState::default());
        for empty in ["", "\n"] {
            assert_eq!(NodeState::parse(empty).unwrap_err(), "it is empty");
        }
    }

    #[test]
    fn a_mark_that_goes_leaves_what_the_director_has() {
        let text = "[node.a]\nstate = \"down\"\nvhost_count = 50\n[node.b]\nstate = \"up\"\n";
        let mut state = NodeState::parse(text).unwrap();
        assert!(state.is_down("a") && !state.is_down("b"));
        assert_eq!(state.mark_of("b"), Some(&Mark::new(State::Up)));
        state.set_mark("a", None);
        state.set_mark("b", None);
        assert_eq!(state, NodeState::parse("[node.a]\nvhost_count = 50\n").unwrap());
    }

    #[test]
    fn broken_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.toml");
        for (text, problem) in [
            (
                "[node.node2]\nstate = \"down\"\nsince = 2026-11-23\n",
                "line 3: since",
            ),
            (
                "[node.node2]\nstate = \"down\"\nsince = \"yesterday\"\n",
                "line 3: since",
            ),
            ("[node.node2]\nstate = \"sideways\"\n", "line 2: "),
            (
                "\n[node.node2]\nreason = \"new disks\"\n",
                "line 2: since, reason and by are of a state",
            ),
            ("[sideways]\n", "line 1: "),
            ("[node.no", "line 1: "),
        ] {
            fs::write(&path, text).unwrap();
            let error = NodeState::load(&path).expect_err(text).to_string();
            let expected = format!("nodes.toml: not a node state: {problem}");
            assert!(error.contains(&expected), "{error}");
        }
        fs::write(&path, b"\xff").unwrap();
        assert!(NodeState::load(&path).is_err());
    }

    #[test]
    fn moves_begin_and_end() {
        let mut state = NodeState::parse("[node.b]\nmoved = \"00000001 00000002\"\n").unwrap();
        let some = |hashes: &[u32]| hashes.iter().copied().collect::<BTreeSet<u32>>();
        let is = |state: &NodeState, text: &str| {
            assert_eq!(toml::to_string(state).unwrap(), text);
        };
        state.move_users(&some(&[1, 3]), "a", Some(at(60)));
        state.move_users(&some(&[4]), "a", None);
        state.move_users(&some(&[]), "c", None);
        state.move_back(&some(&[1, 2]), |node| node == "b");
        is(
            &state,
            "[node.a]\nmoved = \"00000001=1970-01-01T00:01:00Z 00000003=1970-01-01T00:01:00Z 00000004\"\n",
        );
        state.move_users(&some(&[3]), "a", None);
        state.move_users(&some(&[4]), "a", Some(at(61)));
        state.end_moves(at(59));
        assert_eq!(state.nodes["a"].moved.len(), 3);
        assert_eq!(state.nodes["a"].moved.until(4), Some(at(61)));
        state.end_moves(at(60));
        is(
            &state,
            "[node.a]\nmoved = \"00000003 00000004=1970-01-01T00:01:01Z\"\n",
        );
        state.set_mark("a", Some(Mark::new(State::Up)));
        state.move_back(&some(&[3]), |_| true);
        state.end_moves(at(61));
        assert!(state.nodes["a"].moved.is_empty() && state.nodes["a"].mark.is_some());
        state.set_mark("a", None);
        assert_eq!(state, NodeState::default());
    }

    proptest! {
        #[test]
        fn any_state_survives(nodes in entries(), before in prop::option::of((any::<u32>(), entries()))) {
            let before = before.map(|(second, nodes)| Before { until: at(second), nodes });
            let state = NodeState { nodes, before };
            let text = format!("# written\n{}", toml::to_string(&state).unwrap());
            prop_assert_eq!(NodeState::parse(&text).unwrap(), state);
        }
    }

    fn at(second: u32) -> Timestamp {
        Timestamp::from_second(second.into()).unwrap()
    }

    fn entries() -> impl Strategy<Value = BTreeMap<String, NodeEntry>> {
        prop::collection::btree_map(any::<String>(), entry(), 0..4)
    }

    fn entry() -> impl Strategy<Value = NodeEntry> {
        let mark = (
            any::<bool>(),
            any::<Option<u32>>(),
            any::<String>(),
            prop::sample::select(vec![By::Hand, By::Checks, By::Director]),
        )
            .prop_map(|(is_down, second, reason, by)| Mark {
                state: if is_down { State::Down } else { State::Up },
                since: second.map(at),
                reason,
                by,
            });
        let some = || prop::collection::btree_set(any::<u32>(), 0..5);
        let moved = (some(), some(), any::<u32>()).prop_map(|(for_good, for_now, until)| {
            let mut moved = Moved::from_iter(for_good);
            moved.insert(&for_now, Some(at(until)));
            moved
        });
        (
            prop::option::of(mark),
            any::<Option<u32>>(),
            any::<Option<String>>(),
            moved,
        )
            .prop_map(|(mark, vhost_count, tag, moved)| NodeEntry {
                mark,
                vhost_count,
                tag,
                moved,
            })
    }
}
