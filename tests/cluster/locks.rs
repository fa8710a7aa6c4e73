//! The web server's user takes `flock`'s lock on all that it may read, for ever: on what is
//! published of the access map, nobody waits for it.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use rustix::process::geteuid;
use tempfile::TempDir;

use mailaffinity::access_map::Published;
use support::built::MAILAFFINITY;
use support::configuration::{Configuration, Node, node_state};
use support::php;
use support::sendmail::{Cluster, program, run_well, wait_for};

const USERS: [&str; 4] = ["anna", "bert", "carla", "dieter"];

/// A node that takes mail, what is published of its access map, and a folder that all may
/// read, with what PHP needs.
struct Site {
    sendmail: Cluster,
    public: TempDir,
}

impl Site {
    fn start() -> Site {
        let mut sendmail = Cluster::new(&["node1", "node2", "node3"]);
        sendmail.start("node1", &[]);
        let public = TempDir::new().unwrap();
        fs::set_permissions(public.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(&*php::MODULE, public.path().join("mailaffinity.so")).unwrap();
        let site = Site { sendmail, public };
        let nodes =
            (1..=3).map(|number| Node::numbered(number, "10.0.0").host(&format!("node{number}.example.org")));
        let configuration = Configuration::of(nodes)
            .set_path("node_state", site.public("nodes.toml"))
            .set_path("status", site.public("status.json"))
            .set_path("syslog", site.public("no-log"))
            .access_map("hash", site.sendmail.access_map())
            .set_path("access_map.makemap", program(&["makemap"], "sendmail-bin"))
            .set_path("access_map.published", site.published())
            .users(site.public("users"));
        fs::write(site.public("mailaffinity.toml"), configuration.to_string()).unwrap();
        fs::write(site.public("users"), USERS.join("\n")).unwrap();
        // By the mapping, nobody of them is on node3.
        fs::write(site.sendmail.access_map(), "QGRP:anna@\tnode3group\n").unwrap();
        site.update(&[]);
        site
    }

    fn public(&self, name: &str) -> PathBuf {
        self.public.path().join(name)
    }

    fn published(&self) -> PathBuf {
        self.public("answers.cdb")
    }

    fn map(&self) -> PathBuf {
        self.sendmail.access_map().with_extension("db")
    }

    /// Brings the map up to date with these nodes down.
    fn update(&self, down: &[&str]) {
        fs::write(self.public("nodes.toml"), node_state(down)).unwrap();
        let mut update = Command::new(program(&["timeout"], "coreutils"));
        update.args(["60", MAILAFFINITY.as_str(), "--config"]);
        update.arg(self.public("mailaffinity.toml")).arg("update");
        let output = run_well(&mut update, b"");
        assert!(output.stderr.is_empty(), "{output:?}");
    }

    /// The queue group of each user, by what is published.
    fn groups(&self) -> Vec<String> {
        let published = Published::new(self.published());
        let group = |user: &str| published.queue_group(user.as_bytes()).unwrap().unwrap().value;
        USERS.map(|user| String::from_utf8(group(user)).unwrap()).to_vec()
    }

    /// The host of each user, by PHP as the web server runs it, which has nothing to log.
    fn hosts(&self) -> Vec<String> {
        let mut php = as_web_server("timeout");
        php.args(["60", "php", "-n", "-d"]);
        php.arg(format!("extension={}", self.public("mailaffinity.so").display()));
        php.arg("-d");
        php.arg(format!(
            "mailaffinity.config={}",
            self.public("mailaffinity.toml").display()
        ));
        php.args([
            "-r",
            "array_shift($argv); foreach ($argv as $user) echo map_user_via_sendmail_access($user), \"\\n\";",
        ]);
        let output = run_well(php.arg("--").args(USERS), b"");
        assert!(output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Whether the web server's user can open a file, whatever folder it is in.
    fn can_be_opened(&self, file: &Path) -> bool {
        let mut open = as_web_server("perl");
        open.args(["-e", "open my $file, '<', '/dev/stdin' or exit 1"]);
        open.stdin(File::open(file).unwrap()).status().unwrap().success()
    }
}

/// A program as Debian's web server user, where root can drop to it.
fn as_web_server(name: &str) -> Command {
    if !geteuid().is_root() {
        return Command::new(name);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=33", "--regid=33", "--clear-groups", "--", name]);
    command
}

/// A process of the web server's user that locks a file, and whatever takes its place, and
/// keeps all locks.
struct Attacker {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Attacker {
    /// `file` is its standard input, which it opens once more; so only the file's own mode
    /// counts. Without one, it locks what is at `path`.
    fn start(path: &Path, file: Option<File>) -> Attacker {
        const PROGRAM: &str = r#"
            use Fcntl ':flock';
            $| = 1;
            while (1) {
                open my $file, '<', $ARGV[0] or die "$ARGV[0]: $!";
                flock $file, LOCK_EX or die $!;
                push @locked, $file;
                print +(stat $file)[1], "\n";
                select undef, undef, undef, 0.001 while (stat $ARGV[0])[1] == (stat $file)[1];
            }
        "#;
        let mut process = as_web_server("perl")
            .args(["-e", PROGRAM])
            .arg(path)
            .stdin(file.map_or(Stdio::null(), Stdio::from))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        Attacker { process, said }
    }

    /// Waits until it has locked this file.
    #[track_caller]
    fn wait_for_lock(&mut self, file: &Path) {
        let inode = fs::metadata(file).unwrap().ino();
        let said = (&mut self.said).lines().map(Result::unwrap);
        assert!(
            said.into_iter().any(|line| line == inode.to_string()),
            "it has ended"
        );
        assert!(!waiters(inode), "nobody waits for it");
        assert!(File::open(file).unwrap().try_lock_shared().is_err());
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether somebody waits for a lock of a file, as the system has it (proc_locks(5)).
fn waiters(inode: u64) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let of_file = format!(":{inode} ");
    locks
        .lines()
        .any(|line| line.contains(" -> ") && line.contains(&of_file))
}

#[test]
fn nobody_waits_for_what_is_published() {
    let site = Site::start();
    if geteuid().is_root() {
        assert!(!site.can_be_opened(&site.map()), "nobody gave it away");
    }
    assert!(site.can_be_opened(&site.published()));
    let mut attacker = Attacker::start(&site.published(), None);
    let mut sent = Vec::new();
    let mut seen = Vec::new();
    for round in 0..6 {
        attacker.wait_for_lock(&site.published());
        let groups = site.groups();
        assert_eq!(groups[0], "node3group", "by hand");
        let hosts: Vec<String> = groups
            .iter()
            .map(|group| group.replace("group", ".example.org"))
            .collect();
        assert_eq!(site.hosts(), hosts);
        // Mail goes the same way.
        site.sendmail.send("node1", &USERS, &format!("round{round}"));
        for group in &groups {
            site.sendmail.run_queue("node1", group);
        }
        sent.extend(USERS);
        sent.sort();
        assert_eq!(site.sendmail.delivered_users(), sent);
        let known = seen.contains(&groups);
        assert_eq!(known, round > 1, "{groups:?}");
        seen.push(groups);
        // The next ones are published while these are locked.
        site.update([&["node2"][..], &[]][round % 2]);
    }
    let ended = attacker.process.try_wait().unwrap();
    assert!(ended.is_none(), "it kept its locks to the end: {ended:?}");
}

/// What the web server's user could do if it might read the map: so it must not.
#[test]
fn sendmail_waits_for_the_map() {
    let site = Site::start();
    fs::set_permissions(site.map(), Permissions::from_mode(0o644)).unwrap();
    let map = File::open(site.map()).unwrap();
    let inode = map.metadata().unwrap().ino();
    let mut attacker = Attacker::start(Path::new("/dev/stdin"), Some(map));
    attacker.wait_for_lock(&site.map());
    thread::scope(|scope| {
        let mail = scope.spawn(|| site.sendmail.send("node1", &["bert"], "late"));
        wait_for("sendmail to wait", || waiters(inode) || mail.is_finished());
        assert!(!mail.is_finished(), "sendmail did not look into its map");
        drop(attacker);
        mail.join().unwrap();
    });
}
