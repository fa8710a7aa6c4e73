//! Finds out which nodes are up, by the checks of the configuration, and says what that
//! makes of the node state.
//!
//! Marks by hand win: checks neither end them nor set them. Where all nodes fail at
//! once, it is whoever asks that has failed, and nothing changes.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use jiff::Timestamp;

use crate::child;
use crate::director::{self, DirectorError, Snapshot};
use crate::probe::probe;
use mailaffinity::config::{Check, Checks, Config, NodeConfig};
use mailaffinity::mapping::{Node, ring_label};
use mailaffinity::node_state::{By, Mark, NodeEntry, NodeState, State};

/// What was found out.
#[derive(Debug)]
pub enum Observation {
    /// There are no checks.
    None,
    /// Which nodes, in the order of the configuration, came up or went down, and why.
    /// `None` for those that are as they were, or were not asked.
    Answers(Vec<Option<Result<(), String>>>),
    /// What the Director says.
    Director(Snapshot),
}

/// Why nothing could be found out.
#[derive(Debug)]
pub enum ChecksError {
    /// The Director could not be asked.
    Director(DirectorError),
    /// The Director sends users to a host that the configuration does not have.
    UnknownHost {
        /// Its address and tag.
        host: String,
    },
    /// Nobody is up, which is more likely to be the fault of whoever asks.
    NobodyUp {
        /// Who asked.
        asked: String,
        /// What was wrong with one of the nodes.
        example: String,
    },
}

impl fmt::Display for ChecksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChecksError::Director(error) => write!(f, "{error} (the nodes stay as they were)"),
            ChecksError::UnknownHost { host } => write!(
                f,
                "the Director has the host {host}, which no [[node]] of the configuration has: add it, lest its \
                 users go elsewhere; the nodes stay as they were"
            ),
            ChecksError::NobodyUp { asked, example } => write!(
                f,
                "{asked} finds no node up ({example}): that is taken for its own failure, and the nodes stay as they \
                 were; mark nodes by hand if they are down"
            ),
        }
    }
}

impl std::error::Error for ChecksError {}

/// Asks about all nodes, several times where an answer differs from the state.
///
/// # Errors
/// See [`ChecksError`].
pub fn observe(config: &Config, state: &NodeState) -> Result<Observation, ChecksError> {
    let Some(checks) = &config.checks else {
        return Ok(Observation::None);
    };
    match &checks.check {
        Check::Director(socket) => ask_director(config, socket, checks).map(Observation::Director),
        Check::Probe(kind, port) => {
            let answers = ask_all(config, state, checks, |node| {
                probe(SocketAddr::new(node.address, *port), *kind, *checks.timeout)
            });
            changes(config, state, answers, "the probe")
        }
        Check::Command(command) => {
            let answers = ask_all(config, state, checks, |node| {
                let arguments = [&node.name, &ring_label(node.address)].map(OsString::from);
                let command: Vec<OsString> = command.iter().map(OsString::from).chain(arguments).collect();
                child::run(&command, b"", *checks.timeout)
                    .and_then(child::Finished::success)
                    .map(drop)
                    .map_err(|error| error.to_string())
            });
            changes(config, state, answers, "the command")
        }
    }
}

fn ask_director(config: &Config, socket: &Path, checks: &Checks) -> Result<Snapshot, ChecksError> {
    let snapshot = director::snapshot(socket, *checks.timeout).map_err(ChecksError::Director)?;
    let usable = |host: &director::Host| host.up && host.vhost_count > 0;
    let now = Timestamp::now();
    let has_users = |host: &director::Host| {
        let in_force = |user: &director::User| user.address == host.address && user.expires > now;
        snapshot.users.iter().any(in_force)
    };
    let (_, unknown) = match_hosts(config, &snapshot);
    if let Some(host) = unknown.into_iter().find(|host| usable(host) || has_users(host)) {
        let at = if host.tag.is_empty() { "" } else { "@" };
        return Err(ChecksError::UnknownHost {
            host: format!("{}{at}{}", ring_label(host.address), host.tag.escape_debug()),
        });
    }
    if !snapshot.hosts.iter().any(usable) {
        return Err(ChecksError::NobodyUp {
            asked: format!("the Director at {}", socket.display()),
            example: format!(
                "it has {} hosts, all down or without vhosts",
                snapshot.hosts.len()
            ),
        });
    }
    Ok(snapshot)
}

