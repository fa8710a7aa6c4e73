//! Disks that are full.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use support::configuration::node_state;
use support::namespace;

use crate::site::{ADMINISTRATORS, Entries, Site, assert_fails, outside, user_list};

const PAGE: u64 = 4096;

#[derive(Debug, Default)]
struct Counts {
    failed: usize,
    without_status: usize,
    went_through: usize,
}

/// A disk that can be filled.
struct Disk<'s> {
    site: &'s Site,
    /// How to leave room for so many more pages, or files.
    fill: fn(&Path, u64),
}

fn fill_pages(folder: &Path, left: u64) {
    let path = folder.join("filler");
    let mut file = File::create(&path).unwrap();
    let page = [0; PAGE as usize];
    while file.write_all(&page).is_ok() {}
    let size = file.metadata().unwrap().len() / PAGE * PAGE;
    file.set_len(size.saturating_sub(left * PAGE)).unwrap();
}

fn fill_inodes(folder: &Path, left: u64) {
    let filler = folder.join("filler");
    fs::create_dir(&filler).unwrap();
    let mut count = 0u64;
    while File::create(filler.join(count.to_string())).is_ok() {
        count += 1;
    }
    for file in count.saturating_sub(left)..count {
        fs::remove_file(filler.join(file.to_string())).unwrap();
    }
}

fn free(folder: &Path) {
    let filler = folder.join("filler");
    let _ = fs::remove_dir_all(&filler);
    let _ = fs::remove_file(&filler);
}

/// Some of a site's folders on a small file system of their own.
fn on_a_disk(kind: &str, options: &str, folders: &[&str], body: impl FnOnce(&Site)) {
    let site = Site::with_map(kind);
    let disk = site.path("disk");
    fs::create_dir(&disk).unwrap();
    namespace::mount(&["-t", "tmpfs", "-o", options, "tmpfs"], &disk);
    for folder in folders {
        fs::create_dir(disk.join(folder)).unwrap();
        fs::remove_dir_all(site.path(folder)).unwrap();
        std::os::unix::fs::symlink(disk.join(folder), site.path(folder)).unwrap();
    }
    site.write("etc/access", ADMINISTRATORS);
    site.write("users", &user_list(0..1000));
    body(&site);
    umount(&disk);
}

fn umount(path: &Path) {
    let output = std::process::Command::new("umount").arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

impl Disk<'_> {
    /// Lets updates run with ever more room, until some have gone through untroubled.
    fn fill_to_all_degrees(&self) -> Counts {
        let disk = self.site.path("disk");
        let mut counts = Counts::default();
        let mut untroubled = 0;
        for left in 0..500 {
            let down: &[&str] = if left % 2 == 0 { &["node2"] } else { &[] };
            self.site.write("lib/nodes.toml", node_state(down).as_bytes());
            let before = in_force(self.site);
            (self.fill)(&disk, left);
            let output = self.site.run(&["update"]);
            let after = in_force(self.site);
            self.site.map().queue_group(b"user1").unwrap().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let filled = self.site.names();
            free(&disk);
            for name in filled {
                assert!(!name.contains("mailaffinity-"), "{name} was left: {stderr}");
            }
            if output.status.success() {
                assert_ne!(before, after);
                assert_eq!(outside(&after.0).0, ADMINISTRATORS);
                if stderr.is_empty() {
                    untroubled += 1;
                } else {
                    assert!(stderr.contains("cannot write the status to "), "{stderr}");
                    counts.without_status += 1;
                }
                counts.went_through += 1;
            } else {
                assert!(before == after, "{stderr}");
                let names_a_file = stderr.contains(&*disk.to_string_lossy());
                assert!(names_a_file, "{stderr}");
                assert!(stderr.contains("the access map stays as it is"), "{stderr}");
                counts.failed += 1;
                self.site.update();
            }
            self.site.assert_agrees();
            self.site.assert_tidy();
            if untroubled == 3 {
                return counts;
            }
        }
        panic!("no update went through: {counts:?}");
    }
}

/// The source, and the map where that is another file.
fn in_force(site: &Site) -> (Vec<u8>, Entries) {
    let is_built = site.map().is_built();
    let entries = if is_built { site.entries() } else { Entries::new() };
    (site.source(), entries)
}

