//! How sendmail treats the queues of a cluster, on which mailaffinity builds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use mailaffinity::config::Config;
use mailaffinity_cli::queue_group::mc_lines;
use support::configuration::{Configuration, Node};
use support::sendmail::{Cluster, DOMAIN, cf, wait_for};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
const GROUPS: [&str; 3] = ["node1group", "node2group", "node3group"];

fn users(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("user{number:02}")).collect()
}

/// A cluster whose node1 runs and has queued a message to each user, in one group.
fn cluster_with_queue(users: &[String], group: &str) -> Cluster {
    let mut cluster = Cluster::new(&NODES);
    cluster.make_queue_groups(users.iter().map(|user| (user.as_str(), group)));
    cluster.start("node1", &[]);
    for user in users {
        cluster.send("node1", &[user], &format!("to-{user}"));
    }
    assert_eq!(cluster.queued_users(group), users);
    cluster
}

/// The queue identifiers of the messages to these users, as options.
fn limits(cluster: &Cluster, group: &str, users: &[String]) -> Vec<String> {
    let queued = cluster.queued(group);
    let ids: Vec<String> = queued
        .iter()
        .filter(|queued| users.iter().any(|user| queued.message_id == format!("to-{user}")))
        .map(|queued| format!("-qI{}", queued.id))
        .collect();
    assert_eq!(ids.len(), users.len(), "{queued:?}");
    ids
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).spawn().unwrap()
}

#[track_caller]
fn assert_well(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// m4 knows some words, and sendmail's m4 files define many more.
#[test]
fn queue_groups_mean_what_they_say_to_m4() {
    let (group, path) = ("dnl", "/mnt/dnl/MAILER/SITE/shift/q1");
    let node = Node::new("node1", "10.0.0.1").queue_group(group).queue_path(path);
    let config = Config::parse(&Configuration::of([node]).to_string(), Path::new("m.toml")).unwrap();
    let lines = mc_lines(&config, &config.nodes[0]);
    let cf = cf(&format!(
        "divert(-1)\ninclude(_CF_DIR_`m4/cf.m4')\nOSTYPE(`linux')\n{lines}MAILER(`local')\n"
    ));
    let line = format!("Q{group}, Flags=f, Path={path}, Runners=4, Interval=1m");
    let cf = String::from_utf8(cf).unwrap();
    assert!(cf.lines().any(|other| other == line), "{cf}");
}

#[test]
fn the_example_configuration_is_well() {
    let cluster = Cluster::new(&NODES);
    for node in NODES {
        let address = format!("anybody@{DOMAIN}");
        let output = cluster.command(node).args(["-bv", &address]).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("deliverable: mailer local"), "{text}");
    }
}

#[test]
fn mail_lands_in_the_group_that_the_access_map_names() {
    let mut cluster = Cluster::new(&NODES);
    let users = users(20);
    cluster.start("node1", &[]);
    for turn in 0..GROUPS.len() {
        // The daemon runs on, and has read the last map.
        let groups: Vec<(&str, &str)> = users
            .iter()
            .enumerate()
            .map(|(number, user)| (user.as_str(), GROUPS[(number + turn) % GROUPS.len()]))
            .collect();
        cluster.make_queue_groups(groups.iter().copied());
        let (one, all) = (format!("one-{turn}"), format!("all-{turn}"));
        for user in &users {
            cluster.send("node1", &[user], &one);
        }
        cluster.send("node1", &users, &all);
        for group in GROUPS {
            let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            let queued = cluster.queued(group);
            for message in &queued {
                let recipients = message.recipients.iter().cloned();
                found.entry(&message.message_id).or_default().extend(recipients);
            }
            let expected: Vec<String> = groups
                .iter()
                .filter(|(_, of_user)| *of_user == group)
                .map(|(user, _)| format!("{user}@{DOMAIN}"))
                .collect();
            for id in [&one, &all] {
                assert_eq!(found.get(id.as_str()), Some(&expected), "{group} {id}");
            }
        }
    }
    assert_eq!(cluster.queued("default"), []);
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let last: Vec<_> = (0..users.len())
        .map(|number| Some(GROUPS[(number + 2) % 3].to_owned()))
        .collect();
    assert_eq!(cluster.rule_set_groups(&names), last);
}

