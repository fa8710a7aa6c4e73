//! The sessions that this machine's Dovecot has, whether each is on the node that the
//! mapping gives to its user, and how some of them are ended.
//!
//! `doveadm who` tells of them and `doveadm kick` ends them. A proxy of Dovecot 2.4 knows
//! where each session was sent to (`dest_ip`), and the fields `user_…` that its passdb
//! returned: sessions are ended by these in groups, since `doveadm kick` takes one user, and
//! a fifth of a second for that.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Display;
use std::iter;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use crate::child::{self, ChildError};
use mailaffinity::config::{Config, Dovecot, NodeConfig};
use mailaffinity::deadline::Deadline;
use mailaffinity::mapping::{Cluster, parse_address, ring_label};

/// The start of the names of the fields that Dovecot takes for further names of a user.
const NAME_FIELDS: &str = "user_";

/// The one that Dovecot's passdb of mailaffinity returns for the node it sends a user to.
const NODE_FIELD: &str = "user_node";

/// So many users can be ended one by one, where no group is theirs alone, when nobody waits for it.
pub(crate) const MOST_SINGLES: usize = 100;

/// How long a kick may take, and how much longer for each session. Where Dovecot's anvil loses its
/// connection to a login process meanwhile, 2.4.1 waits for half a minute or so, and answers the next one.
const LONGEST_KICK: Duration = Duration::from_secs(1);
const LONGEST_PER_SESSION: Duration = Duration::from_micros(200);

/// A line of `doveadm who`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Whose session it is.
    pub user: Vec<u8>,
    /// What it speaks, such as `imap`.
    pub service: String,
    /// The client's address.
    pub ip: String,
    /// The groups that it is in.
    pub groups: BTreeSet<Group>,
}

/// Sessions that one `doveadm kick` ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Those with this field and value (`-f`).
    Field(String, String),
    /// Those that are proxied to this address (`-h`).
    Destination(IpAddr),
}

/// A session, and where it is.
#[derive(Clone, Debug)]
pub struct Session<'c> {
    /// What Dovecot says of it.
    pub line: Line,
    /// The node that it is on, if that is one of the configuration.
    pub node: Option<&'c NodeConfig>,
    /// The node that the mapping gives to the user, if it gives one.
    pub right_node: Option<&'c NodeConfig>,
}

/// Why nothing is known of the sessions, or not all were ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionsError {
    /// doveadm failed.
    #[error(transparent)]
    Doveadm(ChildError),
    /// It says something else than sessions.
    #[error("{0} prints what makes no sense")]
    Nonsense(String),
}

impl SessionsError {
    /// Whether Dovecot does not run, and so has none: nobody listens where `doveadm` asks
    /// (its `net_connect_unix()`).
    pub(crate) fn is_not_running(&self) -> bool {
        let SessionsError::Doveadm(error) = self else {
            return false;
        };
        let asked = error.problem.contains("net_connect_unix(");
        let nobody = ["No such file or directory", "Connection refused"];
        asked && nobody.iter().any(|why| error.problem.ends_with(why))
    }
}

/// Asks this machine's Dovecot for its sessions. This machine is the node `here`, if that is known.
/// Users belong to nodes with `tag`; without one, to those of the pool that they are in, whose tag
/// only Dovecot's configuration may have.
///
/// # Errors
/// See [`SessionsError`].
pub(crate) fn list<'c>(
    config: &'c Config,
    cluster: &Cluster,
    tag: Option<&str>,
    here: Option<&'c NodeConfig>,
) -> Result<Vec<Session<'c>>, SessionsError> {
    let command = [
        &config.dovecot.doveadm,
        &["-f", "tab", "who", "-1"].map(String::from)[..],
    ]
    .concat();
    let listed = child::run(&command, b"", *config.dovecot.timeout);
    let text = listed
        .and_then(child::Finished::success)
        .map_err(SessionsError::Doveadm)?;
    let lines = parse(&text).ok_or_else(|| SessionsError::Nonsense(child::name(&command)))?;
    let session = |line| Session::of(line, config, cluster, tag, here);
    Ok(lines.into_iter().map(session).collect())
}

