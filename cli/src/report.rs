//! What an update or drain leaves behind for others to read: lines in the system's log
//! and the status file.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::ZonedDateTime;
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{connect, send, socket_with};
use serde_json::{Map, Value};

use crate::exit::{NAME, say};
use crate::files::lock;
use crate::files::place::Place;
use crate::files::replace::{remove_leftovers, replace_for_now};
use mailaffinity::config::Config;

/// How long the log may keep a command waiting, in all.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many characters log daemons take in one message.
const LONGEST_LINE: usize = 2000;

/// syslog(3)'s LOG_MAIL.
const FACILITY: u8 = 2 << 3;

/// syslog(3)'s severities.
#[derive(Clone, Copy)]
enum Severity {
    Err = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
}

/// The system's log. Where there is none, as in a container, or one that reads nothing,
/// nothing is lost: failures are on standard error too.
pub(crate) struct Log {
    socket: Option<OwnedFd>,
    patience: Duration,
}

impl Log {
    pub(crate) fn open(config: &Config) -> Log {
        let start = Instant::now();
        Log {
            socket: open_socket(&config.syslog).ok(),
            patience: PATIENCE.saturating_sub(start.elapsed()),
        }
    }

    pub(crate) fn info(&mut self, line: &str) {
        self.write(Severity::Info, line);
    }

    pub(crate) fn notice(&mut self, line: &str) {
        self.write(Severity::Notice, line);
    }

    pub(crate) fn warning(&mut self, line: &str) {
        self.write(Severity::Warning, line);
    }

    pub(crate) fn error(&mut self, line: &str) {
        self.write(Severity::Err, line);
    }

    /// A log that does not take a line gets no further one.
    fn write(&mut self, severity: Severity, line: &str) {
        let Some(socket) = &self.socket else { return };
        let start = Instant::now();
        let line: String = line.chars().take(LONGEST_LINE).collect();
        // As syslog(3) writes it, in local time; the newline ends it on a stream.
        let message = format!(
            "<{}>{} {NAME}[{}]: {line}\n",
            FACILITY | severity as u8,
            ZonedDateTime::now().strftime("%b %e %H:%M:%S"),
            std::process::id()
        );
        let sent = limit(socket, self.patience)
            .and_then(|()| Ok(send(socket, message.as_bytes(), SendFlags::NOSIGNAL)?));
        if sent.is_err() {
            self.socket = None;
        }
        self.patience = self.patience.saturating_sub(start.elapsed());
    }
}

/// Datagrams nearly everywhere; some log daemons take a stream.
fn open_socket(path: &Path) -> io::Result<OwnedFd> {
    let open = |kind| {
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        limit(&socket, PATIENCE)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok::<_, io::Error>(socket)
    };
    match open(SocketType::DGRAM) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => open(SocketType::STREAM),
        opened => opened,
    }
}

fn limit(socket: &OwnedFd, patience: Duration) -> io::Result<()> {
    if patience.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(set_socket_timeout(socket, Timeout::Send, Some(patience))?)
}

/// The last result of a command, as the status file has it.
pub(crate) fn last_status(config: &Config, command: &str) -> Option<Map<String, Value>> {
    let place = Place::of(&config.status).ok()?;
    match read_status(&place).remove(command)? {
        Value::Object(result) => Some(result),
        _ => None,
    }
}

/// Puts the result of a command under its name into the status file, beside the results
/// of others. A status that cannot be written is told and is no failure.
pub(crate) fn write_status(config: &Config, command: &str, result: Value) {
    if let Err(error) = try_write_status(&config.status, command, result) {
        say(
            NAME,
            format!("cannot write the status to {}: {error}", config.status.display()),
        );
    }
}

fn try_write_status(path: &Path, command: &str, result: Value) -> io::Result<()> {
    let place = Place::with_folders(path)?;
    let _lock = lock::of(&place, Duration::from_secs(10))?;
    remove_leftovers(&place);
    let mut status = read_status(&place);
    status.insert(command.into(), result);
    replace_for_now(&place, &format!("{:#}\n", Value::Object(status)))
}

/// One that is missing or broken is as an empty one.
fn read_status(place: &Place) -> Map<String, Value> {
    let text = place.read_text().ok();
    text.and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn log(socket: &Path) -> Log {
        let text = format!("syslog = {socket:?}\n[[node]]\nname = \"node1\"\naddress = \"10.0.0.1\"\n");
        Log::open(&Config::parse(&text, Path::new("m.toml")).unwrap())
    }

    fn is_line(message: &[u8], severity: u8, line: &str) -> bool {
        let message = str::from_utf8(message).unwrap();
        let end = format!(" mailaffinity[{}]: {line}\n", std::process::id());
        message.starts_with(&format!("<{}>", 16 + severity)) && message.ends_with(&end)
    }

    #[test]
    fn lines_are_as_syslog_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut log = log(&path);
        log.error("one");
        log.info("two");
        let mut message = [0; 200];
        for (severity, line) in [(3, "one"), (6, "two")] {
            let length = socket.recv(&mut message).unwrap();
            assert!(is_line(&message[..length], severity, line));
        }
    }

    #[test]
    fn a_stream_takes_them_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let listener = UnixListener::bind(&path).unwrap();
        log(&path).warning("one");
        let message = io::read_to_string(listener.accept().unwrap().0).unwrap();
        assert!(is_line(message.as_bytes(), 4, "one"));
    }

    #[test]
    fn one_that_never_reads_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        let mut log = log(&path);
        // More than any socket holds: this returns only if somebody gives up.
        (0..10_000).for_each(|_| log.notice(&"x".repeat(1000)));
        assert!(log.socket.is_none());
    }

    #[test]
    fn long_lines_are_cut_and_lose_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut log = log(&path);
        log.error(&"ä".repeat(1_000_000));
        log.error("two");
        let mut message = [0; 9000];
        for line in ["ä".repeat(LONGEST_LINE), "two".into()] {
            let length = socket.recv(&mut message).unwrap();
            assert!(is_line(&message[..length], 3, &line));
        }
    }

    #[test]
    fn without_one_nothing_is_said() {
        let mut log = log(Path::new("/nonexistent/log"));
        log.error("one");
        assert!(log.socket.is_none());
    }
}
