//! Those who come: mail programs with sessions that idle, a mail server that delivers, mail for
//! sendmail, and webmail's pages. All come again at once when they are refused or ended.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use support::clients::{Connection, Protocol, deliver_message, log_in};
use support::machines::PASSWORD;

use super::dice::Dice;
use super::queues::Queues;
use super::site::{NODES, name_of, now};
use super::web::Web;

/// How long who was refused waits, at first and at most: twice as long each time.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(8));
/// Who have pages loaded.
pub(crate) const BROWSERS: usize = 2;
const LMTP_PORT: u16 = 24;
/// Who send mail to sendmail.
const CORRESPONDENTS: usize = 2;

/// What somebody did from one moment to another.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) user: usize,
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A login at this entry, that landed on a node or was refused.
    Login(usize, Result<usize, String>),
    /// An attempt to deliver the message of this number.
    Delivery(usize, Result<(), Failed>),
    /// An attempt to hand the message of this number to sendmail, which gave it an identifier.
    Handed(usize, Result<String, String>),
    /// A page at the node that webmail was told, by its port there.
    Page(usize, u16, Result<(), String>),
}

/// Why the message was not taken.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) why: String,
    /// Whether it may be there all the same: nobody answered.
    pub(crate) is_unknown: bool,
}

impl What {
    pub(crate) fn refused(&self) -> Option<&str> {
        match self {
            What::Login(_, Err(why)) | What::Handed(_, Err(why)) | What::Page(_, _, Err(why)) => Some(why),
            What::Delivery(_, Err(failed)) => Some(&failed.why),
            _ => None,
        }
    }
}

/// What all of them share.
pub(crate) struct Clients<'c> {
    cluster: &'c Shared,
    done: Mutex<Vec<Done>>,
    /// The names of what sessions wrote into mailboxes, each of which was answered.
    written: Mutex<Vec<String>>,
    /// Where each mail program is, if it is in.
    stays: Vec<Mutex<Option<usize>>>,
    messages: AtomicUsize,
    handed: AtomicUsize,
    ended: AtomicBool,
    gave_up: AtomicBool,
    seed: u64,
    rates: Rates,
}

/// How often they come.
#[derive(Clone, Copy)]
pub(crate) struct Rates {
    /// Within what time all mail programs come first.
    pub(crate) arrival: Duration,
    /// How long sessions idle between two messages that they write, on average.
    pub(crate) idle: Duration,
    /// How long each sender and each browser waits at most after a message and a page.
    pub(crate) pause: Duration,
}

fn pause_after(refused: u32, dice: &mut Dice) -> Duration {
    let pause = PAUSES.0.saturating_mul(1 << (refused - 1).min(16)).min(PAUSES.1);
    pause.mul_f64(0.5 + dice.part())
}

/// What of a cluster clients know.
pub(crate) struct Shared {
    pub(crate) users: Vec<String>,
    /// Where mail programs come in.
    pub(crate) entries: Vec<IpAddr>,
    pub(crate) proxies: Vec<IpAddr>,
    pub(crate) queues: Option<Arc<Queues>>,
}

/// Mail programs of users, and where each comes in: those of one user at different ones.
fn programs(users: usize, entries: usize) -> impl Iterator<Item = (usize, usize)> {
    // Every third user has two.
    let count = move |user: usize| if user.is_multiple_of(3) { 2 } else { 1 };
    (0..users).flat_map(move |user| (0..count(user)).map(move |own| (user, (user + own) % entries)))
}

