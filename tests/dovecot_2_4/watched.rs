//! The watcher on proxies and nodes: it ends sessions of users who belong elsewhere, and nobody
//! else's, and nothing waits for a doveadm that hangs.

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use serde_json::Value;
use support::built::MAILAFFINITY;
use support::configuration::{Configuration, Node, node_state};
use support::machines::{Machine, NETWORK, Network, SHARED};
use support::namespace;
use support::sendmail::{run, wait_for};

use crate::sessions::{Client, mapping, must, sessions, site, wrong_users};

const USERS: usize = 24;

fn watched() -> Configuration {
    watched_of(3)
}

fn watched_of(nodes: usize) -> Configuration {
    Configuration::of((1..=nodes).map(|number| Node::numbered(number, NETWORK)))
        .set("checks.probe", "imap")
        .set("watch.interval_ms", 100)
        .set("watch.timeout_ms", 2000)
        .set("watch.hold_seconds", 0)
        .set("watch.falls_per_hour", 1000)
}

fn start(network: &Network, name: &str, number: u8, file: &str) -> Machine {
    let machine = network.start(name, number);
    machine.start_dovecot(&site(file));
    machine
}

/// Starts a watcher.
pub(crate) fn watch(machine: &Machine) {
    watch_as(machine, "");
}

fn watch_as(machine: &Machine, options: &str) {
    let line = format!(
        "{} watch {options} </dev/null >/var/log/watch 2>&1 &",
        *MAILAFFINITY
    );
    machine.start("sh", &["-c", &line]);
    wait_for("the watcher", || status(machine)["written"].is_string());
}

/// The status of a machine's watcher.
fn status(machine: &Machine) -> Value {
    let text = fs::read_to_string(machine.path("/var/lib/mailaffinity/status.json")).unwrap_or_default();
    let mut status: Value = serde_json::from_str(&text).unwrap_or_default();
    status["watch"].take()
}

fn wait_for_problem(machine: &Machine, words: &str) {
    let is_there = || status(machine)["problems"].to_string().contains(words);
    wait_for(words, is_there);
}

fn wait_until_well(machine: &Machine) {
    wait_for("all to be well", || {
        status(machine)["problems"] == serde_json::json!([])
    });
}

/// The users who came in at a machine.
struct Entry<'m> {
    machine: &'m Machine,
    clients: Vec<Client>,
}

