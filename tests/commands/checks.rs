//! Probes and commands as checks: what an update makes of the answers of nodes.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use mailaffinity::config::Config;
use mailaffinity::node_state::By;
use serde_json::Value;
use support::configuration::{Configuration, Node};
use support::site::Site;

const GOOD: &str = "* OK ready\r\n";
const BAD: &str = "* BYE not now\r\n";

/// What a node says to its first and further clients; the last goes on.
type Greetings = &'static [&'static str];

/// The service of a node. It ends when it is dropped.
struct Service {
    address: SocketAddr,
    clients: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn new(listener: TcpListener, greetings: Greetings) -> Service {
        let address = listener.local_addr().unwrap();
        let clients = Arc::new(AtomicUsize::new(0));
        let ends = Arc::new(AtomicBool::new(false));
        let (counter, is_end) = (clients.clone(), ends.clone());
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                if is_end.load(Ordering::SeqCst) {
                    return;
                }
                let nth = counter.fetch_add(1, Ordering::SeqCst);
                let greeting = greetings.get(nth).or(greetings.last()).unwrap();
                // The client may be gone.
                let _ = client.unwrap().write_all(greeting.as_bytes());
            }
        });
        Service {
            address,
            clients,
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The nodes node1 to node3 at 127.0.0.1 to 127.0.0.3, all at one port.
struct Nodes {
    site: Site,
    services: [Option<Service>; 3],
    addresses: [SocketAddr; 3],
}

impl Nodes {
    /// With other keys of `[checks]` than `probe` and `port`.
    fn new(more: &str) -> Nodes {
        let listeners = loop {
            let first = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = first.local_addr().unwrap().port();
            let second = TcpListener::bind(("127.0.0.2", port));
            let third = TcpListener::bind(("127.0.0.3", port));
            if let (Ok(second), Ok(third)) = (second, third) {
                break [first, second, third];
            }
        };
        let addresses = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap());
        let site = Site::new();
        let port = addresses[0].port();
        configure(
            &site,
            &format!("probe = \"imap\"\nport = {port}\ninterval_ms = 0\ntimeout_ms = 60000\n{more}"),
            3,
        );
        Nodes {
            site,
            services: listeners.map(|listener| Some(Service::new(listener, &[GOOD]))),
            addresses,
        }
    }

    fn address(&self, number: usize) -> SocketAddr {
        self.addresses[number - 1]
    }

    /// Nobody listens any more.
    fn stop(&mut self, number: usize) {
        self.services[number - 1] = None;
    }

    /// Greets so from now on, and counts clients anew.
    fn greet(&mut self, number: usize, greetings: Greetings) {
        self.stop(number);
        let listener = TcpListener::bind(self.address(number)).unwrap();
        self.services[number - 1] = Some(Service::new(listener, greetings));
    }

    /// How many clients the nodes had since the last call.
    fn clients(&self) -> [usize; 3] {
        self.services.each_ref().map(|service| {
            let clients = service.as_ref().map(|service| &service.clients);
            clients.map_or(0, |clients| clients.swap(0, Ordering::SeqCst))
        })
    }

    /// Updates, and returns how many clients the nodes had from it.
    #[track_caller]
    fn update(&self) -> [usize; 3] {
        self.clients();
        self.site.must(&["update"]);
        assert_map_follows(&self.site);
        self.clients()
    }
}

fn configure(site: &Site, checks: &str, nodes: usize) {
    let users: Vec<String> = (0..60).map(|number| format!("user{number}")).collect();
    fs::write(site.path("users"), users.join("\n")).unwrap();
    fs::write(site.path("access"), "").unwrap();
    let nodes = (1..=nodes).map(|number| Node::numbered(number, "127.0.0"));
    site.configure(
        Configuration::of(nodes)
            .access_map("text", site.path("access"))
            .users(site.path("users"))
            .with(&format!("[checks]\n{checks}")),
    );
}

/// The access map has users at just the nodes that are up.
#[track_caller]
fn assert_map_follows(site: &Site) {
    let config = Config::load(&site.config()).unwrap();
    let map = fs::read_to_string(site.path("access")).unwrap();
    let state = site.state();
    for node in &config.nodes {
        let has_users = map.contains(node.queue_group.as_deref().unwrap());
        assert_eq!(has_users, !state.is_down(&node.node.name), "{state:?}");
    }
}

