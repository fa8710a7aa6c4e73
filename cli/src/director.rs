//! The live state of a Dovecot Director, as `doveadm director` sees it.
//!
//! A Director sends a user to the host that its user table has for the user's hash and
//! tag; the ring decides only for users that are not in the table
//! (`director_request_continue_real` and `doveadm_cmd_user_lookup` in Dovecot 2.3). The
//! table is filled by logins and by `doveadm director move`. An entry wins even when its
//! host is down or has no vhosts, until it expires, or until the host is flushed or
//! removed, which takes the entry out of the table. So whoever wants the Director's
//! answer for everybody needs the hosts and the table: a [`Snapshot`].

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read as _, Take, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use crate::timed_socket::{TimedSocket, connect_unix, is_timeout};
use mailaffinity::deadline::Deadline;
use mailaffinity::mapping::{Node, parse_address};

const HANDSHAKE: &[u8] = b"VERSION\tdirector-doveadm\t1\t0\n";
const HOST_LIST: &str = "HOST-LIST";
const USER_LIST: &str = "USER-LIST";
const USER_LOOKUP: &str = "USER-LOOKUP";

/// The longest command line that a Director reads, without its newline.
const LONGEST_COMMAND: usize = 1023;

/// Longer than any line of a Director, whose tags are words of its configuration.
const LONGEST_LINE: u64 = 8 << 10;

/// Enough for 15 million users.
const LONGEST_ANSWER: u64 = 512 << 20;

/// How much of a line an error quotes.
const QUOTED: usize = 200;

/// What a Director says of its hosts and of the users in its table, all at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All that it has, in its order: those that are down or have no vhosts too, but
    /// none that was removed. An address may be there more than once.
    pub hosts: Vec<Host>,
    /// Its table, of all tags. Not all of it counts: see
    /// [`users_in_force`](Snapshot::users_in_force).
    pub users: Vec<User>,
}

/// A host of a Director.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Where it is, and what places it on the ring.
    pub address: IpAddr,
    /// Its share of the users; 0 takes no new ones.
    pub vhost_count: u32,
    /// The pool it belongs to; empty for none.
    pub tag: String,
    /// A host that is down takes no new users.
    pub up: bool,
    /// When it last went down or came up; `None` when it never did.
    pub changed: Option<Timestamp>,
}

/// A user in a Director's table: one who was moved, or logged in not long ago.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// The hash of the name by `director_username_hash`.
    pub username_hash: u32,
    /// The host, which also says whose tag's table this is.
    pub address: IpAddr,
    /// When the Director forgets the user: `director_user_expire` (15 minutes) after
    /// the move, or after the last sign of a connection.
    pub expires: Timestamp,
}

/// A Director that cannot be asked, or whose answer is not one.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", socket.display())]
pub struct DirectorError {
    socket: PathBuf,
    problem: io::Error,
}

/// Where a Director sends a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// To this host.
    Host {
        /// Where it is.
        address: IpAddr,
        /// Whether the user is there by the Director's table; else by its ring.
        in_table: bool,
    },
    /// There is no host for the user.
    NoHost,
    /// `TRYAGAIN`: the Director cannot hash the name, since `director_username_hash` has
    /// a variable that it does not know.
    TryAgain,
}

/// Asks the Director at its `director-admin` socket. It is on the same machine, and the
/// whole exchange takes no longer than `timeout`.
///
/// # Errors
/// When nobody listens there, or not a Director; when it does not answer all in time;
/// and when a part of the answer makes no sense or is missing. There is no part of a
/// snapshot.
pub fn snapshot(socket: &Path, timeout: Duration) -> Result<Snapshot, DirectorError> {
    exchange(socket, timeout, |director, answers| {
        // In one piece: the Director then answers both before anything else happens to it,
        // and no user is at a host that is not in the list.
        director.write_all(format!("{HOST_LIST}\n{USER_LIST}\n").as_bytes())?;
        Snapshot::read(answers)
    })
}

