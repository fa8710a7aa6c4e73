//! The administrator's file.

use std::fs;

use crate::site::{ADMINISTRATORS, Site, Stamp, key, outside, script};
use support::maps;

fn group_of(site: &Site, user: &str) -> String {
    String::from_utf8(site.computed()[user.as_bytes()].clone()).unwrap()
}

#[test]
fn entries_by_hand_win_and_are_reported() {
    let site = Site::hash();
    let source = [
        ADMINISTRATORS,
        b"QGRP:User1@ byhand\nqgrp:nobody@ other\nQGRP:user2@example.org away\n",
    ]
    .concat();
    site.write("etc/access", &source);
    site.update();
    let map = site.map();
    let found = |user: &str| map.queue_group(user.as_bytes()).unwrap().unwrap().value;
    assert_eq!(found("user1"), b"byhand");
    assert_eq!(found("USER1+x@example.org"), b"byhand");
    assert_eq!(found("nobody"), b"other");
    assert_eq!(found("user2@example.org"), b"away");
    assert_eq!(found("user2"), group_of(&site, "user2").into_bytes());
    assert_eq!(site.entries().len(), 500 + 2 + 2 + 1);
    assert_eq!(outside(&site.source()), (&source[..], &b""[..]));
    let status = site.status();
    let expected = format!(
        "line 4: user1 has byhand, the mapping {}",
        group_of(&site, "user1")
    );
    assert_eq!(
        status["by_hand"],
        serde_json::json!({"count": 1, "first": [expected]})
    );
    assert_eq!(status["entries"], 499);

    // Without it, the mapping counts again.
    let text = String::from_utf8(site.source()).unwrap();
    site.write("etc/access", text.replace("QGRP:User1@ byhand\n", "").as_bytes());
    site.update();
    assert_eq!(found("user1"), group_of(&site, "user1").into_bytes());
    assert_eq!(site.status()["by_hand"]["count"], 0);
}

#[test]
fn a_nul_in_a_comment_stops_nothing() {
    let site = Site::hash();
    site.write("etc/access", b"# caf\0e\nConnect:9 RELAY\n#x\0\0\0");
    site.update();
    assert_eq!(site.entries()[&b"connect:9"[..]], b"RELAY");
    let told = site.status()["complaints"].to_string();
    assert!(told.contains("line 1: it has a NUL byte"), "{told}");
}

#[test]
fn a_makemap_that_ends_early_is_noticed() {
    let site = Site::hash();
    let makemap = site.path("makemap");
    let real = support::sendmail::program(&["makemap"], "sendmail-bin");
    script(&makemap, &format!("head -n 6 | {real:?} \"$@\""));
    site.configure(site.configuration().set_path("access_map.makemap", makemap));
    for end in ["", "\n"] {
        let text = [
            ADMINISTRATORS,
            b"Connect:9 RELAY\nConnect:8 RELAY",
            end.as_bytes(),
        ]
        .concat();
        site.write("etc/access", &text);
        site.update_fails(&[], 69, "a map that lacks entries");
        assert!(site.try_entries().is_err(), "there is no map");
    }
}

#[test]
fn edits_are_followed_and_makemap_by_hand_is_not() {
    let site = Site::hash();
    site.update();
    let text = String::from_utf8(site.source()).unwrap();
    let edited = text.replace("From:spam", "Connect:198.51.100 REJECT\nFrom:spam") + "# last\nTo:x@ OK";
    site.write("etc/access", edited.as_bytes());
    assert_eq!(site.run(&["diff"]).status.code(), Some(1));
    site.update();
    let entries = site.entries();
    assert_eq!(entries[&b"connect:198.51.100"[..]], b"REJECT");
    assert_eq!(entries[&b"to:x@"[..]], b"OK");
    let source = site.source();
    let (before, after) = outside(&source);
    assert!(before.ends_with(b"\nConnect:198.51.100 REJECT\nFrom:spam@example.org\tREJECT\n"));
    assert_eq!(after, b"# last\nTo:x@ OK", "also without a last newline");

    // makemap hash access <access
    let made = maps::run(maps::makemap().arg("hash").arg(site.path("etc/access")), &source);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(site.entries(), entries, "makemap makes the same of the source");
    let files = site.files("etc");
    assert_eq!(site.well(&["diff"]), b"");
    site.update();
    assert_eq!(site.files("etc"), files);
    // Touched, the file is still the same.
    fs::File::open(site.path("etc/access"))
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    let files = site.files("etc");
    site.update();
    assert_eq!(site.files("etc"), files);
}

