//! A site whose users, aliases and mail are as they come: full addresses, `.forward`
//! files, bounces, strangers, nodes with host names of their own, and an administrator who
//! edits the access source meanwhile. Each message is delivered once, by the node of its
//! user or by a rule that doc/update-and-drain.md names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use support::built::MAILAFFINITY;
use support::configuration::{Configuration, Node};
use support::sendmail::{Cluster, DOMAIN, program, run, run_well, wait_for};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// It is sendmail's too.
const OTHER_DOMAIN: &str = "other.example.org";

/// Accounts of every Debian system: sendmail only looks for the `.forward` of an account.
const USERS: [&str; 12] = [
    "daemon",
    "bin",
    "sys",
    "games",
    "man",
    "lp",
    "mail@users.example.org",
    "news@users.example.org",
    "uucp@other.example.org",
    "backup@Other.Example.Org",
    // One account for sendmail, two for the Director.
    "proxy@users.example.org",
    "proxy@other.example.org",
];

const ALIASES: &str = "# of a site
info: daemon
Chain: info
sales: mail@users.example.org
esc: \\bin
team: :include:TEAM
det: uucp+box
plus+*: games
many: daemon,
  games
lists: /dev/null
far: somebody@elsewhere.example.org
broken line
nobody: root
Sales&Info: games
\"press office\": games
";

struct Site {
    cluster: Cluster,
}

impl Site {
    fn start(users: &[&str], aliases: &str) -> Site {
        let cluster = Cluster::new(&NODES);
        let site = Site { cluster };
        let domains = NODES.map(|node| format!("{node}.example.org\n")).concat();
        site.write(
            "local-host-names",
            &format!("{DOMAIN}\n{OTHER_DOMAIN}\n{domains}"),
        );
        site.write("team", "# one member\nnews\n");
        site.write(
            "aliases",
            &aliases.replace("TEAM", site.path("team").to_str().unwrap()),
        );
        site.write("access", "# ours\n");
        site.write("users", &(users.join("\n") + "\n"));
        for node in NODES {
            // Users are accounts.
            let with_accounts = ("MODIFY_MAILER_FLAGS(`LOCAL', `-w')dnl\n", "");
            let elsewhere = site.elsewhere(node);
            site.cluster
                .reconfigure(node, &[with_accounts, ("MAILER(`smtp')dnl\n", &elsewhere)]);
            let nodes = (1..)
                .zip(NODES)
                .map(|(number, node)| Node::numbered(number, "10.0.0").queue_group(&Cluster::group(node)));
            let configuration = Configuration::of(nodes)
                .set_path("node_state", site.path("nodes.toml"))
                .set_path("status", site.path("status.json"))
                .set_path("syslog", site.path("no-log"))
                .access_map("hash", site.path("access"))
                .set_path("access_map.makemap", program(&["makemap"], "sendmail-bin"))
                .users(site.path("users"))
                .sendmail(site.cluster.words(node));
            site.write(&format!("{node}.toml"), &configuration.to_string());
        }
        run(site.cluster.command("node1").arg("-bi"), b"");
        site
    }