/// Asks the Director where it sends each of these users, by the lines that
/// [`lookup_line`] makes.
///
/// # Errors
/// As [`snapshot`].
pub fn lookups(socket: &Path, lines: &[Vec<u8>], timeout: Duration) -> Result<Vec<Lookup>, DirectorError> {
    exchange(socket, timeout, |director, answers| {
        let mut answers = Lines::new(answers);
        let mut found = Vec::with_capacity(lines.len());
        // So few at once that neither side waits for the other to read.
        for lines in lines.chunks(50) {
            director.write_all(&lines.concat())?;
            for _ in lines {
                let line = answers.next(USER_LOOKUP)?;
                found.push(Lookup::parse(line).ok_or_else(|| {
                    invalid(format!(
                        "the Director answers {USER_LOOKUP} with a line that is not one of Dovecot 2.3: \"{}\"",
                        quoted(line)
                    ))
                })?);
            }
        }
        Ok(found)
    })
}

/// The `USER-LOOKUP` line for a user with a tag; `None` for a name that cannot be asked
/// for: an empty one, one with a NUL, at which the Director cuts it, and one so long that
/// the Director would drop the connection.
///
/// Digits are no name to the Director, but a hash (`doveadm_cmd_user_lookup` in Dovecot
/// 2.3).
pub fn lookup_line(user: &[u8], tag: &str) -> Option<Vec<u8>> {
    let mut line = [USER_LOOKUP.as_bytes(), b"\t"].concat();
    line.extend(tab_escape(user));
    line.push(b'\t');
    line.extend(tab_escape(tag.as_bytes()));
    let sendable = !user.is_empty() && !user.contains(&0) && line.len() <= LONGEST_COMMAND;
    line.push(b'\n');
    sendable.then_some(line)
}

type Director<'s> = TimedSocket<&'s UnixStream>;

fn exchange<T>(
    socket: &Path,
    timeout: Duration,
    talk: impl FnOnce(&mut Director<'_>, BufReader<Director<'_>>) -> io::Result<T>,
) -> Result<T, DirectorError> {
    let deadline = Deadline::after(timeout);
    let answer = open(socket, deadline).and_then(|director| {
        let mut director = TimedSocket {
            socket: &director,
            deadline,
        };
        let mut answers = BufReader::new(director);
        read_handshake(&mut answers)?;
        director.write_all(HANDSHAKE)?;
        talk(&mut director, answers)
    });
    answer.map_err(|problem| DirectorError {
        socket: socket.to_owned(),
        problem: match is_timeout(&problem) {
            true => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the Director did not answer within {timeout:?}; does it hang or is it overloaded?"),
            ),
            false => problem,
        },
    })
}

fn open(socket: &Path, deadline: Deadline) -> io::Result<UnixStream> {
    connect_unix(socket, deadline).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => error,
        kind => io::Error::new(
            kind,
            format!(
                "cannot connect to the Director: {error}; is this its director-admin socket, and does it run?"
            ),
        ),
    })
}

/// The first line, which the Director sends unasked. Minor versions are compatible.
fn read_handshake(answers: impl BufRead) -> io::Result<()> {
    let mut lines = Lines::new(answers);
    let line = lines.next("the handshake")?;
    match line.split(|&byte| byte == b'\t').collect::<Vec<_>>()[..] {
        [b"VERSION", b"director-doveadm", b"1", minor] if number::<u32>(minor).is_some() => Ok(()),
        _ => Err(invalid(format!(
            "\"{}\" is not the handshake of a Director of Dovecot 2.3; is this its director-admin socket?",
            quoted(line)
        ))),
    }
}

impl Snapshot {
    /// Reads the answers to `HOST-LIST` and `USER-LIST`, each of which ends with a blank
    /// line.
    ///
    /// # Errors
    /// Those of reading, and those of [`snapshot`] on the answers.
    pub fn read(answers: impl BufRead) -> io::Result<Snapshot> {
        let mut lines = Lines::new(answers);
        let hosts = lines.list(HOST_LIST, Host::parse)?;
        let users = lines.list(USER_LIST, User::parse)?;
        let snapshot = Snapshot { hosts, users };
        snapshot.check_tags()?;
        Ok(snapshot)
    }