/// The host that each node of the configuration is, and the hosts that none is.
///
/// A host of another tag is the node all the same, unless the tag tells it from another
/// one. Of a host that the Director has twice, the ring has the points of either that is
/// up.
fn match_hosts<'s>(
    config: &Config,
    snapshot: &'s Snapshot,
) -> (Vec<Option<&'s director::Host>>, Vec<&'s director::Host>) {
    let mut unmatched: Vec<&director::Host> = snapshot.hosts.iter().collect();
    unmatched.sort_by_key(|&host| (host.address, &host.tag, !host.up, Reverse(host.vhost_count)));
    unmatched.dedup_by_key(|&mut host| (host.address, &host.tag));
    let mut hosts = vec![None; config.nodes.len()];
    for any_tag in [false, true] {
        for (NodeConfig { node, .. }, host) in config.nodes.iter().zip(&mut hosts) {
            if host.is_none() {
                *host = unmatched
                    .iter()
                    .position(|host| host.address == node.address && (any_tag || host.tag == node.tag))
                    .map(|place| unmatched.remove(place));
            }
        }
    }
    (hosts, unmatched)
}

/// Asks each node but those marked by hand, all at once; then those again whose
/// answer differs from their state, until it came often enough in a row.
fn ask_all(
    config: &Config,
    state: &NodeState,
    checks: &Checks,
    ask: impl Fn(&Node) -> Result<(), String> + Sync,
) -> Vec<Option<Result<(), String>>> {
    let is_asked = |node: &Node| !state.mark_of(&node.name).is_some_and(Mark::is_by_hand);
    let mut answers: Vec<Option<Result<(), String>>> = config.nodes.iter().map(|_| None).collect();
    let mut asked: Vec<(usize, &Node)> = config.nodes.iter().map(|node| &node.node).enumerate().collect();
    asked.retain(|(_, node)| is_asked(node));
    for round in 1u32.. {
        let answered: Vec<_> = thread::scope(|scope| {
            let begun: Vec<_> = asked
                .iter()
                .map(|(_, node)| {
                    let ask = || ask(node);
                    // Where the system has no thread left, the answer is awaited here.
                    thread::Builder::new().spawn_scoped(scope, ask).map_err(|_| ask())
                })
                .collect();
            begun
                .into_iter()
                .map(|begun| match begun {
                    Ok(thread) => thread.join().unwrap_or_else(|_| Err("the check failed".into())),
                    Err(answer) => answer,
                })
                .collect()
        });
        let mut again = Vec::new();
        for ((index, node), answer) in asked.into_iter().zip(answered) {
            let needed = match (&answer, state.is_down(&node.name)) {
                (Ok(()), true) => *checks.rise,
                (Err(_), false) => *checks.fall,
                // As it was: if the answer was another one before, the node is flapping.
                _ => 1,
            };
            if round < needed {
                again.push((index, node));
            } else if let Some(slot) = answers.get_mut(index) {
                *slot = Some(answer);
            }
        }
        if again.is_empty() {
            break;
        }
        asked = again;
        thread::sleep(*checks.interval);
    }
    answers
}

