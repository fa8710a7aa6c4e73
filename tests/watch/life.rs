//! One watcher, from its start to its end, and beside other commands.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use support::configuration::Configuration;
use support::sendmail::wait_for;

use crate::site::{Site, Watcher};

#[test]
fn two_watchers() {
    let site = Site::new();
    site.configure(site.checked_by_files());
    let first = Watcher::start(&site);
    let mut second = Watcher::spawn(&site, |_| ());
    assert_eq!(second.wait().code(), Some(75), "{}", second.stderr());
    let expected = format!(
        "mailaffinity: another watcher is at work: {} is held by process {} on ",
        site.path(".watch.lock").display(),
        first.id()
    );
    let stderr = second.stderr();
    assert!(
        stderr.starts_with(&expected) && stderr.lines().count() == 1,
        "{stderr}"
    );
    site.set_up(2, false);
    site.wait_for_down(&["node2"]);
    drop(first);
    // The lock goes with whoever held it.
    Watcher::start(&site).end();
}

/// One that others keep from its new configuration takes that when they are gone.
#[test]
fn a_watcher_that_waits_for_the_lock_of_another() {
    let site = Site::new();
    site.configure(site.checked_by_files());
    let first = Watcher::start(&site);
    fs::create_dir(site.path("elsewhere")).unwrap();
    let config = site.path("elsewhere/mailaffinity.toml");
    let at = |status: &str| {
        let second = site.checked_by_files().set_path("status", site.path(status));
        let second = second.set_path("node_state", site.path("nodes.toml"));
        fs::write(&config, second.to_string()).unwrap();
    };
    at("elsewhere/status.json");
    let mut second = Watcher::of(&config, |_| ());
    second.wait_for("READY=1");
    at("common.json");
    let refused = |problem: &String| problem.starts_with("configuration: another watcher is at work");
    wait_for("it to be refused", || {
        site.problems_in("elsewhere/status.json").iter().any(refused)
    });
    drop(first);
    wait_for("the second's status", || site.path("common.json").exists());
    wait_for("all to be well", || site.problems_in("common.json").is_empty());
    let mut third = Watcher::spawn(&site, |_| ());
    assert_eq!(third.wait().code(), Some(75), "{}", third.stderr());
    second.end();
}

/// As where others of the same user have all the inotify instances that there may be.
#[test]
fn one_whom_the_kernel_tells_nothing() {
    let site = Site::new();
    site.configure(site.checked_by_files());
    let mut alone = Command::new("unshare");
    let none = "echo 0 >/proc/sys/user/max_inotify_instances && exec \"$@\"";
    alone.args(["--user", "--map-root-user", "sh", "-c", none, "sh", "env"]);
    let mut watcher = Watcher::by(alone, &site.site.config(), |_| ());
    watcher.wait_for("READY=1");
    site.site.must(&["down", "node2"]);
    wait_for("node2 to be down for the watcher", || {
        site.path("status.json").exists() && site.status()["nodes_down"] == serde_json::json!(["node2"])
    });
    watcher.end();
}

/// As on two machines that share the node state, but not the lock.
#[test]
fn two_watchers_who_do_not_know_of_each_other() {
    let site = Site::new();
    fs::create_dir(site.path("elsewhere")).unwrap();
    let config = site.path("elsewhere/mailaffinity.toml");
    let of = |configuration: Configuration| configuration.set("watch.falls_per_hour", 3);
    site.configure(of(site.checked_by_files()));
    let elsewhere = of(site.checked_by_files_in("elsewhere"))
        .set_path("node_state", site.path("nodes.toml"))
        .set_path("status", site.path("elsewhere/status.json"))
        .set_path("syslog", site.path("no-log"));
    fs::write(&config, elsewhere.to_string()).unwrap();
    let set_up = |node: usize, is_up: bool| {
        site.set_up(node, is_up);
        let (file, name) = (site.path(&format!("elsewhere/node{node}")), format!("node{node}"));
        match is_up {
            true => fs::write(file, name).unwrap(),
            false => fs::remove_file(file).unwrap(),
        }
    };
    (1..=3).for_each(|node| set_up(node, true));
    let _first = Watcher::start(&site);
    let mut second = Watcher::of(&config, |_| ());
    second.wait_for("READY=1");
    // What both see, they do once.
    set_up(2, false);
    site.wait_for_down(&["node2"]);
    set_up(2, true);
    site.wait_for_down(&[]);
    // What one sees, the other undoes, until that has happened too often.
    site.set_up(3, false);
    let status = "elsewhere/status.json";
    let gives_up = |problem: &String| problem.contains("it answers, but went down 3 times within an hour");
    wait_for("the second to give up", || {
        site.problems_in(status).iter().any(gives_up)
    });
    assert_eq!(site.down(), ["node3"]);
    site.wait_for_map();
    // People have the last word with both.
    site.site.must(&["up", "node3"]);
    wait_for("the second to know", || site.problems_in(status).is_empty());
    assert_eq!(site.down(), [""; 0]);
}

