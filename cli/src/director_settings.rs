//! A Director's settings and live state, taken over into a configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use toml::Value;

use crate::checks::Observation;
use crate::director::{Host, Snapshot};
use crate::doveconf::{Doveconf, Section};
use mailaffinity::config::{Config, check_host};
use mailaffinity::mapping::{
    Cluster, DEFAULT_VHOST_COUNT, FormatError, Node, Strategy, UsernameHash, parse_mail_servers,
    resolve_nodes, ring_label,
};
use mailaffinity::node_state::NodeState;

const MAIL_SERVERS: &str = "director_mail_servers";
const USERNAME_HASH: &str = "director_username_hash";
const FORMAT: &str = "auth_username_format";
const SEPARATOR: &str = "auth_master_user_separator";
const REALM: &str = "auth_default_realm";

/// Of both settings that format names, in 2.2 and 2.3.
const DEFAULT_FORMAT: &str = "%Lu";

/// What is taken over, which no section may have otherwise.
const TAKEN: [&str; 5] = [MAIL_SERVERS, USERNAME_HASH, FORMAT, SEPARATOR, REALM];

/// What doveconf puts in place of a part of a value.
const HIDDEN: &str = "#hidden_use-P_to_show#";

/// What is not taken over, and what there is in its place.
const LEFT_OUT: [(&str, &str); 9] = [
    (
        "director_servers",
        "Directors need not know each other any more; give every machine this file, and the same node state",
    ),
    (
        "director_user_expire",
        "no login is remembered, and a user goes by the nodes that are up; while the Director runs, let \"mailaffinity \
         update\" follow it ([checks], director)",
    ),
    (
        "director_user_kick_delay",
        "end the sessions of users who move yourself, with doveadm kick",
    ),
    (
        "director_max_parallel_moves",
        "users move at once; mark one node after the other",
    ),
    (
        "director_max_parallel_kicks",
        "end the sessions of users who move yourself, with doveadm kick",
    ),
    (
        "director_flush_socket",
        "nothing is run for users who move; call your program where you mark nodes",
    ),
    (
        "auth_username_translation",
        "users whose names it changes have other nodes; let auth_username_format leave the same names",
    ),
    ("lmtp_proxy", "it is Dovecot's own; keep it where LMTP is proxied"),
    (
        "director_consistent_hashing",
        "Dovecot 2.3 does not look at it, and has a ring; take it out",
    ),
];

/// The drivers of passdbs whose fields are in their settings.
const OPEN_DRIVERS: [&str; 3] = ["static", "pam", "passwd"];

/// A live Director.
#[derive(Clone, Copy, Debug)]
pub struct Live<'d> {
    /// Its socket.
    pub socket: &'d Path,
    /// What it said there.
    pub snapshot: &'d Snapshot,
    /// When it was asked.
    pub now: Timestamp,
}

/// What is taken over.
#[derive(Debug)]
pub struct Taken {
    /// The configuration, with comments that say what is not in it.
    pub configuration: String,
    /// The node state: hosts that are down, and users whom the Director has elsewhere than
    /// its ring. That of a Director who was not asked is empty.
    pub node_state: NodeState,
}

/// Why nothing can be taken over: a sentence that names the setting.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TakeError(String);