fn changes(
    config: &Config,
    state: &NodeState,
    answers: Vec<Option<Result<(), String>>>,
    asked: &str,
) -> Result<Observation, ChecksError> {
    let given: Vec<_> = answers.iter().flatten().collect();
    // A single node that fails may be the only one that is asked, where others are held up.
    let may_be_true = given.len() == 1 && state.marks().any(|(_, mark)| mark.state == State::Up);
    if let Some(Err(example)) = given.first()
        && given.iter().all(|answer| answer.is_err())
        && !may_be_true
    {
        return Err(ChecksError::NobodyUp {
            asked: asked.into(),
            example: example.clone(),
        });
    }
    // A single answer may say that a node is as it was, but must not change what another
    // machine's update made of it meanwhile.
    let nodes = config.nodes.iter().zip(answers);
    let changes = nodes
        .map(|(node, answer)| answer.filter(|answer| answer.is_ok() == state.is_down(&node.node.name)))
        .collect();
    Ok(Observation::Answers(changes))
}

impl Observation {
    /// What this makes of a node state. Marks by hand stay.
    pub fn apply(&self, config: &Config, state: &NodeState, now: Timestamp) -> NodeState {
        let mut new = state.clone();
        if let Observation::None = self {
            return new;
        }
        // Of what checks began, they end what they no longer decide.
        let stays = |name: &str, mark: &Mark| mark.is_by_hand() || config.index_of_node(name).is_some();
        new.nodes = state
            .marks()
            .filter(|(name, mark)| stays(name, mark))
            .map(|(name, mark)| {
                let entry = NodeEntry {
                    mark: Some(mark.clone()),
                    ..NodeEntry::default()
                };
                (name.to_owned(), entry)
            })
            .collect();
        match self {
            Observation::None => {}
            Observation::Answers(changes) => {
                for (node, change) in config.nodes.iter().zip(changes) {
                    match change {
                        None => {}
                        Some(Ok(())) => mark(&mut new, &node.node.name, None),
                        Some(Err(reason)) => mark(&mut new, &node.node.name, Some((now, reason))),
                    }
                }
            }
            Observation::Director(snapshot) => apply_director(snapshot, config, &mut new, now),
        }
        new
    }
}

/// Marks a node as the checks have it, down since when and why, unless it is marked by
/// hand. A node that stays down keeps its mark.
fn mark(state: &mut NodeState, node: &str, down: Option<(Timestamp, &str)>) {
    match (state.mark_of(node), down) {
        (Some(known), None) if !known.is_by_hand() => state.set_mark(node, None),
        (None, Some((since, reason))) => {
            let mark = Mark {
                state: State::Down,
                since: Some(since),
                reason: reason.into(),
                by: By::Checks,
            };
            state.set_mark(node, Some(mark));
        }
        _ => {}
    }
}

fn apply_director(snapshot: &Snapshot, config: &Config, state: &mut NodeState, now: Timestamp) {
    let (hosts, _) = match_hosts(config, snapshot);
    for (NodeConfig { node, .. }, host) in config.nodes.iter().zip(hosts) {
        let Some(host) = host else {
            mark(state, &node.name, Some((now, "the Director does not have it")));
            continue;
        };
        let since = host.changed.unwrap_or(now);
        mark(
            state,
            &node.name,
            (!host.up).then_some((since, "the Director has it down")),
        );
        if host.vhost_count != node.vhost_count {
            state.entry(&node.name).vhost_count = Some(host.vhost_count);
        }
        if host.tag != node.tag {
            state.entry(&node.name).tag = Some(host.tag.clone());
        }
    }
    let Ok(cluster) = config.cluster(state) else {
        // Too many vhosts, which whoever uses the state is told.
        return;
    };
    let mut tags: Vec<&str> = snapshot.hosts.iter().map(|host| host.tag.as_str()).collect();
    tags.sort_unstable();
    tags.dedup();
    for tag in tags {
        for (hash, address) in snapshot.users_in_force(tag, now) {
            let of_tag = |node: &&Node| node.address == address && node.tag == tag;
            let Some(node) = cluster.nodes().iter().find(of_tag) else {
                continue;
            };
            let computed = cluster
                .index_of_hash(hash, tag)
                .and_then(|index| cluster.nodes().get(index));
            if computed.is_none_or(|computed| computed.name != node.name) {
                state.entry(&node.name).moved.insert(hash);
            }
        }
    }
}
