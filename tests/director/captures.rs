//! Answers captured from running Directors (`tests/director/`), one by one.

use mailaffinity::mapping::{
    Cluster, Node, Strategy, UsernameHash, parse_address, parse_mail_servers, resolve_nodes, ring_label,
};
use support::captures::LOOKUPS;

/// A cluster state and what the Director answered in it.
struct Capture {
    name: String,
    headers: Vec<(String, String)>,
    /// Key (a user or a hash), tag, answer.
    lookups: Vec<(Vec<u8>, String, String)>,
}

impl Capture {
    fn parse(name: String, text: &str) -> Capture {
        let (headers, lookups): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("# "));
        Capture {
            name,
            headers: headers
                .iter()
                .map(|line| {
                    let (key, value) = line[2..].split_once(" =").unwrap();
                    (
                        key.to_owned(),
                        value.strip_prefix(' ').unwrap_or(value).to_owned(),
                    )
                })
                .collect(),
            lookups: lookups
                .iter()
                .map(|line| {
                    let fields: Vec<&str> = line.split('\t').collect();
                    let [user, tag, answer] = fields[..] else {
                        panic!("{line:?}")
                    };
                    let tag = String::from_utf8(unescape(tag)).unwrap();
                    (unescape(user), tag, answer.to_owned())
                })
                .collect(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn nodes(&self) -> Vec<Node> {
        self.headers
            .iter()
            .filter(|(key, _)| key == "host")
            .map(|(_, value)| {
                let fields: Vec<&str> = value.split(' ').collect();
                let [address, vhosts, tag, state] = fields[..] else {
                    panic!("{value:?}")
                };
                Node {
                    vhost_count: vhosts.parse().unwrap(),
                    tag: if tag == "-" { String::new() } else { tag.to_owned() },
                    up: state == "up",
                    ..Node::new(address, parse_address(address).unwrap())
                }
            })
            .collect()
    }

    fn cluster(&self, username_hash: UsernameHash) -> Option<Cluster> {
        let strategy = match self.header("strategy").unwrap() {
            "ring" => Strategy::Ring,
            "direct" => Strategy::Modulo,
            _ => return None,
        };
        match self.nodes() {
            // All hosts removed: the Director has no answer, and neither have we.
            nodes if nodes.is_empty() => None,
            nodes => Some(Cluster::new(strategy, username_hash, nodes).unwrap()),
        }
    }

    /// Checks every lookup and returns how many there were.
    fn check(&self) -> usize {
        let username_hash = match UsernameHash::parse(self.header("username_hash").unwrap()) {
            Ok(username_hash) => username_hash,
            Err(error) => {
                for (user, _, answer) in &self.lookups {
                    assert_eq!(
                        answer,
                        "!TRYAGAIN",
                        "{}: {error}: {}",
                        self.name,
                        user.escape_ascii()
                    );
                }
                return self.lookups.len();
            }
        };
        let cluster = self.cluster(username_hash.clone());
        for (user, tag, answer) in &self.lookups {
            let ours = if self.header("value") == Some("hash") {
                username_hash.hash(user).unwrap().to_string()
            } else {
                let chosen = cluster.as_ref().and_then(|cluster| {
                    let index = if self.header("key") == Some("hash") {
                        let hash = std::str::from_utf8(user).unwrap().parse().unwrap();
                        cluster.index_of_hash(hash, tag)
                    } else {
                        cluster.index_of(user, tag)
                    };
                    index.map(|index| ring_label(cluster.nodes()[index].address))
                });
                chosen.unwrap_or_else(|| "-".to_owned())
            };
            assert_eq!(
                &ours,
                answer,
                "{}: user {} tag {tag:?}",
                self.name,
                user.escape_ascii()
            );
        }
        self.lookups.len()
    }
}

fn unescape(field: &str) -> Vec<u8> {
    let mut bytes = field.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            out.push(byte);
        }
    }
    out
}

fn captures() -> Vec<Capture> {
    let captures = support::captures::captures().into_iter();
    captures.map(|(name, text)| Capture::parse(name, &text)).collect()
}

#[test]
fn every_captured_answer_agrees() {
    let captures = captures();
    let lookups: usize = captures.iter().map(Capture::check).sum();
    assert_eq!(captures.len(), 130);
    assert_eq!(lookups, LOOKUPS, "lookups in tests/director");
}

#[test]
fn captures_cover_what_they_should() {
    let captures = captures();
    let with = |key: &str, value: &str| captures.iter().filter(|c| c.header(key) == Some(value)).count();
    assert!(with("strategy", "ring") > 100);
    assert!(with("strategy", "direct") >= 7);
    assert!(with("key", "hash") >= 4);
    assert!(with("value", "hash") >= 4);
    assert!(captures.iter().any(|c| c.name.contains("ties")));
    assert!(
        captures
            .iter()
            .any(|c| c.lookups.iter().any(|(_, _, answer)| answer == "!TRYAGAIN"))
    );
}

/// `mail_servers` gives the hosts that the Director then had, where no command
/// changed them.
#[test]
fn mail_servers_are_read_as_the_director_reads_them() {
    let mut checked = 0;
    for capture in captures()
        .iter()
        .filter(|capture| capture.header("admin").is_none())
    {
        let servers = parse_mail_servers(capture.header("mail_servers").unwrap_or_default());
        let Ok(servers) = servers else { continue };
        let key = |nodes: Vec<Node>| {
            let mut hosts: Vec<_> = nodes
                .into_iter()
                .map(|n| (n.address, n.vhost_count, n.tag))
                .collect();
            hosts.sort();
            hosts
        };
        let ours = resolve_nodes(&servers, |name| Err::<Vec<_>, _>(format!("{name} is a name"))).unwrap();
        assert_eq!(key(ours), key(capture.nodes()), "{}", capture.name);
        checked += 1;
    }
    assert!(checked > 100);
}
