//! Three real corosyncs, whose cluster is cut in two while updates probe the nodes: who has
//! no quorum changes nothing, and who has one has the others down, whatever their probes say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mailaffinity::node_state::{By, NodeState};
use support::built::{self, MAILAFFINITY};
use support::configuration::Configuration;
use support::corosync::{Corosyncs, NETWORK, NODES, Network};
use support::sendmail::{run, wait_for};
use tempfile::TempDir;

/// The nodes, each of which has a configuration and a node state of its own.
pub(crate) struct Nodes {
    pub(crate) corosyncs: Corosyncs,
    folder: TempDir,
}

impl Nodes {
    pub(crate) fn start() -> Nodes {
        let folder = TempDir::new_in(built::tmp()).unwrap();
        let nodes = Nodes {
            corosyncs: Corosyncs::start(folder.path()),
            folder,
        };
        for number in 1..=NODES {
            nodes.configure(&format!("node{number}"), "quorum = \"corosync\"\n");
            nodes.configure(&format!("node{number}-deaf"), "");
        }
        nodes
    }

    fn configure(&self, name: &str, quorum: &str) {
        let checks = "probe = \"imap\"\nfall = 1\nrise = 1\ninterval_ms = 0\n";
        self.configure_with(name, &format!("[checks]\n{checks}{quorum}"));
    }

