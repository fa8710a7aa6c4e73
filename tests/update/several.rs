//! Several updates at once.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::process::{Command, Stdio};

use support::{maps, sendmail};

use crate::site::{Site, age, outside, script};
use support::namespace;

#[test]
fn they_wait_for_each_other() {
    let site = Site::hash();
    for command in ["down", "auto"].repeat(2) {
        site.well(&[command, "node2"]);
        let updates: Vec<_> = (0..8)
            .map(|_| {
                let mut command = site.command(&["update"]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        for update in updates {
            let output = update.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            assert!(output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
        }
        site.assert_agrees();
        site.assert_tidy();
        assert_eq!(outside(&site.source()).0, crate::site::ADMINISTRATORS);
    }
}

#[test]
fn who_may_not_wait_is_told_who_is_at_work() {
    let site = Site::hash();
    site.update();
    site.well(&["down", "node2"]);
    let lock = File::options()
        .write(true)
        .open(site.path("etc/.access.lock"))
        .unwrap();
    lock.lock().unwrap();
    lock.set_len(0).unwrap();
    std::io::Write::write_all(&mut &lock, b"process 42 on node7\n").unwrap();
    let message = format!(
        "another update is at work: {} is held by process 42 on node7",
        site.path("etc/.access.lock").display()
    );
    for wait in ["0", "1"] {
        site.update_fails(&["--wait", wait], 75, &message);
        assert_eq!(site.status()["exit_status"], 75);
    }
    assert_eq!(
        site.run(&["diff"]).status.code(),
        Some(1),
        "reading needs no lock"
    );
    let waiting = site.command(&["update"]).spawn().unwrap();
    drop(lock);
    assert!(waiting.wait_with_output().unwrap().status.success());
    site.assert_agrees();
}

/// As where NFS is mounted with nolock.
#[test]
fn hosts_that_do_not_see_each_other_s_lock_leave_each_other_alone() {
    namespace::run(
        "several::hosts_that_do_not_see_each_other_s_lock_leave_each_other_alone",
        || {
            let site = Site::hash();
            site.update();
            site.well(&["down", "node2"]);
            let (fifo, started) = (site.path("fifo"), site.path("started"));
            sendmail::run_well(Command::new("mkfifo").arg(&fifo), b"");
            let waits = format!(
                "touch {}\ncat {}\nexec {} \"$@\"",
                started.display(),
                fifo.display(),
                sendmail::program(&["makemap"], "sendmail-bin").display()
            );
            script(&site.path("makemap"), &waits);
            let configuration = site.configuration();
            site.configure(configuration.set_path("access_map.makemap", site.path("makemap")));
            let mut update = site.command(&["update"]);
            let update = update.stdout(Stdio::null()).stderr(Stdio::piped());
            let update = update.spawn().unwrap();
            sendmail::wait_for("makemap", || started.exists());
            let at_work = site.names();
            assert!(at_work.iter().any(|name| name.contains(".mailaffinity-")));

            site.configure(site.configuration());
            site.write("lock", b"");
            let other = site.command(&["update"]);
            let mut elsewhere = Command::new("unshare");
            elsewhere
                .args(["--uts", "--mount", "sh", "-c"])
                .arg("hostname other && mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"")
                .arg("sh")
                .args([site.path("lock"), site.path("etc/.access.lock")])
                .arg(other.get_program())
                .args(other.get_args());
            let output = maps::run(&mut elsewhere, b"");
            let names = site.names();
            fs::write(&fifo, "").unwrap();
            for output in [output, update.wait_with_output().unwrap()] {
                assert!(output.status.success(), "{output:?}");
                assert!(output.stderr.is_empty(), "{output:?}");
            }
            assert_eq!(names, at_work);
            site.assert_agrees();
            site.assert_tidy();
        },
    );
}

#[test]
fn what_another_host_left_goes_when_nobody_can_use_it_any_more() {
    let site = Site::hash();
    let left = site.path("etc/.access.mailaffinity-0123456789abcdef-42-0");
    let file = left.join("access");
    fs::DirBuilder::new().mode(0o700).create(&left).unwrap();
    fs::write(&file, "").unwrap();
    for (days_of_folder, days_of_file) in [(0, 0), (6, 8), (8, 6)] {
        age(&left, days_of_folder);
        age(&file, days_of_file);
        site.update();
        assert!(file.exists(), "{days_of_folder} {days_of_file}");
    }
    age(&file, 8);
    site.update();
    assert!(!left.exists());
    site.assert_tidy();
}
