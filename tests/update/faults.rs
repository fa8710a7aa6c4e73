//! One fault at each system call of the commands that write, by strace: an error, or the end
//! of the program. A sample of them runs with all tests, each of them by `make faults`.

use std::collections::BTreeMap;
use std::fs;
use std::ops::AddAssign;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mailaffinity::access_map::Error;
use mailaffinity::config::Config;
use mailaffinity::node_state::NodeState;
use rustix::process::geteuid;
use serde_json::Value;
use support::configuration::{Configuration, Node, node_state};
use support::sendmail::Cluster;
use support::{built, maps, sendmail};

use crate::site::{Entries, Site, script, user_list};
use support::namespace;

const USERS: usize = 40;

const KILL: &str = "signal=KILL";

/// As strace has them.
const FAULTS: [&str; 5] = ["error=ENOSPC", "error=EIO", "error=EPERM", "error=EINTR", KILL];

/// With which an error makes no sense: they end the program or a signal's handler, or do what
/// they are for whatever they report, which strace does not let them. The last is of Rust's own
/// pipe to a new process, and of signal-hook's: these cannot fail, and nobody expects it.
const NO_ERRORS: [&str; 6] = ["close", "exit", "exit_group", "futex", "rt_sigreturn", "recvfrom"];

/// Which have nothing to do with files, so that one error is as good as another.
const ONE_ERROR: [&str; 16] = [
    "brk",
    "fcntl",
    "geteuid",
    "getpid",
    "getrandom",
    "gettid",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "set_robust_list",
    "sigaltstack",
];

/// What Linux never refuses so, or only to a program that is wrong. libc, Rust's own library
/// and rustix end a program then, which is as if it was killed.
const CANNOT_FAIL: [&str; 10] = [
    "brk",
    "clock_nanosleep",
    "geteuid",
    "getpid",
    "getrandom",
    "gettid",
    "mmap",
    "mprotect",
    "poll",
    "rt_sigaction",
];

/// Every so many faults are tried of a sample: of all kinds, of which this is no multiple.
const SAMPLE: usize = 41;

/// What is there to be hit: a command that goes to and fro between two states.
trait Stage {
    /// The command that is run next.
    fn command(&mut self) -> Command;

    /// Whether a fault is in each thread that makes as many calls. Threads that ask once more
    /// would get it once more.
    fn traces_threads(&self) -> bool {
        true
    }

    /// Calls that the file system never takes.
    fn refused(&self) -> &'static [&'static str] {
        &[]
    }

    /// Lets a program that the command runs be traced in its place.
    fn trace_instead(&self, _strace: &[String]) -> bool {
        false
    }

    /// What is in force after the command, and that it is whole. After one that ended with
    /// 0, all is done.
    fn judge(&self, status: ExitStatus) -> InForce;

    /// Puts all right by a further run, which must leave nothing behind.
    fn put_right(&mut self);

    /// Where strace writes.
    fn log(&self) -> PathBuf;
}

#[derive(Clone, Copy, PartialEq)]
enum InForce {
    Old,
    Between,
    New,
}

/// What is hit: a test of a sample for each, and one of all faults.
macro_rules! scenes {
    ($($name:ident: $make:expr;)*) => {
        mod sample {
            use super::*;

            $(#[test]
            fn $name() {
                let test = concat!("faults::sample::", stringify!($name));
                apart(test, || run(stringify!($name), || Box::new($make), SAMPLE));
            })*
        }

        mod all {
            use super::*;

            $(#[test]
            #[ignore = "it takes minutes: make faults"]
            fn $name() {
                let test = concat!("faults::all::", stringify!($name));
                apart(test, || run(stringify!($name), || Box::new($make), 1));
            })*
        }
    };
}

scenes! {
    update: Updates::new(Kind::Told);
    update_on_nfs: Updates::new(Kind::ToldOnNfs);
    makemap: Updates::new(Kind::ToldMakemap);
    checks: Updates::new(Kind::Checks);
    up_and_down: Updates::new(Kind::ByHand);
    drain: Drains::new();
}

