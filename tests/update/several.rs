//! Several updates at once.

use std::fs::File;
use std::process::Stdio;

use crate::site::{Site, outside};

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
