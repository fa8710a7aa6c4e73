//! A real Dovecot Director for a test to ask.
//!
//! [`Director::start`] runs the installed dovecot, as root or as an ordinary
//! user, with a configuration, state and sockets of its own; any number may run
//! at once. It is stopped when it is dropped. Questions go through the
//! `director-admin` socket, as those of `doveadm director` do.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// The longest command line that the Director reads, without its newline. It
/// drops the connection on a longer one.
pub const MAX_COMMAND_LEN: usize = 1023;

/// What a Director is started with.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// `director_mail_servers`
    pub mail_servers: &'a str,
    /// `director_username_hash`
    pub username_hash: &'a str,
    /// Whether users can log in by IMAP, with any password.
    pub imap: bool,
    /// The port of the mail hosts, for those logins.
    pub imap_port: u16,
    /// What the passdb says of every user who logs in, such as a password.
    pub passdb: &'a str,
    /// Other settings: names and values.
    pub more: &'a [(&'a str, &'a str)],
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Settings {
            mail_servers: "10.0.0.1",
            username_hash: "%Lu",
            imap: false,
            imap_port: 1,
            passdb: "nopassword=y",
            more: &[],
        }
    }
}

/// A running Director.
pub struct Director {
    admin: AdminConnection,
    dovecot: Dovecot,
}

/// Why a Director does not answer: it never started, ended the connection, or
/// ended itself. What its log says about it.
#[derive(Debug)]
pub struct NoAnswer {
    pub log: String,
}

/// A line of `HOST-LIST`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    pub ip: String,
    pub vhost_count: u32,
    pub tag: String,
    pub up: bool,
}

/// A line of `USER-LIST`: a user who has logged in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoggedIn {
    pub username_hash: u32,
    pub ip: String,
}

/// What `USER-LOOKUP` says about a user who is not logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The user is given this host.
    Host(String),
    /// There is no host for the user.
    NoHost,
    /// `TRYAGAIN`: the user could not be hashed.
    TryAgain,
}

impl Director {
    /// Starts a Director and waits until it answers.
    ///
    /// # Panics
    /// When it does not, and when dovecot is not installed.
    pub fn start(settings: Settings<'_>) -> Director {
        match Director::try_start(settings) {
            Ok(director) => director,
            Err(NoAnswer { log }) => panic!("the Director does not start with {settings:?}:\n{log}"),
        }
    }

    /// As [`start`](Director::start), for settings that the Director may refuse.
    pub fn try_start(settings: Settings<'_>) -> Result<Director, NoAnswer> {
        let mut dovecot = Dovecot::spawn(|run, files| configuration(settings, run, files));
        let admin = dovecot.connect()?;
        Ok(Director { admin, dovecot })
    }

    /// Sends a command and returns the line that answers it.
    pub fn command(&mut self, command: &[impl AsRef<[u8]>]) -> Result<String, NoAnswer> {
        let answer = self
            .admin
            .send(&command_line(command))
            .and_then(|()| self.admin.line());
        self.answer(answer)
    }

    /// Sends a command that the Director must answer by `OK`.
    pub fn must(&mut self, command: &[impl AsRef<[u8]>]) {
        let answer = self.command(command);
        assert!(
            matches!(&answer, Ok(ok) if ok == "OK"),
            "{}: {answer:?}",
            command_line(command).escape_ascii()
        );
    }

    /// A new connection, for after a command that made the Director end this one.
    pub fn reconnect(&mut self) {
        self.admin = match self.dovecot.connect() {
            Ok(admin) => admin,
            Err(NoAnswer { log }) => panic!("the Director does not accept:\n{log}"),
        };
    }

    /// The hosts that the Director has, in its order.
    pub fn host_list(&mut self) -> Vec<Host> {
        self.table("HOST-LIST", |fields| match fields {
            [ip, vhost_count, _users, tag, state, _changed] => Some(Host {
                ip: (*ip).to_owned(),
                vhost_count: vhost_count.parse().ok()?,
                tag: tab_unescape(tag),
                up: *state == "U",
            }),
            _ => None,
        })
    }

    /// The users that have logged in.
    pub fn user_list(&mut self) -> Vec<LoggedIn> {
        self.table("USER-LIST", |fields| match fields {
            [username_hash, _expires, ip] => Some(LoggedIn {
                username_hash: username_hash.parse().ok()?,
                ip: (*ip).to_owned(),
            }),
            _ => None,
        })
    }

