//! Whose sessions are on which node, as a proxy and a node that users come in at have it, and
//! which of them `mailaffinity kick` ends, while nodes go down and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

use serde_json::Value;
use support::built::MAILAFFINITY;
use support::clients::{Connection, Protocol, log_in};
use support::configuration::{Configuration, node_state};
use support::machines::{Machine, NETWORK, Network, PASSWORD};
use support::namespace;
use support::sendmail::{run, run_well, wait_for};

const USERS: usize = 24;

pub(crate) fn site(file: &str) -> String {
    format!(
        "passdb static {{
  result_success = continue-ok
}}
login_trusted_networks = {NETWORK}.0/24
!include /usr/share/mailaffinity/{file}
login_proxy_timeout = 60s
"
    )
}

/// Somebody who has logged in at a machine.
pub(crate) struct Client {
    pub(crate) user: String,
    connection: Connection,
}

impl Client {
    pub(crate) fn at(machine: &Machine, user: &str) -> Client {
        let connection = log_in(Protocol::Imap, machine.address(), user, PASSWORD);
        Client {
            user: user.to_owned(),
            connection: connection.unwrap_or_else(|error| panic!("{user} at {}: {error}", machine.name())),
        }
    }

    pub(crate) fn must_be_there(&mut self) {
        self.connection.send("b NOOP\r\n").unwrap();
        let line = self
            .connection
            .line()
            .unwrap_or_else(|error| panic!("{}: {error}", self.user));
        assert!(line.starts_with("b OK"), "{}: {line}", self.user);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        let noop = self.connection.send("b NOOP\r\n");
        let line = noop.and_then(|()| self.connection.line());
        !line.is_ok_and(|line| line.starts_with("b OK"))
    }

    pub(crate) fn must_be_ended(mut self) {
        while let Ok(line) = self.connection.line() {
            assert!(line.starts_with("* BYE"), "{}: {line}", self.user);
        }
    }
}

fn mailaffinity(machine: &Machine, arguments: &[&str]) -> Output {
    run(machine.command(&MAILAFFINITY).args(arguments), b"")
}

pub(crate) fn must(machine: &Machine, arguments: &[&str]) -> String {
    let output = run_well(machine.command(&MAILAFFINITY).args(arguments), b"");
    assert_eq!(output.stderr, b"");
    String::from_utf8(output.stdout).unwrap()
}

/// The sessions of a machine: user, node, and the right node.
pub(crate) fn sessions(machine: &Machine, arguments: &[&str]) -> BTreeSet<(String, String, String)> {
    let text = must(machine, &[&["sessions", "--json"], arguments].concat());
    let session = |line: &str| {
        let session: Value = serde_json::from_str(line).unwrap();
        assert_eq!(session["service"], "imap");
        assert_eq!(
            session["wrong"],
            session["node"] != session["right_node"],
            "{line}"
        );
        let text = |key: &str| session[key].as_str().unwrap_or("-").to_owned();
        (text("user"), text("node"), text("right_node"))
    };
    text.lines().map(session).collect()
}

pub(crate) fn wrong_users(machine: &Machine) -> BTreeSet<String> {
    let wrong = sessions(machine, &["--wrong"]);
    wrong.into_iter().map(|(user, ..)| user).collect()
}

/// The node of each user, by the mapping.
pub(crate) fn mapping(machine: &Machine, users: &[String]) -> BTreeMap<String, String> {
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let text = must(machine, &[&["map"], &users[..]].concat());
    let node = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        (fields.next().unwrap(), fields.next().unwrap())
    };
    text.lines().map(node).collect()
}

/// Ends the sessions on wrong nodes: these users', and nobody else's. They come in again,
/// and then all are right.
fn kick_wrong(entry: &Machine, clients: &mut Vec<Client>, wrong: &BTreeSet<String>) {
    assert!(!wrong.is_empty());
    assert_eq!(&wrong_users(entry), wrong, "{}", entry.name());
    assert_eq!(must(entry, &["kick", "--wrong"]), "");
    let (ended, mut there): (Vec<Client>, Vec<Client>) =
        clients.drain(..).partition(|client| wrong.contains(&client.user));
    assert_eq!(ended.len(), wrong.len());
    there.iter_mut().for_each(Client::must_be_there);
    ended.into_iter().for_each(Client::must_be_ended);
    there.extend(wrong.iter().map(|user| Client::at(entry, user)));
    *clients = there;
    wait_for("all to be right", || wrong_users(entry).is_empty());
    let right = mapping(
        entry,
        &clients
            .iter()
            .map(|client| client.user.clone())
            .collect::<Vec<_>>(),
    );
    let listed = sessions(entry, &[]);
    for (user, node) in right {
        assert!(
            listed.contains(&(user.clone(), node.clone(), node)),
            "{user}: {listed:?}"
        );
    }
}

