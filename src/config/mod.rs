//! The configuration: one TOML file that describes the cluster.
//!
//! ```toml
//! strategy = "ring"                       # or "modulo"
//! username_hash = "%Lu"                   # director_username_hash
//! node_state = "/var/lib/mailaffinity/nodes.toml"
//!
//! [access_map]
//! map = "hash:/etc/mail/access"           # sendmail's notation
//! busy_timeout_ms = 500
//!
//! [[node]]
//! name = "node1"
//! address = "192.0.2.1"                   # as in director_mail_servers
//! queue_group = "node1group"
//! imap_host = "node1.example.org"         # where webmail connects to
//! ```
//!
//! Unknown keys and impossible values are errors that name the line.
//! mailaffinity.toml(5) has all keys.

mod file;

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::access_map::{AccessMap, MapBuild};
use crate::files::regular_file;
use crate::mapping::{Cluster, ClusterError, Node, Strategy, UsernameHash};
use crate::node_state::{By, NodeState};

/// Where the configuration is unless one is named.
pub const DEFAULT_PATH: &str = "/etc/mailaffinity.toml";

/// sendmail's program, where `[sendmail]` names none.
pub const DEFAULT_SENDMAIL: &str = "/usr/sbin/sendmail";

/// A configuration that was read and found to be consistent.
#[derive(Clone, Debug)]
pub struct Config {
    /// How the nodes share out the users (`strategy`).
    pub strategy: Strategy,
    /// How usernames are hashed (`username_hash`).
    pub username_hash: UsernameHash,
    /// The tag of lookups that name none (`tag`).
    pub tag: String,
    /// The file that says which nodes are down (`node_state`).
    pub node_state: PathBuf,
    /// The file that tells monitoring how the last update and drain went (`status`).
    pub status: PathBuf,
    /// The socket of the system's log (`syslog`).
    pub syslog: PathBuf,
    /// sendmail's access map (`[access_map]`), where there is one.
    pub access_map: Option<AccessMap>,
    /// How the access map is built, where there is one.
    pub map_build: Option<MapBuild>,
    /// The users whom the access map lists (`[users]`).
    pub users: Users,
    /// How nodes are found to be up (`[checks]`); without it, by hand only.
    pub checks: Option<Checks>,
    /// How sendmail is called and its queue groups are run (`[sendmail]`).
    pub sendmail: Sendmail,
    /// When and how the queues of dead nodes are run (`[drain]`).
    pub drain: Drain,
    /// What is compared with the configuration (`[agreement]`).
    pub agreement: Agreement,
    /// The nodes (`[[node]]`), in the order of the file.
    pub nodes: Vec<NodeConfig>,
}

/// Which users the access map lists (`[users]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    /// Where their names are from.
    pub source: UserSource,
    /// How many of them may be missing from one update to the next (`max_loss_percent`).
    pub max_loss_percent: u8,
    /// How long asking for them may take (`timeout_seconds`).
    pub timeout: Duration,
}

/// Where the names of users are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserSource {
    /// The system's accounts (NSS, `getpwent`), so that LDAP and NIS count, with a uid
    /// from `uid_min` to `uid_max`.
    Nss {
        /// The least uid (`uid_min`).
        uid_min: u32,
        /// The greatest uid (`uid_max`).
        uid_max: u32,
    },
    /// A file (`file`) with one name a line.
    File(PathBuf),
    /// A program and its arguments (`command`), such as `doveadm user *`, which prints
    /// one name a line.
    Command(Vec<String>),
}

/// How nodes are found to be up (`[checks]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// What is asked.
    pub check: Check,
    /// How long one question may take (`timeout_ms`).
    pub timeout: Duration,
    /// So many failures in a row make a node down (`fall`).
    pub fall: u32,
    /// So many successes in a row make it up again (`rise`).
    pub rise: u32,
    /// The time between them (`interval_ms`).
    pub interval: Duration,
}

/// What is asked whether a node is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The Director, by its `director-admin` socket (`director`). Its word counts at
    /// once: who keeps it informed has thresholds of his own.
    Director(PathBuf),
    /// The node's service (`probe`, `port`).
    Probe(Probe, u16),
    /// A program (`command`), with the node's name and address as further arguments; it
    /// ends with status 0 for a node that is up.
    Command(Vec<String>),
}