/// What cannot be asked has not failed.
#[test]
fn one_without_descriptors() {
    let site = Site::new();
    site.configure(site.checked_by_files());
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    let limit = |limit: Rlimit| {
        let id = Pid::from_raw(watcher.id().try_into().unwrap());
        prlimit(id, Resource::Nofile, limit).unwrap()
    };
    let before = limit(Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Nofile)
    });
    wait_for("node2's check to be told", || {
        let stderr = watcher.stderr();
        stderr.contains("node node2, its check: ") && stderr.contains("Too many open files")
    });
    limit(before);
    site.set_up(2, false);
    site.wait_for_down(&["node2"]);
    site.wait_until_well();
    let stderr = watcher.end();
    assert!(!stderr.contains("finds no node up"), "{stderr}");
}

#[test]
fn an_update_leaves_the_checks_to_it() {
    let site = Site::new();
    // It asks once a minute, and is hard to convince.
    let slow = site.checked_by_files().set("watch.interval_ms", 60_000);
    site.configure(slow.set("watch.fall", 100));
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    site.set_up(2, false);
    site.site.must(&["update"]);
    assert_eq!(site.down(), [""; 0]);
    site.site.must(&["down", "node3"]);
    site.site.must(&["update"]);
    assert_eq!(site.groups(), site.computed());
    drop(watcher);
    site.site.must(&["update"]);
    assert_eq!(site.down(), ["node2", "node3"]);
}

#[test]
fn signals() {
    let site = Site::new();
    site.configure(site.checked_by_files().set("watch.update_seconds", 86_400));
    let mut watcher = Watcher::start(&site);
    watcher.wait_for("WATCHDOG=1");
    site.wait_for_map();
    // What follows its own writing of the map.
    let finished = || site.site.status("update")["finished"].clone();
    let mut last = finished();
    wait_for("quiet", || {
        std::thread::sleep(std::time::Duration::from_secs(3));
        std::mem::replace(&mut last, finished()) == finished()
    });
    watcher.signal(Signal::HUP);
    wait_for("an update", || finished() != last);
    watcher.signal(Signal::HUP);
    watcher.wait_for("WATCHDOG=1");
    watcher.signal(Signal::TERM);
    watcher.wait_for("STOPPING=1");
    assert_eq!(watcher.wait().signal(), Some(Signal::TERM.as_raw()));
    assert_eq!(watcher.stderr(), "");
    site.assert_tidy();
}

/// A program that hangs is ended with it.
#[test]
fn it_ends_at_once() {
    let site = Site::new();
    site.script(
        "hang",
        &format!("touch {}\nexec sleep 3600.5", site.path("hangs").display()),
    );
    let hang = vec![vec![site.path("hang").to_str().unwrap().to_owned()]];
    site.configure(site.checked_by_files().set("watch.on_change", hang));
    let watcher = Watcher::start(&site);
    site.set_up(2, false);
    wait_for("the program", || site.path("hangs").exists());
    // Nobody waits for it.
    site.set_up(3, false);
    site.wait_for_down(&["node2", "node3"]);
    site.wait_for_map();
    watcher.end();
    let left = Command::new("pgrep")
        .args(["-f", "^sleep 3600.5$"])
        .stdout(Stdio::null())
        .status();
    assert_eq!(left.unwrap().code(), Some(1), "it goes on");
}

#[test]
fn what_it_cannot_begin_with() {
    let site = Site::new();
    site.configure(site.checked_by_files());
    site.write("nodes.toml", "broken");
    let output = site.site.run(&["watch"], b"");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    fs::remove_file(site.path("nodes.toml")).unwrap();
    site.write("mailaffinity.toml", "broken");
    let output = site.site.run(&["watch"], b"");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

#[test]
fn its_status_is_documented() {
    let site = Site::new();
    let program = vec![vec!["/bin/true".to_owned()]];
    site.configure(site.checked_by_files().set("watch.on_change", program));
    let watcher = Watcher::start(&site);
    site.set_up(2, false);
    wait_for("the status", || {
        let told = |status: &serde_json::Value| status["on_change"][0]["told_down"][0] == "node2";
        let status = || site.status();
        site.path("status.json").exists() && told(&status()) && status()["sessions"].is_object()
    });
    watcher.end();
    let page = fs::read_to_string("doc/man/mailaffinity.toml.5").unwrap();
    let (_, section) = page.split_once(".Sh STATUS FILE\n").unwrap();
    let words: Vec<&str> = section
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    let status = site.status();
    assert_eq!(status["nodes_down"], serde_json::json!(["node2"]));
    let fall: jiff::Timestamp = status["falls"]["node2"][0].as_str().unwrap().parse().unwrap();
    assert!(
        fall.duration_since(jiff::Timestamp::now()).as_hours() == 0,
        "{status}"
    );
    let program = status["on_change"][0].as_object().unwrap();
    let sessions = status["sessions"].as_object().unwrap();
    let keys = status.as_object().unwrap().keys();
    for key in keys.chain(program.keys()).chain(sessions.keys()) {
        assert!(words.contains(&key.as_str()), "{key}");
    }
}