/// The state, by whom, and why.
#[track_caller]
fn assert_node(site: &Site, name: &str, state: &str, by: Option<&str>, reason: &str) {
    let node = site.node(name);
    assert_eq!(node["state"], state, "{node}");
    assert_eq!(node["by"].as_str(), by, "{node}");
    let found = node["reason"].as_str().unwrap_or_default();
    assert!(
        found.contains(reason) && found.is_empty() == reason.is_empty(),
        "{node}"
    );
}

#[test]
fn down_after_fall_failures_and_up_after_rise_successes() {
    let mut nodes = Nodes::new("fall = 4\nrise = 3\n");
    assert_eq!(nodes.update(), [1, 1, 1]);
    assert!(
        !nodes.site.path("nodes.toml").exists(),
        "nothing is said of nodes that are up"
    );

    nodes.greet(2, &[BAD]);
    let diff = nodes.site.run(&["diff"], b"");
    assert_eq!(diff.status.code(), Some(1), "{diff:?}");
    let reason = format!(
        "{} does not greet as IMAP does: \"* BYE not now\"",
        nodes.address(2)
    );
    let line = format!("node2\tup -> down\t{}\n", reason.escape_debug());
    assert!(
        String::from_utf8_lossy(&diff.stdout).starts_with(&line),
        "{diff:?}"
    );
    // Those that answer are asked once more after that.
    assert_eq!(nodes.clients(), [2, 4, 2]);
    assert!(!nodes.site.path("nodes.toml").exists(), "diff changes nothing");

    assert_eq!(nodes.update(), [2, 4, 2]);
    assert_node(&nodes.site, "node2", "down", Some("checks"), &reason);
    let since = nodes.site.node("node2")["since"].clone();
    assert!(since.is_string());

    // Once is enough for what is known, and nothing is written.
    let seen = nodes.site.seen();
    assert_eq!(nodes.update(), [1, 1, 1]);
    nodes.stop(2);
    assert_eq!(nodes.update(), [1, 0, 1]);
    assert_eq!(nodes.site.seen(), seen);
    assert_eq!(nodes.site.node("node2")["since"], since);

    nodes.greet(2, &[GOOD]);
    assert_eq!(nodes.update(), [1, 3, 1]);
    assert_node(&nodes.site, "node2", "up", None, "");
    assert_eq!(nodes.site.node("node2")["since"], Value::Null);
    assert_eq!(nodes.update(), [1, 1, 1]);
}

#[test]
fn a_node_that_nobody_listens_at() {
    let mut nodes = Nodes::new("");
    nodes.stop(3);
    assert_eq!(nodes.update(), [2, 2, 0]);
    let reason = format!("{} accepts no connection: Connection refused", nodes.address(3));
    assert_node(&nodes.site, "node3", "down", Some("checks"), &reason);
}

#[test]
fn a_node_that_flaps_stays_as_it_was() {
    let mut nodes = Nodes::new("fall = 3\nrise = 3\n");
    for greetings in [&[BAD, GOOD][..], &[BAD, BAD, GOOD]] {
        nodes.greet(1, greetings);
        assert_eq!(nodes.update(), [greetings.len(), 1, 1]);
        assert!(!nodes.site.path("nodes.toml").exists());
    }
    nodes.greet(1, &[BAD]);
    assert_eq!(nodes.update(), [3, 2, 2]);
    let seen = nodes.site.seen();
    for greetings in [&[GOOD, BAD][..], &[GOOD, GOOD, BAD]] {
        nodes.greet(1, greetings);
        assert_eq!(nodes.update(), [greetings.len(), 1, 1]);
        assert_eq!(nodes.site.seen(), seen);
    }
}

#[test]
fn all_nodes_that_fail_at_once() {
    let mut nodes = Nodes::new("fall = 2\n");
    nodes.greet(3, &[BAD]);
    nodes.update();
    assert_node(&nodes.site, "node3", "down", Some("checks"), "* BYE");
    nodes.greet(1, &[BAD]);
    nodes.greet(2, &[BAD]);
    let own_failure = format!(
        "the probe finds no node up ({} does not greet as IMAP does: \"* BYE not now\"): that is taken for its own \
         failure, and the nodes stay as they were",
        nodes.address(1)
    );
    nodes.clients();
    nodes.site.must_not_check(&own_failure);
    assert_eq!(nodes.clients(), [4, 4, 2], "in two updates");

    // Marks by hand count all the same, in the access map too.
    nodes.site.must(&["down", "node2"]);
    nodes.site.must_not_check(&own_failure);
    let map = fs::read_to_string(nodes.site.path("access")).unwrap();
    assert!(map.contains("node1group") && !map.contains("node2group"), "{map}");

    // Also if there is nobody else to ask.
    nodes.site.must(&["down", "node2"]);
    nodes.site.must_not_check(&own_failure);
    nodes.greet(1, &[GOOD]);
    nodes.update();
    assert_node(&nodes.site, "node1", "up", None, "");
}

