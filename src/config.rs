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

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;
use toml::Spanned;

use crate::access_map::AccessMap;
use crate::mapping::{
    Cluster, ClusterError, DEFAULT_VHOST_COUNT, Node, Strategy, UsernameHash, parse_address, ring_label,
};
use crate::node_state::NodeState;
use crate::regular_file;
use crate::toml_error::{line_and_problem, line_of};

/// Where the configuration is unless one is named.
pub const DEFAULT_PATH: &str = "/etc/mailaffinity.toml";

const DEFAULT_NODE_STATE: &str = "/var/lib/mailaffinity/nodes.toml";
const DEFAULT_BUSY_TIMEOUT_MS: u64 = 500;
/// Longer than this, and a web page would seem to hang.
const MAX_BUSY_TIMEOUT_MS: u64 = 60_000;

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
    /// sendmail's access map (`[access_map]`), where there is one.
    pub access_map: Option<AccessMap>,
    /// The nodes (`[[node]]`), in the order of the file.
    pub nodes: Vec<NodeConfig>,
}

/// A node as the configuration describes it.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// What the mapping knows of it; up, since the node state alone says otherwise.
    pub node: Node,
    /// The sendmail queue group of its users.
    pub queue_group: Option<String>,
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
        parse_file(text).map_err(|Problem { line, message }| ConfigError {
            path: path.to_owned(),
            line,
            problem: message,
        })
    }

    /// The cluster as it stands: the nodes of the configuration, up or down as the
    /// node state says. A node's place in it is its place in
    /// [`nodes`](Config::nodes).
    ///
    /// # Errors
    /// None for a configuration that was read; see [`Cluster::new`].
    pub fn cluster(&self, state: &NodeState) -> Result<Cluster, ClusterError> {
        let nodes = self
            .nodes
            .iter()
            .map(|NodeConfig { node, .. }| Node {
                up: !state.is_down(&node.name),
                ..node.clone()
            })
            .collect();
        Cluster::new(self.strategy, self.username_hash.clone(), nodes)
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

// The file as it is written.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    #[serde(default)]
    strategy: StrategyName,
    #[serde(default, deserialize_with = "username_hash")]
    username_hash: UsernameHash,
    tag: Option<Spanned<String>>,
    #[serde(default = "default_node_state", deserialize_with = "absolute_path")]
    node_state: PathBuf,
    access_map: Option<AccessMapTable>,
    #[serde(default)]
    node: Vec<Spanned<NodeTable>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StrategyName {
    #[default]
    Ring,
    Modulo,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessMapTable {
    map: Spanned<String>,
    #[serde(default = "default_busy_timeout_ms", deserialize_with = "busy_timeout_ms")]
    busy_timeout_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeTable {
    #[serde(deserialize_with = "word")]
    name: String,
    #[serde(deserialize_with = "address")]
    address: IpAddr,
    #[serde(default = "default_vhost_count")]
    vhost_count: u32,
    #[serde(default, deserialize_with = "tag")]
    tag: String,
    #[serde(default, deserialize_with = "queue_group")]
    queue_group: Option<String>,
    #[serde(default, deserialize_with = "imap_host")]
    imap_host: Option<String>,
}

struct Problem {
    line: Option<usize>,
    message: String,
}

fn parse_file(text: &str) -> Result<Config, Problem> {
    let file: ConfigFile = toml::from_str(text).map_err(|error| {
        let (line, message) = line_and_problem(&error, text);
        Problem { line, message }
    })?;
    let at = |span: Range<usize>, message: String| Problem {
        line: Some(line_of(text, span.start)),
        message,
    };
    for (index, node) in file.node.iter().enumerate() {
        let earlier = file.node.iter().take(index).map(Spanned::get_ref);
        check_distinct(node.get_ref(), earlier).map_err(|message| at(node.span(), message))?;
    }
    if let Some(tag) = &file.tag
        && !file.node.iter().any(|node| node.get_ref().tag == *tag.get_ref())
    {
        let message = format!("no node has the tag \"{}\"", tag.get_ref().escape_debug());
        return Err(at(tag.span(), message));
    }
    let access_map = file
        .access_map
        .map(|table| {
            let timeout = Duration::from_millis(table.busy_timeout_ms);
            AccessMap::new(table.map.get_ref(), timeout)
                .map_err(|error| at(table.map.span(), error.to_string()))
        })
        .transpose()?;
    let config = Config {
        strategy: match file.strategy {
            StrategyName::Ring => Strategy::Ring,
            StrategyName::Modulo => Strategy::Modulo,
        },
        username_hash: file.username_hash,
        tag: file.tag.map(Spanned::into_inner).unwrap_or_default(),
        node_state: file.node_state,
        access_map,
        nodes: file
            .node
            .into_iter()
            .map(|table| table.into_inner().into())
            .collect(),
    };
    // What only the nodes together can get wrong.
    match Cluster::check(config.nodes.iter().map(|node| &node.node)) {
        Ok(()) => Ok(config),
        Err(error) => Err(Problem {
            line: None,
            message: match error {
                ClusterError::NoNodes => "there are no nodes; describe each one in a [[node]] table".into(),
                other => other.to_string(),
            },
        }),
    }
}

/// Two nodes of one name could not be told apart, those of one queue group would
/// share a queue, and the Director has an address once in a tag.
fn check_distinct<'a>(node: &NodeTable, earlier: impl Iterator<Item = &'a NodeTable>) -> Result<(), String> {
    for other in earlier {
        let shared_group = node.queue_group.as_ref().filter(|own| {
            other
                .queue_group
                .as_ref()
                .is_some_and(|group| group.eq_ignore_ascii_case(own))
        });
        let shared = if node.name == other.name {
            format!("name \"{}\"", node.name)
        } else if node.address == other.address && node.tag == other.tag {
            format!("address \"{}\"", ring_label(node.address))
        } else if let Some(group) = shared_group {
            format!("queue group \"{group}\"")
        } else {
            continue;
        };
        return Err(format!(
            "node \"{}\" has the {shared} of an earlier node",
            node.name
        ));
    }
    Ok(())
}

impl From<NodeTable> for NodeConfig {
    fn from(table: NodeTable) -> NodeConfig {
        NodeConfig {
            queue_group: table.queue_group,
            imap_host: table.imap_host.unwrap_or_else(|| ring_label(table.address)),
            node: Node {
                vhost_count: table.vhost_count,
                tag: table.tag,
                ..Node::new(table.name, table.address)
            },
        }
    }
}

fn default_node_state() -> PathBuf {
    DEFAULT_NODE_STATE.into()
}

fn default_busy_timeout_ms() -> u64 {
    DEFAULT_BUSY_TIMEOUT_MS
}

fn default_vhost_count() -> u32 {
    DEFAULT_VHOST_COUNT
}

fn username_hash<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<UsernameHash, D::Error> {
    UsernameHash::parse(String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn busy_timeout_ms<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let ms = u64::deserialize(deserializer)?;
    if ms > MAX_BUSY_TIMEOUT_MS {
        return Err(D::Error::custom(format!(
            "busy_timeout_ms is more than {MAX_BUSY_TIMEOUT_MS}"
        )));
    }
    Ok(ms)
}

fn absolute_path<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if !path.is_absolute() {
        return Err(D::Error::custom(
            "the path must be absolute: programs read it from different directories",
        ));
    }
    Ok(path)
}

fn address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_address(&text).ok_or_else(|| {
        D::Error::custom(format!(
            "\"{}\" is not an IP address; give the one under which the Director knows the node",
            text.escape_debug()
        ))
    })
}

/// A tag or name as it can stand in `director_mail_servers`, possibly empty.
fn tag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(D::Error::custom(format!(
            "\"{}\" has a blank or control character",
            text.escape_debug()
        )));
    }
    Ok(text)
}

fn word<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = tag(deserializer)?;
    if text.is_empty() {
        return Err(D::Error::custom("it must not be empty"));
    }
    Ok(text)
}

fn queue_group<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    word(deserializer).map(Some)
}

fn imap_host<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let host = String::deserialize(deserializer)?;
    check_host(&host).map_err(D::Error::custom)?;
    Ok(Some(host))
}

#[cfg(test)]
mod tests {
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
        assert_eq!(config.node_state, Path::new(DEFAULT_NODE_STATE));
        assert!(config.access_map.is_none());
    }

    #[test]
    fn errors_name_file_and_line() {
        for (change, line, word) in [
            (("strategy = \"modulo\"", "strategy = \"rind\""), 2, "rind"),
            (("strategy", "stratgy"), 2, "stratgy"),
            (("%Ln", "%x"), 3, "unknown variable %x"),
            (("\"/var/lib/x", "\"lib/x"), 5, "absolute"),
            (("hash:/etc", "btree:/etc"), 8, "btree"),
            (("= 200", "= 200000"), 9, "busy_timeout_ms"),
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
