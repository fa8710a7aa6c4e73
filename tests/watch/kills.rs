//! A watcher that is killed at any instant.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use support::sendmail::wait_for;

use crate::site::{Site, Watcher};

#[test]
fn leaves_whole_files() {
    kill(50);
}

#[test]
#[ignore = "takes minutes"]
fn hundreds_leave_whole_files() {
    kill(500);
}

/// Kills so many watchers.
fn kill(kills: usize) {
    let site = Site::new();
    site.configure(
        site.checked_by_files()
            .set("watch.interval_ms", 10)
            .set("watch.fall", 1)
            .set("watch.rise", 1)
            // Or most of them would be killed while a node that is up again waits for that.
            .set("watch.move_seconds", 0)
            .set_path("access_map.published", site.path("answers.cdb")),
    );
    // All that there can be, by the nodes that are down.
    let possible: BTreeMap<Vec<String>, BTreeMap<String, String>> = [&[][..], &[2], &[3], &[2, 3]]
        .into_iter()
        .map(|down| {
            for node in [2, 3] {
                if !down.contains(&node) {
                    continue;
                }
                site.site.must(&["down", &format!("node{node}")]);
            }
            let all = (site.down(), site.computed());
            site.site.must(&["auto", "node2", "node3"]);
            all
        })
        .collect();
    assert_eq!(possible.len(), 4);
    site.site.must(&["update"]);
    let mut state = [true, true];
    let (mut changed, mut unfinished) = (0, 0);
    for kill in 0..kills {
        let before = (site.down(), site.groups());
        let mut watcher = Watcher::spawn(&site, |_| ());
        if kill % 3 > 0 {
            watcher.wait_for("READY=1");
        }
        let node = kill % 2;
        state[node] = !state[node];
        site.set_up(node + 2, state[node]);
        // Spread evenly over a little more than it takes.
        let part = (kill as f64 * 0.618_033_988_749_895).fract();
        thread::sleep(Duration::from_millis(250).mul_f64(part));
        watcher.signal(Signal::KILL);
        watcher.wait();
        // Each is whole, and of some moment.
        let (down, groups) = (site.down(), site.groups());
        assert!(possible.contains_key(&down), "{down:?}");
        let of = possible.values().filter(|possible| **possible == groups).count();
        assert_eq!(of, 1, "not of any state");
        changed += usize::from(down != before.0);
        unfinished += usize::from(possible[&down] != groups);
        // Whoever asks goes by the map, but for nodes that are down.
        if kill % 10 == 0 {
            let watcher = Watcher::start(&site);
            let wanted: Vec<String> = (0..2)
                .filter(|node| !state[*node])
                .map(|node| format!("node{}", node + 2))
                .collect();
            wait_for("the nodes", || site.down() == wanted);
            site.wait_for_map();
            assert_eq!(watcher.end(), "");
            site.site.must(&["update"]);
            site.assert_tidy();
        }
    }
    println!("{changed} had written the node state, {unfinished} were ahead of the map");
    assert!(changed > 0 && unfinished > 0, "{changed}, {unfinished}");
}
