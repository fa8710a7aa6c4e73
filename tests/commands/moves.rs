//! Users who are moved by hand.

use std::fs;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use mailaffinity::mapping::UsernameHash;
use mailaffinity::node_state::NodeState;
use serde_json::json;
use support::configuration::{Configuration, Node};
use support::site::Site;

/// node1 to node3, two in another tag, and users by the name before the `@`.
fn site() -> Site {
    let site = Site::new();
    let nodes = (1..=3).map(|number| Node::numbered(number, "10.0.0"));
    let far = (4..=5).map(|number| Node::numbered(number, "10.0.0").tag("far"));
    site.configure(
        Configuration::of(nodes.chain(far))
            .set("username_hash", "%Ln")
            .access_map("text", site.path("access"))
            .users(site.path("users")),
    );
    let users: String = (1..=20).map(|number| format!("user{number}\n")).collect();
    fs::write(site.path("users"), users).unwrap();
    fs::write(site.path("access"), "").unwrap();
    site
}

fn nodes(site: &Site, users: &[&str], tag: &str) -> Vec<String> {
    let lines = site.must(&[&["map", "--tag", tag], users].concat());
    let node = |line: &str| line.split('\t').nth(1).unwrap().to_owned();
    lines.lines().map(node).collect()
}

fn hash(user: &str) -> String {
    format!("{:08x}", UsernameHash::default().hash(user.as_bytes()).unwrap())
}

#[track_caller]
fn assert_refuses(site: &Site, arguments: &[&str], status: i32, words: &str) {
    let before = site.seen();
    let output = site.run(&[&["move"], arguments].concat(), b"");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(stderr.contains(words), "{stderr}");
    assert_eq!(site.seen(), before);
}