#[test]
fn marks_by_hand_win() {
    let mut nodes = Nodes::new("");
    nodes.site.must(&["down", "node1", "-r", "new disks"]);
    assert_eq!(
        nodes.update(),
        [0, 1, 1],
        "a node that is down by hand is not asked"
    );
    assert_node(&nodes.site, "node1", "down", Some("hand"), "new disks");

    nodes.site.must(&["up", "node2", "-r", "its firewall"]);
    nodes.greet(2, &[BAD]);
    nodes.update();
    assert_node(&nodes.site, "node2", "up", Some("hand"), "its firewall");

    nodes.site.must(&["auto", "node1", "node2"]);
    nodes.update();
    assert_node(&nodes.site, "node1", "up", None, "");
    assert_node(&nodes.site, "node2", "down", Some("checks"), "* BYE");

    // A mark of the checks becomes one by hand, and stays one.
    nodes.site.must(&["down", "node2", "-r", "mine"]);
    nodes.greet(2, &[GOOD]);
    nodes.update();
    assert_node(&nodes.site, "node2", "down", Some("hand"), "mine");
}

#[test]
fn a_node_that_the_configuration_no_longer_has() {
    let site = Site::new();
    configure(
        &site,
        "command = [\"/bin/sh\", \"-c\", \"test $0 = node1\"]\nfall = 1\n",
        3,
    );
    site.must(&["down", "node2"]);
    site.must(&["update"]);
    let marked = |site: &Site| {
        site.state()
            .marks()
            .map(|(name, _)| name.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(marked(&site), ["node2", "node3"]);
    configure(&site, "command = [\"/bin/true\"]", 1);
    site.must(&["update"]);
    assert_eq!(marked(&site), ["node2"], "what checks began, they end");
}

/// A site whose check is a script: it sees the name and address as `$1` and `$2`, and is
/// in the site's folder.
fn site_with_script(script: &str, more: &str) -> Site {
    let site = Site::new();
    fs::write(site.path("check"), script).unwrap();
    let folder = site.path("");
    let cd = format!("cd '{}' && . ./check", folder.display());
    configure(
        &site,
        &format!("command = [\"/bin/sh\", \"-c\", {cd:?}, \"check\"]\ninterval_ms = 0\n{more}"),
        3,
    );
    site
}

#[test]
fn a_command_gets_name_and_address() {
    let site = site_with_script("echo \"$@\" >>calls\n", "timeout_ms = 60000\n");
    let calls = || {
        let text = fs::read_to_string(site.path("calls")).unwrap();
        fs::remove_file(site.path("calls")).unwrap();
        let mut calls: Vec<String> = text.lines().map(str::to_owned).collect();
        calls.sort();
        calls
    };
    site.must(&["update"]);
    assert_eq!(calls(), ["node1 127.0.0.1", "node2 127.0.0.2", "node3 127.0.0.3"]);
    site.must(&["down", "node2"]);
    site.must(&["update"]);
    assert_eq!(calls(), ["node1 127.0.0.1", "node3 127.0.0.3"]);

    let text = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), text.replace("127.0.0.3", "2001:DB8::3")).unwrap();
    site.must(&["update"]);
    assert_eq!(calls(), ["node1 127.0.0.1", "node3 2001:db8::3"]);
}

#[test]
fn a_command_that_fails() {
    let site = site_with_script(
        "echo $1 >>calls\ntest $1 != node2 || { echo 'pool is gone' >&2; exit 3; }\n",
        "fall = 3\ntimeout_ms = 60000\n",
    );
    site.must(&["update"]);
    assert_map_follows(&site);
    let calls = fs::read_to_string(site.path("calls")).unwrap();
    assert_eq!(calls.lines().filter(|call| *call == "node2").count(), 3);
    assert_eq!(calls.lines().count(), 3 + 2 * 2);
    let reason = "node2 127.0.0.2 ended with exit status 3: pool is gone";
    assert_node(&site, "node2", "down", Some("checks"), reason);
    fs::write(site.path("check"), "true").unwrap();
    site.must(&["update"]);
    assert_node(&site, "node2", "up", None, "");
}

