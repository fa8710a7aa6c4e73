//! A cluster of three nodes with its files, and the command at work on them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mailaffinity::access_map::AccessMap;
use mailaffinity::config::Config;
use serde_json::Value;
use tempfile::TempDir;

use support::configuration::Configuration;
use support::{maps, sendmail};

pub(crate) const ADMINISTRATORS: &[u8] =
    b"# by hand\nConnect:192.0.2\tRELAY\nFrom:spam@example.org\tREJECT\n";
const BLOCK: &[u8] = b"# BEGIN mailaffinity";

/// Values by key.
pub(crate) type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) struct Site {
    _folder: TempDir,
    root: PathBuf,
}

impl Site {
    /// A site with the usual kind of map.
    pub(crate) fn hash() -> Site {
        Site::with_map(maps::kind())
    }

    /// A site with a configuration, users and an access source, in `etc`. What is
    /// written in its course is in `etc` and `lib`.
    pub(crate) fn with_map(kind: &str) -> Site {
        let folder = maps::directory();
        let root = folder.path().canonicalize().unwrap();
        let site = Site {
            root,
            _folder: folder,
        };
        fs::create_dir(site.path("etc")).unwrap();
        fs::create_dir(site.path("lib")).unwrap();
        site.configure(match kind == maps::kind() {
            true => site.configuration(),
            false => site.configuration().access_map(kind, site.path("etc/access")),
        });
        site.write("etc/access", ADMINISTRATORS);
        site.write("users", &user_list(0..500));
        site
    }

    /// That of the usual kind of map.
    pub(crate) fn configuration(&self) -> Configuration {
        Configuration::of_three_nodes("192.0.2")
            .set_path("node_state", self.path("lib/nodes.toml"))
            .set_path("status", self.path("lib/status.json"))
            .set_path("syslog", self.path("no-log"))
            .access_map(maps::kind(), maps::named(self.path("etc/access")))
            .set("access_map.busy_timeout_ms", 60_000)
            .set_path(
                "access_map.makemap",
                sendmail::program(&["makemap"], "sendmail-bin"),
            )
            .users(self.path("users"))
    }

    pub(crate) fn configure(&self, configuration: Configuration) {
        self.write("mailaffinity.toml", configuration.to_string().as_bytes());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn source(&self) -> Vec<u8> {
        self.read("etc/access")
    }

    /// The command with this configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&*support::built::MAILAFFINITY);
        command
            .arg("--config")
            .arg(self.path("mailaffinity.toml"))
            .args(arguments);
        command
    }

    /// The command as one for whom the modes of files count: as root without the
    /// capabilities that override them.
    pub(crate) fn command_bound_by_modes(&self, arguments: &[&str]) -> Command {
        let command = self.command(arguments);
        if !rustix::process::geteuid().is_root() {
            return command;
        }
        let mut bound = Command::new("setpriv");
        bound
            .arg("--bounding-set=-dac_override,-dac_read_search")
            .arg(command.get_program())
            .args(command.get_args());
        bound
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        maps::run(&mut self.command(arguments), b"")
    }

    /// Runs a command that must succeed and say nothing on standard error.
    #[track_caller]
    pub(crate) fn well(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
        output.stdout
    }

    #[track_caller]
    pub(crate) fn update(&self) {
        assert_eq!(self.well(&["update"]), b"", "for cron");
    }

    /// Runs an update that must fail and leave source and map as they are.
    #[track_caller]
    pub(crate) fn update_fails(&self, arguments: &[&str], status: i32, message: &str) {
        let before = self.files("etc");
        let output = self.run(&[&["update"], arguments].concat());
        assert_fails(&output, status, message);
        assert_eq!(self.files("etc"), before);
    }

    /// The status of the last update.
    pub(crate) fn status(&self) -> Value {
        let status: Value = serde_json::from_slice(&self.read("lib/status.json")).unwrap();
        status["update"].clone()
    }

    pub(crate) fn config(&self) -> Config {
        Config::load(&self.path("mailaffinity.toml")).unwrap()
    }

    pub(crate) fn map(&self) -> AccessMap {
        self.config().access_map.unwrap().map
    }