impl<'c> Clients<'c> {
    pub(crate) fn new(cluster: &'c Shared, seed: u64, rates: Rates) -> Clients<'c> {
        let count = programs(cluster.users.len(), cluster.entries.len()).count();
        Clients {
            cluster,
            done: Mutex::default(),
            written: Mutex::default(),
            stays: (0..count).map(|_| Mutex::default()).collect(),
            messages: AtomicUsize::new(0),
            handed: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            gave_up: AtomicBool::new(false),
            seed,
            rates,
        }
    }

    /// They begin to come.
    pub(crate) fn begin<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        senders: usize,
        web: &'s Web,
    ) -> Vec<ScopedJoinHandle<'s, ()>> {
        let all = programs(self.cluster.users.len(), self.cluster.entries.len()).enumerate();
        let mut threads: Vec<_> = all
            .map(|(number, (user, entry))| scope.spawn(move || self.reads(number, user, entry)))
            .collect();
        threads.extend((0..senders).map(|sender| scope.spawn(move || self.sends(sender))));
        if let Some(queues) = &self.cluster.queues {
            let all = 0..CORRESPONDENTS;
            threads.extend(all.map(|number| scope.spawn(move || self.writes(number, queues))));
        }
        threads.extend((0..BROWSERS).map(|number| scope.spawn(move || self.browses(number, web))));
        threads
    }

    /// They come no more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Nor is a message tried any more that was not taken.
    pub(crate) fn give_up(&self) {
        self.end();
        self.gave_up.store(true, Ordering::SeqCst);
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn note(&self, user: usize, from: f64, what: What) {
        let to = now();
        self.done.lock().unwrap().push(Done { user, from, to, what });
    }

    fn dice(&self, who: usize) -> Dice {
        Dice::new(self.seed.wrapping_add(who as u64))
    }

    /// What was done so far.
    pub(crate) fn done(&self) -> Vec<Done> {
        self.done.lock().unwrap().clone()
    }

    pub(crate) fn written(&self) -> Vec<String> {
        self.written.lock().unwrap().clone()
    }

    /// The numbers of messages are below this.
    pub(crate) fn messages(&self) -> usize {
        self.messages.load(Ordering::SeqCst)
    }

    /// The users who are not in, or elsewhere than at home.
    pub(crate) fn astray(&self, homes: &[usize]) -> Vec<String> {
        programs(self.cluster.users.len(), self.cluster.entries.len())
            .zip(&self.stays)
            .filter_map(|((user, _), stay)| {
                let stay = *stay.lock().unwrap();
                let is_home = stay == Some(homes[user]);
                (!is_home).then(|| format!("{}: {stay:?}, not {}", self.cluster.users[user], homes[user]))
            })
            .collect()
    }

    /// A mail program: one session after the other.
    fn reads(&self, number: usize, user: usize, entry: usize) {
        let mut dice = self.dice(number);
        let name = &self.cluster.users[user];
        // Not all in one moment, to begin with.
        thread::sleep(self.rates.arrival.mul_f64(dice.part()));
        let mut refused = 0;
        for session in 0.. {
            let from = now();
            let came = log_in(Protocol::Imap, self.cluster.entries[entry], name, PASSWORD)
                .and_then(|mut connection| Ok((who_is_there(&mut connection)?, connection)));
            match came {
                Ok((node, connection)) => {
                    refused = 0;
                    self.note(user, from, What::Login(entry, Ok(node)));
                    *self.stays[number].lock().unwrap() = Some(node);
                    // It ends with an error, or all do.
                    let _ = self.works(connection, &format!("{number}.{session}"), &mut dice);
                    *self.stays[number].lock().unwrap() = None;
                }
                Err(error) => {
                    self.note(user, from, What::Login(entry, Err(error.to_string())));
                    refused += 1;
                    thread::sleep(pause_after(refused, &mut dice));
                }
            }
            if self.has_ended() {
                return;
            }
        }
    }

    /// Idles, and writes something into the mailbox now and then.
    fn works(&self, mut connection: Connection, session: &str, dice: &mut Dice) -> io::Result<()> {
        connection.command("s", "SELECT INBOX")?;
        for number in 0.. {
            let name = format!("w{session}.{number}");
            let text = message(&name);
            connection.send(&format!("w APPEND INBOX {{{}+}}\r\n{text}\r\n", text.len()))?;
            connection.answer("w")?;
            self.written.lock().unwrap().push(name);
            connection.send("i IDLE\r\n")?;
            let until = now() + self.rates.idle.as_secs_f64() * (0.5 + dice.part());
            while now() < until {
                if connection.hears(Duration::from_millis(500))? {
                    connection.line()?;
                }
                if self.has_ended() {
                    return Ok(());
                }
            }
            connection.send("DONE\r\n")?;
            connection.answer("i")?;
        }
        Ok(())
    }

    /// A mail server's queue: each message is tried until it is taken.
    fn sends(&self, sender: usize) {
        let mut dice = self.dice(1_000_000 + sender);
        while !self.has_ended() {
            let user = dice.below(self.cluster.users.len());
            let number = self.messages.fetch_add(1, Ordering::SeqCst);
            // Nobody ends while something is in the queue.
            let mut refused = 0;
            while !self.is_taken(number, user, dice.below(self.cluster.proxies.len()))
                && !self.gave_up.load(Ordering::SeqCst)
            {
                refused += 1;
                thread::sleep(pause_after(refused, &mut dice));
            }
            thread::sleep(self.rates.pause.mul_f64(dice.part()));
        }
    }

    fn is_taken(&self, number: usize, user: usize, proxy: usize) -> bool {
        let from = now();
        let server = (self.cluster.proxies[proxy], LMTP_PORT).into();
        let answers = deliver_message(server, &[&self.cluster.users[user]], &message(&delivered(number)));
        let result = match answers {
            Ok(answers) if answers[0].starts_with("250 ") => Ok(()),
            Ok(answers) => Err(Failed {
                why: answers[0].clone(),
                is_unknown: false,
            }),
            // Whoever is refused before the message is told so in words.
            Err(error) => Err(Failed {
                why: error.to_string(),
                is_unknown: error.kind() != io::ErrorKind::Other,
            }),
        };
        let is_taken = result.is_ok();
        self.note(user, from, What::Delivery(number, result));
        is_taken
    }

    /// Messages for sendmail, each of which is tried until it is taken.
    fn writes(&self, number: usize, queues: &Queues) {
        let mut dice = self.dice(3_000_000 + number);
        while !self.has_ended() {
            let user = dice.below(self.cluster.users.len());
            let number = self.handed.fetch_add(1, Ordering::SeqCst);
            let mut is_taken = false;
            while !is_taken && !self.gave_up.load(Ordering::SeqCst) {
                let from = now();
                let result = queues.take(&self.cluster.users[user], &format!("{}@proof", handed(number)));
                is_taken = result.is_ok();
                self.note(user, from, What::Handed(number, result));
                thread::sleep(self.rates.pause.mul_f64(dice.part()));
            }
        }
    }

    fn browses(&self, number: usize, web: &Web) {
        let mut dice = self.dice(2_000_000 + number);
        while !self.has_ended() {
            let user = dice.below(self.cluster.users.len());
            let from = now();
            let (node, port, result) = web.load(&self.cluster.users[user]);
            self.note(user, from, What::Page(node, port, result));
            thread::sleep(self.rates.pause.mul_f64(dice.part()));
        }
    }
}

/// The node that serves a session, by its own word.
pub(crate) fn who_is_there(connection: &mut Connection) -> io::Result<usize> {
    let said = connection.command("n", "ID NIL")?;
    (0..NODES)
        .find(|node| said.contains(&format!("\"{}\"", name_of(*node))))
        .ok_or_else(|| io::Error::other(said))
}

/// The name of a message that is delivered.
pub(crate) fn delivered(number: usize) -> String {
    format!("d{number}")
}

/// The name of a message that is handed to sendmail.
pub(crate) fn handed(number: usize) -> String {
    format!("q{number}")
}

fn message(name: &str) -> String {
    format!("Message-ID: <{name}@proof>\r\nSubject: proof\r\n\r\nText.\r\n")
}
