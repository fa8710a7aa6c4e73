//! The whole: a cluster of three nodes with real sendmails and a live Director, in which
//! the commands, PHP and the C library do their work while nodes die and come back.
//!
//! All nodes are on this machine, so that each has a configuration file of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::os::unix::fs::{chown, lchown, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use mailaffinity::site::Site;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use support::configuration::{Configuration, Node};
use support::director::{Director, Lookup, Settings};
use support::maps;
use support::php;
use support::sendmail::{Cluster, DOMAIN, program, run, run_well, wait_for};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
const USERS: usize = 200;
use support::built::MAILAFFINITY;

/// Distinct also in one case, and neither ordered by name nor by node.
fn users() -> Vec<String> {
    (0..USERS)
        .map(|number| match number % 4 {
            0 => format!("user{number}"),
            1 => format!("First.Last{number}"),
            2 => format!("MIXED-case_{number}"),
            _ => format!("a.b.c{number}x"),
        })
        .collect()
}

/// What the tests have otherwise than each other in the configuration: lines of tables.
#[derive(Clone, Copy, Default)]
struct Tables<'t> {
    checks: &'t str,
    sendmail: &'t str,
    /// After `after_seconds = 0`.
    drain: &'t str,
    /// After the queue paths.
    path_suffix: &'t str,
}

/// A configuration file for the node whose sendmail this is.
fn configuration(folder: &Path, sendmail: &[String], tables: Tables<'_>) -> String {
    let path = |name: &str| folder.join(name);
    let nodes = (1..).zip(NODES).map(|(number, node)| {
        let queue = format!("{}{}", path("queue").join(node).display(), tables.path_suffix);
        Node::numbered(number, "10.0.0")
            .queue_group(&Cluster::group(node))
            .queue_path(queue)
            .host(&host(node))
    });
    Configuration::of(nodes)
        .set_path("node_state", path("nodes.toml"))
        .set_path("status", path("status.json"))
        .set_path("syslog", path("no-log"))
        .access_map(maps::kind(), maps::named(path("access")))
        .set_path("access_map.makemap", program(&["makemap"], "sendmail-bin"))
        .users(path("users"))
        .sendmail(sendmail.to_vec())
        .set("drain.after_seconds", 0)
        .with(tables.checks)
        .with(&format!("[sendmail]\n{}", tables.sendmail))
        .with(&format!("[drain]\n{}", tables.drain))
        .to_string()
}

fn host(node: &str) -> String {
    format!("{node}.example.org")
}

/// Three nodes that take mail, and what was sent and must be delivered.
struct Mail {
    cluster: Cluster,
    /// Message identifier and user of each message.
    sent: BTreeSet<(String, String)>,
}

impl Mail {
    /// sendmail's queue groups are those that `mailaffinity queue-groups` prints.
    fn start(tables: Tables<'_>) -> Mail {
        let cluster = Cluster::with_queue_groups(&NODES, |folder, node| {
            let config = folder.join("queue-groups.toml");
            fs::write(&config, configuration(folder, &["/sendmail".into()], tables)).unwrap();
            let mut queue_groups = command(&config, &["queue-groups", "--node", node]);
            String::from_utf8(run_well(&mut queue_groups, b"").stdout).unwrap()
        });
        let mut mail = Mail {
            cluster,
            sent: BTreeSet::new(),
        };
        fs::write(mail.path("access"), "Connect:192.0.2.1\tREJECT\n").unwrap();
        fs::write(mail.path("users"), users().join("\n")).unwrap();
        for node in NODES {
            fs::write(
                mail.config(node),
                configuration(mail.cluster.folder(), &mail.cluster.words(node), tables),
            )
            .unwrap();
            mail.cluster.start(node, &[]);
        }
        mail
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cluster.folder().join(name)
    }

    fn config(&self, node: &str) -> PathBuf {
        self.path(&format!("{node}.toml"))
    }

    /// A node's configuration, but for one piece.
    fn config_with(&self, node: &str, (old, new): (&str, &str)) -> PathBuf {
        let text = fs::read_to_string(self.config(node)).unwrap();
        assert!(text.contains(old), "{text}");
        let config = self.path(&format!("{node}-other.toml"));
        fs::write(&config, text.replace(old, new)).unwrap();
        config
    }

    /// Runs `mailaffinity` on node1; it must say nothing and succeed.
    fn must(&self, arguments: &[&str]) {
        assert_silent(&run(&mut command(&self.config("node1"), arguments), b""));
    }

    fn update(&self) {
        self.must(&["update"]);
    }