/// A fault at a call: the first, second and so on of its name, in each thread.
#[derive(Debug)]
struct Point {
    call: String,
    number: usize,
    fault: &'static str,
}

/// What came of faults.
#[derive(Clone, Copy, Default)]
struct Row {
    hit: usize,
    /// It ended with 0.
    done: usize,
    /// It ended with another status, and said why.
    told: usize,
    killed: usize,
    /// What was in force then.
    old: usize,
    between: usize,
    new: usize,
    lost: usize,
}

impl Row {
    fn lost() -> Row {
        let (hit, lost) = (1, 1);
        Row {
            hit,
            lost,
            ..Row::default()
        }
    }
}

impl AddAssign for Row {
    fn add_assign(&mut self, other: Row) {
        self.hit += other.hit;
        self.done += other.done;
        self.told += other.told;
        self.killed += other.killed;
        self.old += other.old;
        self.between += other.between;
        self.new += other.new;
        self.lost += other.lost;
    }
}

/// In a namespace of root's. An ordinary user would be root in one, and sendmail then wants to
/// be other users too, which it cannot.
fn apart(test: &str, body: impl FnOnce()) {
    match geteuid().is_root() {
        true => namespace::run(test, body),
        false => body(),
    }
}

/// Tries every so many of the faults that can be.
fn run(name: &str, make: impl Fn() -> Box<dyn Stage> + Sync, step: usize) {
    let output = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .output();
    let traces = output.is_ok_and(|output| output.status.success() && output.stderr.is_empty());
    assert!(
        traces,
        "strace cannot trace here: it needs Debian's package strace and, in a container, the capability SYS_PTRACE"
    );
    if geteuid().is_root() {
        // Quick, and gone with this namespace.
        namespace::mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], &built::tmp());
    }
    println!(
        "{:<13} {:<17} {:>5} {:>5} {:>5} {:>6} {:>5} {:>7} {:>5} {:>4}",
        "command", "call", "hit", "done", "told", "killed", "old", "between", "new", "lost"
    );
    let points = points(make().as_mut());
    let chosen: Vec<&Point> = points.iter().step_by(step).collect();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(BTreeMap::<&str, Row>::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut stage = make();
                while let Some(point) = chosen.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let tried = catch_unwind(AssertUnwindSafe(|| try_fault(stage.as_mut(), point)));
                    let row = tried.unwrap_or_else(|_| {
                        println!("LOST: {name}: {point:?}");
                        stage = make();
                        Row::lost()
                    });
                    *rows.lock().unwrap().entry(&point.call).or_default() += row;
                }
            });
        }
    });
    let mut all = Row::default();
    for (call, row) in rows.into_inner().unwrap() {
        print_row(name, call, &row);
        all += row;
    }
    print_row(name, "all", &all);
    assert!(all.hit > 0);
    assert_eq!(all.lost, 0);
}

fn print_row(scene: &str, call: &str, row: &Row) {
    let Row {
        hit,
        done,
        told,
        killed,
        old,
        between,
        new,
        lost,
    } = row;
    println!(
        "{scene:<13} {call:<17} {hit:>5} {done:>5} {told:>5} {killed:>6} {old:>5} {between:>7} {new:>5} {lost:>4}"
    );
}

fn under_strace(options: &[String], command: &Command) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(options)
        .arg(command.get_program())
        .args(command.get_args());
    strace
}

/// Runs the next command, or what it runs, under strace.
fn strace(stage: &mut dyn Stage, call: Option<&str>, options: &[String]) -> Output {
    // Nothing that it runs.
    let threads: &[&str] = match stage.traces_threads() {
        true => &["-f", "-b", "execve"],
        false => &[],
    };
    let log = stage.log();
    let all = [&["-q", "-o", log.to_str().unwrap()], threads].concat();
    let mut all: Vec<String> = all.into_iter().map(Into::into).collect();
    let refused = stage.refused();
    if let Some(call) = call {
        let traced = [&[call][..], refused].concat();
        all.extend(["-e".into(), format!("trace={}", traced.join(","))]);
    }
    for refused in refused.iter().filter(|refused| Some(**refused) != call) {
        all.extend(["-e".into(), format!("inject={refused}:error=EINVAL")]);
    }
    let options = [&all, options].concat();
    let mut command = stage.command();
    if !stage.trace_instead(&options) {
        command = under_strace(&options, &command);
    }
    maps::run(&mut command, b"")
}

