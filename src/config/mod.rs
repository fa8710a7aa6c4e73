//! The configuration: one TOML file that describes the cluster.
//!
//! ```toml
//! strategy = "ring"                       # or "modulo"
//! auth_username_format = "%Lu"            # Dovecot's
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
//! host = "node1.example.org"         # where webmail connects to
//! ```
//!
//! Unknown keys and impossible values are errors that name the line.
//! mailaffinity.toml(5) has all keys.

mod authentication;
mod nodes;
mod values;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::DeTable;

use crate::access_map::AccessMap;
use crate::files::regular_file;
use crate::mapping::{Cluster, ClusterError, Node, Strategy, UsernameHash};
use crate::node_state::{NodeEntry, NodeState};
use crate::toml_error::{line_and_problem, line_of};
pub use authentication::{LONGEST_NAME, NoHash, Separator, UsernameFormat};
pub use nodes::{NodeConfig, Nodes};
use values::MapSpec;
pub use values::{
    AbsolutePath, CommandLine, Host, ImapSocket, Interval, LibraryName, MakemapOptions, MetricsFile, Millis,
    Number, QueueFlags, Seconds, Switch, check_host,
};

/// Where the configuration is unless one is named.
pub const DEFAULT_PATH: &str = "/etc/mailaffinity.toml";

/// sendmail's program, where `[sendmail]` names none.
pub const DEFAULT_SENDMAIL: &str = "/usr/sbin/sendmail";

/// Dovecot's program, where `[dovecot]` names none.
const DEFAULT_DOVEADM: &str = "/usr/bin/doveadm";

/// adduser's FIRST_UID and LAST_UID on Debian.
const UIDS: (u32, u32) = (1000, 59_999);
/// Longer than this, and a web page would seem to hang.
const MINUTE_MS: u32 = 60_000;
const HOUR_MS: u32 = 3_600_000;
const DAY: u32 = 86_400;

/// A configuration. [`load`](Config::load) and [`parse`](Config::parse) give one that was
/// found to be consistent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How the nodes share out the users (`strategy`).
    #[serde(default)]
    pub strategy: Strategy,
    /// What authentication makes of a name (`auth_username_format`).
    #[serde(default)]
    pub auth_username_format: UsernameFormat,
    /// What stands between a user and the master user who logs in for that one
    /// (`auth_master_user_separator`).
    #[serde(default)]
    pub auth_master_user_separator: Separator,
    /// How the name that is left is hashed (`username_hash`).
    #[serde(default)]
    pub username_hash: UsernameHash,
    /// The tag of lookups that name none (`tag`).
    #[serde(default)]
    pub tag: String,
    /// The file that says which nodes are down (`node_state`).
    #[serde(default = "default_node_state")]
    pub node_state: AbsolutePath,
    /// The file that machines share, on which people's changes are (`shared_node_state`); then
    /// the other one is this machine's own, and everything reads that.
    pub shared_node_state: Option<AbsolutePath>,
    /// The file that tells monitoring how the last update and drain went (`status`).
    #[serde(default = "default_status")]
    pub status: AbsolutePath,
    /// The socket of the system's log (`syslog`).
    #[serde(default = "default_syslog")]
    pub syslog: AbsolutePath,
    /// sendmail's access map (`[access_map]`), where there is one.
    pub access_map: Option<AccessMapConfig>,
    /// The users whom the access map lists (`[users]`).
    #[serde(default)]
    pub users: Users,
    /// How nodes are found to be up (`[checks]`); without it, by hand only.
    pub checks: Option<Checks>,
    /// How the watcher does that all the time, and what it starts (`[watch]`).
    #[serde(default)]
    pub watch: Watch,
    /// How sendmail is called and its queue groups are run (`[sendmail]`).
    #[serde(default)]
    pub sendmail: Sendmail,
    /// When and how the queues of dead nodes are run (`[drain]`).
    #[serde(default)]
    pub drain: Drain,
    /// How Dovecot is asked for its sessions (`[dovecot]`).
    #[serde(default)]
    pub dovecot: Dovecot,
    /// What is compared with the configuration (`[agreement]`).
    #[serde(default)]
    pub agreement: Agreement,
    /// The nodes (`[[node]]`), in the order of the file.
    #[serde(default, rename = "node")]
    pub nodes: Nodes,
}

