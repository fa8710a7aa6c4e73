//! The search order, against sendmail's own rule sets.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
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

/// A sendmail that takes the host's name for qualified: without a qualified name it
/// sleeps for a minute at its start. A copy, since the installed one is setgid, and
/// the loader preloads nothing into such programs.
fn sendmail_of_a_named_host(directory: &Path) {
    let sendmail = directory.join("sendmail");
    std::fs::copy(peers::program(&["sendmail"], "sendmail-bin"), &sendmail).unwrap();
    std::fs::set_permissions(&sendmail, Permissions::from_mode(0o700)).unwrap();
    let source = "#include <string.h>
int gethostname(char *name, size_t size) { strncpy(name, \"host.example.org\", size); return 0; }
";
    let output = peers::run(
        Command::new(peers::program(&["cc"], "gcc"))
            .args(["-shared", "-fPIC", "-x", "c", "-o"])
            .arg(directory.join("host_name.so"))
            .arg("-"),
        source.as_bytes(),
    );
    assert!(output.status.success(), "{output:?}");
}

/// What sendmail finds for each user, in its address test mode.
fn sendmail_groups(directory: &Path, users: &[String]) -> Vec<Option<String>> {
    let input: String = users.iter().map(|user| format!("group {user}\n")).collect();
    let output = peers::run(
        Command::new(directory.join("sendmail"))
            .args(["-bt", "-C", "test.cf"])
            .env("LD_PRELOAD", directory.join("host_name.so"))
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
        sendmail_of_a_named_host(directory.path());
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
