//! The search order, against sendmail's own rule sets.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mailaffinity::access_map::{AccessMap, search_order};
use proptest::prelude::*;

use crate::peers;

/// A sendmail configuration whose rule set `group` looks a user up.
fn configuration(directory: &Path) {
    let cf = Path::new("/usr/share/sendmail/cf");
    assert!(cf.is_dir(), "this test needs {cf:?}: install sendmail-cf");
    let access = directory.join("access");
    let source = format!(
        "include(`{cf}/m4/cf.m4')
VERSIONID(`test')
OSTYPE(`linux')
FEATURE(`nocanonify')
FEATURE(`access_db', `hash {access}')
define(`confDONT_PROBE_INTERFACES', `True')
define(`confDONT_BLAME_SENDMAIL', `GroupWritableDirPathSafe,MapInUnsafeDirPath')
LOCAL_RULESETS
Sgroup
R$+ @ $+\t\t$@ $>SearchList <! qgrp> $| <F:$1@$2> <U:$1@> <>
R$+ @\t\t\t$: $1
R$+\t\t\t$@ $>SearchList <! qgrp> $| <U:$1@> <>
",
        cf = cf.display(),
        access = access.display(),
    );
    let m4 = peers::program(&["m4"], "m4");
    let output = peers::run(
        Command::new(m4).arg(format!("-D_CF_DIR_={}/", cf.display())),
        source.as_bytes(),
    );
    assert!(output.status.success(), "{output:?}");
    std::fs::write(directory.join("test.cf"), output.stdout).unwrap();
}

/// What sendmail finds for each user, in its address test mode.
fn sendmail_groups(directory: &Path, users: &[String]) -> Vec<Option<String>> {
    let input: String = users.iter().map(|user| format!("group {user}\n")).collect();
    // A host without a qualified name costs sendmail a minute at its start.
    let script = "
        if unshare --uts true; then with='unshare --uts'
        elif unshare --map-root-user --uts true; then with='unshare --map-root-user --uts'
        else exec \"$1\" -bt -C test.cf; fi 2> /dev/null
        exec $with sh -c 'hostname host.example.org; exec \"$1\" -bt -C test.cf' sh \"$1\"";
    let sendmail = peers::program(&["sendmail"], "sendmail-bin");
    let output = peers::run(
        Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(sendmail)
            .current_dir(directory),
        input.as_bytes(),
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let groups: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("group ")?.trim().strip_prefix("returns: <"))
        .map(|value| value.trim_end_matches('>').trim())
        .map(|value| (value != "?").then(|| value.to_owned()))
        .collect();
    assert_eq!(groups.len(), users.len(), "{output:?}");
    groups
}

fn user() -> impl Strategy<Value = String> {
    let local = "[abA+][ab.+]{0,4}|a\\+b|a\\+\\*|a";
    let domain = prop_oneof![
        3 => Just(String::new()),
        6 => "@[ab](\\.[aB])?",
        1 => "@[ab+@.]{0,4}",
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
        let directory = peers::directory();
        configuration(directory.path());
        // Keys from anywhere in the users' search orders, so that each may be
        // hidden by a better one or not.
        let all: Vec<Vec<u8>> =
            users.iter().flat_map(|user| search_order::keys(user.as_bytes())).collect();
        let entries: BTreeMap<&Vec<u8>, String> = picks
            .iter()
            .enumerate()
            .map(|(number, pick)| (pick.get(&all), format!("g{number}")))
            .collect();
        let path = directory.path().join("access.db");
        peers::make_hash(&path, &peers::source(&entries), &[]);

        let expected = sendmail_groups(directory.path(), &users);
        let map = AccessMap::new(&format!("hash:{}", path.display()), Duration::ZERO).unwrap();
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