    /// The users whom the Director sends where its table says, by tag and hash. All
    /// other users are sent where the ring says.
    ///
    /// These are the entries that have not expired; their tag is their host's. Expired
    /// ones may be in the table still: it is cleared from its oldest end, and stays as
    /// it is behind a user who was moved again and keeps his place (`director_move_user`,
    /// `user_directory_drop_expired`); but a user who is looked up is checked
    /// (`user_directory_lookup`).
    pub fn all_users_in_force(&self, now: Timestamp) -> HashMap<(&str, u32), IpAddr> {
        let tags = self.tags();
        self.users
            .iter()
            .filter(|user| user.expires > now)
            .filter_map(|user| Some(((*tags.get(&user.address)?, user.username_hash), user.address)))
            .collect()
    }

    /// Those of one tag.
    pub fn users_in_force(&self, tag: &str, now: Timestamp) -> HashMap<u32, IpAddr> {
        let of_tag = |((of, hash), address)| (of == tag).then_some((hash, address));
        self.all_users_in_force(now)
            .into_iter()
            .filter_map(of_tag)
            .collect()
    }

    /// The host that each of these nodes is, and the hosts that none is.
    ///
    /// A host of another tag is the node all the same, unless the tag tells it from another
    /// one. Of a host that the Director has twice, the ring has the points of either that is
    /// up.
    pub fn match_hosts<'n>(
        &self,
        nodes: impl Iterator<Item = &'n Node> + Clone,
    ) -> (Vec<Option<&Host>>, Vec<&Host>) {
        let mut hosts: Vec<&Host> = self.hosts.iter().collect();
        hosts.sort_by_key(|&host| (host.up, host.vhost_count));
        let mut unmatched: BTreeMap<(IpAddr, &str), &Host> = hosts
            .into_iter()
            .map(|host| ((host.address, host.tag.as_str()), host))
            .collect();
        let with_tag = nodes
            .clone()
            .map(|node| unmatched.remove(&(node.address, node.tag.as_str())));
        let mut matched: Vec<Option<&Host>> = with_tag.collect();
        for (node, host) in nodes.zip(&mut matched).filter(|(_, host)| host.is_none()) {
            let mut others = unmatched.range((node.address, "")..);
            let other = others
                .next()
                .map(|(key, _)| *key)
                .filter(|key| key.0 == node.address);
            *host = other.and_then(|key| unmatched.remove(&key));
        }
        (matched, unmatched.into_values().collect())
    }

    /// The tag of a host, and of the users there.
    pub fn tag_of(&self, address: IpAddr) -> Option<&str> {
        self.tags().get(&address).copied()
    }

    fn tags(&self) -> HashMap<IpAddr, &str> {
        self.hosts
            .iter()
            .map(|host| (host.address, host.tag.as_str()))
            .collect()
    }

    /// An entry has no tag but that of its host.
    fn check_tags(&self) -> io::Result<()> {
        let tags = self.tags();
        let ambiguous: HashMap<IpAddr, &str> = self
            .hosts
            .iter()
            .filter(|host| tags.get(&host.address) != Some(&host.tag.as_str()))
            .map(|host| (host.address, host.tag.as_str()))
            .collect();
        for User {
            username_hash,
            address,
            ..
        } in &self.users
        {
            let Some(tag) = tags.get(address) else {
                return Err(invalid(format!(
                    "the Director's {USER_LIST} has user {username_hash} at {address}, which its {HOST_LIST} \
                     does not have"
                )));
            };
            if let Some(other) = ambiguous.get(address) {
                return Err(invalid(format!(
                    "the Director has the host {address} with the tags {tag:?} and {other:?}, and does not say \
                     for which one user {username_hash} is there; give each host one tag"
                )));
            }
        }
        Ok(())
    }
}

