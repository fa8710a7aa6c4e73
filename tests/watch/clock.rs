//! A clock that is set back, and forth.

use std::fs;
use std::path::Path;

use support::sendmail::wait_for;

use crate::site::{Site, Watcher};

/// libfaketime sets the clock by this file, for one program.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// A watcher that has the clock of the file "time".
fn with_clock(site: &Site) -> Watcher {
    let library = LIBRARIES.iter().find(|library| Path::new(library).exists());
    let library = library.expect("Debian's package faketime");
    let mut watcher = Watcher::spawn(site, |command| {
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", site.path("time"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            // Files keep their own times.
            .env("NO_FAKE_STAT", "1");
    });
    watcher.wait_for("READY=1");
    watcher
}

#[test]
fn a_clock_that_is_set_changes_nothing() {
    let site = Site::new();
    site.configure(site.checked_by_files());
    site.write("time", "+0");
    let watcher = with_clock(&site);
    site.wait_for_map();
    // It is written a second later for the first time.
    let written = || -> Option<String> { Some(site.status()["written"].as_str()?[..4].to_owned()) };
    for (time, year) in [("-10y", -10), ("+20y", 20), ("-1y", -1)] {
        site.write("time", time);
        site.set_up(2, false);
        site.wait_for_down(&["node2"]);
        site.wait_for_map();
        site.site.must(&["down", "node3"]);
        wait_for("the mark by hand", || {
            !site.groups().values().any(|group| group == "node3group")
        });
        let this_year: i32 = jiff::Timestamp::now().to_string()[..4].parse().unwrap();
        let expected = (this_year - 1 + year..=this_year + 1 + year).map(|year| year.to_string());
        let expected: Vec<String> = expected.collect();
        wait_for("its clock", || {
            written().is_some_and(|year| expected.contains(&year))
        });
        site.site.must(&["auto", "node3"]);
        // In place: by its clock, that may be still to come.
        let users = fs::read_to_string(site.path("users")).unwrap();
        let user = format!("since{}", year.abs());
        fs::write(site.path("users"), format!("{users}{user}\n")).unwrap();
        wait_for("the user", || site.groups().contains_key(&user));
        site.set_up(2, true);
        site.wait_for_down(&[]);
        site.wait_for_map();
    }
    fs::remove_file(site.path("time")).unwrap();
    watcher.end();
}

#[test]
fn a_flapping_node_stays_down_for_the_next_watcher() {
    const YEARS: i64 = -315_360_000;
    let site = Site::new();
    site.configure(site.checked_by_files().set("watch.falls_per_hour", 2));
    site.write("time", "+0");
    let watcher = with_clock(&site);
    for _ in 0..2 {
        site.set_up(2, false);
        site.wait_for_down(&["node2"]);
        site.set_up(2, true);
        wait_for("its return or why not", || {
            site.down().is_empty() || !site.problems().is_empty()
        });
    }
    let flaps = "node node2: it answers, but went down 2 times";
    site.wait_for_problem(flaps);
    watcher.end();
    // After half an hour; by a clock that was set back for years, and an hour and a half later by that.
    for (time, holds) in [
        (1800, true),
        (YEARS, true),
        (YEARS + 1800, true),
        (YEARS + 5400, false),
    ] {
        site.write("time", &format!("{time:+}"));
        let status = fs::read_to_string(site.path("status.json")).unwrap();
        site.write("status.json", &status.replace(flaps, "of the last watcher"));
        let watcher = with_clock(&site);
        match holds {
            true => site.wait_for_problem(flaps),
            false => site.wait_for_down(&[]),
        }
        watcher.end();
        assert_eq!(site.down().is_empty(), !holds, "{time}");
    }
}