    /// Where users are mapped to: `USER-LOOKUP` of names and tags, in order.
    ///
    /// A name of digits only, up to 4294967295, is taken for a hash. A name
    /// cannot have a NUL in it, nor be longer than [`fits`] allows.
    pub fn lookups(&mut self, users: &[(&[u8], &str)]) -> Result<Vec<Lookup>, NoAnswer> {
        let commands: Vec<u8> = users
            .iter()
            .flat_map(|(user, tag)| lookup_line(user, tag))
            .collect();
        let answers = self
            .admin
            .send(&commands)
            .and_then(|()| users.iter().map(|_| self.admin.line()).collect());
        let lines: Vec<String> = self.answer(answers)?;
        Ok(lines
            .iter()
            .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
                ["TRYAGAIN"] => Lookup::TryAgain,
                ["", "0", "", _initial] => Lookup::NoHost,
                ["", "0", hashed, _initial] => Lookup::Host(hashed.to_owned()),
                _ => panic!("USER-LOOKUP answers {line:?}"),
            })
            .collect())
    }

    /// Logs users in by IMAP, and returns the list of them once the Director has
    /// as many. Their mail hosts then refuse the connection, or do not exist: the
    /// Director has given them to the users all the same.
    pub fn log_in(&mut self, users: &[&[u8]]) -> Vec<LoggedIn> {
        let logins: Vec<UnixStream> = users.iter().map(|user| self.begin_login(user)).collect();
        let begun = Instant::now();
        loop {
            let listed = self.user_list();
            if listed.len() >= logins.len() {
                return listed;
            }
            assert!(
                begun.elapsed() < DEADLINE,
                "{} of {} users are in:\n{}",
                listed.len(),
                logins.len(),
                self.log()
            );
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Logs a user in by IMAP who is not in the table yet, and returns the host that the
    /// Director's table then has.
    pub fn log_in_anew(&mut self, user: &[u8]) -> String {
        let before = self.user_list();
        let login = self.begin_login(user);
        let begun = Instant::now();
        loop {
            let listed = self.user_list();
            if let Some(new) = listed.into_iter().find(|user| !before.contains(user)) {
                drop(login);
                return new.ip;
            }
            let user = user.escape_ascii();
            assert!(begun.elapsed() < DEADLINE, "{user} is not in:\n{}", self.log());
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Logs a user in by IMAP, and returns the address of the mail host that the
    /// Director sends the user to. `mail_hosts` is what listens at all of them.
    pub fn log_in_to(&mut self, user: &str, mail_hosts: &MailHosts) -> IpAddr {
        let login = self.begin_login(user.as_bytes());
        let host = mail_hosts.await_login_of(user);
        drop(login);
        host
    }

    /// Begins to log a user in by IMAP, which goes on while this is kept.
    pub fn begin_login(&self, user: &[u8]) -> UnixStream {
        let mut imap = UnixStream::connect(self.socket(IMAP_SOCKET)).expect("imap-login accepts");
        let length = format!("a LOGIN {{{}+}}\r\n", user.len());
        imap.write_all(&[length.as_bytes(), user, b" password\r\n"].concat())
            .expect("imap-login reads");
        imap
    }

    /// Where `doveadm director` asks.
    pub fn admin_socket(&self) -> PathBuf {
        self.socket(ADMIN_SOCKET)
    }

    /// A socket of dovecot.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.dovecot.run.path().join("base").join(name)
    }

    /// What dovecot printed and logged so far.
    pub fn log(&self) -> String {
        self.dovecot.log()
    }

    fn table<T>(&mut self, command: &str, parse: impl Fn(&[&str]) -> Option<T>) -> Vec<T> {
        self.admin
            .send(&command_line(&[command.as_bytes()]))
            .expect("the Director reads");
        let mut rows = Vec::new();
        loop {
            let line = self.admin.line().expect("the Director answers");
            if line.is_empty() {
                return rows;
            }
            let fields: Vec<&str> = line.split('\t').collect();
            rows.push(parse(&fields).unwrap_or_else(|| panic!("{command} answers {line:?}")));
        }
    }

    fn answer<T>(&self, answer: io::Result<T>) -> Result<T, NoAnswer> {
        answer.map_err(|error| self.dovecot.no_answer(&error))
    }
}

/// The mail hosts 127.0.0.0/8, all at one port.
pub struct MailHosts {
    listener: TcpListener,
}

impl MailHosts {
    pub fn new() -> MailHosts {
        MailHosts {
            listener: TcpListener::bind("0.0.0.0:0").expect("a free port"),
        }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("a socket").port()
    }

    /// The host that a user is logged in to. The login is refused.
    fn await_login_of(&self, user: &str) -> IpAddr {
        self.listener.set_nonblocking(true).expect("a socket");
        let begun = Instant::now();
        loop {
            match self.listener.accept() {
                Ok((client, _)) => {
                    if imap_user(&client).is_ok_and(|name| name == user) {
                        return client.local_addr().expect("a socket").ip();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(POLL_INTERVAL),
                Err(error) => panic!("accept: {error}"),
            }
            assert!(begun.elapsed() < DEADLINE, "{user} is sent nowhere");
        }
    }
}

/// The user whom the Director's IMAP proxy logs in.
fn imap_user(client: &TcpStream) -> io::Result<String> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(DEADLINE))?;
    let mut lines = BufReader::new(client);
    lines
        .get_mut()
        .write_all(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [tag, "LOGIN", user, _password] => {
                let answer = format!("{tag} NO not here\r\n");
                lines.get_mut().write_all(answer.as_bytes())?;
                return Ok(user.trim_matches('"').to_owned());
            }
            [tag, ..] => lines.get_mut().write_all(format!("{tag} OK\r\n").as_bytes())?,
            [] => {}
        }
    }
}

/// Whether a lookup fits a command line of the Director.
pub fn fits(user: &[u8], tag: &str) -> bool {
    lookup_line(user, tag).len() <= MAX_COMMAND_LEN + 1
}

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The process, and where it lives.
pub struct Dovecot {
    pub master: Child,
    /// `base_dir`. The paths of sockets must be short, so this is not under the
    /// target directory.
    run: TempDir,
    /// Configuration, log and state.
    files: TempDir,
}

impl Dovecot {
    /// Starts it with a configuration, which is given the folders for `base_dir` and for
    /// files. It logs to [`LOG`] in the latter.
    pub fn spawn(configuration: impl FnOnce(&Path, &Path) -> String) -> Dovecot {
        let run = TempDir::with_prefix("director").expect("a temporary directory");
        let files =
            TempDir::with_prefix_in("director", crate::built::tmp()).expect("a directory under target/");
        let config = files.path().join(CONFIG);
        fs::write(&config, configuration(run.path(), files.path())).expect("write the configuration");
        let output = File::create(files.path().join(OUTPUT)).expect("create a file for dovecot's output");
        let master = dovecot()
            .arg("-F")
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("share the file"))
            .stderr(output)
            .spawn()
            .expect("run dovecot");
        Dovecot { master, run, files }
    }

    /// Connects to the Director as soon as dovecot listens for it.
    fn connect(&mut self) -> Result<AdminConnection, NoAnswer> {
        let begun = Instant::now();
        let path = self.run.path().join("base").join(ADMIN_SOCKET);
        let connection = loop {
            match UnixStream::connect(&path) {
                Ok(socket) => break AdminConnection::open(socket),
                Err(error) => {
                    let ended = self.master.try_wait().expect("wait for dovecot").is_some();
                    if ended || begun.elapsed() > DEADLINE {
                        break Err(error);
                    }
                }
            }
            thread::sleep(POLL_INTERVAL);
        };
        connection.map_err(|error| self.no_answer(&error))
    }

    fn no_answer(&self, error: &io::Error) -> NoAnswer {
        NoAnswer {
            log: format!("{error}\n{}", self.log()),
        }
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

struct AdminConnection {
    socket: BufReader<UnixStream>,
}

impl AdminConnection {
    const VERSION: &str = "VERSION\tdirector-doveadm\t1\t0";

    fn open(socket: UnixStream) -> io::Result<AdminConnection> {
        socket.set_read_timeout(Some(DEADLINE))?;
        let mut connection = AdminConnection {
            socket: BufReader::new(socket),
        };
        connection.send(format!("{}\n", Self::VERSION).as_bytes())?;
        match connection.line()?.as_str() {
            Self::VERSION => Ok(connection),
            other => Err(io::Error::other(format!("the Director says {other:?}"))),
        }
    }

    fn send(&mut self, commands: &[u8]) -> io::Result<()> {
        self.socket.get_mut().write_all(commands)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.socket.read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the Director closes the connection",
            )),
        }
    }
}