#[test]
fn a_command_that_hangs() {
    let site = site_with_script(
        "test $1 != node2 || exec sleep 1000\n",
        "fall = 1\ntimeout_ms = 5000\n",
    );
    site.must(&["update"]);
    assert_map_follows(&site);
    assert_node(
        &site,
        "node2",
        "down",
        Some("checks"),
        "node2 127.0.0.2 did not end within 5s and was stopped",
    );
}

#[test]
fn a_command_that_is_missing() {
    let site = Site::new();
    configure(&site, "command = [\"/nonexistent/check\"]\ninterval_ms = 0\n", 3);
    site.must_not_check(
        "the command finds no node up (/nonexistent/check node1 127.0.0.1 cannot be run: No such file",
    );
}

/// What others write to the node state while nodes are being asked is not undone.
#[test]
fn changes_while_nodes_are_asked() {
    let site = site_with_script(
        "if test $1 = node1 && ! test -e done; then touch done; sh ./meanwhile; fi; test $1 != node3\n",
        "fall = 1\ntimeout_ms = 60000\n",
    );
    let mailaffinity = &*support::built::MAILAFFINITY;
    let meanwhile = format!("'{mailaffinity}' --config mailaffinity.toml down node1 --reason disks\n");
    fs::write(site.path("meanwhile"), meanwhile).unwrap();
    site.must(&["update"]);
    assert_map_follows(&site);
    assert_node(&site, "node1", "down", Some("hand"), "disks");
    assert_node(&site, "node3", "down", Some("checks"), "exit status 1");

    // Another machine's update found a node down, which answered this one's first
    // question before.
    for file in ["nodes.toml", "done"] {
        fs::remove_file(site.path(file)).unwrap();
    }
    let theirs = "[node.node2]\\nstate = \"down\"\\nreason = \"theirs\"\\nby = \"checks\"\\n";
    fs::write(site.path("meanwhile"), format!("printf '{theirs}' >nodes.toml\n")).unwrap();
    site.must(&["update"]);
    assert_map_follows(&site);
    assert_node(&site, "node2", "down", Some("checks"), "theirs");
    assert_eq!(site.state().mark_of("node3").unwrap().by, By::Checks);
    site.must(&["update"]);
    assert_node(&site, "node2", "up", None, "");
}

/// Who was moved there is as all others: only a Director leaves users on a node that is dead.
#[test]
fn users_moved_to_a_node_that_dies() {
    let mut nodes = Nodes::new("fall = 1\nrise = 1\n");
    let users: Vec<String> = (0..60).map(|number| format!("user{number}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    nodes.site.must(&[&["move"], &users[..], &["node3"]].concat());
    let at_node3 = |nodes: &Nodes| {
        let map = fs::read_to_string(nodes.site.path("access")).unwrap();
        let entries = map.lines().filter(|line| line.ends_with("\tnode3group"));
        (
            entries.count(),
            nodes.site.must(&["map", "--all"]).matches("\tnode3\t").count(),
        )
    };
    nodes.site.must(&["update"]);
    assert_eq!(
        at_node3(&nodes),
        (60, 60),
        "nothing that the checks find ends a move"
    );
    nodes.stop(3);
    nodes.update();
    assert_eq!(at_node3(&nodes), (0, 0));
    nodes.greet(3, &[GOOD]);
    nodes.site.must(&["update"]);
    assert_eq!(at_node3(&nodes), (60, 60));
}

#[test]
fn a_node_state_that_cannot_be_locked() {
    let site = Site::new();
    configure(&site, "command = [\"/bin/true\"]", 3);
    // Root may write everywhere: but not into a folder for a lock.
    fs::create_dir(site.path(".nodes.toml.lock")).unwrap();
    let output = site.run(&["down", "node1"], b"");
    assert_eq!(output.status.code(), Some(74), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("mailaffinity: cannot lock /"), "{stderr}");
}

#[test]
fn a_node_held_up_is_not_asked_and_hides_no_other() {
    let mut nodes = Nodes::new("fall = 2\n");
    nodes
        .site
        .must(&["up", "node1", "node3", "--reason", "the firewall drops the probe"]);
    nodes.greet(2, &[BAD]);
    nodes.greet(1, &[BAD]);
    nodes.greet(3, &[BAD]);
    assert_eq!(nodes.update(), [0, 2, 0]);
    assert_node(&nodes.site, "node2", "down", Some("checks"), "* BYE");
    assert_node(&nodes.site, "node1", "up", Some("hand"), "the firewall");
}