    /// The result of a command as monitoring finds it.
    fn status(&self, command: &str) -> Value {
        let text = fs::read_to_string(self.path("status.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()[command].clone()
    }

    /// Sends each of these users a message of its own, and all of them one together, to
    /// the nodes in turn and with the address spelled in several ways.
    fn send(&mut self, users: &[String], round: &str, nodes: &[&str]) {
        let numbered: Vec<(usize, &String)> = users.iter().enumerate().collect();
        let cluster = &self.cluster;
        thread::scope(|scope| {
            for (number, node) in nodes.iter().enumerate() {
                let part = numbered.iter().skip(number).step_by(nodes.len());
                scope.spawn(move || {
                    for (number, user) in part {
                        cluster.send(node, &[spelled(user, *number)], &format!("{round}-{number}"));
                    }
                });
            }
        });
        let together = format!("{round}-all");
        cluster.send(nodes[0], users, &together);
        for (number, user) in numbered {
            self.sent
                .insert((format!("{round}-{number}"), user.to_lowercase()));
            self.sent.insert((together.clone(), user.to_lowercase()));
        }
    }

    /// The messages in a node's queue, as pairs of message identifier and user.
    fn queued(&self, group: &str) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for message in self.cluster.queued(group) {
            for recipient in &message.recipients {
                assert!(
                    found.insert((message.message_id.clone(), user_of(recipient))),
                    "twice: {message:?}"
                );
            }
        }
        found
    }

    /// The messages of a round are in the queue of the node that each user has.
    #[track_caller]
    fn assert_round_queued(&self, round: &str, nodes: &BTreeMap<String, &'static str>) {
        let of_round = |pair: &&(String, String)| pair.0.starts_with(&format!("{round}-"));
        for node in NODES {
            let queued = self.queued(&Cluster::group(node));
            let queued: BTreeSet<_> = queued.iter().filter(of_round).collect();
            let expected = self.sent.iter().filter(of_round);
            let expected: BTreeSet<_> = expected.filter(|(_, user)| nodes[user] == node).collect();
            assert_eq!(queued, expected, "{node}");
        }
        assert_eq!(self.cluster.queued("default"), []);
    }

    /// All that was sent was delivered, each message once, and nothing waits.
    #[track_caller]
    fn assert_all_delivered_once(&self) {
        for group in NODES
            .map(Cluster::group)
            .iter()
            .map(String::as_str)
            .chain(["default"])
        {
            assert_eq!(self.cluster.queued(group), []);
        }
        let delivered = self.cluster.delivered();
        let once: BTreeSet<(String, String)> = delivered
            .iter()
            .map(|delivered| (delivered.message_id.clone(), user_of(&delivered.recipient)))
            .collect();
        assert_eq!(delivered.len(), once.len(), "something was delivered twice");
        assert_eq!(once, self.sent);
    }

    fn drain(&self, node: &str, arguments: &[&str]) -> Command {
        self.drain_with(&self.config(node), node, arguments)
    }

    fn drain_with(&self, config: &Path, node: &str, arguments: &[&str]) -> Command {
        command(
            config,
            &[&["drain", "--node", node, "--json"], arguments].concat(),
        )
    }

    /// What a drain that must succeed did about node2.
    #[track_caller]
    fn drained(&self, node: &str, arguments: &[&str]) -> Value {
        let output = run(&mut self.drain(node, arguments), b"");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        row(&output)
    }

    /// Who is to run node2's queue, on which all agree, and who is not.
    #[track_caller]
    fn drainer_and_other(&self) -> (&'static str, &'static str) {
        let run_by = |node| self.drained(node, &["--dry-run"])["run_by"].clone();
        assert_eq!(run_by("node1"), run_by("node3"));
        match run_by("node1").as_str() {
            Some("node1") => ("node1", "node3"),
            Some("node3") => ("node3", "node1"),
            other => panic!("{other:?}"),
        }
    }
}

fn command(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(&*MAILAFFINITY);
    command.arg("--config").arg(config).args(arguments);
    command
}

/// One of the ways to write a user's address.
fn spelled(user: &str, number: usize) -> String {
    match number % 5 {
        0 => format!("{user}+box{number}"),
        1 => format!("{}@Users.Example.ORG", user.to_uppercase()),
        2 => user.to_lowercase(),
        _ => user.to_owned(),
    }
}

/// Whether the address of a round's message has a detail.
fn has_detail(message_id: &str) -> bool {
    let number = message_id.rsplit('-').next().unwrap();
    number.parse::<usize>().is_ok_and(|number| number % 5 == 0)
}

/// The user of an address, in lower case.
fn user_of(recipient: &str) -> String {
    let lower = recipient.to_lowercase();
    let local = lower.strip_suffix(&format!("@{DOMAIN}")).unwrap_or(&lower);
    local.split('+').next().unwrap().to_owned()
}

#[track_caller]
fn assert_silent(output: &Output) {
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
}

/// The only line that a command printed, which is about node2.
#[track_caller]
fn row(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 1, "{output:?}");
    let row: Value = serde_json::from_str(rows[0]).unwrap();
    assert_eq!(row["node"], "node2", "{row}");
    row
}

#[track_caller]
fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

// The mapping, asked for in every way.