/// The configuration by which everybody has the node that the Director gives. Its hosts
/// are those of the settings, or of the live Director, whose word wins. `resolve` gives the
/// addresses of a name.
///
/// # Errors
/// Where a setting has no equal here, and users would have other nodes.
pub fn take<E: fmt::Display>(
    settings: &Doveconf,
    live: Option<Live<'_>>,
    resolve: impl Fn(&str) -> Result<Vec<IpAddr>, E>,
) -> Result<Taken, TakeError> {
    let mut notes = Vec::new();
    let top = &settings.top;
    if top.get("dovecot_config_version").is_some() {
        return Err(TakeError(
            "these are settings of Dovecot 2.4, which has no Director; take over those of the Director's machine".into(),
        ));
    }
    let strategy = strategy(settings, &mut notes)?;
    let format = format(top, &mut notes)?;
    let username_hash = value(top, USERNAME_HASH)?.unwrap_or(DEFAULT_FORMAT);
    check_format(USERNAME_HASH, username_hash)?;
    // Dovecot looks at no more of it.
    let separator = value(top, SEPARATOR)?.map(|separator| separator.get(..1).unwrap_or(separator));

    let named = match value(top, MAIL_SERVERS)?
        .map(str::trim)
        .filter(|list| !list.is_empty())
    {
        Some(list) => parse_mail_servers(list).map_err(|error| TakeError(error.to_string()))?,
        None if live.is_none() => {
            return Err(TakeError(format!(
                "there is no {MAIL_SERVERS}: these are not a Director's settings; give those, or ask the Director itself \
                 by --director SOCKET"
            )));
        }
        None => Vec::new(),
    };
    let named = match resolve_nodes(&named, |name| resolve(name)) {
        Ok(named) => named,
        Err(error) if live.is_none() => return Err(TakeError(error.to_string())),
        Err(error) => {
            notes.push(format!(
                "{error}: nodes are named by their addresses; change that as you like"
            ));
            Vec::new()
        }
    };
    let nodes = match live {
        Some(live) => live_nodes(live.snapshot, &named, &mut notes),
        None => {
            notes.push(
                "what was set by hand (doveadm director add, update, down, move): the Director itself was not asked; \
                 where it runs, \"mailaffinity from-director\" asks it"
                    .into(),
            );
            named
        }
    };
    // Before much is made of too many.
    Cluster::check(&nodes).map_err(|error| TakeError(error.to_string()))?;
    let nodes = distinct(nodes, strategy);

    let mut tags = BTreeSet::new();
    passdbs(top, &mut tags, &mut notes);
    let tag = one_tag(&tags, &nodes, &mut notes);
    for (key, instead) in LEFT_OUT {
        if let Some(value) = top.get(key).filter(|value| !["", "no"].contains(value)) {
            notes.push(format!("{key} = {}: {instead}", value.escape_debug()));
        }
    }
    other_values(top, "", &mut notes);

    let mut text = String::new();
    for (key, value) in [
        ("strategy", Some(strategy.to_string().as_str())),
        ("auth_username_format", Some(format.as_str())),
        ("auth_master_user_separator", separator),
        ("username_hash", Some(username_hash)),
        ("tag", tag),
    ] {
        if let Some(value) = value {
            text += &format!("{key} = {}\n", Value::from(value));
        }
    }
    for (node, name) in nodes.iter().zip(names(&nodes)) {
        text += &node_table(node, &name);
    }
    let config = Config::parse(&text, Path::new("configuration"))
        .map_err(|error| TakeError(format!("the settings make no configuration: {}", error.problem())))?;
    let mut node_state = NodeState::default();
    if let Some(live) = live {
        Observation::of_director(&config, live.snapshot.clone()).apply(&config, &mut node_state, live.now);
        notes.extend(left_to_node_state(&node_state));
    }
    Ok(Taken {
        configuration: head(settings, live, &notes) + &text,
        node_state,
    })
}

/// The value of a setting, where there is one that can be known.
fn value<'s>(section: &'s Section, key: &str) -> Result<Option<&'s str>, TakeError> {
    let Some(value) = section.get(key) else {
        return Ok(None);
    };
    let refused = |problem| Err(TakeError(format!("{key} = {}: {problem}", value.escape_debug())));
    match value {
        _ if value.contains(char::REPLACEMENT_CHARACTER) => {
            refused("it is not UTF-8, as the configuration must be")
        }
        _ if value.contains(HIDDEN) => {
            refused("doveconf hides a part of it; give what \"doveconf -nP\" prints")
        }
        _ if value.starts_with('<') || (value.starts_with('$') && value.len() > 1) => {
            refused("the value stands elsewhere; give what \"doveconf -n\" prints")
        }
        value => Ok(Some(value)),
    }
}

