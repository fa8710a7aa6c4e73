//! A site in a folder of its own, for a test to run the commands on.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use mailaffinity::node_state::NodeState;
use serde_json::Value;
use tempfile::TempDir;

/// Where everything of a site is.
pub struct Site {
    folder: TempDir,
    /// The paths of sockets must be short.
    sockets: TempDir,
}

/// A file as it is: the same only if nobody wrote it.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    inode: u64,
    modified: (i64, i64),
    content: String,
}

impl Site {
    /// A site without a configuration. It is not in the system's temporary directory,
    /// whose maps sendmail calls unsafe.
    pub fn new() -> Site {
        Site {
            folder: TempDir::new_in(crate::built::tmp()).expect("a directory for the test"),
            sockets: TempDir::new().expect("a temporary directory"),
        }
    }

    /// A site that other users of the machine can read too, such as a web server's, where
    /// the target directory may be nobody else's.
    pub fn for_all() -> Site {
        let site = Site {
            folder: TempDir::with_prefix("site").expect("a temporary directory"),
            sockets: TempDir::new().expect("a temporary directory"),
        };
        fs::set_permissions(site.folder.path(), Permissions::from_mode(0o755)).expect("change a mode");
        site
    }

    /// Writes a configuration: the files that every command needs are in the folder.
    pub fn configure(&self, configuration: impl Display) {
        let text = format!(
            "node_state = {:?}\nstatus = {:?}\nsyslog = {:?}\n{configuration}",
            self.path("nodes.toml"),
            self.path("status.json"),
            self.log_socket()
        );
        fs::write(self.config(), text).expect("write the configuration");
    }

    /// The socket of the system's log, where nobody listens unless the test does.
    pub fn log_socket(&self) -> PathBuf {
        self.sockets.path().join("log")
    }

    pub fn config(&self) -> PathBuf {
        self.path("mailaffinity.toml")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `mailaffinity`.
    pub fn run(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut child = Command::new(&*crate::built::MAILAFFINITY)
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run mailaffinity");
        // A command that fails at once does not read it.
        let _ = child.stdin.take().expect("a pipe").write_all(stdin);
        child.wait_with_output().expect("wait for mailaffinity")
    }

    /// Runs `mailaffinity`, which must succeed and say nothing on standard error.
    #[track_caller]
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments, b"");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs updates whose checks must fail and say why: the nodes stay as they were, and
    /// what is in force for them changes no more.
    #[track_caller]
    pub fn must_not_check(&self, words: &str) {
        let state = self.seen().remove("nodes.toml");
        let mut in_force = None;
        for _ in 0..2 {
            let output = self.run(&["update"], b"");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(75), "{stderr}");
            assert!(stderr.contains(words), "{stderr}");
            assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
            let seen = self.seen();
            assert_eq!(seen.get("nodes.toml"), state.as_ref());
            assert!(in_force.is_none_or(|in_force| in_force == seen));
            in_force = Some(seen);
        }
    }

    /// Node state, access source and map.
    pub fn seen(&self) -> BTreeMap<&'static str, Seen> {
        ["nodes.toml", "access", "access.db"]
            .into_iter()
            .filter_map(|name| {
                let metadata = fs::metadata(self.path(name)).ok()?;
                let seen = Seen {
                    inode: metadata.ino(),
                    modified: (metadata.mtime(), metadata.mtime_nsec()),
                    content: fs::read(self.path(name)).ok()?.escape_ascii().to_string(),
                };
                Some((name, seen))
            })
            .collect()
    }

    pub fn state(&self) -> NodeState {
        NodeState::load(&self.path("nodes.toml")).expect("a node state")
    }

    /// The lines of JSON that a command prints.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.must(arguments);
        let rows = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        rows.collect()
    }

    /// What `mailaffinity nodes` says of a node.
    #[track_caller]
    pub fn node(&self, name: &str) -> Value {
        let rows = self.json(&["nodes", "--json"]);
        rows.into_iter()
            .find(|row| row["name"] == name)
            .expect("the node is listed")
    }

    /// What the status file says of a command.
    pub fn status(&self, command: &str) -> Value {
        let text = fs::read_to_string(self.path("status.json")).expect("a status file");
        let status: Value = serde_json::from_str(&text).expect("JSON");
        status[command].clone()
    }
}
