//! The Director, by its `director-admin` socket.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;

use super::login::{self, USUAL_FORMATS};
use super::{Answer, Opinion, Question, described};
use crate::director::{self, Lookup, Snapshot, lookup_line};
use mailaffinity::config::Check;
use mailaffinity::mapping::{Cluster, Node, Strategy, UsernameHash, ring_label};

const PART: &str = "Director";

pub(crate) fn ask(question: &Question<'_>) -> Opinion {
    let config = question.config;
    let checks = config.checks.as_ref().map(|checks| &checks.check);
    let socket = match (&config.agreement.director, checks) {
        (Some(socket), _) | (None, Some(Check::Director(socket))) => socket,
        _ if config.agreement.login.is_some() => {
            return Opinion::failed(
                PART,
                "a test login needs the key director in [agreement] or [checks]",
            );
        }
        _ => return Opinion::absent(PART, "neither [agreement] nor [checks] has a director"),
    };
    try_ask(question, socket).unwrap_or_else(|error| Opinion::failed(PART, error))
}

fn try_ask(question: &Question<'_>, socket: &Path) -> Result<Opinion, director::DirectorError> {
    let timeout = *question.config.agreement.timeout;
    let snapshot = director::snapshot(socket, timeout)?;
    let users = question.users.iter();
    let (users, lines): (Vec<&[u8]>, Vec<Vec<u8>>) = users
        .filter_map(|user| Some((user.as_slice(), line(question, user)?)))
        .unzip();
    let lookups = director::lookups(socket, &lines, timeout)?;

    let not_asked = |_, user: &[u8]| match line(question, user) {
        Some(_) => None,
        None => Some("the Director takes no such name"),
    };
    let mut opinion = question.opinion(PART, not_asked, &lookups, |_, lookup| answer(question, *lookup));
    opinion.problems = host_differences(question, &snapshot);
    opinion.explain(question, || cause(question, &users, &lookups));
    opinion.problems.extend(other_names(question, &snapshot));
    opinion.problems.extend(other_tags(question, &snapshot));
    let login = question.config.agreement.login.as_ref();
    let problem = login.and_then(|login| login::problem(question, login, socket));
    opinion.problems.extend(problem);
    Ok(opinion)
}

/// Whether more users are in the table by the names that another format leaves than by
/// those of the configuration: `USER-LOOKUP` is told a name, and authentication makes one.
fn other_names(question: &Question<'_>, snapshot: &Snapshot) -> Option<String> {
    let config = question.config;
    let in_force = snapshot.all_users_in_force(Timestamp::now());
    let table: HashSet<u32> = in_force.into_keys().map(|(_, hash)| hash).collect();
    let count = |hash: &dyn Fn(&[u8]) -> Option<u32>| {
        let hashes = question.typed.iter().filter_map(|user| hash(user));
        let hashes: HashSet<u32> = hashes.collect();
        hashes.intersection(&table).count()
    };
    let own = count(&|user| config.hash_of(user).ok());
    USUAL_FORMATS.iter().find_map(|format| {
        let parsed = UsernameHash::parse(format).ok()?;
        let users = count(&|user| config.username_hash.hash(&parsed.expand(user)).ok());
        (users > own).then(|| {
            format!(
                "the Director's table has {users} of these users as by auth_username_format = {format}, and {own} as \
                 by the configuration's auth_username_format = \"{}\"; compare it (doveconf auth_username_format)",
                config.auth_username_format.format().escape_ascii()
            )
        })
    })
}

/// Users whom the Director has with another tag: `USER-LOOKUP` is told the tag of the
/// configuration, and a login that of the passdb.
fn other_tags(question: &Question<'_>, snapshot: &Snapshot) -> Option<String> {
    let in_force = snapshot.all_users_in_force(Timestamp::now());
    let own = &question.config.tag;
    let others: HashMap<u32, (&str, IpAddr)> = in_force
        .into_iter()
        .filter(|((tag, _), _)| tag != own)
        .map(|((tag, hash), address)| (hash, (tag, address)))
        .collect();
    let hash = |user: &Vec<u8>| question.cluster.username_hash().hash(user);
    let mut users = question
        .users
        .iter()
        .filter_map(|user| Some((user, others.get(&hash(user).ok()?)?)));
    let (user, (tag, address)) = users.next()?;
    Some(format!(
        "the Director has {} of these users with another tag than \"{}\", such as {} on {} with the tag \"{}\": does \
         their passdb give director_tag?",
        users.count().saturating_add(1),
        own.escape_debug(),
        user.escape_ascii(),
        ring_label(*address),
        tag.escape_debug()
    ))
}

/// A name of digits is asked for by its hash: the Director would take it for one.
fn line(question: &Question<'_>, user: &[u8]) -> Option<Vec<u8>> {
    let tag = &question.config.tag;
    if user.iter().all(u8::is_ascii_digit) && !user.is_empty() {
        let hash = question.cluster.username_hash().hash(user).ok()?;
        return lookup_line(hash.to_string().as_bytes(), tag);
    }
    lookup_line(user, tag)
}

fn answer(question: &Question<'_>, lookup: Lookup) -> Answer {
    match lookup {
        Lookup::Host { address, .. } => match question.node_at(address) {
            Some(node) => Answer::Node(node),
            None => Answer::Other(ring_label(address)),
        },
        Lookup::NoHost => Answer::Other("no host".into()),
        Lookup::TryAgain => Answer::Other("no hash".into()),
    }
}

