//! The commands, as scripts and administrators run them.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mailaffinity::files::last_good;
use mailaffinity::mapping::{modulo_vnode, ring_vnode};
use mailaffinity::node_state::{By, NodeState, State};
use serde_json::Value;
use support::configuration::{Configuration, Node, node_state};
use support::site::Site;

/// A site of three nodes, and a fourth one with a tag.
fn site() -> Site {
    let site = Site::new();
    site.configure(configuration([1, 2]));
    site
}

/// These nodes have a queue group.
fn configuration<const N: usize>(with_queue_group: [usize; N]) -> Configuration {
    let nodes = (1..=3).map(|number| {
        let node = Node::new(&format!("node{number}"), &format!("10.0.0.{number}"));
        let node = node.host(&format!("imap{number}.example.org"));
        match with_queue_group.contains(&number) {
            true => node.queue_group(&format!("node{number}group")),
            false => node,
        }
    });
    Configuration::of(nodes.chain([Node::new("far", "10.9.0.1").tag("far")]))
}

/// The same with what an update needs: users, an access map in text, and a log. All nodes
/// of the default tag have a queue group.
fn site_with_update() -> (Site, UnixDatagram) {
    let site = Site::new();
    site.configure(
        configuration([1, 2, 3])
            .access_map("text", site.path("access"))
            .users(site.path("users")),
    );
    fs::write(site.path("access"), "").unwrap();
    let users: String = (0..200).map(|n| format!("user{n}\n")).collect();
    fs::write(site.path("users"), users).unwrap();
    let log = UnixDatagram::bind(site.log_socket()).unwrap();
    log.set_nonblocking(true).unwrap();
    (site, log)
}

fn map(site: &Site, arguments: &[&str], stdin: &[u8]) -> Output {
    site.run(&[&["map"], arguments].concat(), stdin)
}

/// The lines that came since the last call: priority and text.
fn logged(log: &UnixDatagram) -> Vec<(u8, String)> {
    let mut lines = Vec::new();
    let mut line = [0; 4096];
    while let Ok(length) = log.recv(&mut line) {
        let text = String::from_utf8_lossy(&line[..length]);
        let (priority, text) = text.strip_prefix('<').unwrap().split_once('>').unwrap();
        let (_, text) = text.split_once("]: ").expect("a tag with the process");
        lines.push((priority.parse().unwrap(), text.trim_end().to_owned()));
    }
    lines
}

/// Priorities of the facility mail.
const ERR: u8 = 2 * 8 + 3;
const WARNING: u8 = 2 * 8 + 4;
const NOTICE: u8 = 2 * 8 + 5;
const INFO: u8 = 2 * 8 + 6;

