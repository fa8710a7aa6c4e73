//! A cluster that is watched: its files, and the watcher.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use mailaffinity::access_map::AccessMap;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use support::configuration::{Configuration, Node};
use support::sendmail::{program, wait_for};
use support::{maps, site};

/// Far more than anything here takes: reached only when something hangs.
pub(crate) const LONG: Duration = Duration::from_secs(60);

const USERS: usize = 300;

pub(crate) struct Site {
    pub(crate) site: site::Site,
}

impl Site {
    /// node1 to node3 at 127.0.0.1 to .3, with users, an access map, and no checks.
    pub(crate) fn new() -> Site {
        let site = Site {
            site: site::Site::new(),
        };
        let users: String = (0..USERS).map(|number| format!("user{number}\n")).collect();
        site.write("users", &users);
        site.write("access", "Connect:192.0.2\tRELAY\n");
        fs::create_dir(site.path("up")).unwrap();
        for node in 1..=3 {
            site.set_up(node, true);
        }
        site
    }

    pub(crate) fn configuration(&self) -> Configuration {
        Configuration::of((1..=3).map(|number| Node::numbered(number, "127.0.0")))
            .access_map(maps::kind(), maps::named(self.path("access")))
            .set("access_map.busy_timeout_ms", 60_000)
            .set_path("access_map.makemap", program(&["makemap"], "sendmail-bin"))
            .users(self.path("users"))
            .set("watch.interval_ms", 50)
            .set("watch.hold_seconds", 0)
            .set("watch.falls_per_hour", 1000)
    }

    /// A node is up while there is a file with its name.
    pub(crate) fn checked_by_files(&self) -> Configuration {
        self.checked_by_files_in("up")
    }

    pub(crate) fn checked_by_files_in(&self, folder: &str) -> Configuration {
        let script = format!("test -e {}/\"$1\"", self.path(folder).display());
        self.configuration()
            .set(
                "checks.command",
                vec!["/bin/sh".into(), "-c".into(), script, "sh".into()],
            )
            .set("watch.timeout_ms", 60_000)
    }

    pub(crate) fn set_up(&self, node: usize, is_up: bool) {
        let file = self.path(&format!("up/node{node}"));
        match is_up {
            true => fs::write(file, "").unwrap(),
            false => fs::remove_file(file).unwrap(),
        }
    }

