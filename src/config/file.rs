//! The file as it is written.

use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;
use toml::Spanned;

use super::{
    Agreement, Check, Checks, Config, DEFAULT_SENDMAIL, Drain, NodeConfig, Probe, Sendmail, UserSource,
    Users, check_host,
};
use crate::access_map::{AccessMap, MapBuild};
use crate::mapping::{
    Cluster, ClusterError, DEFAULT_VHOST_COUNT, Node, Strategy, UsernameHash, parse_address, ring_label,
};
use crate::toml_error::{line_and_problem, line_of};

/// Longer than this, and a web page would seem to hang.
const MAX_BUSY_TIMEOUT_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;
const DAY: u64 = 86_400;

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
    #[serde(default = "default_status", deserialize_with = "absolute_path")]
    status: PathBuf,
    #[serde(default = "default_syslog", deserialize_with = "absolute_path")]
    syslog: PathBuf,
    access_map: Option<AccessMapTable>,
    users: Option<Spanned<UsersTable>>,
    checks: Option<Spanned<ChecksTable>>,
    #[serde(default)]
    sendmail: SendmailTable,
    #[serde(default)]
    drain: DrainTable,
    #[serde(default)]
    agreement: AgreementTable,
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
    #[serde(
        default = "default_busy_timeout_ms",
        deserialize_with = "number::<_, 0, MAX_BUSY_TIMEOUT_MS>"
    )]
    busy_timeout_ms: u64,
    #[serde(default, deserialize_with = "some_absolute_path")]
    source: Option<PathBuf>,
    #[serde(default = "default_makemap", deserialize_with = "absolute_path")]
    makemap: PathBuf,
    #[serde(default, deserialize_with = "makemap_options")]
    makemap_options: Vec<String>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UsersTable {
    uid_min: u32,
    uid_max: u32,
    #[serde(deserialize_with = "some_absolute_path")]
    file: Option<PathBuf>,
    #[serde(deserialize_with = "some_command")]
    command: Option<Vec<String>>,
    #[serde(deserialize_with = "number::<_, 0, 100>")]
    max_loss_percent: u64,
    #[serde(deserialize_with = "number::<_, 1, DAY>")]
    timeout_seconds: u64,
}

