//! A real Exim, as `doc/c-programs.md` has it, that delivers to Dovecots by LMTP.
//!
//! `make exim` puts its programs beside what Cargo builds. Exim has them below /usr, and its
//! configuration and user below /etc, for itself alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Output};

use support::built;
use support::configuration::{Configuration, Node};
use support::dovecot::{Dovecot, Syntax};
use support::sendmail::run_well;
use support::site::Site;
use tempfile::TempDir;

const PAGE: &str = "doc/c-programs.md";

/// Where the page has it.
const MODULE: &str = "usr/lib/exim4/mailaffinity.so";

/// Whose the mail is: Dovecot serves none as root.
const NOBODY: u32 = 65534;

/// Before what is installed, for Exim alone.
const IN_ITS_LAYERS: &str = r#"
layers=$1 programs=$2 site=$3
shift 3
mount -t overlay -o "lowerdir=$layers/usr:$programs/usr:/usr" exim /usr
mount -t overlay -o "lowerdir=$site:$layers/etc:/etc" exim /etc
exec "$@""#;

#[test]
#[ignore = "as root"]
fn mail_goes_to_the_nodes_of_its_users_as_root() {
    let mail = Mail::start();
    let users: BTreeSet<String> = (1..=30)
        .map(|number| format!("User{number}@example.org"))
        .collect();

    mail.send(&users);
    mail.all_are_at_home(&users);

    mail.site.must(&["down", "node2", "--reason", "new disks"]);
    assert!(mail.homes(&users).values().all(|node| node != "node2"));
    mail.send(&users);
    mail.all_are_at_home(&users);
    mail.site.must(&["up", "node2"]);

    // What breaks does not count, and is told.
    let good = fs::read_to_string(mail.site.config()).unwrap();
    let homes = mail.homes(&users);
    fs::write(mail.site.config(), "[[node").unwrap();
    mail.send(&users);
    assert_eq!(mail.delivered(), homes, "{}", mail.log());
    let log = mail.log();
    let told = log
        .lines()
        .find(|line| line.contains(" mailaffinity: /etc/mailaffinity.toml:1: "));
    let told = told.expect(&log);
    assert!(told.contains("; the last good copy "), "{told}");

    // Who has nothing good waits until there is.
    for name in ["mailaffinity.toml.last-good", "nodes.toml.last-good"] {
        let _ = fs::remove_file(mail.site.path(name));
    }
    mail.send(&users);
    mail.all_wait(&users, "; there is no good configuration to use");
    fs::write(mail.site.config(), good).unwrap();
    mail.exim(&["-qff"], "");
    mail.all_are_at_home(&users);
}

#[test]
#[ignore = "as root"]
fn nothing_bounces_while_no_node_is_up_as_root() {
    let mut mail = Mail::start();
    let users: BTreeSet<String> = (1..=9)
        .map(|number| format!("user{number}@example.org"))
        .collect();

    let nodes = ["node1", "node2", "node3"];
    for node in nodes {
        let output = mail.site.run(&["down", node, "--reason", "new disks"], b"");
        assert!(output.status.success(), "{output:?}");
    }
    mail.send(&users);
    mail.all_wait(&users, ": no node without a tag is up");
    let verified = mail.exim(&["-bv", "user1@example.org"], "");
    assert_eq!(
        verified.status.code(),
        Some(1),
        "it may be good later: {verified:?}"
    );
    for node in nodes {
        mail.site.must(&["up", node]);
    }
    mail.exim(&["-qff"], "");
    mail.all_are_at_home(&users);

    // One that nobody marked: its mail waits, and goes where it belongs once it is.
    let homes = mail.homes(&users);
    mail.nodes.remove("node2");
    mail.send(&users);
    let others = homes.iter().filter(|(_, node)| *node != "node2");
    assert_eq!(
        mail.delivered(),
        others.map(|(user, node)| (user.clone(), node.clone())).collect()
    );
    mail.site.must(&["down", "node2", "--reason", "dead"]);
    mail.exim(&["-q"], "");
    let waited = homes
        .iter()
        .filter(|(_, node)| *node == "node2")
        .map(|(user, _)| user.clone());
    let waited: BTreeSet<String> = waited.collect();
    assert!(!waited.is_empty());
    mail.all_are_at_home(&waited);
}

