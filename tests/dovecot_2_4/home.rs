//! Users come in anywhere, and land on the node that a live Director of Dovecot 2.3 names,
//! which has the same hosts. Where they landed is what the nodes log.
//!
//! Each user comes by each protocol, from one entry to the next: through nodes, which know
//! each other (mixed mode), and through proxies. With `MAILAFFINITY_TEST_PRODUCT=1`, each
//! comes by each protocol through each entry.

use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use support::clients::{Protocol, deliver_to, log_in};
use support::configuration::{Configuration, Node};
use support::director::{Director, Lookup, Settings};
use support::machines::{Machine, NETWORK, Network, PASSWORD, address};
use support::namespace;

const USERS: usize = 1000;
/// Who log in at once: more than there are processors, which wait for each other anyway.
const CLIENTS: usize = 6;
/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where local mail servers deliver on a node: lmtp-home, which a test cannot reach by a
/// socket of another machine's file system.
const LMTP_HOME_PORT: u16 = 2424;
const LMTP_PORT: u16 = 24;

/// What an administrator adds on each machine, as doc/dovecot.md has it, for these users.
const SITE: &str = "
auth_master_user_separator = *
passdb masters {
  driver = static
  passdb_static_password = boss
  master = yes
  result_success = continue
}
passdb static {
  result_success = continue-ok
}
login_trusted_networks = 10.24.0.0/24
protocol lmtp {
  auth_username_format = %{user | lower}
}
";

/// Not in mailaffinity's file, or nothing of a test may depend on timing.
const PATIENCE: &str = "login_proxy_timeout = 60s\n";

/// What sends users to another pool than that of the configuration.
const FAR: &str = "
passdb mailaffinity {
  lua_settings {
    tag = far
  }
}
";

/// A way to come in: by the protocol's name in a log, on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    LogIn(Protocol),
    Deliver,
}

const WAYS: [Way; 5] = [
    Way::LogIn(Protocol::Imap),
    Way::LogIn(Protocol::Pop3),
    Way::LogIn(Protocol::ManageSieve),
    Way::LogIn(Protocol::Submission),
    Way::Deliver,
];

/// Where users come in.
struct Entry {
    address: IpAddr,
    lmtp_port: u16,
    /// Whose pool it sends users to.
    tag: &'static str,
}

/// A user, as the user writes the name.
struct User {
    name: String,
    /// Somebody else logs in to the mailbox.
    by_master: bool,
}

impl User {
    fn numbered(number: usize) -> User {
        let name = match number % 4 {
            0 => format!("user{number}"),
            1 => format!("User{number}"),
            2 => format!("user{number}@example.org"),
            _ => format!("USER{number}@Example.ORG"),
        };
        User {
            name,
            by_master: number.is_multiple_of(5),
        }
    }

    /// What authentication leaves of the name, and nodes log.
    fn authenticated(&self) -> String {
        self.name.to_lowercase()
    }

    fn come(&self, entry: &Entry, way: Way) {
        let come = match way {
            Way::Deliver => {
                let server = (entry.address, entry.lmtp_port).into();
                // As mail servers do it: a process that a reload is about to end says so.
                let mut tries = (0..10).map(|_| deliver_to(server, &[&self.name]));
                let taken = tries.find(|result| {
                    !result
                        .as_ref()
                        .is_err_and(|error| error.to_string().starts_with("421 "))
                });
                taken.expect("a reload ends").map(|answers| {
                    assert!(answers[0].starts_with("250 "), "{}: {answers:?}", self.name);
                })
            }
            Way::LogIn(protocol) => match self.by_master {
                true => log_in(protocol, entry.address, &format!("{}*master", self.name), "boss"),
                false => log_in(protocol, entry.address, &self.name, PASSWORD),
            }
            .map(drop),
        };
        come.unwrap_or_else(|error| panic!("{} by {way:?} at {}: {error}", self.name, entry.address));
    }
}