impl Default for UsersTable {
    fn default() -> UsersTable {
        UsersTable {
            // adduser's FIRST_UID and LAST_UID on Debian.
            uid_min: 1000,
            uid_max: 59_999,
            file: None,
            command: None,
            max_loss_percent: 10,
            timeout_seconds: 60,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChecksTable {
    #[serde(default, deserialize_with = "some_absolute_path")]
    director: Option<PathBuf>,
    probe: Option<ProbeName>,
    port: Option<u16>,
    #[serde(default, deserialize_with = "some_command")]
    command: Option<Vec<String>>,
    #[serde(
        default = "default_check_timeout_ms",
        deserialize_with = "number::<_, 1, HOUR_MS>"
    )]
    timeout_ms: u64,
    #[serde(default = "default_fall", deserialize_with = "number::<_, 1, 100>")]
    fall: u64,
    #[serde(default = "default_rise", deserialize_with = "number::<_, 1, 100>")]
    rise: u64,
    #[serde(default = "default_interval_ms", deserialize_with = "number::<_, 0, HOUR_MS>")]
    interval_ms: u64,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProbeName {
    Tcp,
    Imap,
    Lmtp,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SendmailTable {
    #[serde(deserialize_with = "command")]
    command: Vec<String>,
    #[serde(deserialize_with = "number::<_, 1, 1000>")]
    runners: u64,
    #[serde(deserialize_with = "interval")]
    interval: String,
    #[serde(deserialize_with = "flags")]
    flags: String,
}

impl Default for SendmailTable {
    fn default() -> SendmailTable {
        SendmailTable {
            command: vec![DEFAULT_SENDMAIL.into()],
            runners: 4,
            interval: "1m".into(),
            flags: "f".into(),
        }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DrainTable {
    #[serde(deserialize_with = "number::<_, 0, DAY>")]
    after_seconds: u64,
    #[serde(deserialize_with = "number::<_, 1, DAY>")]
    limit_seconds: u64,
    #[serde(deserialize_with = "number::<_, 1, 100>")]
    runners: u64,
}

impl Default for DrainTable {
    fn default() -> DrainTable {
        DrainTable {
            after_seconds: 120,
            limit_seconds: 240,
            runners: 4,
        }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AgreementTable {
    #[serde(deserialize_with = "some_absolute_path")]
    director: Option<PathBuf>,
    #[serde(deserialize_with = "library")]
    c_library: Option<String>,
    #[serde(deserialize_with = "some_command")]
    php: Option<Vec<String>>,
    #[serde(deserialize_with = "number::<_, 1, DAY>")]
    timeout_seconds: u64,
}

impl Default for AgreementTable {
    fn default() -> AgreementTable {
        AgreementTable {
            director: None,
            c_library: None,
            php: None,
            timeout_seconds: 90,
        }
    }
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
    #[serde(default, deserialize_with = "queue_path")]
    queue_path: Option<PathBuf>,
    #[serde(default, deserialize_with = "imap_host")]
    imap_host: Option<String>,
}

/// What is wrong with a text, and in which line where that can be said.
pub(super) struct Problem {
    pub(super) line: Option<usize>,
    pub(super) message: String,
}

/// Reads a configuration from text.
pub(super) fn parse(text: &str) -> Result<Config, Problem> {
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
    let (access_map, map_build) = file
        .access_map
        .map(|table| {
            let span = table.map.span();
            access_map(table).map_err(|message| at(span, message))
        })
        .transpose()?
        .unzip();
    let users = file
        .users
        .unwrap_or_else(|| Spanned::new(0..0, UsersTable::default()));
    let users_span = users.span();
    let checks = file
        .checks
        .map(|table| {
            let span = table.span();
            checks(table.into_inner()).map_err(|message| at(span, message))
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
        status: file.status,
        syslog: file.syslog,
        access_map,
        map_build,
        users: self::users(users.into_inner()).map_err(|message| at(users_span, message))?,
        checks,
        sendmail: Sendmail {
            command: file.sendmail.command,
            runners: to_u32(file.sendmail.runners),
            interval: file.sendmail.interval,
            flags: file.sendmail.flags,
        },
        drain: Drain {
            after: Duration::from_secs(file.drain.after_seconds),
            limit: Duration::from_secs(file.drain.limit_seconds),
            runners: to_u32(file.drain.runners),
        },
        agreement: Agreement {
            director: file.agreement.director,
            c_library: file.agreement.c_library,
            php: file.agreement.php,
            timeout: Duration::from_secs(file.agreement.timeout_seconds),
        },
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

/// The map, and how it is built from the file of the same name without extension
/// unless the table names another.
fn access_map(table: AccessMapTable) -> Result<(AccessMap, MapBuild), String> {
    let timeout = Duration::from_millis(table.busy_timeout_ms);
    let map = AccessMap::new(table.map.get_ref(), timeout).map_err(|error| error.to_string())?;
    let source = table.source.unwrap_or_else(|| map.source_path());
    if map.is_built() == (source == map.path()) {
        return Err(format!(
            "the source of {map} must {}be {}",
            if map.is_built() { "not " } else { "" },
            map.path().display()
        ));
    }
    let build = MapBuild {
        source,
        makemap: table.makemap,
        makemap_options: table.makemap_options,
    };
    Ok((map, build))
}

fn users(table: UsersTable) -> Result<Users, String> {
    if table.uid_min > table.uid_max {
        return Err("uid_min is greater than uid_max".into());
    }
    Ok(Users {
        source: match (table.file, table.command) {
            (Some(_), Some(_)) => {
                return Err("the users are from a file or from a command; leave one out".into());
            }
            (Some(file), None) => UserSource::File(file),
            (None, Some(command)) => UserSource::Command(command),
            (None, None) => UserSource::Nss {
                uid_min: table.uid_min,
                uid_max: table.uid_max,
            },
        },
        max_loss_percent: u8::try_from(table.max_loss_percent).unwrap_or(u8::MAX),
        timeout: Duration::from_secs(table.timeout_seconds),
    })
}

fn checks(table: ChecksTable) -> Result<Checks, String> {
    let check = match (table.director, table.probe, table.command) {
        (Some(director), None, None) => Check::Director(director),
        (None, Some(probe), None) => {
            let (probe, usual_port) = match probe {
                ProbeName::Tcp => (Probe::Tcp, None),
                ProbeName::Imap => (Probe::Imap, Some(143)),
                ProbeName::Lmtp => (Probe::Lmtp, Some(24)),
            };
            let port = table.port.or(usual_port).filter(|port| *port > 0);
            Check::Probe(probe, port.ok_or("a tcp probe needs a port")?)
        }
        (None, None, Some(command)) => Check::Command(command),
        _ => return Err("checks need exactly one of director, probe and command".into()),
    };
    Ok(Checks {
        check,
        timeout: Duration::from_millis(table.timeout_ms),
        fall: to_u32(table.fall),
        rise: to_u32(table.rise),
        interval: Duration::from_millis(table.interval_ms),
    })
}

/// Of a number that was found to be small.
fn to_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
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
        } else if let Some(path) = node
            .queue_path
            .as_ref()
            .filter(|own| other.queue_path.as_ref() == Some(*own))
        {
            format!("queue_path \"{}\"", path.display())
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
            queue_path: table.queue_path,
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
    "/var/lib/mailaffinity/nodes.toml".into()
}

fn default_status() -> PathBuf {
    "/var/lib/mailaffinity/status.json".into()
}

fn default_syslog() -> PathBuf {
    "/dev/log".into()
}

fn default_makemap() -> PathBuf {
    "/usr/sbin/makemap".into()
}

fn default_busy_timeout_ms() -> u64 {
    500
}

fn default_check_timeout_ms() -> u64 {
    5000
}

fn default_fall() -> u64 {
    3
}

fn default_rise() -> u64 {
    2
}

fn default_interval_ms() -> u64 {
    1000
}

fn default_vhost_count() -> u32 {
    DEFAULT_VHOST_COUNT
}

fn username_hash<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<UsernameHash, D::Error> {
    UsernameHash::parse(String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn number<'de, D: serde::Deserializer<'de>, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if !(MIN..=MAX).contains(&number) {
        return Err(D::Error::custom(format!(
            "{number} is not between {MIN} and {MAX}"
        )));
    }
    Ok(number)
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

fn some_absolute_path<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    absolute_path(deserializer).map(Some)
}

/// What sendmail takes as a queue group's name: a rule set can only choose one that is
/// a single token.
fn queue_group<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = word(deserializer)?;
    all_of(&name, "-_").map_err(D::Error::custom)?;
    Ok(Some(name))
}

fn queue_path<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = absolute_path(deserializer)?;
    let text = path.to_string_lossy();
    all_of(text.strip_suffix('*').unwrap_or(&text), "/-._+:@=").map_err(D::Error::custom)?;
    Ok(Some(path))
}

fn interval<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let interval = word(deserializer)?;
    let mut parts = interval.split_inclusive(|c: char| !c.is_ascii_digit());
    if !parts.all(|part| part.len() > 1 && part.ends_with(['s', 'm', 'h', 'd', 'w'])) {
        return Err(D::Error::custom(format!(
            "\"{}\" is not an interval of sendmail, such as 30s or 1h30m",
            interval.escape_debug()
        )));
    }
    Ok(interval)
}

fn flags<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let flags = String::deserialize(deserializer)?;
    all_of(&flags, "").map_err(D::Error::custom)?;
    Ok(flags)
}

/// Checks that a text has only ASCII letters, digits and these characters.
fn all_of(text: &str, others: &str) -> Result<(), String> {
    match text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !others.contains(*c))
    {
        None => Ok(()),
        Some(bad) => Err(format!(
            "\"{}\" has \"{}\", which sendmail would not take here",
            text.escape_debug(),
            bad.escape_debug()
        )),
    }
}

fn command<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let command = Vec::<String>::deserialize(deserializer)?;
    if command.first().is_none_or(|program| !program.starts_with('/')) {
        return Err(D::Error::custom(
            "a command is a list of the program, by its absolute path, and its arguments",
        ));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(D::Error::custom("an argument has a NUL character"));
    }
    Ok(command)
}

fn some_command<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    command(deserializer).map(Some)
}

/// A path, or a name as the program loader looks it up. Nothing that depends on the
/// current folder.
fn library<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let library = String::deserialize(deserializer)?;
    let is_name = !library.is_empty() && !library.starts_with('-') && !library.contains(['/', '\0']);
    if !is_name && !library.starts_with('/') {
        return Err(D::Error::custom(
            "a library is given by its absolute path, or by its name alone, such as libmailaffinity.so.0",
        ));
    }
    Ok(Some(library))
}

/// Options of makemap that do not change what a line means: whoever builds the map by
/// hand without them must get the same one.
fn makemap_options<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let options = Vec::<String>::deserialize(deserializer)?;
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let complete = match option.as_str() {
            "-N" | "-s" | "-v" => true,
            "-C" | "-c" => rest.next().is_some(),
            _ => false,
        };
        if !complete {
            return Err(D::Error::custom(format!(
                "\"{}\" is not taken here; makemap's options -N, -s, -v, -C FILE and -c SIZE are",
                option.escape_debug()
            )));
        }
    }
    Ok(options)
}

fn imap_host<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let host = String::deserialize(deserializer)?;
    check_host(&host).map_err(D::Error::custom)?;
    Ok(Some(host))
}