fn run(program: &str, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails at once does not read it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn hash_user_group(arguments: &[&str], stdin: &[u8]) -> Output {
    run(&support::built::HASH_USER_GROUP, arguments, stdin)
}

#[track_caller]
fn assert_quiet_success(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[track_caller]
fn assert_fails(output: &Output, status: i32, message: &str) {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(message), "{stderr}");
}

#[test]
fn map_answers_as_the_director_did() {
    let site = site();
    let capture = fs::read_to_string("tests/director/ring-3.tsv").unwrap();
    let answers: Vec<(&str, &str)> = capture
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains('%'))
        .map(|line| {
            let (user, answer) = line.split_once("\t\t10.0.0.").unwrap();
            (user, answer)
        })
        .filter(|(user, _)| !user.is_empty())
        .collect();
    assert!(answers.len() > 100);
    let users: Vec<&str> = answers.iter().map(|(user, _)| *user).collect();
    let output = map(&site, &[], users.join("\n").as_bytes());
    assert_quiet_success(&output);
    let expected: String = answers
        .iter()
        .map(|(user, node)| {
            let group = if *node == "3" {
                "-".into()
            } else {
                format!("node{node}group")
            };
            format!("{user}\tnode{node}\timap{node}.example.org\t{group}\n")
        })
        .collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn the_example_of_readme_is_true() {
    let readme = fs::read_to_string("README.md").unwrap();
    let (_, from_example) = readme.split_once("```toml\n").unwrap();
    let (example, _) = from_example.split_once("```").unwrap();
    let site = site();
    let state = site.path("nodes.toml");
    let example = example.replace("/var/lib/mailaffinity/nodes.toml", state.to_str().unwrap());
    fs::write(site.path("mailaffinity.toml"), example).unwrap();

    let (_, from_call) = readme.split_once("    $ mailaffinity map ").unwrap();
    let mut lines = from_call.lines();
    let users: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let shown: String = lines
        .map_while(|line| line.strip_prefix("    "))
        .map(|line| format!("{line}\n"))
        .collect();
    let output = map(&site, &users, b"");
    assert_quiet_success(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
}

#[test]
fn map_takes_users_as_arguments_and_bytes_on_standard_input() {
    let site = site();
    let arguments = map(&site, &["user1", "USER1"], b"ignored\n");
    assert_quiet_success(&arguments);
    let lines = String::from_utf8(arguments.stdout).unwrap();
    let nodes: Vec<&str> = lines
        .lines()
        .map(|line| line.split_once('\t').unwrap().1)
        .collect();
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes[0], nodes[1], "%Lu folds case");

    let bytes = map(&site, &[], b"\xff\xfe\n\na\tb\rc\nlast");
    assert_quiet_success(&bytes);
    let lines: Vec<&[u8]> = bytes.stdout.split(|&b| b == b'\n').collect();
    assert!(lines[0].starts_with(b"\xff\xfe\tnode"), "{bytes:?}");
    assert!(
        lines[1].starts_with(b"\tnode"),
        "a line out for each line in: {bytes:?}"
    );
    assert!(lines[2].starts_with(b"a\\tb\\rc\tnode"), "{bytes:?}");
    assert!(lines[3].starts_with(b"last\tnode"), "{bytes:?}");
    assert_eq!(lines.len(), 5);
}

#[test]
fn map_follows_tags_and_the_node_state() {
    let site = site();
    let far = map(&site, &["--tag", "far", "user1"], b"");
    assert_quiet_success(&far);
    assert_eq!(far.stdout, b"user1\tfar\t10.9.0.1\t-\n");
    assert_fails(
        &map(&site, &["--tag", "nosuch", "user1"], b""),
        75,
        "no node with the tag \"nosuch\"",
    );

    let down = "[node.node2]\nstate = \"down\"\nsince = \"2026-11-23T20:45:00Z\"\nreason = \"test\"\n";
    let users: String = (0..200).map(|n| format!("user{n}\n")).collect();
    let before = map(&site, &[], users.as_bytes());
    assert!(String::from_utf8_lossy(&before.stdout).contains("\tnode2\t"));
    fs::write(site.path("nodes.toml"), down).unwrap();
    let after = map(&site, &[], users.as_bytes());
    assert_quiet_success(&after);
    assert!(!String::from_utf8_lossy(&after.stdout).contains("\tnode2\t"));
}

/// The Director would end itself at such a user.
#[test]
fn users_without_a_hash_have_no_node_and_no_entry() {
    let (site, _log) = site_with_update();
    let config = fs::read_to_string(site.config()).unwrap();
    let format = "username_hash = '%{if;%1.2Ru;<;10;%u}'\n";
    fs::write(site.config(), format.to_owned() + &config).unwrap();
    let users = fs::read_to_string(site.path("users")).unwrap();
    fs::write(site.path("users"), users + "anna\n").unwrap();

    let no_number = "username_hash compares what is no number as one in this user's name";
    let output = map(&site, &["anna"], b"");
    assert_fails(&output, 75, &format!("{no_number}; users without a node: 1"));
    let output = map(&site, &["--json"], b"anna\n");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["node"], Value::Null);
    let diff = String::from_utf8(site.run(&["diff"], b"").stdout).unwrap();
    assert!(diff.contains(&format!("anna\tleft out: {no_number}\n")), "{diff}");
    let agreement = site.run(&["agreement", "--", "anna"], b"");
    assert_fails(
        &agreement,
        69,
        &format!("anna: no part has a node for it: {no_number}"),
    );
}