/// What the Director's list of hosts has otherwise than configuration and node state.
fn host_differences(question: &Question<'_>, snapshot: &Snapshot) -> Vec<String> {
    let mut problems = Vec::new();
    let nodes = question.config.nodes.iter().zip(question.cluster.nodes());
    let (hosts, unknown) = snapshot.match_hosts(question.cluster.nodes().iter());
    for ((config, node), host) in nodes.zip(hosts) {
        let name = described(config);
        let Some(host) = host else {
            if node.up && node.vhost_count > 0 {
                problems.push(format!(
                    "the Director has no host {name}: is it missing in director_mail_servers, or was it removed?"
                ));
            }
            continue;
        };
        if host.tag != node.tag {
            problems.push(format!(
                "{name} has the tag \"{}\" in the Director, and \"{}\" in the configuration",
                host.tag.escape_debug(),
                node.tag.escape_debug()
            ));
        }
        if host.up && host.vhost_count > 0 && node.up && host.vhost_count != node.vhost_count {
            problems.push(format!(
                "{name} has {} vhosts in the Director, and vhost_count {} in the configuration",
                host.vhost_count, node.vhost_count
            ));
        }
        match (host.up && host.vhost_count > 0, node.up && node.vhost_count > 0) {
            (true, false) => problems.push(format!(
                "{name} is up in the Director, and down in {}: run \"mailaffinity update\" if [checks] ask the \
                 Director, else \"mailaffinity up {}\"",
                question.config.node_state.display(),
                node.name
            )),
            (false, true) => problems.push(format!(
                "{name} is down in the Director, and up in {}: run \"mailaffinity update\" if [checks] ask the \
                 Director, else \"mailaffinity down {}\"",
                question.config.node_state.display(),
                node.name
            )),
            _ => {}
        }
    }
    for host in unknown {
        if host.vhost_count > 0 && host.tag == question.config.tag {
            problems.push(format!(
                "the Director's host {} is not in the configuration: describe it in a [[node]]",
                ring_label(host.address)
            ));
        }
    }
    problems
}

/// Why answers differ although the hosts do not.
fn cause(question: &Question<'_>, users: &[&[u8]], lookups: &[Lookup]) -> String {
    if lookups.contains(&Lookup::TryAgain) {
        return "the Director cannot hash some names: its director_username_hash has a variable that it does not \
                know; its log says which"
            .into();
    }
    let cluster = &question.cluster;
    let own = cluster.username_hash().format().escape_ascii().to_string();
    let ring: Vec<(&[u8], IpAddr)> = users
        .iter()
        .zip(lookups)
        .filter_map(|(user, lookup)| match lookup {
            Lookup::Host {
                address,
                in_table: false,
            } => Some((*user, *address)),
            _ => None,
        })
        .collect();
    let explains = |strategy: Strategy, hash: UsernameHash| {
        Cluster::new(strategy, hash, cluster.nodes().to_vec()).is_ok_and(|cluster| {
            let host = |user: &[u8]| {
                cluster
                    .node_of(user, &question.config.tag)
                    .map(|node: &Node| node.address)
            };
            ring.iter().all(|(user, address)| host(user) == Some(*address))
        })
    };
    if explains(cluster.strategy(), cluster.username_hash().clone()) {
        let follow = match question.config.checks.as_ref().map(|checks| &checks.check) {
            Some(Check::Director(_)) => "run \"mailaffinity update\", which follows it",
            _ => "[checks] with director = SOCKET follow it",
        };
        return format!(
            "the Director's table has users on other nodes than its ring, since they were moved there or logged in \
             before a node changed (doveadm director status USER); {follow}"
        );
    }
    for strategy in [cluster.strategy(), other(cluster.strategy())] {
        for format in USUAL_FORMATS {
            let Ok(hash) = UsernameHash::parse(format) else {
                continue;
            };
            if !explains(strategy, hash) {
                continue;
            }
            return match strategy == cluster.strategy() {
                true => format!(
                    "the Director answers as by director_username_hash = {format}, while the configuration has \
                     username_hash = \"{own}\""
                ),
                false => format!(
                    "the Director answers as by strategy = \"{strategy}\" with username_hash = \"{format}\", \
                     which the configuration does not have"
                ),
            };
        }
    }
    format!(
        "the hosts are the same: compare director_username_hash (doveconf director_username_hash) with the \
         configuration's username_hash = \"{own}\""
    )
}

fn other(strategy: Strategy) -> Strategy {
    match strategy {
        Strategy::Ring => Strategy::Modulo,
        Strategy::Modulo => Strategy::Ring,
    }
}

#[cfg(test)]
mod tests {
    use mailaffinity::config::Config;
    use mailaffinity::node_state::NodeState;

    use std::cell::OnceCell;

    use super::*;

    #[test]
    fn two_nodes_of_one_address_are_told_apart_by_their_tags() {
        let text = "node_state = \"/nonexistent/nodes.toml\"\n\
            [[node]]\nname = \"a\"\naddress = \"192.0.2.1\"\n\
            [[node]]\nname = \"b\"\naddress = \"192.0.2.1\"\ntag = \"east\"\n";
        let config = Config::parse(text, Path::new("x")).unwrap();
        let state = NodeState::default();
        let own_domains = OnceCell::new();
        let question =
            Question::new(Path::new("x"), &config, &state, &[], &[], |_| {}, &own_domains).unwrap();
        let differences = |answers: &str| {
            let snapshot = Snapshot::read(answers.as_bytes()).unwrap();
            host_differences(&question, &snapshot)
        };
        let same = "192.0.2.1\t100\t0\t\tU\t0\n192.0.2.1\t100\t0\teast\tU\t0\n\n\n";
        assert_eq!(differences(same), [""; 0]);
        let other = differences("192.0.2.1\t100\t0\t\tU\t0\n192.0.2.1\t100\t0\twest\tU\t0\n\n\n");
        assert_eq!(
            other,
            ["b (192.0.2.1) has the tag \"west\" in the Director, and \"east\" in the configuration"]
        );
    }
}
