//! Dovecot with a configuration, sockets and a state of its own.
//!
//! [`Dovecot::start`] runs the installed one, as root or as an ordinary user; any number may
//! run at once. One that has a Director is another where the installed one has none, as
//! Debian 13's: Debian 12's programs, which `make director` puts beside what Cargo builds.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::built;

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

const CONFIG: &str = "dovecot.conf";
const LOG: &str = "dovecot.log";
const OUTPUT: &str = "output";

/// What `dovecot --version` says of the installed one, or why there is none.
static INSTALLED: LazyLock<String> = LazyLock::new(|| match installed("dovecot").arg("--version").output() {
    Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    Err(error) => error.to_string(),
});

/// Whose configuration is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Of 2.2 and 2.3, which have the Director.
    V2_3,
    V2_4,
}

/// A running Dovecot. It is stopped when it is dropped.
pub struct Dovecot {
    master: Child,
    /// `base_dir`. The paths of sockets must be short, so this is not under the
    /// target directory.
    run: TempDir,
    /// Configuration, log and state.
    files: TempDir,
}

impl Syntax {
    /// That of the installed Dovecot.
    ///
    /// # Panics
    /// Where there is none.
    pub fn installed() -> Syntax {
        match INSTALLED.split('.').collect::<Vec<_>>()[..] {
            ["2", "2" | "3", ..] => Syntax::V2_3,
            ["2", "4", ..] => Syntax::V2_4,
            _ => panic!(
                "dovecot: {}. Install Debian's packages dovecot-core, dovecot-imapd and dovecot-lmtpd",
                *INSTALLED
            ),
        }
    }
}

impl Dovecot {
    /// Starts the installed one with settings, which are written for it, given a folder for
    /// files.
    pub fn start(settings: impl FnOnce(Syntax, &Path) -> String) -> Dovecot {
        let syntax = Syntax::installed();
        Dovecot::spawn(installed("dovecot"), syntax, |files| settings(syntax, files))
    }

    /// Starts one that has a Director.
    pub fn start_with_director(settings: impl FnOnce(&Path) -> String) -> Dovecot {
        Dovecot::start_2_3(|command| command, settings)
    }

    /// The same elsewhere: `there` makes the command that runs it there.
    pub fn start_2_3(
        there: impl FnOnce(Command) -> Command,
        settings: impl FnOnce(&Path) -> String,
    ) -> Dovecot {
        Dovecot::spawn(there(with_director("dovecot")), Syntax::V2_3, settings)
    }