/// The program, which must be of a version that has a Director.
fn dovecot() -> Command {
    static VERSION: LazyLock<String> = LazyLock::new(|| match program("dovecot").arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => error.to_string(),
    });
    assert!(
        VERSION.starts_with("2.2.") || VERSION.starts_with("2.3."),
        "dovecot: {}. This test asks a live Director: install Debian 12's packages dovecot-core, \
         dovecot-imapd and dovecot-lmtpd of Dovecot 2.3 (2.4 has no Director)",
        *VERSION
    );
    program("dovecot")
}

const CONFIG: &str = "dovecot.conf";
/// Dovecot's log, in the folder for files.
pub const LOG: &str = "dovecot.log";
const OUTPUT: &str = "output";
const ADMIN_SOCKET: &str = "director-admin";
const IMAP_SOCKET: &str = "imap";

/// A dovecot of one Director and no others: without `director_servers` it needs
/// no port.
fn configuration(settings: Settings<'_>, run: &Path, files: &Path) -> String {
    let base_dir = run.join("base");
    let state_dir = files.join("state");
    let log_path = files.join(LOG);
    let mut text = String::new();
    for (name, value) in [
        ("base_dir", path_text(&base_dir)),
        ("state_dir", path_text(&state_dir)),
        ("log_path", path_text(&log_path)),
        ("protocols", if settings.imap { "imap" } else { "" }),
        ("ssl", "no"),
        ("director_mail_servers", settings.mail_servers),
        ("director_username_hash", settings.username_hash),
        // So that all names reach the Director.
        ("auth_username_chars", ""),
    ]
    .into_iter()
    .chain(settings.more.iter().copied())
    {
        text += &format!("{name} = {}\n", quoted(value));
    }
    text += "service director {
  unix_listener director-admin {
    mode = 0600
  }
  unix_listener login/director {
    mode = 0666
  }
  fifo_listener login/proxy-notify {
    mode = 0666
  }
}
";
    if settings.imap {
        text += &format!(
            "service imap-login {{
  executable = imap-login director
  unix_listener {IMAP_SOCKET} {{
    mode = 0600
  }}
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
passdb {{
  driver = static
  args = nopassword=y
  master = yes
  pass = yes
}}
passdb {{
  driver = static
  args = proxy=y port={} {}
}}
",
            settings.imap_port, settings.passdb
        );
    }
    text += &for_an_ordinary_user(files, &["director", "anvil", "stats", "ipc", "imap-login"]);
    text
}

