//! The web servers' PHP: several processes, opcache, changes under their hands, and
//! reloads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, NODE2, host_of, users};
use crate::web::{Sapi, WORKERS, Web};

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn php_fpm_behind_nginx() {
    workers_agree(Sapi::Fpm);
}

#[test]
fn apache() {
    workers_agree(Sapi::Apache);
}

fn workers_agree(sapi: Sapi) {
    let mut cluster = Cluster::start(users(200));
    let web = serve(&cluster, sapi);

    let before = cluster.hosts();
    let workers = assert_all_workers_answer(&web, &cluster.users, &before);
    cluster.tell(&["HOST-DOWN", &host_of(NODE2)]);
    let after = cluster.hosts();
    assert_ne!(before, after);
    assert!(!after.contains(&host_of(NODE2)));
    assert_eq!(assert_all_workers_answer(&web, &cluster.users, &after), workers);
    cluster.tell(&["HOST-UP", &host_of(NODE2)]);
    assert_eq!(assert_all_workers_answer(&web, &cluster.users, &before), workers);
    cluster.tell(&["HOST-SET", &host_of(NODE2), "0"]);
    assert_eq!(assert_all_workers_answer(&web, &cluster.users, &after), workers);
    cluster.tell(&["HOST-SET", &host_of(NODE2), "100"]);

    let right: Vec<[&String; 2]> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| [before, after])
        .collect();
    let users = cluster.users.clone();

    // The map is rewritten to and fro.
    meanwhile(&web, &users, &right, |_| {
        for _ in 0..4 {
            cluster.tell(&["HOST-DOWN", &host_of(NODE2)]);
            cluster.tell(&["HOST-UP", &host_of(NODE2)]);
        }
    });
    assert_eq!(assert_all_workers_answer(&web, &users, &before), workers);

    // All workers are replaced, again and again.
    let right: Vec<[&String; 2]> = before.iter().map(|before| [before, before]).collect();
    let mut workers = workers;
    meanwhile(&web, &users, &right, |answered| {
        for _ in 0..3 {
            web.reload();
            let replaced = assert_all_workers_answer(&web, &users, &before);
            // The old ones may have answered a few.
            workers = await_new_workers(&web, &users, &workers);
            assert!(replaced.len() >= WORKERS);
            let until = answered.load(Ordering::SeqCst) + 100;
            wait_until(|| answered.load(Ordering::SeqCst) >= until);
        }
    });
    cluster.tell(&["HOST-DOWN", &host_of(NODE2)]);
    assert_eq!(assert_all_workers_answer(&web, &users, &after), workers);

    // The node state is written a moment before the map, and a worker may say so.
    for line in web.php_log().lines() {
        assert!(
            line.contains("node \"node2\" is down, but a user is mapped to it"),
            "{line}"
        );
    }
}

fn serve(cluster: &Cluster, sapi: Sapi) -> Web {
    Web::start(sapi, &document_root(cluster), &cluster.site.config())
}

/// A folder with `answer.php`.
pub(crate) fn document_root(cluster: &Cluster) -> PathBuf {
    let root = cluster.site.path("www");
    fs::create_dir(&root).unwrap();
    fs::copy("tests/webmail/answer.php", root.join("answer.php")).unwrap();
    root
}

/// What `answer.php` says of a user.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) host: String,
    pub(crate) computed: String,
    pub(crate) worker: u64,
    opcache: bool,
}

#[track_caller]
pub(crate) fn ask(web: &Web, user: &str) -> Answer {
    let page = web.browser().post("/answer.php", &[("user", user)]);
    assert_eq!(page.status, 200, "{user}: {page:?}\n{}", web.log());
    let json: Value =
        serde_json::from_str(&page.body).unwrap_or_else(|error| panic!("{user}: {error}: {page:?}"));
    let text = |name: &str| {
        json[name]
            .as_str()
            .unwrap_or_else(|| panic!("{page:?}"))
            .to_owned()
    };
    Answer {
        host: text("host"),
        computed: text("computed"),
        worker: json["worker"].as_u64().unwrap(),
        opcache: json["opcache"].as_bool().unwrap(),
    }
}

/// Asks for all users until each worker has answered, all of them right. Returns the
/// workers.
#[track_caller]
fn assert_all_workers_answer(web: &Web, users: &[String], hosts: &[String]) -> BTreeSet<u64> {
    let begun = Instant::now();
    let mut answers: BTreeMap<u64, usize> = BTreeMap::new();
    while answers.len() < WORKERS {
        assert!(begun.elapsed() < DEADLINE, "only these answer: {answers:?}");
        let parts: Vec<_> = users.iter().zip(hosts).collect();
        thread::scope(|scope| {
            let askers: Vec<_> = parts
                .chunks(users.len().div_ceil(WORKERS))
                .map(|part| {
                    scope.spawn(move || {
                        let mut workers = Vec::new();
                        for (user, host) in part {
                            let answer = ask(web, user);
                            assert_eq!(&answer.host, *host, "{user}: {answer:?}");
                            assert_eq!(&answer.computed, *host, "{user}: {answer:?}");
                            assert!(answer.opcache, "opcache is off: {answer:?}");
                            workers.push(answer.worker);
                        }
                        workers
                    })
                })
                .collect();
            for asker in askers {
                for worker in asker.join().unwrap() {
                    *answers.entry(worker).or_default() += 1;
                }
            }
        });
    }
    answers.into_keys().collect()
}

/// Asks until as many new workers have answered as there were, and returns them.
#[track_caller]
fn await_new_workers(web: &Web, users: &[String], old: &BTreeSet<u64>) -> BTreeSet<u64> {
    let mut new = BTreeSet::new();
    wait_until(|| {
        thread::scope(|scope| {
            let askers: Vec<_> = users
                .iter()
                .take(WORKERS)
                .map(|user| scope.spawn(|| ask(web, user).worker))
                .collect();
            new.extend(askers.into_iter().map(|asker| asker.join().unwrap()));
        });
        new.difference(old).count() >= WORKERS
    });
    new.difference(old).copied().collect()
}

/// Does something while others ask for users all the time. Each answer is one of the
/// right ones, and none is lost. What is done is given the number of answers so far.
#[track_caller]
fn meanwhile(web: &Web, users: &[String], right: &[[&String; 2]], work: impl FnOnce(&AtomicUsize)) {
    let answered = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let askers: Vec<_> = (0..WORKERS)
            .map(|first| {
                let (answered, done) = (&answered, &done);
                scope.spawn(move || {
                    let mut workers = BTreeSet::new();
                    for (user, right) in users.iter().zip(right).cycle().skip(first * 50) {
                        if done.load(Ordering::SeqCst) {
                            break;
                        }
                        let answer = ask(web, user);
                        assert!(right.contains(&&answer.host), "{user}: {answer:?}, not {right:?}");
                        workers.insert(answer.worker);
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                    workers
                })
            })
            .collect();
        let end = End(&done);
        work(&answered);
        drop(end);
        let workers = askers.into_iter().flat_map(|asker| asker.join().unwrap());
        workers.collect::<BTreeSet<u64>>()
    });
    assert!(seen.len() >= WORKERS, "only these answered: {seen:?}");
    assert!(answered.into_inner() >= users.len());
}

/// Tells when it is dropped, also by a panic.
pub(crate) struct End<'e>(pub(crate) &'e AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[track_caller]
pub(crate) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "it never comes");
    }
}