/// What is to be said of sessions that are on this machine, if it is not known which node that
/// is, for this reason.
pub(crate) fn unknown(sessions: &[Session<'_>], reason: impl Display) -> Option<String> {
    let is_unknown =
        |session: &&Session<'_>| session.node_name().is_none() && session.line.destination().is_none();
    match sessions.iter().filter(is_unknown).count() {
        0 => None,
        count => Some(format!(
            "on which node {count} sessions are is not known: {reason}"
        )),
    }
}

/// Reads what `doveadm -f tab who -1` prints. `None` if it is anything else.
pub fn parse(text: &[u8]) -> Option<Vec<Line>> {
    let mut lines = text.strip_suffix(b"\n")?.split(|byte| *byte == b'\n');
    let names = str::from_utf8(lines.next()?).ok()?;
    let names: Vec<&str> = names.split('\t').collect();
    let user = names.iter().position(|name| *name == "username")?;
    lines
        .map(|line| {
            let values: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
            if values.len() != names.len() {
                return None;
            }
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let mut read = Line {
                user: values.get(user)?.to_vec(),
                service: String::new(),
                ip: String::new(),
                groups: BTreeSet::new(),
            };
            for (name, value) in names.iter().zip(values) {
                match *name {
                    // A login process has those that it proxies.
                    "service" => read.service = text(value.strip_suffix(b"-login").unwrap_or(value)),
                    "ip" => read.ip = text(value),
                    "dest_ip" if !value.is_empty() => {
                        let address = parse_address(str::from_utf8(value).ok()?)?;
                        read.groups.insert(Group::Destination(address));
                    }
                    // With what it takes for an address, Dovecot 2.4.1 crashes.
                    name if name.starts_with(NAME_FIELDS) && !value.is_empty() && is_one_name(value) => {
                        read.groups.insert(Group::Field(name.to_owned(), text(value)));
                    }
                    _ => {}
                }
            }
            Some(read)
        })
        .collect()
}

/// Whether `doveadm kick` takes this for one name: it may be a mask of several, or an address
/// or range of clients, in any spelling of inet_aton(3): `127.1` and `12345` are some.
fn is_one_name(name: &[u8]) -> bool {
    let is_address = |byte: &u8| byte.is_ascii_hexdigit() || b".:xX".contains(byte);
    let starts_so = name.first().is_some_and(u8::is_ascii_digit) || name.contains(&b':');
    !(name.iter().any(|byte| b"*?/".contains(byte)) || starts_so && name.iter().all(is_address))
}

impl Line {
    fn destination(&self) -> Option<IpAddr> {
        self.groups.iter().find_map(|group| match group {
            Group::Destination(address) => Some(*address),
            Group::Field(..) => None,
        })
    }

    /// Where the passdb sent it, if that is mailaffinity's.
    fn node_field(&self) -> Option<&str> {
        self.groups.iter().find_map(|group| match group {
            Group::Field(field, node) if field == NODE_FIELD => Some(&**node),
            _ => None,
        })
    }

    /// Where the session is: where it was sent to, or on this machine, which is `here`; else
    /// where the passdb sent it.
    fn node<'c>(&self, config: &'c Config, here: Option<&'c NodeConfig>) -> Option<&'c NodeConfig> {
        let found = match self.destination() {
            Some(address) => config
                .nodes
                .iter()
                .find(|node| node.node.address == address || parse_address(&node.host) == Some(address)),
            None => here,
        };
        found.or_else(|| config.nodes.get(config.nodes.index_of(self.node_field()?)?))
    }
}

impl<'c> Session<'c> {
    fn of(
        line: Line,
        config: &'c Config,
        cluster: &Cluster,
        tag: Option<&str>,
        here: Option<&'c NodeConfig>,
    ) -> Session<'c> {
        let node = line.node(config, here);
        let with = |tag: &str| {
            let hash = config.hash_of(&line.user).ok()?;
            config.nodes.get(cluster.index_of_hash(hash, tag)?)
        };
        let right_node = match (tag, node) {
            (Some(tag), _) => with(tag),
            // It may have been in any pool.
            (None, None) => {
                let tags = cluster.nodes().iter().map(|live| &*live.tag);
                iter::once(&*config.tag).chain(tags).find_map(with)
            }
            // It may have several tags, and be the right one by any of them.
            (None, Some(NodeConfig { node, .. })) => {
                let live = cluster.nodes().iter().filter(|live| live.address == node.address);
                let mut right = live.filter_map(|live| with(&live.tag));
                right
                    .clone()
                    .find(|right| right.node.address == node.address)
                    .or_else(|| right.next())
            }
        };
        Session {
            line,
            node,
            right_node,
        }
    }

    /// Whether it is on another node than its user's, which may be one that the configuration has
    /// no more. Nodes with several tags are one. What another passdb than mailaffinity's sent
    /// elsewhere is not wrong.
    pub fn is_wrong(&self) -> bool {
        self.right_node.is_some_and(|right| match self.node {
            Some(node) => node.node.address != right.node.address,
            None => self.line.node_field().is_some(),
        })
    }

    /// The name of the node that it is on, also of one that the configuration has no more.
    pub(crate) fn node_name(&self) -> Option<&str> {
        let known = self.node.map(|node| &*node.node.name);
        known.or_else(|| self.line.node_field())
    }
}