/// What dovecot needs where root does not run it: only root can change the user or the
/// root directory.
pub fn for_an_ordinary_user(files: &Path, services: &[&str]) -> String {
    let mut text = String::new();
    if fs::metadata(files).expect("a directory just made").uid() != 0 {
        for (setting, option) in [
            ("default_internal_user", "-un"),
            ("default_login_user", "-un"),
            ("default_internal_group", "-gn"),
        ] {
            text += &format!("{setting} = {}\n", quoted(&id(option)));
        }
        for service in services {
            text += &format!("service {service} {{\n  chroot =\n}}\n");
        }
    }
    text
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

/// A program that may be where only root's `PATH` leads.
fn program(name: &str) -> Command {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let mut command = Command::new(name);
    command.env("PATH", path);
    command
}

fn lookup_line(user: &[u8], tag: &str) -> Vec<u8> {
    command_line(&[b"USER-LOOKUP", user, tag.as_bytes()])
}

/// A line of the Director's protocol: fields between tabs.
fn command_line(fields: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let fields: Vec<Vec<u8>> = fields.iter().map(|field| tab_escape(field.as_ref())).collect();
    [fields.join(&b'\t'), b"\n".to_vec()].concat()
}

fn tab_escape(field: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(field.len());
    for &byte in field {
        match byte {
            b'\x01' => escaped.extend(b"\x011"),
            b'\t' => escaped.extend(b"\x01t"),
            b'\n' => escaped.extend(b"\x01n"),
            b'\r' => escaped.extend(b"\x01r"),
            0 => panic!("the protocol carries no NUL"),
            _ => escaped.push(byte),
        }
    }
    escaped
}

fn tab_unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\x01' => match chars.next() {
                Some('1') => '\x01',
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                other => panic!("unknown escape {other:?}"),
            },
            _ => c,
        });
    }
    text
}