    pub(crate) fn configure(&self, configuration: Configuration) {
        self.site.configure(configuration);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.site.path(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        // As editors do.
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    pub(crate) fn script(&self, name: &str, text: &str) {
        self.write(name, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(self.path(name), Permissions::from_mode(0o755)).unwrap();
    }

    /// The names of the nodes that are down.
    pub(crate) fn down(&self) -> Vec<String> {
        let state = self.site.state();
        let nodes = ["node1", "node2", "node3"];
        nodes
            .iter()
            .filter(|node| state.is_down(node))
            .map(|node| (*node).to_owned())
            .collect()
    }

    pub(crate) fn wait_for_down(&self, down: &[&str]) {
        wait_for(&format!("{down:?} to be down"), || self.down() == down);
    }

    /// The queue groups of users in the map in force.
    pub(crate) fn groups(&self) -> BTreeMap<String, String> {
        let map = format!("{}:{}", maps::kind(), maps::named(self.path("access")).display());
        let map = AccessMap::new(&map, LONG).unwrap();
        let users = fs::read_to_string(self.path("users")).unwrap();
        let group = |user: &str| {
            let entry = map.queue_group(user.as_bytes()).unwrap()?;
            Some((user.to_owned(), String::from_utf8(entry.value).unwrap()))
        };
        users.lines().filter_map(group).collect()
    }

    /// The queue groups of users as they are to be.
    pub(crate) fn computed(&self) -> BTreeMap<String, String> {
        let lines = self.site.must(&["map", "--all"]);
        let fields = lines.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        fields
            .map(|fields| (fields[0].to_owned(), fields.last().unwrap().to_string()))
            .collect()
    }

    pub(crate) fn wait_for_map(&self) {
        let map = maps::file(self.path("access"));
        wait_for("the map", || map.exists() && self.groups() == self.computed());
    }

    pub(crate) fn status(&self) -> Value {
        self.site.status("watch")
    }

    /// What is wrong, as the watcher has it.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.problems_in("status.json")
    }

    pub(crate) fn problems_in(&self, status: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(status)).unwrap_or_default();
        let status: Value = serde_json::from_str(&text).unwrap_or_default();
        serde_json::from_value(status["watch"]["problems"].clone()).unwrap_or_default()
    }

    pub(crate) fn wait_for_problem(&self, words: &str) {
        let is_there = || self.problems().iter().any(|problem| problem.contains(words));
        wait_for(words, is_there);
    }

    pub(crate) fn wait_until_well(&self) {
        wait_for("all to be well", || self.problems().is_empty());
    }

    /// No files are left that were in the making.
    #[track_caller]
    pub(crate) fn assert_tidy(&self) {
        let names = fs::read_dir(self.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let left: BTreeSet<_> = names
            .filter(|name| name.to_string_lossy().contains("mailaffinity-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A watcher that is at work. It is killed when this is dropped.
pub(crate) struct Watcher {
    child: Child,
    stderr: PathBuf,
    /// What it tells systemd, by the socket in the folder.
    told: Receiver<String>,
    folder: TempDir,
}

const SOCKET: &str = "notify";

impl Watcher {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start(site: &Site) -> Watcher {
        let mut watcher = Watcher::spawn(site, |_| ());
        watcher.wait_for("READY=1");
        watcher
    }

    pub(crate) fn spawn(site: &Site, prepare: impl FnOnce(&mut Command)) -> Watcher {
        Watcher::of(&site.site.config(), prepare)
    }

    /// Starts one by a configuration.
    pub(crate) fn of(config: &Path, prepare: impl FnOnce(&mut Command)) -> Watcher {
        Watcher::by(Command::new("env"), config, prepare)
    }

    /// By a command that becomes env(1).
    pub(crate) fn by(mut command: Command, config: &Path, prepare: impl FnOnce(&mut Command)) -> Watcher {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join(SOCKET);
        let notified = UnixDatagram::bind(&socket).unwrap();
        let (tell, told) = mpsc::channel();
        // The system keeps few messages that nobody reads.
        thread::spawn(move || {
            let mut message = [0; 1000];
            while let length @ 1.. = notified.recv(&mut message).unwrap() {
                let words = String::from_utf8(message[..length].to_vec()).unwrap();
                let _ = tell.send(words);
            }
        });
        let stderr = folder.path().join("stderr");
        // It leaves a hangup ignored that its parent ignores, as below nohup.
        command
            .arg("--default-signal=HUP")
            .arg(&*support::built::MAILAFFINITY)
            .arg("--config")
            .arg(config)
            .arg("watch")
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stderr(File::create(&stderr).unwrap());
        prepare(&mut command);
        Watcher {
            child: command.spawn().unwrap(),
            stderr,
            told,
            folder,
        }
    }

    /// Waits until it tells systemd this.
    pub(crate) fn wait_for(&mut self, words: &str) {
        let begun = Instant::now();
        let mut told: Vec<String> = Vec::new();
        while !told.last().is_some_and(|last| last.contains(words)) {
            assert!(begun.elapsed() < LONG, "{told:?}: {}", self.stderr());
            told.extend(self.told.recv_timeout(Duration::from_millis(20)));
            assert!(words == "STOPPING=1" || !self.has_ended(), "{}", self.stderr());
        }
    }

    /// The same, but for what it has told so far.
    pub(crate) fn wait_for_another(&mut self, words: &str) {
        while self.told.try_recv().is_ok() {}
        self.wait_for(words);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        while !self.has_ended() {
            assert!(begun.elapsed() < LONG, "it does not end");
            thread::sleep(Duration::from_millis(2));
        }
        self.child.wait().unwrap()
    }

    /// It must still be at work. What it has said on standard error.
    pub(crate) fn end(mut self) -> String {
        assert!(!self.has_ended(), "{}", self.stderr());
        self.signal(Signal::TERM);
        assert_eq!(self.wait().signal(), Some(Signal::TERM.as_raw()));
        self.stderr()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // That ends the thread which reads it.
        let _ =
            UnixDatagram::unbound().and_then(|socket| socket.send_to(b"", self.folder.path().join(SOCKET)));
    }
}