fn default_node_state() -> AbsolutePath {
    AbsolutePath("/var/lib/mailaffinity/nodes.toml".into())
}

fn default_status() -> AbsolutePath {
    AbsolutePath("/var/lib/mailaffinity/status.json".into())
}

fn default_syslog() -> AbsolutePath {
    AbsolutePath("/dev/log".into())
}

fn default_login_password_file() -> AbsolutePath {
    AbsolutePath("/etc/mailaffinity.password".into())
}

/// The access map, and how it is built (`[access_map]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "AccessMapTable")]
pub struct AccessMapConfig {
    /// The map (`map`, `busy_timeout_ms`).
    pub map: AccessMap,
    /// How it is built.
    pub build: MapBuild,
    /// Whether a map that sendmail may read as text is updated (`update_text`).
    pub update_text: bool,
    /// The file with its answers for those who may not read the map (`published`).
    pub published: Option<AbsolutePath>,
}

/// How the access map is built from its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapBuild {
    /// The administrator's file (`source`), of which a block is managed.
    pub source: PathBuf,
    /// sendmail's makemap (`makemap`).
    pub makemap: PathBuf,
    /// Options for it (`makemap_options`).
    pub makemap_options: MakemapOptions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessMapTable {
    map: MapSpec,
    #[serde(default)]
    busy_timeout_ms: Millis<0, MINUTE_MS, 500>,
    source: Option<AbsolutePath>,
    makemap: Option<AbsolutePath>,
    makemap_options: Option<MakemapOptions>,
    #[serde(default)]
    update_text: bool,
    published: Option<AbsolutePath>,
}

impl TryFrom<AccessMapTable> for AccessMapConfig {
    type Error = String;

    fn try_from(table: AccessMapTable) -> Result<AccessMapConfig, String> {
        let map = AccessMap::new(&table.map, *table.busy_timeout_ms).map_err(|error| error.to_string())?;
        let source = table.source.map_or_else(|| map.source_path(), PathBuf::from);
        if map.is_built() == (source == map.path()) {
            return Err(format!(
                "the source of {map} must {}be {}",
                if map.is_built() { "not " } else { "" },
                map.path().display()
            ));
        }
        if let Some(published) = &table.published
            && [map.path(), &source].contains(&&**published)
        {
            return Err(format!(
                "published must be a file of its own, and {} is the map or its source",
                published.display()
            ));
        }
        let build = MapBuild {
            source,
            makemap: table
                .makemap
                .map_or_else(|| "/usr/sbin/makemap".into(), PathBuf::from),
            makemap_options: table.makemap_options.unwrap_or(MakemapOptions(Vec::new())),
        };
        Ok(AccessMapConfig {
            map,
            build,
            update_text: table.update_text,
            published: table.published,
        })
    }
}

