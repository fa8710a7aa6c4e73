//! A Director of Dovecot 2.3 that mail programs come in at, and who tells it which nodes are dead:
//! somebody who asks each for its greeting, as poolmon does where there are Directors.

use std::io::{self, Read as _};
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use support::clients::Protocol;
use support::director::{Director, Settings};
use support::machines::test_address;

use super::site::{Marked, NODES, address_of, name_of, now};

/// How often nodes are asked, and how long each has to answer.
const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(2);
/// How many times in a row it must fail, and answer, before the Director is told.
const FALL: u32 = 2;
const RISE: u32 = 3;

/// The Director, and the thread that asks. Both end with this.
pub(crate) struct Front(Arc<Shared>, Option<JoinHandle<()>>);

struct Shared {
    director: Mutex<Director>,
    /// How it had the nodes.
    marks: Mutex<Vec<Marked>>,
    is_over: AtomicBool,
}

impl Front {
    pub(crate) fn start() -> Front {
        let nodes: Vec<String> = (0..NODES).map(|node| address_of(node).to_string()).collect();
        let director = Director::start(Settings {
            mail_servers: &nodes.join(" "),
            imap: true,
            imap_address: Some(test_address()),
            imap_port: Protocol::Imap.port(),
            // Nothing else ends a login that is on its way to a node that hangs.
            passdb: "nopassword=y proxy_timeout=3",
            more: &[
                ("director_user_kick_delay", "0"),
                ("log_timestamp", "%s.%{usecs} "),
            ],
            ..Settings::default()
        });
        let shared = Arc::new(Shared {
            director: Mutex::new(director),
            marks: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        shared.note(now(), |_| {});
        Front(shared, None)
    }

    /// From now on nodes are asked, which are there.
    pub(crate) fn keep(&mut self) {
        let shared = Arc::clone(&self.0);
        self.1 = Some(thread::spawn(move || shared.keep()));
    }

    /// Where mail programs come in.
    pub(crate) fn address(&self) -> IpAddr {
        test_address()
    }

    /// Where it is asked.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.director.lock().unwrap().admin_socket()
    }

    pub(crate) fn log(&self) -> String {
        self.0.director.lock().unwrap().log()
    }

    pub(crate) fn marks(&self) -> Vec<Marked> {
        self.0.marks.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if thread::panicking()
            && let Ok(director) = self.0.director.lock()
        {
            eprintln!("{}", director.log());
        }
        self.0.is_over.store(true, Ordering::SeqCst);
        if let Some(poolmon) = self.1.take() {
            let _ = poolmon.join();
        }
    }
}

impl Shared {
    /// Keeps the Director true to the nodes.
    fn keep(&self) {
        let mut is_up = [true; NODES];
        let mut others_in_a_row = [0; NODES];
        while !self.is_over.load(Ordering::SeqCst) {
            for node in 0..NODES {
                if greets(address_of(node)).is_ok() == is_up[node] {
                    others_in_a_row[node] = 0;
                    continue;
                }
                others_in_a_row[node] += 1;
                if others_in_a_row[node] < if is_up[node] { FALL } else { RISE } {
                    continue;
                }
                others_in_a_row[node] = 0;
                is_up[node] = !is_up[node];
                self.tell(node, is_up[node]);
            }
            thread::sleep(INTERVAL);
        }
    }

    fn tell(&self, node: usize, is_up: bool) {
        let address = address_of(node).to_string();
        let commands: &[&str] = match is_up {
            true => &["HOST-UP"],
            // The second is what `doveadm director flush` says.
            false => &["HOST-DOWN", "HOST-RESET-USERS"],
        };
        let after = now();
        for command in commands {
            self.director.lock().unwrap().must(&[*command, &address]);
        }
        eprintln!("{after:.3} the Director has {} {}", name_of(node), commands[0]);
        self.note(after, |marked| {
            for nodes in [&mut marked.down, &mut marked.dead] {
                match is_up {
                    true => nodes.remove(&node),
                    false => nodes.insert(node),
                };
            }
        });
    }

    fn note(&self, after: f64, change: impl FnOnce(&mut Marked)) {
        let mut marks = self.marks.lock().unwrap();
        let mut marked = marks.last().cloned().unwrap_or_default();
        (marked.after, marked.seen) = (after, now());
        change(&mut marked);
        marks.push(marked);
    }
}

/// Whether a node greets in time.
fn greets(node: IpAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&(node, Protocol::Imap.port()).into(), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut start = [0; 4];
    stream.read_exact(&mut start)?;
    match &start {
        b"* OK" => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
