//! The same three corosyncs with a watcher beside each: the watchers of those who have a quorum
//! have the others down, soon if most of them still answer, and whoever has none changes
//! nothing, whatever its probes say.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;

use mailaffinity::node_state::By;
use serde_json::Value;
use support::corosync::{NETWORK, NODES, Network};
use support::director::{Director, Settings};
use support::sendmail::{run_well, wait_for};

use crate::quorum::Nodes;

const WATCH: &str = "[watch]\ninterval_ms = 100\nhold_seconds = 0\nfalls_per_hour = 1000\n";
const PROBES: &str = "[checks]\nprobe = \"imap\"\ntimeout_ms = 2000\nquorum = \"corosync\"\n";
const NO_QUORUM: &str = "corosync has no quorum here";
const OUT: &str = "corosync does not have it among its members";

/// The nodes, and what the log of each watcher says of them.
struct Watched {
    nodes: Nodes,
    logs: Vec<Arc<Mutex<Vec<String>>>>,
}

impl Watched {
    fn start(checks: &str) -> Watched {
        let nodes = Nodes::start();
        let logs = (1..=NODES).map(|number| watch(&nodes, number, checks)).collect();
        let watched = Watched { nodes, logs };
        for number in 1..=NODES {
            wait_for("the watcher", || watched.problems(number).is_some());
            watched.wait_for_down(number, &[]);
        }
        watched
    }

    fn down(&self, number: usize) -> Vec<usize> {
        let down = self.nodes.down(&format!("node{number}"));
        (1..=NODES)
            .filter(|node| down.contains(&format!("node{node}")))
            .collect()
    }

    /// Waits until a node's watcher has these down, and nothing to complain of.
    fn wait_for_down(&self, number: usize, down: &[usize]) {
        wait_for(&format!("node{number} to have {down:?} down"), || {
            self.down(number) == down && self.problems(number).is_some_and(|problems| problems.is_empty())
        });
    }

    fn wait_for_problem(&self, number: usize, problem: &str) {
        wait_for(problem, || {
            self.problems(number)
                .is_some_and(|problems| problems.contains(problem))
        });
    }

    fn problems(&self, number: usize) -> Option<String> {
        let text = fs::read_to_string(self.nodes.path(&format!("node{number}/status.json"))).ok()?;
        let status: Value = serde_json::from_str(&text).ok()?;
        let problems = status["watch"]["problems"].as_array()?;
        let problems: Vec<&str> = problems.iter().filter_map(Value::as_str).collect();
        Some(problems.join("\n"))
    }

    fn reason(&self, number: usize, down: usize) -> String {
        let state = self.nodes.state(&format!("node{number}"));
        let mark = state.mark_of(&format!("node{down}")).unwrap();
        assert_eq!(mark.by, By::Checks);
        mark.reason.clone()
    }

    fn by_hand(&self, number: usize, arguments: &[&str]) {
        run_well(
            &mut self.nodes.command(number, &format!("node{number}"), arguments),
            b"",
        );
    }

    /// To the others, node3 went down and came up; to itself, nobody did.
    #[track_caller]
    fn must_have_turned_node3(&self) {
        for number in [1, 2] {
            let mut turned = Vec::new();
            // The log follows the node state.
            wait_for("the log", || {
                turned.extend(self.turned(number));
                turned.len() >= 2
            });
            assert_eq!(turned, ["node3 is down", "node3 is up"], "node{number}");
        }
        assert_eq!(self.turned(3), [""; 0]);
    }

    /// Which nodes turned, in order, as a watcher's log has it, since it was looked at last.
    fn turned(&self, number: usize) -> Vec<String> {
        let mut lines = self.logs[number - 1].lock().unwrap();
        let turns = lines.drain(..).filter_map(|line| {
            let (_, turn) = line.trim_end().split_once(": node ")?;
            Some(turn.split(": ").next()?.to_owned())
        });
        turns.collect()
    }

    fn join_node3(&self) {
        for network in [Network::Ring, Network::Mail] {
            self.nodes.corosyncs.join(3, network);
        }
        for number in 1..=NODES {
            self.wait_for_down(number, &[]);
        }
    }
}

/// Starts a watcher on a node, with which it ends.
#[expect(clippy::zombie_processes)]
fn watch(nodes: &Nodes, number: usize, checks: &str) -> Arc<Mutex<Vec<String>>> {
    let name = format!("node{number}");
    nodes.configure_with(&name, &format!("{checks}{WATCH}"));
    let log = UnixDatagram::bind(nodes.path(&name).join("log")).unwrap();
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let written = lines.clone();
    thread::spawn(move || {
        let mut line = [0; 2000];
        while let Ok(length) = log.recv(&mut line) {
            let line = String::from_utf8_lossy(&line[..length]).into_owned();
            written.lock().unwrap().push(line);
        }
    });
    let mut watcher = nodes.command(number, &name, &["watch"]);
    watcher.stdin(Stdio::null()).spawn().unwrap();
    lines
}

