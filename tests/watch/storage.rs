//! Marks on storage that all machines share, and that hangs: a FUSE file system whose server
//! is stopped.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use mailaffinity::node_state::NodeState;
use rustix::process::{Pid, Signal, kill_process};
use support::built::MAILAFFINITY;
use support::namespace;
use support::sendmail::{run, wait_for};

use crate::site::{Site, Watcher};

/// Storage that is mounted while this lives.
struct Storage(Child);

impl Storage {
    fn mount(real: &Path, at: &Path) -> Storage {
        fs::create_dir_all(real.join("mailaffinity")).unwrap();
        fs::create_dir_all(at).unwrap();
        let server = Command::new("bindfs")
            .args(["-f", "--no-allow-other"])
            .args([real, at])
            .stdin(Stdio::null())
            .spawn()
            .expect("bindfs runs");
        let storage = Storage(server);
        wait_for("the storage", || at.join("mailaffinity").exists());
        storage
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // Whoever waits for it gets an error then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command of another machine, with files of its own but for what is shared.
fn elsewhere(site: &Site, arguments: &[&str]) -> Output {
    let command = Command::new(&*MAILAFFINITY)
        .arg("--config")
        .arg(site.path("elsewhere.toml"))
        .args(arguments)
        .output();
    let output = command.unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
#[ignore = "as root"]
fn that_hangs_holds_up_nothing_as_root() {
    namespace::run("storage::that_hangs_holds_up_nothing_as_root", || {
        let site = Site::new();
        let (real, at) = (site.path("real"), site.path("storage"));
        let storage = Storage::mount(&real, &at);
        let shared = at.join("mailaffinity/nodes.toml");
        let configuration = site.checked_by_files().set_path("shared_node_state", &shared);
        site.configure(configuration.clone());
        let configuration = configuration
            .set_path("node_state", site.path("elsewhere.nodes.toml"))
            .set_path("status", site.path("elsewhere.status.json"))
            .set_path("syslog", site.path("no-log"));
        fs::write(site.path("elsewhere.toml"), configuration.to_string()).unwrap();

        // Nobody has marked anything yet, or the storage is not mounted.
        let mut watcher = Watcher::start(&site);
        site.wait_for_problem("is its storage mounted");
        site.site.must(&["auto", "node1"]);
        site.wait_until_well();
        site.wait_for_map();
        // What people say arrives, whoever asks about the nodes.
        elsewhere(&site, &["down", "node3", "--reason", "new disks"]);
        site.wait_for_down(&["node3"]);
        site.set_up(2, false);
        site.wait_for_down(&["node2", "node3"]);
        elsewhere(&site, &["auto", "node3"]);
        site.wait_for_down(&["node2"]);
        let listed = String::from_utf8(elsewhere(&site, &["nodes"]).stdout).unwrap();
        assert_eq!(
            listed.matches(" down ").count(),
            0,
            "each finds out for itself: {listed}"
        );
        // Here it holds when the command ends, without a watcher too.
        drop(watcher);
        site.site.must(&["down", "node3"]);
        assert_eq!(site.down(), ["node2", "node3"]);
        site.site.must(&["auto", "node2", "node3"]);
        assert_eq!(site.down(), [""; 0]);
        watcher = Watcher::start(&site);
        site.set_up(2, true);
        site.wait_for_down(&[]);

        storage.signal(Signal::STOP);
        site.wait_for_problem("its storage hangs");
        site.set_up(2, false);
        site.wait_for_down(&["node2"]);
        site.wait_for_map();
        watcher.wait_for_another("WATCHDOG=1");
        let output = site.site.run(&["down", "node3"], b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(75), "{said}");
        assert!(
            said.contains("did not end within") && said.lines().count() == 1,
            "{said}"
        );
        assert_eq!(site.down(), ["node2"]);
        // Also one that begins now, whatever became of the other's.
        watcher.signal(Signal::TERM);
        watcher.wait();
        drop(watcher);
        let watcher = Watcher::start(&site);
        site.set_up(3, false);
        site.wait_for_down(&["node2", "node3"]);
        site.wait_for_map();
        site.set_up(3, true);
        site.wait_for_down(&["node2"]);
        site.wait_for_problem("its storage hangs");

        storage.signal(Signal::CONT);
        site.wait_until_well();
        elsewhere(&site, &["down", "node1"]);
        site.wait_for_down(&["node1", "node2"]);
        site.wait_for_map();
        // What is broken or away is none of people's doing.
        let good = fs::read(&shared).unwrap();
        fs::write(&shared, "[node.").unwrap();
        site.wait_for_problem("not a node state");
        fs::write(&shared, &good).unwrap();
        site.wait_until_well();
        drop(storage);
        site.wait_for_problem("shared node state: ");
        site.set_up(2, true);
        site.wait_for_down(&["node1"]);
        let stderr = watcher.end();
        assert!(
            stderr.lines().all(|line| line.contains("shared node state: ")),
            "{stderr}"
        );
        run(Command::new("umount").arg("--lazy").arg(&at), b"");
    });
}

/// Where the users are listed on it, an update does not come to its end, and all else goes on.
#[test]
#[ignore = "as root"]
fn that_has_the_users_holds_up_no_mark_as_root() {
    namespace::run("storage::that_has_the_users_holds_up_no_mark_as_root", || {
        let site = Site::new();
        let at = site.path("storage");
        let storage = Storage::mount(&site.path("real"), &at);
        fs::copy(site.path("users"), at.join("users")).unwrap();
        let told = site.path("told");
        site.script("tell", &format!("echo \"$*\" >>{}", told.display()));
        let tell = site.path("tell").to_str().unwrap().to_owned();
        let configuration = site.checked_by_files().users(at.join("users"));
        site.configure(configuration.set("watch.on_change", vec![vec![tell]]));
        let mut watcher = Watcher::start(&site);
        site.wait_for_map();
        let is_told = |down: &[&str]| {
            wait_for(&format!("{down:?} in the status"), || {
                site.status()["nodes_down"] == serde_json::json!(down)
            });
        };
        storage.signal(Signal::STOP);
        site.set_up(2, false);
        is_told(&["node2"]);
        site.site.must(&["down", "node3"]);
        is_told(&["node2", "node3"]);
        wait_for("the program", || {
            let told = fs::read_to_string(&told).unwrap_or_default();
            told.contains("node2 down") && told.contains("node3 down")
        });
        site.wait_for_problem("update: it is still at work after 30s");
        watcher.signal(Signal::TERM);
        watcher.wait();
        drop(watcher);
        let watcher = Watcher::start(&site);
        site.site.must(&["auto", "node3"]);
        is_told(&["node2"]);
        storage.signal(Signal::CONT);
        site.wait_for_map();
        watcher.end();
    });
}

/// Where a program is on it that lists the users, only the update waits for that to begin.
#[test]
#[ignore = "as root"]
fn that_has_a_program_holds_up_no_other_as_root() {
    namespace::run("storage::that_has_a_program_holds_up_no_other_as_root", || {
        let site = Site::new();
        let at = site.path("storage");
        let storage = Storage::mount(&site.path("real"), &at);
        site.script("real/list", &format!("exec cat {}", site.path("users").display()));
        let list = at.join("list");
        site.configure(site.checked_by_files().users_of([list.to_str().unwrap()]));
        let mut watcher = Watcher::start(&site);
        site.wait_for_map();
        storage.signal(Signal::STOP);
        site.set_up(2, false);
        // Between fork and exec, and each time that one looks.
        let mut before = BTreeSet::new();
        let mut hung = None;
        wait_for("the program to hang", || {
            let now = own_children(&watcher);
            hung = now.intersection(&before).next().cloned();
            before = now;
            thread::sleep(Duration::from_millis(100));
            hung.is_some()
        });
        site.set_up(3, false);
        site.wait_for_down(&["node2", "node3"]);
        watcher.wait_for_another("WATCHDOG=1");
        watcher.signal(Signal::TERM);
        watcher.wait();
        let program = hung.unwrap();
        wait_for("its end", || !program.exists());
    });
}

/// Processes of a watcher that run no other program yet.
fn own_children(watcher: &Watcher) -> BTreeSet<PathBuf> {
    let id = watcher.id().to_string();
    let listed = Command::new("pgrep").args(["--parent", &id]).output().unwrap();
    let children = String::from_utf8(listed.stdout).unwrap();
    let children = children.lines().map(|child| Path::new("/proc").join(child));
    let is_own =
        |child: &PathBuf| fs::read_link(child.join("exe")).is_ok_and(|program| program == **MAILAFFINITY);
    children.filter(is_own).collect()
}

/// Where all is on it, one watches for all, and nobody while it hangs.
#[test]
#[ignore = "as root"]
fn that_has_the_lock_lets_one_act_as_root() {
    namespace::run("storage::that_has_the_lock_lets_one_act_as_root", || {
        let site = Site::new();
        let at = site.path("storage");
        let storage = Storage::mount(&site.path("real"), &at);
        let state = at.join("mailaffinity/nodes.toml");
        let configuration = site
            .checked_by_files()
            .set_path("node_state", &state)
            .set_path("status", at.join("mailaffinity/status.json"))
            .set_path("syslog", site.path("no-log"));
        let config = site.path("shared.toml");
        fs::write(&config, configuration.to_string()).unwrap();
        let mut first = Watcher::of(&config, |_| ());
        first.wait_for("READY=1");
        let mut second = Watcher::of(&config, |_| ());
        assert_eq!(second.wait().code(), Some(75));

        storage.signal(Signal::STOP);
        site.set_up(2, false);
        let mut second = Watcher::of(&config, |_| ());
        // As systemd does with a watcher that is silent.
        first.signal(Signal::KILL);
        storage.signal(Signal::CONT);
        second.wait_for("READY=1");
        wait_for("node2 to be down", || {
            NodeState::load(&state).unwrap().is_down("node2")
        });
        first.wait();
        second.end();
    });
}