/// Dovecot 2.3 always has a ring; 2.2 if it was told so.
fn strategy(settings: &Doveconf, notes: &mut Vec<String>) -> Result<Strategy, TakeError> {
    let consistent = value(&settings.top, "director_consistent_hashing")?;
    let version = settings.version.as_deref();
    if let Some(version) =
        version.filter(|version| !version.starts_with("2.2.") && !version.starts_with("2.3."))
    {
        return Err(TakeError(format!(
            "these are the settings of Dovecot {}, whose Director is not known to map users as those of 2.2 and 2.3: take \
             them over from one of these",
            version.escape_debug()
        )));
    }
    if version.is_none() && consistent.is_none() {
        notes.push(
            "the strategy of Dovecot 2.2, where the settings are of that: their first line does not say of which Dovecot \
             they are; set strategy = \"modulo\" for 2.2 without director_consistent_hashing"
                .into(),
        );
    }
    let is_2_2 = version.map_or(consistent.is_some(), |version| version.starts_with("2.2."));
    Ok(match consistent {
        Some("yes") => Strategy::Ring,
        _ if is_2_2 => Strategy::Modulo,
        _ => Strategy::Ring,
    })
}

/// `auth_username_format`, with the realm that names without a domain get before it.
fn format(top: &Section, notes: &mut Vec<String>) -> Result<String, TakeError> {
    let format = value(top, FORMAT)?.unwrap_or(DEFAULT_FORMAT);
    check_format(FORMAT, format)?;
    let Some(realm) = value(top, REALM)?.filter(|realm| !realm.is_empty()) else {
        return Ok(format.to_owned());
    };
    let is_plain = realm
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    match format {
        "%n" | "%Ln" | "%Un" => return Ok(format.to_owned()),
        "%Lu" if is_plain => return Ok(format!("%{{if;%d;eq;;%Lu@{};%Lu}}", realm.to_ascii_lowercase())),
        "%u" | "" if is_plain => return Ok(format!("%{{if;%d;eq;;%u@{realm};%u}}")),
        _ => {}
    }
    notes.push(format!(
        "{REALM} = {}: with this {FORMAT}, make the format add it to names without a domain",
        realm.escape_debug()
    ));
    Ok(format.to_owned())
}

/// What this does not know would give users other nodes.
fn check_format(key: &str, format: &str) -> Result<(), TakeError> {
    let error = |error: FormatError| {
        TakeError(format!(
            "{key} = {}: {}; users cannot be mapped by it",
            format.escape_debug(),
            error.problem()
        ))
    };
    UsernameHash::parse(format).map(drop).map_err(error)
}

/// The Director's hosts, each with the name that the settings have for it.
fn live_nodes(snapshot: &Snapshot, named: &[Node], notes: &mut Vec<String>) -> Vec<Node> {
    let of_settings: BTreeMap<_, &Node> = named.iter().map(|node| (place(node), node)).collect();
    let node = |host: &Host| {
        let known = of_settings.get(&(host.address, host.tag.as_str()));
        let name = known.map_or_else(|| ring_label(host.address), |node| node.name.clone());
        Node {
            vhost_count: host.vhost_count,
            tag: host.tag.clone(),
            up: host.up,
            ..Node::new(name, host.address)
        }
    };
    let nodes: Vec<Node> = snapshot.hosts.iter().map(node).collect();
    let live: BTreeSet<_> = nodes.iter().map(place).collect();
    for node in named.iter().filter(|node| !live.contains(&place(node))) {
        notes.push(format!(
            "{} of {MAIL_SERVERS}: the Director does not have it any more; add it if it shall come back",
            described(node)
        ));
    }
    for node in &nodes {
        if !named.is_empty() && !of_settings.contains_key(&place(node)) {
            notes.push(format!(
                "that {MAIL_SERVERS} does not have {}: the Director does, and so it is taken",
                described(node)
            ));
        }
        if node.vhost_count != DEFAULT_VHOST_COUNT {
            notes.push(format!(
                "that {MAIL_SERVERS} gives {} {DEFAULT_VHOST_COUNT} vhosts: the Director has it with {}, which is taken",
                described(node),
                node.vhost_count
            ));
        }
    }
    nodes
}