/// Why an update writes no text map for sendmail, which opens it for each recipient: one
/// that is replaced in that moment is an error for good.
#[test]
fn a_text_map_that_changes_refuses_mail_for_good() {
    let mut cluster = Cluster::new(&["node1"]);
    let folder = cluster.folder().to_owned();
    let text = folder.join("access.txt");
    let hash = format!("`hash -T<TMPF> {}'", cluster.access_map().display());
    let map = format!("`text -T<TMPF> {}'", text.display());
    cluster.reconfigure("node1", &[(&hash, &map)]);
    let replace = || {
        fs::write(folder.join("new"), "qgrp:anna@\tnode1group\n").unwrap();
        fs::rename(folder.join("new"), &text).unwrap();
    };
    replace();
    cluster.start("node1", &[]);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            wait_for("a refusal", || {
                let refusal = cluster.try_send("node1", &["anna"; 20], "changed").err();
                refusal.is_some_and(|reply| reply.starts_with("554 "))
            });
        });
        while !sender.is_finished() {
            replace();
        }
    });
}

#[test]
fn all_spellings_of_a_recipient_lead_to_its_group() {
    let mut cluster = Cluster::new(&NODES);
    cluster.make_access_map(
        "QGRP:anna@\tnode1group\nQGRP:first.last@\tnode2group\nQGRP:lists.example.org\tnode3group\n",
    );
    cluster.start("node1", &[]);
    for recipient in [
        "anna",
        "ANNA@Users.Example.ORG",
        "anna@users.example.org.",
        "anna+box",
        "@a.example.org,@b.example.org:anna@users.example.org",
        "anna%users.example.org@users.example.org",
    ] {
        let before = cluster.queued("node1group").len();
        cluster.send("node1", &[recipient], "spelling");
        assert_eq!(cluster.queued("node1group").len(), before + 1, "{recipient}");
    }
    cluster.send("node1", &["first.last", "First.Last+box"], "dots");
    assert_eq!(
        cluster.queued_users("node2group"),
        ["First.Last+box", "first.last"]
    );
    cluster.send(
        "node1",
        &["anybody@lists.example.org", "all@eu.lists.example.org"],
        "domains",
    );
    assert_eq!(cluster.queued("node3group").len(), 1);
    assert_eq!(cluster.queued("default"), []);
    cluster.send("node1", &["anna@elsewhere.example.org"], "stranger");
    assert_eq!(cluster.queued_users("default"), ["anna@elsewhere.example.org"]);
    // Those without a group do not go with the others of their message.
    cluster.send("node1", &["anna", "nobody", "first.last"], "strangers");
    assert_eq!(
        cluster.queued_users("default"),
        ["anna@elsewhere.example.org", "nobody"]
    );
}

#[test]
fn another_node_delivers_the_queue_of_a_dead_one_once() {
    let users = users(5);
    let mut cluster = cluster_with_queue(&users, "node2group");
    // node2 has begun when it dies: each of its four runners delivers.
    for user in &users {
        cluster.hold(user, true);
    }
    cluster.start("node2", &["-q1m"]);
    wait_for("four deliveries", || cluster.held().len() == 4);
    cluster.kill("node2");
    for user in &users {
        cluster.hold(user, false);
    }
    assert_eq!(cluster.delivered(), []);
    assert_eq!(cluster.queued_users("node2group"), users);

    assert_well(&cluster.run_queue("node1", "node2group"));
    assert_eq!(cluster.delivered_users(), users);
    assert!(
        cluster
            .delivered()
            .iter()
            .all(|delivered| delivered.node == "node1")
    );
    assert_eq!(cluster.queued("node2group"), []);
    assert_well(&cluster.run_queue("node3", "node2group"));
    assert_eq!(cluster.delivered_users(), users);
}

