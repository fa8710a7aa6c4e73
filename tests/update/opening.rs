//! sendmails that open the map while updates change it, and readers that hold its lock.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use support::sendmail::{Sendmail, feature};

use crate::site::{Site, Stamp, assert_fails, script};

/// sendmail looks at the file's name, opens it, has it locked, and compares. strace lets each of
/// its openings wait, so that updates are sure to come between.
#[test]
fn none_takes_the_map_for_another_one() {
    let site = Site::hash();
    site.update();
    let folder = site.path("sendmail");
    fs::create_dir(&folder).unwrap();
    let mc = format!(
        "include(`/usr/share/sendmail/cf/m4/cf.m4')
VERSIONID(`test')
OSTYPE(`linux')
FEATURE(`access_db', `hash -T<TMPF> {}')
FEATURE(`{}')
define(`confDONT_PROBE_INTERFACES', `True')
define(`confDONT_BLAME_SENDMAIL', `GroupWritableDirPathSafe,MapInUnsafeDirPath')
",
        site.path("etc/access").display(),
        feature()
    );
    let sendmail = Sendmail::install(&folder, &mc).command();
    let map = site.map();
    let mut changes = 0;
    for round in 0..4 {
        let mut strace = Command::new("strace");
        let mut asking = strace
            .args([
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                "inject=openat:delay_enter=200000",
                "-P",
            ])
            .arg(map.path())
            .arg(sendmail.get_program())
            .args(sendmail.get_args())
            .arg("-bt")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = asking.stdin.take().unwrap();
        input.write_all(b"queuegroup user1\n").unwrap();
        drop(input);
        while asking.try_wait().unwrap().is_none() {
            let command = if changes % 2 == 0 { "down" } else { "auto" };
            site.well(&[command, "node2"]);
            site.update();
            changes += 1;
        }
        let output = asking.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.stderr.is_empty(), "{output:?}");
        assert!(
            said.contains("returns: $# "),
            "round {round}, {changes} changes: {said}"
        );
    }
    println!("{changes} changes");
    assert!(changes > 8);
}

/// One that does not let go holds up nothing: the map is replaced, and it keeps what it had.
#[test]
fn a_reader_without_end_keeps_the_old_map() {
    let site = Site::hash();
    site.update();
    let path = site.map().path().to_owned();
    let (before, old) = (Stamp::of(&path), fs::read(&path).unwrap());
    let reader = File::open(&path).unwrap();
    reader.lock_shared().unwrap();
    site.well(&["down", "node2"]);
    let begun = Instant::now();
    site.update();
    println!("it took {:?}", begun.elapsed());
    site.assert_agrees();
    site.assert_tidy();
    assert_ne!(Stamp::of(&path).inode, before.inode);
    let mut kept = Vec::new();
    (&reader).read_to_end(&mut kept).unwrap();
    assert!(kept == old);
}

/// There may be no room for a copy of the old content, or where each content needs new blocks, as
/// on Btrfs, for neither of the two.
#[test]
fn a_full_disk_has_the_map_replaced() {
    let site = Site::hash();
    site.update();
    // The first two copy the old content, and find its end.
    for (first, command) in [(1, "down"), (3, "auto")] {
        let before = Stamp::of(site.map().path());
        site.well(&[command, "node2"]);
        let update = site.command(&["update"]);
        let output = Command::new("strace")
            .args(["-fqq", "-o", "/dev/null", "-e"])
            .arg(format!("inject=copy_file_range:error=ENOSPC:when={first}+"))
            .arg(update.get_program())
            .args(update.get_args())
            .output()
            .unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert_ne!(Stamp::of(site.map().path()).inode, before.inode);
        site.assert_agrees();
        site.assert_tidy();
    }
}

/// Its folder beside the map stays, and must not look as if the map were half-written.
#[test]
fn a_makemap_that_left_its_core_has_no_map_built_again_and_again() {
    let site = Site::hash();
    site.update();
    let broken = site.path("makemap");
    script(&broken, "[ \"$1\" = -l ] || echo core > core; exit 1");
    site.configure(site.configuration().set_path("access_map.makemap", broken));
    site.well(&["down", "node2"]);
    assert_fails(&site.run(&["update"]), 69, "the access map stays as it is");
    site.configure(site.configuration());
    site.update();
    let built = Stamp::of(site.map().path());
    site.update();
    assert_eq!(Stamp::of(site.map().path()), built);
}