/// What tells hosts apart.
fn place(node: &Node) -> (IpAddr, &str) {
    (node.address, &node.tag)
}

/// The configuration has a host once. Of one that is there twice, the ring has the points of
/// either that is up, which are the same ones; by the modulo its share doubles.
fn distinct(nodes: Vec<Node>, strategy: Strategy) -> Vec<Node> {
    let mut places = BTreeMap::new();
    let mut kept: Vec<Node> = Vec::new();
    for node in nodes {
        let place = *places
            .entry((node.address, node.tag.clone()))
            .or_insert(kept.len());
        match kept.get_mut(place) {
            Some(other) if strategy == Strategy::Modulo && other.up && node.up => {
                other.vhost_count = other.vhost_count.saturating_add(node.vhost_count);
            }
            Some(other) if (other.up, other.vhost_count) < (node.up, node.vhost_count) => *other = node,
            Some(_) => {}
            None => kept.push(node),
        }
    }
    kept
}

/// What passdbs are seen to give, in whatever section, and what of it is not taken over.
fn passdbs<'s>(section: &'s Section, tags: &mut BTreeSet<&'s str>, notes: &mut Vec<String>) {
    for inner in &section.sections {
        passdbs(inner, tags, notes);
        if inner.kind != "passdb" {
            continue;
        }
        let driver = inner.get("driver").unwrap_or_default();
        let mut note = |what: &str, instead: &str| {
            let note = format!(
                "what the passdb {} gives as {what}: {instead}",
                driver.escape_debug()
            );
            if !notes.contains(&note) {
                notes.push(note);
            }
        };
        let fields = ["args", "default_fields", "override_fields"];
        let fields = fields
            .iter()
            .filter_map(|key| inner.get(key))
            .flat_map(|fields| fields.split(' '));
        let fields: Vec<_> = fields.filter_map(|field| field.split_once('=')).collect();
        // Of master passdbs and those that refuse, only the next one's word counts.
        let counts = ["master", "deny"].map(|key| inner.get(key).unwrap_or("no") == "no") == [true; 2];
        if counts
            && OPEN_DRIVERS.contains(&driver)
            && fields.iter().all(|(field, _)| *field != "director_tag")
        {
            tags.insert("");
        }
        for (field, given) in fields {
            match field {
                "director_tag" if !given.contains('%') => _ = tags.insert(given),
                "director_tag" => note(
                    "director_tag",
                    "there is one tag for all; give each tag a configuration of its own",
                ),
                "user" => note("user", "let auth_username_format leave the same names"),
                "host" => note(
                    "host",
                    "these users pass by the Director; leave them to that passdb",
                ),
                _ => {}
            }
        }
        if !OPEN_DRIVERS.contains(&driver) {
            note(
                "user, director_tag or host",
                "it is not among the settings; look whether it does, and what \"mailaffinity agreement\" says",
            );
        }
    }
}

/// The tag of lookups that name none.
fn one_tag<'s>(tags: &BTreeSet<&'s str>, nodes: &[Node], notes: &mut Vec<String>) -> Option<&'s str> {
    let has = |tag: &str| nodes.iter().any(|node| node.tag == tag);
    match Vec::from_iter(tags)[..] {
        [] | [&""] if has("") => {}
        [&tag] if has(tag) => return Some(tag),
        _ => {
            let all = BTreeSet::from_iter(nodes.iter().map(|node| node.tag.as_str()));
            let all: Vec<String> = all
                .iter()
                .map(|tag| format!("\"{}\"", tag.escape_debug()))
                .collect();
            notes.push(format!(
                "which of the tags {} users have: set tag to it, in a configuration for each",
                all.join(", ")
            ));
        }
    }
    None
}

