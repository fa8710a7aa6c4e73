//! Whether a node's service is up, as a client of it sees it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::config::Probe;

/// The longest line that is taken for a greeting.
const LONGEST_GREETING: usize = 1024;

/// How much of a greeting an error shows.
const SHOWN: usize = 200;

impl Probe {
    fn accepts(self, greeting: &[u8]) -> bool {
        let starts_with = |start: &[u8]| {
            greeting
                .split_at_checked(start.len())
                .is_some_and(|(first, _)| first.eq_ignore_ascii_case(start))
        };
        match self {
            Probe::Tcp => true,
            Probe::Imap => starts_with(b"* OK ") || starts_with(b"* PREAUTH "),
            Probe::Lmtp => starts_with(b"220 ") || starts_with(b"220-"),
        }
    }

    /// What a client says that leaves.
    fn goodbye(self) -> &'static [u8] {
        match self {
            Probe::Tcp => b"",
            Probe::Imap => b"a LOGOUT\r\n",
            Probe::Lmtp => b"QUIT\r\n",
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Probe::Tcp => "TCP",
            Probe::Imap => "IMAP",
            Probe::Lmtp => "LMTP",
        }
    }
}

/// Asks a service whether it is up, for at most `timeout` in all.
///
/// # Errors
/// When it is not: a sentence that names the address and says what was seen instead.
pub fn probe(address: SocketAddr, probe: Probe, timeout: Duration) -> Result<(), String> {
    let start = Instant::now();
    // The system takes 0 for "no timeout".
    let left = || match timeout.saturating_sub(start.elapsed()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut service = left()
        .and_then(|left| TcpStream::connect_timeout(&address, left))
        .map_err(|error| match is_timeout(&error) {
            true => format!("{address} accepts no connection within {timeout:?}"),
            false => format!("{address} accepts no connection: {error}"),
        })?;
    if probe == Probe::Tcp {
        return Ok(());
    }
    let protocol = probe.protocol();
    let (line, end) = read_line(&mut service, left);
    if line.ends_with(b"\n") {
        return if probe.accepts(&line) {
            // Whether it arrives is no longer a question of being up.
            let _ = left()
                .and_then(|left| service.set_write_timeout(Some(left)))
                .and_then(|()| service.write_all(probe.goodbye()));
            Ok(())
        } else {
            Err(format!(
                "{address} does not greet as {protocol} does: {}",
                shown(&line)
            ))
        };
    }
    let so_far = match line.as_slice() {
        [] => String::new(),
        line => format!(", after {}", shown(line)),
    };
    Err(match end {
        Ok(()) if line.len() < LONGEST_GREETING => {
            format!("{address} closes the connection without a greeting{so_far}")
        }
        Ok(()) => format!(
            "{address} does not end the line of its greeting: {}",
            shown(&line)
        ),
        Err(error) if is_timeout(&error) => {
            format!("{address} sends no {protocol} greeting within {timeout:?}{so_far}")
        }
        Err(error) => format!("{address} sends no {protocol} greeting: {error}{so_far}"),
    })
}

/// Reads a line, without what follows it. What was read, and why that is all where it
/// does not end in a newline: it is the longest, the end, or an error.
fn read_line(service: &mut TcpStream, left: impl Fn() -> io::Result<Duration>) -> (Vec<u8>, io::Result<()>) {
    let mut line = Vec::new();
    let mut buffer = [0; LONGEST_GREETING];
    while line.len() < LONGEST_GREETING {
        let free = LONGEST_GREETING.saturating_sub(line.len());
        let buffer = buffer.get_mut(..free).unwrap_or_default();
        let read = left()
            .and_then(|left| service.set_read_timeout(Some(left)))
            .and_then(|()| service.read(buffer));
        let piece = match read {
            Ok(0) => break,
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return (line, Err(error)),
        };
        if let Some(newline) = piece.iter().position(|byte| *byte == b'\n') {
            line.extend(piece.iter().take(newline.saturating_add(1)));
            break;
        }
        line.extend(piece);
    }
    (line, Ok(()))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn shown(line: &[u8]) -> String {
    let line = line.trim_ascii_end();
    format!("\"{}\"", line.get(..SHOWN).unwrap_or(line).escape_ascii())
}