/// `demo/map.c`, with the library that Cargo built for this test.
static C_PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = support::built::tmp().join("cluster");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let test = env::current_exe().unwrap();
    let mut places = test.ancestors().skip(1).take(2);
    let library = places
        .find_map(|place| Some(place.join("libmailaffinity.so")).filter(|library| library.exists()))
        .expect("the library beside the test");
    for name in ["libmailaffinity.so", "libmailaffinity.so.0"] {
        symlink(&library, folder.join(name)).unwrap();
    }
    let program = folder.join("map");
    run_well(
        Command::new("cc")
            .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-Iinclude", "-o"])
            .arg(&program)
            .arg("demo/map.c")
            .arg(format!("-L{}", folder.display()))
            .arg("-lmailaffinity")
            .arg(format!("-Wl,-rpath,{}", folder.display())),
        b"",
    );
    program
});

/// The node of each user, in lower case: the Director's answer, with which sendmail, PHP,
/// the C library and the command must agree. None of them asks the Director for it.
#[track_caller]
fn agreed_nodes(mail: &Mail, director: &mut Director) -> BTreeMap<String, &'static str> {
    let users = users();
    let asked: Vec<(&[u8], &str)> = users.iter().map(|user| (user.as_bytes(), "")).collect();
    let nodes: Vec<&str> = director
        .lookups(&asked)
        .unwrap()
        .iter()
        .map(|lookup| match lookup {
            Lookup::Host(host) if host == "10.0.0.1" => "node1",
            Lookup::Host(host) if host == "10.0.0.2" => "node2",
            Lookup::Host(host) if host == "10.0.0.3" => "node3",
            other => panic!("{other:?}"),
        })
        .collect();

    let groups: Vec<Option<String>> = nodes.iter().map(|node| Some(Cluster::group(node))).collect();
    assert_eq!(mail.cluster.rule_set_groups(&users), groups, "sendmail");

    let hosts: Vec<String> = nodes.iter().map(|node| host(node)).collect();
    let input = users.join("\n");
    let lines = |command: &mut Command| -> Vec<String> {
        let output = run_well(command, input.as_bytes());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    let config = mail.config("node3");
    assert_eq!(
        lines(Command::new(&*C_PROGRAM).arg(&config)),
        hosts,
        "the C library"
    );

    let log = mail.path("php.log");
    let mut php = php::php();
    for (name, value) in [
        ("extension", &*php::MODULE),
        ("mailaffinity.config", &config),
        ("error_log", &log),
    ] {
        php.arg("-d").arg(format!("{name}={}", value.display()));
    }
    assert_eq!(lines(php.arg("demo/map.php")), hosts, "PHP");
    // It found each user in the access map.
    assert_eq!(fs::read_to_string(&log).unwrap_or_default(), "");

    let rows = lines(&mut command(&config, &["map", "--all"]));
    let by_command: Vec<&str> = rows.iter().map(|row| row.split('\t').nth(1).unwrap()).collect();
    assert_eq!(by_command, nodes, "the command");

    let lower = users.iter().map(|user| user.to_lowercase());
    lower.zip(nodes).collect()
}

// Nodes that die and come back.

/// By whom a node is said to be down.
#[derive(Clone, Copy)]
enum DownBy {
    Director,
    Hand,
}

fn three_hosts() -> Director {
    Director::start(Settings {
        mail_servers: "10.0.0.1 10.0.0.2 10.0.0.3",
        ..Settings::default()
    })
}

impl DownBy {
    fn checks(self, director: &Director) -> String {
        match self {
            DownBy::Director => format!("[checks]\ndirector = {:?}", director.admin_socket()),
            DownBy::Hand => String::new(),
        }
    }

    /// Lets node2 be down, or up again, for the Director and all others.
    fn set(self, mail: &Mail, director: &mut Director, down: bool) {
        director.must(&[if down { "HOST-DOWN" } else { "HOST-UP" }, "10.0.0.2"]);
        if let DownBy::Hand = self {
            mail.must(&[if down { "down" } else { "auto" }, "node2"]);
        }
        mail.update();
    }
}

#[test]
fn mail_follows_a_director_that_has_a_node_down() {
    mail_follows_the_nodes(DownBy::Director);
}

#[test]
fn mail_follows_a_node_marked_down_by_hand() {
    mail_follows_the_nodes(DownBy::Hand);
}