/// One `doveadm kick`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kick {
    /// All sessions of a group.
    Group(Group),
    /// Those of a user, if it is given those that are proxied to this address. Dovecot 2.4.1
    /// also ends what else the user has in the same login process.
    User(Option<IpAddr>, Vec<u8>),
}

impl Kick {
    /// Whether doveadm ends these sessions alone: not where it takes a user's name for a mask
    /// or for an address of clients.
    pub fn is_exact(&self) -> bool {
        match self {
            Kick::Group(_) => true,
            Kick::User(_, user) => is_one_name(user),
        }
    }

    /// The words after doveadm.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["kick".into()];
        match self {
            Kick::Group(Group::Field(field, value)) => {
                words.extend(["-f", field, "--", value].map(OsString::from));
            }
            Kick::Group(Group::Destination(address)) => {
                words.extend(["-h".into(), ring_label(*address).into()]);
            }
            Kick::User(destination, user) => {
                if let Some(address) = destination {
                    words.extend(["-h".into(), ring_label(*address).into()]);
                }
                words.extend(["--".into(), OsString::from_vec(user.clone())]);
            }
        }
        words
    }

    /// Ends these sessions. That there are none any more is no error.
    ///
    /// # Errors
    /// When doveadm fails or does not end in time.
    pub(crate) fn carry_out(&self, doveadm: &[String], timeout: Duration) -> Result<(), ChildError> {
        let doveadm = doveadm.iter().map(OsString::from);
        let command: Vec<OsString> = doveadm.chain(self.arguments()).collect();
        child::run_silent(&command, timeout)?.success().map(drop)
    }
}