/// All faults that can be: at as many calls of a name as any thread makes.
fn points(stage: &mut dyn Stage) -> Vec<Point> {
    let mut calls = BTreeMap::new();
    for _ in 0..2 {
        let output = strace(stage, None, &[]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let log = fs::read_to_string(stage.log()).unwrap();
        stage.put_right();
        let mut of_threads = BTreeMap::new();
        for line in log.lines() {
            let numbered = line.split_once(' ').filter(|_| stage.traces_threads());
            let (thread, call) = numbered.unwrap_or(("", line));
            if let Some((name, _)) = call.trim_start().split_once('(')
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && name != "restart_syscall"
            {
                *of_threads.entry((name.to_owned(), thread)).or_insert(0) += 1;
            }
        }
        for ((name, _), count) in of_threads {
            let most = calls.entry(name).or_insert(0);
            *most = count.max(*most);
        }
    }
    let points = calls.iter().flat_map(|(call, count)| {
        let faults = move |number| {
            FAULTS.into_iter().map(move |fault| Point {
                call: call.clone(),
                number,
                fault,
            })
        };
        (1..=*count).flat_map(faults)
    });
    let is_fault = |point: &Point| match &*point.call {
        _ if point.fault == KILL => true,
        call if NO_ERRORS.contains(&call) => false,
        call => point.fault == FAULTS[0] || !ONE_ERROR.contains(&call),
    };
    points.filter(is_fault).collect()
}

/// What comes of a fault, and whether all is well after the next run.
fn try_fault(stage: &mut dyn Stage, Point { call, number, fault }: &Point) -> Row {
    let inject = format!("inject={call}:{fault}:when={number}");
    let output = strace(stage, Some(call), &["-e".into(), inject]);
    let log = fs::read_to_string(stage.log()).unwrap_or_default();
    let of_call = |line: &str| {
        [format!("{call}("), format!("{call} resumed")]
            .iter()
            .any(|text| line.contains(text))
    };
    let is_hit = log.contains("killed by SIGKILL")
        || log
            .lines()
            .any(|line| line.ends_with("(INJECTED)") && of_call(line));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let mut row = Row::default();
    match stage.judge(output.status) {
        InForce::Old => row.old = 1,
        InForce::Between => row.between = 1,
        InForce::New => row.new = 1,
    }
    match output.status.code() {
        Some(0) => row.done = 1,
        Some(_) => {
            assert!(!stderr.is_empty(), "it says nothing: {output:?}");
            let panicked = stderr.contains("panicked");
            assert!(!panicked || CANNOT_FAIL.contains(&&**call), "{stderr}");
            row.told = 1;
        }
        None => {
            assert!(*fault == KILL || CANNOT_FAIL.contains(&&**call), "{output:?}");
            row.killed = 1;
        }
    }
    stage.put_right();
    match is_hit {
        true => Row { hit: 1, ..row },
        false => Row::default(),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The node state is written by others, and updates follow it.
    Told,
    /// The same where files cannot be exchanged.
    ToldOnNfs,
    /// Their makemap is hit.
    ToldMakemap,
    /// They check the nodes, and write the node state too.
    Checks,
    /// Marks by hand, which no update follows.
    ByHand,
}

/// A site where node2 goes down and comes back.
struct Updates {
    kind: Kind,
    site: Site,
    makemap: PathBuf,
    untouched: String,
    states: [Files; 2],
    /// Which of them is in force.
    current: usize,
}

/// What is in force, as its readers have it.
#[derive(Debug, PartialEq)]
struct Files {
    source: Vec<u8>,
    entries: Entries,
    /// Lookups say so. sendmail reads it all the same.
    map_is_half_written: bool,
    node2_is_down: bool,
}

impl Files {
    fn of(site: &Site) -> Files {
        let (entries, map) = (site.entries(), site.map());
        let map_is_half_written = matches!(map.get(b""), Err(Error::Damaged { .. }));
        for user in (0..USERS).filter(|_| !map_is_half_written) {
            let found = map.queue_group(format!("user{user}").as_bytes());
            let found = found.unwrap().unwrap();
            assert_eq!(found.value, entries[&found.key]);
        }
        let state = NodeState::load(&site.path("lib/nodes.toml")).unwrap();
        assert!(!state.is_down("node1") && !state.is_down("node3"));
        for (file, is_state) in [("mailaffinity.toml", false), ("lib/nodes.toml", true)] {
            let path = site.path(&format!("{file}.last-good"));
            match fs::read_to_string(&path) {
                Err(_) => assert!(!path.exists()),
                Ok(text) if is_state => _ = NodeState::parse(&text).unwrap(),
                Ok(text) => _ = Config::parse(&text, &path).unwrap(),
            }
        }
        site.status();
        Files {
            source: site.source(),
            entries,
            map_is_half_written,
            node2_is_down: state.is_down("node2"),
        }
    }
}

impl Updates {
    fn new(kind: Kind) -> Updates {
        let site = Site::hash();
        site.write("users", &user_list(0..USERS));
        let mut configuration = site.configuration();
        if kind == Kind::ToldMakemap {
            configuration = configuration.set_path("access_map.makemap", site.path("makemap"));
        }
        if kind == Kind::Checks {
            let check = format!(
                "[ \"$1\" != node2 ] || exec [ ! -e {} ]",
                site.path("down").display()
            );
            script(&site.path("check"), &check);
            configuration = configuration.with(&format!(
                "[checks]\ncommand = [{:?}]\nfall = 2\nrise = 2\ninterval_ms = 1\n",
                site.path("check")
            ));
        }
        site.configure(configuration);
        let mut updates = Updates {
            kind,
            makemap: sendmail::program(&["makemap"], "sendmail-bin"),
            untouched: String::new(),
            states: [(); 2].map(|()| Files {
                source: Vec::new(),
                entries: Entries::new(),
                map_is_half_written: false,
                node2_is_down: false,
            }),
            site,
            current: 0,
        };
        updates.makemap_is("");
        updates.site.update();
        for state in [1, 0] {
            maps::run(&mut updates.command(), b"");
            updates.states[state] = Files::of(&updates.site);
            updates.current = state;
        }
        assert_ne!(updates.states[0], updates.states[1]);
        updates.untouched = updates.untouched();
        updates
    }

    fn makemap_is(&self, strace: &str) {
        let line = format!("exec {strace} {} \"$@\"", self.makemap.display());
        script(&self.site.path("makemap"), &line);
    }

    /// All files that are nobody's to change, as they are.
    fn untouched(&self) -> String {
        let mut files = self.site.files("");
        let ours = [
            "access",
            "access.db",
            "nodes.toml",
            "status.json",
            "etc",
            "lib",
            "strace",
            "makemap",
            "down",
        ];
        files.retain(|path, _| {
            let name = path.file_name().unwrap().to_str().unwrap();
            !ours.contains(&name) && !name.ends_with(".last-good") && !is_staged(path)
        });
        format!("{files:?}")
    }
}

impl Stage for Updates {
    fn command(&mut self) -> Command {
        let goes_down = self.current == 0;
        match self.kind {
            Kind::Told | Kind::ToldOnNfs | Kind::ToldMakemap => {
                let down: &[&str] = if goes_down { &["node2"] } else { &[] };
                self.site.write("lib/new.toml", node_state(down).as_bytes());
                fs::rename(self.site.path("lib/new.toml"), self.site.path("lib/nodes.toml")).unwrap();
            }
            Kind::Checks if goes_down => self.site.write("down", b""),
            Kind::Checks => fs::remove_file(self.site.path("down")).unwrap(),
            Kind::ByHand if goes_down => {
                return self.site.command(&["down", "node2", "--reason", "new disks"]);
            }
            Kind::ByHand => return self.site.command(&["up", "node2"]),
        }
        self.site.command(&["update"])
    }

    fn traces_threads(&self) -> bool {
        self.kind != Kind::Checks
    }

    fn refused(&self) -> &'static [&'static str] {
        match self.kind {
            // Without the second, the map's file would stay.
            Kind::ToldOnNfs => &["renameat2", "fstatfs"],
            _ => &[],
        }
    }

    fn trace_instead(&self, strace: &[String]) -> bool {
        if self.kind == Kind::ToldMakemap {
            self.makemap_is(&format!("strace {}", strace.join(" ")));
        }
        self.kind == Kind::ToldMakemap
    }

    fn judge(&self, status: ExitStatus) -> InForce {
        let has_ended_well = status.success();
        if !has_ended_well {
            // One that nobody waits for any more goes on until it has read its input.
            sendmail::wait_for("makemap", || !is_worked_in(&self.site.path("")));
        }
        let (old, new) = (&self.states[self.current], &self.states[1 - self.current]);
        let now = Files::of(&self.site);
        assert!(
            [old, new].iter().any(|of| of.entries == now.entries),
            "another map"
        );
        assert!(
            [old, new].iter().any(|of| of.source == now.source),
            "another source"
        );
        assert!(
            now.source == old.source || now.entries == new.entries,
            "the source is ahead of the map"
        );
        assert!(
            now.entries == old.entries || now.node2_is_down == new.node2_is_down,
            "the map is ahead of the node state"
        );
        assert_eq!(self.untouched(), self.untouched);
        assert!(!has_ended_well || now == *new, "it ended with 0");
        assert!(
            !now.map_is_half_written || status.code().is_none(),
            "a half-written map"
        );
        let state_is_old = match self.kind {
            Kind::Told | Kind::ToldOnNfs | Kind::ToldMakemap => true,
            Kind::Checks | Kind::ByHand => now.node2_is_down == old.node2_is_down,
        };
        if now == *new {
            InForce::New
        } else if now.entries == old.entries && state_is_old && !now.map_is_half_written {
            InForce::Old
        } else {
            InForce::Between
        }
    }

    fn put_right(&mut self) {
        self.makemap_is("");
        let _ = fs::remove_file(self.log());
        let command: &[&str] = match (self.kind, self.current) {
            (Kind::ByHand, 0) => &["down", "node2", "--reason", "new disks"],
            (Kind::ByHand, _) => &["up", "node2"],
            _ => &["update"],
        };
        self.site.well(command);
        self.current = 1 - self.current;
        assert!(Files::of(&self.site) == self.states[self.current]);
        self.site.assert_tidy();
        assert_eq!(self.untouched(), self.untouched);
        assert!(!self.site.files("").keys().any(|path| is_staged(path)));
    }

    fn log(&self) -> PathBuf {
        self.site.path("strace")
    }
}

/// Whether a process has a folder or one below it as its own.
fn is_worked_in(folder: &Path) -> bool {
    let mut processes = fs::read_dir("/proc").unwrap();
    processes.any(|process| {
        let its_folder = fs::read_link(process.unwrap().path().join("cwd"));
        its_folder.is_ok_and(|its_folder| its_folder.starts_with(folder))
    })
}

/// Whether it was left by somebody who was killed.
fn is_staged(path: &Path) -> bool {
    path.to_str().unwrap().contains(".mailaffinity-")
}

const MESSAGES: [&str; 2] = ["anna", "bert"];

/// sendmail's queue of node2, which is down, with a message to each of some users.
struct Drains {
    cluster: Cluster,
    config: PathBuf,
    /// The files of the queue, with their modes.
    queue: Vec<(PathBuf, Vec<u8>, u32)>,
}

impl Drains {
    fn new() -> Drains {
        let mut cluster = Cluster::new(&["node1", "node2"]);
        let group = Cluster::group("node2");
        cluster.make_queue_groups(MESSAGES.map(|user| (user, &*group)));
        cluster.start("node1", &[]);
        for user in MESSAGES {
            cluster.send("node1", &[user], user);
        }
        assert_eq!(cluster.queued_users(&group), MESSAGES);
        cluster.kill("node1");
        let path = |name: &str| cluster.folder().join(name);
        let nodes = (1..=2)
            .map(|number| Node::numbered(number, "10.0.0").queue_path(path(&format!("queue/node{number}"))));
        let configuration = Configuration::of(nodes)
            .set_path("node_state", path("nodes.toml"))
            .set_path("status", path("status.json"))
            .set_path("syslog", path("no-log"))
            .users(path("users"))
            .sendmail(cluster.words("node1"))
            .set("drain.after_seconds", 0);
        fs::write(path("drain.toml"), configuration.to_string()).unwrap();
        fs::write(path("nodes.toml"), node_state(&["node2"])).unwrap();
        let mut drains = Drains {
            config: path("drain.toml"),
            cluster,
            queue: Vec::new(),
        };
        drains.queue = drains
            .queue_files()
            .map(|path| {
                let mode = fs::metadata(&path).unwrap().mode();
                (path.clone(), fs::read(path).unwrap(), mode)
            })
            .collect();
        drains
    }

    fn status(&self) -> PathBuf {
        self.cluster.folder().join("status.json")
    }

    fn queue_files(&self) -> impl Iterator<Item = PathBuf> {
        let queue = fs::read_dir(self.cluster.queues().join("node2")).unwrap();
        let files = queue.map(|file| file.unwrap().path());
        files.filter(|file| file.extension().is_none_or(|extension| extension != "lock"))
    }

    /// Those who have their message, and those for whom it waits.
    fn messages(&self) -> (Vec<String>, Vec<String>) {
        // One that nobody waits for any more goes on.
        sendmail::wait_for("sendmail", || {
            sendmail::processes(self.cluster.folder()).is_empty()
        });
        let queued = self.cluster.queued_users(&Cluster::group("node2"));
        (self.cluster.delivered_users(), queued)
    }
}

impl Stage for Drains {
    fn command(&mut self) -> Command {
        let _ = fs::remove_file(self.status());
        let delivered = fs::read_dir(self.cluster.folder().join("delivered")).unwrap();
        for file in self
            .queue_files()
            .chain(delivered.map(|file| file.unwrap().path()))
        {
            fs::remove_file(file).unwrap();
        }
        for (path, bytes, mode) in &self.queue {
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        let mut command = Command::new(&*built::MAILAFFINITY);
        command.arg("--config").arg(&self.config);
        command.args(["drain", "--node", "node1"]);
        command
    }

    fn judge(&self, status: ExitStatus) -> InForce {
        let (delivered, queued) = self.messages();
        let mut all = [&delivered[..], &queued].concat();
        all.sort();
        assert_eq!(all, MESSAGES, "each is there once");
        let told = fs::read(self.status()).ok();
        let told: Option<Value> = told.map(|status| serde_json::from_slice(&status).unwrap());
        if status.success() && !queued.is_empty() {
            let said = &told.expect("a status")["drain"]["queues"][0];
            assert_eq!(said["after"], queued.len(), "{queued:?} are left: {said}");
        }
        match (delivered.len(), queued.len()) {
            (0, _) => InForce::Old,
            (_, 0) => InForce::New,
            _ => InForce::Between,
        }
    }

    fn put_right(&mut self) {
        let _ = fs::remove_file(self.log());
        let mut command = Command::new(&*built::MAILAFFINITY);
        command.arg("--config").arg(&self.config);
        let output = maps::run(command.args(["drain", "--node", "node1"]), b"");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let (mut delivered, _) = self.messages();
        delivered.sort();
        assert_eq!(delivered, MESSAGES);
        let files = fs::read_dir(self.cluster.folder()).unwrap();
        assert!(!files.into_iter().any(|file| is_staged(&file.unwrap().path())));
    }

    fn log(&self) -> PathBuf {
        self.cluster.folder().join("strace")
    }
}