/// What a service must do to be up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Take a TCP connection.
    Tcp,
    /// Take it and greet as IMAP does.
    Imap,
    /// Take it and greet as LMTP and SMTP do.
    Lmtp,
}

/// How sendmail is called and its queue groups are run (`[sendmail]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sendmail {
    /// The program and its first arguments (`command`).
    pub command: Vec<String>,
    /// The queue runners of a node for its own queue group (`runners`).
    pub runners: u32,
    /// The time between two queue runs, in sendmail's notation (`interval`).
    pub interval: String,
    /// The flags of the queue groups (`flags`).
    pub flags: String,
}

/// When and how the queues of dead nodes are run (`[drain]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long a node must have been down (`after_seconds`).
    pub after: Duration,
    /// No further batch of messages is begun after this time (`limit_seconds`).
    pub limit: Duration,
    /// How many sendmails work on one queue at once (`runners`).
    pub runners: u32,
}

/// What is compared with the configuration, besides sendmail and its access map
/// (`[agreement]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The Director's `director-admin` socket (`director`); that of [`Checks`] if there is
    /// none.
    pub director: Option<PathBuf>,
    /// The C library, as the program loader finds it (`c_library`).
    pub c_library: Option<String>,
    /// PHP's command line program, run as the web server's user (`php`).
    pub php: Option<Vec<String>>,
    /// How long each of them may take (`timeout_seconds`).
    pub timeout: Duration,
}

/// A node as the configuration describes it.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// What the mapping knows of it; up, since the node state alone says otherwise.
    pub node: Node,
    /// The sendmail queue group of its users.
    pub queue_group: Option<String>,
    /// The directory of that queue group, as sendmail's `Path=` has it: with a `*` at its
    /// end it stands for all directories whose names begin so.
    pub queue_path: Option<PathBuf>,
    /// The host that webmail connects to: a bare name or address. The node's
    /// address unless it says otherwise.
    pub imap_host: String,
}

/// What is wrong with a configuration, and where.
#[derive(Debug)]
pub struct ConfigError {
    path: PathBuf,
    line: Option<usize>,
    problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When the file cannot be read or says something impossible.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = regular_file::read_text(path).map_err(|error| ConfigError {
            path: path.to_owned(),
            line: None,
            problem: format!("cannot read the configuration: {error}"),
        })?;
        Config::parse(&text, path)
    }

    /// Reads a configuration from text; `path` is named in errors.
    ///
    /// # Errors
    /// When the text says something impossible.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        file::parse(text).map_err(|file::Problem { line, message }| ConfigError {
            path: path.to_owned(),
            line,
            problem: message,
        })
    }

    /// The cluster as it stands: the nodes of the configuration, up or down, with the
    /// vhosts, tags and moved users that the node state has, but for those moved to
    /// nodes that are down by hand: whoever marks a node wants its users to leave. A
    /// node's place in it is its place in [`nodes`](Config::nodes).
    ///
    /// # Errors
    /// When the node state has too many vhosts; see [`Cluster::new`].
    pub fn cluster(&self, state: &NodeState) -> Result<Cluster, ClusterError> {
        let nodes = self.nodes.iter().map(|NodeConfig { node, .. }| {
            let director = state.director.get(&node.name).cloned().unwrap_or_default();
            Node {
                up: !state.is_down(&node.name),
                vhost_count: director.vhost_count.unwrap_or(node.vhost_count),
                tag: director.tag.unwrap_or_else(|| node.tag.clone()),
                ..node.clone()
            }
        });
        let cluster = Cluster::new(self.strategy, self.username_hash.clone(), nodes.collect())?;
        let down_by_hand = |name: &str| state.down.get(name).is_some_and(|mark| mark.by == By::Hand);
        let moved = state
            .moved
            .iter()
            .filter(|(name, _)| !down_by_hand(name))
            .filter_map(|(name, hashes)| Some((self.index_of_node(name)?, hashes)))
            .flat_map(|(node, hashes)| hashes.iter().map(move |hash| (*hash, node)));
        Ok(cluster.with_moved(moved))
    }

    /// The place in [`nodes`](Config::nodes) of the node with this name.
    pub fn index_of_node(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.node.name == name)
    }

    /// The place in [`nodes`](Config::nodes) of the node that has the queue group which
    /// the access map gives. As in sendmail, neither its case nor blanks around it
    /// matter; makemap keeps those at the end of a line, a carriage return included.
    pub fn node_of_queue_group(&self, queue_group: &[u8]) -> Option<usize> {
        let queue_group = queue_group.trim_ascii();
        self.nodes.iter().position(|node| {
            node.queue_group
                .as_ref()
                .is_some_and(|own| own.as_bytes().eq_ignore_ascii_case(queue_group))
        })
    }
}

