//! Dovecots as the IMAP nodes of a cluster, on addresses of their own of this machine.
//!
//! They share one port and one folder of mail, as those of a cluster do. Their logs tell
//! who logged in where.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::dovecot::{Dovecot, Syntax, id, is_roots, quoted};
use super::sendmail::run_well;

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The password of all users.
pub const PASSWORD: &str = "password";

/// Whose the mail is: Dovecot serves none as root.
const MAIL_USER: (&str, &str, u32, u32) = ("nobody", "nogroup", 65534, 65534);

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// Who logs in when all others have.
const LAST: &str = "last";

/// Somebody was logged in: the user, and the number of the node.
pub type Login = (String, usize);

/// The nodes.
pub struct ImapNodes {
    port: u16,
    tls_port: u16,
    nodes: Vec<Node>,
    /// Certificate and key, of the nodes' addresses.
    tls: TempDir,
    /// Where root's mail user can reach it.
    mail: TempDir,
}

struct Node {
    /// Not while it is dead.
    dovecot: Option<Dovecot>,
    /// The log of its former lives.
    past: String,
    /// How many of its logins were told.
    told: usize,
}

impl ImapNodes {
    /// Starts nodes and waits until they accept.
    ///
    /// # Panics
    /// When they do not, and when dovecot is not installed.
    pub fn start(count: usize) -> ImapNodes {
        let mail = TempDir::with_prefix("mail").expect("a temporary directory");
        if is_roots(mail.path()) {
            let (_, _, uid, gid) = MAIL_USER;
            chown(mail.path(), Some(uid), Some(gid)).expect("give the mail away");
        }
        let mut nodes = ImapNodes {
            port: 0,
            tls_port: 0,
            nodes: Vec::new(),
            tls: certificate(count),
            mail,
        };
        // Somebody else may take a free port before all nodes have it.
        let mut log = String::new();
        for _ in 0..5 {
            let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
            let port = |listener: &TcpListener| listener.local_addr().expect("a socket").port();
            let listeners = [listen(), listen()];
            [nodes.port, nodes.tls_port] = listeners.each_ref().map(port);
            drop(listeners);
            let started: Result<Vec<Node>, String> = (0..count).map(|number| nodes.spawn(number)).collect();
            match started {
                Ok(started) => {
                    nodes.nodes = started;
                    return nodes;
                }
                Err(error) => log = error,
            }
        }
        panic!("dovecot does not start (Debian's package dovecot-imapd):\n{log}");
    }

    fn spawn(&self, number: usize) -> Result<Node, String> {
        let mut dovecot = Dovecot::start(|syntax, files| self.settings(number, syntax, files));
        let accepts = dovecot.wait_for(|| TcpStream::connect(self.socket_address(number)).ok());
        // It may be another program that accepts.
        match accepts.is_some() && !dovecot.has_ended() {
            true => Ok(Node {
                dovecot: Some(dovecot),
                past: String::new(),
                told: 0,
            }),
            false => Err(dovecot.log()),
        }
    }

    /// The port of all nodes.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where they begin with TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Whom to trust. The certificate is one of addresses, and of no name.
    pub fn certificate(&self) -> PathBuf {
        self.tls.path().join(CERTIFICATE)
    }