    /// The way to strangers, which ends at the same mailer.
    fn elsewhere(&self, node: &str) -> String {
        let folder = self.cluster.folder().display();
        format!(
            "MAILER(`smtp')dnl
MAILER_DEFINITIONS
Melsewhere, P=/bin/sh, F=SDFMn, S=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP, T=DNS/RFC822/SMTP,
	A=sh {folder}/{node}/deliver {folder} {node} $u
LOCAL_RULE_0
R$+ < @ elsewhere.example.org. > $*	$#elsewhere $@ elsewhere.example.org $: $1 < @ elsewhere.example.org. >
"
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cluster.folder().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, node: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(&*MAILAFFINITY);
        command.current_dir(self.cluster.folder());
        command.arg("--config").arg(self.path(&format!("{node}.toml")));
        run(command.args(arguments), b"")
    }

    /// Runs `mailaffinity` on node1, which must succeed, and returns what it printed.
    #[track_caller]
    fn must(&self, arguments: &[&str]) -> String {
        let output = self.run("node1", arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The node of each user.
    fn nodes(&self) -> BTreeMap<String, String> {
        let rows = self.must(&["map", "--all"]);
        let rows = rows.lines().map(|row| row.split('\t').collect::<Vec<_>>());
        rows.map(|row| (row[0].to_owned(), row[1].to_owned())).collect()
    }

    fn status(&self) -> Value {
        let text = fs::read_to_string(self.path("status.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["update"].clone()
    }

    /// Lets node1 start sendmail by a line of the shell, in which it is `"$@"`.
    fn ask_through(&self, line: &str) {
        let through = self.path("through");
        fs::write(&through, format!("#!/bin/sh\n{line}\n")).unwrap();
        fs::set_permissions(&through, fs::Permissions::from_mode(0o755)).unwrap();
        let config = fs::read_to_string(self.path("node1.toml")).unwrap();
        let through = format!("command = [{through:?}, ");
        assert!(config.contains("command = ["), "{config}");
        self.write("node1.toml", &config.replace("command = [", &through));
    }

    /// What agreement says of sendmail.
    fn agreement(&self, node: &str) -> Value {
        let output = self.run(node, &["agreement", "--json"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let mut rows = text
            .lines()
            .map(|row| serde_json::from_str::<Value>(row).unwrap());
        rows.find(|row| row["part"] == "sendmail")
            .expect("sendmail is a part")
    }

    /// Each node runs its own queue, and node3 the one of all; twice, since a run may move
    /// messages.
    fn run_queues(&self) {
        for _ in 0..2 {
            for node in NODES {
                run_well(&mut self.cluster.queue_run(node, &Cluster::group(node)), b"");
            }
            run_well(&mut self.cluster.queue_run("node3", "mqueue"), b"");
        }
    }
}

/// Account and node of each delivery of a message.
type Deliveries = BTreeSet<(String, String)>;

fn deliveries(cluster: &Cluster) -> BTreeMap<String, Deliveries> {
    let mut found: BTreeMap<String, Deliveries> = BTreeMap::new();
    for delivered in cluster.delivered() {
        let account = delivered.recipient.split('+').next().unwrap().to_owned();
        let of_message = found.entry(delivered.message_id.clone()).or_default();
        assert!(
            of_message.insert((account, delivered.node.clone())),
            "twice: {delivered:?}"
        );
    }
    found
}

/// A message: its recipient, the node that takes it, and what becomes of it.
struct Sent {
    to: &'static str,
    by: &'static str,
    /// Account, and the user on whose node it is delivered.
    delivered: &'static [(&'static str, &'static str)],
}

const fn sent(to: &'static str, by: &'static str, delivered: &'static [(&str, &str)]) -> Sent {
    Sent { to, by, delivered }
}

/// The user in whose place node3 stands, which runs the queue of all others here.
const ANY_NODE: &str = "any node";

const MAIL: &[Sent] = &[
    // Users, by their names and addresses in both domains, and at a node's own name.
    sent("daemon", "node1", &[("daemon", "daemon")]),
    sent("Daemon+box@other.example.org", "node2", &[("daemon", "daemon")]),
    sent("daemon@node1.example.org", "node1", &[("daemon", "daemon")]),
    sent("mail", "node2", &[("mail", "mail@users.example.org")]),
    sent("NEWS+box", "node3", &[("news", "news@users.example.org")]),
    sent(
        "uucp@other.example.org",
        "node1",
        &[("uucp", "uucp@other.example.org")],
    ),
    // Aliases.
    sent("info", "node1", &[("daemon", "daemon")]),
    sent("CHAIN", "node2", &[("daemon", "daemon")]),
    sent("sales", "node1", &[("mail", "mail@users.example.org")]),
    sent("esc@other.example.org", "node3", &[("bin", "bin")]),
    sent("team", "node1", &[("news", "news@users.example.org")]),
    sent("det", "node1", &[("uucp", "uucp@other.example.org")]),
    sent("plus+x", "node2", &[("games", "games")]),
    sent("sales&INFO", "node1", &[("games", "games")]),
    sent("many", "node1", &[("daemon", "daemon"), ("games", "games")]),
    // A .forward to one address: the node of who forwards. To one with a detail, or to
    // several: the nodes of those.
    sent("man", "node1", &[("daemon", "man")]),
    sent("lp", "node1", &[("bin", "bin")]),
    sent("sys+box", "node3", &[("sys", "sys"), ("games", "games")]),
    // Strangers, also those who are called like a user, and who is no single user: any node.
    sent(
        "games@elsewhere.example.org",
        "node1",
        &[("games@elsewhere.example.org", ANY_NODE)],
    ),
    sent("far", "node2", &[("somebody@elsewhere.example.org", ANY_NODE)]),
    sent("proxy", "node2", &[("proxy", ANY_NODE)]),
];

const FORWARDS: [(&str, &str); 3] = [("man", "daemon"), ("lp", "bin+box"), ("sys", "\\sys, games")];

#[test]
fn mail_is_delivered_by_the_node_of_its_user() {
    let mut site = Site::start(&USERS, ALIASES);
    for (account, targets) in FORWARDS {
        site.write(&format!("forward.{account}"), &format!("{targets}\n"));
    }
    for node in NODES {
        site.cluster.start(node, &[]);
    }
    site.must(&["update"]);
    let status = site.status();
    assert_eq!(status["users"], USERS.len());
    assert_eq!(status["entries"], USERS.len());
    assert_eq!(status["added"], USERS.len());
    assert_eq!(status["other_names"], 4 + 8, "{status:#}");
    assert_eq!(status["left_out"]["count"], 2);
    let broken = status["aliases"]["first"][0].as_str().unwrap();
    assert!(broken.ends_with("/aliases:13: it has no colon"), "{broken}");
    let diff = site.must(&["diff"]);
    assert!(
        diff.contains("aliases:16: the alias \\\"press office\\\" gets no entry: its name has quotes"),
        "{diff}"
    );
    assert_eq!(status["aliases"]["count"], 2);

    let mut expected: BTreeMap<String, Deliveries> = BTreeMap::new();
    for (round, down) in [("up", None), ("down", Some("node2")), ("back", None)] {
        site.must(&[if down.is_some() { "down" } else { "auto" }, "node2"]);
        update_while_an_administrator_edits(&site, round);
        let nodes = site.nodes();
        for Sent { to, by, delivered } in MAIL {
            let id = format!("{round}-{to}");
            site.cluster.send(by, &[to], &id);
            let delivered = delivered.iter().map(|(account, user)| {
                let node = nodes.get(*user).map_or("node3", |node| node);
                ((*account).to_owned(), node.to_owned())
            });
            expected.insert(id, delivered.collect());
        }
        // The daemon of a node that is down takes mail here: only its queue waits.
        site.run_queues();
        assert_eq!(deliveries(&site.cluster), expected, "{round}");
    }
}

/// agreement asks sendmail as a delivery does, and names what has no entry.
#[test]
fn agreement_knows_what_sendmail_makes_of_names() {
    let site = Site::start(&USERS, ALIASES);
    site.must(&["update"]);
    let said = site.agreement("node2");
    let differ = (&said["agrees"], &said["differ"], &said["first"]["answer"]);
    assert_eq!(
        differ,
        (&false.into(), &2.into(), &"queue group mqueue".into()),
        "{said:#}"
    );
    assert_eq!(
        said["problems"],
        serde_json::json!([
            "sendmail asks for the name without the domain, which is another user's too, with another queue group \
             (an entry by hand decides)"
        ])
    );
    assert_eq!(
        said["remarks"],
        serde_json::json!([
            "no entry for the alias many: it has several targets, which sendmail splits by their own queue groups",
            "no entry for the alias lists: it leads to a program or file",
            "no entry for the alias far: it leads to an address elsewhere"
        ])
    );

    // An entry by hand decides, for one of the two.
    let nodes = site.nodes();
    let group = Cluster::group(&nodes["proxy@users.example.org"]);
    let source = fs::read_to_string(site.path("access")).unwrap();
    site.write("access", &(format!("QGRP:proxy@\t{group}\n") + &source));
    site.must(&["update"]);
    assert_eq!(site.status()["left_out"]["count"], 0);
    assert_eq!(
        site.agreement("node2")["first"]["user"],
        "proxy@other.example.org"
    );
    site.write("users", &(USERS[..11].join("\n") + "\n"));
    site.must(&["update"]);
    assert_eq!(site.agreement("node2")["agrees"], true);

    site.write("users", "daemon@users.example.org\n");
    let diff = site.run("node1", &["diff", "--accept-loss"]);
    let text = String::from_utf8(diff.stdout).unwrap();
    assert!(text.contains("esc\tnode1group -> - (other name)"), "{text}");
}

/// sendmail looks for it in its queue directory, wherever the update looks.
#[test]
fn a_list_without_its_whole_path_gives_no_entry() {
    let site = Site::start(&["daemon", "news"], "near: :include:team\n");
    let said = run(site.cluster.command("node1").args(["-bv", "near"]), b"");
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("Cannot open team"), "{said}");
    site.must(&["update"]);
    let status = site.status();
    assert_eq!(status["other_names"], 0, "{status:#}");
    let problem = status["aliases"]["first"][0].as_str().unwrap();
    assert!(
        problem.contains("/aliases:1: sendmail looks for the file team in its queue directory"),
        "{problem}"
    );
}

/// With a format that keeps case, the Director may have nodes for both spellings; the
/// mailbox is that of the account, in lower case.
#[test]
fn of_names_that_differ_in_case_the_account_counts() {
    let site = Site::start(&["Daemon", "DAEMON", "DaemoN", "daEmon", "daemon"], "");
    let config = site.path("node1.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        format!("auth_username_format = \"%u\"\nusername_hash = \"%u\"\n{text}"),
    )
    .unwrap();
    let nodes = site.nodes();
    let other = nodes.iter().find(|(_, node)| **node != nodes["daemon"]);
    let (other, _) = other.expect("one on another node");
    site.write("users", &format!("{other}\ndaemon\n"));
    site.must(&["update"]);
    let group = Some(Cluster::group(&nodes["daemon"]));
    let asked: Vec<&String> = nodes.keys().collect();
    let groups = site.cluster.rule_set_groups(&asked);
    assert!(groups.iter().all(|found| *found == group), "{nodes:?} {groups:?}");
    let left_out = site.status()["left_out"]["first"][0].to_string();
    assert!(
        left_out.contains(other) && left_out.contains("differs in case only"),
        "{left_out}"
    );
}

/// What sendmail says is good until what it has it from is another, and nobody waits for it.
#[test]
fn sendmail_tells_its_domains_once() {
    let site = Site::start(&USERS, ALIASES);
    site.ask_through("tee -a \"$0.asked\" | \"$@\"");
    let asked = || {
        let lines = fs::read_to_string(site.path("through.asked")).unwrap_or_default();
        lines.lines().filter(|line| *line == "$=w").count()
    };
    site.must(&["update"]);
    assert_eq!((asked(), &site.status()["other_names"]), (1, &(4 + 8).into()));
    site.must(&["update"]);
    site.must(&["diff"]);
    assert_eq!(asked(), 1);
    assert_eq!(site.status()["result"], "unchanged");

    site.write("local-host-names", DOMAIN);
    site.must(&["update"]);
    assert_eq!(asked(), 2);
    assert_eq!(
        site.status()["other_names"],
        3 + 7,
        "uucp, backup, det, and proxy's one more"
    );
    site.must(&["update"]);
    assert_eq!(asked(), 2);

    // Names of DNS are in no file.
    let status = fs::read_to_string(site.path("status.json")).unwrap();
    let mut status: Value = serde_json::from_str(&status).unwrap();
    let last = &mut status["update"]["own_domains"]["asked"];
    *last = (last.as_i64().unwrap() - 3600).into();
    site.write("status.json", &status.to_string());
    site.must(&["update"]);
    assert_eq!(asked(), 3);

    // Answers that differ are asked for twice, and a file like this is nowhere at first.
    fs::remove_file(site.path("status.json")).unwrap();
    site.write("users", &(USERS.join("\n") + "\nwww-data\n"));
    assert_eq!(site.agreement("node1")["agrees"], false);
    assert_eq!(asked(), 4);
}

#[test]
fn nobody_waits_for_sendmails_domains() {
    let site = Site::start(&USERS, ALIASES);
    run_well(Command::new("mkfifo").arg(site.path("through.go")), b"");
    site.ask_through("echo x > \"$0.waits\"; read -r _ < \"$0.go\"; exec \"$@\"");
    thread::scope(|scope| {
        let first = scope.spawn(|| site.run("node1", &["update"]));
        wait_for("sendmail", || site.path("through.waits").exists());
        let config = fs::read_to_string(site.path("node2.toml")).unwrap();
        let table = "[sendmail]\nlocal_domains = [\"users.example.org\"]\n";
        site.write("node2.toml", &config.replace("[sendmail]\n", table));
        let second = site.run("node2", &["update", "--wait", "0"]);
        // It may have given up.
        let go = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(site.path("through.go"));
        std::io::Write::write_all(&mut go.unwrap(), b"\n").unwrap();
        first.join().unwrap();
        assert!(second.status.success(), "{second:?}");
    });
}

/// Bounces to users are delivered at once, by the node that makes them.
#[test]
fn a_bounce_is_delivered_once_by_the_node_that_makes_it() {
    let mut site = Site::start(&USERS, ALIASES);
    site.cluster.start("node2", &[]);
    site.must(&["update"]);
    let nodes = site.nodes();
    let node = &nodes["games"];
    assert_ne!(*node, nodes["daemon"]);
    site.cluster.refuse("games", true);
    site.cluster
        .try_send_from("node2", "daemon", &["games"], "refused")
        .unwrap();
    site.run_queues();
    let delivered = site.cluster.delivered();
    let by: Vec<_> = delivered
        .iter()
        .map(|bounce| (&*bounce.recipient, &bounce.node))
        .collect();
    assert_eq!(by, [("daemon", node)]);
}

/// Updates while an administrator adds lines to the access source, as editors do, once
/// during each update. Each ends well or says why not, and nothing of either is lost.
fn update_while_an_administrator_edits(site: &Site, round: &str) {
    let source = site.path("access");
    let lines: Vec<String> = (1..=5)
        .map(|number| format!("Connect:{round}.{number}\tRELAY\n"))
        .collect();
    let (begun, edited) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            for (number, line) in lines.iter().enumerate() {
                wait_for("an update", || begun.load(Ordering::Relaxed) > number);
                let text = fs::read_to_string(&source).unwrap() + line;
                site.write("edited", &text);
                fs::rename(site.path("edited"), &source).unwrap();
                edited.store(number + 1, Ordering::Relaxed);
            }
        });
        while edited.load(Ordering::Relaxed) < lines.len() {
            begun.fetch_add(1, Ordering::Relaxed);
            let output = site.run("node1", &["update"]);
            let said = String::from_utf8_lossy(&output.stderr);
            match output.status.code() {
                Some(0) => assert_eq!(said, ""),
                code => {
                    assert_eq!(code, Some(75), "{said}");
                    assert!(said.contains("was changed by somebody else meanwhile"), "{said}");
                }
            }
        }
    });
    site.must(&["update"]);
    let text = fs::read_to_string(&source).unwrap();
    assert!(lines.iter().all(|line| text.contains(line)), "{text}");
}