#[test]
fn what_fails_for_now_stays_queued() {
    let users = users(3);
    let cluster = cluster_with_queue(&users, "node2group");
    cluster.fail(&users[1], true);
    // The status tells nothing of it.
    assert_well(&cluster.run_queue("node1", "node2group"));
    assert_eq!(cluster.delivered_users(), [&*users[0], &*users[2]]);
    assert_eq!(cluster.queued_users("node2group"), [&*users[1]]);
    cluster.fail(&users[1], false);
    cluster.fail("node1", true);
    assert_well(&cluster.run_queue("node1", "node2group"));
    assert_eq!(cluster.queued_users("node2group"), [&*users[1]]);
    assert_well(&cluster.run_queue("node3", "node2group"));
    assert_eq!(cluster.delivered_users(), users);
    assert_eq!(cluster.queued("node2group"), []);
}

#[test]
fn nodes_that_run_one_queue_at_once_deliver_each_message_once() {
    let users = users(20);
    let cluster = cluster_with_queue(&users, "node2group");
    let mut runs: Vec<Child> = NODES
        .iter()
        .chain(&NODES)
        .map(|node| spawn(&mut cluster.queue_run(node, "node2group")))
        .collect();
    for run in &mut runs {
        assert!(run.wait().unwrap().success());
    }
    // A run passes over what another has locked at that moment, be it only to read it.
    assert_well(&cluster.run_queue("node1", "node2group"));
    assert_eq!(cluster.delivered_users(), users);
    assert_eq!(cluster.queued("node2group"), []);
}

#[test]
fn a_run_passes_over_a_message_that_another_node_is_delivering() {
    let users = users(3);
    let cluster = cluster_with_queue(&users, "node2group");
    cluster.hold(&users[0], true);
    let mut first = spawn(&mut cluster.queue_run("node1", "node2group"));
    cluster.wait_until_held(&users[0]);
    assert_well(&cluster.run_queue("node3", "node2group"));
    let delivered = cluster.delivered_users();
    assert_eq!(delivered, users[1..]);
    assert_eq!(cluster.queued_users("node2group"), [&*users[0]]);
    assert!(
        first.try_wait().unwrap().is_none(),
        "a run waits for its deliveries"
    );
    cluster.hold(&users[0], false);
    assert!(first.wait().unwrap().success());
    assert_eq!(cluster.delivered_users(), users);
}

#[test]
fn a_run_can_be_limited_to_messages_of_a_group() {
    let users = users(6);
    let cluster = cluster_with_queue(&users, "node2group");
    let ids = limits(&cluster, "node2group", &users[1..3]);
    // They are not in this group.
    assert_well(
        &cluster
            .queue_run("node1", "node1group")
            .args(&ids)
            .output()
            .unwrap(),
    );
    assert_eq!(cluster.delivered(), []);

    assert_well(
        &cluster
            .queue_run("node1", "node2group")
            .args(&ids)
            .output()
            .unwrap(),
    );
    assert_eq!(cluster.delivered_users(), users[1..3]);
    assert_eq!(cluster.queued("node2group").len(), 4);

    // Those that are no longer there are no error.
    assert_well(
        &cluster
            .queue_run("node1", "node2group")
            .args(&ids)
            .output()
            .unwrap(),
    );
    assert_eq!(cluster.queued("node2group").len(), 4);

    // What is looked for is any part of the file's name.
    let part = "-qIqf";
    assert_well(
        &cluster
            .queue_run("node1", "node2group")
            .arg(part)
            .output()
            .unwrap(),
    );
    assert_eq!(cluster.delivered_users(), users);
}

