//! Files and folders that cannot be read or written, or say nonsense.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::site::{ADMINISTRATORS, Site, Stamp, assert_fails, script, set_mode};
use support::maps;
use support::namespace;

/// Runs an update, as one for whom modes count, that must fail and change nothing.
#[track_caller]
fn bound_update_fails(site: &Site, status: i32, message: &str) -> String {
    let before = (site.files("etc"), site.files("lib"));
    let output = maps::run(&mut site.command_bound_by_modes(&["update"]), b"");
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(message), "{stderr}");
    let files = |folder: &str| {
        let mut files = site.files(folder);
        files.retain(|path, _| !path.ends_with("status.json"));
        files
    };
    for (folder, mut before) in [("etc", before.0), ("lib", before.1)] {
        before.retain(|path, _| !path.ends_with("status.json"));
        assert_eq!(files(folder), before);
    }
    stderr
}

#[test]
fn that_may_not_be_written() {
    let site = Site::hash();
    let etc = site.path("etc");
    let access = site.path("etc/access");
    set_mode(&etc, 0o555);
    // Not even the lock can be made.
    let lock = site.path("etc/.access.lock");
    let message = format!("cannot lock {}: Permission denied", lock.display());
    bound_update_fails(&site, 74, &message);
    set_mode(&etc, 0o755);
    site.update();
    site.well(&["down", "node1"]);
    set_mode(&etc, 0o555);
    let message = format!("{}: Permission denied", access.display());
    bound_update_fails(&site, 74, &message);
    set_mode(&etc, 0o755);

    set_mode(&access, 0o000);
    bound_update_fails(&site, 74, &message);
    set_mode(&access, 0o644);
    site.update();
    site.assert_agrees();
    site.assert_tidy();
}

#[test]
fn on_a_file_system_that_is_read_only() {
    namespace::run("folders::on_a_file_system_that_is_read_only", || {
        let site = Site::hash();
        site.update();
        site.well(&["down", "node1"]);
        let etc = site.path("etc");
        let bind = |options: &str| {
            let etc = etc.to_str().unwrap();
            namespace::mount(&["-o", options, etc], etc.as_ref());
        };
        bind("bind");
        namespace::mount(&["-o", "remount,ro,bind"], &etc);
        site.update_fails(&[], 74, "Read-only file system");
        assert_eq!(site.status()["exit_status"], 74);
        namespace::mount(&["-o", "remount,rw,bind"], &etc);
        site.update();
        site.assert_agrees();
        umount(&etc);
    });
}

fn umount(path: &Path) {
    let output = Command::new("umount").arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// As a single file that a container gets for a volume.
#[test]
fn that_are_mount_points() {
    namespace::run("folders::that_are_mount_points", || {
        let site = Site::hash();
        site.update();
        let state = site.path("lib/nodes.toml");
        for name in ["etc/access", "etc/access.db"] {
            site.well(&["down", "node1"]);
            let (path, volume) = (site.path(name), site.path("volume"));
            fs::copy(&path, &volume).unwrap();
            namespace::mount(&["--bind", volume.to_str().unwrap()], &path);
            let message = format!(
                "{}: it is a mount point, which cannot be replaced; mount the folder",
                path.display()
            );
            site.update_fails(&[], 74, &message);
            site.update_fails(&[], 74, "the access map stays as it is");
            site.assert_tidy();
            umount(&path);
            site.update();
            site.assert_agrees();

            namespace::mount(&["--bind", state.to_str().unwrap()], &state);
            let marks = site.read("lib/nodes.toml");
            let output = site.run(&["auto", "node1"]);
            let message = format!(
                "{}: cannot write the node state: it is a mount point",
                state.display()
            );
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && stderr.contains(&message),
                "{output:?}"
            );
            assert_eq!(site.read("lib/nodes.toml"), marks);
            umount(&state);
            site.well(&["auto", "node1"]);
            site.update();
            site.assert_agrees();
        }
    });
}