#[test]
fn there_and_back() {
    let site = site();
    let users = ["user1", "user2", "user3"];
    let home = nodes(&site, &users, "");
    let away: Vec<&str> = home
        .iter()
        .map(|home| if home == "node2" { "node3" } else { "node2" })
        .collect();

    let dry = site.must(&["move", "--dry-run", "user1", away[0]]);
    assert_eq!(dry, format!("user1\t{}\t{}\n", home[0], away[0]));
    assert_eq!(site.state(), NodeState::default());

    for (user, node) in users.iter().zip(&away) {
        assert_eq!(site.must(&["move", user, node]), "");
    }
    assert_eq!(nodes(&site, &users, ""), away);
    // By the name that authentication leaves.
    assert_eq!(nodes(&site, &["USER1@example.org"], "")[0], away[0]);
    let listed = site.must(&["move", "--list"]);
    assert!(
        listed.contains(&format!("user1\t{}\t-\t{}\n", away[0], hash("user1"))),
        "{listed}"
    );
    assert_eq!(listed.lines().count(), 3, "{listed}");
    // sendmail follows.
    site.must(&["update"]);
    let access = fs::read_to_string(site.path("access")).unwrap();
    assert!(
        access.contains(&format!("QGRP:user1@\t{}group\n", away[0])),
        "{access}"
    );

    // To the own node is back, also while that is down.
    site.must(&["move", "user1", &home[0]]);
    site.must(&["down", &home[1]]);
    let dry = site.must(&["move", "--dry-run", "--back", "user2"]);
    assert!(dry.starts_with(&format!("user2\t{}\tnode", away[1])), "{dry}");
    assert!(!dry.ends_with(&format!("\t{}\n", home[1])), "{dry}");
    site.must(&["move", "--back", "user2"]);
    site.must(&["auto", &home[1]]);
    assert_eq!(nodes(&site, &users, "")[..2], home[..2]);
    assert_eq!(nodes(&site, &users, "")[2], away[2]);
    let output = site.run(&["move", "--back"], b"user3\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(site.state(), NodeState::default());

    // Many, on standard input.
    let input: String = (1..=20).map(|number| format!("user{number}\n")).collect();
    let output = site.run(&["move", "node1"], input.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let all: Vec<&str> = input.lines().collect();
    assert!(nodes(&site, &all, "").iter().all(|node| node == "node1"));
    assert_eq!(site.must(&["move", "--back", "--all"]), "");
    assert_eq!(site.state(), NodeState::default());
}

#[test]
fn what_it_refuses() {
    let site = site();
    assert_refuses(&site, &["user1", "node9"], 64, "there is no node \"node9\"");
    assert_refuses(&site, &[], 64, "which NODE?");
    assert_refuses(&site, &["user1", "node4"], 64, "node4 does not have the tag \"\"");
    assert_refuses(
        &site,
        &["--tag", "far", "user1", "node1"],
        64,
        "node1 does not have the tag \"far\"",
    );
    assert_refuses(
        &site,
        &["user1", &"x".repeat(2000), "node1"],
        65,
        "longer than 1023 bytes",
    );
    assert_refuses(&site, &["--for", "soon", "user1", "node1"], 64, "--for <TIME>");
    for time in ["0s", "2h ago", "9999y"] {
        assert_refuses(
            &site,
            &["--for", time, "user1", "node1"],
            64,
            "nobody can be moved for",
        );
    }
    let config = fs::read_to_string(site.config()).unwrap();
    let director = format!("{config}\n[checks]\ndirector = \"/run/dovecot/director-admin\"\n");
    fs::write(site.config(), director).unwrap();
    assert_refuses(
        &site,
        &["user1", "node1"],
        64,
        "move users by \"doveadm director move\"",
    );
    assert_eq!(site.must(&["move", "--list"]), "");
}

#[test]
fn what_it_tells() {
    let site = site();
    let told = |arguments: &[&str]| {
        let output = site.run(arguments, b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    fs::write(
        site.path("users"),
        "anna@a.example\nanna@b.example\nANNA@a.example\nbert\n",
    )
    .unwrap();
    let to = if nodes(&site, &["anna"], "") == ["node1"] {
        "node2"
    } else {
        "node1"
    };
    assert_eq!(
        told(&["move", "anna@a.example", to]),
        "mailaffinity: others have the same hashes, and move too: anna@b.example\n"
    );
    assert_eq!(told(&["move", "anna@a.example", "anna@b.example", to]), "");
    assert_eq!(site.must(&["move", "--list"]).lines().count(), 3);
    site.must(&["down", to]);
    let is_down = told(&["move", "bert", to]);
    assert!(
        is_down.starts_with(&format!("mailaffinity: {to} is down: ")),
        "{is_down}"
    );
    fs::remove_file(site.path("users")).unwrap();
    let unknown = told(&["move", "--back", "anna"]);
    assert!(
        unknown.contains("whose hashes these are too is not known: "),
        "{unknown}"
    );
}

#[test]
fn each_tag_has_moves_of_its_own() {
    let site = site();
    let (home, far) = (nodes(&site, &["user1"], ""), nodes(&site, &["user1"], "far"));
    let away = if home == ["node1"] { "node2" } else { "node1" };
    let far_away = if far == ["node4"] { "node5" } else { "node4" };
    site.must(&["move", "user1", away]);
    site.must(&["move", "user1", far_away, "--tag", "far"]);
    let is = |here: &str, there: &str| {
        assert_eq!(nodes(&site, &["user1"], ""), [here]);
        assert_eq!(nodes(&site, &["user1"], "far"), [there]);
    };
    is(away, far_away);
    site.must(&["move", "--back", "user1"]);
    is(&home[0], far_away);
    site.must(&["move", "user1", away]);
    site.must(&["move", "--back", "--tag", "far", "user1"]);
    is(away, &far[0]);
}

#[test]
fn an_update_ends_moves_whose_time_has_come() {
    let site = site();
    let home = nodes(&site, &["user1", "user2", "user3"], "");
    let away = |place: usize| if home[place] == "node1" { "node2" } else { "node1" };
    let begun = Timestamp::now();
    site.must(&["move", "--for", "2h 30m", "user1", away(0)]);
    site.must(&["move", "user2", away(1)]);
    let rows = site.json(&["move", "--list", "--json"]);
    let row = |user: &str| rows.iter().find(|row| row["user"] == user).unwrap().clone();
    assert_eq!(
        row("user2"),
        json!({"user": "user2", "node": away(1), "until": null, "hash": hash("user2")})
    );
    let until: Timestamp = row("user1")["until"].as_str().unwrap().parse().unwrap();
    let span = SignedDuration::from_mins(150);
    assert!(until + SignedDuration::from_secs(1) > begun + span && until <= Timestamp::now() + span);
    assert_eq!(until.subsec_nanosecond(), 0);

    // It stays until then, and one that has ended goes, by the next update.
    let text = fs::read_to_string(site.path("nodes.toml")).unwrap();
    let ended = format!("[node.{}]\nmoved = \"", away(2));
    let text = match text.contains(&ended) {
        true => text.replace(&ended, &format!("{ended}{}=2026-01-01T00:00:00Z ", hash("user3"))),
        false => format!("{text}\n{ended}{}=2026-01-01T00:00:00Z\"\n", hash("user3")),
    };
    fs::write(site.path("nodes.toml"), text).unwrap();
    let all_away = [away(0), away(1), away(2)];
    assert_eq!(nodes(&site, &["user1", "user2", "user3"], ""), all_away);
    let diff = site.run(&["diff"], b"");
    assert_eq!(diff.status.code(), Some(1), "{diff:?}");
    let diff = String::from_utf8(diff.stdout).unwrap();
    assert!(diff.contains(&format!("users moved to {}\t", away(2))), "{diff}");
    site.must(&["update"]);
    assert_eq!(
        nodes(&site, &["user1", "user2", "user3"], ""),
        [away(0), away(1), &home[2]]
    );
    assert!(Path::new(&site.path("nodes.toml.last-good")).exists());
    let seen = site.seen();
    site.must(&["update"]);
    assert_eq!(site.seen(), seen);
}