#[test]
#[ignore = "as root"]
fn on_wrong_nodes_are_ended_and_no_others_as_root() {
    let test = "sessions::on_wrong_nodes_are_ended_and_no_others_as_root";
    namespace::run_with_network(test, || {
        let network = Network::new();
        network.configure(Configuration::of_three_nodes(NETWORK));
        network.mark(&node_state(&[]));
        let start = |name: &str, number: u8, file: &str| {
            let machine = network.start(name, number);
            machine.start_dovecot(&site(file));
            machine
        };
        let nodes = [1, 2, 3].map(|number| start(&format!("node{number}"), number, "mailaffinity-node.conf"));
        let [node, ..] = &nodes;
        let proxy = &start("proxy1", 11, "mailaffinity-proxy.conf");

        let users: Vec<String> = (0..USERS).map(|number| format!("user{number}")).collect();
        let at = mapping(proxy, &users);
        let (here, there) = users.split_at(USERS / 2);
        let come = |entry: &Machine, users: &[String]| -> Vec<Client> {
            users.iter().map(|user| Client::at(entry, user)).collect()
        };
        let mut by_proxy = come(proxy, here);
        let mut by_node = come(node, there);
        let all_of = |users: &[String]| -> BTreeSet<(String, String, String)> {
            users
                .iter()
                .map(|user| (user.clone(), at[user].clone(), at[user].clone()))
                .collect()
        };
        assert_eq!(sessions(proxy, &[]), all_of(here));
        // A node has those too that are sent there.
        let sent = here.iter().filter(|user| at[*user] == "node1").cloned();
        let on_node: Vec<String> = there.iter().cloned().chain(sent).collect();
        assert_eq!(sessions(node, &[]), all_of(&on_node));
        assert_eq!(must(node, &["kick", "--wrong", "--dry-run"]), "");
        let of = |users: &[String], node: &str| -> BTreeSet<String> {
            users.iter().filter(|user| at[*user] == node).cloned().collect()
        };

        // A node goes down: one command for each entry, and first none.
        network.mark(&node_state(&["node2"]));
        let count = of(here, "node2").len();
        let dry = must(proxy, &["kick", "--wrong", "--dry-run"]);
        assert!(
            dry.starts_with(&format!("{count}\t/usr/bin/doveadm kick -")),
            "{dry}"
        );
        assert_eq!(dry.lines().count(), 1, "{dry}");
        by_proxy.iter_mut().for_each(Client::must_be_there);
        kick_wrong(proxy, &mut by_proxy, &of(here, "node2"));
        kick_wrong(node, &mut by_node, &of(there, "node2"));

        // It comes back, and somebody is there already, so that users are ended one by one.
        network.mark(&node_state(&[]));
        let back = of(here, "node2");
        let others: Vec<String> = (0..99).map(|number| format!("other{number}")).collect();
        let (early, _) = mapping(proxy, &others)
            .into_iter()
            .find(|(_, node)| node == "node2")
            .unwrap();
        let mut early = Client::at(proxy, &early);
        let dry = must(proxy, &["kick", "--wrong", "--dry-run"]);
        assert_eq!(dry.lines().count(), back.len(), "{dry}");
        kick_wrong(proxy, &mut by_proxy, &back);
        early.must_be_there();
        kick_wrong(node, &mut by_node, &of(there, "node2"));

        // The node at which users come in goes down: those who are there go elsewhere.
        network.mark(&node_state(&["node1"]));
        let sent = of(here, "node1");
        kick_wrong(proxy, &mut by_proxy, &sent);
        wait_for("the proxy's to be gone", || {
            wrong_users(node) == of(there, "node1")
        });
        kick_wrong(node, &mut by_node, &of(there, "node1"));
        network.mark(&node_state(&[]));
        kick_wrong(proxy, &mut by_proxy, &sent);

        // By name, as it is typed, and by node.
        let only = |clients: &mut Vec<Client>, chosen: &dyn Fn(&str) -> bool, arguments: &[&str]| {
            assert_eq!(must(proxy, &[&["kick"], arguments].concat()), "");
            let (ended, mut there): (Vec<Client>, Vec<Client>) =
                clients.drain(..).partition(|client| chosen(&client.user));
            assert!(!ended.is_empty());
            ended.into_iter().for_each(Client::must_be_ended);
            there.iter_mut().for_each(Client::must_be_there);
            *clients = there;
        };
        only(
            &mut by_proxy,
            &|user| user == "user1" || user == "user2",
            &["USER1", "user2", "nobody"],
        );
        only(&mut by_proxy, &|user| at[user] == "node3", &["--node", "node3"]);

        for (arguments, status, said) in [
            (&["kick"][..], 64, "required arguments were not provided"),
            (
                &["kick", "--node", "node9"],
                64,
                "there is no node \"node9\"; there are node1, node2, node3",
            ),
            (&["kick", "--wrong", "--node", "node1"], 64, "cannot be used with"),
        ] {
            let output = mailaffinity(proxy, arguments);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(status), "{stderr}");
            assert!(stderr.contains(said), "{stderr}");
        }
        proxy.doveadm(&["stop"]);
        for command in ["sessions", "kick"] {
            let output = mailaffinity(proxy, &[command, "--wrong"]);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(69), "{stderr}");
            assert!(
                stderr.starts_with("mailaffinity: /usr/bin/doveadm -f tab who -1 ended with"),
                "{stderr}"
            );
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    });
}