/// Nobody could know beforehand: the map is in force when the source cannot be replaced.
#[test]
fn that_become_mount_points_in_the_middle() {
    namespace::run("folders::that_become_mount_points_in_the_middle", || {
        let site = Site::hash();
        let (makemap, source, map) = (
            site.path("makemap"),
            site.path("etc/access"),
            site.path("etc/access.db"),
        );
        let real = support::sendmail::program(&["makemap"], "sendmail-bin");
        script(
            &makemap,
            &format!("mount --bind {source:?} {source:?} && exec {real:?} \"$@\""),
        );
        let mounting = site.configuration().set_path("access_map.makemap", makemap);
        let mut before = None;
        loop {
            site.configure(mounting.clone());
            let output = site.run(&["update"]);
            let message = format!("{}: it is a mount point", source.display());
            assert_fails(&output, 74, &message);
            assert_fails(&output, 74, "; the access map stays as it is");
            umount(&source);
            site.assert_tidy();
            match &before {
                // There was no map.
                None => {
                    assert!(!map.exists());
                    assert_eq!(site.source(), ADMINISTRATORS);
                }
                Some((inode, entries, source)) => {
                    assert_eq!(Stamp::of(&map).inode, *inode);
                    assert_eq!(site.entries(), *entries);
                    assert_eq!(site.source(), *source);
                }
            }
            site.configure(site.configuration());
            site.update();
            site.assert_agrees();
            if before.is_some() {
                break;
            }
            before = Some((Stamp::of(&map).inode, site.entries(), site.source()));
            site.well(&["down", "node1"]);
        }
    });
}