    fn spawn(mut command: Command, syntax: Syntax, settings: impl FnOnce(&Path) -> String) -> Dovecot {
        let run = TempDir::with_prefix("dovecot").expect("a temporary directory");
        let files = TempDir::with_prefix_in("dovecot", built::tmp()).expect("a directory under target/");
        let mut text = match syntax {
            Syntax::V2_3 => String::new(),
            // As of this version: nothing is older.
            Syntax::V2_4 => "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n".into(),
        };
        for (name, path) in [
            ("base_dir", run.path().join("base")),
            ("state_dir", files.path().join("state")),
            ("log_path", files.path().join(LOG)),
        ] {
            writeln!(text, "{name} = {}", quoted(path_text(&path))).expect("a string");
        }
        text += &settings(files.path());
        text += &for_an_ordinary_user(syntax, files.path());
        let config = files.path().join(CONFIG);
        fs::write(&config, text).expect("write the configuration");
        let output = File::create(files.path().join(OUTPUT)).expect("create a file for dovecot's output");
        let master = command
            .arg("-F")
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("share the file"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Dovecot { master, run, files }
    }

    /// What `doveconf -n` prints of one that has a Director.
    pub fn doveconf(&self) -> Vec<u8> {
        self.asked_of("doveconf", &["-n"])
    }

    /// What a program of one that has a Director prints of it.
    pub fn asked_of(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let mut command = with_director(program);
        command
            .arg("-c")
            .arg(self.files.path().join(CONFIG))
            .args(arguments);
        let output = command.output();
        let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    /// Where its sockets are.
    pub fn base_dir(&self) -> PathBuf {
        self.run.path().join("base")
    }

    /// Waits until something is there, or it has ended.
    pub fn wait_for<T>(&mut self, mut seen: impl FnMut() -> Option<T>) -> Option<T> {
        let begun = Instant::now();
        loop {
            let found = seen();
            if found.is_some() || self.has_ended() || begun.elapsed() > DEADLINE {
                return found;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.master.try_wait().expect("wait for dovecot").is_some()
    }

    /// Lets it die, waits until it is gone, and returns its log.
    pub fn end(mut self, is_gone: impl Fn() -> bool) -> String {
        self.master.kill().expect("kill dovecot");
        let begun = Instant::now();
        while !is_gone() {
            assert!(begun.elapsed() < DEADLINE, "dovecot does not end");
            thread::sleep(POLL_INTERVAL);
        }
        self.log()
    }

    /// Sends all its processes a signal, such as `STOP`.
    pub fn signal(&self, signal: &str) {
        // The master first, lest it starts others meanwhile.
        let ended = Command::new("sh")
            .arg("-c")
            .arg("kill -s \"$1\" \"$2\" && for child in $(cat /proc/\"$2\"/task/*/children); do kill -s \"$1\" \"$child\" || :; done")
            .args(["sh", signal])
            .arg(self.master.id().to_string())
            .status()
            .expect("run sh");
        assert!(ended.success());
    }

    /// What it printed and logged so far.
    pub fn log(&self) -> String {
        [OUTPUT, LOG]
            .iter()
            .filter_map(|name| fs::read(self.files.path().join(name)).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }
}

impl Drop for Dovecot {
    /// Ends at once. Without their master, the other processes end themselves;
    /// asked to stop them, it would take a second.
    fn drop(&mut self) {
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}

/// Settings of one that serves IMAP and LMTP at these addresses, for users with any password.
pub fn imap_and_lmtp(syntax: Syntax, files: &Path, imap: SocketAddr, lmtp: SocketAddr) -> String {
    let (mail, passdb, listen) = match syntax {
        Syntax::V2_3 => (
            format!("mail_location = maildir:{}/mail", files.display()),
            "passdb {\n  driver = static\n  args = nopassword=y\n}",
            "address",
        ),
        Syntax::V2_4 => (
            format!("mail_driver = maildir\nmail_path = {}/mail", files.display()),
            "passdb static {\n  fields {\n    nopassword = yes\n  }\n}",
            "listen",
        ),
    };
    format!(
        "protocols = imap lmtp
ssl = no
{mail}
{passdb}
service imap-login {{
  inet_listener imap {{
    {listen} = {imap_ip}
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    {listen} = {lmtp_ip}
    port = {lmtp_port}
  }}
}}
",
        imap_ip = imap.ip(),
        imap_port = imap.port(),
        lmtp_ip = lmtp.ip(),
        lmtp_port = lmtp.port(),
    )
}

/// An installed program, which may be where only root's `PATH` leads.
fn installed(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", roots_path());
    command
}

fn roots_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Debian 12's programs look for each other below /usr: it has them there for itself alone,
/// before what is installed, and in place of the installed one's modules.
const OVER_USR: &str = r#"
mount -t overlay -o lowerdir=usr:/usr dovecot /usr && mount --bind usr/lib/dovecot /usr/lib/dovecot || {
    echo "Debian 12's Dovecot cannot be put before /usr for itself alone: run this as root, in a container with all capabilities"
    exit 1
}
exec "$@""#;

/// A program of a version that has a Director.
fn with_director(program: &str) -> Command {
    if Syntax::installed() == Syntax::V2_3 {
        return installed(program);
    }
    let root = built::beside("dovecot-2.3");
    assert!(
        root.exists(),
        "Dovecot {} has no Director, which this test asks: \"make director\" puts Debian 12's beside it",
        *INSTALLED
    );
    let mut command = Command::new("unshare");
    command.current_dir(root).arg("--mount");
    let over_usr = ["sh", "-c", OVER_USR, "sh"];
    match id("-u").as_str() {
        "0" => command.args(over_usr),
        // Who mounts is root of a namespace of users, and back to who it was in the next.
        user => command.arg("--map-root-user").args(over_usr).args([
            "unshare".into(),
            format!("--map-user={user}"),
            format!("--map-group={}", id("-g")),
        ]),
    };
    command.arg(program).env("PATH", roots_path());
    command
}

/// What dovecot needs where root does not run it: only root can change the user or the
/// root directory.
fn for_an_ordinary_user(syntax: Syntax, files: &Path) -> String {
    let mut text = String::new();
    if !is_roots(files) {
        for (setting, option) in [
            ("default_internal_user", "-un"),
            ("default_login_user", "-un"),
            ("default_internal_group", "-gn"),
        ] {
            text += &format!("{setting} = {}\n", quoted(&id(option)));
        }
        let services: &[&str] = match syntax {
            Syntax::V2_3 => &["director", "anvil", "stats", "ipc", "imap-login"],
            Syntax::V2_4 => &["anvil", "stats", "imap-login"],
        };
        for service in services {
            text += &format!("service {service} {{\n  chroot =\n}}\n");
        }
    }
    text
}

pub fn is_roots(folder: &Path) -> bool {
    folder.metadata().expect("a directory just made").uid() == 0
}

/// A value of the configuration, taken as it is.
pub fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

pub fn path_text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// The name of the user or group that runs the test.
pub fn id(option: &str) -> String {
    let output = Command::new("id").arg(option).output().expect("run id");
    String::from_utf8(output.stdout)
        .expect("a name in UTF-8")
        .trim_end()
        .to_owned()
}