/// Who came in how, by the nodes' logs since they were last read: the numbers of the nodes.
pub(crate) type Landed = BTreeMap<(String, Way), Vec<usize>>;

/// The nodes' logs, as far as they were read.
pub(crate) struct Logs<'m> {
    nodes: &'m [Machine],
    read: Vec<usize>,
}

impl<'m> Logs<'m> {
    pub(crate) fn of(nodes: &'m [Machine]) -> Logs<'m> {
        Logs {
            nodes,
            read: vec![0; nodes.len()],
        }
    }

    /// Waits until so many have come in.
    pub(crate) fn landed(&mut self, count: usize) -> Landed {
        let begun = Instant::now();
        loop {
            let logs: Vec<String> = self.nodes.iter().map(Machine::log).collect();
            let mut landed = Landed::new();
            for (index, (log, read)) in logs.iter().zip(&self.read).enumerate() {
                for who in log[*read..].lines().filter_map(landing) {
                    landed.entry(who).or_default().push(index);
                }
            }
            if landed.len() >= count || begun.elapsed() > DEADLINE {
                self.read = logs.iter().map(String::len).collect();
                return landed;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whom a line of a log lets in, and how.
fn landing(line: &str) -> Option<(String, Way)> {
    let between = |begin: &str, end: &str| Some(line.split_once(begin)?.1.split_once(end)?.0.to_owned());
    if line.contains(": saved mail to ") {
        return Some((between(" lmtp(", ")")?, Way::Deliver));
    }
    let user = between("-login: Info: Logged in: user=<", ">")?;
    let service = line.split_once("-login: ")?.0.rsplit(' ').next()?;
    let protocol = match service {
        "imap" => Protocol::Imap,
        "pop3" => Protocol::Pop3,
        "managesieve" => Protocol::ManageSieve,
        "submission" => Protocol::Submission,
        _ => return None,
    };
    Some((user, Way::LogIn(protocol)))
}

/// Lets all users come, and says which node each should and did land on, where they differ.
fn differences(
    users: &[User],
    entries: &[Entry],
    logs: &mut Logs<'_>,
    mut node_of: impl FnMut(&[(&User, &str)]) -> Vec<usize>,
) -> Vec<String> {
    let product = env::var_os("MAILAFFINITY_TEST_PRODUCT").is_some();
    let mut different = Vec::new();
    for round in 0..entries.len() {
        // In each round, a user comes by a way once at most: the log does not say through whom.
        let mut coming = Vec::new();
        for (number, user) in users.iter().enumerate() {
            for (way_number, way) in WAYS.into_iter().enumerate() {
                let turn = number + way_number;
                if product || round == 0 {
                    coming.push((user, way, &entries[(turn + round) % entries.len()]));
                }
            }
        }
        if coming.is_empty() {
            break;
        }
        thread::scope(|scope| {
            for begin in 0..CLIENTS {
                let mine = coming.iter().skip(begin).step_by(CLIENTS);
                scope.spawn(move || mine.for_each(|(user, way, entry)| user.come(entry, *way)));
            }
        });
        let landed = logs.landed(coming.len());
        let questions: Vec<_> = coming.iter().map(|(user, _, entry)| (*user, entry.tag)).collect();
        for ((user, way, entry), node) in coming.iter().zip(node_of(&questions)) {
            let found = landed.get(&(user.authenticated(), *way));
            if found != Some(&vec![node]) {
                let (name, from) = (&user.name, entry.address);
                different.push(format!("{name} by {way:?} at {from}: {node}, not {found:?}"));
            }
        }
    }
    different
}

/// The places in the list of nodes that a Director names.
fn by_director(director: &mut Director, questions: &[(&User, &str)]) -> Vec<usize> {
    let questions: Vec<_> = questions
        .iter()
        .map(|(user, tag)| (user.name.as_bytes(), *tag))
        .collect();
    let hosts = director.lookups(&questions).unwrap();
    let index = |host: Lookup| match host {
        Lookup::Host(ip) => (1..=3)
            .position(|number| address(number).to_string() == ip)
            .unwrap(),
        other => panic!("{other:?}"),
    };
    hosts.into_iter().map(index).collect()
}

#[test]
#[ignore = "as root"]
fn is_where_users_land_from_anywhere_as_root() {
    namespace::run_with_network("home::is_where_users_land_from_anywhere_as_root", || {
        let network = Network::new();
        let _relay = network.start_relay();
        let nodes = [1, 2, 3].map(|number| network.start(&format!("node{number}"), number));
        let proxies = [11, 12].map(|number| network.start(&format!("proxy{number}"), number));
        let users: Vec<User> = (0..USERS).map(User::numbered).collect();
        let mut logs = Logs::of(&nodes);

        let on_node = format!(
            "{SITE}!include /usr/share/mailaffinity/mailaffinity-node.conf\n{PATIENCE}
service lmtp-home {{
  inet_listener lmtp-home {{
    port = {LMTP_HOME_PORT}
  }}
}}
"
        );
        let on_proxy = format!("{SITE}!include /usr/share/mailaffinity/mailaffinity-proxy.conf\n{PATIENCE}");

        // Shares that differ. The name with its domain counts, whatever its case.
        let shares = [100, 40, 160];
        network.configure(Configuration::of((1..=3).map(|number| {
            Node::new(&format!("node{number}"), &format!("{NETWORK}.{number}"))
                .host(&format!("node{number}.example.org"))
                .vhost_count(shares[number - 1])
        })));
        for node in &nodes {
            node.start_dovecot(&on_node);
        }
        for proxy in &proxies {
            proxy.start_dovecot(&on_proxy);
        }
        let mut director = Director::start(Settings {
            mail_servers: "10.24.0.1 10.24.0.2 10.24.0.3",
            ..Settings::default()
        });
        for (number, share) in (1..=3).zip(shares) {
            director.must(&["HOST-SET", &address(number).to_string(), &share.to_string()]);
        }
        let mut entries: Vec<Entry> = nodes
            .iter()
            .map(|node| (node, LMTP_HOME_PORT))
            .chain(proxies.iter().map(|proxy| (proxy, LMTP_PORT)))
            .map(|(machine, lmtp_port)| Entry {
                address: machine.address(),
                lmtp_port,
                tag: "",
            })
            .collect();
        let node_of = |questions: &[(&User, &str)]| by_director(&mut director, questions);
        let different = differences(&users, &entries, &mut logs, node_of);
        assert!(different.is_empty(), "{}: {different:#?}", different.len());

        // Pools, and the name without its domain.
        network.configure(
            Configuration::of((1..=3).map(|number| {
                Node::new(&format!("node{number}"), &format!("{NETWORK}.{number}")).tag(if number == 3 {
                    "far"
                } else {
                    "near"
                })
            }))
            .set("tag", "near")
            .set("username_hash", "%Ln"),
        );
        // Where users of that pool come in, and where they are: a node sends home all others.
        nodes[2].configure(&(on_node.clone() + FAR));
        proxies[1].configure(&(on_proxy.clone() + FAR));
        for machine in [&nodes[2], &proxies[1]] {
            machine.doveadm(&["reload"]);
        }
        let mut director = Director::start(Settings {
            mail_servers: "10.24.0.1@near 10.24.0.2@near 10.24.0.3@far",
            username_hash: "%Ln",
            ..Settings::default()
        });
        for entry in &mut entries {
            let far = [nodes[2].address(), proxies[1].address()].contains(&entry.address);
            entry.tag = if far { "far" } else { "near" };
        }
        let node_of = |questions: &[(&User, &str)]| by_director(&mut director, questions);
        let different = differences(&users, &entries, &mut logs, node_of);
        assert!(different.is_empty(), "{}: {different:#?}", different.len());
    });
}