/// Exim, and three Dovecots.
struct Mail {
    site: Site,
    nodes: BTreeMap<String, Lmtp>,
    /// What is above the system's /usr and /etc.
    layers: TempDir,
    /// Exim's queue and log.
    spool: TempDir,
}

struct Lmtp {
    _dovecot: Dovecot,
    mail: TempDir,
}

impl Mail {
    fn start() -> Mail {
        let (port, nodes) = start_nodes();
        let site = Site::for_all();
        let node = |number: u8| Node::new(&name_of(number), &address_of(number).to_string());
        site.configure(Configuration::of([1, 2, 3].map(node)));
        let mail = Mail {
            site,
            nodes,
            layers: for_all("layers"),
            spool: for_all("spool"),
        };
        mail.make_layers(port);
        mail
    }

    fn make_layers(&self, port: u16) {
        let layer = |path: &str| {
            let path = self.layers.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        let page = fs::read_to_string(PAGE).unwrap();
        let (_, shown) = page.split_once("by LMTP:\n\n").unwrap();
        let shown = shown
            .lines()
            .take_while(|line| line.is_empty() || line.starts_with("    "));
        let shown: String = shown.flat_map(|line| [line, "\n"]).collect();
        assert!(shown.contains("      port = 24\n"), "{shown}");
        let shown = shown.replace("port = 24", &format!("port = {port}"));
        assert!(shown.contains(&format!("{{/{MODULE}}}")), "{shown}");
        let spool = self.spool.path().display();
        let config = format!(
            "primary_hostname = mx.example.org\nspool_directory = {spool}/spool\nlog_file_path = {spool}/%slog\n\
             keep_environment =\n{shown}\nbegin retry\n* * F,4d,1h\n"
        );
        fs::write(layer("etc/exim4/exim4.conf"), config).unwrap();
        for (file, line) in [
            ("passwd", "Debian-exim:x:65533:65533::/nonexistent:/bin/false\n"),
            ("group", "Debian-exim:x:65533:\n"),
        ] {
            let known = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
            fs::write(layer(&format!("etc/{file}")), known + line).unwrap();
        }
        let module = layer(MODULE);
        let library = layer("usr/lib/exim4/libmailaffinity.so.0");
        fs::copy(built::library("libmailaffinity.so"), &library).unwrap();
        run_well(
            Command::new("cc")
                .args([
                    "-std=c99",
                    "-Wall",
                    "-Wextra",
                    "-pedantic-errors",
                    "-Werror",
                    "-shared",
                    "-fPIC",
                ])
                .args(["-Iinclude", "dist/exim/mailaffinity.c", "-o"])
                .args([&module, &library])
                .arg("-Wl,-rpath,$ORIGIN"),
            b"",
        );
    }

    /// Runs it, in its layers.
    fn exim(&self, arguments: &[&str], stdin: &str) -> Output {
        let programs = built::beside("exim");
        assert!(
            programs.exists(),
            "\"make exim\" puts Debian's exim4-daemon-heavy beside what Cargo builds"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-euc", IN_ITS_LAYERS, "sh"]);
        command
            .arg(self.layers.path())
            .arg(programs)
            .arg(self.site.path(""));
        command.arg("/usr/sbin/exim4");
        support::sendmail::run(command.args(arguments), stdin.as_bytes())
    }

    /// Sends one mail to all, and waits for what becomes of it.
    #[track_caller]
    fn send(&self, users: &BTreeSet<String>) {
        let mut arguments = vec!["-odi", "-f", "sender@example.org"];
        arguments.extend(users.iter().map(String::as_str));
        let output = self.exim(&arguments, "Subject: a mail\n\nIts text.\n");
        assert!(output.status.success(), "{output:?}\n{}", self.log());
    }

    /// What `mailaffinity map` says, by users.
    fn homes(&self, users: &BTreeSet<String>) -> BTreeMap<String, String> {
        let mut arguments = vec!["map"];
        arguments.extend(users.iter().map(String::as_str));
        let printed = self.site.must(&arguments);
        let homes = printed.lines().map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            (fields.next().unwrap(), fields.next().unwrap())
        });
        homes.collect()
    }