#[test]
fn lines_that_do_not_count_are_reported() {
    let site = Site::hash();
    let source = [
        ADMINISTRATORS,
        b"connect:192.0.2 REJECT\n broken\nnovalue\nmailaffinity:source x\n",
        &[b'x'; 2000],
        b"\n\xff\xfe\t\xff\nlast\0line x",
    ]
    .concat();
    site.write("etc/access", &source);
    site.update();
    let status = site.status();
    assert_eq!(status["exit_status"], 0);
    let first: Vec<&str> = status["complaints"]["first"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    assert_eq!(
        first[..4],
        [
            "line 4: the key of line 2 again, which counts",
            "line 5: it starts with a blank",
            "line 6: it has a key but no value",
            "line 7: this key is mailaffinity's",
        ],
        "{first:?}"
    );
    assert!(first[4].starts_with("line 8: "), "{first:?}");
    let entries = site.entries();
    assert_eq!(entries[&b"connect:192.0.2"[..]], b"RELAY");
    assert_eq!(entries[&b"\xff\xfe"[..]], b"\xff");
    let expected = [&source[..], b"\n"].concat();
    assert!(
        outside(&site.source()) == (&expected, b""),
        "only a newline was added"
    );
    let files = site.files("etc");
    site.update();
    assert_eq!(site.files("etc"), files);
}

#[test]
fn all_bytes_outside_the_block_stay() {
    let site = Site::hash();
    let all: Vec<u8> = (0..=255).collect();
    for (before, after) in [
        (&b""[..], &b""[..]),
        (b"a b\r\nc d\r\n", b"e f\r\ng h"),
        (b"\n\n\n", b"\n \n\t"),
        (b"\xef\xbb\xbfa b\n", b"# END mailaffinit\n"),
        (&[&all[..], b"\n"].concat(), &all),
        (
            b"# BEGIN mailaffinit\n",
            b"# BEGIN mailaffinities\n # END mailaffinity",
        ),
    ] {
        let mut source = before.to_vec();
        source.extend_from_slice(b"# BEGIN mailaffinity\r\nQGRP:old@ gone\r\n# END mailaffinity\r\n");
        source.extend_from_slice(after);
        site.write("etc/access", &source);
        for node in ["node1", "node2", "node3"] {
            site.well(&["down", node]);
            site.update();
            assert_eq!(outside(&site.source()), (before, after));
            assert_eq!(
                site.map().queue_group(b"user7").unwrap().unwrap().value,
                group_of(&site, "user7").into_bytes()
            );
            assert!(!site.entries().contains_key(&key(b"old")));
            site.well(&["auto", node]);
        }
    }
}

#[test]
fn carriage_returns_belong_to_the_values() {
    let site = Site::hash();
    site.write("etc/access", b"QGRP:user1@ node1group\r\nConnect:1 OK\r\n");
    site.update();
    assert_eq!(site.entries()[&b"connect:1"[..]], b"OK\r", "as makemap has it");
    assert_eq!(
        site.map().queue_group(b"user1").unwrap().unwrap().value,
        b"node1group\r"
    );
}

#[test]
fn a_broken_block_stops_it() {
    let site = Site::hash();
    site.update();
    let good = String::from_utf8(site.source()).unwrap();
    let count = good.lines().count();
    let broken = [
        (
            good.replace("# END mailaffinity", "# END"),
            4,
            "the block does not end",
        ),
        (
            good.clone() + "# END mailaffinity\n",
            count + 1,
            "the block ends a second time",
        ),
        (
            good.replace("# BEGIN", "#BEGIN"),
            count,
            "a block ends that did not begin",
        ),
        (good.clone() + &good, count + 4, "a second block begins"),
        // A comment of the administrator's.
        (
            format!("# BEGIN mailaffinity, which see\n{good}"),
            5,
            "a second block begins; remove one of the two, or this line (the block goes from \"# BEGIN mailaffinity\" \
             to \"# END mailaffinity\"; a comment of yours must not begin so)",
        ),
    ];
    for (text, line, problem) in broken {
        site.write("etc/access", text.as_bytes());
        let message = format!("{}: line {line}: {problem}", site.path("etc/access").display());
        site.update_fails(&[], 65, &message);
        assert!(site.status()["error"].as_str().unwrap().contains(problem));
        assert_eq!(site.run(&["diff"]).status.code(), Some(65));
        assert_eq!(site.run(&["update", "--dry-run"]).status.code(), Some(65));
    }
    site.write("etc/access", good.as_bytes());
    site.update();
    site.assert_agrees();
}

#[test]
fn sources_that_are_none() {
    let site = Site::hash();
    site.update();
    let (source, aside) = (site.path("etc/access"), site.path("aside"));
    fs::rename(&source, &aside).unwrap();
    let named = |problem: &str| format!("{}: {problem}", source.display());
    let missing = format!("the access source {} is not there; create it", source.display());
    site.update_fails(&[], 74, &missing);
    fs::create_dir(&source).unwrap();
    site.update_fails(&[], 74, &named("it is not a regular file"));
    fs::remove_dir(&source).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&source)
            .status()
            .unwrap()
            .success()
    );
    site.update_fails(&[], 74, &named("it is not a regular file"));
    fs::remove_file(&source).unwrap();
    std::os::unix::fs::symlink("access", &source).unwrap();
    site.update_fails(&[], 74, &source.display().to_string());
    fs::remove_file(&source).unwrap();
    fs::rename(&aside, &source).unwrap();
    let stamp = Stamp::of(&site.path("etc/access.db"));
    site.update();
    assert_eq!(Stamp::of(&site.path("etc/access.db")), stamp);

    site.configure(
        site.configuration()
            .set("access_map.source", "/nonexistent/access"),
    );
    site.update_fails(&[], 74, "cannot reach /nonexistent: No such file or directory");
}

#[test]
fn a_makemap_that_fails_changes_nothing() {
    let site = Site::hash();
    site.update();
    site.well(&["down", "node1"]);
    let makemap = site.path("makemap");
    let real = support::sendmail::program(&["makemap"], "sendmail-bin");
    for (body, message) in [
        (
            "echo no licence >&2; exit 3".to_owned(),
            "ended with exit status 3: no licence",
        ),
        ("kill -9 $$".into(), "was ended by signal 9"),
        ("exit 0".into(), "made a map that cannot be read"),
        (
            "for last; do :; done; cat >\"$last\"".into(),
            "made a map that cannot be read",
        ),
        (
            format!("head -n 100 | {real:?} \"$@\""),
            "made a map that lacks entries",
        ),
    ] {
        crate::site::script(&makemap, &body);
        site.configure(site.configuration().set_path("access_map.makemap", &makemap));
        site.update_fails(&[], 69, message);
        site.assert_tidy();
    }
    fs::remove_file(&makemap).unwrap();
    site.update_fails(&[], 69, "cannot be run: No such file or directory");
    site.configure(site.configuration());
    site.update();
    site.assert_agrees();
}