/// Sections with values of their own for what is taken over.
fn other_values(section: &Section, around: &str, notes: &mut Vec<String>) {
    for inner in section.sections.iter().filter(|inner| inner.kind != "plugin") {
        let name = [around, &inner.kind, &inner.name].map(str::trim).join(" ");
        let name = name.trim().to_owned();
        for (key, value) in inner
            .settings
            .iter()
            .filter(|(key, _)| TAKEN.contains(&key.as_str()))
        {
            notes.push(format!(
                "{key} = {} in {}: there is one for all; let all protocols have the same",
                value.escape_debug(),
                name.escape_debug()
            ));
        }
        other_values(inner, &name, notes);
    }
}

/// What the configuration cannot say of a live Director.
fn left_to_node_state(state: &NodeState) -> Option<String> {
    let down = state.marks().count();
    let moved: usize = state.nodes.values().map(|entry| entry.moved.len()).sum();
    (down > 0 || moved > 0).then(|| {
        format!(
            "that hosts are down ({down}), and users elsewhere than the ring has them ({moved}): this is for the node \
             state; \"mailaffinity from-director --node-state\" prints it, and \"mailaffinity update\" follows the Director \
             ([checks], director)"
        )
    })
}

/// The names of nodes, each of them once: of several with the name of the settings, as where
/// it resolves to several addresses, each has its address; and in several tags the tag too.
fn names(nodes: &[Node]) -> Vec<String> {
    let (mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for node in nodes {
        *names.entry(node.name.as_str()).or_insert(0) += 1;
        *addresses.entry(node.address).or_insert(0) += 1;
    }
    let name = |node: &Node| {
        let address = ring_label(node.address);
        if names.get(node.name.as_str()) == Some(&1) {
            node.name.clone()
        } else if addresses.get(&node.address) == Some(&1) {
            address
        } else {
            format!("{address}@{}", node.tag)
        }
    };
    nodes.iter().map(name).collect()
}

fn node_table(node: &Node, name: &str) -> String {
    let address = ring_label(node.address);
    let mut table = format!(
        "\n[[node]]\nname = {}\naddress = {}\n",
        Value::from(name),
        Value::from(address.as_str())
    );
    if node.vhost_count != DEFAULT_VHOST_COUNT {
        table += &format!("vhost_count = {}\n", node.vhost_count);
    }
    if !node.tag.is_empty() {
        table += &format!("tag = {}\n", Value::from(node.tag.as_str()));
    }
    if node.name == name && name != address && check_host(name).is_ok() {
        table += &format!("host = {}\n", Value::from(name));
    }
    table
}

fn described(node: &Node) -> String {
    let address = ring_label(node.address);
    let at = if node.tag.is_empty() { "" } else { "@" };
    let name = match node.name == address {
        true => address,
        false => format!("{} ({address})", node.name),
    };
    format!("{name}{at}{}", node.tag).escape_debug().to_string()
}

/// Where all this is from, and what is not taken over.
fn head(settings: &Doveconf, live: Option<Live<'_>>, notes: &[String]) -> String {
    let version = settings
        .version
        .as_deref()
        .map(|version| format!(" {}", version.escape_debug()));
    let mut head = format!(
        "# Of the settings of a Director of Dovecot{}",
        version.unwrap_or_default()
    );
    if let Some(live) = live {
        let socket = live.socket.display().to_string();
        head += &format!(
            ",\n# and of what it had at {} when it was asked at {:.0}",
            socket.escape_debug(),
            live.now
        );
    }
    head += ".\n";
    if !notes.is_empty() {
        head += "# Not taken over:\n";
    }
    for note in notes {
        head += &format!("# - {note}.\n");
    }
    head + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    const HEAD: &str = "# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf\n";

    fn resolve(name: &str) -> Result<Vec<IpAddr>, &'static str> {
        match name {
            "imap1.example.org" => Ok(vec![IpAddr::from([192, 0, 2, 7])]),
            "imap" => Ok(vec![IpAddr::from([192, 0, 2, 8]), IpAddr::from([192, 0, 2, 9])]),
            _ => Err("unknown host"),
        }
    }

    fn try_take(settings: &str, answers: Option<&str>) -> Result<Taken, String> {
        let settings = Doveconf::parse(settings.as_bytes()).unwrap();
        let snapshot = answers.map(|answers| Snapshot::read(answers.as_bytes()).unwrap());
        let live = snapshot.as_ref().map(|snapshot| Live {
            socket: Path::new("/run/dovecot/director-admin"),
            snapshot,
            now: Timestamp::UNIX_EPOCH,
        });
        take(&settings, live, resolve).map_err(|error| error.to_string())
    }

    /// The configuration without its head, and the notes there.
    fn taken(settings: &str, answers: Option<&str>) -> (String, Vec<String>) {
        let taken = try_take(settings, answers).unwrap_or_else(|error| panic!("{settings}: {error}"));
        let (head, body) = taken.configuration.split_once("\n\n").unwrap();
        let notes = head.lines().filter_map(|line| line.strip_prefix("# - "));
        (body.to_owned(), notes.map(str::to_owned).collect())
    }

    #[track_caller]
    fn key(settings: &str, key: &str, value: &str) {
        let settings = format!("{HEAD}director_mail_servers = 192.0.2.1\n{settings}");
        let body: toml::Table = taken(&settings, None).0.parse().unwrap();
        let found = body.get(key).map_or("", |value| value.as_str().unwrap());
        assert_eq!(found, value, "{settings}");
    }

    #[test]
    fn settings_become_keys() {
        key("", "strategy", "ring");
        key("director_consistent_hashing = no", "strategy", "ring");
        key("", "auth_username_format", "%Lu");
        key("auth_username_format = %Ln", "auth_username_format", "%Ln");
        key("auth_username_format =", "auth_username_format", "");
        key("director_username_hash = \"%u #\"", "username_hash", "%u #");
        key("", "auth_master_user_separator", "");
        key(
            "auth_master_user_separator = *",
            "auth_master_user_separator",
            "*",
        );
        key(
            "auth_master_user_separator = $",
            "auth_master_user_separator",
            "$",
        );
        key(
            "auth_master_user_separator = %*",
            "auth_master_user_separator",
            "%",
        );
        let realm = "auth_default_realm = A.Example\nauth_username_format = ";
        let format = "auth_username_format";
        key(&format!("{realm}%Lu"), format, "%{if;%d;eq;;%Lu@a.example;%Lu}");
        key(&format!("{realm}%u"), format, "%{if;%d;eq;;%u@A.Example;%u}");
        key(&format!("{realm}%Ln"), format, "%Ln");
        let passdb = "passdb {\n  driver = static\n  args = proxy=y director_tag=far\n}\n";
        key(
            &format!("director_mail_servers = 192.0.2.1@far\n{passdb}"),
            "tag",
            "far",
        );
        key(passdb, "tag", "");
        // One passdb gives a tag and the next one none.
        let both = format!(
            "{HEAD}director_mail_servers = 192.0.2.1@far 192.0.2.2\n{passdb}passdb {{\n driver = static\n}}\n"
        );
        let (body, notes) = taken(&both, None);
        assert!(!body.split("[[node]]").next().unwrap().contains("tag"), "{body}");
        let asked = |note: &String| note.starts_with("which of the tags \"\", \"far\" users have");
        assert!(notes.iter().any(asked), "{notes:?}");
    }

    /// Dovecot 2.2 has a modulo unless it was told otherwise.
    #[test]
    fn settings_of_2_2() {
        let settings = "director_mail_servers = 192.0.2.1 192.0.2.2 192.0.2.1\n";
        let head = "# 2.2.36 (1f10bfa63): x\n";
        let body = taken(&format!("{head}{settings}"), None).0;
        assert!(
            body.contains("strategy = \"modulo\"") && body.contains("vhost_count = 200"),
            "{body}"
        );
        let body = taken(
            &format!("{head}{settings}director_consistent_hashing = yes\n"),
            None,
        )
        .0;
        assert!(
            body.contains("strategy = \"ring\"") && !body.contains("vhost_count"),
            "{body}"
        );
        let (body, notes) = taken(settings, None);
        assert!(body.contains("strategy = \"ring\""), "{body}");
        assert!(notes[0].contains("of which Dovecot they are"), "{notes:?}");
        let error = try_take(&format!("# 2.1.17 (x): y\n{settings}"), None).unwrap_err();
        assert!(error.contains("Dovecot 2.1.17"), "{error}");
    }

    #[test]
    fn nodes_have_the_names_of_the_settings() {
        let settings = format!(
            "{HEAD}director_mail_servers = imap1.example.org imap 192.0.2.1@far 192.0.2.1 ::1-::2@far\n"
        );
        let (body, _) = taken(&settings, None);
        let (_, nodes) = body.split_once("\n\n").unwrap();
        assert_eq!(
            nodes,
            "[[node]]\nname = \"imap1.example.org\"\naddress = \"192.0.2.7\"\nhost = \"imap1.example.org\"\n\n\
             [[node]]\nname = \"192.0.2.8\"\naddress = \"192.0.2.8\"\n\n\
             [[node]]\nname = \"192.0.2.9\"\naddress = \"192.0.2.9\"\n\n\
             [[node]]\nname = \"192.0.2.1@far\"\naddress = \"192.0.2.1\"\ntag = \"far\"\n\n\
             [[node]]\nname = \"192.0.2.1@\"\naddress = \"192.0.2.1\"\n\n\
             [[node]]\nname = \"::1\"\naddress = \"::1\"\ntag = \"far\"\n\n\
             [[node]]\nname = \"::2\"\naddress = \"::2\"\ntag = \"far\"\n"
        );
    }

    #[test]
    fn the_live_director_wins_and_says_so() {
        let settings =
            format!("{HEAD}director_mail_servers = imap1.example.org 192.0.2.1 gone.example.org\n");
        let answers =
            "192.0.2.7\t50\t0\t\tD\t1\n192.0.2.7\t70\t0\t\tU\t1\n192.0.2.5\t100\t0\teast\tD\t1\n\n\n";
        // Since a name does not resolve, none has one.
        let (body, notes) = taken(&settings, Some(answers));
        assert!(!body.contains("imap1"), "{body}");
        assert!(
            notes[0].contains("\"gone.example.org\": unknown host: nodes are named"),
            "{notes:?}"
        );

        let settings = settings.replace(" gone.example.org", "");
        let (body, notes) = taken(&settings, Some(answers));
        let (_, nodes) = body.split_once("\n\n").unwrap();
        assert_eq!(
            nodes,
            "[[node]]\nname = \"imap1.example.org\"\naddress = \"192.0.2.7\"\nvhost_count = 70\n\
             host = \"imap1.example.org\"\n\n\
             [[node]]\nname = \"192.0.2.5\"\naddress = \"192.0.2.5\"\ntag = \"east\"\n"
        );
        for (note, words) in notes.iter().zip([
            "192.0.2.1 of director_mail_servers: the Director does not have it any more",
            "gives imap1.example.org (192.0.2.7) 100 vhosts: the Director has it with 50",
            "gives imap1.example.org (192.0.2.7) 100 vhosts: the Director has it with 70",
            "does not have 192.0.2.5@east: the Director does",
            "hosts are down (1), and users elsewhere than the ring has them (0)",
        ]) {
            assert!(note.contains(words), "{note}");
        }
        let state = try_take(&settings, Some(answers)).unwrap().node_state;
        assert!(state.is_down("192.0.2.5") && state.nodes.len() == 1, "{state:?}");
    }

    #[test]
    fn what_is_not_taken_over_is_said() {
        let settings = format!(
            "{HEAD}director_mail_servers = 192.0.2.1@a 192.0.2.2@b\ndirector_servers = 192.0.2.9\nlmtp_proxy = no\n\
             auth_default_realm = a;b\nauth_username_translation = \"#%\"\n\
             passdb {{\n driver = static\n args = user=%n director_tag=%d host=192.0.2.1\n}}\n\
             passdb {{\n driver = sql\n}}\n\
             protocol lmtp {{\n director_username_hash = %n\n passdb {{\n driver = sql\n }}\n}}\n\
             plugin {{\n director_username_hash = %n\n}}\n"
        );
        let (_, notes) = taken(&settings, None);
        for words in [
            "the Director itself was not asked",
            "the passdb static gives as user:",
            "the passdb static gives as director_tag:",
            "the passdb static gives as host:",
            "the passdb sql gives as user, director_tag or host:",
            "which of the tags \"a\", \"b\" users have",
            "director_servers = 192.0.2.9: Directors need not",
            "auth_username_translation = #%:",
            "auth_default_realm = a;b: ",
            "director_username_hash = %n in protocol lmtp: there is one for all",
        ] {
            assert_eq!(
                notes.iter().filter(|note| note.contains(words)).count(),
                1,
                "{words}: {notes:#?}"
            );
        }
        assert_eq!(notes.len(), 10, "{notes:#?}");
    }

    #[test]
    fn what_would_give_users_other_nodes_is_refused() {
        for (settings, words) in [
            (
                "dovecot_config_version = 2.4.1",
                "of Dovecot 2.4, which has no Director",
            ),
            ("", "there is no director_mail_servers"),
            ("director_mail_servers = nosuch", "\"nosuch\": unknown host"),
            (
                "director_mail_servers = 10.0.0.2-10.0.0.1",
                "the range goes backwards",
            ),
            ("director_mail_servers = $servers", "the value stands elsewhere"),
            (
                "director_mail_servers = </etc/servers",
                "the value stands elsewhere",
            ),
            (
                "director_mail_servers = 10.0.0.1\ndirector_username_hash = %{nosuch}",
                "%{nosuch}: ",
            ),
            (
                "director_mail_servers = 10.0.0.1\nauth_username_format = %r",
                "auth_username_format = %r: ",
            ),
            (
                "director_mail_servers = 10.0.0.1\nauth_master_user_separator = \u{e9}",
                "one ASCII character",
            ),
            (
                "director_mail_servers = 10.0.0.1\ndirector_username_hash = %u\u{fffd}",
                "not UTF-8",
            ),
            (
                "director_mail_servers = 10.0.0.1\ndirector_username_hash = \"%u pass=#hidden_use-P_to_show#\"",
                "doveconf -nP",
            ),
            ("director_mail_servers = ::0-::ffff", "more than 1048576 vhosts"),
        ] {
            let error = try_take(&format!("{HEAD}{settings}\n"), None).expect_err(settings);
            assert!(error.contains(words), "{settings}: {error}");
        }
    }

    proptest! {
        /// Whatever stands in them, settings are refused or make a configuration that says
        /// the same, and no value of theirs gets to be a key.
        #[test]
        fn any_settings_are_refused_or_load(
            values in prop::collection::vec("[^\0]{0,12}", TAKEN.len()),
            servers in "(10\\.0\\.0\\.[1-9]|imap|imap1\\.example\\.org)(@[^\0 ]{0,3})?( 10\\.0\\.1\\.1)?",
            hash in "%L?[und]",
            version: bool,
            live in any::<bool>(),
        ) {
            let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], "");
            let mut settings = if version { HEAD.to_owned() } else { String::new() };
            for (key, value) in TAKEN.iter().zip(&values) {
                settings += &format!("{key} = \"{}\"\n", quoted(value));
                settings += &format!("protocol \"{}\" {{\n{key} = x\n}}\n", quoted(value).replace('"', ""));
            }
            settings += &format!("{MAIL_SERVERS} = \"{}\"\n{USERNAME_HASH} = {hash}\n", quoted(&servers));
            let answers = live.then_some("192.0.2.7\t5\t0\t\tU\t1\n\n5\t5\t192.0.2.7\n\n");
            if let Ok(taken) = try_take(&settings, answers) {
                let config = Config::parse(&taken.configuration, Path::new("x")).unwrap();
                prop_assert_eq!(config.username_hash.format(), hash.as_bytes());
                prop_assert_eq!(config.nodes.iter().any(|node| node.node.vhost_count == 5), live);
            }
        }
    }
}