#[test]
#[ignore = "as root"]
fn the_cut_off_change_nothing_while_the_others_act_as_root() {
    let watched = Watched::start(PROBES);
    let corosyncs = &watched.nodes.corosyncs;

    // Off both networks: all that it asks fails at once, when corosync has noticed nothing yet.
    corosyncs.cut(3, Network::Ring);
    corosyncs.unplug(3, Network::Mail);
    for number in [1, 2] {
        watched.wait_for_down(number, &[3]);
    }
    watched.wait_for_problem(3, NO_QUORUM);
    watched.join_node3();
    watched.must_have_turned_node3();

    // Off the others' mail only: they need not wait for corosync, which still has it.
    corosyncs.cut(3, Network::Mail);
    for number in [1, 2] {
        watched.wait_for_down(number, &[3]);
        assert!(watched.reason(number, 3).contains("10.98.0.3"));
    }
    // Then off corosync's ring, before or after it may believe its probes.
    corosyncs.cut(3, Network::Ring);
    watched.wait_for_problem(3, NO_QUORUM);
    watched.join_node3();
    for number in 1..=NODES {
        watched.turned(number);
    }

    // Off corosync's ring only: it is down, though it answers, until it is a member again.
    corosyncs.cut(3, Network::Ring);
    for number in [1, 2] {
        watched.wait_for_down(number, &[3]);
        assert_eq!(watched.reason(number, 3), OUT);
    }
    watched.wait_for_problem(3, NO_QUORUM);
    // People may act all the same.
    watched.by_hand(3, &["down", "node1"]);
    wait_for("the mark", || watched.turned(3) == ["node1 is down"]);
    watched.by_hand(3, &["auto", "node1"]);
    wait_for("the end of it", || watched.turned(3) == ["node1 is up"]);
    watched.join_node3();
    watched.must_have_turned_node3();
}

#[test]
#[ignore = "as root"]
fn without_corosync_watchers_change_nothing_as_root() {
    let watched = Watched::start(PROBES);
    let corosyncs = &watched.nodes.corosyncs;
    corosyncs.signal_corosync(3, "KILL");
    watched.wait_for_problem(3, "quorum: corosync-");
    for number in [1, 2] {
        watched.wait_for_down(number, &[3]);
        assert_eq!(watched.reason(number, 3), OUT);
    }
    // One that is held up by hand is so in spite of corosync.
    watched.by_hand(1, &["up", "node3"]);
    watched.wait_for_down(1, &[]);
    watched.by_hand(1, &["auto", "node3"]);
    watched.wait_for_down(1, &[3]);
    // The last one has no quorum, and nobody believes its probes.
    corosyncs.signal_corosync(2, "KILL");
    watched.wait_for_problem(1, NO_QUORUM);
    corosyncs.unplug(2, Network::Mail);
    watched.by_hand(1, &["down", "node1"]);
    wait_for("the mark", || watched.down(1) == [1, 3]);
    watched.by_hand(1, &["auto", "node1"]);
    wait_for("the end of it", || watched.down(1) == [3]);
    corosyncs.join(2, Network::Mail);
    let turned = watched.turned(1);
    assert!(!turned.contains(&"node2 is down".into()), "{turned:?}");
    for number in [2, 3] {
        corosyncs.start_corosync(number);
    }
    watched.join_node3();
    // One that hangs is not heard.
    corosyncs.signal_corosync(1, "STOP");
    watched.wait_for_problem(1, "did not end within");
    corosyncs.unplug(2, Network::Mail);
    watched.wait_for_down(3, &[1, 2]);
    assert_eq!(watched.reason(3, 1), OUT);
    assert_eq!(watched.down(1), [0; 0]);
    corosyncs.join(2, Network::Mail);
    corosyncs.signal_corosync(1, "CONT");
    watched.join_node3();
}

#[test]
#[ignore = "as root"]
fn a_director_is_believed_where_there_is_a_quorum_as_root() {
    let mut director = Director::start(Settings {
        mail_servers: "10.98.0.1 10.98.0.2 10.98.0.3",
        ..Settings::default()
    });
    let socket = director.admin_socket();
    let watched = Watched::start(&format!(
        "[checks]\ndirector = {socket:?}\ntimeout_ms = 2000\nquorum = \"corosync\"\n"
    ));
    let host = |number: usize| format!("{NETWORK}.{number}");
    director.must(&["HOST-DOWN", &host(2)]);
    for number in 1..=NODES {
        watched.wait_for_down(number, &[2]);
    }
    director.must(&["HOST-UP", &host(2)]);
    watched.nodes.corosyncs.cut(3, Network::Ring);
    for number in [1, 2] {
        watched.wait_for_down(number, &[3]);
        assert_eq!(watched.reason(number, 3), OUT);
    }
    watched.wait_for_problem(3, NO_QUORUM);
    let before = watched.down(3);
    director.must(&["HOST-DOWN", &host(1)]);
    // No more than half of the members are left: that waits for corosync.
    for number in [1, 2] {
        watched.wait_for_down(number, &[1, 3]);
    }
    assert_eq!(watched.down(3), before);
    director.must(&["HOST-UP", &host(1)]);
    watched.join_node3();
    let turns = watched.turned(3);
    assert!(!turns.contains(&"node1 is down".into()), "{turns:?}");
}