    pub(crate) fn configure_with(&self, name: &str, lines: &str) {
        fs::create_dir_all(self.path(name)).unwrap();
        let configuration = Configuration::of_three_nodes(NETWORK)
            .with(lines)
            .set_path("node_state", self.state_file(name))
            .set_path("status", self.path(name).join("status.json"))
            .set_path("syslog", self.path(name).join("log"));
        fs::write(self.path(&format!("{name}.toml")), configuration.to_string()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn state_file(&self, name: &str) -> PathBuf {
        self.path(name).join("nodes.toml")
    }

    pub(crate) fn state(&self, name: &str) -> NodeState {
        NodeState::load(&self.state_file(name)).unwrap()
    }

    pub(crate) fn down(&self, name: &str) -> BTreeSet<String> {
        let state = self.state(name);
        let nodes = (1..=NODES).map(|number| format!("node{number}"));
        nodes.filter(|node| state.is_down(node)).collect()
    }

    pub(crate) fn command(&self, number: usize, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.corosyncs.command(number, &*MAILAFFINITY);
        command
            .arg("--config")
            .arg(self.path(&format!("{name}.toml")))
            .args(arguments);
        command
    }

    fn update(&self, number: usize) -> Output {
        run(
            &mut self.command(number, &format!("node{number}"), &["update"]),
            b"",
        )
    }

    /// An update succeeds, and then these are down.
    fn must_have_down(&self, number: usize, down: &[usize]) {
        let output = self.update(number);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(self.down(&format!("node{number}")), names(down));
    }

    /// An update changes nothing, and says so.
    fn must_not_act(&self, number: usize, why: &str) {
        let name = format!("node{number}");
        let before = fs::read(self.state_file(&name)).ok();
        let output = self.update(number);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(75), "{said}");
        assert!(said.contains(why) && said.lines().count() == 1, "{said}");
        assert_eq!(fs::read(self.state_file(&name)).ok(), before);
    }

    /// What an update makes of the probes alone, from a state in which all are up.
    fn must_have_down_if_deaf(&self, number: usize, down: &[usize]) {
        let name = format!("node{number}-deaf");
        let _ = fs::remove_file(self.state_file(&name));
        let output = run(&mut self.command(number, &name, &["update"]), b"");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(self.down(&name), names(down));
    }

    /// Cuts node3 off while all nodes run updates, until all have noticed. Nobody marks
    /// anybody but node3 down meanwhile, and node3 nobody at all.
    fn cut_off_node3(&self, cut: impl FnOnce()) {
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            for number in 1..=NODES {
                let ends = &ends;
                scope.spawn(move || {
                    let may_be_down = match number {
                        3 => names(&[]),
                        _ => names(&[3]),
                    };
                    while !ends.load(Ordering::SeqCst) {
                        let output = self.update(number);
                        let down = self.down(&format!("node{number}"));
                        assert!(
                            down.is_subset(&may_be_down),
                            "node{number} has {down:?} down: {output:?}"
                        );
                    }
                });
            }
            let _ends = OnDrop(|| ends.store(true, Ordering::SeqCst));
            cut();
            self.corosyncs.wait_for_quorum(3, None);
            for number in [1, 2] {
                self.corosyncs.wait_for_quorum(number, Some(2));
                wait_for(&format!("node3 to be down for node{number}"), || {
                    self.down(&format!("node{number}")) == names(&[3])
                });
            }
        });
        self.must_not_act(3, "corosync has no quorum here");
    }

    /// Joins node3 to the others again, who then have it up.
    fn join_node3(&self) {
        for network in [Network::Ring, Network::Mail] {
            self.corosyncs.join(3, network);
        }
        self.all_are_up();
    }

    fn all_are_up(&self) {
        for number in 1..=NODES {
            self.corosyncs.wait_for_quorum(number, Some(NODES));
        }
        for number in 1..=NODES {
            self.must_have_down(number, &[]);
        }
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn names(numbers: &[usize]) -> BTreeSet<String> {
    numbers.iter().map(|number| format!("node{number}")).collect()
}

#[test]
#[ignore = "as root"]
fn the_cut_off_change_nothing_and_are_down_as_root() {
    let nodes = Nodes::start();
    let corosyncs = &nodes.corosyncs;
    nodes.all_are_up();

    // Off corosync's network only: the probes still find all nodes up.
    nodes.cut_off_node3(|| corosyncs.cut(3, Network::Ring));
    nodes.must_have_down_if_deaf(1, &[]);
    let state = nodes.state("node1");
    let mark = state.mark_of("node3").unwrap();
    assert_eq!(
        (mark.by, mark.reason.as_str()),
        (By::Checks, "corosync does not have it among its members")
    );
    nodes.must_have_down(1, &[3]);
    assert_eq!(nodes.state("node1"), state, "it stays down since then");
    nodes.join_node3();

    // Off both networks: its probes fail at once, when corosync has noticed nothing yet.
    nodes.cut_off_node3(|| {
        corosyncs.cut(3, Network::Ring);
        corosyncs.unplug(3, Network::Mail);
    });
    nodes.must_have_down_if_deaf(3, &[1, 2]);
    nodes.join_node3();
}

#[test]
#[ignore = "as root"]
fn without_corosync_nothing_changes_but_by_hand_as_root() {
    let nodes = Nodes::start();
    let corosyncs = &nodes.corosyncs;
    nodes.all_are_up();
    corosyncs.signal_corosync(3, "KILL");
    nodes.must_not_act(3, "corosync-cmapctl -b nodelist.");
    for number in [1, 2] {
        corosyncs.wait_for_quorum(number, Some(2));
        nodes.must_have_down(number, &[3]);
    }
    // One that is held up by hand is so in spite of corosync.
    let by_hand = |arguments: &[&str]| {
        let output = run(&mut nodes.command(1, "node1", arguments), b"");
        assert!(output.status.success(), "{output:?}");
    };
    by_hand(&["up", "node3"]);
    nodes.must_have_down(1, &[]);
    by_hand(&["auto", "node3"]);
    nodes.must_have_down(1, &[3]);
    // The last one has no quorum.
    corosyncs.signal_corosync(2, "KILL");
    corosyncs.wait_for_quorum(1, None);
    nodes.must_not_act(1, "corosync has no quorum here");
    by_hand(&["down", "node2"]);
    nodes.must_not_act(1, "corosync has no quorum here");
    assert_eq!(nodes.down("node1"), names(&[2, 3]));
    by_hand(&["auto", "node2"]);
    // One that hangs is not waited for.
    corosyncs.signal_corosync(1, "STOP");
    nodes.must_not_act(1, "did not end within");
    corosyncs.signal_corosync(1, "CONT");
    for number in [2, 3] {
        corosyncs.start_corosync(number);
    }
    nodes.all_are_up();

    // A node that corosync does not know is nobody to be moved away from.
    let file = nodes.path("node1.toml");
    let text = fs::read_to_string(&file).unwrap();
    rename_node3(&file, &text);
    nodes.must_not_act(
        1,
        "corosync has no node with the name, host or address of node \"other\"",
    );
}

fn rename_node3(file: &Path, text: &str) {
    let changed = text.replace("name = \"node3\"", "name = \"other\"");
    assert_ne!(changed, text);
    fs::write(file, changed).unwrap();
}