#[test]
fn names_that_are_too_long_have_no_node_and_no_entry() {
    let (site, _log) = site_with_update();
    let (longest, too_long) = ("x".repeat(1023), "x".repeat(1024));
    let mut users = fs::read_to_string(site.path("users")).unwrap();
    users += &format!("{longest}\n{too_long}\n");
    fs::write(site.path("users"), users).unwrap();

    let problem = "a user's name is longer than 1023 bytes";
    assert_quiet_success(&map(&site, &[&longest], b""));
    let output = map(&site, &[&longest, &too_long], b"");
    assert_fails(&output, 75, &format!("{problem}; users without a node: 1"));
    let answers = site.run(
        &["what-if", "--down", "node1", "--list", "--json", "--", &too_long],
        b"",
    );
    assert_quiet_success(&answers);
    assert!(answers.stdout.is_empty(), "{answers:?}");
    let diff = String::from_utf8(site.run(&["diff"], b"").stdout).unwrap();
    for (user, reason) in [(longest, "it is too long"), (too_long.clone(), problem)] {
        assert!(diff.contains(&format!("{user}\tleft out: {reason}")), "{diff}");
    }
    let agreement = site.run(&["agreement", "--", &too_long], b"");
    assert_fails(
        &agreement,
        69,
        &format!("{too_long}: no part has a node for it: {problem}"),
    );
}

#[test]
fn map_says_what_is_wrong() {
    let site = site();
    fs::write(site.path("nodes.toml"), "[node").unwrap();
    assert_fails(
        &map(&site, &["user1"], b""),
        78,
        "nodes.toml: not a node state: line 1",
    );
    fs::write(site.path("mailaffinity.toml"), "strategy = 1\n").unwrap();
    assert_fails(&map(&site, &["user1"], b""), 78, "mailaffinity.toml:1: ");
    fs::remove_file(site.path("mailaffinity.toml")).unwrap();
    assert_fails(&map(&site, &["user1"], b""), 78, "cannot read the configuration");
    let mailaffinity = &*support::built::MAILAFFINITY;
    assert_fails(&run(mailaffinity, &["nosuch"], b""), 64, "nosuch");
    assert_fails(&run(mailaffinity, &["map", "--nosuch"], b""), 64, "--nosuch");
}

#[test]
fn nodes_are_marked_by_hand() {
    let site = site();
    let state_of = |node: &str| {
        let rows = site.json(&["nodes", "--json"]);
        rows.into_iter().find(|row| row["name"] == node).unwrap()
    };
    assert_eq!(state_of("node2")["state"], "up");
    let share: f64 = site
        .json(&["nodes", "--json"])
        .iter()
        .filter(|row| row["tag"] == "")
        .map(|row| row["share"].as_f64().unwrap())
        .sum();
    assert!((share - 1.0).abs() < 1e-9, "{share}");

    let mark = || site.state().mark_of("node2").cloned();
    let dry = site.must(&["down", "--dry-run", "node2", "node3"]);
    assert_eq!(dry, "node2\tup\tdown\nnode3\tup\tdown\n");
    assert_eq!(site.state(), NodeState::default());

    assert_eq!(site.must(&["down", "node2", "--reason", "new\ndisks"]), "");
    let row = state_of("node2");
    assert_eq!(
        (&row["state"], &row["by"], &row["reason"], &row["share"]),
        (&"down".into(), &"hand".into(), &"new\ndisks".into(), &0.0.into())
    );
    let since = mark().unwrap().since;
    assert!(since.is_some());
    assert!(site.must(&["nodes"]).contains("new\\ndisks"), "it stays one line");
    site.must(&["down", "node2"]);
    assert_eq!(mark().unwrap().reason, "new\ndisks", "it is not forgotten");

    site.must(&["down", "node2"]);
    assert_eq!(mark().unwrap().reason, "new\ndisks", "it is not forgotten");
    // Another reason, the same time.
    site.must(&["down", "node2", "-r", "still"]);
    assert_eq!(mark().unwrap().since, since);
    assert_eq!(mark().unwrap().reason, "still");

    site.must(&["up", "node2", "node1"]);
    assert_eq!(state_of("node2")["state"], "up");
    assert_eq!(
        mark().map(|mark| (mark.state, mark.by)),
        Some((State::Up, By::Hand))
    );
    assert!(!site.state().is_down("node2"));
    site.must(&["auto", "node1", "node2"]);
    assert_eq!(site.state(), NodeState::default());

    assert_fails(
        &site.run(&["down", "node1", "node9"], b""),
        64,
        "there is no node \"node9\"; there are node1, node2, node3, far",
    );
    assert_eq!(site.state(), NodeState::default(), "all or nothing");
    assert_fails(&site.run(&["down"], b""), 64, "NODE");
    fs::write(site.path("nodes.toml"), node_state(&["gone"])).unwrap();
    site.must(&["auto", "gone"]);
    assert_eq!(
        site.state(),
        NodeState::default(),
        "also of a node that is no more"
    );
    let all = site.run(&["down", "node1", "node2", "node3", "far"], b"");
    assert_eq!(all.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&all.stderr).contains("all nodes are down"));
}