/// Which users the access map lists (`[users]`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "UsersTable")]
pub struct Users {
    /// Where their names are from.
    pub source: UserSource,
    /// How many of them may be missing from one update to the next (`max_loss_percent`).
    pub max_loss_percent: Number<0, 100, 10>,
    /// How long asking for them may take (`timeout_seconds`).
    pub timeout: Seconds<1, DAY, 60>,
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

impl Default for UserSource {
    fn default() -> UserSource {
        let (uid_min, uid_max) = UIDS;
        UserSource::Nss { uid_min, uid_max }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UsersTable {
    uid_min: Option<u32>,
    uid_max: Option<u32>,
    file: Option<AbsolutePath>,
    command: Option<CommandLine>,
    max_loss_percent: Number<0, 100, 10>,
    timeout_seconds: Seconds<1, DAY, 60>,
}

impl TryFrom<UsersTable> for Users {
    type Error = &'static str;

    fn try_from(table: UsersTable) -> Result<Users, &'static str> {
        let uid_min = table.uid_min.unwrap_or(UIDS.0);
        let uid_max = table.uid_max.unwrap_or(UIDS.1);
        if uid_min > uid_max {
            return Err("uid_min is greater than uid_max");
        }
        Ok(Users {
            source: match (table.file, table.command) {
                (Some(_), Some(_)) => {
                    return Err("the users are from a file or from a command; leave one out");
                }
                (Some(file), None) => UserSource::File(file.into()),
                (None, Some(command)) => UserSource::Command(command.into()),
                (None, None) => UserSource::Nss { uid_min, uid_max },
            },
            max_loss_percent: table.max_loss_percent,
            timeout: table.timeout_seconds,
        })
    }
}

/// How nodes are found to be up (`[checks]`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ChecksTable")]
pub struct Checks {
    /// What is asked.
    pub check: Check,
    /// How long one question may take (`timeout_ms`).
    pub timeout: Millis<1, HOUR_MS, 5000>,
    /// So many failures in a row make a node down (`fall`).
    pub fall: Number<1, 100, 3>,
    /// So many successes in a row make it up again (`rise`).
    pub rise: Number<1, 100, 2>,
    /// The time between them (`interval_ms`).
    pub interval: Millis<0, HOUR_MS, 1000>,
    /// Who says whether this machine may change anything (`quorum`).
    pub quorum: Option<Quorum>,
}

/// Who says which part of a cluster that was cut may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quorum {
    /// The corosync of this machine.
    Corosync,
}

/// What is asked whether a node is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The Director, by its `director-admin` socket (`director`). Its word counts at
    /// once: who keeps it informed has thresholds of his own.
    Director(AbsolutePath),
    /// The node's service (`probe`, `port`).
    Probe(Probe, u16),
    /// A program (`command`), with the node's name and address as further arguments; it
    /// ends with status 0 for a node that is up.
    Command(CommandLine),
}

/// What a service must do to be up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// Take a TCP connection.
    Tcp,
    /// Take it and greet as IMAP does.
    Imap,
    /// Take it and greet as LMTP and SMTP do.
    Lmtp,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ChecksTable {
    director: Option<AbsolutePath>,
    probe: Option<Probe>,
    port: Option<u16>,
    command: Option<CommandLine>,
    timeout_ms: Millis<1, HOUR_MS, 5000>,
    fall: Number<1, 100, 3>,
    rise: Number<1, 100, 2>,
    interval_ms: Millis<0, HOUR_MS, 1000>,
    quorum: Option<Quorum>,
}

impl TryFrom<ChecksTable> for Checks {
    type Error = &'static str;

    fn try_from(table: ChecksTable) -> Result<Checks, &'static str> {
        let check = match (table.director, table.probe, table.command) {
            (Some(director), None, None) => Check::Director(director),
            (None, Some(probe), None) => {
                let usual_port = match probe {
                    Probe::Tcp => None,
                    Probe::Imap => Some(143),
                    Probe::Lmtp => Some(24),
                };
                let port = table.port.or(usual_port).filter(|port| *port > 0);
                Check::Probe(probe, port.ok_or("a tcp probe needs a port")?)
            }
            (None, None, Some(command)) => Check::Command(command),
            _ => return Err("checks need exactly one of director, probe and command"),
        };
        Ok(Checks {
            check,
            timeout: table.timeout_ms,
            fall: table.fall,
            rise: table.rise,
            interval: table.interval_ms,
            quorum: table.quorum,
        })
    }
}