fn mail_follows_the_nodes(down_by: DownBy) {
    let mut director = three_hosts();
    let checks = down_by.checks(&director);
    // Few enough for a drain of node2's messages to be ended early.
    let mut mail = Mail::start(Tables {
        checks: &checks,
        drain: "runners = 2",
        ..Tables::default()
    });
    let users = users();

    // All nodes are up.
    mail.update();
    let source = fs::read(mail.path("access")).unwrap();
    let entries = map_entries(&mail);
    assert!(source.starts_with(b"Connect:192.0.2.1\tREJECT\n"));
    let all_up = agreed_nodes(&mail, &mut director);
    mail.send(&users, "all-up", &NODES);
    mail.assert_round_queued("all-up", &all_up);
    let of_node2 = all_up.values().filter(|node| **node == "node2").count();
    assert!(of_node2 > 40, "more than two sendmails are told of at once");
    mail.must(&["drain", "--node", "node1"]);
    assert_eq!(mail.status("drain")["queues"], json!([]));

    // node2 dies.
    mail.cluster.kill("node2");
    down_by.set(&mail, &mut director, true);
    assert_eq!(mail.status("update")["moved"], of_node2);
    assert_eq!(mail.status("update")["nodes_down"], json!(["node2"]));
    let without_node2 = agreed_nodes(&mail, &mut director);
    for (user, node) in &all_up {
        let now = without_node2[user];
        assert!(
            if *node == "node2" {
                now != "node2"
            } else {
                now == *node
            },
            "{user}"
        );
    }
    // By daemons that were there before.
    mail.send(&users, "node2-down", &["node1", "node3"]);
    mail.assert_round_queued("node2-down", &without_node2);

    // One of the others delivers its mail: each message of a user, and one to all.
    let (drainer, other) = mail.drainer_and_other();
    assert_eq!(mail.drained(drainer, &["--dry-run"])["waiting"], of_node2 + 1);
    assert_eq!(mail.cluster.delivered(), []);
    let drains = [drainer, other].map(|node| spawn(&mut mail.drain(node, &[])));
    let outputs = drains.map(|drain| drain.wait_with_output().unwrap());
    for output in &outputs {
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    let done = json!({
        "node": "node2", "before": of_node2 + 1, "after": 0, "ended_early": null, "problems": [],
    });
    assert_eq!(row(&outputs[0]), done);
    assert_eq!(row(&outputs[1]), json!({"node": "node2", "run_by": drainer}));
    assert_eq!(mail.cluster.queued("node2group"), []);
    let delivered = mail.cluster.delivered();
    // sendmail asks the map again about addresses with a detail, and moves their messages
    // to the queue of the user's present node.
    let moved: BTreeSet<(String, String)> = NODES
        .iter()
        .flat_map(|node| {
            mail.queued(&Cluster::group(node))
                .into_iter()
                .map(move |pair| (node, pair))
        })
        .filter(|(_, (message, user))| message.starts_with("all-up-") && all_up[user] == "node2")
        .map(|(node, pair)| {
            assert_eq!(*node, without_node2[&pair.1], "{pair:?}");
            pair
        })
        .collect();
    assert!(moved.iter().all(|(message, _)| has_detail(message)), "{moved:?}");
    assert_eq!(delivered.len() + moved.len(), 2 * of_node2);
    assert!(delivered.iter().all(|delivered| delivered.node == drainer));

    // More comes to its queue, as from a node that had not heard of its death, and it
    // comes back while that is drained.
    down_by.set(&mail, &mut director, false);
    mail.send(&users, "late", &["node1", "node3"]);
    down_by.set(&mail, &mut director, true);
    mail.cluster.hold(drainer, true);
    let drain = spawn(&mut mail.drain(drainer, &[]));
    mail.cluster.wait_until_held(drainer);
    down_by.set(&mail, &mut director, false);
    mail.cluster.start("node2", &[]);
    assert_silent(&mail.cluster.run_queue("node2", "node2group"));
    mail.cluster.hold(drainer, false);
    let output = drain.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let ended = json!({
        "node": "node2", "before": of_node2 + 1, "after": 0, "ended_early": "the nodes changed", "problems": [],
    });
    assert_eq!(row(&output), ended);
    assert_eq!(mail.status("drain")["queues"], json!([ended]));
    let delivered = mail.cluster.delivered();
    assert!(delivered.iter().any(|delivered| delivered.node == "node2"));

    // All is as it was.
    assert_eq!(fs::read(mail.path("access")).unwrap(), source);
    assert_eq!(map_entries(&mail), entries);
    assert_eq!(agreed_nodes(&mail, &mut director), all_up);
    mail.send(&users, "back", &NODES);
    mail.assert_round_queued("back", &all_up);
    // Twice: a run may move messages to a queue that was run before.
    for node in NODES.iter().chain(&NODES) {
        assert_silent(&mail.cluster.run_queue(node, &Cluster::group(node)));
    }
    mail.assert_all_delivered_once();
}

/// What the map has, as makemap prints it. Its file is never the same twice: Berkeley DB
/// gives each a number of its own.
fn map_entries(mail: &Mail) -> String {
    let mut makemap = Command::new(program(&["makemap"], "sendmail-bin"));
    let output = run_well(makemap.args(["-u", maps::kind()]).arg(mail.path("access")), b"");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().count() > USERS, "{text}");
    text
}

#[test]
fn while_a_director_has_a_node_come_and_go_each_user_has_a_right_one() {
    each_user_has_a_right_node_meanwhile(DownBy::Director);
}

#[test]
fn while_a_node_comes_and_goes_by_hand_each_user_has_a_right_one() {
    each_user_has_a_right_node_meanwhile(DownBy::Hand);
}

