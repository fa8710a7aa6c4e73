//! How long after a node's death its users are at work again elsewhere: the first login, the
//! first delivery, the first page, and sendmail's map; and how long a mail program is out that
//! comes again as soon as it is refused. `make bench-failover` prints it.

use std::io::{self, ErrorKind};
use std::sync::Mutex;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use mailaffinity::access_map::AccessMap;
use support::clients::{Protocol, deliver, log_in};
use support::machines::PASSWORD;
use support::sendmail::{run_well, wait_for};
use support::{maps, namespace};

use super::clients::who_is_there;
use super::number;
use super::site::{Cluster, NODES, Plan, name_of};
use super::troubles::Kind;
use super::web::Web;

/// How often somebody comes, whatever became of those before.
const EVERY: Duration = Duration::from_millis(100);
/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// Workers, one of which has a page to load while others wait for a node that is dead.
const WORKERS: usize = 24;
/// The pause of mailaffinity-update.timer, in seconds.
const TIMER: f64 = 60.0;
const KINDS: [Kind; 3] = [Kind::Killed, Kind::Hung, Kind::CutOff];
const WHAT: [&str; 6] = [
    "a login",
    "a delivery",
    "a page",
    "the map",
    "a mail program",
    "one on its way",
];

/// Seconds since the node died, when something succeeded first.
#[derive(Default)]
struct First(Mutex<Option<f64>>);

impl First {
    fn note(&self, begun: Instant) {
        self.0
            .lock()
            .unwrap()
            .get_or_insert(begun.elapsed().as_secs_f64());
    }

    fn is_there(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }
}

/// Comes again and again, not waiting for those who came before, until somebody succeeds.
fn come<'s, T: Send>(
    scope: &'s Scope<'s, '_>,
    first: &'s First,
    begun: Instant,
    attempt: impl Fn() -> io::Result<T> + Copy + Send + 's,
) {
    scope.spawn(move || {
        while !first.is_there() {
            assert!(begun.elapsed() < DEADLINE, "nobody succeeds");
            scope.spawn(move || {
                if attempt().is_ok() {
                    first.note(begun);
                }
            });
            thread::sleep(EVERY);
        }
    });
}

/// A node dies: how long it took until each was at work elsewhere.
fn die(cluster: &mut Cluster, web: &Web, kind: Kind, node: usize) -> [f64; WHAT.len()] {
    let homes = cluster.homes();
    let mine = cluster.users.iter().zip(homes).filter(|(_, home)| *home == node);
    let users: Vec<String> = mine.map(|(user, _)| user.clone()).take(5).collect();
    let [for_login, for_delivery, for_page, for_program, on_its_way] = &users[..] else {
        panic!("{} has too few users", name_of(node))
    };
    let proxies = cluster.proxy_addresses();
    let (proxy, other) = (proxies[0], proxies[1]);
    let map = format!(
        "{}:{}",
        maps::kind(),
        maps::named(cluster.network.shared("access")).display()
    );
    let map = AccessMap::new(&map, DEADLINE).unwrap();
    let group = || {
        map.queue_group(for_login.as_bytes())
            .unwrap()
            .map(|entry| entry.value)
    };
    let before = group();
    let mut session = log_in(Protocol::Imap, other, for_program, PASSWORD).unwrap();
    let first: [First; WHAT.len()] = Default::default();
    let [login, delivery, page, follows, program, late] = &first;
    let begun = Instant::now();
    kind.begin(cluster, node);
    thread::scope(|scope| {
        come(scope, login, begun, || {
            log_in(Protocol::Imap, proxy, for_login, PASSWORD)
        });
        come(scope, delivery, begun, || {
            match &deliver(proxy, &[for_delivery])?[0] {
                taken if taken.starts_with("250 ") => Ok(()),
                refused => Err(io::Error::other(refused.clone())),
            }
        });
        come(scope, page, begun, || {
            let (_, _, loaded) = web.load(for_page);
            loaded.map_err(io::Error::other)
        });
        come(scope, follows, begun, || match group() == before {
            true => Err(ErrorKind::WouldBlock.into()),
            false => Ok(()),
        });
        let try_until_in = move |user: &str, first: &First| {
            while log_in(Protocol::Imap, other, user, PASSWORD).is_err() {
                thread::sleep(EVERY);
            }
            first.note(begun);
        };
        scope.spawn(move || {
            while session.line().is_ok() {}
            try_until_in(for_program, program);
        });
        // Its first login is sent to the dead node.
        scope.spawn(move || try_until_in(on_its_way, late));
        while !first.iter().all(First::is_there) {
            assert!(begun.elapsed() < DEADLINE, "not all are at work again");
            thread::sleep(EVERY);
        }
        // Before those end who still wait for it.
        kind.end(cluster, node);
    });
    // All as before.
    let at_home = || {
        let mut connection = log_in(Protocol::Imap, proxy, for_login, PASSWORD).ok()?;
        (who_is_there(&mut connection).ok()? == node).then_some(())
    };
    wait_for("the node's users to be at home", || {
        cluster.down().is_empty() && at_home().is_some() && group() == before
    });
    first.map(|first| first.0.into_inner().unwrap().expect("it is there"))
}

/// One update as the timer runs it, while a node is dead; in seconds.
fn update(cluster: &mut Cluster, kind: Kind) -> f64 {
    kind.begin(cluster, 0);
    let begun = Instant::now();
    run_well(cluster.mailaffinity().arg("update"), b"");
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(cluster.down(), [0].into());
    kind.end(cluster, 0);
    wait_for("the node to be up", || {
        run_well(cluster.mailaffinity().arg("update"), b"");
        cluster.down().is_empty()
    });
    took
}

#[test]
#[ignore = "a benchmark, for root"]
fn of_100_users() {
    namespace::run_with_network("soak::failover::of_100_users", || measure(100));
}

#[test]
#[ignore = "a benchmark, for root"]
fn of_100_000_users() {
    namespace::run_with_network("soak::failover::of_100_000_users", || measure(100_000));
}

fn measure(users: usize) {
    let rounds = number("MAILAFFINITY_FAILOVER_ROUNDS", 50) as usize;
    println!(
        "{users} users: seconds from a node's death to the first of its users, median and worst of {rounds}"
    );
    let header: String = WHAT.iter().map(|what| format!("{what:>16}")).collect();
    println!("{:12}{header}", "");
    let plan = Plan {
        users,
        hold_seconds: 0,
        timeout_ms: 500,
        queues: false,
        director: false,
    };
    let mut cluster = Cluster::start(plan);
    let web = Web::start(&cluster.web_config(), WORKERS);
    for kind in KINDS {
        let mut times: [Vec<f64>; WHAT.len()] = Default::default();
        for round in 0..rounds {
            let took = die(&mut cluster, &web, kind, round % NODES);
            times
                .iter_mut()
                .zip(took)
                .for_each(|(times, took)| times.push(took));
        }
        let cells: String = times
            .iter_mut()
            .map(|times| {
                times.sort_unstable_by(f64::total_cmp);
                format!("{:>9.2}{:>7.2}", times[times.len() / 2], times[times.len() - 1])
            })
            .collect();
        println!("{:12}{cells}", kind.to_string());
    }
    cluster.stop_watching();
    for kind in KINDS {
        let took = update(&mut cluster, kind);
        let [on_average, at_worst] = [TIMER / 2.0 + took, TIMER + took];
        println!(
            "{:12} an update takes {took:.2} s: by the timer, {on_average:.0} s on average, {at_worst:.0} s at worst",
            kind.to_string()
        );
    }
}