    /// Who got a mail since this was asked last, and where.
    fn delivered(&self) -> BTreeMap<String, String> {
        let mut delivered = BTreeMap::new();
        for (name, node) in &self.nodes {
            for user in fs::read_dir(node.mail.path()).unwrap() {
                let user = user.unwrap();
                for mail in fs::read_dir(user.path().join("new")).unwrap() {
                    fs::remove_file(mail.unwrap().path()).unwrap();
                    let user = user.file_name().into_string().unwrap();
                    assert_eq!(delivered.insert(user, name.clone()), None, "one mail each");
                }
            }
        }
        delivered
    }

    #[track_caller]
    fn all_are_at_home(&self, users: &BTreeSet<String>) {
        assert_eq!(self.delivered(), self.homes(users), "{}", self.log());
        let queue = self.exim(&["-bpc"], "");
        assert_eq!(String::from_utf8_lossy(&queue.stdout), "0\n", "{}", self.log());
    }

    /// One mail is in the queue, for all of them, because of this; none was refused.
    #[track_caller]
    fn all_wait(&self, users: &BTreeSet<String>, why: &str) {
        let (log, queue) = (self.log(), self.exim(&["-bp"], ""));
        let queue = String::from_utf8(queue.stdout).unwrap();
        let waiting = queue
            .lines()
            .skip(1)
            .map(str::trim)
            .filter(|line| !line.is_empty());
        assert_eq!(
            waiting.map(str::to_owned).collect::<BTreeSet<_>>(),
            *users,
            "{log}"
        );
        for user in users {
            let words = [" == ", user, " R=node defer ", why];
            let waits = |line: &str| words.iter().all(|word| line.contains(word));
            assert!(log.lines().any(waits), "{user}:\n{log}");
        }
        assert!(!log.contains(" ** "), "{log}");
        assert_eq!(self.delivered(), BTreeMap::new());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.spool.path().join("mainlog")).unwrap()
    }
}

fn for_all(name: &str) -> TempDir {
    let folder = TempDir::with_prefix(name).unwrap();
    // Exim's user writes to it.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    folder
}

fn name_of(number: u8) -> String {
    format!("node{number}")
}

fn address_of(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 30 + number)
}

/// The nodes, and the port of all. Somebody else may take a free one before they do.
fn start_nodes() -> (u16, BTreeMap<String, Lmtp>) {
    let mut log = String::new();
    for _ in 0..5 {
        let free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let start = |number| Ok((name_of(number), Lmtp::start(number, port)?));
        match (1..=3).map(start).collect() {
            Ok(nodes) => return (port, nodes),
            Err(error) => log = error,
        }
    }
    panic!("dovecot does not start (Debian's package dovecot-lmtpd):\n{log}");
}

impl Lmtp {
    fn start(number: u8, port: u16) -> Result<Lmtp, String> {
        let mail = for_all("mail");
        chown(mail.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let mut dovecot = Dovecot::start(|syntax, _| settings(syntax, number, port, mail.path()));
        let accepts = dovecot.wait_for(|| TcpStream::connect((address_of(number), port)).ok());
        match accepts.is_some() && !dovecot.has_ended() {
            true => Ok(Lmtp {
                _dovecot: dovecot,
                mail,
            }),
            false => Err(dovecot.log()),
        }
    }
}

fn settings(syntax: Syntax, number: u8, port: u16, mail: &Path) -> String {
    let address = address_of(number);
    let mail = mail.to_owned();
    let (location, passdb, listen) = match syntax {
        Syntax::V2_3 => (
            format!("mail_location = maildir:{}/%u", mail.display()),
            "passdb {\n  driver = static\n  args = nopassword=y\n}",
            "address",
        ),
        Syntax::V2_4 => (
            format!("mail_driver = maildir\nmail_path = {}/%{{user}}", mail.display()),
            "passdb static {\n  fields {\n    nopassword = yes\n  }\n}",
            "listen",
        ),
    };
    format!(
        "protocols = lmtp\nssl = no\nmail_uid = nobody\nmail_gid = nogroup\nfirst_valid_uid = 1\n\
         auth_username_format =\n{location}\n{passdb}\nuserdb static {{\n  driver = static\n}}\n\
         service lmtp {{\n  inet_listener lmtp {{\n    {listen} = {address}\n    port = {port}\n  }}\n}}\n"
    )
}
