//! Names that sendmail asks for and that are no user's own, where they cannot be found out.

use std::fs;

use support::configuration::Configuration;

use crate::site::{Site, assert_fails, script};

/// An address, a user, and an alias for each.
fn site() -> Site {
    let site = Site::hash();
    let_sendmail(&site, &domain("example.org"));
    site.write("users", b"anna@example.org\nbert\n");
    site.write("aliases", b"info: anna@example.org\npost: bert\n");
    site.configure(configuration(&site));
    site.update();
    site
}

/// Lets sendmail do this from now on, as after a change of its configuration.
fn let_sendmail(site: &Site, line: &str) {
    script(&site.path("sendmail"), line);
    site.write("sendmail.cf", line.as_bytes());
}

fn domain(domain: &str) -> String {
    format!("echo 'Enter <ruleset> <address>'; echo '> {domain}'")
}

fn configuration(site: &Site) -> Configuration {
    let path = |name: &str| site.path(name).to_str().unwrap().to_owned();
    site.configuration()
        .sendmail(vec![path("sendmail"), "-C".into(), path("sendmail.cf")])
        .set("sendmail.alias_files", vec![path("aliases")])
}

fn has(site: &Site, key: &[u8]) -> bool {
    site.entries().contains_key(key)
}

#[test]
fn stay_as_they_are() {
    let site = site();
    let other_names = [&b"qgrp:anna@"[..], b"qgrp:info@", b"qgrp:post@"];
    assert!(
        other_names.iter().all(|key| has(&site, key)),
        "{:?} {}",
        site.entries(),
        site.status()
    );
    let stay = |message: &str| {
        for command in [&["down", "node1"][..], &["auto", "node1"]] {
            site.well(command);
            assert_fails(&site.run(&["update"]), 0, message);
            assert!(other_names.iter().all(|key| has(&site, key)), "{message}");
            let user = site.computed()[&b"bert"[..]].clone();
            assert_eq!(site.entries()[&b"qgrp:bert@"[..]], user, "the others go on");
        }
    };
    fs::rename(site.path("aliases"), site.path("away")).unwrap();
    stay("cannot read the aliases: No such file");
    fs::rename(site.path("away"), site.path("aliases")).unwrap();
    let_sendmail(&site, "exit 75");
    stay("sendmail does not tell which domains are its own");

    // What is known to be gone is gone.
    let_sendmail(&site, &domain("example.net"));
    site.write("aliases", b"post: bert\n");
    site.update();
    assert!(!has(&site, b"qgrp:anna@") && !has(&site, b"qgrp:info@") && has(&site, b"qgrp:post@"));
}

/// Webmail would take it for the user's.
#[test]
fn are_nobodys_who_has_no_entry() {
    let site = site();
    let users: Vec<String> = (0..20).map(|n| format!("user{n}")).collect();
    let aliases: String = users
        .iter()
        .map(|user| format!("{user}: {}\n", users[0]))
        .collect();
    site.write("users", (users.join("\n") + "\n").as_bytes());
    site.write("aliases", aliases.as_bytes());
    let nodes = "[[node]]\nname = \"node1\"\naddress = \"192.0.2.1\"\nqueue_group = \"node1group\"\n\
                 [[node]]\nname = \"node2\"\naddress = \"192.0.2.2\"\n";
    site.configure(configuration(&site).with(nodes));
    site.well(&["update", "--accept-loss"]);
    let left_out = site.status()["left_out"]["count"].as_u64().unwrap();
    assert!(left_out > 0);
    assert_eq!(
        site.entries()
            .keys()
            .filter(|key| key.starts_with(b"qgrp:user"))
            .count() as u64,
        20 - left_out
    );
}
