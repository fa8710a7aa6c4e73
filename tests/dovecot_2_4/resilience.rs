//! Logins and deliveries go on while all that the passdb follows changes, breaks, or is
//! replaced, and land by what is in force. The same load, with the same reloads, runs through
//! a proxy that always names one node: what that loses too is Dovecot's.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mailaffinity::config::Config;
use mailaffinity::mapping::Cluster;
use mailaffinity::node_state::NodeState;
use support::built;
use support::clients::{Protocol, deliver_to, log_in};
use support::configuration::{Configuration, node_state};
use support::machines::{Machine, NETWORK, Network, PASSWORD};
use support::namespace;

use crate::home::{Logs, Way};

/// For each entry.
const CLIENTS: usize = 2;
/// That each entry has between one event and the next.
const COMINGS: usize = 4;
/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const LMTP_PORT: u16 = 24;
const LMTP_HOME_PORT: u16 = 2424;

const SITE: &str = "
passdb static {
  result_success = continue-ok
}
login_trusted_networks = 10.24.0.0/24
auth_failure_delay = 0
auth_internal_failure_delay = 0
";

/// In place of mailaffinity's file: a proxy that always names one node.
const STATIC: &str = "
passdb static {
  fields {
    proxy = y
    host = 10.24.0.4
    starttls = any-cert
    proxy_no_multiplex = y
  }
}
lmtp_proxy = yes
login_proxy_max_reconnects = 0
service imap-login {
  restart_request_count = unlimited
  client_limit = 1000
}
";

/// Nothing of a test may depend on timing.
const PATIENCE: &str = "
login_proxy_timeout = 60s
service lmtp-home {
  inet_listener lmtp-home {
    port = 2424
  }
}
";

/// Where users come in.
struct Entry<'m> {
    machine: &'m Machine,
    lmtp_port: u16,
    came: AtomicUsize,
    lost: Mutex<Vec<Lost>>,
}

impl Entry<'_> {
    fn address(&self) -> IpAddr {
        self.machine.address()
    }
}

/// What was to be in force, from one event to the next.
#[derive(Default)]
struct Course {
    in_force: Mutex<Vec<Cluster>>,
    /// How many events are over.
    over: AtomicUsize,
    /// Which of them were reloads.
    reloads: Mutex<BTreeSet<usize>>,
}

/// Somebody who was let in, and what can have been in force then.
struct Came {
    user: String,
    way: Way,
    events: RangeInclusive<usize>,
}

/// Somebody who was not.
#[derive(Debug)]
struct Lost {
    user: String,
    events: RangeInclusive<usize>,
    why: String,
}

impl Course {
    fn first(&self) -> usize {
        self.over.load(Ordering::SeqCst)
    }

    fn last(&self) -> usize {
        self.in_force.lock().unwrap().len() - 1
    }

    /// Where somebody may have landed.
    fn nodes_of(&self, user: &str, events: &RangeInclusive<usize>, config: &Config) -> BTreeSet<usize> {
        let hash = config.hash_of(user.as_bytes()).unwrap();
        let in_force = self.in_force.lock().unwrap();
        in_force[events.clone()]
            .iter()
            .map(|cluster| cluster.index_of_hash(hash, "").unwrap())
            .collect()
    }
}

/// Comes again and again by an entry, until the end.
fn come(entry: &Entry, client: usize, course: &Course, ended: &AtomicBool) -> Vec<Came> {
    let mut all = Vec::new();
    for number in 0.. {
        if ended.load(Ordering::SeqCst) {
            break;
        }
        let user = format!("{}-{client}-{number}", entry.machine.name());
        let (way, first) = (
            [Way::LogIn(Protocol::Imap), Way::Deliver][number % 2],
            course.first(),
        );
        let came = match way {
            Way::LogIn(protocol) => log_in(protocol, entry.address(), &user, PASSWORD)
                .map(drop)
                .map_err(|error| error.to_string()),
            Way::Deliver => match deliver_to((entry.address(), entry.lmtp_port).into(), &[&user]) {
                Ok(answers) if answers[0].starts_with("250 ") => Ok(()),
                answers => Err(format!("{answers:?}")),
            },
        };
        match came {
            Ok(()) => all.push(Came {
                user,
                way,
                events: first..=course.last(),
            }),
            Err(why) => {
                let events = first..=course.last();
                entry.lost.lock().unwrap().push(Lost { user, events, why });
            }
        }
        entry.came.fetch_add(1, Ordering::SeqCst);
    }
    all
}