/// How to end the chosen ones of all sessions, with few `doveadm kick`s, and how many each
/// ends: by groups of which all are chosen, and then by single users. Only if those are more than
/// `most_singles`, groups go in which others are too, who come back by themselves.
pub fn plan<'s>(
    lines: impl IntoIterator<Item = (&'s Line, bool)>,
    most_singles: usize,
) -> Vec<(Kick, usize)> {
    let (mut left, mut spared) = (Vec::new(), BTreeMap::<&Group, usize>::new());
    for (line, is_chosen) in lines {
        if is_chosen {
            left.push(line);
        } else {
            for group in &line.groups {
                *spared.entry(group).or_default() += 1;
            }
        }
    }
    let mut kicks = Vec::new();
    loop {
        let mut singles: BTreeMap<Kick, usize> = BTreeMap::new();
        let mut groups: BTreeMap<&Group, usize> = BTreeMap::new();
        for line in &left {
            let single = Kick::User(line.destination(), line.user.clone());
            *singles.entry(single).or_default() += 1;
            for group in &line.groups {
                *groups.entry(group).or_default() += 1;
            }
        }
        let others = |group: &Group| spared.get(group).copied().unwrap_or(0);
        let are_too_many = singles.len() > most_singles;
        let best = groups
            .into_iter()
            .filter(|(group, count)| *count > 1 && (are_too_many || others(group) == 0))
            .max_by(|(one, count), (other, other_count)| {
                // Those with the fewest others in them first, and of these the largest.
                let share = |group: &Group, count: usize| others(group).saturating_mul(1000) / count.max(1);
                share(other, *other_count)
                    .cmp(&share(one, *count))
                    .then(count.cmp(other_count))
            });
        match best {
            Some((group, count)) => {
                kicks.push((Kick::Group(group.clone()), count));
                let group = group.clone();
                left.retain(|line| !line.groups.contains(&group));
            }
            None => {
                kicks.extend(singles);
                return kicks;
            }
        }
    }
}

/// How chosen sessions are ended, as [`plan`] says.
pub(crate) struct Plan {
    /// Each `doveadm kick`, and how many sessions it ends.
    pub(crate) kicks: Vec<(Kick, usize)>,
    /// Those that would end sessions of others, and are left.
    inexact: Vec<(Kick, usize)>,
}

/// Why not all that are to be ended were.
#[derive(Debug, thiserror::Error)]
#[error("{problem}; of the sessions, {left} are left")]
pub(crate) struct EndError {
    problem: String,
    left: usize,
}