/// Fills a disk more and more while updates run; more than `least` of them must fail.
fn fill_to_all_degrees(kind: &str, options: &str, fill: fn(&Path, u64), least: usize) {
    on_a_disk(kind, options, &["etc", "lib"], |site| {
        site.update();
        let counts = Disk { site, fill }.fill_to_all_degrees();
        println!("{counts:?}");
        assert!(counts.failed > least, "{counts:?}");
    });
}

#[test]
fn without_room() {
    namespace::run("full_disk::without_room", || {
        fill_to_all_degrees("hash", "size=2m", fill_pages, 10);
    });
}

#[test]
fn without_room_for_a_text() {
    namespace::run("full_disk::without_room_for_a_text", || {
        fill_to_all_degrees("text", "size=2m", fill_pages, 2);
    });
}

#[test]
fn without_inodes() {
    namespace::run("full_disk::without_inodes", || {
        fill_to_all_degrees("hash", "size=8m,nr_inodes=60", fill_inodes, 2);
    });
}

#[test]
fn from_the_first_update_on() {
    namespace::run("full_disk::from_the_first_update_on", || {
        on_a_disk("hash", "size=2m", &["etc", "lib"], |site| {
            let disk = site.path("disk");
            for left in [0, 1, 2, 5] {
                fill_pages(&disk, left);
                let output = site.run(&["update"]);
                assert!(!output.status.success(), "{output:?}");
                free(&disk);
                assert_eq!(site.source(), ADMINISTRATORS);
                assert!(!site.path("etc/access.db").exists());
                site.assert_tidy();
            }
            site.update();
            site.assert_agrees();
        });
    });
}

#[test]
fn without_room_for_the_node_state() {
    namespace::run("full_disk::without_room_for_the_node_state", || {
        on_a_disk("hash", "size=2m", &["etc", "lib"], |site| {
            site.update();
            let disk = site.path("disk");
            fill_pages(&disk, 0);
            let before = site.files("etc");
            let output = site.run(&["down", "node1"]);
            let message = format!(
                "{}: cannot write the node state: No space left on device",
                site.path("lib/nodes.toml").display()
            );
            assert_fails(&output, 74, &message);
            assert_eq!(site.files("etc"), before);
            assert!(!site.path("lib/nodes.toml").exists());
            free(&disk);
            site.well(&["down", "node1"]);
            site.update();
            site.assert_agrees();
            site.assert_tidy();
        });
    });
}

#[test]
fn a_node_state_that_cannot_be_written() {
    namespace::run("full_disk::a_node_state_that_cannot_be_written", || {
        on_a_disk("hash", "size=2m", &["lib"], |site| {
            let node2_fails = ["/bin/sh", "-c", "[ $1 != node2 ]", "check"].to_vec();
            let configuration = site.configuration().set("checks.command", node2_fails);
            site.configure(
                configuration
                    .set("checks.fall", 1)
                    .set_path("status", site.path("status.json")),
            );
            site.well(&["down", "node1"]);
            let (disk, file) = (site.path("disk"), site.path("lib/nodes.toml"));
            let state = site.read("lib/nodes.toml");
            let fails = |problem: &str| {
                for command in [&["down", "node3"][..], &["update"]] {
                    assert_fails(&site.run(command), 74, problem);
                    assert_eq!(site.read("lib/nodes.toml"), state);
                }
            };
            let cannot_write = format!("{}: cannot write the node state: ", file.display());

            fill_pages(&disk, 0);
            fails(&(cannot_write.clone() + "No space left on device"));
            free(&disk);

            namespace::mount(&["--bind", file.to_str().unwrap()], &file);
            fails(&(cannot_write + "it is a mount point"));
            umount(&file);

            namespace::mount(&["-o", "remount,bind,ro"], &disk);
            fails("/.nodes.toml.lock: Read-only file system");
            namespace::mount(&["-o", "remount,bind,rw"], &disk);
            site.update();
        });
    });
}

#[test]
fn without_room_for_the_status() {
    namespace::run("full_disk::without_room_for_the_status", || {
        on_a_disk("hash", "size=2m", &["lib"], |site| {
            site.update();
            let status = site.read("lib/status.json");
            site.well(&["down", "node1"]);
            fill_pages(&site.path("disk"), 0);
            let output = site.run(&["update"]);
            let message = format!(
                "cannot write the status to {}: No space left on device",
                site.path("lib/status.json").display()
            );
            assert_fails(&output, 0, &message);
            site.assert_agrees();
            site.assert_tidy();
            assert_eq!(site.read("lib/status.json"), status);
        });
    });
}