/// Waits until some more have come by each entry.
fn wait(entries: &[Entry]) {
    let come = |entry: &Entry| entry.came.load(Ordering::SeqCst);
    let before: Vec<usize> = entries.iter().map(come).collect();
    let begun = Instant::now();
    while entries
        .iter()
        .zip(&before)
        .any(|(entry, before)| come(entry) < before + COMINGS)
    {
        assert!(begun.elapsed() < DEADLINE, "nobody comes any more");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until all are let in again that come by each entry: a reload ends logins that have
/// begun, whichever passdb is asked.
fn settle(entries: &[Entry]) {
    let lost = || {
        entries
            .iter()
            .map(|entry| entry.lost.lock().unwrap().len())
            .sum::<usize>()
    };
    let begun = Instant::now();
    loop {
        let before = lost();
        wait(entries);
        if lost() == before {
            return;
        }
        assert!(
            begun.elapsed() < DEADLINE,
            "not all are let in again: {:#?}",
            entries.iter().map(|entry| &entry.lost).collect::<Vec<_>>()
        );
    }
}

/// Nobody comes any more when this goes, also in a panic: the scope would wait forever.
struct End<'e>(&'e AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Replaces a file of a machine by a copy of it.
fn replace(machine: &Machine, file: &str) {
    machine.run("cp", &[file, &format!("{file}.new")]);
    machine.run("mv", &[&format!("{file}.new"), file]);
}

#[test]
#[ignore = "as root"]
fn all_that_is_followed_changes_under_load_as_root() {
    let test = "resilience::all_that_is_followed_changes_under_load_as_root";
    namespace::run_with_network(test, || {
        let network = Network::new();
        let nodes = [1, 2, 3].map(|number| network.start(&format!("node{number}"), number));
        let plain = network.start("plain", 4);
        let proxies = [11, 12].map(|number| network.start(&format!("proxy{number}"), number));
        // Builds it, which may take a while.
        let command = built::MAILAFFINITY.as_str();
        let configuration = Configuration::of_three_nodes(NETWORK);
        let good = configuration.to_string();
        let config = Config::parse(&good, "mailaffinity.toml".as_ref()).unwrap();
        network.configure(&configuration);
        network.mark(&node_state(&[]));
        let include = |kind: &str| format!("!include /usr/share/mailaffinity/mailaffinity-{kind}.conf\n");
        for node in &nodes {
            node.start_dovecot(&format!("{SITE}{}{PATIENCE}", include("node")));
        }
        plain.start_dovecot("login_trusted_networks = 10.24.0.0/24\n");
        proxies[0].start_dovecot(&format!("{SITE}{}{PATIENCE}", include("proxy")));
        proxies[1].start_dovecot(&format!("{STATIC}login_proxy_timeout = 60s\n"));
        let entry = |machine, lmtp_port| Entry {
            machine,
            lmtp_port,
            came: AtomicUsize::new(0),
            lost: Mutex::default(),
        };
        let entries = [
            entry(&nodes[0], LMTP_HOME_PORT),
            entry(&proxies[0], LMTP_PORT),
            entry(&proxies[1], LMTP_PORT),
        ];
        let following: Vec<&Machine> = nodes.iter().chain([&proxies[0]]).collect();

        let in_force = |state: &str| config.cluster(&NodeState::parse(state).unwrap()).unwrap();
        let course = Course::default();
        let begins = |state: &str| course.in_force.lock().unwrap().push(in_force(state));
        let ended = AtomicBool::new(false);
        let came: Vec<Came> = thread::scope(|scope| {
            let _end = End(&ended);
            begins(&node_state(&[]));
            let clients: Vec<_> = entries
                .iter()
                .flat_map(|entry| (0..CLIENTS).map(move |client| (entry, client)))
                .map(|(entry, client)| {
                    let (course, ended) = (&course, &ended);
                    scope.spawn(move || come(entry, client, course, ended))
                })
                .collect();
            // With what is in force from then on.
            let happens = |state: &str, event: &dyn Fn()| {
                wait(&entries);
                begins(state);
                event();
                course.over.fetch_add(1, Ordering::SeqCst);
            };
            let [up, one, two] = [&[][..], &["node1"], &["node2"]].map(node_state);
            for state in [&two, &one, &up, &one] {
                happens(state, &|| network.mark(state));
            }
            let mark = |mark: &str, node: &str| {
                // Each keeps a last good copy of its configuration.
                for machine in &following {
                    machine.run(command, &[mark, node]);
                }
            };
            happens(&up, &|| mark("up", "node1"));
            happens(&two, &|| mark("down", "node2"));
            let reload = |state: &str| {
                happens(state, &|| {
                    course.reloads.lock().unwrap().insert(course.last());
                    for machine in entries.iter().map(|entry| entry.machine).chain([&plain]) {
                        machine.doveadm(&["reload"]);
                    }
                });
                settle(&entries);
                happens(state, &|| ());
            };
            let in_place = |text: &str| fs::write(network.shared("nodes.toml"), text).unwrap();
            for broken in ["[node.node1]\nstate = \"do", "", "\0\0\0\0"] {
                happens(&two, &|| in_place(broken));
                happens(&two, &|| network.mark(&two));
                happens(&two, &|| network.mark(broken));
            }
            reload(&two);
            happens(&up, &|| network.mark(&up));
            // The copy of the state is one of it too.
            happens(&up, &|| mark("up", "node2"));
            for broken in ["node_state = ", "", "[[node]]\nname = \"node1\"\n"] {
                happens(&up, &|| network.replace("mailaffinity.toml", broken));
                reload(&up);
                happens(&up, &|| network.configure(&configuration));
            }
            for _ in 0..3 {
                reload(&up);
            }
            let module = format!(
                "/usr/lib/{}-linux-gnu/lua/5.4/mailaffinity.so",
                std::env::consts::ARCH
            );
            for file in [&*module, "/usr/share/mailaffinity/dovecot.lua"] {
                happens(&up, &|| {
                    following.iter().for_each(|machine| replace(machine, file))
                });
                reload(&up);
            }
            wait(&entries);
            ended.store(true, Ordering::SeqCst);
            clients
                .into_iter()
                .flat_map(|client| client.join().unwrap())
                .collect()
        });

        for entry in &entries {
            let (name, lost) = (entry.machine.name(), entry.lost.lock().unwrap());
            println!(
                "{name}: {} came, of them in vain:",
                entry.came.load(Ordering::SeqCst)
            );
            lost.iter().for_each(|lost| println!("  {lost:?}"));
            let reloads = course.reloads.lock().unwrap();
            let is_of_reload = |lost: &&Lost| lost.events.clone().any(|event| reloads.contains(&event));
            // Between two nodes, of which the second thought of the first when it was asked: Dovecot
            // refuses what comes back.
            let is_of_change = |lost: &&Lost| {
                let changes = course.nodes_of(&lost.user, &lost.events, &config).len() > 1;
                name == "node1" && changes && lost.why.contains("[UNAVAILABLE]")
            };
            let others: Vec<&Lost> = lost
                .iter()
                .filter(|lost| !is_of_reload(lost) && !is_of_change(lost))
                .collect();
            assert!(others.is_empty(), "{name}: {others:#?}");
        }
        let came: Vec<Came> = came
            .into_iter()
            .filter(|who| !who.user.starts_with("proxy12"))
            .collect();
        let landed = Logs::of(&nodes).landed(came.len());
        let mut wrong = Vec::new();
        for who in &came {
            let (at, allowed) = (
                landed.get(&(who.user.clone(), who.way)),
                course.nodes_of(&who.user, &who.events, &config),
            );
            if !at.is_some_and(|at| matches!(at[..], [node] if allowed.contains(&node))) {
                wrong.push(format!(
                    "{} by {:?} in {:?}: {at:?}, not {allowed:?}",
                    who.user, who.way, who.events
                ));
            }
        }
        assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
        for machine in &following {
            // A reload also ends what a process that just begins reads its configuration from.
            let is_of_reload = |line: &&str| line.contains("Fatal: Failed to read configuration: fd_read()");
            let log = machine.log();
            // The last is what a reload does to logins that workers look up.
            for word in ["Panic:", "Fatal:", "killed with signal", "Aborted PASS"] {
                let mut lines = log.lines().filter(|line| !is_of_reload(line));
                assert_eq!(lines.find(|line| line.contains(word)), None);
            }
        }
    });
}
