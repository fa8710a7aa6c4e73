//! Whether a node's service is up, as a client of it sees it.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

use crate::child::is_shortage;
use crate::timed_socket::{TimedSocket, is_timeout};
use mailaffinity::config::Probe;
use mailaffinity::deadline::Deadline;

/// The longest line that is taken for a greeting.
const LONGEST_GREETING: u64 = 1024;

/// How long saying goodbye may take, where nobody reads.
const GOODBYE_TIME: Duration = Duration::from_millis(100);

/// How much of a greeting an error shows.
const SHOWN: usize = 200;

/// How a service with a protocol of its own greets, and how a client leaves.
#[derive(Debug)]
struct Protocol {
    name: &'static str,
    greetings: [&'static [u8]; 2],
    goodbye: &'static [u8],
}

static IMAP: Protocol = Protocol {
    name: "IMAP",
    greetings: [b"* OK ", b"* PREAUTH "],
    goodbye: b"a LOGOUT\r\n",
};

static LMTP: Protocol = Protocol {
    name: "LMTP",
    greetings: [b"220 ", b"220-"],
    goodbye: b"QUIT\r\n",
};

impl Protocol {
    fn accepts(&self, greeting: &[u8]) -> bool {
        self.greetings.iter().any(|start| {
            greeting
                .get(..start.len())
                .is_some_and(|first| first.eq_ignore_ascii_case(start))
        })
    }
}

/// A service that was up when it was asked: the connection to it.
#[derive(Debug)]
pub(crate) struct Service {
    /// When it was asked.
    pub(crate) asked: Instant,
    socket: TcpStream,
    goodbye: &'static [u8],
}

impl Service {
    /// Whether it ends the connection within this time, as it does at once when it dies.
    pub(crate) fn ends_within(&self, time: Duration) -> bool {
        let deadline = Deadline::after(time);
        let mut service = TimedSocket {
            socket: &self.socket,
            deadline,
        };
        loop {
            match service.read(&mut [0; 512]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !is_timeout(&error),
            }
        }
    }
}

impl From<Asked> for Service {
    fn from(asked: Asked) -> Service {
        Service {
            asked: asked.at,
            socket: asked.socket,
            goodbye: asked.protocol.goodbye,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let deadline = Deadline::after(GOODBYE_TIME);
        // Whether it arrives is no longer a question of being up.
        let _ = TimedSocket {
            socket: &self.socket,
            deadline,
        }
        .write_all(self.goodbye);
    }
}

/// Why a service is not known to be up.
#[derive(Debug)]
pub(crate) enum NotUp {
    /// It is not: what was seen instead.
    Down(String),
    /// It could not be asked, for which this machine is to blame.
    Unasked(String),
}

impl NotUp {
    pub(crate) fn problem(self) -> String {
        match self {
            NotUp::Down(problem) | NotUp::Unasked(problem) => problem,
        }
    }
}

impl From<String> for NotUp {
    fn from(problem: String) -> NotUp {
        NotUp::Down(problem)
    }
}

/// Asks a service whether it is up, for at most `timeout` in all.
///
/// # Errors
/// When it is not: a sentence that names the address and says what was seen instead.
pub fn probe(address: SocketAddr, probe: Probe, timeout: Duration) -> Result<(), String> {
    connect(address, probe, timeout, &mut None)
        .map(drop)
        .map_err(NotUp::problem)
}

/// A connection on which the service is to greet.
#[derive(Debug)]
pub(crate) struct Asked {
    at: Instant,
    socket: TcpStream,
    protocol: &'static Protocol,
    /// What came of the greeting.
    line: Vec<u8>,
}

impl Asked {
    /// Whether it has greeted since it was late.
    fn greets(&mut self) -> bool {
        // What else there is to read of it shows in the line, or is to come.
        let _ = read_greeting(Arrived(&self.socket), &mut self.line);
        self.has_ended_line() && self.protocol.accepts(&self.line)
    }

    fn has_ended_line(&self) -> bool {
        self.line.ends_with(b"\n")
    }
}

/// What has arrived at a socket, without waiting for more.
struct Arrived<'s>(&'s TcpStream);

impl Read for Arrived<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (length, _) = recv(self.0, buffer, RecvFlags::DONTWAIT)?;
        Ok(length)
    }
}

/// Reads on until the line has ended, and returns how much that was.
fn read_greeting(from: impl Read, line: &mut Vec<u8>) -> io::Result<usize> {
    let left = LONGEST_GREETING.saturating_sub(line.len() as u64);
    BufReader::new(from).take(left).read_until(b'\n', line)
}

