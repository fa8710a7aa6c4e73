//! Whatever an administrator does to a live Director, one update later the access map,
//! the commands and the library, which PHP asks, have all users where the Director does.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mailaffinity::access_map::AccessMap;
use mailaffinity::config::Config;
use mailaffinity::mapping::UsernameHash;
use mailaffinity::node_state::{By, NodeState};
use mailaffinity::site;
use mailaffinity_cli::director;
use support::configuration::{Configuration, Node};
use support::director::{Director, MailHosts, Settings};
use support::site::Site;

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// All names are in small letters, as keys of the map are.
fn users() -> Vec<String> {
    let domain = |number| if number % 5 == 0 { "@example.org" } else { "" };
    (0..300)
        .map(|number| format!("user{number}{}", domain(number)))
        .collect()
}

/// A Director, and a site that asks it.
struct Peers {
    director: Director,
    site: Site,
    /// As in a PHP process that goes on.
    followed: site::Site,
    users: Vec<String>,
}

/// The node `node1` is 127.0.0.1, in a tag after `@`.
fn node(node: &str) -> Node {
    let (name, tag) = node.split_once('@').unwrap_or((node, ""));
    let (name, address) = name.split_once('=').unwrap_or((name, name));
    let number = address.trim_start_matches("node");
    Node::new(name, &format!("127.0.0.{number}"))
        .tag(tag)
        .queue_group(&format!("{name}group"))
}

impl Peers {
    fn new(format: &str, tag: &str, nodes: &str, settings: Settings<'_>) -> Peers {
        let site = Site::new();
        let users = users();
        fs::write(site.path("users"), users.join("\n")).unwrap();
        fs::write(site.path("access"), "Connect:192.0.2\tRELAY\n").unwrap();
        let peers = Peers {
            director: Director::start(settings),
            followed: site::Site::new(site.config()),
            site,
            users,
        };
        peers.configure(format, tag, nodes);
        peers
    }

    fn configure(&self, format: &str, tag: &str, nodes: &str) {
        self.site.configure(
            Configuration::of(nodes.split(' ').map(node))
                .set("tag", tag)
                .access_map(format, self.site.path("access"))
                .users(self.site.path("users"))
                .set_path("checks.director", self.director.admin_socket())
                .set("checks.timeout_ms", 60_000),
        );
    }

    fn must(&mut self, command: &[&str]) {
        self.director.must(command);
    }

    /// Where the Director has the users.
    fn theirs(&mut self, tag: &str) -> Vec<Option<IpAddr>> {
        self.director.hosts_of(&self.users, tag)
    }

    /// Where the access map has them, as it is read by the library and, if it is one of
    /// makemap, by makemap.
    fn mapped(&self) -> Vec<Option<IpAddr>> {
        let config = self.config();
        let map = &config.access_map.as_ref().unwrap().map;
        let address_of = |queue_group: &[u8]| {
            let node = config
                .nodes
                .index_of_queue_group(queue_group)
                .expect("a known group");
            config.nodes[node].node.address
        };
        let read: Vec<_> = self
            .users
            .iter()
            .map(|user| {
                let entry = map.queue_group(user.as_bytes()).expect("a map")?;
                Some(address_of(&entry.value))
            })
            .collect();
        if map.is_built() {
            let listed = listed_by_makemap(map);
            let key = |user: &String| {
                let at = if user.contains('@') { "" } else { "@" };
                format!("qgrp:{user}{at}")
            };
            let theirs: Vec<_> = self
                .users
                .iter()
                .map(|user| Some(address_of(listed.get(&key(user))?.as_bytes())))
                .collect();
            assert_eq!(read, theirs, "makemap reads the same");
        }
        read
    }