#[test]
fn many_mark_at_once() {
    let site = site();
    std::thread::scope(|scope| {
        for node in ["node1", "node2", "node3"] {
            scope.spawn(|| assert_quiet_success(&site.run(&["down", node], b"")));
        }
    });
    let state = site.state();
    assert_eq!(
        state.marks().map(|(name, _)| name).collect::<Vec<_>>(),
        ["node1", "node2", "node3"]
    );
}

#[test]
fn an_update_is_logged_and_leaves_a_status() {
    let (site, log) = site_with_update();
    assert_eq!(site.must(&["update"]), "");
    let lines = logged(&log);
    let [(NOTICE, line)] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        line.starts_with("update: 200 users, 0 moved, 200 new, 0 gone; all nodes up; 0."),
        "{line}"
    );
    let status = site.status("update");
    assert_eq!(
        (
            &status["result"],
            &status["exit_status"],
            &status["users"],
            &status["added"]
        ),
        (&"changed".into(), &0.into(), &200.into(), &200.into())
    );

    site.must(&["update"]);
    let lines = logged(&log);
    assert!(
        matches!(&lines[..], [(INFO, line)] if line.starts_with("update: nothing to change; 200 users, 0 moved, 0 new")),
        "{lines:?}"
    );
    let status = site.status("update");
    assert_eq!(
        (&status["result"], &status["users"], &status["added"]),
        (&"unchanged".into(), &200.into(), &0.into())
    );

    let mut users = fs::read_to_string(site.path("users")).unwrap();
    users += "with blank\nanna+*\n";
    fs::write(site.path("users"), users).unwrap();
    let access = fs::read_to_string(site.path("access")).unwrap();
    fs::write(
        site.path("access"),
        format!("QGRP:user1@ node9group\nbroken\n{access}"),
    )
    .unwrap();
    site.must(&["down", "node2"]);
    site.must(&["update"]);
    let lines = logged(&log);
    let warnings: Vec<&str> = lines
        .iter()
        .filter(|(priority, _)| *priority == WARNING)
        .map(|(_, line)| line.as_str())
        .collect();
    assert_eq!(
        warnings,
        [
            "user left out of the access map: with blank: it has a blank",
            "user left out of the access map: anna+*: with the detail * it stands for all details",
            "entry by hand in the access source: line 1: user1 has node9group, the mapping node3group",
            "access source: line 2: it has a key but no value",
        ]
    );
    let (_, summary) = lines.last().unwrap();
    assert!(
        summary.contains(", 1 gone, 2 left out, 1 by hand; 1 of the nodes down: node2; "),
        "{summary}"
    );
    let status = site.status("update");
    assert_eq!(
        (&status["left_out"]["count"], &status["nodes_down"]),
        (&2.into(), &vec!["node2"].into())
    );

    fs::write(site.path("users"), "").unwrap();
    assert_fails(&site.run(&["update"], b""), 65, "users lists no user");
    let lines = logged(&log);
    assert!(
        matches!(&lines[..], [(ERR, line)] if line.starts_with("update failed after ") && line.contains("users lists no user")),
        "{lines:?}"
    );
    let status = site.status("update");
    assert_eq!(
        (&status["result"], &status["exit_status"]),
        (&"failed".into(), &65.into())
    );

    // A drain's status stands beside it.
    site.must(&["drain", "--node", "node1"]);
    assert_eq!(site.status("drain")["exit_status"], 0);
    assert_eq!(site.status("update")["result"], "failed");
}

#[test]
fn lines_in_the_block_and_users_are_not_lost_silently() {
    let (site, _log) = site_with_update();
    site.must(&["update"]);
    let good = fs::read_to_string(site.path("access")).unwrap();

    let edited = good.replace("QGRP:user1@", "Connect:203.0.113.7 REJECT\nQGRP:user1@");
    fs::write(site.path("access"), &edited).unwrap();
    assert_fails(&site.run(&["update"], b""), 65, "is not mailaffinity's");
    assert_eq!(fs::read_to_string(site.path("access")).unwrap(), edited);

    // One user may leave where there are few.
    fs::write(site.path("access"), &good).unwrap();
    fs::write(site.path("users"), "user1\nuser2\n").unwrap();
    assert_fails(
        &site.run(&["update"], b""),
        65,
        "too few users, 2 where the access map has 200",
    );
    site.must(&["update", "--accept-loss"]);
    fs::write(site.path("users"), "user1\n").unwrap();
    site.must(&["update"]);
}

