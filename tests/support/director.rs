//! A real Dovecot Director for a test to ask.
//!
//! Questions go through the `director-admin` socket, as those of `doveadm director` do.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::dovecot::{Dovecot, quoted};

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
    /// Where they do so at IMAP's port, beside a socket.
    pub imap_address: Option<IpAddr>,
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
            imap_address: None,
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
        let mut dovecot = Dovecot::start_with_director(|_| configuration(settings));
        let admin = connect(&mut dovecot)?;
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
        self.admin = match connect(&mut self.dovecot) {
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

    /// Where users are, by the table or by the ring.
    pub fn hosts_of(&mut self, users: &[impl AsRef<[u8]>], tag: &str) -> Vec<Option<IpAddr>> {
        let mut host_of = |user: &[u8]| {
            let line = self
                .command(&[b"USER-LOOKUP", user, tag.as_bytes()])
                .unwrap_or_else(|NoAnswer { log }| panic!("{log}"));
            let host = match line.split('\t').collect::<Vec<_>>()[..] {
                ["", "0", hashed, _initial] => hashed,
                [current, _expires, _hashed, _initial] => current,
                _ => panic!("USER-LOOKUP answers {line:?}"),
            };
            (!host.is_empty()).then(|| host.parse().expect("an address"))
        };
        users.iter().map(|user| host_of(user.as_ref())).collect()
    }

    /// What `doveconf -n` prints of its settings.
    pub fn doveconf(&self) -> Vec<u8> {
        self.dovecot.doveconf()
    }

    /// What its `doveadm director` prints, which must succeed.
    pub fn doveadm(&self, arguments: &[&str]) -> String {
        let output = self
            .dovecot
            .asked_of("doveadm", &[&["director"], arguments].concat());
        String::from_utf8(output).expect("text")
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
        self.dovecot.base_dir().join(name)
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
        answer.map_err(|error| no_answer(&self.dovecot, &error))
    }
}

/// Connects to the Director as soon as dovecot listens for it.
fn connect(dovecot: &mut Dovecot) -> Result<AdminConnection, NoAnswer> {
    let path = dovecot.base_dir().join(ADMIN_SOCKET);
    let mut connection = Err(io::ErrorKind::NotFound.into());
    dovecot.wait_for(|| {
        connection = UnixStream::connect(&path);
        connection.is_ok().then_some(())
    });
    connection
        .and_then(AdminConnection::open)
        .map_err(|error| no_answer(dovecot, &error))
}

fn no_answer(dovecot: &Dovecot, error: &io::Error) -> NoAnswer {
    NoAnswer {
        log: format!("{error}\n{}", dovecot.log()),
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

const ADMIN_SOCKET: &str = "director-admin";
const IMAP_SOCKET: &str = "imap";

/// A dovecot of one Director and no others: without `director_servers` it needs
/// no port.
fn configuration(settings: Settings<'_>) -> String {
    let mut text = String::new();
    for (name, value) in [
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
        let listener = match settings.imap_address {
            Some(address) => format!("address = {address}"),
            None => "port = 0".to_owned(),
        };
        // A process for each login would be one for each session.
        text += &format!(
            "service imap-login {{
  executable = imap-login director
  service_count = 0
  client_limit = 2000
  unix_listener {IMAP_SOCKET} {{
    mode = 0600
  }}
  inet_listener imap {{
    {listener}
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
    text
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