#[test]
fn a_run_in_the_foreground_waits_and_one_in_the_background_does_not() {
    let users = users(2);
    let cluster = cluster_with_queue(&users, "node2group");
    for user in &users {
        cluster.hold(user, true);
    }
    let ids = limits(&cluster, "node2group", &users);
    let mut foreground = spawn(cluster.queue_run("node1", "node2group").arg(&ids[0]));
    cluster.wait_until_held(&users[0]);
    // Without -qf.
    let output = cluster
        .command("node1")
        .args(["-qGnode2group", &ids[1]])
        .output()
        .unwrap();
    assert_well(&output);
    cluster.wait_until_held(&users[1]);
    assert_eq!(cluster.delivered(), []);
    assert!(foreground.try_wait().unwrap().is_none());
    for user in &users {
        cluster.hold(user, false);
    }
    assert!(foreground.wait().unwrap().success());
    assert!(cluster.delivered_users().contains(&users[0]));
    wait_for("the run in the background", || cluster.delivered_users() == users);
}

#[test]
fn several_limited_runs_of_one_group_work_side_by_side() {
    let users = users(24);
    let cluster = cluster_with_queue(&users, "node2group");
    let mut all = limits(&cluster, "node2group", &users);
    all.sort();
    // All stand still until each run has begun.
    for node in ["node1", "node3"] {
        cluster.hold(node, true);
    }
    let mut runs: Vec<Child> = all
        .chunks(6)
        .zip(["node1", "node3", "node1", "node3"])
        .map(|(ids, node)| spawn(cluster.queue_run(node, "node2group").args(ids)))
        .collect();
    // The same messages again.
    runs.push(spawn(cluster.queue_run("node3", "node2group").args(&all)));
    for node in ["node1", "node3"] {
        cluster.wait_until_held(node);
        cluster.hold(node, false);
    }
    for run in &mut runs {
        assert!(run.wait().unwrap().success());
    }
    assert_well(&cluster.run_queue("node1", "node2group"));
    assert_eq!(cluster.delivered_users(), users);
}

#[test]
fn age_does_not_keep_a_message_from_a_limited_run_but_the_size_of_a_run_does() {
    let users = users(2);
    let cluster = cluster_with_queue(&users, "node2group");
    cluster.fail("node1", true);
    assert_well(&cluster.run_queue("node1", "node2group"));
    cluster.fail("node1", false);
    let ids = limits(&cluster, "node2group", &users);
    // Sorted by name, sendmail would not look at the age.
    let old = ["-OMinQueueAge=1d", "-OQueueSortOrder=Priority"];
    assert_well(
        &cluster
            .queue_run("node1", "node2group")
            .args(old)
            .output()
            .unwrap(),
    );
    assert_eq!(cluster.delivered(), []);
    let few = "-OMaxQueueRunSize=1";
    assert_well(
        &cluster
            .queue_run("node1", "node2group")
            .args(old)
            .arg(few)
            .args(&ids)
            .output()
            .unwrap(),
    );
    assert_eq!(cluster.delivered().len(), 1);
    assert_well(
        &cluster
            .queue_run("node1", "node2group")
            .args(old)
            .args(&ids)
            .output()
            .unwrap(),
    );
    assert_eq!(cluster.delivered_users(), users);
}

#[test]
fn a_run_of_an_unknown_group_says_so_but_succeeds() {
    let cluster = Cluster::new(&NODES);
    let output = cluster.queue_run("node1", "nogroup").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "Queue group nogroup unknown\n"
    );
}

#[test]
fn a_cluster_leaves_nothing_running() {
    let mut cluster = Cluster::new(&NODES);
    let users = users(1);
    cluster.make_queue_groups([(&*users[0], "node1group")]);
    cluster.hold(&users[0], true);
    cluster.start("node1", &["-ODeliveryMode=background"]);
    cluster.send("node1", &users, "held");
    cluster.wait_until_held(&users[0]);
    let folder = cluster.folder().to_owned();
    assert_ne!(support::sendmail::processes(&folder), [""; 0]);
    drop(cluster);
    assert_eq!(support::sendmail::processes(&folder), [""; 0]);
    assert!(!folder.exists());
}
