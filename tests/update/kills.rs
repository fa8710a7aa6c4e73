//! Updates that are killed at any instant, or ended by a signal that they notice.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mailaffinity::access_map::{AccessMap, Error};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};

use support::configuration::node_state;
use support::sendmail;

use crate::site::{ADMINISTRATORS, Entries, Site, script, user_list};

const USERS: usize = 2000;
/// How many updates are killed at work, in all.
const KILLS: usize = 300;
/// How many of those must have left the old map, and how many the new one.
const EACH: usize = 10;
/// Reached only if hardly any update can be hit.
const RUNS: usize = 20_000;

#[derive(Clone, Debug, Default)]
struct Counts {
    runs: usize,
    ended_by_themselves: usize,
    old: usize,
    between: usize,
    new: usize,
    /// In the midst of writing to the map, as lookups say.
    half_written: usize,
    leftovers: usize,
}

impl Counts {
    fn kills(&self) -> usize {
        self.old + self.between + self.new + self.half_written
    }

    fn is_enough(&self) -> bool {
        self.kills() >= KILLS && self.old >= EACH && self.new >= EACH
    }
}

/// The two states between which the map goes to and fro.
struct State {
    node_state: String,
    source: Vec<u8>,
    entries: Entries,
    published: Vec<u8>,
}

/// In the folder `lib`.
const PUBLISHED: &str = "lib/answers.cdb";

#[test]
fn leave_a_whole_map_or_none_that_answers() {
    let counts = Mutex::new(Counts::default());
    thread::scope(|scope| {
        // Two sites, so that kill and check do not wait for each other.
        for kill_all in [false, true] {
            let counts = &counts;
            scope.spawn(move || kill_updates(kill_all, counts));
        }
    });
    println!("{:?}", counts.into_inner().unwrap());
}

/// A site in the second of two states.
fn site() -> (Site, [State; 2]) {
    let site = Site::hash();
    let published = site.path(PUBLISHED);
    site.configure(site.configuration().set_path("access_map.published", published));
    site.write("users", &user_list(0..USERS));
    let states = [&[][..], &["node2"]].map(|down| {
        let node_state = node_state(down);
        site.write("lib/nodes.toml", node_state.as_bytes());
        site.update();
        site.assert_agrees();
        State {
            node_state,
            source: site.source(),
            entries: site.entries(),
            published: site.read(PUBLISHED),
        }
    });
    assert_ne!(states[0].entries, states[1].entries);
    (site, states)
}

