//! One typo in the configuration or the node state, while users ask and every worker is
//! new: none of them answers otherwise than the Director.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mailaffinity::files::last_good;

use crate::cluster::{Cluster, NODE2, host_of, users};
use crate::web::{Sapi, Set, WORKERS, Web};
use crate::workers::{End, ask, document_root, wait_until};

#[test]
fn reaches_no_worker_of_php_fpm() {
    reaches_nobody(Sapi::Fpm, Set::InPhpIni);
}

#[test]
fn reaches_no_worker_of_a_pool_with_its_own_configuration() {
    reaches_nobody(Sapi::Fpm, Set::ByServer);
}

#[test]
fn reaches_no_worker_of_apache() {
    reaches_nobody(Sapi::Apache, Set::InPhpIni);
}

#[test]
fn reaches_no_worker_of_apache_with_its_own_configuration() {
    reaches_nobody(Sapi::Apache, Set::ByServer);
}

#[test]
fn reaches_no_cgi() {
    reaches_nobody(Sapi::Cgi, Set::InPhpIni);
}

fn reaches_nobody(sapi: Sapi, set: Set) {
    let mut cluster = Cluster::start(users(60));
    // Without the node state, its users would go there.
    cluster.tell(&["HOST-DOWN", &host_of(NODE2)]);
    let hosts = cluster.hosts();
    let (config, state) = (cluster.site.config(), cluster.site.path("nodes.toml"));
    let web = Web::start_with_new_workers(sapi, &document_root(&cluster), &config, set);
    let right: Vec<(&String, &String)> = cluster.users.iter().zip(&hosts).collect();
    while_all_are_right(&web, &right, |answer| {
        answer(10);
        if set == Set::InPhpIni && sapi != Sapi::Cgi {
            // What PHP read at its start does without the copies.
            for file in [&config, &state] {
                fs::remove_file(last_good::path_for(file)).unwrap();
            }
            for file in [&config, &state] {
                let good = fs::read(file).unwrap();
                replace(file, b"[[node");
                answer(30);
                replace(file, &good);
            }
            cluster.update();
        }
        for file in [&config, &state] {
            let good = fs::read(file).unwrap();
            replace(file, b"[[node");
            answer(30);
            web.reload();
            answer(30);
            replace(file, &good);
            answer(10);
        }
        // Written in place, and gone. Without a node state all nodes are up.
        let good = fs::read(&config).unwrap();
        for _ in 0..10 {
            fs::write(&config, &good).unwrap();
            answer(3);
        }
        fs::remove_file(&config).unwrap();
        answer(30);
        web.reload();
        answer(30);
        replace(&config, &good);
    });
    let log = web.php_log();
    for (file, line) in [(&config, ":1: "), (&state, ": not a node state: line 1: ")] {
        let copy = format!(
            "; the last good copy {} of 2",
            last_good::path_for(file).display()
        );
        let told = |told: &str| told.contains(&format!("{}{line}", file.display())) && told.contains(&copy);
        assert!(log.lines().any(told), "{log}");
    }
    assert!(!log.contains("fallback"), "{log}");
}

/// Others see the old file or the new one, whole.
fn replace(file: &Path, text: &[u8]) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, file).unwrap();
}

/// Does something while others ask for users all the time, each a new worker, and each
/// answer is right. What is done can wait for so many further answers.
#[track_caller]
fn while_all_are_right(web: &Web, right: &[(&String, &String)], work: impl FnOnce(&dyn Fn(usize))) {
    let workers = Mutex::new(BTreeSet::new());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for first in 0..WORKERS {
            let (workers, done) = (&workers, &done);
            scope.spawn(move || {
                // What is done must not wait for ever for who has failed.
                let _end = End(done);
                for (user, host) in right.iter().cycle().skip(first * right.len() / WORKERS) {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    let answer = ask(web, user);
                    assert_eq!(
                        (&answer.host, &answer.computed),
                        (*host, *host),
                        "{user}: {answer:?}"
                    );
                    let is_new = workers.lock().unwrap().insert(answer.worker);
                    assert!(is_new, "this worker has answered before: {answer:?}");
                }
            });
        }
        let _end = End(&done);
        let count = || workers.lock().unwrap().len();
        work(&|times| {
            let until = count() + times;
            wait_until(|| count() >= until || done.load(Ordering::SeqCst));
        });
    });
}