    /// What `mailaffinity map --all` says: queue groups by user.
    pub(crate) fn computed(&self) -> Entries {
        let text = self.well(&["map", "--all"]);
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let mut fields = line.split(|byte| *byte == b'\t');
                (
                    fields.next().unwrap().to_vec(),
                    fields.next_back().unwrap().to_vec(),
                )
            })
            .collect()
    }

    /// The map in force, as `makemap -u` prints it.
    pub(crate) fn entries(&self) -> Entries {
        self.try_entries().unwrap()
    }

    pub(crate) fn try_entries(&self) -> Result<Entries, String> {
        let output = maps::run(
            maps::makemap()
                .args(["-u", maps::kind()])
                .arg(self.path("etc/access")),
            b"",
        );
        if !output.status.success() {
            return Err(format!("{output:?}"));
        }
        let lines = output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let entries = lines.map(|line| {
            let tab = line.iter().position(|byte| *byte == b'\t').unwrap();
            (line[..tab].to_vec(), line[tab + 1..].to_vec())
        });
        Ok(entries.collect())
    }

    /// Makes sure that the map in force has for each user what the mapping says, the
    /// administrator's entries, and nothing else; and that nothing is left to do.
    #[track_caller]
    pub(crate) fn assert_agrees(&self) {
        let computed = self.computed();
        let map = self.map();
        for (user, queue_group) in &computed {
            let found = map.queue_group(user).unwrap();
            assert_eq!(
                found.map(|entry| entry.value).as_ref(),
                Some(queue_group),
                "{}",
                user.escape_ascii()
            );
        }
        // makemap reads no map through a link.
        if map.kind() == maps::kind() && !map.path().is_symlink() {
            let mut entries = self.entries();
            assert!(entries.remove(&b"mailaffinity:source"[..]).is_some());
            assert_eq!(entries.remove(&b"connect:192.0.2"[..]).unwrap(), b"RELAY");
            assert_eq!(entries.remove(&b"from:spam@example.org"[..]).unwrap(), b"REJECT");
            let expected = computed.into_iter().map(|(user, group)| (key(&user), group));
            assert_eq!(entries, expected.collect());
        }
        assert_eq!(self.well(&["diff"]), b"");
    }

    /// Everything in a folder but the lock files: what it is, and when it changed.
    pub(crate) fn files(&self, folder: &str) -> BTreeMap<PathBuf, Stamp> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.path(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "lock") {
                    continue;
                }
                let stamp = Stamp::of(&path);
                if stamp.mode & 0o170_000 == 0o040_000 {
                    folders.push(path.clone());
                }
                files.insert(path, stamp);
            }
        }
        files
    }

    /// The names of all files and folders but the site's own.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = [self.path("etc"), self.path("lib")]
            .iter()
            .flat_map(|folder| fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Makes sure that no update left anything but what is in force.
    #[track_caller]
    pub(crate) fn assert_tidy(&self) {
        let map = maps::file("access");
        let known = [
            ".access.lock",
            ".nodes.toml.last-good.lock",
            ".nodes.toml.lock",
            ".status.json.lock",
            "access",
            map.to_str().unwrap(),
            "answers.cdb",
            "nodes.toml",
            "nodes.toml.last-good",
            "status.json",
        ];
        for name in self.names() {
            assert!(known.contains(&name.as_str()), "{name} was left");
        }
    }
}

/// What tells whether a file was touched.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) modified: (i64, i64),
    pub(crate) changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Stamp {
        let metadata = fs::symlink_metadata(path).unwrap();
        Stamp {
            inode: metadata.ino(),
            size: metadata.size(),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A list of users, `user0` and so on.
pub(crate) fn user_list(numbers: std::ops::Range<usize>) -> Vec<u8> {
    let lines: String = numbers.map(|number| format!("user{number}\n")).collect();
    lines.into_bytes()
}

/// The key of a user without a domain, as makemap stores it.
pub(crate) fn key(user: &[u8]) -> Vec<u8> {
    [b"qgrp:", &user.to_ascii_lowercase()[..], b"@"].concat()
}

/// What is before the block of a source and what is after it.
pub(crate) fn outside(source: &[u8]) -> (&[u8], &[u8]) {
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|part| part == what);
    let begin = find(source, BLOCK).expect("the source has a block");
    let end = b"\n# END mailaffinity\n";
    let length = find(&source[begin..], end).expect("the block ends") + end.len();
    (&source[..begin], &source[begin + length..])
}

#[track_caller]
pub(crate) fn assert_fails(output: &Output, status: i32, message: &str) {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(message), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Lets a file or folder have been changed some days ago, and not since.
pub(crate) fn age(path: &Path, days: u32) {
    let date = format!("{days} days ago");
    let mut touch = Command::new("touch");
    sendmail::run_well(touch.args(["--no-dereference", "--date", &date]).arg(path), b"");
}

/// Writes an executable script.
pub(crate) fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    set_mode(path, 0o755);
}
