//! What an update publishes of the map, for those who may not read it.

use std::fs;
use std::os::unix::fs::{chown, lchown, symlink};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use mailaffinity::access_map::Published;
use rustix::process::geteuid;

use crate::site::{ADMINISTRATORS, Site, Stamp, assert_fails, set_mode};
use support::configuration::node_state;

const PUBLISHED: &str = "lib/answers.cdb";
const BY_HAND: &[u8] =
    b"QGRP:User7@\tnode3group  # mine \nqgrp:boss@example.org node1group\nQGRP:example.net node2group\n";

fn site(kind: &str) -> Site {
    let site = Site::with_map(kind);
    let configuration = site.configuration().access_map(kind, site.path("etc/access"));
    site.configure(configuration.set_path("access_map.published", site.path(PUBLISHED)));
    site.write("etc/access", &[ADMINISTRATORS, BY_HAND].concat());
    site
}

/// For every user that anything is known of, and for some others, the answer is the map's.
#[track_caller]
fn assert_published(site: &Site) {
    let (map, published) = (site.map(), Published::new(site.path(PUBLISHED)));
    let users = (0..510).map(|number| format!("user{number}"));
    let others = [
        "USER7@example.org",
        "user7+box",
        "boss@example.org",
        "x@mail.example.net",
        "boss",
        "@",
        "",
    ];
    for user in users.chain(others.map(str::to_owned)) {
        let user = user.as_bytes();
        let found = published.queue_group(user).unwrap();
        assert_eq!(found, map.queue_group(user).unwrap(), "{}", user.escape_ascii());
    }
    assert!(map.get(b"connect:192.0.2").unwrap().is_some());
    assert_eq!(published.get(b"connect:192.0.2").unwrap(), None);
    let digest = |found: Option<Vec<u8>>| found.unwrap();
    let key = b"mailaffinity:source";
    assert_eq!(digest(published.get(key).unwrap()), digest(map.get(key).unwrap()));
    assert_eq!(site.well(&["diff"]), b"");
}

fn stamp(site: &Site) -> Stamp {
    Stamp::of(&site.path(PUBLISHED))
}

#[test]
fn answers_are_those_of_the_map() {
    for kind in ["hash", "text"] {
        let site = site(kind);
        assert!(
            String::from_utf8(site.well(&["update", "--dry-run"]))
                .unwrap()
                .contains("user1\t")
        );
        assert!(!site.path(PUBLISHED).exists());
        site.update();
        assert_published(&site);
        assert_eq!(stamp(&site).mode & 0o7777, 0o644, "all may read it");
        site.well(&["down", "node2"]);
        site.update();
        assert_published(&site);
        // Somebody edits.
        let source = String::from_utf8(site.source()).unwrap();
        site.write("etc/access", source.replace("boss@", "chef@").as_bytes());
        site.update();
        assert_published(&site);
        let before = (site.files("etc"), stamp(&site));
        site.update();
        assert_eq!(
            (site.files("etc"), stamp(&site)),
            before,
            "there is nothing to do"
        );
        assert_eq!(site.status()["result"], "unchanged");
        // The administrator's system keeps no more of them.
        let names = site.names();
        assert!(
            !names.iter().any(|name| name.contains("mailaffinity-")),
            "{names:?}"
        );
    }
}