    /// Where `mailaffinity map` has them.
    fn printed(&self, tag: &str) -> Vec<Option<IpAddr>> {
        let output = self
            .site
            .run(&["map", "--tag", tag], self.users.join("\n").as_bytes());
        let stdout = String::from_utf8(output.stdout).unwrap();
        let printed: Vec<_> = stdout
            .lines()
            .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
                [_user, "-", "-", "-"] => None,
                // Nodes have no other host here.
                [_user, _node, host, _queue_group] => Some(address(host)),
                _ => panic!("{line:?}"),
            })
            .collect();
        assert_eq!(printed.len(), self.users.len(), "{tag:?}");
        let status = if printed.contains(&None) { 75 } else { 0 };
        assert_eq!(output.status.code(), Some(status));
        printed
    }

    /// Where PHP connects to for them.
    fn connected(&mut self) -> Vec<Option<IpAddr>> {
        assert_eq!(self.followed.refresh(), [""; 0]);
        let in_force = self.followed.in_force().unwrap();
        let node_of = |user: &String| {
            let node = in_force.node_of(user.as_bytes(), |notice| panic!("{user}: {notice}"));
            node.ok().map(|node| node.node.address)
        };
        self.users.iter().map(node_of).collect()
    }

    /// Updates once, after which all have the users where the Director does, and once
    /// more, which changes nothing. Or the Director has nobody up, and nothing changes.
    #[track_caller]
    fn update_and_agree(&mut self, history: &str) {
        let config = self.config();
        let hosts = self.director.host_list();
        let usable = |tag: Option<&str>| {
            hosts
                .iter()
                .any(|host| host.up && host.vhost_count > 0 && tag.is_none_or(|tag| host.tag == tag))
        };
        if !usable(None) {
            return self.site.must_not_check("finds no node up");
        }
        if !usable(Some(&config.tag)) {
            let map = |site: &Site| {
                let mut seen = site.seen();
                seen.remove("nodes.toml");
                seen
            };
            let before = map(&self.site);
            let output = self.site.run(&["update"], b"");
            assert_eq!(output.status.code(), Some(75), "{output:?}\n{history}");
            assert_eq!(map(&self.site), before, "{history}");
            return;
        }
        self.site.must(&["update"]);
        let seen = self.site.seen();
        let theirs = self.theirs(&config.tag);
        self.assert_same("access map", &self.mapped(), &theirs, history);
        let connected = self.connected();
        self.assert_same("library", &connected, &theirs, history);
        for tag in ["", "east", "new"] {
            let theirs = self.theirs(tag);
            self.assert_same(
                &format!("map --tag {tag:?}"),
                &self.printed(tag),
                &theirs,
                history,
            );
        }
        self.site.must(&["update"]);
        assert_eq!(self.site.must(&["diff"]), "", "{history}");
        assert!(
            self.site.seen() == seen,
            "a second update writes something\n{history}"
        );
    }

    #[track_caller]
    fn assert_same(&self, what: &str, ours: &[Option<IpAddr>], theirs: &[Option<IpAddr>], history: &str) {
        let both = ours.iter().zip(theirs);
        let other = self.users.iter().zip(both).find(|(_, (a, b))| a != b);
        if let Some((user, (ours, theirs))) = other {
            panic!(
                "{what}: {user} is at {ours:?}, the Director says {theirs:?}\n{:#?}\n{history}",
                self.site.state()
            );
        }
    }

    fn config(&self) -> Config {
        Config::load(&self.site.config()).unwrap()
    }

    fn count_at(&self, host: &str) -> usize {
        let host = Some(address(host));
        self.mapped().iter().filter(|mapped| **mapped == host).count()
    }

    /// A user of a host, and the place in the list.
    fn user_at(&mut self, host: &str) -> (String, usize) {
        let theirs = self.theirs("");
        let place = theirs.iter().position(|at| *at == Some(address(host))).unwrap();
        (self.users[place].clone(), place)
    }
}