/// How the watcher checks the nodes all the time, and what it starts (`[watch]`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    /// The time from one question about a node to the next (`interval_ms`).
    #[serde(rename = "interval_ms")]
    pub interval: Millis<10, MINUTE_MS, 500>,
    /// How long one question may take (`timeout_ms`).
    #[serde(rename = "timeout_ms")]
    pub timeout: Millis<1, MINUTE_MS, 500>,
    /// So many failures in a row make a node down (`fall`).
    pub fall: Number<1, 100, 2>,
    /// So many successes in a row make it up again (`rise`),
    pub rise: Number<1, 100, 3>,
    /// if the first of them is so long ago (`hold_seconds`).
    #[serde(rename = "hold_seconds")]
    pub hold: Seconds<0, DAY, 10>,
    /// A node that went down so often within an hour stays down (`falls_per_hour`).
    pub falls_per_hour: Number<1, 1000, 5>,
    /// How long users who move between nodes that live are kept out meanwhile, in which their
    /// sessions are ended, and logins that were on their way (`move_seconds`).
    #[serde(rename = "move_seconds")]
    pub move_time: Seconds<0, 60, 5>,
    /// An update is run at least that often (`update_seconds`).
    #[serde(rename = "update_seconds")]
    pub update: Seconds<1, DAY, 60>,
    /// Whether it ends sessions of users who belong on other nodes (`end_sessions`).
    pub end_sessions: Switch<true>,
    /// Programs that are started when nodes went down or up (`on_change`).
    pub on_change: Vec<CommandLine>,
    /// How long each of them may take (`on_change_seconds`).
    #[serde(rename = "on_change_seconds")]
    pub on_change_timeout: Seconds<1, DAY, 60>,
    /// The file for Prometheus' node_exporter (`metrics`).
    pub metrics: Option<MetricsFile>,
}

/// How sendmail is called and its queue groups are run (`[sendmail]`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sendmail {
    /// The program and its first arguments (`command`).
    pub command: CommandLine,
    /// The queue runners of a node for its own queue group (`runners`).
    pub runners: Number<1, 1000, 4>,
    /// The time between two queue runs (`interval`).
    pub interval: Interval,
    /// The flags of the queue groups (`flags`).
    pub flags: QueueFlags,
    /// sendmail's alias files (`alias_files`); if not said, those of its option `AliasFile`.
    pub alias_files: Option<Vec<AbsolutePath>>,
    /// The domains whose users sendmail asks for without the domain (`local_domains`); if
    /// not said, those of its class w.
    pub local_domains: Option<Vec<Host>>,
}

impl Default for Sendmail {
    fn default() -> Sendmail {
        Sendmail {
            command: CommandLine(vec![DEFAULT_SENDMAIL.into()]),
            runners: Number::default(),
            interval: Interval("1m".into()),
            flags: QueueFlags("f".into()),
            alias_files: None,
            local_domains: None,
        }
    }
}

/// When and how the queues of dead nodes are run (`[drain]`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long a node must have been down (`after_seconds`).
    #[serde(rename = "after_seconds")]
    pub after: Seconds<0, DAY, 120>,
    /// No further batch of messages is begun after this time (`limit_seconds`).
    #[serde(rename = "limit_seconds")]
    pub limit: Seconds<1, DAY, 240>,
    /// How many sendmails work on one queue at once (`runners`).
    pub runners: Number<1, 100, 4>,
}

/// How Dovecot is asked for its sessions (`[dovecot]`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dovecot {
    /// The program and its first arguments (`doveadm`).
    pub doveadm: CommandLine,
    /// How long it may take (`timeout_seconds`).
    #[serde(rename = "timeout_seconds")]
    pub timeout: Seconds<1, DAY, 30>,
}

impl Default for Dovecot {
    fn default() -> Dovecot {
        Dovecot {
            doveadm: CommandLine(vec![DEFAULT_DOVEADM.into()]),
            timeout: Seconds::default(),
        }
    }
}

