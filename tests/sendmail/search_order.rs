//! The search order, against sendmail with `dist/sendmail/feature/mailaffinity.m4`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailaffinity::access_map::{AccessMap, search_order};
use proptest::prelude::*;

use support::maps;
use support::sendmail::{Sendmail, feature, m4};

/// A configuration whose rule set `queuegroup` is the feature's. `features` may
/// name the default queue group, and `domains` is a file with the site's own domains.
fn configuration(map: &str, domains: &Path, features: &str) -> String {
    let domains = domains.display();
    format!(
        "include(`/usr/share/sendmail/cf/m4/cf.m4')
VERSIONID(`test')
OSTYPE(`linux')
FEATURE(`nocanonify')
FEATURE(`access_db', `{map}')
{features}
define(`confDONT_PROBE_INTERFACES', `True')
define(`confDONT_BLAME_SENDMAIL', `GroupWritableDirPathSafe,MapInUnsafeDirPath')
LOCAL_CONFIG
F{{mailaffinity}}-o {domains}
"
    )
}

fn mailaffinity(arguments: &str) -> String {
    format!("FEATURE(`{}'{arguments})", feature())
}

fn sendmail(directory: &Path, entries: &[u8], features: &str) -> Sendmail {
    let access = directory.join("access");
    maps::make_hash(&directory.join("access.db"), entries, &[]);
    let map = format!("hash -T<TMPF> {}", access.display());
    Sendmail::install(directory, &configuration(&map, &domains(directory), features))
}

fn domains(directory: &Path) -> PathBuf {
    directory.join("domains")
}

/// The domain of an address with all its beginnings: sendmail drops of its end what is
/// nothing to it.
fn domains_of(user: &str) -> impl Iterator<Item = &str> {
    let domain = user.split_once('@').map_or("", |(_, domain)| domain);
    (1..=domain.len()).filter_map(|end| domain.get(..end))
}

/// Addresses that sendmail can have for a recipient: no quotes, blanks, brackets
/// or comments, and nothing before the user. Some are stranger than any mail.
fn user() -> impl Strategy<Value = String> {
    let local = "[abA+][ab.+]{0,4}|a\\+b|a\\+\\*|a";
    let domain = prop_oneof![
        3 => Just(String::new()),
        8 => "@[ab](\\.[aB]){0,3}\\.?",
        1 => "@\\[[12](\\.[12]){1,3}\\]",
        1 => "@\\[IPv6:[12](::?[a1]){1,3}\\]",
        1 => "@\\[[ab1.:]{0,6}\\]",
        2 => "@[ab+@.]{0,6}",
    ];
    (local, domain).prop_map(|(local, domain)| local + &domain)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_group_is_the_one_sendmail_finds(
        users in prop::collection::vec(user(), 400),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 150),
    ) {
        // Keys from anywhere in the users' search orders, so that each may be
        // hidden by a better one or not.
        let all: Vec<Vec<u8>> =
            users.iter().flat_map(|user| search_order::keys(user.as_bytes())).collect();
        let entries: BTreeMap<&Vec<u8>, String> = picks
            .iter()
            .enumerate()
            .map(|(number, pick)| (pick.get(&all), format!("g{number}")))
            .collect();
        let directory = maps::directory();
        let own: Vec<&str> = users.iter().flat_map(|user| domains_of(user)).collect();
        fs::write(domains(directory.path()), own.join("\n")).unwrap();
        let sendmail = sendmail(directory.path(), &maps::source(&entries), &mailaffinity(""));

        let expected = sendmail.rule_set_groups(&users);
        let map = format!("hash:{}/access", directory.path().display());
        let map = AccessMap::new(&map, Duration::ZERO).unwrap();
        for (user, expected) in users.iter().zip(expected) {
            let entry = map.queue_group(user.as_bytes()).unwrap();
            if let Some(entry) = &entry {
                prop_assert_eq!(entries[&entry.key].as_bytes(), &entry.value);
            }
            let group = entry.map(|entry| String::from_utf8(entry.value).unwrap());
            prop_assert_eq!(group, expected, "{}", user);
        }
    }
}

const ENTRIES: &[u8] = b"QGRP:anna@\tn1
QGRP:Anna@b.example.org\tn2
QGRP:first.last+*@\tn3
QGRP:example.org\tn4
QGRP:[192.0.2]\tn5
";

const DOMAINS: &str = "A.example.org\nlists.example.org\n";

const USERS: [(&str, Option<&str>); 19] = [
    ("anna", Some("n1")),
    ("anna+box", Some("n1")),
    // In class {mailaffinity}, and in class w.
    ("anna@a.example.org", Some("n1")),
    ("Anna+box@A.Example.Org.", Some("n1")),
    ("anna@host.example.org", Some("n1")),
    ("anna@localhost", Some("n1")),
    // Strangers.
    ("anna@elsewhere.example", None),
    ("anna+box@elsewhere.example", None),
    ("anna@sub.a.example.org", Some("n4")),
    ("anna@[192.0.2.9]", Some("n5")),
    ("ANNA@B.Example.Org", Some("n2")),
    ("anna+box@b.example.org.", Some("n2")),
    ("<anna@b.example.org>", Some("n2")),
    ("first.last+box", Some("n3")),
    ("first.last", None),
    ("anybody@lists.example.org", Some("n4")),
    ("anybody@[192.0.2.1]", Some("n5")),
    ("anybody", None),
    ("anybody@elsewhere.example", None),
];

#[test]
fn users_have_the_groups_that_administrators_expect() {
    let directory = maps::directory();
    fs::write(domains(directory.path()), DOMAINS).unwrap();
    let sendmail = sendmail(directory.path(), ENTRIES, &mailaffinity(""));
    let found = sendmail.rule_set_groups(&USERS.map(|(user, _)| user));
    for ((user, expected), found) in USERS.into_iter().zip(found) {
        assert_eq!(found.as_deref(), expected, "{user}");
    }
}

#[test]
fn an_address_that_is_too_long_for_sendmail_has_no_group() {
    let directory = maps::directory();
    fs::write(domains(directory.path()), "").unwrap();
    let sendmail = sendmail(
        directory.path(),
        b"QGRP:anna@\tn1\nQGRP:org\tn2\n",
        &mailaffinity(""),
    );
    let map = AccessMap::new(
        &format!("hash:{}/access", directory.path().display()),
        Duration::ZERO,
    )
    .unwrap();
    for (user, expected) in [
        (format!("{:x<255}", "anna+"), Some("n1")),
        (format!("{:x<256}", "anna+"), None),
        (format!("bert@{}org", "a.".repeat(9)), Some("n2")),
        (format!("bert@{:a<243}.org", ""), Some("n2")),
        (format!("bert@{:a<248}.org", ""), None),
    ] {
        let entry = map.queue_group(user.as_bytes()).unwrap();
        let ours = entry.map(|entry| String::from_utf8(entry.value).unwrap());
        assert_eq!(ours.as_deref(), expected, "{user}");
        assert_eq!(sendmail.rule_set_group(&user).as_deref(), expected, "{user}");
    }
}

#[test]
fn the_argument_is_the_group_of_all_others() {
    let directory = maps::directory();
    fs::write(domains(directory.path()), DOMAINS).unwrap();
    let sendmail = sendmail(directory.path(), ENTRIES, &mailaffinity(", `rest'"));
    let found = sendmail.rule_set_groups(&USERS.map(|(user, _)| user));
    for ((user, expected), found) in USERS.into_iter().zip(found) {
        assert_eq!(found.as_deref(), expected.or(Some("rest")), "{user}");
    }
}

#[test]
fn a_map_that_does_not_answer_names_no_group() {
    let directory = maps::directory();
    let nowhere = format!("socket -T<TMPF> local:{}/nobody", directory.path().display());
    let users = ["anna", "anna@example.org"];
    let mut found = Vec::new();
    for arguments in ["", ", `rest'"] {
        let mc = configuration(&nowhere, &domains(directory.path()), &mailaffinity(arguments));
        found.extend(Sendmail::install(directory.path(), &mc).rule_set_groups(&users));
    }
    let rest = Some("rest".to_owned());
    assert_eq!(found, [None, None, rest.clone(), rest]);
}

#[test]
fn without_access_map_the_feature_complains() {
    let mc = configuration(
        "hash -T<TMPF> /etc/mail/access",
        Path::new("/etc/mail/user-domains"),
        &mailaffinity(""),
    );
    assert!(m4(&mc).stderr.is_empty());
    let mc: String = mc.lines().filter(|line| !line.contains("access_db")).collect();
    let output = m4(&mc);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaint.contains("FEATURE(`mailaffinity') requires FEATURE(`access_db')"),
        "{complaint}"
    );
}

#[test]
fn beside_the_stock_feature_sendmail_complains() {
    for stock_first in [true, false] {
        let directory = maps::directory();
        let (stock, ours) = ("FEATURE(`queuegroup')".to_owned(), mailaffinity(""));
        let features = if stock_first {
            stock + "\n" + &ours
        } else {
            ours + "\n" + &stock
        };
        let sendmail = sendmail(directory.path(), ENTRIES, &features);
        let output = sendmail
            .command()
            .arg("-bt")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(
            text.contains("Ruleset queuegroup has multiple definitions"),
            "{text}"
        );
    }
}
