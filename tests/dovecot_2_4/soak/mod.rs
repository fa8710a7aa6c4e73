//! Users with mail programs, mail for them, and webmail, while nodes die, hang, are cut off,
//! slow, taken out of service, and come back: nobody is at work on two living nodes at once, no
//! message is lost or there twice, nobody is sent to a node that is marked down, and whoever is
//! refused is so only until the change is made. `make soak` has all of it, `make test` a sample.

mod clients;
mod dice;
mod director;
mod failover;
mod queues;
mod site;
mod troubles;
mod verdict;
mod web;

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::namespace;
use support::sendmail::wait_for;

use self::clients::{BROWSERS, Clients, Rates, Shared, What};
use self::director::Front;
use self::site::{Cluster, Plan};
use self::troubles::{Kind, Storm};
use self::verdict::Known;
use self::web::Web;

/// More than can be on their way to nodes that hang, or nobody would deliver meanwhile.
const SENDERS: usize = 12;

const SAMPLE: Rates = Rates {
    arrival: Duration::ZERO,
    idle: Duration::from_secs(2),
    pause: Duration::from_millis(200),
};

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable}: {text}"))
    })
}

/// What all do while troubles come.
fn soak(plan: Plan, rates: Rates, kinds: &[Kind], troubles: impl FnOnce(&mut Storm)) {
    let seed = number("MAILAFFINITY_SOAK_SEED", 1);
    eprintln!("seed {seed}");
    let mut cluster = Cluster::start(plan);
    let shared = Shared {
        users: cluster.users.clone(),
        entries: cluster.entries(),
        proxies: cluster.proxy_addresses(),
        queues: cluster.queues.clone(),
    };
    let clients = Clients::new(&shared, seed, rates);
    let web = Web::start(&cluster.web_config(), BROWSERS);
    let marks = cluster.marks();
    let is_over = AtomicBool::new(false);
    let (past, unrest, marks) = thread::scope(|scope| {
        let followed = scope.spawn(|| marks.follow(&is_over));
        let threads = clients.begin(scope, SENDERS, &web);
        let mut storm = Storm::new(&mut cluster, &clients, kinds, seed);
        // However it ends, or the scope would wait forever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            storm.begins();
            troubles(&mut storm);
        }));
        clients.end();
        if let Err(panic) = result {
            clients.give_up();
            is_over.store(true, Ordering::SeqCst);
            std::panic::resume_unwind(panic);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        is_over.store(true, Ordering::SeqCst);
        (storm.past, storm.unrest, followed.join().unwrap())
    });
    let queues = cluster.queues.clone().expect("there are sendmails");
    wait_for("the queues to be empty", || queues.waiting() == 0);
    let done = clients.done();
    let said = cluster.watchers_said();
    let marks_of_entries = cluster.director.as_ref().map(Front::marks);
    let verdict = Known {
        cluster: &cluster,
        done: &done,
        written: &clients.written(),
        messages: clients.messages(),
        troubles: &past,
        unrest: &unrest,
        marks: &marks,
        marks_of_entries: marks_of_entries.as_deref().unwrap_or(&marks),
    }
    .verdict();
    eprintln!("{said}");
    let web_faults = web.faults();
    let drained = queues.drained();
    let count = |is: &dyn Fn(&What) -> bool| done.iter().filter(|done| is(&done.what)).count();
    println!("seed {seed}");
    for &kind in kinds {
        println!(
            "  {:5} times a node was {kind}",
            past.iter().filter(|trouble| trouble.kind == kind).count()
        );
    }
    for (what, count) in [
        (
            "logins by mail programs",
            count(&|what| matches!(what, What::Login(_, Ok(_)))),
        ),
        ("refused", count(&|what| matches!(what, What::Login(_, Err(_))))),
        (
            "deliveries",
            count(&|what| matches!(what, What::Delivery(_, Ok(())))),
        ),
        (
            "refused, and tried again",
            count(&|what| matches!(what, What::Delivery(_, Err(_)))),
        ),
        (
            "messages for sendmail",
            count(&|what| matches!(what, What::Handed(_, Ok(_)))),
        ),
        ("attempts at them", queues.attempts().values().map(Vec::len).sum()),
        ("queues of nodes that were down run by others", drained.len()),
        ("messages that left them", drained.iter().sum()),
        ("pages", count(&|what| matches!(what, What::Page(_, _, Ok(()))))),
        ("refused", count(&|what| matches!(what, What::Page(_, _, Err(_))))),
        (
            "errors of PHP, and workers of PHP-FPM that died",
            web_faults.len(),
        ),
        ("sessions on nodes", verdict.sessions),
        ("messages that sessions wrote", clients.written().len()),
        (
            "at work on two living nodes at once, by logs",
            verdict.doubles.len(),
        ),
        (
            "the same, on a slow node that was taken for dead",
            verdict.by_mistake,
        ),
        (
            "at work on two living nodes at once, by mailboxes",
            verdict.doubles_in_mailboxes.len(),
        ),
        ("messages lost", verdict.lost.len()),
        ("messages there twice", verdict.twice.len()),
        (
            "the same, since a node died before it answered",
            verdict.twice_by_death,
        ),
        ("sent to a node that was marked down", verdict.to_marked.len()),
        ("refused while all was well", verdict.refused_in_peace.len()),
        ("refused for good", verdict.bounced.len()),
    ] {
        println!("  {count:5} {what}");
    }
    let wrong: Vec<&String> = verdict.wrong().into_iter().chain(&web_faults).collect();
    assert!(
        wrong.is_empty(),
        "{}: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(20)]
    );
}

#[test]
#[ignore = "as root"]
fn a_sample_as_root() {
    namespace::run_with_network("soak::a_sample_as_root", || {
        let plan = Plan {
            users: 20,
            hold_seconds: 1,
            timeout_ms: 1000,
            queues: true,
            director: false,
        };
        soak(plan, SAMPLE, &Kind::ALL, |storm| storm.blow());
    });
}

#[test]
#[ignore = "as root"]
fn a_sample_with_a_director_as_root() {
    namespace::run_with_network("soak::a_sample_with_a_director_as_root", || {
        let plan = Plan {
            users: 20,
            hold_seconds: 0,
            timeout_ms: 500,
            queues: true,
            director: true,
        };
        soak(plan, SAMPLE, &Kind::DEADLY, |storm| storm.blow());
    });
}

#[test]
#[ignore = "takes minutes, as root"]
fn all() {
    namespace::run_with_network("soak::all", || minutes(false, &Kind::ALL));
}

/// Where nodes live, a user may be on two of them until the Director is asked next.
#[test]
#[ignore = "takes minutes, as root"]
fn all_with_a_director() {
    namespace::run_with_network("soak::all_with_a_director", || minutes(true, &Kind::DEADLY));
}

fn minutes(director: bool, kinds: &[Kind]) {
    let plan = Plan {
        users: number("MAILAFFINITY_SOAK_USERS", 300) as usize,
        hold_seconds: 3,
        timeout_ms: 1500,
        queues: true,
        director,
    };
    let rates = Rates {
        arrival: Duration::from_secs(20),
        idle: Duration::from_secs(10),
        pause: Duration::from_secs(1),
    };
    let seconds = number("MAILAFFINITY_SOAK_SECONDS", 180);
    soak(plan, rates, kinds, |storm| {
        storm.rage(Duration::from_secs(seconds))
    });
}