impl Host {
    fn parse(fields: &[&[u8]]) -> Option<Host> {
        let &[address, vhost_count, _user_count, tag, state, changed] = fields else {
            return None;
        };
        Some(Host {
            address: self::address(address)?,
            vhost_count: number(vhost_count)?,
            tag: tab_unescape(tag)?,
            up: match state {
                b"U" => true,
                b"D" => false,
                _ => return None,
            },
            changed: match number(changed)? {
                0 => None,
                second => Some(Timestamp::from_second(second).ok()?),
            },
        })
    }
}

impl User {
    fn parse(fields: &[&[u8]]) -> Option<User> {
        let &[username_hash, expires, address] = fields else {
            return None;
        };
        Some(User {
            username_hash: number(username_hash)?,
            address: self::address(address)?,
            expires: Timestamp::from_second(number::<u32>(expires)?.into()).ok()?,
        })
    }
}

impl Lookup {
    /// Reads the answer to `USER-LOOKUP`, without its newline: `current`, `expires`,
    /// `hashed` and `initial`. `None` if it is not one.
    pub fn parse(line: &[u8]) -> Option<Lookup> {
        match line.split(|&byte| byte == b'\t').collect::<Vec<_>>()[..] {
            [b"TRYAGAIN"] => Some(Lookup::TryAgain),
            [b"", _, b"", _] => Some(Lookup::NoHost),
            [b"", _, hashed, _] => Some(Lookup::Host {
                address: address(hashed)?,
                in_table: false,
            }),
            [current, _, _, _] => Some(Lookup::Host {
                address: address(current)?,
                in_table: true,
            }),
            _ => None,
        }
    }
}

/// Lines of an answer, none of them endless, nor all together.
struct Lines<R> {
    answers: Take<R>,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn new(answers: R) -> Lines<R> {
        Lines {
            answers: answers.take(LONGEST_ANSWER),
            line: Vec::new(),
        }
    }

    /// The next line of an answer, without its newline.
    fn next(&mut self, answer: &str) -> io::Result<&[u8]> {
        self.line.clear();
        (&mut self.answers)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut self.line)?;
        match self.line.strip_suffix(b"\n") {
            Some(line) => Ok(line),
            None if self.answers.limit() == 0 => Err(invalid(format!(
                "the Director's answers have more than {LONGEST_ANSWER} bytes"
            ))),
            None if self.line.len() as u64 == LONGEST_LINE => Err(invalid(format!(
                "the Director's {answer} has a line of more than {LONGEST_LINE} bytes: \"{}\"",
                quoted(&self.line)
            ))),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "the Director closed the connection within {answer}, after \"{}\"; its log may say why",
                    quoted(&self.line)
                ),
            )),
        }
    }

    /// All lines up to a blank one.
    fn list<T>(&mut self, command: &str, parse: impl Fn(&[&[u8]]) -> Option<T>) -> io::Result<Vec<T>> {
        let mut rows = Vec::new();
        loop {
            let line = self.next(command)?;
            if line.is_empty() {
                return Ok(rows);
            }
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b'\t').collect();
            let row = parse(&fields).ok_or_else(|| {
                invalid(format!(
                    "the Director's {command} has a line that is not one of Dovecot 2.3: \"{}\"",
                    quoted(line)
                ))
            })?;
            rows.push(row);
        }
    }
}

fn address(field: &[u8]) -> Option<IpAddr> {
    parse_address(str::from_utf8(field).ok()?)
}

/// Digits and nothing else.
fn number<T: FromStr>(field: &[u8]) -> Option<T> {
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(field).ok()?.parse().ok()
}

/// The text of a field: Dovecot's `str_append_tabescaped`, undone.
fn tab_unescape(field: &[u8]) -> Option<String> {
    let mut text = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        text.push(match byte {
            1 => match bytes.next()? {
                b'0' => 0,
                b'1' => 1,
                b't' => b'\t',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            _ => byte,
        });
    }
    String::from_utf8(text).ok()
}