#[test]
fn diff_shows_entries_by_hand_and_names_left_out() {
    let (site, _log) = site_with_update();
    site.must(&["update"]);
    assert_eq!(site.must(&["diff"]), "");
    let access = fs::read_to_string(site.path("access")).unwrap();
    let (_, rest) = access.split_once("QGRP:user1@\t").unwrap();
    let (was, _) = rest.split_once('\n').unwrap();
    fs::write(site.path("access"), format!("QGRP:User1@ other\n{access}")).unwrap();
    let users = fs::read_to_string(site.path("users")).unwrap();
    fs::write(site.path("users"), users + "with blank\n").unwrap();

    let output = site.run(&["diff"], b"");
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("user1\t{was} -> other (by hand, line 1)\nwith blank\tleft out: it has a blank\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    let output = site.run(&["diff", "--json"], b"");
    let rows = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Value> = rows
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    let expected = [
        serde_json::json!({"user": "user1", "before": was, "after": "other", "by_hand": 1}),
        serde_json::json!({"user": "with blank", "left_out": "it has a blank"}),
    ];
    assert_eq!(rows, expected);
    assert_eq!(site.must(&["update", "--dry-run"]).lines().count(), 2);
    site.must(&["update"]);
    assert_eq!(site.must(&["diff"]), "with blank\tleft out: it has a blank\n");
}

#[test]
fn an_emptied_source_stops_an_update() {
    let (site, _log) = site_with_update();
    let config = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), config.replace("\"text:", "\"hash:")).unwrap();
    fs::write(site.path("access"), "Connect:192.0.2 RELAY\n").unwrap();
    site.must(&["update"]);
    fs::write(site.path("access"), "").unwrap();
    assert_fails(
        &site.run(&["update"], b""),
        65,
        "access is empty, and was not when the access map was built",
    );
    assert_eq!(fs::read(site.path("access")).unwrap(), b"");
    site.must(&["update", "--accept-loss"]);
    assert_eq!(site.must(&["diff"]), "");

    // A map that seems to be right is built anew on demand only.
    let modified = || fs::metadata(site.path("access.db")).unwrap().modified().unwrap();
    let before = modified();
    site.must(&["update"]);
    assert_eq!(modified(), before);
    site.must(&["update", "--force"]);
    assert_ne!(modified(), before);
}

#[test]
fn nodes_that_the_configuration_does_not_have_are_told() {
    let (site, log) = site_with_update();
    let marked = node_state(&["Node2"]).to_string();
    // Users who were moved to one are told too.
    let moved = "[node.node9]\nmoved = \"24f9e15e 34c33682\"\n".to_owned();
    for (state, node, words) in [
        (marked, "\"Node2\"", " is marked but not in the configuration"),
        (
            moved,
            "\"node9\"",
            " is not in the configuration, but users were moved to it (2)",
        ),
    ] {
        fs::write(site.path("nodes.toml"), state).unwrap();
        let output = site.run(&["nodes"], b"");
        assert_eq!(output.status.code(), Some(0));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(&format!("{node}{words}")), "{stderr}");
        site.must(&["update"]);
        assert!(matches!(&logged(&log)[..], [(WARNING, line), ..] if line.contains(node)));
        assert_eq!(site.status("update")["nodes_down"], Value::Array(vec![]));
    }
}