impl<'m> Entry<'m> {
    fn of(machine: &'m Machine, users: &[String]) -> Entry<'m> {
        Entry {
            machine,
            clients: users.iter().map(|user| Client::at(machine, user)).collect(),
        }
    }

    /// Those for whom this is true are ended, and nobody else. They come in again.
    fn must_be_ended(&mut self, is_ended: impl Fn(&str) -> bool) {
        let (ended, mut there): (Vec<Client>, Vec<Client>) =
            self.clients.drain(..).partition(|client| is_ended(&client.user));
        assert!(!ended.is_empty());
        let users: Vec<String> = ended.iter().map(|client| client.user.clone()).collect();
        ended.into_iter().for_each(Client::must_be_ended);
        there.iter_mut().for_each(Client::must_be_there);
        there.extend(users.iter().map(|user| Client::at(self.machine, user)));
        self.clients = there;
        self.must_be_right();
    }

    /// All are on their nodes, as the machine has it.
    fn must_be_right(&self) {
        wait_for("all to be right", || wrong_users(self.machine).is_empty());
        let listed = sessions(self.machine, &[]);
        let users: Vec<String> = self.clients.iter().map(|client| client.user.clone()).collect();
        for (user, node) in mapping(self.machine, &users) {
            assert!(
                listed.contains(&(user.clone(), node.clone(), node)),
                "{user}: {listed:?}"
            );
        }
    }
}

fn users() -> Vec<String> {
    (0..USERS).map(|number| format!("user{number}")).collect()
}

/// The three nodes.
fn start_nodes(network: &Network) -> [Machine; 3] {
    [1, 2, 3].map(|number| {
        start(
            network,
            &format!("node{number}"),
            number,
            "mailaffinity-node.conf",
        )
    })
}

#[test]
#[ignore = "as root"]
fn sessions_follow_the_nodes_as_root() {
    namespace::run_with_network("watched::sessions_follow_the_nodes_as_root", || {
        let network = Network::new();
        network.configure(watched());
        network.mark(&node_state(&[]));
        let nodes = start_nodes(&network);
        let proxy = start(&network, "proxy1", 11, "mailaffinity-proxy.conf");
        for machine in nodes.iter().chain([&proxy]) {
            watch(machine);
        }
        let [node1, node2, node3] = &nodes;
        let users = users();
        let home = mapping(&proxy, &users);
        let (here, there) = users.split_at(USERS / 2);
        let mut at_proxy = Entry::of(&proxy, here);
        let mut at_node = Entry::of(node1, there);
        at_proxy.must_be_right();
        let is_down = |node: &str, is_down: bool| {
            wait_for(&format!("{node}: {is_down}"), || {
                let text = fs::read_to_string(network.shared("nodes.toml")).unwrap();
                text.contains(&format!("[node.{node}]\nstate = \"down\"")) == is_down
            });
        };
        let ended = |node: &str, entries: &mut [&mut Entry<'_>]| {
            for entry in entries {
                entry.must_be_ended(|user| home[user] == node);
            }
        };

        // It hangs: those whom its proxies sent there are ended by the proxies.
        node2.hang();
        is_down("node2", true);
        ended("node2", &mut [&mut at_proxy, &mut at_node]);
        // It goes on: its users come home.
        node2.go_on();
        is_down("node2", false);
        ended("node2", &mut [&mut at_proxy, &mut at_node]);

        // By hand, and back.
        must(&proxy, &["down", "node3"]);
        ended("node3", &mut [&mut at_proxy, &mut at_node]);
        must(&proxy, &["auto", "node3"]);
        ended("node3", &mut [&mut at_proxy, &mut at_node]);

        // It is killed, with its own watcher, and started again.
        node3.run("sh", &["-c", "kill -KILL -1"]);
        is_down("node3", true);
        ended("node3", &mut [&mut at_proxy, &mut at_node]);
        // As after a boot.
        node3.run("rm", &["-r", "/run/dovecot"]);
        node3.start("dovecot", &[]);
        watch(node3);
        is_down("node3", false);
        ended("node3", &mut [&mut at_proxy, &mut at_node]);

        // Each is where the mapping says, and nowhere else.
        for node in &nodes {
            let own: BTreeMap<String, String> = sessions(node, &[])
                .into_iter()
                .map(|(user, at, _)| (user, at))
                .collect();
            for (user, home) in &home {
                let is_here = own.get(user).is_some_and(|at| at == node.name());
                assert_eq!(is_here, home == node.name(), "{user} at {}", node.name());
            }
        }
        for machine in nodes.iter().chain([&proxy]) {
            wait_until_well(machine);
            let sessions = &status(machine)["sessions"];
            assert_eq!(sessions["wrong"], 0, "{sessions}");
            assert!(sessions["seconds"].as_f64().is_some(), "{sessions}");
        }
        let last = &status(&proxy)["sessions"];
        assert!(
            last["ended"].as_u64() > Some(0) && last["ended_at"].is_string(),
            "{last}"
        );
    });
}

/// As where keepalived moves addresses: a machine has its own, and may take all others.
#[test]
#[ignore = "as root"]
fn sessions_on_a_machine_that_may_be_any_node_stay_as_root() {
    let test = "watched::sessions_on_a_machine_that_may_be_any_node_stay_as_root";
    namespace::run_with_network(test, || {
        let network = Network::new();
        network.configure(watched());
        network.mark(&node_state(&[]));
        let nodes = start_nodes(&network);
        let proxy = start(&network, "proxy1", 11, "mailaffinity-proxy.conf");
        let [_, node2, _] = &nodes;
        node2.run("sysctl", &["-w", "net.ipv4.ip_nonlocal_bind=1"]);
        let users = users();
        let mut entry = Entry::of(&proxy, &users);
        watch(node2);
        wait_for_problem(node2, "this machine has several nodes' addresses");
        assert_eq!(status(node2)["sessions"]["wrong"], 0);
        let kick = run(
            node2
                .command(&MAILAFFINITY)
                .args(["kick", "--wrong", "--dry-run"]),
            b"",
        );
        let stderr = String::from_utf8(kick.stderr).unwrap();
        assert!(
            stderr.starts_with("mailaffinity: on which node ") && kick.stdout.is_empty(),
            "{stderr}"
        );
        // Who is told which node it is knows.
        node2.run("pkill", &["-x", "mailaffinity"]);
        watch_as(node2, "--node node2");
        wait_until_well(node2);
        assert_eq!(status(node2)["sessions"]["wrong"], 0);
        entry.clients.iter_mut().for_each(Client::must_be_there);

        // A node that is none any more, though it lives, has no users.
        let home = mapping(&proxy, &users);
        watch(&proxy);
        network.configure(watched_of(2));
        entry.must_be_ended(|user| home[user] == "node3");
    });
}

/// A doveadm that is Dovecot's, and counts how often it was asked who is there.
fn counting(machine: &Machine) -> Vec<String> {
    machine.write(
        "/usr/local/bin/doveadm",
        "#!/bin/sh\ncase $* in *who*) echo >>/var/log/asked;; esac\nexec /usr/bin/doveadm \"$@\"\n",
    );
    machine.run("chmod", &["755", "/usr/local/bin/doveadm"]);
    vec!["/usr/local/bin/doveadm".into()]
}

#[test]
#[ignore = "as root"]
fn nothing_waits_for_a_doveadm_that_hangs_as_root() {
    let test = "watched::nothing_waits_for_a_doveadm_that_hangs_as_root";
    namespace::run_with_network(test, || {
        let network = Network::new();
        let _nodes = start_nodes(&network);
        let proxy = start(&network, "proxy1", 11, "mailaffinity-proxy.conf");
        let users = users();
        network.replace("users", users.join("\n") + "\n");
        network.replace("access", "Connect:192.0.2\tRELAY\n");
        network.replace("tell", format!("#!/bin/sh\necho \"$@\" >>{SHARED}/told\n"));
        proxy.run("chmod", &["755", &format!("{SHARED}/tell")]);
        let tell = toml_list(&[&[&format!("{SHARED}/tell")]]);
        let configuration = Configuration::of_three_nodes(NETWORK)
            .access_map("text", format!("{SHARED}/access"))
            .users(format!("{SHARED}/users"))
            .set("dovecot.doveadm", counting(&proxy))
            .set("watch.update_seconds", 86_400)
            .with(&format!("[watch]\non_change = {tell}\n"));
        let hour = |configuration: &Configuration| configuration.clone().set("dovecot.timeout_seconds", 3600);
        network.configure(hour(&configuration));
        network.mark(&node_state(&[]));
        let home = mapping(&proxy, &users);
        let mut entry = Entry::of(&proxy, &users);
        watch(&proxy);
        let anvil = |signal: &str| _ = proxy.run("sh", &["-c", &format!("kill -{signal} $(pgrep -x anvil)")]);
        let told = || fs::read_to_string(network.shared("told")).unwrap_or_default();
        let map_has = |group: &str| {
            let text = fs::read_to_string(network.shared("access")).unwrap();
            text.lines().any(|line| line.ends_with(group))
        };
        let asked = || {
            let text = fs::read_to_string(proxy.path("/var/log/asked")).unwrap_or_default();
            text.lines().count()
        };
        wait_for("its first look", || asked() > 0 && map_has("node2group"));

        // The map and the programs follow while it hangs. Sessions are ended when it goes on.
        anvil("STOP");
        must(&proxy, &["down", "node2"]);
        wait_for("the map", || !map_has("node2group"));
        wait_for("the program", || told() == "node2 down\n");
        entry.clients.iter_mut().for_each(Client::must_be_there);
        anvil("CONT");
        entry.must_be_ended(|user| home[user] == "node2");
        wait_until_well(&proxy);

        // One that is given up is tried again. None may be on its way that has the hour.
        let before = asked();
        network.configure(
            configuration
                .clone()
                .set("dovecot.timeout_seconds", 1)
                .set("watch.update_seconds", 1),
        );
        wait_for("looks by the new configuration", || asked() > before + 6);
        let at = mapping(&proxy, &users);
        anvil("STOP");
        must(&proxy, &["down", "node3"]);
        wait_for_problem(
            &proxy,
            "sessions: /usr/local/bin/doveadm -f tab who -1 did not end within 1s and was stopped",
        );
        wait_for("the map", || !map_has("node3group"));
        wait_for("the program", || told().ends_with("node3 down\n"));
        entry.clients.iter_mut().for_each(Client::must_be_there);
        anvil("CONT");
        entry.must_be_ended(|user| at[user] == "node3");
        wait_until_well(&proxy);

        // Where Dovecot does not run, or is not installed, there are none.
        let sessions = || status(&proxy)["sessions"].clone();
        proxy.doveadm(&["stop"]);
        network.configure(configuration.clone().set("watch.update_seconds", 1));
        let before = asked();
        wait_for("more looks", || asked() > before + 6);
        assert_eq!(sessions()["wrong"], 0);
        network.configure(
            configuration
                .clone()
                .set("dovecot.doveadm", vec!["/usr/bin/no-doveadm"]),
        );
        wait_for("no doveadm", || sessions().is_null());
        wait_until_well(&proxy);
        // And where nobody wants it, nothing is asked.
        network.configure(configuration.set("watch.end_sessions", false));
        must(&proxy, &["auto", "node2", "node3"]);
        wait_for("the program", || told().ends_with("node2 up node3 up\n"));
        assert!(sessions().is_null());
    });
}

fn toml_list(programs: &[&[&str]]) -> String {
    serde_json::to_string(programs).unwrap()
}

/// A Dovecot that has its own mind about where users belong: ended a few times, they are left.
#[test]
#[ignore = "as root"]
fn who_comes_back_each_time_is_left_as_root() {
    namespace::run_with_network("watched::who_comes_back_each_time_is_left_as_root", || {
        let network = Network::new();
        network.configure(watched().set("watch.update_seconds", 1));
        network.mark(&node_state(&[]));
        let _nodes = [1, 2, 3].map(|number| {
            let node = network.start(&format!("node{number}"), number);
            node.start_dovecot("");
            node
        });
        let proxy = network.start("proxy1", 11);
        proxy.start_dovecot(
            "passdb static {
  fields {
    proxy = y
    host = 10.24.0.1
  }
}
service imap-login {
  restart_request_count = unlimited
  client_limit = 1000
}
",
        );
        let users = users();
        let home = mapping(&proxy, &users);
        let right = users.iter().find(|user| home[*user] == "node1").unwrap();
        let wrong = users.iter().find(|user| home[*user] != "node1").unwrap();
        let mut stays = Client::at(&proxy, right);
        watch(&proxy);
        let mut times = 0;
        while times < 100 && !status(&proxy)["problems"].to_string().contains("came back there") {
            let mut client = Client::at(&proxy, wrong);
            wait_for("its end, or the problem", || {
                client.has_ended() || status(&proxy)["problems"].to_string().contains("came back there")
            });
            times += usize::from(client.has_ended());
        }
        assert_eq!(times, 8);
        let mut left = Client::at(&proxy, wrong);
        let sessions = || status(&proxy)["sessions"].clone();
        wait_for("a look", || sessions()["wrong"] == 1);
        for _ in 0..3 {
            let last = sessions()["seconds"].clone();
            wait_for("another look", || sessions()["seconds"] != last);
        }
        left.must_be_there();
        stays.must_be_there();
        // A change is a new chance.
        must(&proxy, &["down", "node3", "node2"]);
        wait_until_well(&proxy);
        left.must_be_there();
        must(&proxy, &["auto", "node3", "node2"]);
        left.must_be_ended();
    });
}

/// A login that waits has been told where it is let in: what takes the move back waits for it.
#[test]
#[ignore = "as root"]
fn a_move_is_not_taken_back_under_way_as_root() {
    namespace::run_with_network("watched::a_move_is_not_taken_back_under_way_as_root", || {
        let network = Network::new();
        network.configure(watched());
        network.mark(&node_state(&[]));
        let nodes = start_nodes(&network);
        for machine in &nodes {
            watch(machine);
        }
        let [node1, node2, node3] = &nodes;
        let users = users();
        let before = mapping(node1, &users);
        must(node1, &["down", "node2"]);
        let then = mapping(node1, &users);
        let is_moving = |user: &&String| before[*user] == "node2" && then[*user] == "node3";
        let user = users.iter().find(is_moving).expect("somebody moves there");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| Client::at(node3, user));
            must(node1, &["auto", "node2"]);
            let mut back = Client::at(node2, user);
            let is_ended =
                |line: &str| line.contains(&format!("imap({user})")) && line.contains("User kicked");
            assert!(node3.log().lines().any(is_ended), "{}", node3.log());
            waiting.join().unwrap().must_be_ended();
            back.must_be_there();
        });
    });
}