fn kill_updates(kill_all: bool, counts: &Mutex<Counts>) {
    let (site, states) = site();
    let over = AtomicBool::new(false);
    let answers = AtomicU64::new(0);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (over, answers, site, states) = (&over, &answers, &site, &states);
                scope.spawn(move || look_up(&site.map(), states, reader, over, answers))
            })
            .collect();
        // Also if this fails, the readers end.
        let _end = SetAtEnd(&over);
        let mut current = 1;
        // Follows what an update takes on a machine with other things to do: a quarter
        // of the updates comes to its end.
        let mut usual = Duration::from_millis(20);
        for run in 0..RUNS {
            let (old, new) = (&states[current], &states[1 - current]);
            set_state(&site, new);
            // Spread evenly, whatever the number of runs.
            let part = (run as f64 * 0.618_033_988_749_895).fract() * 1.3;
            let killed = start_and_kill(&site, usual.mul_f64(part), kill_all);
            usual = usual.mul_f64(if killed { 1.03 } else { 0.9 });
            check(&site, old, new, killed, counts);
            if run % 2 == 0 {
                // What was interrupted is put right.
                site.update();
                assert!(site.source() == new.source);
                assert_eq!(site.entries(), new.entries);
                assert!(site.read(PUBLISHED) == new.published);
                site.assert_tidy();
                current = 1 - current;
            } else {
                // It is no longer wanted.
                set_state(&site, old);
                site.update();
                assert!(site.source() == old.source);
                assert_eq!(site.entries(), old.entries);
                assert!(site.read(PUBLISHED) == old.published);
                site.assert_tidy();
            }
            assert!(
                !readers.iter().any(|reader| reader.is_finished()),
                "a reader failed"
            );
            if counts.lock().unwrap().is_enough() {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    site.assert_agrees();
    let counts = counts.lock().unwrap();
    assert!(counts.is_enough(), "{counts:?}");
    println!("{answers:?} answers to readers");
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn set_state(site: &Site, state: &State) {
    site.write("lib/new.toml", state.node_state.as_bytes());
    fs::rename(site.path("lib/new.toml"), site.path("lib/nodes.toml")).unwrap();
}

/// Starts an update and stops it, unless it has ended by then: its number, and its children's,
/// of which no further one is started.
// It is waited for, but not by `Child`, which cannot wait for a stop.
#[expect(clippy::zombie_processes)]
fn start_and_stop(site: &Site, delay: Duration) -> Option<(Pid, Vec<Pid>)> {
    let mut command = site.command(&["update"]);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(delay);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = wait(pid, WaitOptions::UNTRACED);
    if !stopped.stopped() {
        let stderr = std::io::read_to_string(child.stderr.unwrap()).unwrap();
        assert!(stopped.exit_status() == Some(0) && stderr.is_empty(), "{stderr}");
        return None;
    }
    Some((pid, children_of(&child)))
}

/// Kills an update, and its makemap too if `kill_all`. Returns whether it was hit.
fn start_and_kill(site: &Site, delay: Duration, kill_all: bool) -> bool {
    let Some((pid, children)) = start_and_stop(site, delay) else {
        return false;
    };
    kill_process(pid, Signal::KILL).unwrap();
    for child in &children {
        if kill_all {
            // It may have ended.
            let _ = kill_process(*child, Signal::KILL);
        }
    }
    assert!(wait(pid, WaitOptions::empty()).signaled());
    // An orphan ends when it has read its input.
    let begun = Instant::now();
    while children.iter().any(|child| is_running(*child)) {
        assert!(begun.elapsed() < Duration::from_secs(60), "makemap hangs");
        thread::sleep(Duration::from_micros(200));
    }
    true
}

fn wait(pid: Pid, options: WaitOptions) -> WaitStatus {
    waitpid(Some(pid), options).unwrap().unwrap().1
}

fn children_of(parent: &Child) -> Vec<Pid> {
    let parent = parent.id().to_string();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let id: i32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
            (stat(id)?.1 == parent).then(|| Pid::from_raw(id))?
        })
        .collect()
}

/// State and parent of a process.
fn stat(id: i32) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.into(), fields.next()?.into()))
}

fn is_running(process: Pid) -> bool {
    stat(process.as_raw_nonzero().get()).is_some_and(|(state, _)| state != "Z")
}

#[test]
fn signals_end_them_at_once_and_leave_nothing() {
    let (site, states) = site();
    let mut current = 1;
    let (mut signaled, mut with_makemap) = (0, 0);
    let mut usual = Duration::from_millis(20);
    for run in 0..RUNS {
        let (old, new) = (&states[current], &states[1 - current]);
        set_state(&site, new);
        let part = (run as f64 * 0.618_033_988_749_895).fract() * 1.3;
        let hit = start_and_stop(&site, usual.mul_f64(part));
        usual = usual.mul_f64(if hit.is_some() { 1.03 } else { 0.9 });
        let mut is_over = hit.is_none();
        if let Some((pid, children)) = hit {
            let signal = [Signal::TERM, Signal::INT, Signal::HUP][run % 3];
            kill_process(pid, signal).unwrap();
            kill_process(pid, Signal::CONT).unwrap();
            let status = wait(pid, WaitOptions::empty());
            for child in &children {
                assert!(!is_running(*child), "a child goes on after {signal:?}");
            }
            site.assert_tidy();
            is_over = status.exit_status() == Some(0);
            if !is_over {
                assert_eq!(status.terminating_signal(), Some(signal.as_raw()), "{status:?}");
                signaled += 1;
                with_makemap += usize::from(!children.is_empty());
            }
        }
        let source = site.source();
        let of = if source == new.source { new } else { old };
        assert!(source == of.source, "neither the old source nor the new");
        assert!(site.entries() == of.entries, "the map is not of the source");
        assert!(!is_over || source == new.source);
        site.update();
        assert!(site.source() == new.source);
        current = 1 - current;
        if signaled >= KILLS / 6 && with_makemap >= EACH {
            break;
        }
    }
    println!("{signaled} ended by signals, {with_makemap} of them while makemap ran");
    assert!(signaled >= KILLS / 6 && with_makemap >= EACH);
}

