//! Lookups while maps are rebuilt.

use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mailaffinity::access_map::{AccessMap, Error, SETTLE};

use support::maps;

const USERS: usize = 2000;

fn map(kind: &str, path: &Path, timeout: Duration) -> AccessMap {
    AccessMap::new(&format!("{kind}:{}", path.display()), timeout).unwrap()
}

/// The source of a map whose values are all `generation`.
fn source(generation: usize) -> Vec<u8> {
    maps::source((0..USERS).map(|user| (format!("QGRP:user{user}@"), generation.to_string())))
}

/// Rebuilds a map `rebuilds` times with `build`, while threads look users up.
/// Each must be found, with a value that was in the map at some time between
/// start and end of the lookup. The next rebuild waits for some answers.
fn hammer(map: &AccessMap, rebuilds: usize, build: impl Fn(usize)) {
    let (started, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (answers, busy) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let over = AtomicBool::new(false);
    let read = &|mut user: usize| {
        while !over.load(Ordering::SeqCst) {
            user = (user + 617) % USERS;
            let least = finished.load(Ordering::SeqCst);
            let result = map.queue_group(format!("user{user}").as_bytes());
            let most = started.load(Ordering::SeqCst);
            let entry = match result {
                Ok(entry) => entry.unwrap_or_else(|| panic!("user{user} is missing")),
                Err(Error::Busy { .. }) => {
                    busy.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let generation: usize = String::from_utf8(entry.value).unwrap().parse().unwrap();
            assert!(
                (least..=most).contains(&generation),
                "{least} {generation} {most}"
            );
            answers.fetch_add(1, Ordering::SeqCst);
            // Readers without a pause would lock makemap out.
            std::thread::sleep(Duration::from_micros(50));
        }
    };
    build(0);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|reader| scope.spawn(move || read(reader))).collect();
        let have_failed = || readers.iter().any(|reader| reader.is_finished());
        for generation in 1..=rebuilds {
            started.store(generation, Ordering::SeqCst);
            build(generation);
            finished.store(generation, Ordering::SeqCst);
            let enough = answers.load(Ordering::SeqCst) + 10;
            while answers.load(Ordering::SeqCst) < enough && !have_failed() {
                std::thread::sleep(Duration::from_millis(1));
            }
            if have_failed() {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    println!("{answers:?} answers, {busy:?} times busy, in {rebuilds} rebuilds");
}

#[test]
fn in_place_by_makemap() {
    let directory = maps::directory();
    let path = directory.path().join("access.db");
    let map = map("hash", &path, Duration::from_secs(60));
    hammer(&map, 80, |generation| {
        maps::make_hash(&path, &source(generation), &[]);
    });
}

#[test]
fn in_place_by_makemap_with_large_maps() {
    // Larger than makemap's cache, so that it writes pages all the time.
    let directory = maps::directory();
    let path = directory.path().join("access.db");
    let map = map("hash", &path, Duration::from_secs(60));
    let more = maps::source((0..30_000).map(|n| (format!("user{n}@example.org"), "x".repeat(50))));
    hammer(&map, 8, |generation| {
        maps::make_hash(&path, &[source(generation), more.clone()].concat(), &[]);
    });
}

#[test]
fn by_rename() {
    let directory = maps::directory();
    let path = directory.path().join("access.db");
    let new = directory.path().join("new.db");
    let map = map("hash", &path, Duration::from_secs(60));
    hammer(&map, 80, |generation| {
        maps::make_hash(&new, &source(generation), &[]);
        std::fs::rename(&new, &path).unwrap();
    });
}

#[test]
fn removed_before_it_is_made_anew() {
    let directory = maps::directory();
    let path = directory.path().join("access.db");
    let map = map("hash", &path, Duration::from_secs(60));
    // makemap makes the empty file first and locks it then.
    hammer(&map, 80, |generation| {
        let aside = directory.path().join("aside.db");
        maps::make_hash(&aside, &source(generation), &[]);
        let file = File::create(directory.path().join("empty.db")).unwrap();
        std::fs::rename(directory.path().join("empty.db"), &path).unwrap();
        std::thread::yield_now();
        file.lock().unwrap();
        std::io::copy(&mut File::open(&aside).unwrap(), &mut &file).unwrap();
    });
}

#[test]
fn text_in_place_without_a_lock() {
    let directory = maps::directory();
    let path = directory.path().join("access");
    let map = map("text", &path, Duration::from_secs(60));
    // A writer that pauses for longer than SETTLE is seen half-way, and on a
    // busy machine any writer may: such a run proves nothing.
    for _ in 0..20 {
        let pause = Mutex::new(Duration::ZERO);
        let run = catch_unwind(AssertUnwindSafe(|| {
            hammer(&map, 4, |generation| {
                for _ in 0..50 {
                    let longest = maps::rewrite_in_place(&path, &source(generation), 1000);
                    let mut pause = pause.lock().unwrap();
                    *pause = longest.max(*pause);
                }
            });
        }));
        if pause.into_inner().unwrap() < SETTLE {
            return run.unwrap_or_else(|failure| resume_unwind(failure));
        }
    }
    panic!("this machine is too busy for this test");
}

#[test]
fn text_by_rename() {
    let directory = maps::directory();
    let path = directory.path().join("access");
    let new = directory.path().join("new");
    let map = map("text", &path, Duration::from_secs(60));
    hammer(&map, 3, |generation| {
        std::fs::write(&new, source(generation)).unwrap();
        std::fs::rename(&new, &path).unwrap();
    });
}

#[test]
fn a_lock_that_stays_makes_the_map_busy() {
    let directory = maps::directory();
    let path = directory.path().join("access.db");
    maps::make_hash(&path, &source(0), &[]);
    let holder = File::open(&path).unwrap();
    holder.lock().unwrap();
    for timeout in [Duration::ZERO, Duration::from_millis(50)] {
        let error = map("hash", &path, timeout).queue_group(b"user1").unwrap_err();
        assert!(
            matches!(error, Error::Busy { waited, .. } if waited >= timeout),
            "{error}"
        );
        assert!(
            error.to_string().contains("access.db is busy: another process"),
            "{error}"
        );
    }
    holder.unlock().unwrap();
    // Other readers, such as sendmail, do not disturb.
    holder.lock_shared().unwrap();
    let entry = map("hash", &path, Duration::ZERO).queue_group(b"user1").unwrap();
    assert_eq!(entry.unwrap().value, b"0");
}

#[test]
fn an_empty_file_is_no_database() {
    let directory = maps::directory();
    for (kind, name) in [("hash", "access.db"), ("cdb", "access.cdb")] {
        let path = directory.path().join(name);
        File::create(&path).unwrap();
        // Busy while it may be one that is being rebuilt, damaged from then on.
        let error = map(kind, &path, Duration::from_secs(60))
            .queue_group(b"user1")
            .unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("is empty"), "{error}");
    }
}

#[test]
fn an_empty_text_has_no_entries_once_it_is_left_alone() {
    let directory = maps::directory();
    let path = directory.path().join("access");
    File::create(&path).unwrap();
    let error = map("text", &path, Duration::ZERO)
        .queue_group(b"user1")
        .unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    let answer = map("text", &path, Duration::from_secs(60)).queue_group(b"user1");
    assert_eq!(answer.unwrap(), None);
}

/// A makemap that has begun to rebuild a map from `source` and waits for more.
fn unfinished_makemap(path: &Path, source: &[u8]) -> Child {
    let before = std::fs::metadata(path).unwrap().modified().unwrap();
    let has_begun = || {
        let now = std::fs::metadata(path).unwrap();
        now.modified().unwrap() != before && now.len() >= 3 * 4096
    };
    let mut child = maps::makemap()
        .arg("hash")
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("makemap starts");
    child.stdin.as_mut().unwrap().write_all(source).unwrap();
    while !has_begun() {
        assert!(child.try_wait().unwrap().is_none(), "makemap has failed");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn a_killed_makemap_leaves_a_damaged_map() {
    let directory = maps::directory();
    // Less, and more, than makemap's cache holds.
    for users in [50, 200_000] {
        let path = directory.path().join(format!("access{users}.db"));
        maps::make_hash(&path, &source(0), &[]);
        let source = (0..users).map(|user| (format!("qgrp:user{user}@"), "1"));
        let mut makemap = unfinished_makemap(&path, &maps::source(source));
        let map = map("hash", &path, Duration::ZERO);
        let error = map.queue_group(b"user1").unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");

        makemap.kill().unwrap();
        makemap.wait().unwrap();
        for user in ["user1", "user1999", "nobody"] {
            let error = map.queue_group(user.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("interrupted"), "{error}");
        }
        maps::make_hash(&path, &self::source(2), &[]);
        assert_eq!(map.queue_group(b"user1").unwrap().unwrap().value, b"2");
    }
}