/// Checks that a host is what an IMAP client can connect to: a bare host name or
/// address, without a port, blanks or control characters.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_host(host: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(sound)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = host.len() <= 253 && host.split('.').all(is_label);
    if is_name || host.parse::<Ipv6Addr>().is_ok() {
        Ok(())
    } else {
        Err(format!(
            "\"{}\" is not a bare host name or address (without port, blanks or brackets)",
            host.escape_debug()
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use proptest::prelude::{any, prop, prop_oneof, proptest};

    const EXAMPLE: &str = r#"
strategy = "modulo"
username_hash = "%Ln"
tag = "east"
node_state = "/var/lib/x/nodes.toml"

[access_map]
map = "hash:/etc/mail/access"
busy_timeout_ms = 200

[[node]]
name = "node1"
address = "010.0.0.1"
vhost_count = 50
tag = "east"
queue_group = "node1group"
imap_host = "node1.example.org"

[[node]]
name = "node2"
address = "2001:DB8::2"
"#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/x.toml"))
    }

    #[test]
    fn a_whole_configuration() {
        let config = parse(EXAMPLE).unwrap();
        assert_eq!(config.strategy, Strategy::Modulo);
        assert_eq!(config.username_hash.format(), b"%Ln");
        assert_eq!(config.tag, "east");
        assert_eq!(config.node_state, Path::new("/var/lib/x/nodes.toml"));
        let [one, two] = &config.nodes[..] else { panic!() };
        assert_eq!(one.node.address, IpAddr::from([10, 0, 0, 1]));
        assert_eq!((one.node.vhost_count, one.node.tag.as_str()), (50, "east"));
        assert_eq!(one.imap_host, "node1.example.org");
        assert_eq!((two.node.vhost_count, two.node.tag.as_str()), (100, ""));
        assert_eq!(two.imap_host, "2001:db8::2");
        assert_eq!(two.queue_group, None);
        assert_eq!(config.node_of_queue_group(b"NODE1group"), Some(0));
        assert_eq!(config.node_of_queue_group(b"node1group \t\r"), Some(0));
        assert_eq!(config.node_of_queue_group(b"other"), None);
    }

    #[test]
    fn defaults() {
        let config = parse("[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n").unwrap();
        assert_eq!(config.strategy, Strategy::Ring);
        assert_eq!(config.username_hash.format(), b"%Lu");
        assert_eq!(config.node_state, Path::new("/var/lib/mailaffinity/nodes.toml"));
        assert!(config.access_map.is_none());
    }

    #[test]
    fn the_keys_of_the_update() {
        let text = format!(
            "status = \"/run/x.json\"\nsyslog = \"/run/log\"\n{}{}",
            EXAMPLE.replace(
                "busy_timeout_ms = 200",
                "source = \"/srv/access\"\nmakemap = \"/opt/makemap\"\nmakemap_options = [\"-N\", \"-c\", \"9\"]"
            ),
            "queue_path = \"/mnt/gfs2/mqueue/q2*\"\n\
             [users]\ncommand = [\"/usr/bin/doveadm\", \"user\", \"*\"]\nmax_loss_percent = 5\ntimeout_seconds = 7\n\
             [checks]\nprobe = \"imap\"\nfall = 4\n\
             [sendmail]\ncommand = [\"/opt/sendmail\", \"-C\", \"/opt/sendmail.cf\"]\ninterval = \"1h30m\"\n\
             [drain]\nafter_seconds = 0\n"
        );
        let config = parse(&text).unwrap();
        assert_eq!(config.status, Path::new("/run/x.json"));
        assert_eq!(config.syslog, Path::new("/run/log"));
        let build = config.map_build.unwrap();
        assert_eq!(build.source, Path::new("/srv/access"));
        assert_eq!(build.makemap, Path::new("/opt/makemap"));
        assert_eq!(build.makemap_options, ["-N", "-c", "9"]);
        assert_eq!(
            config.nodes[1].queue_path.as_deref(),
            Some(Path::new("/mnt/gfs2/mqueue/q2*"))
        );
        let command = ["/usr/bin/doveadm", "user", "*"].map(String::from);
        assert_eq!(config.users.source, UserSource::Command(command.into()));
        assert_eq!(
            (config.users.max_loss_percent, config.users.timeout.as_secs()),
            (5, 7)
        );
        let checks = config.checks.unwrap();
        assert_eq!(checks.check, Check::Probe(Probe::Imap, 143));
        assert_eq!((checks.fall, checks.rise), (4, 2));
        assert_eq!(config.sendmail.interval, "1h30m");
        assert_eq!(
            (config.drain.after.as_secs(), config.drain.limit.as_secs()),
            (0, 240)
        );
    }

    #[test]
    fn keys_of_the_update_that_cannot_be() {
        for (addition, word) in [
            ("[checks]\n", "exactly one of director, probe and command"),
            (
                "[checks]\nprobe = \"imap\"\ndirector = \"/run/x\"\n",
                "one of director",
            ),
            ("[checks]\nprobe = \"tcp\"\n", "needs a port"),
            ("[checks]\nprobe = \"imap\"\nfall = 0\n", "not between 1 and 100"),
            ("[checks]\ndirector = \"run/x\"\n", "absolute"),
            ("[users]\nfile = \"/a\"\ncommand = [\"/b\"]\n", "leave one out"),
            ("[agreement]\nc_library = \"lib/x.so\"\n", "absolute path"),
            ("[agreement]\nc_library = \"-x\"\n", "absolute path"),
            ("[agreement]\nc_library = \"\"\n", "absolute path"),
            ("[users]\ncommand = []\n", "a command is a list"),
            ("[users]\ncommand = [\"doveadm\"]\n", "absolute path"),
            ("[users]\nuid_min = 2\nuid_max = 1\n", "uid_min is greater"),
            ("[users]\nmax_loss_percent = 101\n", "not between"),
            ("[sendmail]\ninterval = \"1\"\n", "not an interval"),
            ("[sendmail]\nflags = \"f'\"\n", "sendmail would not take"),
            ("queue_path = \"/a,b\"\n", "sendmail would not take"),
            ("queue_group = \"a'b\"\n", "sendmail would not take"),
            ("queue_group = \"node2.group\"\n", "sendmail would not take"),
        ] {
            let text = format!("{EXAMPLE}{addition}");
            let message = parse(&text).expect_err(addition).to_string();
            assert!(message.contains(word), "{message}");
            let line: usize = message.split(':').nth(1).unwrap().parse().expect("a line");
            assert!(line > EXAMPLE.lines().count(), "{message}");
        }
        for (keys, word) in [
            ("makemap_options = [\"-d\"]", "\"-d\" is not taken"),
            ("makemap_options = [\"-c\"]", "\"-c\" is not taken"),
            ("makemap = \"makemap\"", "absolute"),
            (
                "source = \"/etc/mail/access.db\"",
                "must not be /etc/mail/access.db",
            ),
        ] {
            let text = EXAMPLE.replace("busy_timeout_ms = 200", keys);
            let message = parse(&text).expect_err(keys).to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn the_node_state_counts() {
        let config = parse("[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n[[node]]\nname = \"b\"\naddress = \"10.0.0.2\"\n").unwrap();
        let node = |state: &str| {
            let cluster = config.cluster(&NodeState::parse(state).unwrap()).unwrap();
            cluster.node_of(b"user1", "").map(|node| node.name.clone())
        };
        assert_eq!(node("").as_deref(), Some("b"));
        assert_eq!(node("[down.b]\n").as_deref(), Some("a"));
        assert_eq!(node("[director.b]\nvhost_count = 0\n").as_deref(), Some("a"));
        assert_eq!(node("[director.b]\ntag = \"x\"\n").as_deref(), Some("a"));
        assert_eq!(node("[moved]\na = [617210206]\nz = [1]\n").as_deref(), Some("a"));
        let huge = NodeState::parse("[director.b]\nvhost_count = 4000000000\n").unwrap();
        assert!(config.cluster(&huge).is_err());
    }

    #[test]
    fn errors_name_file_and_line() {
        for (change, line, word) in [
            (("strategy = \"modulo\"", "strategy = \"rind\""), 2, "rind"),
            (("strategy", "stratgy"), 2, "stratgy"),
            (("%Ln", "%x"), 3, "unknown variable %x"),
            (("\"/var/lib/x", "\"lib/x"), 5, "absolute"),
            (("hash:/etc", "btree:/etc"), 8, "btree"),
            (("= 200", "= 200000"), 9, "60000"),
            (("= 200", "= -1"), 9, "-1"),
            (("name = \"node1\"", "name = \"\""), 12, "empty"),
            (("010.0.0.1", "node1"), 13, "not an IP address"),
            (("vhost_count = 50", "vhost_count = 5000000000"), 14, "5000000000"),
            (
                ("tag = \"east\"", "tag = \"west\""),
                4,
                "no node has the tag \"west\"",
            ),
            (("tag = \"east\"\nqueue", "tag = \"ea st\"\nqueue"), 15, "blank"),
            (("node1.example.org", "node1:143"), 17, "bare host"),
            (("node1.example.org", "node1\\n"), 17, "bare host"),
            (("name = \"node2\"", "name = \"node1\""), 19, "earlier node"),
            (("2001:DB8::2\"\n", "10.0.0.1\"\ntag = \"east\"\n"), 19, "address"),
            (
                ("2001:DB8::2\"", "10.0.0.2\"\nqueue_group = \"NODE1GROUP\""),
                19,
                "queue group",
            ),
        ] {
            let text = EXAMPLE.replacen(change.0, change.1, 1);
            assert_ne!(text, EXAMPLE);
            let message = parse(&text).expect_err(change.1).to_string();
            assert!(message.starts_with(&format!("/etc/x.toml:{line}: ")), "{message}");
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn errors_without_a_line() {
        let message = parse("strategy = \"ring\"\n").unwrap_err().to_string();
        assert_eq!(
            message,
            "/etc/x.toml: there are no nodes; describe each one in a [[node]] table"
        );
        let many = EXAMPLE.replace("= 50", "= 1048577");
        assert!(parse(&many).unwrap_err().to_string().contains("vhosts"));
        let missing = Config::load(Path::new("/nonexistent/x.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            missing.starts_with("/nonexistent/x.toml: cannot read"),
            "{missing}"
        );
    }

    #[test]
    fn hosts() {
        for host in ["node1", "node1.example.org", "192.0.2.1", "2001:db8::1", "a_b-c"] {
            assert_eq!(check_host(host), Ok(()), "{host}");
        }
        for host in [
            "",
            " node1",
            "node1\n",
            "node1:143",
            "[::1]",
            "a b",
            "a\0",
            "tls://x",
            "ä",
            ".",
            "a..b",
            "a.",
            "-",
            "-a",
            "a-",
        ] {
            assert!(check_host(host).is_err(), "{host:?}");
        }
    }

    proptest! {
        #[test]
        fn any_change_is_read_or_refused(
            position in any::<prop::sample::Index>(), cut in 0usize..9,
            insert in prop_oneof!["[ -~\n]{0,6}", any::<String>()],
        ) {
            let mut text: Vec<char> = EXAMPLE.chars().collect();
            let start = position.index(text.len());
            let end = (start + cut).min(text.len());
            text.splice(start..end, insert.chars());
            let _ = parse(&text.into_iter().collect::<String>());
        }
    }
}