#[test]
#[ignore = "as root"]
fn that_are_immutable_as_root() {
    let chattr = |change: &str, path: &Path| {
        let output = Command::new("chattr").arg(change).arg(path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let site = Site::hash();
    site.update();
    site.well(&["down", "node1"]);
    for name in ["etc/access", "etc/access.db"] {
        for (attribute, what) in [("i", "immutable"), ("a", "append-only")] {
            let path = site.path(name);
            chattr(&format!("+{attribute}"), &path);
            let output = site.run(&["update"]);
            chattr(&format!("-{attribute}"), &path);
            let message = format!(
                "{}: it is {what} and cannot be replaced; chattr -{attribute} allows that; the access map stays as it is",
                path.display()
            );
            assert_fails(&output, 74, &message);
        }
    }
    assert_eq!(site.run(&["diff"]).status.code(), Some(1));
    site.update();
    site.assert_agrees();
    site.assert_tidy();
}

#[test]
fn a_state_folder_that_may_not_be_written() {
    let site = Site::hash();
    let check = site.path("check");
    script(&check, "[ \"$1\" != node2 ]");
    // Else makemap gives a new map to the TrustedUser of sendmail.cf, and then needs the
    // rights that it does not have here.
    let configuration = site
        .configuration()
        .set("access_map.makemap_options", vec!["-C", "/dev/null"]);
    site.configure(configuration.clone());
    site.update();
    fs::remove_file(site.path("lib/.status.json.lock")).unwrap();
    set_mode(&site.path("lib"), 0o555);

    // Where there is nothing to write down but the status, the map still follows.
    let users = site.read("users");
    site.write("users", &[&users[..], b"another\n"].concat());
    let output = maps::run(&mut site.command_bound_by_modes(&["update"]), b"");
    assert_fails(&output, 0, "cannot write the status to ");
    site.assert_agrees();

    // A node that is found to be down cannot be marked.
    site.configure(configuration.with(&format!("[checks]\ncommand = [{check:?}]\nfall = 1\n")));
    let lock = format!(
        "cannot lock {}: Permission denied",
        site.path("lib/.nodes.toml.lock").display()
    );
    let stderr = bound_update_fails(&site, 74, &lock);
    assert!(!stderr.contains("another update"), "{stderr}");
    let output = maps::run(&mut site.command_bound_by_modes(&["down", "node1"]), b"");
    assert_fails(&output, 74, &lock);

    set_mode(&site.path("lib"), 0o755);
    site.update();
    site.assert_agrees();
    assert_eq!(site.status()["nodes_down"], serde_json::json!(["node2"]));
}

#[test]
fn a_node_state_that_says_nonsense() {
    let site = Site::hash();
    site.update();
    let state = site.path("lib/nodes.toml");
    for (text, problem) in [
        (&b"[node.node2]\nsince = 1\n"[..], "not a node state: line 2: "),
        (b"[node", "not a node state: line 1: "),
        (b"", "not a node state: it is empty; mend it, or remove it"),
        (b"[node.node2]\nreason = \"\xff\"\n", "line 2 is not UTF-8"),
        (
            b"[node.node1]\nvhost_count = 4000000000\n",
            "", // Too many for a ring.
        ),
    ] {
        site.write("lib/nodes.toml", text);
        site.update_fails(&[], 78, &format!("{}: ", state.display()));
        site.update_fails(&[], 78, problem);
        assert_eq!(site.status()["exit_status"], 78);
        assert_eq!(site.read("lib/nodes.toml"), text, "not mended behind one's back");
    }
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    site.update_fails(&[], 78, "it is not a regular file");
    fs::remove_dir(&state).unwrap();
    site.write("lib/nodes.toml", b"# all are up\n");
    set_mode(&state, 0);
    bound_update_fails(&site, 78, "cannot read the node state: Permission denied");
    set_mode(&state, 0o644);
    site.update();
    site.assert_agrees();
}

/// One that nothing would read any more is not put in force.
#[test]
fn a_node_state_that_would_be_too_long() {
    let site = Site::hash();
    let mark = |reason: &str| format!("[node.node2]\nstate = \"down\"\nreason = \"{reason}\"\n");
    let room = (64 << 20) - mark("").len() - 100;
    let long = mark(&"x".repeat(room)).into_bytes();
    site.write("lib/nodes.toml", &long);
    let message = format!(
        "{}: cannot write the node state: it is too long",
        site.path("lib/nodes.toml").display()
    );
    assert_fails(&site.run(&["down", "node1"]), 74, &message);
    assert!(site.read("lib/nodes.toml") == long);
    site.assert_tidy();
}

#[test]
fn a_configuration_that_says_nonsense() {
    let site = Site::hash();
    site.update();
    let config = site.path("mailaffinity.toml");
    let good = String::from_utf8(site.read("mailaffinity.toml")).unwrap();
    let status = site.read("lib/status.json");
    for (text, wrong, message) in [
        (format!("nonsense = 1\n{good}"), "nonsense", ""),
        (good.replace("[access_map]", "[access_map]\nmap ="), "map =", ""),
        (good.replace("hash:", "btree:"), "btree:", ""),
        (
            good.replace("192.0.2.2", "nowhere"),
            "nowhere",
            "\"nowhere\" is not",
        ),
        (String::new(), "", "there are no nodes"),
    ] {
        let number = text.lines().position(|line| line.contains(wrong));
        let line = number.map_or(String::new(), |number| format!(":{}", number + 1));
        let line = format!("{line}: {message}");
        site.write("mailaffinity.toml", text.as_bytes());
        site.update_fails(&[], 78, &format!("{}{line}", config.display()));
        assert_eq!(site.run(&["diff"]).status.code(), Some(78));
    }
    site.write("mailaffinity.toml", good.as_bytes());
    set_mode(&config, 0);
    bound_update_fails(&site, 78, "cannot read the configuration: Permission denied");
    fs::remove_file(&config).unwrap();
    site.update_fails(
        &[],
        78,
        "cannot read the configuration: No such file or directory",
    );
    assert_eq!(site.read("lib/status.json"), status, "whose would it be");
}