/// What is compared with the configuration, besides sendmail and its access map
/// (`[agreement]`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "AgreementTable")]
pub struct Agreement {
    /// The Director's `director-admin` socket (`director`); that of [`Checks`] if there is
    /// none.
    pub director: Option<AbsolutePath>,
    /// A login by which the Director is tried.
    pub login: Option<Login>,
    /// The C library, as the program loader finds it (`c_library`).
    pub c_library: Option<LibraryName>,
    /// PHP's command line program, run as the web server's user (`php`).
    pub php: Option<CommandLine>,
    /// Programs that are Dovecot's doveadm, each on a machine that users log in to (`dovecot`).
    pub dovecot: Vec<CommandLine>,
    /// How long each of them may take (`timeout_seconds`).
    pub timeout: Seconds<1, DAY, 90>,
}

/// A user who logs in to try what authentication makes of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The name that is typed (`login_user`).
    pub user: String,
    /// The file with the password (`login_password_file`).
    pub password_file: AbsolutePath,
    /// The Director's IMAP (`login_imap`).
    pub imap: ImapSocket,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AgreementTable {
    director: Option<AbsolutePath>,
    login_user: Option<String>,
    login_password_file: Option<AbsolutePath>,
    login_imap: ImapSocket,
    c_library: Option<LibraryName>,
    php: Option<CommandLine>,
    dovecot: Vec<CommandLine>,
    timeout_seconds: Seconds<1, DAY, 90>,
}

impl From<AgreementTable> for Agreement {
    fn from(table: AgreementTable) -> Agreement {
        Agreement {
            director: table.director,
            login: table.login_user.map(|user| Login {
                user,
                password_file: table
                    .login_password_file
                    .unwrap_or_else(default_login_password_file),
                imap: table.login_imap,
            }),
            c_library: table.c_library,
            php: table.php,
            dovecot: table.dovecot,
            timeout: table.timeout_seconds,
        }
    }
}

/// What is wrong with a configuration, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}:{} {problem}", path.display(), line.map(|line| format!("{line}:")).unwrap_or_default())]
pub struct ConfigError {
    path: PathBuf,
    line: Option<usize>,
    problem: String,
}

impl ConfigError {
    /// What is wrong, without the place.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

/// No node with this tag, empty for none, can take a user: they are all down or without
/// vhosts, or there are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no node {} is up", if .0.is_empty() { "without a tag".into() } else { format!("with the tag \"{}\"", .0.escape_debug()) })]
pub struct NoNodeUp(pub String);

/// Where something is in the file: a key, and the place in its array if it has one.
type Place = (&'static str, usize);

fn line_of_place(text: &str, (key, index): Place) -> Option<usize> {
    let file = DeTable::parse(text).ok()?;
    let value = file.get_ref().get(key)?;
    let place = value.get_ref().get(index).unwrap_or(value);
    Some(line_of(text, place.span().start))
}

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
        let error = |line, problem| ConfigError {
            path: path.to_owned(),
            line,
            problem,
        };
        let config: Config = toml::from_str(text).map_err(|wrong| {
            let (line, problem) = line_and_problem(&wrong, text);
            error(line, problem)
        })?;
        config
            .check()
            .map_err(|(place, problem)| error(place.and_then(|place| line_of_place(text, place)), problem))?;
        Ok(config)
    }

    /// Checks what only the whole file can get wrong.
    fn check(&self) -> Result<(), (Option<Place>, String)> {
        self.nodes
            .check()
            .map_err(|(index, problem)| (Some(("node", index)), problem))?;
        if self.shared_node_state.as_ref() == Some(&self.node_state) {
            let problem = "node_state must be another file than shared_node_state, of this machine alone";
            return Err((Some(("shared_node_state", 0)), problem.into()));
        }
        if !self.tag.is_empty() && !self.nodes.iter().any(|node| node.node.tag == self.tag) {
            let problem = format!("no node has the tag \"{}\"", self.tag.escape_debug());
            return Err((Some(("tag", 0)), problem));
        }
        Cluster::check(self.nodes.iter().map(|node| &node.node)).map_err(|error| {
            let problem = match error {
                ClusterError::NoNodes => "there are no nodes; describe each one in a [[node]] table".into(),
                other => other.to_string(),
            };
            (None, problem)
        })
    }

