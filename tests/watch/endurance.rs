//! Watchers for as long as others run in a day, or in an hour of bad luck.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use support::namespace;
use support::sendmail::wait_for;

use crate::nodes::Dovecots;
use crate::site::{Site, Watcher};

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(2 * 3600);
/// Of each node in 24 hours, with the defaults.
const PROBES_OF_A_DAY: usize = 2 * 24 * 3600;
/// What the memory of a process may differ by, in KB, from one time to another.
const NOISE: u64 = 2048;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// In KB.
    memory: u64,
    descriptors: usize,
    threads: usize,
}

impl Held {
    fn by(process: u32) -> Held {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        let count = |what: &str| fs::read_dir(format!("/proc/{process}/{what}")).unwrap().count();
        Held {
            memory: line.trim().trim_end_matches(" kB").parse().unwrap(),
            descriptors: count("fd"),
            threads: count("task"),
        }
    }

    /// The least of each, over some time in which much begins and ends.
    fn at_least(process: u32) -> Held {
        (0..100).fold(Held::by(process), |least, _| {
            thread::sleep(Duration::from_millis(5));
            let held = Held::by(process);
            Held {
                memory: least.memory.min(held.memory),
                descriptors: least.descriptors.min(held.descriptors),
                threads: least.threads.min(held.threads),
            }
        })
    }
}

/// Asks each node so often, as fast as can be, while one of them comes and goes.
fn ask(probes: usize) {
    let dovecots = Dovecots::start();
    let site = Site::new();
    site.configure(
        site.configuration()
            .set("checks.probe", "imap")
            .set("checks.port", i64::from(dovecots.port()))
            .set("watch.interval_ms", 10)
            .set("watch.timeout_ms", 60_000),
    );
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    let asked = || (1..=3).map(|node| dovecots.probes(node)).min().unwrap();
    let wait = |probes: usize| {
        let begun = Instant::now();
        while asked() < probes {
            assert!(begun.elapsed() < DEADLINE, "it does not ask");
            // Each count reads all of the logs.
            thread::sleep(Duration::from_millis(500).max(Duration::from_micros(10 * probes as u64)));
        }
    };
    // By then it has all that it needs.
    wait(probes / 10);
    for mark in ["down", "auto"] {
        site.site.must(&[mark, "node2"]);
        site.wait_for_map();
    }
    let before = Held::at_least(watcher.id());
    let half = probes / 2;
    wait(half);
    for mark in ["down", "auto"] {
        site.site.must(&[mark, "node2"]);
        site.wait_for_map();
    }
    wait(probes);
    let after = Held::at_least(watcher.id());
    println!(
        "after {} of {} probes of each node: {before:?}, then {after:?}",
        probes / 10,
        asked()
    );
    assert!(
        after.memory <= before.memory + NOISE,
        "{before:?}, then {after:?}"
    );
    assert!(
        after.descriptors <= before.descriptors,
        "{before:?}, then {after:?}"
    );
    assert!(after.threads <= before.threads, "{before:?}, then {after:?}");
    watcher.end();
}

#[test]
fn thousands_of_probes_take_no_more_memory() {
    ask(2000);
}

#[test]
#[ignore = "takes half an hour"]
fn a_day_of_probes_takes_no_more_memory() {
    ask(PROBES_OF_A_DAY);
}

#[test]
fn a_node_that_comes_and_goes_stays_down() {
    let site = Site::new();
    site.configure(site.checked_by_files().set("watch.falls_per_hour", 3));
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    for fall in 1..=3 {
        site.set_up(2, false);
        site.wait_for_down(&["node2"]);
        site.set_up(2, true);
        if fall < 3 {
            site.wait_for_down(&[]);
        }
    }
    site.wait_for_problem("node node2: it answers, but went down 3 times within an hour");
    assert_eq!(site.down(), ["node2"]);
    // Others come and go as before.
    site.set_up(3, false);
    site.wait_for_down(&["node2", "node3"]);
    site.set_up(3, true);
    site.wait_for_down(&["node2"]);
    site.site.must(&["up", "node2"]);
    site.wait_for_down(&[]);
    site.wait_for_map();
    let stderr = watcher.end();
    assert_eq!(stderr.matches("within an hour").count(), 1, "{stderr}");
}

/// The node state is as it was, and whole, while there is no room for another one.
#[test]
fn a_full_disk_holds_up_the_change_alone() {
    namespace::run("endurance::a_full_disk_holds_up_the_change_alone", || {
        let site = Site::new();
        let disk = site.path("disk");
        fs::create_dir(&disk).unwrap();
        namespace::mount(&["-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs"], &disk);
        let state = disk.join("nodes.toml");
        // Of two values for one key the first would count.
        site.configure(site.checked_by_files());
        let text = fs::read_to_string(site.site.config()).unwrap();
        let (own, rest) = text.split_once('\n').unwrap();
        assert!(own.starts_with("node_state = "));
        fs::write(site.site.config(), format!("node_state = {state:?}\n{rest}")).unwrap();
        site.site.must(&["down", "node3", "--reason", "new disks"]);
        let before = fs::read_to_string(&state).unwrap();
        let watcher = Watcher::start(&site);
        let fill = || fs::write(disk.join("filler"), [0; 64 << 10]).is_err();
        assert!(fill(), "it is not full");
        site.set_up(2, false);
        site.wait_for_problem("No space left on device");
        assert_eq!(fs::read_to_string(&state).unwrap(), before);
        fs::remove_file(disk.join("filler")).unwrap();
        wait_for("the change", || {
            let state = mailaffinity::node_state::NodeState::load(&state).unwrap();
            state.is_down("node2") && state.is_down("node3")
        });
        site.wait_until_well();
        let left: Vec<_> = fs::read_dir(&disk)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(
            left.iter()
                .all(|name| !name.to_string_lossy().contains("mailaffinity-")),
            "{left:?}"
        );
        watcher.end();
    });
}
