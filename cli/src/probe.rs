//! Whether a node's service is up, as a client of it sees it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mailaffinity::config::Probe;

/// The longest line that is taken for a greeting.
const LONGEST_GREETING: usize = 1024;

/// How much of a greeting an error shows.
const SHOWN: usize = 200;

/// How a service with a protocol of its own greets, and how a client leaves.
struct Protocol {
    name: &'static str,
    greetings: [&'static [u8]; 2],
    goodbye: &'static [u8],
}

const IMAP: Protocol = Protocol {
    name: "IMAP",
    greetings: [b"* OK ", b"* PREAUTH "],
    goodbye: b"a LOGOUT\r\n",
};

const LMTP: Protocol = Protocol {
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
    let protocol = match probe {
        Probe::Tcp => return Ok(()),
        Probe::Imap => IMAP,
        Probe::Lmtp => LMTP,
    };
    let name = protocol.name;
    let (line, end) = read_line(&mut service, left);
    if line.ends_with(b"\n") {
        return if protocol.accepts(&line) {
            // Whether it arrives is no longer a question of being up.
            let _ = left()
                .and_then(|left| service.set_write_timeout(Some(left)))
                .and_then(|()| service.write_all(protocol.goodbye));
            Ok(())
        } else {
            Err(format!(
                "{address} does not greet as {name} does: {}",
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
            format!("{address} sends no {name} greeting within {timeout:?}{so_far}")
        }
        Err(error) => format!("{address} sends no {name} greeting: {error}{so_far}"),
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
