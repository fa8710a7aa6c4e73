//! Finds out which nodes are up, by the checks of the configuration, and says what that
//! makes of the node state.
//!
//! Marks by hand win: checks neither end them nor set them. Where all nodes fail at
//! once, it is whoever asks that has failed, and nothing changes. Where corosync is to be
//! heard, nothing changes without a quorum, and a node that is out of it is down.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use crate::child;
use crate::corosync::{self, CorosyncError, Word};
use crate::director::{self, DirectorError, Snapshot};
use crate::probe::{self, Asked, NotUp, Service};
use mailaffinity::config::{Check, Checks, Config, NodeConfig, Quorum};
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
        /// The host that each node of the configuration is, or why it is down.
        hosts: Vec<Result<director::Host, String>>,
        /// All of it.
        snapshot: Snapshot,
    },
    /// Which nodes are out of the quorum, and nothing else, since only corosync answers.
    Out(Vec<bool>),
}

/// Why a node is down that is out of the quorum.
pub(crate) const OUT: &str = "corosync does not have it among its members";

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum ChecksError {
    /// The Director could not be asked.
    #[error("{0} (the nodes stay as they were)")]
    Director(DirectorError),
    /// Corosync gives nobody here the right to change anything.
    #[error("{0} (the nodes stay as they were)")]
    Corosync(CorosyncError),
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

/// Asks about all nodes, several times where an answer differs from the state, and then
/// corosync, whose word is to be the newest. Nothing is found out where the configuration
/// has no checks. Where corosync alone could be asked, there is something to do all the same.
pub fn observe(config: &Config, state: &NodeState) -> (Option<Observation>, Option<ChecksError>) {
    let Some(checks) = &config.checks else {
        return (None, None);
    };
    let asked = match &checks.check {
        Check::Director(socket) => ask_director(config, socket, *checks.timeout),
        check => Ok(ask_all(config, state, checks, |node| {
            ask(check, node, *checks.timeout, &mut None)
                .map(drop)
                .map_err(NotUp::problem)
        })),
    };
    let out = match checks.quorum {
        None => vec![false; config.nodes.len()],
        Some(Quorum::Corosync) => match out_of_quorum(config, state, checks, asked.as_ref().ok()) {
            Ok(out) => out,
            Err(error) => return (None, Some(ChecksError::Corosync(error))),
        },
    };
    match asked.and_then(|asked| asked.judged(config, state, &checks.check, &out)) {
        Ok(observation) => (Some(observation), None),
        Err(problem) => (
            out.contains(&true).then_some(Observation::Out(out)),
            Some(problem),
        ),
    }
}

/// Asks corosync which nodes are out of the quorum; twice, if the first word may be from
/// before a cut that others have noticed and that leads to changes.
fn out_of_quorum(
    config: &Config,
    state: &NodeState,
    checks: &Checks,
    asked: Option<&Observation>,
) -> Result<Vec<bool>, CorosyncError> {
    let mut word = corosync::ask(&config.nodes, *checks.timeout)?;
    if asked.is_some_and(|asked| asked.is_doubtful(config, state, &word)) {
        thread::sleep(word.age);
        word = corosync::ask(&config.nodes, *checks.timeout)?;
    }
    Ok(word.out())
}

/// Asks about one node, once. If it is up, what can tell as soon as it dies is left open. `late` is
/// what is late of the question before, and then of this one.
///
/// # Errors
/// When it is down, or cannot be asked: why. Also of a Director, which tells of all nodes at once.
pub(crate) fn ask(
    check: &Check,
    node: &Node,
    timeout: Duration,
    late: &mut Option<Asked>,
) -> Result<Option<Service>, NotUp> {
    match check {
        Check::Director(_) => Err(NotUp::Down("a Director tells of all nodes at once".into())),
        Check::Probe(kind, port) => {
            probe::connect(SocketAddr::new(node.address, *port), *kind, timeout, late).map(Some)
        }
        Check::Command(command) => {
            let arguments = [node.name.clone(), ring_label(node.address)];
            child::run_silent(&[command, &arguments[..]].concat(), timeout)
                .and_then(child::Finished::success)
                .map(|_| None)
                .map_err(|error| match error.is_shortage {
                    true => NotUp::Unasked(error.to_string()),
                    false => NotUp::Down(error.to_string()),
                })
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
/// answer differs from their state, until it came often enough in a row. Where nodes fall, those
/// that answered are asked once more: what they said before a cut says nothing of the time
/// after it. Of those that no longer answer, nothing is known.
fn ask_all(
    config: &Config,
    state: &NodeState,
    checks: &Checks,
    ask: impl Fn(&Node) -> Result<(), String> + Sync,
) -> Observation {
    let is_asked = |node: &Node| !state.mark_of(&node.name).is_some_and(Mark::is_by_hand);
    let mut answers: Vec<Option<Result<(), String>>> = config.nodes.iter().map(|_| None).collect();
    let nodes = || config.nodes.iter().map(|node| &node.node).enumerate();
    let mut asked: Vec<(usize, &Node)> = nodes().filter(|(_, node)| is_asked(node)).collect();
    for round in 1u32.. {
        let mut again = Vec::new();
        for ((index, node), answer) in asked.iter().copied().zip(ask_at_once(&asked, &ask)) {
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
    let falls = |(node, answer): (&NodeConfig, &Option<Result<(), String>>)| {
        matches!(answer, Some(Err(_))) && !state.is_down(&node.node.name)
    };
    if config.nodes.iter().zip(&answers).any(falls) {
        let answered = nodes()
            .zip(&answers)
            .filter(|(_, answer)| matches!(answer, Some(Ok(()))));
        let witnesses: Vec<_> = answered.map(|(node, _)| node).collect();
        for ((index, _), answer) in witnesses.iter().zip(ask_at_once(&witnesses, &ask)) {
            if let Some(slot) = answers.get_mut(*index).filter(|_| answer.is_err()) {
                *slot = None;
            }
        }
    }
    Observation::Answers(answers)
}

/// Asks nodes, each in a thread of its own.
fn ask_at_once(
    nodes: &[(usize, &Node)],
    ask: &(impl Fn(&Node) -> Result<(), String> + Sync),
) -> Vec<Result<(), String>> {
    thread::scope(|scope| {
        let begun: Vec<_> = nodes
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
    })
}

/// Whether it may be true that the only node fails that is asked: others are held up.
pub(crate) fn one_may_fail(state: &NodeState, asked: usize) -> bool {
    asked == 1 && state.marks().any(|(_, mark)| mark.state == State::Up)
}

impl Observation {
    /// What a Director says of the nodes of the configuration.
    pub fn of_director(config: &Config, snapshot: Snapshot) -> Observation {
        let (matched, _) = snapshot.match_hosts(config.nodes.iter().map(|node| &node.node));
        let host = |host: Option<&director::Host>| {
            host.cloned()
                .ok_or_else(|| "the Director does not have it".into())
        };
        let hosts = matched.into_iter().map(host).collect();
        Observation::Director { hosts, snapshot }
    }

    /// Which nodes are there, as far as they were asked.
    fn answers(&self) -> Vec<Option<bool>> {
        match self {
            Observation::Answers(answers) => {
                let answers = answers.iter().map(Option::as_ref);
                answers.map(|answer| answer.map(Result::is_ok)).collect()
            }
            Observation::Director { hosts, .. } => {
                let hosts = hosts.iter().map(Result::as_ref);
                hosts.map(|host| Some(host.is_ok_and(|host| host.up))).collect()
            }
            Observation::Out(out) => out.iter().map(|out| Some(!out)).collect(),
        }
    }

    /// Whether nodes fall by this, and it may be so because this machine was cut off.
    pub(crate) fn is_doubtful(&self, config: &Config, state: &NodeState, word: &Word) -> bool {
        let answers = self.answers();
        let mut nodes = config.nodes.iter().zip(&answers);
        let falls = nodes.any(|(node, answer)| *answer == Some(false) && !state.is_down(&node.node.name));
        let answers: Vec<bool> = answers.into_iter().map(|answer| answer == Some(true)).collect();
        falls && word.may_be_old(&answers)
    }

    /// What is to be done: all that was found out but for nodes that are as they were, and
    /// for those that are out of the quorum, which are down whatever was found out.
    pub(crate) fn judged(
        self,
        config: &Config,
        state: &NodeState,
        check: &Check,
        out: &[bool],
    ) -> Result<Observation, ChecksError> {
        let mut answers = match self {
            Observation::Answers(answers) => answers,
            Observation::Director { mut hosts, snapshot } => {
                for (host, _) in hosts.iter_mut().zip(out).filter(|(_, out)| **out) {
                    *host = Err(OUT.into());
                }
                return Ok(Observation::Director { hosts, snapshot });
            }
            Observation::Out(_) => return Ok(self),
        };
        let given = answers.iter().zip(out).filter(|(_, out)| !**out);
        let given: Vec<_> = given.filter_map(|(answer, _)| answer.as_ref()).collect();
        if let Some(Err(example)) = given.first()
            && given.iter().all(|answer| answer.is_err())
            && !one_may_fail(state, given.len())
        {
            return Err(ChecksError::NobodyUp {
                asked: asker(check).into(),
                example: example.clone(),
            });
        }
        for ((node, answer), out) in config.nodes.iter().zip(&mut answers).zip(out) {
            if *out {
                *answer = Some(Err(OUT.into()));
            }
            // A single answer may say that a node is as it was, but must not change what
            // another machine's update made of it meanwhile.
            answer.take_if(|answer| answer.is_ok() != state.is_down(&node.node.name));
        }
        Ok(Observation::Answers(answers))
    }

    /// Applies this to a node state. Marks by hand stay.
    pub fn apply(&self, config: &Config, state: &mut NodeState, now: Timestamp) {
        if let Observation::Out(out) = self {
            for (node, _) in config.nodes.iter().zip(out).filter(|(_, out)| **out) {
                mark(state, &node.node.name, By::Checks, Some((now, OUT)));
            }
            return;
        }
        // Of what checks began, they end what they no longer decide.
        let by_director = matches!(self, Observation::Director { .. });
        let stays = |name: &str, mark: &Mark| mark.is_by_hand() || config.nodes.index_of(name).is_some();
        state.nodes.retain(|name, entry| {
            let NodeEntry { mark, moved, .. } = mem::take(entry);
            entry.mark = mark.filter(|mark| stays(name, mark));
            if !by_director {
                entry.moved = moved;
                if let Some(mark) = entry.mark.as_mut().filter(|mark| mark.by == By::Director) {
                    mark.by = By::Checks;
                }
            }
            *entry != NodeEntry::default()
        });
        match self {
            Observation::Answers(changes) => {
                for (node, change) in config.nodes.iter().zip(changes) {
                    match change {
                        None => {}
                        Some(Ok(())) => mark(state, &node.node.name, By::Checks, None),
                        Some(Err(reason)) => mark(state, &node.node.name, By::Checks, Some((now, reason))),
                    }
                }
            }
            Observation::Director { hosts, snapshot } => apply_director(hosts, snapshot, config, state, now),
            Observation::Out(_) => {}
        }
    }
}

/// Marks a node as the checks have it, down since when and why, unless it is marked by
/// hand. A node that stays down by the same word keeps its mark.
fn mark(state: &mut NodeState, node: &str, by: By, down: Option<(Timestamp, &str)>) {
    let known = state.mark_of(node);
    let down = down.map(|(since, reason)| Mark {
        state: State::Down,
        since: known.map_or(Some(since), |known| known.since),
        reason: reason.into(),
        by,
    });
    match (known, &down) {
        (Some(known), _) if known.is_by_hand() => {}
        (Some(known), Some(down)) if known.by == down.by => {}
        _ => state.set_mark(node, down),
    }
}

fn apply_director(
    hosts: &[Result<director::Host, String>],
    snapshot: &Snapshot,
    config: &Config,
    state: &mut NodeState,
    now: Timestamp,
) {
    for (NodeConfig { node, .. }, host) in config.nodes.iter().zip(hosts) {
        let host = match host {
            Ok(host) => host,
            Err(reason) => {
                // Of a node that is out, a Director need not know yet.
                let by = if reason == OUT { By::Checks } else { By::Director };
                mark(state, &node.name, by, Some((now, reason)));
                continue;
            }
        };
        let since = host.changed.unwrap_or(now);
        mark(
            state,
            &node.name,
            By::Director,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Strategy, any, prop, proptest};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const NODES: usize = 4;

    fn config() -> Config {
        let nodes = (0..NODES)
            .map(|number| format!("[[node]]\nname = \"node{number}\"\naddress = \"10.0.0.{number}\"\n"));
        let text = format!("[checks]\nprobe = \"imap\"\n{}", nodes.collect::<String>());
        Config::parse(&text, Path::new("m.toml")).unwrap()
    }

    fn host(up: bool) -> director::Host {
        director::Host {
            address: IpAddr::from([10, 0, 0, 1]),
            vhost_count: 100,
            tag: String::new(),
            up,
            changed: None,
        }
    }

    /// One answers before a cut, and the next one is asked after it.
    #[test]
    fn who_is_cut_off_between_two_questions_finds_nobody_down() {
        let config = config();
        let state = NodeState::default();
        let checks = Checks {
            interval: Default::default(),
            ..config.checks.clone().unwrap()
        };
        let asked = AtomicUsize::new(0);
        let ask = |node: &Node| match node.name == "node0" && asked.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Ok(()),
            false => Err("no route".to_owned()),
        };
        let found = ask_all(&config, &state, &checks, ask);
        let judged = found.judged(&config, &state, &checks.check, &[false; NODES]);
        assert!(matches!(judged, Err(ChecksError::NobodyUp { .. })), "{judged:?}");
    }

    #[test]
    fn a_director_has_moves_of_its_own_and_others_none() {
        let config = config();
        let text = "[node.node1]\nvhost_count = 7\nmoved = \"00000001\"\nstate = \"down\"\nreason = \"dead\"\n\
                    by = \"checks\"\nsince = \"2026-11-23T20:45:00Z\"\n";
        let mut state = NodeState::parse(text).unwrap();
        let by_probes = Observation::Answers(vec![None; NODES]);
        let mut apply = |observation: &Observation| {
            observation.apply(&config, &mut state, Timestamp::now());
            let entry = state.nodes["node1"].clone();
            let mark = entry.mark.as_ref().unwrap();
            assert_eq!(mark.since, Some("2026-11-23T20:45:00Z".parse().unwrap()));
            (entry.moved.len(), entry.keeps_moved(), mark.reason.clone())
        };
        assert_eq!(apply(&by_probes), (1, false, "dead".into()));
        let down = || host(false);
        let by_director = Observation::Director {
            hosts: (0..NODES).map(|_| Ok(down())).collect(),
            snapshot: Snapshot::default(),
        };
        let said = "the Director has it down";
        assert_eq!(apply(&by_director), (0, true, said.into()));
        assert_eq!(apply(&by_probes), (0, false, said.into()));
        assert_eq!(state.nodes["node1"].vhost_count, None);
    }

    fn any_mark() -> impl Strategy<Value = Option<Mark>> {
        prop::option::of((any::<bool>(), any::<bool>()).prop_map(|(up, by_hand)| Mark {
            state: if up && by_hand { State::Up } else { State::Down },
            since: None,
            reason: String::new(),
            by: if by_hand { By::Hand } else { By::Checks },
        }))
    }

    proptest! {
        /// Whatever else is found out, and by whom.
        #[test]
        fn who_is_out_is_down(
            answers in prop::array::uniform4(any::<bool>()),
            out in prop::array::uniform4(any::<bool>()),
            marks in prop::array::uniform4(any_mark()),
            by_director in any::<bool>(),
        ) {
            let config = config();
            let names = config.nodes.iter().map(|node| node.node.name.as_str());
            let mut state = NodeState::default();
            for (name, mark) in names.clone().zip(marks) {
                state.set_mark(name, mark);
            }
            let asked = if by_director {
                Observation::Director {
                    hosts: answers.iter().map(|up| Ok(host(*up))).collect(),
                    snapshot: Snapshot::default(),
                }
            } else {
                let answer = |up| if up { Ok(()) } else { Err("dead".into()) };
                let is_asked = |name| !state.mark_of(name).is_some_and(Mark::is_by_hand);
                let answers = names.clone().zip(answers);
                Observation::Answers(answers.map(|(name, up)| is_asked(name).then(|| answer(up))).collect())
            };
            let check = &config.checks.as_ref().unwrap().check;
            let failed = asked.judged(&config, &state, check, &out);
            let is_whole = failed.is_ok();
            let mut after = state.clone();
            failed.unwrap_or(Observation::Out(out.to_vec())).apply(&config, &mut after, Timestamp::now());
            for ((name, up), out) in names.zip(answers).zip(out) {
                let before = state.mark_of(name);
                if before.is_some_and(Mark::is_by_hand) {
                    assert_eq!(after.mark_of(name), before);
                } else if out {
                    assert!(after.is_down(name));
                    // A node that stays down keeps its mark.
                    assert!(before.is_none() || after.mark_of(name) == before);
                } else if is_whole {
                    assert_eq!(after.is_down(name), !up);
                } else {
                    assert_eq!(after.mark_of(name), before);
                }
            }
        }
    }
}
