//! Finds out which nodes are up, by the checks of the configuration, and says what that
//! makes of the node state.
//!
//! Marks by hand win: checks neither end them nor set them. Where all nodes fail at
//! once, it is whoever asks that has failed, and nothing changes.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

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
    /// Which nodes, in the order of the configuration, came up or went down, and why.
    /// `None` for those that are as they were, or were not asked.
    Answers(Vec<Option<Result<(), String>>>),
    /// What the Director says.
    Director {
        /// The host that each node of the configuration is.
        hosts: Vec<Option<director::Host>>,
        /// All of it.
        snapshot: Snapshot,
    },
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum ChecksError {
    /// The Director could not be asked.
    #[error("{0} (the nodes stay as they were)")]
    Director(DirectorError),
    /// The Director sends users to a host that the configuration does not have.
    #[error(
        "the Director has the host {host}, which no [[node]] of the configuration has: add it, lest its users go \
         elsewhere; the nodes stay as they were"
    )]
    UnknownHost {
        /// Its address and tag.
        host: String,
    },
    /// Nobody is up, which is more likely to be the fault of whoever asks.
    #[error(
        "{asked} finds no node up ({example}): that is taken for its own failure, and the nodes stay as they were; \
         mark nodes by hand if they are down"
    )]
    NobodyUp {
        /// Who asked.
        asked: String,
        /// What was wrong with one of the nodes.
        example: String,
    },
}

/// Asks about all nodes, several times where an answer differs from the state. `None`
/// where the configuration has no checks.
///
/// # Errors
/// See [`ChecksError`].
pub fn observe(config: &Config, state: &NodeState) -> Result<Option<Observation>, ChecksError> {
    let Some(checks) = &config.checks else {
        return Ok(None);
    };
    match &checks.check {
        Check::Director(socket) => ask_director(config, socket, *checks.timeout),
        check => {
            let answers = ask_all(config, state, checks, |node| ask(check, node, *checks.timeout));
            changes(config, state, answers, asker(check))
        }
    }
    .map(Some)
}

/// Asks about one node, once.
///
/// # Errors
/// When it is down: why. Also of a Director, which tells of all nodes at once.
pub(crate) fn ask(check: &Check, node: &Node, timeout: Duration) -> Result<(), String> {
    match check {
        Check::Director(_) => Err("a Director tells of all nodes at once".into()),
        Check::Probe(kind, port) => probe(SocketAddr::new(node.address, *port), *kind, timeout),
        Check::Command(command) => {
            let arguments = [node.name.clone(), ring_label(node.address)];
            child::run_silent(&[command, &arguments[..]].concat(), timeout)
                .and_then(child::Finished::success)
                .map(drop)
                .map_err(|error| error.to_string())
        }
    }
}

/// Who that is, in words.
pub(crate) fn asker(check: &Check) -> &'static str {
    match check {
        Check::Director(_) => "the Director",
        Check::Probe(..) => "the probe",
        Check::Command(_) => "the command",
    }
}

/// Asks a Director about all nodes.
///
/// # Errors
/// See [`ChecksError`].
pub(crate) fn ask_director(
    config: &Config,
    socket: &Path,
    timeout: Duration,
) -> Result<Observation, ChecksError> {
    let snapshot = director::snapshot(socket, timeout).map_err(ChecksError::Director)?;
    let usable = |host: &director::Host| host.up && host.vhost_count > 0;
    let now = Timestamp::now();
    let in_force = snapshot.users.iter().filter(|user| user.expires > now);
    let has_users: HashSet<IpAddr> = in_force.map(|user| user.address).collect();
    let nodes = config.nodes.iter().map(|node| &node.node);
    let (_, unknown) = snapshot.match_hosts(nodes);
    let sends_users = |host: &&director::Host| usable(host) || has_users.contains(&host.address);
    if let Some(host) = unknown.into_iter().find(sends_users) {
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
    Ok(Observation::of_director(config, snapshot))
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
    if let Some(Err(example)) = given.first()
        && given.iter().all(|answer| answer.is_err())
        && !one_may_fail(state, given.len())
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

/// Whether it may be true that the only node fails that is asked: others are held up.
pub(crate) fn one_may_fail(state: &NodeState, asked: usize) -> bool {
    asked == 1 && state.marks().any(|(_, mark)| mark.state == State::Up)
}

impl Observation {
    /// What a Director says of the nodes of the configuration.
    pub fn of_director(config: &Config, snapshot: Snapshot) -> Observation {
        let (matched, _) = snapshot.match_hosts(config.nodes.iter().map(|node| &node.node));
        let hosts = matched
            .into_iter()
            .map(Option::<&director::Host>::cloned)
            .collect();
        Observation::Director { hosts, snapshot }
    }

    /// Applies this to a node state. Marks by hand stay.
    pub fn apply(&self, config: &Config, state: &mut NodeState, now: Timestamp) {
        // Of what checks began, they end what they no longer decide.
        let stays = |name: &str, mark: &Mark| mark.is_by_hand() || config.nodes.index_of(name).is_some();
        state.nodes.retain(|name, entry| {
            let mark = entry.mark.take().filter(|mark| stays(name, mark));
            *entry = NodeEntry {
                mark,
                ..NodeEntry::default()
            };
            entry.mark.is_some()
        });
        match self {
            Observation::Answers(changes) => {
                for (node, change) in config.nodes.iter().zip(changes) {
                    match change {
                        None => {}
                        Some(Ok(())) => mark(state, &node.node.name, None),
                        Some(Err(reason)) => mark(state, &node.node.name, Some((now, reason))),
                    }
                }
            }
            Observation::Director { hosts, snapshot } => apply_director(hosts, snapshot, config, state, now),
        }
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

fn apply_director(
    hosts: &[Option<director::Host>],
    snapshot: &Snapshot,
    config: &Config,
    state: &mut NodeState,
    now: Timestamp,
) {
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
    let mut nodes: HashMap<(IpAddr, &str), &str> = HashMap::new();
    for node in cluster.nodes() {
        nodes.entry((node.address, &node.tag)).or_insert(&node.name);
    }
    let mut moved: HashMap<&str, Vec<u32>> = HashMap::new();
    for ((tag, hash), address) in snapshot.all_users_in_force(now) {
        let Some(node) = nodes.get(&(address, tag)) else {
            continue;
        };
        let computed = cluster
            .index_of_hash(hash, tag)
            .and_then(|index| cluster.nodes().get(index));
        if computed.is_none_or(|computed| computed.name != *node) {
            moved.entry(*node).or_default().push(hash);
        }
    }
    for (node, hashes) in moved {
        state.entry(node).moved = hashes.into_iter().collect();
    }
}
