//! Three nodes with a corosync each, on this machine and apart from it: they have names,
//! networks, mounts, processes and shared memory of their own, which go with them. Only root
//! can start them.
//!
//! Two bridges join them: one for corosync, one for all else. Each node has a service that
//! greets as IMAP does.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::sendmail::{run, run_well, wait_for};

/// The number of nodes.
pub const NODES: usize = 3;

/// Where a node's service is: this, a dot and its number.
pub const NETWORK: &str = "10.98.0";

/// A network that all nodes are in.
#[derive(Clone, Copy, Debug)]
pub enum Network {
    /// Corosync's.
    Ring,
    /// That of the services.
    Mail,
}

impl Network {
    const ALL: [Network; 2] = [Network::Ring, Network::Mail];

    fn name(self) -> &'static str {
        match self {
            Network::Ring => "ring",
            Network::Mail => "mail",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Network::Ring => "10.99.0",
            Network::Mail => NETWORK,
        }
    }
}

/// The three nodes. All of them end when this is dropped, or with the test's process.
pub struct Corosyncs {
    nodes: Vec<Apart>,
    switch: Apart,
    configuration: String,
}

impl Corosyncs {
    /// Starts them in a folder, and waits until they have a quorum.
    pub fn start(folder: &Path) -> Corosyncs {
        let switch = Apart::start(
            "for network in ring mail; do ip link add $network type bridge; ip link set $network up; done",
        );
        let nodes: Vec<Apart> = (1..=NODES)
            .map(|number| {
                // Corosync looks for its machine's name in its list first.
                Apart::start(&format!(
                    "hostname node{number}
                    for folder in /run /dev/shm /var/lib/corosync; do mount -t tmpfs none $folder; done
                    perl -MIO::Socket::INET -e '
                        my $service = IO::Socket::INET->new(LocalPort => 143, Listen => 99) or die;
                        while (my $client = $service->accept) {{ print $client qq{{* OK ready\\r\\n}} }}' &",
                ))
            })
            .collect();
        for (number, node) in (1..).zip(&nodes) {
            for network in Network::ALL {
                let (name, prefix) = (network.name(), network.prefix());
                switch.network(&format!(
                    "ip link add {name}{number} type veth peer name {name} netns {pid}
                    ip link set {name}{number} master {name} up",
                    pid = node.pid()
                ));
                node.shell(&format!(
                    "ip address add {prefix}.{number}/24 dev {name}; ip link set {name} up"
                ));
            }
        }
        let configuration = folder.join("corosync.conf");
        fs::write(&configuration, corosync_conf()).expect("write corosync's configuration");
        let cluster = Corosyncs {
            nodes,
            switch,
            configuration: configuration.to_str().expect("a path in UTF-8").to_owned(),
        };
        for number in 1..=NODES {
            cluster.start_corosync(number);
        }
        for number in 1..=NODES {
            cluster.wait_for_quorum(number, Some(NODES));
        }
        cluster
    }

    fn node(&self, number: usize) -> &Apart {
        &self.nodes[number - 1]
    }

    /// A command on a node.
    pub fn command(&self, number: usize, program: impl AsRef<OsStr>) -> Command {
        self.node(number).command(program)
    }

    pub fn start_corosync(&self, number: usize) {
        run_well(
            self.command(number, "corosync").args(["-c", &self.configuration]),
            b"",
        );
    }

    /// Sends a signal to a node's corosync.
    pub fn signal_corosync(&self, number: usize, signal: &str) {
        self.node(number)
            .shell(&format!("kill -{signal} $(cat /run/corosync.pid)"));
    }

    /// Takes a node off a network: it notices nothing else of that.
    pub fn cut(&self, number: usize, network: Network) {
        let name = network.name();
        self.switch
            .network(&format!("ip link set {name}{number} nomaster"));
    }

    /// Takes a node's own end of a network down, so that it reaches nobody at once.
    pub fn unplug(&self, number: usize, network: Network) {
        self.node(number)
            .shell(&format!("ip link set {} down", network.name()));
    }

    /// Undoes [`cut`](Corosyncs::cut) and [`unplug`](Corosyncs::unplug).
    pub fn join(&self, number: usize, network: Network) {
        let name = network.name();
        self.switch
            .network(&format!("ip link set {name}{number} master {name}"));
        self.node(number).shell(&format!("ip link set {name} up"));
    }

    /// Waits until a node's corosync has a quorum of so many members, or none.
    pub fn wait_for_quorum(&self, number: usize, members: Option<usize>) {
        wait_for(&format!("node{number}'s quorum of {members:?}"), || {
            let output = run(
                self.command(number, "corosync-quorumtool").args(["-s", "-i"]),
                b"",
            );
            let said = String::from_utf8_lossy(&output.stdout);
            let has = |key: &str, value: &str| {
                said.lines()
                    .any(|line| line.strip_prefix(key).is_some_and(|rest| rest.trim() == value))
            };
            match members {
                Some(members) => has("Quorate:", "Yes") && has("Nodes:", &members.to_string()),
                None => has("Quorate:", "No"),
            }
        });
    }
}

fn corosync_conf() -> String {
    let node = |number: usize| {
        let prefix = Network::Ring.prefix();
        format!(
            "  node {{\n    name: node{number}\n    nodeid: {number}\n    ring0_addr: {prefix}.{number}\n  }}\n"
        )
    };
    let nodes: String = (1..=NODES).map(node).collect();
    format!(
        "totem {{\n  version: 2\n  cluster_name: mail\n  transport: knet\n  crypto_cipher: none\n  \
         crypto_hash: none\n}}\nnodelist {{\n{nodes}}}\nquorum {{\n  provider: corosync_votequorum\n}}\n\
         logging {{\n  to_syslog: no\n  to_stderr: no\n}}\n"
    )
}

/// Of [`Apart`], beside that of processes.
const NAMESPACES: [&str; 4] = ["--net", "--mount", "--uts", "--ipc"];

/// A process that has namespaces of its own, and others in them.
struct Apart(Child);

impl Apart {
    /// One whose first process runs a script and then waits for the end of its input.
    fn start(script: &str) -> Apart {
        let script =
            format!("set -e; mount -t proc proc /proc; ip link set lo up\n{script}\necho ready; exec cat");
        let mut unshare = Command::new("unshare")
            .args(NAMESPACES)
            .args(["--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, of util-linux, runs");
        let mut line = String::new();
        BufReader::new(unshare.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("its first line");
        assert_eq!(line, "ready\n", "this test needs root");
        Apart(unshare)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let pid = self.pid();
        let mut command = Command::new("nsenter");
        command
            .args(NAMESPACES)
            .args(["--target", &pid.to_string()])
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .arg("--")
            .arg(program);
        command
    }

    fn shell(&self, script: &str) {
        run_well(self.command("sh").args(["-ec", script]), b"");
    }

    /// Changes its network, seen from where all processes can be seen.
    fn network(&self, script: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.pid().to_string()]);
        run_well(command.args(["--", "sh", "-ec", script]), b"");
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // With the first of its processes all others end.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
