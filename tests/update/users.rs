//! The list of users.

use std::fs;

use crate::site::{Site, assert_fails, key, set_mode, user_list};
use support::maps;

#[test]
fn lists_that_are_missing_or_cannot_be_read() {
    let site = Site::hash();
    site.update();
    site.well(&["down", "node1"]);
    let users = site.path("users");
    let named = |problem: &str| {
        format!(
            "{}: cannot read the list of users: {problem}; the access map stays as it is",
            users.display()
        )
    };

    set_mode(&users, 0);
    let before = site.files("etc");
    let output = maps::run(&mut site.command_bound_by_modes(&["update"]), b"");
    assert_fails(&output, 74, &named("Permission denied (os error 13)"));
    assert_eq!(site.files("etc"), before);

    fs::remove_file(&users).unwrap();
    site.update_fails(&[], 74, &named("No such file or directory (os error 2)"));
    fs::create_dir(&users).unwrap();
    site.update_fails(&[], 74, &named("it is not a regular file"));
    fs::remove_dir(&users).unwrap();
    for empty in [&b""[..], b"\n\n", b"# nobody\n"] {
        site.write("users", empty);
        site.update_fails(&["--accept-loss"], 65, "users lists no user; the access map");
    }
    site.write("users", &user_list(0..500));
    site.update();
    site.assert_agrees();
}

#[test]
fn many_that_vanish_stop_it() {
    let site = Site::hash();
    site.write("users", &user_list(0..1000));
    site.update();
    site.write("users", &user_list(0..910));
    site.update();
    assert_eq!(site.status()["removed"], 90);
    site.assert_agrees();

    site.write("users", &user_list(0..1000));
    site.update();
    site.write("users", &user_list(110..1000));
    let message = "too few users, 890 where the access map has 1000: it stays as it is";
    site.update_fails(&[], 65, message);
    assert_fails(&site.run(&["diff"]), 65, message);
    assert_fails(&site.run(&["update", "--dry-run"]), 65, message);
    assert!(site.map().queue_group(b"user0").unwrap().is_some());
    assert_eq!(site.run(&["diff", "--accept-loss"]).status.code(), Some(1));
    site.well(&["update", "--accept-loss"]);
    site.assert_agrees();
    assert!(site.map().queue_group(b"user0").unwrap().is_none());
    // What was accepted counts from now on.
    site.update();
}

#[test]
fn the_loss_that_is_plausible_is_configurable() {
    let site = Site::hash();
    site.update();
    for (percent, count, goes_through) in [(0, 499, false), (1, 495, true), (100, 1, true)] {
        site.write("users", &user_list(0..count));
        site.configure(site.configuration().set("users.max_loss_percent", percent));
        if goes_through {
            site.update();
        } else {
            site.update_fails(&[], 65, "too few users, 499 where the access map has 500");
        }
    }
    assert_eq!(site.entries().len(), 1 + 2 + 1);
}

#[test]
fn names_that_cannot_be_keys_are_left_out() {
    let site = Site::hash();
    let odd: &[(&[u8], &str)] = &[
        (b"an na", "an na: it has a blank"),
        (b"be\rt", "be\\rt: it has a blank"),
        (b"c\tx", "c\\tx: it has a blank"),
        (b"d\0", "d\\x00: it has a NUL"),
        (b"\x1b[m", "\\x1b[m: it has a control character"),
        (b"@example.org", "@example.org: nothing stands before the @"),
        (b"e@", "e@: nothing stands after the @"),
    ];
    let mut users = user_list(0..100);
    for (user, _) in odd {
        users.extend([user, &b"\n"[..]].concat());
    }
    users.extend([&[b'l'; 300][..], b"\n"].concat());
    users.extend(b"\xff\xfe\n#comment\nlast");
    site.write("users", &users);
    site.update();
    let status = site.status();
    let mut expected: Vec<String> = odd.iter().map(|(_, line)| (*line).into()).collect();
    expected.push("l".repeat(300) + ": it is too long for sendmail");
    assert_eq!(
        status["left_out"],
        serde_json::json!({"count": 8, "first": expected})
    );

    // All may read the status, and not all the access source.
    set_mode(&site.path("etc/access"), 0o640);
    assert!(site.run(&["update", "--force"]).status.success());
    assert_eq!(
        site.status()["left_out"],
        serde_json::json!({"count": 8, "first": []})
    );
    let mut entries = site.entries();
    let computed = site.computed();
    let mut sound: Vec<Vec<u8>> = (0..100).map(|n| format!("user{n}").into_bytes()).collect();
    sound.extend([b"\xff\xfe".to_vec(), b"last".to_vec()]);
    for user in sound {
        assert_eq!(entries.remove(&key(&user)).as_ref(), Some(&computed[&user]));
    }
    let rest: Vec<_> = entries.into_keys().collect();
    assert_eq!(
        rest,
        [
            &b"connect:192.0.2"[..],
            b"from:spam@example.org",
            b"mailaffinity:source"
        ],
        "nothing mangled"
    );

    // Where no user has a key, nobody is left.
    let lines = users.split(|byte| *byte == b'\n');
    let blanks: Vec<u8> = lines.flat_map(|line| [b"x ", line, b"\n"].concat()).collect();
    site.write("users", &blanks);
    site.update_fails(
        &["--accept-loss"],
        65,
        "none of the 111 users can have an entry (the last one: it has a blank)",
    );
}