fn each_user_has_a_right_node_meanwhile(down_by: DownBy) {
    let mut director = three_hosts();
    let checks = down_by.checks(&director);
    let mut mail = Mail::start(Tables {
        checks: &checks,
        ..Tables::default()
    });
    down_by.set(&mail, &mut director, true);
    let without_node2 = agreed_nodes(&mail, &mut director);
    down_by.set(&mail, &mut director, false);
    let all_up = agreed_nodes(&mail, &mut director);
    let right = |user: &str, node: &str| node == all_up[user] || node == without_node2[user];

    let over = AtomicBool::new(false);
    let (rounds, messages) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let names: Vec<&String> = all_up.keys().collect();
    thread::scope(|scope| {
        // However this ends.
        let _end = OnDrop(|| over.store(true, Ordering::Relaxed));
        scope.spawn(|| {
            let mut site = Site::new(mail.config("node1"));
            while !over.load(Ordering::Relaxed) {
                for user in &names {
                    assert_eq!(site.refresh(), [""; 0]);
                    let mut notices = Vec::new();
                    let node = site
                        .in_force()
                        .unwrap()
                        .node_of(user.as_bytes(), |n| notices.push(n));
                    assert!(
                        node.as_ref().is_ok_and(|node| right(user, &node.node.name)),
                        "{user}: {node:?}"
                    );
                    let only_behind =
                        |notice: &String| notice.contains("is down, but a user is mapped to it");
                    assert!(notices.iter().all(only_behind), "{notices:?}");
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            for (number, user) in names.iter().cycle().enumerate() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let node = NODES[number % NODES.len()];
                let message = format!("{number}-{user}");
                // sendmail does so where the map is replaced while it opens it, and
                // then takes no map for the right one.
                wait_for("the message to be taken", || {
                    let refusal = mail.cluster.try_send(node, &[user], &message).err();
                    assert!(refusal.iter().all(|reply| reply.starts_with("45")), "{refusal:?}");
                    refusal.is_none()
                });
                messages.fetch_add(1, Ordering::Relaxed);
            }
        });
        for turn in 0..20 {
            down_by.set(&mail, &mut director, turn % 2 == 0);
            for count in [&rounds, &messages] {
                let before = count.load(Ordering::Relaxed);
                wait_for("an answer", || count.load(Ordering::Relaxed) > before);
            }
        }
    });
    let mut found = 0;
    for node in NODES {
        for (message, user) in mail.queued(&Cluster::group(node)) {
            assert!(right(&user, node), "{user}: {node}");
            mail.sent.insert((message, user));
            found += 1;
        }
    }
    assert_eq!(found, messages.into_inner());
    for node in NODES {
        assert_silent(&mail.cluster.run_queue(node, &Cluster::group(node)));
    }
    mail.assert_all_delivered_once();
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

// Drains.

/// A cluster whose node2 is dead and has messages, to one user each. Returns those users
/// too.
fn with_dead_node2(tables: Tables<'_>, count: usize) -> (Mail, Vec<String>) {
    let mut mail = Mail::start(tables);
    mail.update();
    let output = run_well(&mut command(&mail.config("node1"), &["map", "--all"]), b"");
    let text = String::from_utf8(output.stdout).unwrap();
    let of_node2 = text.lines().filter(|line| line.contains("\tnode2\t"));
    let users: Vec<String> = of_node2
        .map(|line| line.split('\t').next().unwrap().to_lowercase())
        .take(count)
        .collect();
    assert_eq!(users.len(), count);
    for user in &users {
        mail.cluster.send("node1", &[user], &format!("to-{user}"));
        mail.sent.insert((format!("to-{user}"), user.clone()));
    }
    mail.cluster.kill("node2");
    mail.must(&["down", "--reason", "test", "node2"]);
    mail.update();
    (mail, users)
}

#[test]
fn of_drains_at_once_one_delivers_each_message_once() {
    let (mail, users) = with_dead_node2(Tables::default(), 50);
    let (drainer, other) = mail.drainer_and_other();
    for _ in 0..3 {
        let drains = [drainer, other, drainer, other].map(|node| (node, spawn(&mut mail.drain(node, &[]))));
        let mut well = 0;
        for (node, drain) in drains {
            let output = drain.wait_with_output().unwrap();
            match output.status.code() {
                Some(0) if node == other => assert_eq!(row(&output)["run_by"], drainer),
                Some(0) if row(&output)["before"].is_u64() => well += 1,
                Some(0) => assert!(row(&output)["reason"].as_str().unwrap().contains("another drain")),
                _ => panic!("{output:?}"),
            }
        }
        assert_ne!(well, 0);
        assert_eq!(mail.cluster.delivered().len(), users.len());
    }
    mail.assert_all_delivered_once();
    assert!(
        mail.cluster
            .delivered()
            .iter()
            .all(|delivered| delivered.node == drainer)
    );
}

#[test]
fn what_fails_for_now_is_delivered_by_a_later_drain() {
    // Without f, sendmail's exit status is that of the last delivery.
    for sendmail in ["", "flags = \"\"\nrunners = 1"] {
        let tables = Tables {
            sendmail,
            ..Tables::default()
        };
        let (mail, users) = with_dead_node2(tables, 6);
        let (drainer, _) = mail.drainer_and_other();
        for user in &users[3..] {
            mail.cluster.fail(user, true);
        }
        let result = |before: usize, after: usize| json!({"node": "node2", "before": before, "after": after, "ended_early": null, "problems": []});
        assert_eq!(mail.drained(drainer, &[]), result(6, 3));
        assert_eq!(mail.drained(drainer, &[]), result(3, 3));
        assert_eq!(mail.status("drain")["queues"], json!([result(3, 3)]));
        for user in &users[3..] {
            assert!(mail.cluster.queued_users("node2group").contains(user));
            mail.cluster.fail(user, false);
        }
        assert_eq!(mail.drained(drainer, &[]), result(3, 0));
        mail.assert_all_delivered_once();
        assert_eq!(mail.drained(drainer, &[]), result(0, 0));
    }
}

#[test]
fn a_node_that_is_down_for_a_moment_only_is_waited_for() {
    let (mail, _) = with_dead_node2(Tables::default(), 1);
    for node in ["node1", "node3"] {
        let config = mail.config_with(node, ("after_seconds = 0", "after_seconds = 86400"));
        for arguments in [&["--dry-run"][..], &[]] {
            let output = run_well(&mut mail.drain_with(&config, node, arguments), b"");
            let reason = row(&output)["reason"].as_str().unwrap().to_owned();
            assert!(reason.ends_with(" of the 86400 s of after_seconds"), "{reason}");
        }
    }
    assert_eq!(mail.cluster.delivered(), []);
}

#[test]
fn a_mark_from_the_future_keeps_no_mail_waiting() {
    let (mail, _) = with_dead_node2(Tables::default(), 2);
    let (drainer, _) = mail.drainer_and_other();
    let state = mail.path("nodes.toml");
    let mark = "[node.node2]\nstate = \"down\"\nsince = 2999-01-01T00:00:00Z\n";
    fs::write(&state, mark).unwrap();
    let warning = format!(
        "mailaffinity: {}: node \"node2\" is marked since 2999-01-01T00:00:00Z, which is still to come",
        state.display()
    );
    let config = mail.config_with(drainer, ("after_seconds = 0", "after_seconds = 86400"));
    run_well(&mut mail.drain_with(&config, drainer, &[]), b"");
    mail.assert_all_delivered_once();
    for command in [
        mail.drain_with(&config, drainer, &["--dry-run"]),
        command(&config, &["nodes"]),
    ]
    .iter_mut()
    {
        let output = run_well(command, b"");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.starts_with(&warning) && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
    // A clock that is a little ahead changes nothing.
    let soon = Timestamp::now() + Duration::from_secs(3600);
    fs::write(
        &state,
        format!("[node.node2]\nstate = \"down\"\nsince = {soon}\n"),
    )
    .unwrap();
    let output = run_well(&mut mail.drain_with(&config, drainer, &["--dry-run"]), b"");
    let reason = row(&output)["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "it has been down for 0 of the 86400 s of after_seconds");

    // Who marks it anew marks it today.
    mail.must(&["down", "node2"]);
    let output = run_well(&mut command(&config, &["nodes"]), b"");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_drain_that_finds_another_at_work_names_it() {
    let (mail, users) = with_dead_node2(Tables::default(), 3);
    let (drainer, other) = mail.drainer_and_other();
    mail.cluster.hold(drainer, true);
    let drain = spawn(&mut mail.drain(drainer, &[]));
    mail.cluster.wait_until_held(drainer);

    let status = || fs::read_to_string(mail.path("status.json")).unwrap_or_default();
    let earlier = status();
    let mut second = spawn(&mut mail.drain(drainer, &[]));
    wait_for("the second drain's end", || second.try_wait().unwrap().is_some());
    let output = second.wait_with_output().unwrap();
    // Nothing for cron to report, and no success either.
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(status(), earlier);
    let holder = format!(".mailaffinity.lock is held by process {} on ", drain.id());
    assert!(row(&output)["reason"].as_str().unwrap().contains(&holder));
    assert_eq!(mail.drained(drainer, &["--dry-run"])["waiting"], users.len());
    assert_eq!(mail.drained(other, &[])["run_by"], drainer);

    // One that hangs is a failure in the end.
    let lock = mail.cluster.queues().join("node2/.mailaffinity.lock");
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let file = fs::File::options().write(true).open(&lock).unwrap();
    file.set_modified(hour_ago).unwrap();
    let output = mail.drain(drainer, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let overdue = String::from_utf8_lossy(&output.stderr);
    assert!(
        overdue.contains("past its limit_seconds") && overdue.contains(&holder),
        "{overdue}"
    );
    assert!(status().contains("\"exit_status\": 75"), "{}", status());

    // The lock's file is nothing to sendmail.
    let output = mail
        .cluster
        .command(other)
        .args(["-bp", "-qGnode2group"])
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(
        listed.contains(&format!("({} requests)", users.len())),
        "{listed}"
    );
    assert!(!listed.contains("mailaffinity.lock"), "{listed}");
    assert_silent(&mail.cluster.run_queue(other, "node2group"));
    assert!(lock.exists());

    mail.cluster.hold(drainer, false);
    assert!(drain.wait_with_output().unwrap().status.success());
    assert_silent(&mail.cluster.run_queue(other, "node2group"));
    mail.assert_all_delivered_once();
}

/// Its sendmails go on: to stop them too would be to deliver twice what they had just
/// delivered and not yet written down.
#[test]
fn a_drain_that_is_killed_is_taken_up_by_the_next() {
    a_drain_is_taken_up_after(Signal::KILL);
}

/// As systemctl stop does it.
#[test]
fn a_drain_that_is_stopped_is_taken_up_by_the_next() {
    a_drain_is_taken_up_after(Signal::TERM);
}

fn a_drain_is_taken_up_after(signal: Signal) {
    let tables = Tables {
        drain: "runners = 2",
        ..Tables::default()
    };
    let (mail, users) = with_dead_node2(tables, 45);
    let (drainer, _) = mail.drainer_and_other();
    mail.cluster.hold(drainer, true);
    let mut drain = spawn(&mut mail.drain(drainer, &[]));
    mail.cluster.wait_until_held(drainer);
    kill_process(Pid::from_child(&drain), signal).unwrap();
    assert_eq!(drain.wait().unwrap().signal(), Some(signal.as_raw()));
    assert_eq!(mail.cluster.delivered(), []);

    let next = spawn(&mut mail.drain(drainer, &[]));
    // The first one has two sendmails; so the next has counted.
    mail.cluster.wait_until_so_many_held(drainer, 3);
    mail.cluster.hold(drainer, false);
    let output = next.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(row(&output)["before"], users.len());
    // The first one's sendmails may be at their last messages.
    wait_for("all mail", || mail.cluster.queued("node2group").is_empty());
    mail.assert_all_delivered_once();
}

/// A watcher on a node. It is killed when this is dropped.
struct Watcher(Child);

impl Watcher {
    fn start(config: &Path, node: &str) -> Watcher {
        Watcher(spawn(&mut command(config, &["watch", "--node", node])))
    }

    fn end(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        assert_eq!(self.0.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_watcher_drains_and_ends_at_any_time() {
    let (mail, _) = with_dead_node2(Tables::default(), 45);
    let (drainer, _) = mail.drainer_and_other();
    mail.cluster.hold(drainer, true);
    let mut watcher = Watcher::start(&mail.config(drainer), drainer);
    mail.cluster.wait_until_held(drainer);
    // Nothing else waits for it, and a drain by command has nothing to do.
    let groups = fs::read_to_string(mail.path("users")).unwrap();
    fs::write(mail.path("users"), format!("{groups}\nnewuser")).unwrap();
    wait_for("the map", || {
        let source = fs::read_to_string(mail.path("access")).unwrap();
        source.contains("newuser@")
    });
    let other = mail.drained(drainer, &[]);
    assert!(
        other["reason"].as_str().unwrap().contains("another drain"),
        "{other}"
    );
    // Its sendmails, which have all of the messages, go on when it ends.
    watcher.end();
    assert_eq!(mail.cluster.delivered(), []);
    mail.cluster.hold(drainer, false);
    wait_for("all mail", || mail.cluster.queued("node2group").is_empty());
    mail.assert_all_delivered_once();
    // The next one finds the lock free.
    let mut watcher = Watcher::start(&mail.config(drainer), drainer);
    wait_for("its result", || {
        let status = mail.status("watch");
        status["drain_seconds"].is_number() && status["problems"] == json!([])
    });
    assert_eq!(mail.status("drain")["queues"][0]["before"], 0);
    watcher.end();
}

#[test]
fn the_watcher_drains_when_a_node_was_down_for_long() {
    let (mail, _) = with_dead_node2(Tables::default(), 6);
    let (drainer, other) = mail.drainer_and_other();
    mail.must(&["auto", "node2"]);
    let after = |node: &str| {
        let config = mail.config_with(node, ("after_seconds = 0", "after_seconds = 3"));
        // Each machine has its own.
        let text = fs::read_to_string(&config).unwrap();
        let folder = format!("watched-{node}");
        fs::create_dir(mail.path(&folder)).unwrap();
        let text = text.replace("/status.json", &format!("/{folder}/status.json"));
        fs::write(&config, text).unwrap();
        let status = mail.path(&folder).join("status.json");
        let status = move || {
            let text = fs::read_to_string(&status).unwrap_or_default();
            serde_json::from_str::<Value>(&text).unwrap_or_default()
        };
        (Watcher::start(&config, node), status)
    };
    let (mut of_drainer, status) = after(drainer);
    let (mut of_other, status_of_other) = after(other);
    for status in [&status, &status_of_other] {
        wait_for("the watcher", || status()["watch"]["written"].is_string());
    }
    mail.must(&["down", "node2"]);
    wait_for("a drain", || status()["watch"]["drain_seconds"].is_number());
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let drained = time(status()["drain"]["finished"].as_str().unwrap());
    let state = mailaffinity::node_state::NodeState::load(&mail.path("nodes.toml")).unwrap();
    let since = state.mark_of("node2").unwrap().since.unwrap();
    assert!(drained.duration_since(since).as_secs() >= 3, "{drained} {since}");
    assert_eq!(status()["drain"]["queues"][0]["after"], 0);
    assert!(status_of_other()["watch"]["drain_seconds"].is_null());
    of_drainer.end();
    of_other.end();
    mail.assert_all_delivered_once();
}

#[test]
fn all_directories_of_a_queue_group_are_drained() {
    let tables = Tables {
        path_suffix: "*",
        ..Tables::default()
    };
    let mut mail = Mail::start(tables);
    // sendmail chooses one at random for each message.
    for directory in ["node2-b", "node2-c", "node2-c/qf", "node2-c/df"] {
        fs::create_dir(mail.cluster.queues().join(directory)).unwrap();
    }
    mail.cluster.start("node3", &[]);
    mail.update();
    let users = users();
    mail.send(&users, "some", &["node3"]);
    let directories = ["node2", "node2-b", "node2-c/qf"].map(|name| mail.cluster.queues().join(name));
    let waiting = |directory: &PathBuf| {
        let names = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with("qf"))
            .count()
    };
    let counts: Vec<usize> = directories.iter().map(waiting).collect();
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    mail.must(&["down", "node2"]);
    let (drainer, other) = mail.drainer_and_other();
    let result = mail.drained(drainer, &[]);
    assert_eq!(result["before"], counts.iter().sum::<usize>());
    assert_eq!(result["after"], 0);
    for node in [drainer, other, drainer, other] {
        assert_silent(&mail.cluster.run_queue(node, &Cluster::group(node)));
    }
    mail.assert_all_delivered_once();
}

/// As Debian's queue folder is smmta's. sendmail follows them.
#[test]
#[ignore = "as root"]
fn queues_that_are_links_in_a_folder_of_others_are_drained_as_root() {
    let (mail, users) = with_dead_node2(Tables::default(), 3);
    let (drainer, _) = mail.drainer_and_other();
    let (queues, elsewhere) = (mail.cluster.queues(), mail.path("elsewhere"));
    let link = queues.join("node2");
    fs::rename(&link, &elsewhere).unwrap();
    symlink(&elsewhere, &link).unwrap();
    chown(&queues, Some(65534), None).unwrap();
    // Of a link of theirs, root does not know where it leads when it writes there.
    lchown(&link, Some(65534), None).unwrap();
    let output = run(&mut mail.drain(drainer, &[]), b"");
    assert_eq!(output.status.code(), Some(74), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let refused = format!("the symbolic link {} is not followed", link.display());
    assert!(said.contains(&refused), "{said}");
    lchown(&link, Some(0), None).unwrap();
    let result = mail.drained(drainer, &[]);
    assert_eq!(
        (&result["before"], &result["after"]),
        (&json!(users.len()), &json!(0))
    );
    assert!(elsewhere.join(".mailaffinity.lock").exists());
    mail.assert_all_delivered_once();
}

#[test]
fn a_drain_says_what_keeps_it_from_its_work() {
    let (mail, users) = with_dead_node2(Tables::default(), 25);
    let (drainer, _) = mail.drainer_and_other();
    let sendmail = mail.cluster.words(drainer).join("\", \"");
    for (change, status, said) in [
        (
            ("queue_group = \"node2group\"", "queue_group = \"nogroup\""),
            69,
            " -qf -qGnogroup says: Queue group nogroup unknown",
        ),
        (
            (&*sendmail, "/nonexistent/sendmail"),
            69,
            "drain of node2: /nonexistent/sendmail -qf -qGnode2group cannot be run: No such file",
        ),
        (
            ("/queue/node2\"", "/queue/nowhere\""),
            74,
            "/queue/nowhere: No such file",
        ),
    ] {
        let config = mail.config_with(drainer, change);
        let output = run(&mut mail.drain_with(&config, drainer, &[]), b"");
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(said), "{message}");
        let result = row(&output);
        let queue = &mail.status("drain")["queues"][0];
        assert_eq!(*queue, result);
        assert_eq!(mail.status("drain")["exit_status"], status);
        if status == 69 {
            // Once, though two sendmails said it.
            assert_eq!(result["problems"].as_array().unwrap().len(), 1, "{result}");
            assert_eq!((&result["before"], &result["after"]), (&json!(25), &json!(25)));
        }
    }
    assert_eq!(mail.cluster.delivered(), []);
    assert_eq!(mail.cluster.queued("node2group").len(), users.len());
}