/// The same, with the connection left open. Where that does not greet in time, the one of the
/// question before, which was `late`, may have done so meanwhile: a service that is busy needs the
/// time of both. This one is `late` then.
///
/// # Errors
/// Those of [`probe`].
pub(crate) fn connect(
    address: SocketAddr,
    probe: Probe,
    timeout: Duration,
    late: &mut Option<Asked>,
) -> Result<Service, NotUp> {
    let before = late.take();
    let at = Instant::now();
    let deadline = Deadline::after(timeout);
    let socket = deadline
        .left()
        .and_then(|left| TcpStream::connect_timeout(&address, left))
        .map_err(|error| not_connected(address, timeout, &error))?;
    let protocol = match probe {
        Probe::Tcp => {
            return Ok(Service {
                asked: at,
                socket,
                goodbye: b"",
            });
        }
        Probe::Imap => &IMAP,
        Probe::Lmtp => &LMTP,
    };
    let name = protocol.name;
    let mut asked = Asked {
        at,
        socket,
        protocol,
        line: Vec::new(),
    };
    let service = TimedSocket {
        socket: &asked.socket,
        deadline,
    };
    let end = read_greeting(service, &mut asked.line);
    let line = &asked.line;
    if asked.has_ended_line() {
        return if protocol.accepts(line) {
            Ok(asked.into())
        } else {
            Err(format!("{address} does not greet as {name} does: {}", shown(line)).into())
        };
    }
    let so_far = match line.as_slice() {
        [] => String::new(),
        line => format!(", after {}", shown(line)),
    };
    Err(NotUp::Down(match end {
        Ok(length) if (length as u64) < LONGEST_GREETING => {
            format!("{address} closes the connection without a greeting{so_far}")
        }
        Ok(_) => format!("{address} does not end the line of its greeting: {}", shown(line)),
        Err(error) if is_timeout(&error) => {
            let problem = format!("{address} sends no {name} greeting within {timeout:?}{so_far}");
            *late = Some(asked);
            if let Some(mut before) = before
                && before.greets()
            {
                return Ok(before.into());
            }
            problem
        }
        Err(error) => format!("{address} sends no {name} greeting: {error}{so_far}"),
    }))
}

fn not_connected(address: SocketAddr, timeout: Duration, error: &io::Error) -> NotUp {
    if is_shortage(error) {
        return NotUp::Unasked(format!("{address} cannot be asked: {error}"));
    }
    NotUp::Down(match is_timeout(error) {
        true => format!("{address} accepts no connection within {timeout:?}"),
        false => format!("{address} accepts no connection: {error}"),
    })
}

fn shown(line: &[u8]) -> String {
    let line = line.trim_ascii_end();
    format!("\"{}\"", line.get(..SHOWN).unwrap_or(line).escape_ascii())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_greeting_that_is_late_counts_for_the_next_question() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut late = None;
        let mut ask = || {
            let address = listener.local_addr().unwrap();
            let result = connect(address, Probe::Imap, Duration::from_millis(50), &mut late);
            (
                result.map(drop).map_err(NotUp::problem),
                listener.accept().unwrap().0,
            )
        };
        let (result, mut first) = ask();
        assert!(result.unwrap_err().contains("no IMAP greeting"));
        first.write_all(b"* OK re").unwrap();
        let (result, mut second) = ask();
        assert!(result.is_err(), "half a greeting is none");
        first.write_all(b"ady\r\n").unwrap();
        let (result, _third) = ask();
        assert!(result.is_err(), "that was two questions ago");
        second.write_all(b"* OK ready\r\n").unwrap();
        let (result, mut fourth) = ask();
        assert!(result.is_err(), "as was this");
        fourth.write_all(b"* OK ready\r\n").unwrap();
        let (result, mut fifth) = ask();
        assert_eq!(result, Ok(()));
        fifth.write_all(b"* BYE full\r\n").unwrap();
        let (result, sixth) = ask();
        assert!(result.is_err(), "that is no greeting");
        drop(sixth);
        let (result, _seventh) = ask();
        assert!(result.is_err(), "nor is this");
    }

    #[test]
    fn a_shortage_says_nothing_of_the_service() {
        let address = "192.0.2.1:143".parse().unwrap();
        let is_down = |error: io::Error| {
            let not_up = not_connected(address, Duration::from_secs(1), &error);
            matches!(not_up, NotUp::Down(_))
        };
        for error in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::AGAIN,
            Errno::NOMEM,
            Errno::NOBUFS,
            Errno::ADDRNOTAVAIL,
        ] {
            assert!(!is_down(error.into()), "{error}");
        }
        for error in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::TIMEDOUT] {
            assert!(is_down(error.into()), "{error}");
        }
        assert!(is_down(io::ErrorKind::TimedOut.into()));
    }
}