/// Lookups go on with it: see `php/tests/last_good.phpt`. Commands do not.
#[test]
fn what_was_good_is_kept() {
    let (site, log) = site_with_update();
    let (config, state) = (site.config(), site.path("nodes.toml"));
    let kept = |file: &Path| fs::read_to_string(last_good::path_for(file)).ok();
    let mode = |file: &Path| fs::metadata(file).unwrap().mode() & 0o777;
    let good = fs::read_to_string(&config).unwrap();
    for arguments in [
        &["nodes"][..],
        &["map", "--all"],
        &["update", "--dry-run"],
        &["down", "-n", "node1"],
    ] {
        site.must(arguments);
        assert_eq!((kept(&config), kept(&state)), (None, None), "{arguments:?}");
    }
    site.must(&["update"]);
    assert_eq!(kept(&config), Some(good.clone()));
    assert_eq!(kept(&state), None, "there is none");
    fs::set_permissions(&config, Permissions::from_mode(0o660)).unwrap();
    fs::write(&config, format!("# another\n{good}")).unwrap();
    site.must(&["down", "node1"]);
    assert_eq!(kept(&config), Some(format!("# another\n{good}")));
    assert_eq!(mode(&last_good::path_for(&config)), 0o640);
    let marked = fs::read_to_string(&state).unwrap();
    assert_eq!(kept(&state), Some(marked.clone()));

    fs::write(&config, "[[node").unwrap();
    for arguments in [&["update"][..], &["down", "node2"], &["map", "user1"], &["nodes"]] {
        assert_fails(&site.run(arguments, b""), 78, "mailaffinity.toml:1: ");
    }
    fs::write(&config, &good).unwrap();
    fs::write(&state, "[node").unwrap();
    for arguments in [&["update"][..], &["down", "node2"], &["map", "user1"], &["nodes"]] {
        assert_fails(
            &site.run(arguments, b""),
            78,
            "nodes.toml: not a node state: line 1",
        );
    }
    assert_eq!((kept(&config), kept(&state)), (Some(good), Some(marked)));
    // By hand, and looked at by the next update.
    fs::write(&state, node_state(&["node3"])).unwrap();
    site.must(&["update"]);
    assert_eq!(kept(&state), Some(node_state(&["node3"])));
    fs::remove_file(&state).unwrap();
    site.must(&["update"]);
    assert_eq!(kept(&state), None);

    // A copy that cannot be kept is no failure, and is told.
    fs::create_dir(last_good::path_for(&state)).unwrap();
    let output = site.run(&["down", "node1"], b"");
    let problem = "cannot keep a last good copy of ";
    assert_fails(&output, 0, problem);
    logged(&log);
    site.must(&["update"]);
    assert!(matches!(&logged(&log)[..], [(WARNING, line), ..] if line.starts_with(problem)));
}

#[test]
fn marks_from_the_future_are_told() {
    let (site, log) = site_with_update();
    let mark = "[node.node2]\nstate = \"down\"\nsince = 2999-01-01T00:00:00Z\n";
    fs::write(site.path("nodes.toml"), mark).unwrap();
    let warning = format!(
        "{}: node \"node2\" is marked since 2999-01-01T00:00:00Z, which is still to come",
        site.path("nodes.toml").display()
    );
    for command in [&["update"][..], &["drain", "--node", "node1"]] {
        site.must(command);
        let lines = logged(&log);
        assert!(
            matches!(&lines[..], [(WARNING, line), ..] if line.starts_with(&warning)),
            "{lines:?}"
        );
    }
    site.must(&["down", "node2"]);
    site.must(&["update"]);
    assert!(
        logged(&log)
            .iter()
            .all(|(_, line)| !line.contains("still to come"))
    );
}

#[test]
fn messages_that_cannot_be_written_change_no_exit_status() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = |arguments: &[&str]| {
        let mut command = Command::new(&*support::built::MAILAFFINITY);
        command.args(arguments).stderr(full()).stdout(Stdio::null());
        command.status().unwrap().code()
    };
    assert_eq!(status(&["-c", "/nonexistent", "nodes"]), Some(78));
    assert_eq!(status(&["nosuch"]), Some(64));
}