    /// The address of a node, by its number from 0. None is `localhost`, where somebody
    /// may go who knows no better.
    pub fn address(number: usize) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 0, 11 + u8::try_from(number).expect("a few nodes"))
    }

    fn socket_address(&self, number: usize) -> SocketAddr {
        (ImapNodes::address(number), self.port).into()
    }

    /// Lets a node die, and waits until nobody can connect.
    pub fn kill(&mut self, number: usize) {
        let address = self.socket_address(number);
        let node = &mut self.nodes[number];
        let dovecot = node.dovecot.take().expect("the node lives");
        // The others end when they notice that the master is gone.
        let log = dovecot.end(|| TcpStream::connect(address).is_err());
        node.past += &log;
    }

    /// Brings a dead node back.
    pub fn revive(&mut self, number: usize) {
        let mut node = self.spawn(number).unwrap_or_else(|log| panic!("{log}"));
        let before = &mut self.nodes[number];
        node.past = std::mem::take(&mut before.past);
        node.told = before.told;
        *before = node;
    }

    /// All logins since this was called last, without repetitions.
    #[track_caller]
    pub fn logins(&mut self) -> BTreeSet<Login> {
        let mut logins = BTreeSet::new();
        for number in 0..self.nodes.len() {
            if self.nodes[number].dovecot.is_some() {
                self.await_log(number);
            }
            let node = &mut self.nodes[number];
            let users = node.logins();
            let new = users.iter().skip(node.told).filter(|user| *user != LAST);
            logins.extend(new.map(|user| (user.clone(), number)));
            node.told = users.len();
        }
        logins
    }

    /// Waits until each of these users has logged in somewhere since the logins were asked
    /// for last.
    #[track_caller]
    pub fn await_users(&self, users: &[String]) {
        let begun = Instant::now();
        loop {
            let new = |node: &Node| node.logins().split_off(node.told);
            let logins: BTreeSet<String> = self.nodes.iter().flat_map(new).collect();
            if users.iter().all(|user| logins.contains(user)) {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "not all are in:\n{}", self.log());
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until a node's log has all logins before now: those of one service are logged
    /// in their order.
    fn await_log(&self, number: usize) {
        let count = |node: &Node| node.logins().iter().filter(|user| *user == LAST).count();
        let node = &self.nodes[number];
        let before = count(node);
        log_in(self.socket_address(number), LAST).expect("the node takes logins");
        let begun = Instant::now();
        while count(node) == before {
            assert!(
                begun.elapsed() < DEADLINE,
                "the login is not logged:\n{}",
                node.log()
            );
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// What all nodes logged.
    pub fn log(&self) -> String {
        self.nodes.iter().map(Node::log).collect()
    }

    fn settings(&self, number: usize, syntax: Syntax, files: &Path) -> String {
        let mut text = String::new();
        let (mail_user, mail_group) = match is_roots(files) {
            true => (MAIL_USER.0.to_owned(), MAIL_USER.1.to_owned()),
            false => (id("-un"), id("-gn")),
        };
        for (name, value) in [
            ("protocols", "imap"),
            ("ssl", "yes"),
            ("mail_uid", &mail_user),
            ("mail_gid", &mail_group),
            ("first_valid_uid", "1"),
            ("login_greeting", &format!("this is node {number}")),
            // So that all names come through as they are.
            ("auth_username_chars", ""),
            ("auth_username_format", ""),
            ("auth_master_user_separator", "*"),
        ] {
            text += &format!("{name} = {}\n", quoted(value));
        }
        text += &match syntax {
            Syntax::V2_3 => self.settings_2_3(number),
            Syntax::V2_4 => self.settings_2_4(number),
        };
        text + "userdb static {\n  driver = static\n}\n"
    }

    fn settings_2_3(&self, number: usize) -> String {
        // (The files of values in quotes would not be read.)
        format!(
            "ssl_cert = <{certificate}
ssl_key = <{key}
disable_plaintext_auth = no
mail_location = maildir:{mail}/%Mu
login_log_format_elements = user=<%u>
passdb {{
  driver = static
  args = password={PASSWORD}
  master = yes
  pass = yes
}}
passdb {{
  driver = static
  args = password={PASSWORD}
}}
service imap-login {{
  service_count = 0
  process_min_avail = 1
  inet_listener imap {{
    address = {address}
    port = {port}
  }}
  inet_listener imaps {{
    address = {address}
    port = {tls_port}
  }}
}}
service imap {{
  service_count = 100
  process_limit = 100
}}
",
            certificate = self.certificate().display(),
            key = self.tls.path().join(KEY).display(),
            mail = self.mail.path().display(),
            address = ImapNodes::address(number),
            port = self.port,
            tls_port = self.tls_port,
        )
    }

    fn settings_2_4(&self, number: usize) -> String {
        format!(
            "ssl_server_cert_file = {certificate}
ssl_server_key_file = {key}
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = {mail}/%{{user | md5 | hexlify}}
login_log_format_elements = user=<%{{user}}>
passdb master {{
  driver = static
  passdb_static_password = {PASSWORD}
  master = yes
  result_success = continue
}}
passdb static {{
  password = {PASSWORD}
}}
service imap-login {{
  restart_request_count = unlimited
  process_min_avail = 1
  inet_listener imap {{
    listen = {address}
    port = {port}
  }}
  inet_listener imaps {{
    listen = {address}
    port = {tls_port}
  }}
}}
service imap {{
  restart_request_count = 100
  process_limit = 100
}}
",
            certificate = self.certificate().display(),
            key = self.tls.path().join(KEY).display(),
            mail = self.mail.path().display(),
            address = ImapNodes::address(number),
            port = self.port,
            tls_port = self.tls_port,
        )
    }
}

impl Node {
    fn log(&self) -> String {
        let present = self.dovecot.as_ref().map(Dovecot::log);
        self.past.clone() + &present.unwrap_or_default()
    }

    /// The users of all logins, in order.
    fn logins(&self) -> Vec<String> {
        // Dovecot 2.3's word, and that of 2.4.
        let user = |line: &str| {
            let login = |word| line.split_once(word);
            let (_, user) = login(" Login: user=<").or_else(|| login(" Logged in: user=<"))?;
            Some(user.rsplit_once('>')?.0.to_owned())
        };
        self.log().lines().filter_map(user).collect()
    }
}

/// Makes a certificate for the nodes.
fn certificate(count: usize) -> TempDir {
    let folder = TempDir::with_prefix("tls").expect("a temporary directory");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("change a mode");
    let addresses: Vec<String> = (0..count)
        .map(|number| format!("IP:{}", ImapNodes::address(number)))
        .collect();
    run_well(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=nodes", "-addext"])
            .arg(format!("subjectAltName={}", addresses.join(",")))
            .arg("-keyout")
            .arg(folder.path().join(KEY))
            .arg("-out")
            .arg(folder.path().join(CERTIFICATE)),
        b"",
    );
    folder
}

fn log_in(address: SocketAddr, user: &str) -> io::Result<()> {
    let imap = TcpStream::connect(address)?;
    imap.set_read_timeout(Some(DEADLINE))?;
    (&imap).write_all(format!("a LOGIN {user} {PASSWORD}\r\n").as_bytes())?;
    let mut line = String::new();
    let mut lines = BufReader::new(imap);
    while !line.starts_with("a ") {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    match line.starts_with("a OK") {
        true => Ok(()),
        false => Err(io::Error::other(line)),
    }
}