/// Dovecot's `str_append_tabescaped`, for what has no NUL.
fn tab_escape(field: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(field.len());
    for byte in field {
        match byte {
            1 => escaped.extend(b"\x011"),
            b'\t' => escaped.extend(b"\x01t"),
            b'\n' => escaped.extend(b"\x01n"),
            b'\r' => escaped.extend(b"\x01r"),
            byte => escaped.push(*byte),
        }
    }
    escaped
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// The beginning of a line, for an error.
fn quoted(line: &[u8]) -> impl fmt::Display {
    line.get(..QUOTED).unwrap_or(line).escape_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    const ANSWERS: &[u8] = b"10.0.0.1\t100\t2\t\tU\t0\n\
        10.0.0.2\t0\t0\teast\x01twing\tD\t1795467900\n\
        2001:db8::1\t1000\t0\tW\xc3\xa9st\tU\t1795467901\n\
        \n\
        4294967295\t1795467905\t10.0.0.1\n\
        0\t4294967295\t2001:db8::1\n\
        1\t0\t10.0.0.2\n\
        \n";

    fn read(answers: &[u8]) -> Result<Snapshot, String> {
        Snapshot::read(answers).map_err(|error| error.to_string())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn lookups() {
        let host = |text: &str, in_table| Lookup::Host {
            address: address(text),
            in_table,
        };
        for (line, expected) in [
            ("\t0\t10.0.0.1\t10.0.0.2", Some(host("10.0.0.1", false))),
            ("\t0\t2001:db8::1\t", Some(host("2001:db8::1", false))),
            ("10.0.0.3\t1795467905\t10.0.0.1\t", Some(host("10.0.0.3", true))),
            ("10.0.0.3\t1795467905\t\t", Some(host("10.0.0.3", true))),
            ("\t0\t\t", Some(Lookup::NoHost)),
            ("TRYAGAIN", Some(Lookup::TryAgain)),
            ("\t0\t10.0.0.1", None),
            ("\t0\thost\t", None),
            ("OK", None),
            ("", None),
        ] {
            assert_eq!(Lookup::parse(line.as_bytes()), expected, "{line:?}");
        }
        let line = |user: &[u8]| lookup_line(user, "ea\tst");
        assert_eq!(
            line(b"a\x01\t\r\nb").as_deref(),
            Some(&b"USER-LOOKUP\ta\x011\x01t\x01r\x01nb\tea\x01tst\n"[..])
        );
        assert_eq!(line(b"a\0"), None);
        assert_eq!(line(b""), None);
        let longest = LONGEST_COMMAND - "USER-LOOKUP\t\tea\x01tst".len();
        assert_eq!(
            line(&vec![b'a'; longest]).map(|line| line.len()),
            Some(LONGEST_COMMAND + 1)
        );
        assert_eq!(line(&vec![b'a'; longest + 1]), None);
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn answers() {
        let host = |text, vhost_count, tag: &str, up, changed| Host {
            address: address(text),
            vhost_count,
            tag: tag.to_owned(),
            up,
            changed,
        };
        let user = |username_hash, expires, text| User {
            username_hash,
            address: address(text),
            expires: second(expires),
        };
        let snapshot = Snapshot {
            hosts: vec![
                host("10.0.0.1", 100, "", true, None),
                host("10.0.0.2", 0, "east\twing", false, Some(second(1_795_467_900))),
                host("2001:db8::1", 1000, "Wést", true, Some(second(1_795_467_901))),
            ],
            users: vec![
                user(u32::MAX, 1_795_467_905, "10.0.0.1"),
                user(0, u32::MAX.into(), "2001:db8::1"),
                user(1, 0, "10.0.0.2"),
            ],
        };
        assert_eq!(read(ANSWERS), Ok(snapshot));
        assert_eq!(read(b"\n\n"), Ok(Snapshot::default()));
    }

    #[test]
    fn users_in_force_have_the_tag_and_time_left() {
        let snapshot = read(
            b"10.0.0.1\t100\t0\t\tU\t0\n10.0.0.2\t0\t0\t\tD\t1\n10.0.0.3\t100\t0\teast\tU\t0\n\n\
              7\t100\t10.0.0.1\n8\t101\t10.0.0.2\n9\t99\t10.0.0.1\n7\t102\t10.0.0.3\n\n",
        )
        .unwrap();
        let in_force = |tag, now| {
            let mut users: Vec<(u32, IpAddr)> =
                snapshot.users_in_force(tag, second(now)).into_iter().collect();
            users.sort_unstable();
            users
        };
        let [one, two, three] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(address);
        assert_eq!(in_force("", 98), [(7, one), (8, two), (9, one)]);
        assert_eq!(in_force("", 99), [(7, one), (8, two)]);
        assert_eq!(in_force("", 100), [(8, two)]);
        assert_eq!(in_force("", 101), []);
        assert_eq!(in_force("east", 101), [(7, three)]);
        assert_eq!(in_force("East", 0), []);
    }

    #[test]
    fn every_part_of_the_answers_is_missing() {
        for end in 0..ANSWERS.len() {
            let error = read(&ANSWERS[..end]).expect_err("a part");
            assert!(
                error.contains("the Director closed the connection within "),
                "{error}"
            );
        }
        let error = read(&ANSWERS[..12]).unwrap_err();
        assert!(
            error.contains("within HOST-LIST, after \"10.0.0.1\\t100\""),
            "{error}"
        );
    }

    #[test]
    fn lines_that_are_not_of_a_host() {
        for line in [
            "10.0.0.1",
            "10.0.0.1\t100\t2\t\tU",
            "10.0.0.1\t100\t2\t\tU\t0\t",
            "10.0.0.1 \t100\t2\t\tU\t0",
            "node1\t100\t2\t\tU\t0",
            "\t100\t2\t\tU\t0",
            "10.0.0.1\t\t2\t\tU\t0",
            "10.0.0.1\t-1\t2\t\tU\t0",
            "10.0.0.1\t+1\t2\t\tU\t0",
            "10.0.0.1\t4294967296\t2\t\tU\t0",
            "10.0.0.1\t100\t2\t\tu\t0",
            "10.0.0.1\t100\t2\t\t\t0",
            "10.0.0.1\t100\t2\t\tU\t",
            "10.0.0.1\t100\t2\t\tU\t-1",
            "10.0.0.1\t100\t2\t\tU\t0\r",
            "10.0.0.1\t100\t2\t\tU\t9223372036854775807",
            "10.0.0.1\t100\t2\t\x01\tU\t0",
            "10.0.0.1\t100\t2\t\x012\tU\t0",
            "\x7f",
        ] {
            let error = read(format!("{line}\n\n\n").as_bytes()).expect_err(line);
            assert!(error.contains("HOST-LIST has a line that is not one"), "{error}");
            assert!(
                error.ends_with(&format!("\"{}\"", line.as_bytes().escape_ascii())),
                "{error}"
            );
        }
        assert!(read(b"10.0.0.1\t100\t2\t\xff\tU\t0\n\n\n").is_err(), "not UTF-8");
    }

    #[test]
    fn lines_that_are_not_of_a_user() {
        for line in [
            "1",
            "1\t2",
            "1\t2\t10.0.0.1\t",
            "1\t2\t",
            "\t2\t10.0.0.1",
            "1\t\t10.0.0.1",
            "anna\t2\t10.0.0.1",
            "4294967296\t2\t10.0.0.1",
            "1\t4294967296\t10.0.0.1",
            "NOTFOUND",
        ] {
            let error = read(format!("10.0.0.1\t1\t1\t\tU\t0\n\n{line}\n\n").as_bytes()).expect_err(line);
            assert!(error.contains("USER-LIST has a line that is not one"), "{error}");
        }
    }

    #[test]
    fn users_without_one_tag() {
        let error = read(b"10.0.0.1\t1\t1\t\tU\t0\n\n5\t2\t10.0.0.2\n\n").unwrap_err();
        assert!(
            error.contains("user 5 at 10.0.0.2, which its HOST-LIST does not have"),
            "{error}"
        );

        let hosts = b"10.0.0.1\t1\t1\t\tU\t0\n10.0.0.1\t1\t1\teast\tU\t0\n10.0.0.2\t1\t1\t\tU\t0\n\n";
        let error = read(&[hosts, &b"5\t2\t10.0.0.1\n\n"[..]].concat()).unwrap_err();
        assert!(error.contains("the tags \"east\" and \"\""), "{error}");
        assert!(read(&[hosts, &b"5\t2\t10.0.0.2\n\n"[..]].concat()).is_ok());
        let twice = b"10.0.0.1\t1\t1\t\tU\t0\n10.0.0.1\t1\t1\t\tU\t0\n\n5\t2\t10.0.0.1\n\n";
        assert!(read(twice).is_ok(), "twice with the same tag");
    }

    #[test]
    fn answers_without_end() {
        let error = Snapshot::read(BufReader::new(io::repeat(b'1')))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("HOST-LIST has a line of more than 8192 bytes: \"1111"),
            "{error}"
        );
        assert!(error.len() < 400, "{error}");

        let mut lines = Lines::new(&b"1\n22\n333\n"[..]);
        lines.answers.set_limit(6);
        assert_eq!(lines.next("it").unwrap(), b"1");
        assert_eq!(lines.next("it").unwrap(), b"22");
        let error = lines.next("it").unwrap_err().to_string();
        assert!(error.contains("answers have more than"), "{error}");
    }

    #[test]
    fn handshakes() {
        for line in [
            "VERSION\tdirector-doveadm\t1\t0",
            "VERSION\tdirector-doveadm\t1\t17",
        ] {
            assert!(read_handshake(format!("{line}\n").as_bytes()).is_ok(), "{line}");
        }
        for line in [
            "",
            "VERSION\tdirector-doveadm\t2\t0",
            "VERSION\tdirector-doveadm\t1",
            "VERSION\tdirector-doveadm\t1\t",
            "VERSION\tdirector-doveadm\t1\t0\t",
            "VERSION\tdirector\t1\t0",
            "* OK Dovecot ready.\r",
        ] {
            let error = read_handshake(format!("{line}\n").as_bytes())
                .expect_err(line)
                .to_string();
            assert!(error.contains("is not the handshake of a Director"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answers_or_an_error(answers: Vec<u8>) {
            let _ = read(&answers);
        }

        #[test]
        fn any_snapshot_is_read(
            hosts in prop::collection::btree_map(any::<IpAddr>(), (any::<u32>(), any::<String>(), any::<bool>(), 0i64..4_000_000_000), 1..5),
            users in prop::collection::vec((any::<u32>(), any::<u32>(), 0usize..5), 0..9),
        ) {
            let mut text = String::new();
            for (address, (vhost_count, tag, up, changed)) in &hosts {
                let tag = tag
                    .replace('\x01', "\x011")
                    .replace('\0', "\x010")
                    .replace('\t', "\x01t")
                    .replace('\n', "\x01n")
                    .replace('\r', "\x01r");
                let state = if *up { 'U' } else { 'D' };
                text += &format!("{address}\t{vhost_count}\t0\t{tag}\t{state}\t{changed}\n");
            }
            text += "\n";
            let addresses: Vec<&IpAddr> = hosts.keys().collect();
            for (username_hash, expires, at) in &users {
                text += &format!("{username_hash}\t{expires}\t{}\n", addresses[at % addresses.len()]);
            }
            text += "\n";

            let snapshot = read(text.as_bytes()).unwrap();
            prop_assert_eq!(snapshot.users.len(), users.len());
            prop_assert_eq!(snapshot.hosts.len(), hosts.len());
            for host in snapshot.hosts {
                let (vhost_count, tag, up, changed) = &hosts[&host.address];
                prop_assert_eq!(&(host.vhost_count, &host.tag, host.up), &(*vhost_count, tag, *up));
                prop_assert_eq!(host.changed.map_or(0, Timestamp::as_second), *changed);
            }
            for (user, (username_hash, expires, at)) in snapshot.users.iter().zip(users) {
                prop_assert_eq!(user.username_hash, username_hash);
                prop_assert_eq!(user.expires.as_second(), i64::from(expires));
                prop_assert!(user.address == *addresses[at % addresses.len()]);
            }
        }
    }
}