/// By a crash between the two, by hand, or by a file system.
#[test]
fn what_is_not_of_the_map_is_published_anew() {
    let site = site("hash");
    site.update();
    let path = site.path(PUBLISHED);
    let old = fs::read(&path).unwrap();
    site.well(&["down", "node2"]);
    site.update();
    let new = fs::read(&path).unwrap();
    assert_ne!(old, new);
    let breaks: [(&str, &dyn Fn()); 6] = [
        ("gone", &|| fs::remove_file(&path).unwrap()),
        ("of before", &|| fs::write(&path, &old).unwrap()),
        ("cut short", &|| fs::write(&path, &new[..new.len() - 1]).unwrap()),
        ("empty", &|| fs::write(&path, "").unwrap()),
        ("another thing", &|| fs::write(&path, [b'x'; 9000]).unwrap()),
        ("its folder is gone", &|| {
            fs::remove_file(&path).unwrap();
            fs::rename(site.path("lib"), site.path("old")).unwrap();
            fs::create_dir(site.path("lib")).unwrap();
            fs::copy(site.path("old/nodes.toml"), site.path("lib/nodes.toml")).unwrap();
            fs::remove_dir_all(site.path("old")).unwrap();
        }),
    ];
    for (what, break_it) in breaks {
        break_it();
        let before = site.files("etc");
        let output = site.run(&["diff"]);
        assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
        let expected = format!(
            "{}\tthe published answers are not those of the map\n",
            path.display()
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{what}");
        site.update();
        assert_eq!(site.status()["result"], "changed", "{what}");
        assert_eq!(site.files("etc"), before, "{what}: the map stays");
        assert_published(&site);
        assert_eq!(fs::read(&path).unwrap(), new, "{what}");
    }
    let before = (Stamp::of(&site.path("etc/access.db")), stamp(&site));
    site.well(&["update", "--force"]);
    assert_ne!(stamp(&site).inode, before.1.inode);
    assert_ne!(Stamp::of(&site.path("etc/access.db")).changed, before.0.changed);
}

#[test]
fn who_may_read_it_is_the_administrators_to_say() {
    let site = site("hash");
    site.update();
    let path = site.path(PUBLISHED);
    set_mode(&path, 0o640);
    if geteuid().is_root() {
        chown(&path, Some(1), Some(33)).unwrap();
    }
    let before = stamp(&site);
    site.well(&["down", "node2"]);
    site.update();
    let after = stamp(&site);
    assert_ne!(after.inode, before.inode);
    assert_eq!((after.mode, after.owner), (before.mode, before.owner));
    assert_published(&site);
}

#[test]
fn nothing_else_is_overwritten_whatever_its_path() {
    for name in [
        "etc/access",
        "lib/nodes.toml",
        "lib/status.json",
        "mailaffinity.toml",
        "users",
    ] {
        let site = site("hash");
        site.well(&["down", "node2"]);
        site.update();
        let configuration = site.configuration().access_map("hash", site.path("etc/access"));
        let published = site.path("etc/..").join(name);
        site.configure(configuration.set_path("access_map.published", published));
        let before = site.read(name);
        let said = "published in [access_map] must be a file of its own";
        assert_fails(&site.run(&["update", "--force"]), 78, said);
        if name != "lib/status.json" {
            assert_eq!(site.read(name), before, "{name}");
        }
        assert_eq!(site.status()["result"], "failed");
    }
}

/// Another node made the map, and this one cannot list the users.
#[test]
fn answers_follow_the_map_where_the_update_fails() {
    let site = site("hash");
    site.update();
    let old = site.read(PUBLISHED);
    site.well(&["down", "node2"]);
    site.update();
    let new = site.read(PUBLISHED);
    for before in [Some(old), None] {
        match &before {
            Some(old) => site.write(PUBLISHED, old),
            None => fs::remove_file(site.path(PUBLISHED)).unwrap(),
        }
        fs::rename(site.path("users"), site.path("aside")).unwrap();
        assert_fails(&site.run(&["update"]), 74, "the access map stays as it is");
        assert!(site.read(PUBLISHED) == new);
        fs::rename(site.path("aside"), site.path("users")).unwrap();
    }
}

/// Mail is worth more than webmail's entries by hand.
#[test]
fn the_map_changes_where_nothing_can_be_published() {
    let site = site("hash");
    site.update();
    site.well(&["down", "node2"]);
    let path = site.path(PUBLISHED);
    for round in 0..2 {
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let said = format!("{}: ", path.display());
        assert_fails(&site.run(&["update"]), 74, &said);
        assert_fails(
            &site.run(&["update"]),
            74,
            "the access map is up to date, but not what is published of it",
        );
        assert_eq!(site.status()["result"], "failed");
        for (user, group) in site.computed() {
            if user != b"user7" {
                assert_eq!(site.map().queue_group(&user).unwrap().unwrap().value, group);
            }
        }
        fs::remove_dir(&path).unwrap();
        site.update();
        assert_published(&site);
        if round == 0 {
            site.well(&["up", "node2"]);
        }
    }
}

#[test]
#[ignore = "as root"]
fn a_link_of_somebody_else_is_not_followed_as_root() {
    let site = site("hash");
    site.write("bait", b"");
    symlink(site.path("bait"), site.path(PUBLISHED)).unwrap();
    lchown(site.path(PUBLISHED), Some(65534), None).unwrap();
    assert_fails(&site.run(&["update"]), 74, "is not followed");
    assert_eq!(site.read("bait"), b"");
}

/// What readers find while updates go to and fro, each by its own descriptor, shared or new
/// at each question: an answer of before or after, and after an update's end, that one's.
#[test]
fn readers_find_the_old_or_the_new() {
    const UPDATES: usize = 30;
    let site = site("hash");
    let answers = |down: &[&str]| {
        site.write("lib/nodes.toml", node_state(down).as_bytes());
        site.update();
        let map = site.map();
        let answer = |user: String| map.queue_group(user.as_bytes()).unwrap().unwrap().value;
        (0..500)
            .map(|number| answer(format!("user{number}")))
            .collect::<Vec<_>>()
    };
    let right = [answers(&[]), answers(&["node2"])];
    assert_ne!(right[0], right[1]);
    let shared = Published::new(site.path(PUBLISHED));
    // The last update that had begun, and the last that had ended. Those of even number have
    // all nodes up.
    let (begun, ended) = (AtomicUsize::new(1), AtomicUsize::new(1));
    let over = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (site, right, shared) = (&site, &right, &shared);
        let (begun, ended, over, asked) = (&begun, &ended, &over, &asked);
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                scope.spawn(move || {
                    let mut user = reader;
                    while !over.load(Ordering::SeqCst) {
                        user = (user + 17) % 500;
                        let name = format!("user{user}");
                        let least = ended.load(Ordering::SeqCst);
                        let found = match reader {
                            0 => Published::new(site.path(PUBLISHED)).queue_group(name.as_bytes()),
                            _ => shared.queue_group(name.as_bytes()),
                        };
                        let most = begun.load(Ordering::SeqCst);
                        let found = found.unwrap().expect("an entry").value;
                        let is_right = (least..=most).any(|update| right[update % 2][user] == found);
                        assert!(
                            is_right,
                            "{name}: {} between {least} and {most}",
                            found.escape_ascii()
                        );
                        asked.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let have_failed = || readers.iter().any(|reader| reader.is_finished());
        for update in 2..UPDATES {
            begun.store(update, Ordering::SeqCst);
            site.write(
                "lib/nodes.toml",
                node_state([&[][..], &["node2"]][update % 2]).as_bytes(),
            );
            site.update();
            ended.store(update, Ordering::SeqCst);
            let enough = asked.load(Ordering::SeqCst) + 100;
            while asked.load(Ordering::SeqCst) < enough && !have_failed() {
                thread::yield_now();
            }
            if have_failed() {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
    });
}