    /// The cluster as it stands: the nodes of the configuration, up or down, with the
    /// vhosts, tags and moved users that the node state has, but for those whom their node
    /// does not [keep](NodeEntry::keeps_moved). A node's place in it is its place in
    /// [`nodes`](Config::nodes).
    ///
    /// # Errors
    /// When the node state has too many vhosts; see [`Cluster::new`].
    pub fn cluster(&self, state: &NodeState) -> Result<Cluster, ClusterError> {
        let (mut nodes, mut moved) = (Vec::with_capacity(self.nodes.len()), Vec::new());
        let nothing = NodeEntry::default();
        for (index, NodeConfig { node, .. }) in self.nodes.iter().enumerate() {
            let entry = state.nodes.get(&node.name).unwrap_or(&nothing);
            nodes.push(Node {
                up: !state.is_down(&node.name),
                vhost_count: entry.vhost_count.unwrap_or(node.vhost_count),
                tag: entry.tag.as_ref().unwrap_or(&node.tag).clone(),
                ..node.clone()
            });
            if entry.keeps_moved() {
                moved.extend(entry.moved.iter().map(|hash| (hash, index)));
            }
        }
        let cluster = Cluster::new(self.strategy, self.username_hash.clone(), nodes)?;
        Ok(cluster.with_moved(moved))
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
host = "node1.example.org"

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
        assert_eq!(&*config.node_state, Path::new("/var/lib/x/nodes.toml"));
        let [one, two] = &config.nodes[..] else { panic!() };
        assert_eq!(one.node.address, IpAddr::from([10, 0, 0, 1]));
        assert_eq!((one.node.vhost_count, one.node.tag.as_str()), (50, "east"));
        assert_eq!(one.host, "node1.example.org");
        assert_eq!((two.node.vhost_count, two.node.tag.as_str()), (100, ""));
        assert_eq!(two.host, "2001:db8::2");
        assert_eq!(two.queue_group, None);
        assert_eq!(config.nodes.index_of_queue_group(b"NODE1group"), Some(0));
        assert_eq!(config.nodes.index_of_queue_group(b"node1group \t\r"), Some(0));
        assert_eq!(config.nodes.index_of_queue_group(b"other"), None);
    }

    #[test]
    fn defaults() {
        let config = parse("[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n").unwrap();
        assert_eq!(config.strategy, Strategy::Ring);
        assert_eq!(config.username_hash.format(), b"%Lu");
        assert_eq!(&*config.node_state, Path::new("/var/lib/mailaffinity/nodes.toml"));
        assert!(config.access_map.is_none());
    }