fn listed_by_makemap(map: &AccessMap) -> BTreeMap<String, String> {
    let output = Command::new("/usr/sbin/makemap")
        .args(["-u", "hash"])
        .arg(map.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn simple(mail_servers: &str) -> Settings<'_> {
    Settings {
        mail_servers,
        // So that a user who was moved does not have to wait.
        more: &[("director_user_kick_delay", "0")],
        ..Settings::default()
    }
}

const THREE: &str = "node1 node2 node3";
const THREE_HOSTS: &str = "127.0.0.1-127.0.0.3";

fn three() -> Peers {
    Peers::new("text", "", THREE, simple(THREE_HOSTS))
}

#[test]
fn random_changes_to_a_hash_map() {
    for seed in 1..=3 {
        random_changes("hash", seed);
    }
}

#[test]
fn random_changes_to_a_text_map() {
    for seed in 4..=6 {
        random_changes("text", seed);
    }
}

fn random_changes(format: &str, seed: u64) {
    let mut random = seed;
    let mut below = |end: usize| {
        random = u64::wrapping_mul(random, 6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % end
    };
    let mail_hosts = MailHosts::new();
    let tag = ["", "east"][below(2)];
    // Two tags of one address, and a node that the Director does not have at first.
    let nodes = "node1 node2 node3 node4 node5@east node6@east node60=node6 node7@east node8";
    let mut peers = Peers::new(
        format,
        tag,
        nodes,
        Settings {
            imap: true,
            imap_port: mail_hosts.port(),
            ..simple("127.0.0.1-127.0.0.4 127.0.0.5-127.0.0.7@east")
        },
    );
    let mut history = vec![format!("seed {seed}, tag {tag:?}")];
    peers.update_and_agree(&history[0]);
    for _ in 0..12 {
        for _ in 0..=below(5) {
            let host = format!("127.0.0.{}", 1 + below(8));
            let user = peers.users[below(300)].clone();
            let count = ["0", "1", "100", "700"][below(4)];
            let command = match below(13) {
                0 | 1 => vec!["HOST-DOWN", &host],
                2 | 3 => vec!["HOST-UP", &host],
                4 | 5 => vec!["HOST-SET", &host, count],
                6 => vec!["HOST-FLUSH", &host],
                7 | 8 => vec!["HOST-REMOVE", &host],
                9 | 10 => {
                    // A login gets the host of the tag "".
                    let line = peers.director.command(&["USER-LOOKUP", &user, ""]).unwrap();
                    if !line.starts_with("\t0\t\t") {
                        let host = peers.director.log_in_to(&user, &mail_hosts);
                        history.push(format!("{user} logs in to {host}"));
                    }
                    continue;
                }
                _ => vec!["USER-MOVE", &user, &host],
            };
            let mut answer = peers.director.command(&command).unwrap();
            // The Director may end when a host is removed while users who were moved are
            // still kicked from it.
            let begun = Instant::now();
            while command[0] == "USER-MOVE" && !["OK", "NOTFOUND"].contains(&answer.as_str()) {
                assert!(begun.elapsed() < DEADLINE, "{answer}");
                thread::sleep(Duration::from_millis(1));
                answer = peers.director.command(&command).unwrap();
            }
            history.push(format!("{command:?} {answer}"));
            if command[0] == "HOST-REMOVE" && below(3) > 0 {
                let tagged = format!("{host}{}", ["", "@east", "@new"][below(3)]);
                let answer = peers.director.command(&["HOST-SET", &tagged]).unwrap();
                history.push(format!("HOST-SET {tagged} {answer}"));
            }
        }
        history.push("update".into());
        peers.update_and_agree(&history.join("\n"));
    }
}

#[test]
fn a_moved_user_returns_when_the_move_expires() {
    let mut peers = Peers::new(
        "hash",
        "",
        THREE,
        Settings {
            more: &[
                ("director_user_kick_delay", "0"),
                ("director_user_expire", "10 secs"),
            ],
            ..simple(THREE_HOSTS)
        },
    );
    peers.update_and_agree("");
    let (user, place) = peers.user_at("127.0.0.1");
    let hash = UsernameHash::default().hash(user.as_bytes()).unwrap();
    let (home, away) = (Some(address("127.0.0.1")), Some(address("127.0.0.2")));
    let socket = peers.director.admin_socket();
    let is_in_force = || {
        let snapshot = director::snapshot(&socket, DEADLINE).unwrap();
        snapshot.users_in_force("", Timestamp::now()).contains_key(&hash)
    };
    let begun = Instant::now();
    loop {
        // A user who is still kicked is moved already.
        peers
            .director
            .command(&["USER-MOVE", &user, "127.0.0.2"])
            .unwrap();
        peers.site.must(&["update"]);
        let mapped = peers.mapped()[place];
        if is_in_force() {
            assert_eq!(mapped, away);
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "the move never lasts");
    }
    while is_in_force() {
        assert!(begun.elapsed() < DEADLINE, "the move never ends");
        thread::sleep(Duration::from_millis(50));
    }
    peers.update_and_agree("the move is over");
    assert_eq!(peers.mapped()[place], home);
    assert!(
        peers
            .site
            .state()
            .nodes
            .values()
            .all(|entry| entry.moved.is_empty())
    );
}

#[test]
fn a_host_that_the_configuration_does_not_have() {
    let mut peers = three();
    peers.update_and_agree("");
    peers.must(&["HOST-DOWN", "127.0.0.1"]);
    peers.must(&["HOST-SET", "127.0.0.9@ea\u{1b}st"]);
    let unknown =
        "the Director has the host 127.0.0.9@ea\\u{1b}st, which no [[node]] of the configuration has";
    peers.site.must_not_check(unknown);
    let diff = peers.site.run(&["diff"], b"");
    assert_eq!(diff.status.code(), Some(75), "{diff:?}");

    // It does not matter while nobody is sent there.
    peers.must(&["HOST-DOWN", "127.0.0.9"]);
    peers.update_and_agree("down");
    peers.must(&["HOST-UP", "127.0.0.9"]);
    peers.site.must_not_check(unknown);
    peers.must(&["HOST-SET", "127.0.0.9", "0"]);
    peers.update_and_agree("without vhosts");
    peers.must(&["USER-MOVE", "user1", "127.0.0.9"]);
    peers.site.must_not_check(unknown);
    peers.must(&["HOST-REMOVE", "127.0.0.9"]);
    peers.update_and_agree("removed");

    // One address with two tags, one of which the configuration has.
    let mut peers = Peers::new(
        "text",
        "",
        THREE,
        simple("127.0.0.1@east 127.0.0.1 127.0.0.2 127.0.0.3"),
    );
    peers
        .site
        .must_not_check("the Director has the host 127.0.0.1@east, which no");
    peers.configure("text", "", "node1 node2 node3 node4=node1@east");
    peers.update_and_agree("both");
}

#[test]
fn a_director_that_does_not_answer() {
    let mut peers = three();
    peers.update_and_agree("");
    let socket = peers.director.admin_socket();
    let Peers { director, site, .. } = peers;
    drop(director);
    let words = format!("{}: cannot connect to the Director: ", socket.display());
    site.must_not_check(&words);

    let silent = site.path("s");
    let _listener = UnixListener::bind(&silent).unwrap();
    let text = fs::read_to_string(site.config()).unwrap();
    let text = text
        .replace(socket.to_str().unwrap(), silent.to_str().unwrap())
        .replace("60000", "50");
    fs::write(site.config(), text).unwrap();
    site.must_not_check("the Director did not answer within 50ms");
}

#[test]
fn all_hosts_down() {
    let mut peers = three();
    peers.update_and_agree("");
    peers.must(&["USER-MOVE", "user1", "127.0.0.1"]);
    for host in ["127.0.0.1", "127.0.0.2"] {
        peers.must(&["HOST-DOWN", host]);
    }
    peers.must(&["HOST-SET", "127.0.0.3", "0"]);
    peers
        .site
        .must_not_check("finds no node up (it has 3 hosts, all down or without vhosts)");
    for host in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        peers.must(&["HOST-REMOVE", host]);
    }
    peers.site.must_not_check("finds no node up (it has 0 hosts");
    peers.must(&["HOST-SET", "127.0.0.2"]);
    peers.update_and_agree("one is back");
    assert_eq!(
        peers.site.node("node1")["reason"],
        "the Director does not have it"
    );
}

#[test]
fn users_moved_to_a_host_that_goes_down() {
    let mut peers = three();
    peers.update_and_agree("");
    let moved = ["user1", "user2", "user3", "user4"];
    for user in moved {
        peers.must(&["USER-MOVE", user, "127.0.0.3"]);
    }
    peers.update_and_agree("moved");
    let begun = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    peers.must(&["HOST-DOWN", "127.0.0.3"]);
    peers.update_and_agree("down");
    assert_eq!(peers.count_at("127.0.0.3"), moved.len());
    let node = peers.site.node("node3");
    assert_eq!(node["state"], "down");
    assert_eq!(node["by"], "director");
    assert_eq!(node["reason"], "the Director has it down");
    let since: Timestamp = node["since"].as_str().unwrap().parse().unwrap();
    assert!(begun <= since && since <= Timestamp::now(), "{node}");
    assert_eq!(
        peers.site.state().mark_of("node3").unwrap().since,
        Some(since),
        "the Director says since when"
    );

    peers.must(&["HOST-FLUSH", "127.0.0.3"]);
    peers.update_and_agree("flushed");
    assert_eq!(peers.count_at("127.0.0.3"), 0);
    peers.must(&["HOST-UP", "127.0.0.3"]);
    peers.update_and_agree("up");
    assert!(peers.count_at("127.0.0.3") > moved.len());
}

#[test]
fn marks_by_hand_win() {
    let mut peers = three();
    let (user, _) = peers.user_at("127.0.0.1");
    peers.must(&["USER-MOVE", &user, "127.0.0.2"]);
    peers.update_and_agree("moved");
    let all_up = peers.theirs("");
    let not_at = |at: &[Option<IpAddr>], host| at.iter().all(|at| at.is_some() && *at != Some(address(host)));

    // At once, also those who were moved there; the access map follows.
    peers.site.must(&["down", "node2", "--reason", "new disks"]);
    assert!(not_at(&peers.printed(""), "127.0.0.2"));
    assert_eq!(peers.followed.refresh(), [""; 0]);
    let in_force = peers.followed.in_force().unwrap();
    let node = in_force.computed_node(user.as_bytes(), "").unwrap();
    assert_ne!(node.node.name, "node2");
    assert!(!not_at(&peers.mapped(), "127.0.0.2"));
    for _ in 0..2 {
        peers.site.must(&["update"]);
        let mapped = peers.mapped();
        assert!(not_at(&mapped, "127.0.0.2"));
        assert_eq!(peers.connected(), mapped);
        let stay = |(theirs, ours): (&Option<IpAddr>, &Option<IpAddr>)| {
            *theirs == Some(address("127.0.0.2")) || theirs == ours
        };
        assert!(all_up.iter().zip(&mapped).all(stay), "only its users leave");
        assert_eq!(peers.site.state().mark_of("node2").unwrap().by, By::Hand);
        // What the Director says of it does not count.
        peers.must(&["HOST-DOWN", "127.0.0.2"]);
        peers.must(&["HOST-UP", "127.0.0.2"]);
    }
    assert_eq!(peers.site.node("node2")["reason"], "new disks");
    peers.site.must(&["auto", "node2"]);
    assert_eq!(peers.printed(""), all_up, "the moved user, too, is back at once");
    peers.update_and_agree("auto");

    // Held up, whether it is marked before or after the Director has it down.
    for by_command in [true, false] {
        if by_command {
            peers.site.must(&["up", "node3"]);
        }
        peers.must(&["HOST-DOWN", "127.0.0.3"]);
        peers.site.must(&["update"]);
        if !by_command {
            assert_eq!(peers.count_at("127.0.0.3"), 0);
            let state = fs::read_to_string(peers.site.path("nodes.toml")).unwrap();
            let held_up = state
                .replace("\"down\"", "\"up\"")
                .replace("\"director\"", "\"hand\"");
            fs::write(peers.site.path("nodes.toml"), held_up).unwrap();
            peers.site.must(&["update"]);
        }
        assert_eq!(peers.mapped(), all_up);
        let node = peers.site.node("node3");
        assert_eq!(
            (node["state"].as_str(), node["by"].as_str()),
            (Some("up"), Some("hand"))
        );
        peers.site.must(&["auto", "node3"]);
        peers.update_and_agree("auto");
        assert_eq!(peers.count_at("127.0.0.3"), 0);
        peers.must(&["HOST-UP", "127.0.0.3"]);
        peers.update_and_agree("up");
    }
}

/// The ring has the points of a host that is listed twice while either is up.
#[test]
fn a_host_that_the_director_has_twice() {
    let mut peers = Peers::new(
        "text",
        "",
        THREE,
        simple("127.0.0.1 127.0.0.1 127.0.0.2 127.0.0.3"),
    );
    peers.update_and_agree("");
    for command in [
        &["HOST-DOWN", "127.0.0.1"][..],
        &["HOST-SET", "127.0.0.1", "7"],
        &["HOST-UP", "127.0.0.1"],
    ] {
        peers.must(command);
        peers.update_and_agree(&format!("{command:?}"));
        assert!(peers.count_at("127.0.0.1") > 20, "{command:?}");
    }
}

/// A host comes back with another tag, and its users with it.
#[test]
fn a_host_with_another_tag() {
    let mut peers = three();
    peers.must(&["HOST-REMOVE", "127.0.0.2"]);
    peers.must(&["HOST-SET", "127.0.0.2@new", "40"]);
    peers.must(&["HOST-SET", "127.0.0.3", "101"]);
    let output = peers.site.run(&["diff"], b"");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "node2 vhost_count\t100 -> 40\n",
        "node2 tag\t\"\" -> \"new\"\n",
        "node3 vhost_count\t100 -> 101\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    peers.update_and_agree("");
    assert_eq!(peers.count_at("127.0.0.2"), 0);
    let node = peers.site.node("node2");
    assert_eq!(node["state"], "up");
    assert_eq!(node["tag"], "new");
    assert_eq!(node["vhost_count"], 40);
    peers.must(&["HOST-REMOVE", "127.0.0.2"]);
    peers.must(&["HOST-SET", "127.0.0.2"]);
    peers.must(&["HOST-SET", "127.0.0.3", "100"]);
    peers.update_and_agree("");
    assert_eq!(peers.site.state(), NodeState::default());
}