#[test]
fn nodes_may_share_the_access_map() {
    let (one, _log) = site_with_update();
    // Another node: its own state and status, the same access map.
    let (two, _log) = site_with_update();
    let config = fs::read_to_string(two.path("mailaffinity.toml")).unwrap();
    let shared = |name: &str| (two.path(name), one.path(name));
    let config = [shared("access"), shared("users")]
        .iter()
        .fold(config, |config, (own, shared)| {
            config.replace(own.to_str().unwrap(), shared.to_str().unwrap())
        });
    fs::write(two.path("mailaffinity.toml"), config).unwrap();

    one.must(&["update"]);
    let stamp = |site: &Site| {
        let metadata = fs::metadata(site.path("access")).unwrap();
        (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    let written = stamp(&one);
    for site in [&two, &one, &two] {
        site.must(&["update"]);
        assert_eq!(site.status("update")["users"], 200);
        assert_eq!(stamp(&one), written);
    }
    for site in [&one, &two] {
        site.must(&["down", "node2"]);
    }
    two.must(&["update"]);
    assert_eq!(two.status("update")["result"], "changed");
    let written = stamp(&one);
    one.must(&["update"]);
    assert_eq!(
        (one.status("update")["result"].as_str(), stamp(&one)),
        (Some("unchanged"), written)
    );

    // What the other one did since is seen, though its own view is as it was.
    two.must(&["auto", "node2"]);
    two.must(&["update"]);
    one.must(&["update"]);
    assert_eq!(one.status("update")["result"], "changed");
}

#[test]
fn the_queue_groups_are_this_nodes() {
    let site = site();
    assert_fails(
        &site.run(&["queue-groups", "--node", "node1"], b""),
        78,
        "no node has a queue_group and a queue_path",
    );
    // Of all addresses, this machine has these; no other machine may answer for them.
    let at = |here: &str, there: &str| {
        let nodes = [("here", here), ("there", there)].map(|(name, address)| {
            Node::new(name, address)
                .queue_group(name)
                .queue_path(format!("/q/{name}"))
        });
        site.configure(Configuration::of(nodes));
    };
    at("127.0.0.1", "203.0.113.1");
    let here = "QUEUE_GROUP(``here'', `Flags=f, Path=`/q/here', Runners=4, Interval=1m')dnl\n\
                QUEUE_GROUP(``there'', `Flags=f, Path=`/q/there', Runners=0')dnl\n";
    assert_eq!(site.must(&["queue-groups"]), here);
    assert_eq!(site.must(&["queue-groups", "--node", "here"]), here);
    assert_ne!(site.must(&["queue-groups", "--node", "there"]), here);
    assert_fails(
        &site.run(&["queue-groups", "--node", "x"], b""),
        64,
        "no node \"x\"",
    );
    at("127.0.0.1", "127.0.0.2");
    assert_fails(&site.run(&["queue-groups"], b""), 78, "several nodes' addresses");
    at("203.0.113.2", "203.0.113.1");
    assert_fails(&site.run(&["drain"], b""), 78, "no node's address");
}

#[test]
fn the_manual_pages_are_those_of_the_help() {
    let site = site();
    let folder = site.path("man");
    site.must(&["manual", folder.to_str().unwrap()]);
    let page = fs::read_to_string(folder.join("mailaffinity-update.1")).unwrap();
    assert!(page.contains("accept\\-loss"), "{page}");
    let help = site.must(&["--help"]);
    let commands = help.split_once("Commands:\n").unwrap().1.lines();
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(
        commands.contains(&"what-if") && !commands.contains(&"manual"),
        "{commands:?}"
    );
    for command in commands.iter().filter(|command| **command != "help") {
        assert!(
            folder.join(format!("mailaffinity-{command}.1")).is_file(),
            "{command}"
        );
        assert!(
            site.must(&[command, "--help"]).contains("Usage: mailaffinity"),
            "{command}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(&*support::built::HASH_USER_GROUP)
        .args(["--vnodes", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let users = "user1\n".repeat(100_000);
    let _ = child.stdin.take().unwrap().write_all(users.as_bytes());
    assert_quiet_success(&child.wait_with_output().unwrap());
}

#[test]
fn hash_user_group_prints_vnodes() {
    let users: Vec<String> = (0..300).map(|n| format!("user{n}")).collect();
    let expected = |vnode: fn(&[u8], u32) -> Option<u32>| -> String {
        users
            .iter()
            .map(|user| format!("{user}\t{}\n", vnode(user.as_bytes(), 17).unwrap()))
            .collect()
    };
    for (arguments, expected) in [
        (&["--vnodes", "17"][..], expected(ring_vnode)),
        (&["-n", "17", "--strategy", "ring"], expected(ring_vnode)),
        (&["-n", "17", "-s", "modulo"], expected(modulo_vnode)),
    ] {
        let output = hash_user_group(arguments, users.join("\n").as_bytes());
        assert_quiet_success(&output);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
    assert_eq!(hash_user_group(&["-n", "3", "user1"], b"").stdout, b"user1\t2\n");
}

#[test]
fn hash_user_group_refuses_what_it_cannot_do() {
    for arguments in [&[][..], &["-n", "0"], &["-n", "x"], &["-n", "3", "-s", "other"]] {
        assert_fails(&hash_user_group(arguments, b""), 64, "error: ");
    }
    for flag in ["--help", "--version"] {
        let output = hash_user_group(&[flag], b"");
        assert_quiet_success(&output);
        assert!(!output.stdout.is_empty());
    }
}