    #[test]
    fn the_keys_of_the_update() {
        let text = format!(
            "status = \"/run/x.json\"\nsyslog = \"/run/log\"\n{}{}",
            EXAMPLE.replace(
                "busy_timeout_ms = 200",
                "published = \"/run/answers.cdb\"\nsource = \"/srv/access\"\nmakemap = \"/opt/makemap\"\nmakemap_options = [\"-N\", \"-c\", \"9\"]"
            ),
            "queue_path = \"/mnt/gfs2/mqueue/q2*\"\n\
             [users]\ncommand = [\"/usr/bin/doveadm\", \"user\", \"*\"]\nmax_loss_percent = 5\ntimeout_seconds = 7\n\
             [watch]\ninterval_ms = 250\nhold_seconds = 0\non_change = [[\"/bin/a\", \"b\"], [\"/bin/c\"]]\n\
             [checks]\nprobe = \"imap\"\nfall = 4\nquorum = \"corosync\"\n\
             [sendmail]\ncommand = [\"/opt/sendmail\", \"-C\", \"/opt/sendmail.cf\"]\ninterval = \"1h30m\"\n\
             [drain]\nafter_seconds = 0\n\
             [dovecot]\ndoveadm = [\"/opt/doveadm\", \"-i\", \"proxy\"]\ntimeout_seconds = 5\n"
        );
        let config = parse(&text).unwrap();
        assert_eq!(&*config.status, Path::new("/run/x.json"));
        assert_eq!(&*config.syslog, Path::new("/run/log"));
        let access_map = config.access_map.unwrap();
        let published = access_map.published.as_deref();
        assert_eq!(published, Some(Path::new("/run/answers.cdb")));
        let build = access_map.build;
        assert_eq!(build.source, Path::new("/srv/access"));
        assert_eq!(build.makemap, Path::new("/opt/makemap"));
        assert_eq!(*build.makemap_options, ["-N", "-c", "9"]);
        assert_eq!(
            config.nodes[1].queue_path.as_deref(),
            Some(Path::new("/mnt/gfs2/mqueue/q2*"))
        );
        let command = ["/usr/bin/doveadm", "user", "*"].map(String::from);
        assert_eq!(config.users.source, UserSource::Command(command.into()));
        assert_eq!(
            (*config.users.max_loss_percent, config.users.timeout.as_secs()),
            (5, 7)
        );
        let checks = config.checks.unwrap();
        assert_eq!(checks.check, Check::Probe(Probe::Imap, 143));
        assert_eq!((*checks.fall, *checks.rise), (4, 2));
        let watch = config.watch;
        assert_eq!((watch.interval.as_millis(), watch.hold.as_secs()), (250, 0));
        assert_eq!((*watch.fall, *watch.rise), (2, 3));
        let programs: Vec<&[String]> = watch.on_change.iter().map(|program| &**program).collect();
        assert_eq!(
            programs,
            [&["/bin/a".to_owned(), "b".to_owned()][..], &["/bin/c".to_owned()]]
        );
        assert_eq!(checks.quorum, Some(Quorum::Corosync));
        assert_eq!(&*config.sendmail.interval, "1h30m");
        assert_eq!(
            (config.drain.after.as_secs(), config.drain.limit.as_secs()),
            (0, 240)
        );
        assert_eq!(*config.dovecot.doveadm, ["/opt/doveadm", "-i", "proxy"]);
        assert_eq!(config.dovecot.timeout.as_secs(), 5);
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
            ("[watch]\ninterval_ms = 9\n", "not between 10 and 60000"),
            ("[watch]\nmetrics = \"a.prom\"\n", "absolute"),
            ("[watch]\nmetrics = \"/etc/mail/access\"\n", "end in .prom"),
            ("[watch]\non_change = [\"/bin/a\"]\n", "sequence"),
            ("[watch]\non_change = [[\"bin/a\"]]\n", "absolute path"),
            (
                "[checks]\nprobe = \"imap\"\nquorum = \"pacemaker\"\n",
                "pacemaker",
            ),
            ("[users]\nfile = \"/a\"\ncommand = [\"/b\"]\n", "leave one out"),
            ("[agreement]\nc_library = \"lib/x.so\"\n", "absolute path"),
            ("[agreement]\nc_library = \"-x\"\n", "absolute path"),
            ("[agreement]\nc_library = \"\"\n", "absolute path"),
            (
                "[agreement]\nlogin_imap = \"localhost:143\"\n",
                "neither an address with a port",
            ),
            (
                "[agreement]\ndovecot = [\"/usr/bin/doveadm\"]\n",
                "expected a sequence",
            ),
            ("[agreement]\ndovecot = [[\"doveadm\"]]\n", "absolute path"),
            ("[users]\ncommand = []\n", "a command is a list"),
            ("[users]\ncommand = [\"doveadm\"]\n", "absolute path"),
            ("[users]\nuid_min = 2\nuid_max = 1\n", "uid_min is greater"),
            ("[users]\nmax_loss_percent = 101\n", "not between"),
            ("[sendmail]\ninterval = \"1\"\n", "not an interval"),
            ("[dovecot]\ndoveadm = [\"doveadm\"]\n", "absolute path"),
            ("[dovecot]\ntimeout_seconds = 0\n", "not between 1 and 86400"),
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
            ("published = \"answers.cdb\"", "absolute"),
            ("published = \"/etc/mail/access.db\"", "a file of its own"),
            ("published = \"/etc/mail/access\"", "a file of its own"),
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
        assert_eq!(node("# all are up").as_deref(), Some("b"));
        assert_eq!(node("[node.b]\nstate = \"down\"\n").as_deref(), Some("a"));
        assert_eq!(node("[node.b]\nvhost_count = 0\n").as_deref(), Some("a"));
        assert_eq!(node("[node.b]\ntag = \"x\"\n").as_deref(), Some("a"));
        assert_eq!(
            node("[node.a]\nmoved = \"24c9e15e\"\n[node.z]\nmoved = \"00000001\"\n").as_deref(),
            Some("a")
        );
        // A node that dies loses those who were moved to it too, unless a Director has them there.
        for (by, expected) in [("hand", "b"), ("checks", "b"), ("director", "a")] {
            let dead = format!(
                "[node.a]\nstate = \"down\"\nby = \"{by}\"\nmoved = \"24c9e15e=2026-11-27T22:00:00Z\"\n"
            );
            assert_eq!(node(&dead).as_deref(), Some(expected), "{by}");
        }
        let huge = NodeState::parse("[node.b]\nvhost_count = 4000000000\n").unwrap();
        assert!(config.cluster(&huge).is_err());
    }