impl Plan {
    pub(crate) fn of<'s>(lines: impl IntoIterator<Item = (&'s Line, bool)>, most_singles: usize) -> Plan {
        let (kicks, inexact) = plan(lines, most_singles)
            .into_iter()
            .partition(|(kick, _)| kick.is_exact());
        Plan { kicks, inexact }
    }

    /// Ends the sessions, by one kick after the other, while this time lasts: how many. One that
    /// fails is tried once more, and holds up no other.
    ///
    /// # Errors
    /// The first that failed again, or that the time is over.
    pub(crate) fn carry_out(&self, dovecot: &Dovecot, time: Duration) -> Result<usize, EndError> {
        let longest = |sessions: usize| {
            let more = LONGEST_PER_SESSION.saturating_mul(u32::try_from(sessions).unwrap_or(u32::MAX));
            LONGEST_KICK.saturating_add(more).min(*dovecot.timeout)
        };
        self.end(&dovecot.doveadm, time, longest)
    }

    fn end(
        &self,
        doveadm: &[String],
        time: Duration,
        longest: impl Fn(usize) -> Duration,
    ) -> Result<usize, EndError> {
        let deadline = Deadline::after(time);
        let end = |kick: &Kick, count| {
            let left = deadline
                .left()
                .map_err(|_| format!("after {time:?}, the time for that is over"))?;
            let ended = kick.carry_out(doveadm, left.min(longest(count)));
            ended.map_err(|error| error.to_string())
        };
        let (mut left, mut failed) = (0, None);
        for (kick, count) in &self.kicks {
            if let Err(problem) = end(kick, *count).or_else(|_| end(kick, *count)) {
                left += count;
                failed.get_or_insert(problem);
            }
        }
        let all: usize = self.kicks.iter().map(|(_, count)| count).sum();
        match failed {
            None => Ok(all),
            Some(problem) => Err(EndError { problem, left }),
        }
    }

    /// The users whose sessions are left for that.
    pub(crate) fn left(&self) -> BTreeSet<&[u8]> {
        let kicks = self.inexact.iter().map(|(kick, _)| kick);
        kicks
            .filter_map(|kick| match kick {
                Kick::User(_, user) => Some(user.as_slice()),
                Kick::Group(_) => None,
            })
            .collect()
    }

    /// What is left, and why.
    pub(crate) fn complaint(&self) -> Option<String> {
        let (kick, _) = self.inexact.first()?;
        Some(format!(
            "\"doveadm {}\" would end sessions of others, for which doveadm takes such a name: end those of {} such \
             users by their processes",
            child::name(&kick.arguments()),
            self.inexact.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use mailaffinity::node_state::NodeState;
    use proptest::prelude::{any, prop, proptest};

    /// As Dovecot 2.4.1 prints it on a proxy, and on a node where others come in too.
    const PROXY: &[u8] = b"\
username\tservice\tpid\tip\tdest_ip\tuser_node\tuser_home
user6\timap-login\t35\t10.24.0.254\t10.24.0.2\tnode2\tnode2
user1\tpop3-login\t40\t10.24.0.254\t10.24.0.2\tnode2\tnode1
C-d@example.org\timap-login\t35\tfd00:24::fe\t10.24.0.1\tnode1\tnode1
";
    const NODE: &[u8] = b"\
username\tservice\tpid\tip\tdest_ip\tuser_home\tuser_node
user2\timap\t41\t10.24.0.254\t\tnode1\tnode1
user3\timap-login\t36\t10.24.0.254\t10.24.0.2\tnode2\tnode2
";

    fn field(name: &str, value: &str) -> Group {
        Group::Field(name.into(), value.into())
    }

    #[test]
    fn sessions_are_read() {
        let lines = parse(PROXY).unwrap();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1].user, b"user1");
        assert_eq!(
            (lines[1].service.as_str(), lines[1].ip.as_str()),
            ("pop3", "10.24.0.254")
        );
        let groups = [
            field("user_home", "node1"),
            field("user_node", "node2"),
            Group::Destination([10, 24, 0, 2].into()),
        ];
        assert_eq!(lines[1].groups, groups.into());
        let lines = parse(NODE).unwrap();
        assert_eq!(lines[0].destination(), None);
        assert_eq!(lines[1].destination(), Some([10, 24, 0, 2].into()));
        // Of 2.3.
        let lines = parse(b"username\tservice\tpid\tip\nanna\timap\t1\t::1\n").unwrap();
        assert_eq!((lines[0].service.as_str(), lines[0].groups.len()), ("imap", 0));
        assert_eq!(parse(b"username\tservice\n").unwrap(), []);
    }

    #[test]
    fn doveadm_takes_some_names_for_others() {
        for name in [
            "127.1",
            "12345",
            "0x7f.1",
            "192.0.2.7",
            "::1",
            "fe80::1",
            "an*",
            "a?",
            "10.0.0.0/8",
            "a/b",
        ] {
            let kick = Kick::User(None, name.into());
            assert!(!kick.is_exact(), "{name}");
            let text = format!("username\tservice\tuser_node\nanna\timap\t{name}\n");
            assert_eq!(parse(text.as_bytes()).unwrap()[0].groups.len(), 0, "{name}");
        }
        for name in [
            "anna",
            "abc",
            "a.b",
            "cafe",
            "3com",
            "1a@example.org",
            "node1",
            "127.0.0.1.example.org",
        ] {
            assert!(Kick::User(None, name.into()).is_exact(), "{name}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            &b""[..],
            b"\n",
            b"username\tservice",
            b"user\tservice\nanna\timap\n",
            b"username\tservice\nanna\n",
            b"username\tservice\nanna\timap\t1\n",
            b"username\tdest_ip\nanna\tnode1\n",
        ] {
            assert_eq!(parse(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn users_belong_to_the_pool_that_they_are_in() {
        let node = |number: u8, tag: &str| {
            format!("[[node]]\nname = \"node{number}\"\naddress = \"10.0.0.{number}\"\ntag = \"{tag}\"\n")
        };
        let nodes = [node(1, ""), node(2, ""), node(3, "far"), node(4, "far")].concat();
        let config = Config::parse(&nodes, Path::new("m.toml")).unwrap();
        let cluster = config.cluster(&NodeState::default()).unwrap();
        let session = |at: u8, tag| Session::of(line("anna", at, at), &config, &cluster, tag, None);
        for (pool, tag) in [([1, 2], ""), ([3, 4], "far")] {
            let wrong = pool.map(|at| session(at, None).is_wrong());
            assert_eq!(
                wrong.iter().filter(|wrong| **wrong).count(),
                1,
                "{tag}: {wrong:?}"
            );
            assert_eq!(pool.map(|at| session(at, Some(tag)).is_wrong()), wrong);
        }
        assert!(session(3, Some("")).is_wrong() && session(4, Some("")).is_wrong());
    }

    #[test]
    fn a_node_that_is_gone_is_no_right_one() {
        let text = "[[node]]\nname = \"node1\"\naddress = \"10.0.0.1\"\ntag = \"near\"\n";
        let config = Config::parse(text, Path::new("m.toml")).unwrap();
        let cluster = config.cluster(&NodeState::default()).unwrap();
        let session = |line| Session::of(line, &config, &cluster, None, None);
        assert!(session(line("anna", 3, 3)).is_wrong());
        assert!(!session(line("anna", 1, 1)).is_wrong());
        let without = |group: &Group| {
            let mut line = line("anna", 3, 3);
            line.groups.remove(group);
            session(line)
        };
        // On this machine, which was that node.
        assert!(without(&Group::Destination([10, 0, 0, 3].into())).is_wrong());
        // Sent elsewhere by somebody else.
        assert!(!without(&field("user_node", "node3")).is_wrong());
        // And it is another node's address now, or this machine is another one.
        assert!(!session(line("anna", 1, 3)).is_wrong());
        let here = config.nodes.first();
        let mut line = line("anna", 3, 3);
        line.groups.remove(&Group::Destination([10, 0, 0, 3].into()));
        assert!(!Session::of(line, &config, &cluster, None, here).is_wrong());
        let down = NodeState::parse("[node.node1]\nstate = \"down\"\n").unwrap();
        let nobody = config.cluster(&down).unwrap();
        assert!(!Session::of(self::line("anna", 3, 3), &config, &nobody, None, None).is_wrong());
    }

    fn line(user: &str, node: u8, home: u8) -> Line {
        Line {
            user: user.into(),
            service: "imap".into(),
            ip: "::1".into(),
            groups: BTreeSet::from([
                field("user_node", &format!("node{node}")),
                field("user_home", &format!("node{home}")),
                Group::Destination([10, 0, 0, node].into()),
            ]),
        }
    }

    fn planned(lines: &[Line], is_chosen: impl Fn(&Line) -> bool) -> Vec<String> {
        let plan = plan(lines.iter().map(|line| (line, is_chosen(line))), MOST_SINGLES);
        let text = |(kick, count): (Kick, usize)| format!("{} {count}", child::name(&kick.arguments()));
        plan.into_iter().map(text).collect()
    }

    #[test]
    fn a_group_goes_at_once_if_it_is_whole() {
        let mut lines: Vec<Line> = (0..1000).map(|n| line(&format!("u{n}"), 1, 1)).collect();
        lines.extend((1000..2000).map(|n| line(&format!("u{n}"), 2, 1)));
        lines.extend((2000..3000).map(|n| line(&format!("u{n}"), 2, 2)));
        let user = |n: usize| format!("u{n}").into_bytes();
        assert_eq!(planned(&lines, |_| false), [""; 0]);
        let at_node1 = |line: &Line| line.destination() == Some([10, 0, 0, 1].into());
        assert_eq!(planned(&lines, at_node1), ["kick -h 10.0.0.1 1000"]);
        // Home again: all that have node1 for their home, but for those who are there.
        let wrong = |line: &Line| line.groups.contains(&field("user_home", "node1")) && !at_node1(line);
        assert_eq!(
            planned(&lines[1000..], wrong),
            ["kick -f user_home -- node1 1000"]
        );
        let few = &lines[..1002];
        assert_eq!(planned(few, wrong), ["kick -h 10.0.0.2 2"]);
        let few = [&lines[..1002], &lines[2000..]].concat();
        assert_eq!(
            planned(&few, wrong),
            ["kick -h 10.0.0.2 -- u1000 1", "kick -h 10.0.0.2 -- u1001 1"]
        );
        // Too many for that: the group in which the fewest others are.
        assert_eq!(planned(&lines[500..], wrong), ["kick -f user_home -- node1 1000"]);
        assert_eq!(
            planned(&lines, |line| line.user == user(7)),
            ["kick -h 10.0.0.1 -- u7 1"]
        );
    }

    #[test]
    fn one_that_fails_or_hangs_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        let script = "case $* in *fails) exit 1;; *hangs) sleep 1000;; esac; echo \"$*\" >>$0";
        let doveadm = ["sh", "-c", script, done.to_str().unwrap()].map(String::from);
        let users = ["anna", "fails", "hangs", "zoe"];
        let lines = users.map(|user| Line {
            groups: BTreeSet::new(),
            ..line(user, 1, 1)
        });
        let plan = Plan::of(lines.iter().map(|line| (line, true)), MOST_SINGLES);
        // On a busy machine the others may take as long.
        let longest = |_| Duration::from_secs(3);
        let error = plan.end(&doveadm, Duration::MAX, longest).unwrap_err();
        assert_eq!(error.left, 2);
        assert!(
            error.problem.ends_with(" kick -- fails ended with exit status 1"),
            "{error}"
        );
        assert_eq!(
            std::fs::read_to_string(done).unwrap(),
            "kick -- anna\nkick -- zoe\n"
        );
        let none = plan.end(&doveadm, Duration::ZERO, longest).unwrap_err();
        assert_eq!(none.left, 4);
    }

    #[test]
    fn one_that_fails_is_tried_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        let script = "echo $* >>$0; [ $(wc -l <$0) -gt 1 ]";
        let doveadm = ["sh", "-c", script, done.to_str().unwrap()].map(String::from);
        let line = line("anna", 1, 1);
        let plan = Plan::of([(&line, true)], MOST_SINGLES);
        assert_eq!(plan.end(&doveadm, Duration::MAX, |_| Duration::MAX).unwrap(), 1);
        assert_eq!(
            std::fs::read_to_string(done).unwrap(),
            "kick -h 10.0.0.1 -- anna\n".repeat(2)
        );
    }

    proptest! {
        /// Each one that is chosen ends, and another one only where there are too many.
        #[test]
        fn just_the_chosen_end(
            sessions in prop::collection::vec((0u8..30, 1u8..4, 1u8..4, any::<bool>()), 0..90)
        ) {
            let lines: Vec<(Line, bool)> = sessions
                .into_iter()
                .map(|(user, node, home, chosen)| (line(&format!("u{user}"), node, home), chosen))
                .collect();
            let kicks = plan(lines.iter().map(|(line, chosen)| (line, *chosen)), MOST_SINGLES);
            let ends = |line: &Line| {
                kicks.iter().any(|(kick, _)| match kick {
                    Kick::Group(group) => line.groups.contains(group),
                    Kick::User(destination, user) => line.destination() == *destination && line.user == *user,
                })
            };
            let chosen_at: BTreeSet<_> = lines
                .iter()
                .filter(|(_, chosen)| *chosen)
                .map(|(line, _)| (line.user.clone(), line.destination()))
                .collect();
            for (line, chosen) in &lines {
                if *chosen {
                    assert!(ends(line));
                } else if !chosen_at.contains(&(line.user.clone(), line.destination())) {
                    assert!(!ends(line));
                }
            }
            let counted: usize = kicks.iter().map(|(_, count)| count).sum();
            assert_eq!(counted, lines.iter().filter(|(_, chosen)| *chosen).count());
        }
    }
}