#[test]
fn lists_of_other_systems_are_refused_and_so_are_their_names() {
    let site = Site::hash();
    site.update();
    let list = user_list(0..500);
    let windows = list.split_inclusive(|byte| *byte == b'\n');
    let windows: Vec<u8> = windows
        .flat_map(|line| [&line[..line.len() - 1], b"\r\n"].concat())
        .collect();
    let mark = "\u{feff}".as_bytes();
    for (list, problem) in [
        (
            &windows,
            "line 1 ends in a carriage return; end lines with LF and not CRLF",
        ),
        (
            &[mark, &list[..]].concat(),
            "line 1 begins with a byte order mark; make it UTF-8 without a BOM",
        ),
    ] {
        site.write("users", list);
        let named = format!("{}: {problem}", site.path("users").display());
        site.update_fails(&["--accept-loss"], 65, &named);
        for command in [&["diff"][..], &["map", "--all"], &["agreement"]] {
            assert_fails(&site.run(command), 65, &named);
        }
        let output = maps::run(&mut site.command(&["map"]), list);
        assert_fails(&output, 65, &format!("standard input: {problem}"));
    }
    for (user, problem) in [
        ("user1\r", "the username \"user1\\r\" ends in a carriage return"),
        (
            "\u{feff}user1",
            "the username \"\\xef\\xbb\\xbfuser1\" begins with a byte order mark",
        ),
    ] {
        assert_fails(&site.run(&["map", user]), 65, problem);
        assert_fails(&site.run(&["agreement", "--", user]), 65, problem);
    }
}

#[test]
fn names_that_differ_in_case_only() {
    let site = Site::hash();
    let as_typed = site.configuration().set("auth_username_format", "%u");
    site.configure(as_typed.set("username_hash", "%u"));
    let pairs: String = (0..50).map(|n| format!("user{n}\nUSER{n}\n")).collect();
    site.write("users", pairs.as_bytes());
    site.update();
    let computed = site.computed();
    let differ = (0..50)
        .filter(|n| computed[format!("user{n}").as_bytes()] != computed[format!("USER{n}").as_bytes()])
        .count();
    assert!(differ > 10, "{differ}");
    assert_eq!(site.status()["left_out"]["count"], differ);
    assert_eq!(site.entries().len(), 50 + 2 + 1);
    for n in 0..50 {
        let user = format!("user{n}").into_bytes();
        assert_eq!(
            site.map().queue_group(&user).unwrap().unwrap().value,
            computed[&user],
            "the first counts"
        );
    }

    // Where the mapping folds case too, they are one.
    site.configure(site.configuration());
    site.update();
    assert_eq!(site.status()["left_out"]["count"], 0);
    assert_eq!(site.entries().len(), 50 + 2 + 1);
}

#[test]
fn programs_that_list_users() {
    let site = Site::hash();
    site.update();
    site.well(&["down", "node3"]);
    let run = |script: &str| {
        site.configure(
            site.configuration()
                .users_of(["/bin/sh", "-c", script])
                .set("users.timeout_seconds", 1),
        );
    };
    for (script, status, message) in [
        (
            "echo down >&2; exit 75",
            69,
            "ended with exit status 75: down; the access map",
        ),
        (
            "seq -f user%g 0 499; exit 1",
            69,
            "ended with exit status 1; the access map",
        ),
        ("exit 0", 65, "lists no user; the access map stays as it is"),
        ("echo; echo", 65, "lists no user; the access map stays as it is"),
        (
            "seq -f user%g 0 499 | sed 's/$/\\r/'",
            65,
            ": line 1 ends in a carriage return; end lines with LF",
        ),
        (
            "echo user1; exec sleep 1000",
            69,
            "did not end within 1s and was stopped",
        ),
        (
            "seq -f user%g 0 499; exec >&- 2>&-; exec sleep 1000",
            69,
            "did not end within 1s and was stopped",
        ),
        ("kill -9 $$", 69, "was ended by signal 9; the access map"),
    ] {
        run(script);
        site.update_fails(&[], status, message);
        assert!(site.status()["error"].as_str().unwrap().contains(message));
    }
    run("seq -f user%g 0 399");
    site.update_fails(&[], 65, "too few users, 400 where the access map has 500");
    run("seq -f user%g 0 499");
    site.update();
    site.assert_agrees();

    site.configure(site.configuration().users_of(["/nonexistent/list"]));
    site.update_fails(
        &[],
        69,
        "/nonexistent/list cannot be run: No such file or directory",
    );
}