    #[test]
    fn errors_name_file_and_line() {
        for (change, line, word) in [
            (("strategy = \"modulo\"", "strategy = \"rind\""), 2, "rind"),
            (("strategy", "stratgy"), 2, "stratgy"),
            (("%Ln", "%x"), 3, "unknown variable %x"),
            (
                ("username_hash = \"%Ln", "auth_username_format = \"%x"),
                3,
                "auth_username_format: unknown variable %x",
            ),
            (
                ("username_hash = \"%Ln", "auth_master_user_separator = \"**"),
                3,
                "one ASCII character",
            ),
            (("\"/var/lib/x", "\"lib/x"), 5, "absolute"),
            (
                (
                    "node_state = \"/var/lib/x",
                    "shared_node_state = \"/var/lib/mailaffinity",
                ),
                5,
                "another file",
            ),
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

    /// Looking at each pair of them would take a minute.
    #[test]
    fn many_nodes_load_at_once() {
        const MANY: usize = 20_000;
        let table = |n: usize| {
            format!(
                "[[node]]\nname = \"node{n}\"\naddress = \"10.0.{}.{}\"\nvhost_count = 1\n\
                 queue_group = \"group{n}\"\nqueue_path = \"/q/{n}\"\n",
                n / 250,
                n % 250
            )
        };
        let text: String = (0..MANY).map(table).collect();
        let mut state = NodeState::default();
        for n in 0..MANY {
            state.entry(&format!("node{n}")).moved = [7].into_iter().collect();
        }
        let config = parse(&text).unwrap();
        let cluster = config.cluster(&state).unwrap();
        assert_eq!(cluster.nodes().len(), MANY);
        for n in 0..MANY {
            assert_eq!(config.nodes.index_of(&format!("node{n}")), Some(n));
            assert_eq!(
                config.nodes.index_of_queue_group(format!("GROUP{n}").as_bytes()),
                Some(n)
            );
        }
        let error = parse(&(text + &table(MANY - 1))).unwrap_err().to_string();
        let line = 1 + 6 * MANY;
        assert!(
            error.starts_with(&format!("/etc/x.toml:{line}: node \"node19999\" has the name")),
            "{error}"
        );
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