/// As nohup has it.
#[test]
fn signals_that_are_ignored_stay_so() {
    let site = Site::hash();
    let (fifo, started) = (site.path("fifo"), site.path("started"));
    let hangs = format!(
        "touch {}\ncat {}\nexec {} \"$@\"",
        started.display(),
        fifo.display(),
        sendmail::program(&["makemap"], "sendmail-bin").display()
    );
    script(&site.path("makemap"), &hangs);
    let configuration = site.configuration();
    site.configure(configuration.set_path("access_map.makemap", site.path("makemap")));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (signal, is_ignored) in [(Signal::HUP, true), (Signal::TERM, false)] {
        site.write("etc/access", ADMINISTRATORS);
        let update = site.command(&["update"]);
        let mut update = Command::new("nohup")
            .arg(update.get_program())
            .args(update.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sendmail::wait_for("makemap", || started.exists());
        fs::remove_file(&started).unwrap();
        kill_process(Pid::from_child(&update), signal).unwrap();
        if is_ignored {
            fs::write(&fifo, "").unwrap();
            assert!(update.wait().unwrap().success());
            site.assert_agrees();
        } else {
            assert_eq!(update.wait().unwrap().signal(), Some(signal.as_raw()));
            // Not by its parent alone: cat was makemap's.
            let reads = format!("cat\0{}\0", fifo.display());
            assert!(!command_lines().contains(&reads.into_bytes()));
        }
        site.assert_tidy();
    }
}

fn command_lines() -> Vec<Vec<u8>> {
    let processes = fs::read_dir("/proc").unwrap();
    let lines = processes.filter_map(|process| fs::read(process.unwrap().path().join("cmdline")).ok());
    lines.collect()
}

/// Map and source are each in one of the two states, whole, unless the map was just being written.
fn check(site: &Site, old: &State, new: &State, killed: bool, counts: &Mutex<Counts>) {
    if killed && matches!(site.map().get(b""), Err(Error::Damaged { .. })) {
        assert!(site.source() == old.source && site.read(PUBLISHED) == old.published);
        let mut counts = counts.lock().unwrap();
        counts.runs += 1;
        counts.half_written += 1;
        return;
    }
    let entries = site.entries();
    let source = site.source();
    let map_is_new = entries == new.entries;
    assert!(
        map_is_new || entries == old.entries,
        "neither the old map nor the new"
    );
    let source_is_new = source == new.source;
    assert!(
        source_is_new || source == old.source,
        "neither the old source nor the new"
    );
    let published = site.read(PUBLISHED);
    assert!(
        published == old.published || published == new.published && map_is_new && source_is_new,
        "neither the old answers nor the new, or ahead of the map"
    );
    let map = site.map();
    for user in (0..USERS).step_by(97) {
        let user = format!("user{user}").into_bytes();
        let found = map.queue_group(&user).unwrap().unwrap();
        assert_eq!(found.value, entries[&found.key]);
    }
    let mut counts = counts.lock().unwrap();
    counts.runs += 1;
    if !killed {
        assert!(map_is_new && source_is_new && published == new.published);
        counts.ended_by_themselves += 1;
        return;
    }
    if site.names().iter().any(|name| name.contains("mailaffinity-")) {
        counts.leftovers += 1;
    }
    match (map_is_new, source_is_new) {
        (false, false) => counts.old += 1,
        (true, false) => counts.between += 1,
        (true, true) => counts.new += 1,
        (false, true) => panic!("the source went ahead of the map"),
    }
}

/// Looks users up until it is `over`: each has the queue group of one of the states, unless the
/// map is half-written.
fn look_up(map: &AccessMap, states: &[State; 2], start: usize, over: &AtomicBool, answers: &AtomicU64) {
    let groups: Vec<BTreeMap<usize, &Vec<u8>>> = states
        .iter()
        .map(|state| {
            let group = |user| &state.entries[format!("qgrp:user{user}@").as_bytes()];
            (0..USERS).map(|user| (user, group(user))).collect()
        })
        .collect();
    let mut user = start;
    while !over.load(Ordering::SeqCst) {
        user = (user + 617) % USERS;
        let found = match map.queue_group(format!("user{user}").as_bytes()) {
            Err(Error::Damaged { .. }) => continue,
            found => found.unwrap(),
        };
        let found = found.unwrap_or_else(|| panic!("user{user} is missing"));
        assert!(
            groups.iter().any(|groups| *groups[&user] == found.value),
            "{found:?}"
        );
        answers.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(2));
    }
}
