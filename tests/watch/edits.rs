//! Files that are edited while it watches.

use std::fs;

use support::sendmail::wait_for;

use crate::site::{Site, Watcher};

#[test]
fn what_is_edited_is_followed() {
    let site = Site::new();
    site.configure(site.checked_by_files().set("watch.update_seconds", 86_400).set(
        "sendmail.alias_files",
        vec![site.path("aliases").to_str().unwrap().to_owned()],
    ));
    site.write("aliases", "");
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    // The users.
    let users = fs::read_to_string(site.path("users")).unwrap();
    site.write("users", &format!("{users}newuser\n"));
    site.wait_for_map();
    assert!(site.groups().contains_key("newuser"));
    // A mark by hand, and back.
    site.site.must(&["down", "node2", "--reason", "new disks"]);
    site.wait_for_map();
    assert!(!site.groups().values().any(|group| group == "node2group"));
    assert_eq!(site.down(), ["node2"], "its checks do not say so");
    site.site.must(&["auto", "node2"]);
    site.wait_for_map();
    // The aliases.
    site.write("aliases", "postmaster: newuser\n");
    let source = || fs::read_to_string(site.path("access")).unwrap();
    wait_for("the alias", || source().contains("postmaster@"));
    // The administrator's own lines, written in place.
    let text = source().replace("Connect:192.0.2\tRELAY", "Connect:192.0.3\tRELAY");
    fs::write(site.path("access"), text).unwrap();
    let entry = || {
        let file = support::maps::named(site.path("access"));
        let dumped = support::maps::makemap()
            .args(["-u", support::maps::kind()])
            .arg(file)
            .output();
        String::from_utf8(dumped.unwrap().stdout)
            .unwrap()
            .contains("connect:192.0.3")
    };
    wait_for("the line", entry);
    // Another status in the same folder, and so with the same lock.
    let text = fs::read_to_string(site.site.config()).unwrap();
    site.write(
        "mailaffinity.toml",
        &text.replace("/status.json", "/elsewhere.json"),
    );
    wait_for("the other status", || site.path("elsewhere.json").exists());
    assert_eq!(watcher.end(), "");
    site.assert_tidy();
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let site = Site::new();
    site.configure(site.checked_by_files());
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    let good = fs::read_to_string(site.site.config()).unwrap();
    site.write("mailaffinity.toml", &good.replace("[watch]", "[watched]"));
    site.wait_for_problem("unknown field `watched`");
    // It goes on as before.
    site.set_up(2, false);
    site.wait_for_down(&["node2"]);
    wait_for("the map", || {
        !site.groups().values().any(|group| group == "node2group")
    });
    assert_eq!(watcher.stderr().matches("unknown field").count(), 1);
    site.write("mailaffinity.toml", &good);
    site.wait_until_well();
    // Nor does one whose status cannot be where it says.
    let nowhere = good.replace("/status.json", "/users/status.json");
    assert_ne!(nowhere, good);
    site.write("mailaffinity.toml", &nowhere);
    site.wait_for_problem("configuration: ");
    site.write("mailaffinity.toml", &good);
    site.wait_until_well();
    // Another one counts, and nodes keep their marks.
    site.configure(
        site.checked_by_files()
            .set_path("access_map.published", site.path("answers.cdb")),
    );
    wait_for("what is published", || site.path("answers.cdb").exists());
    assert_eq!(site.down(), ["node2"]);
    site.set_up(2, true);
    site.wait_for_down(&[]);
    site.wait_for_map();
    let stderr = watcher.end();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("the last good one stays in force"), "{stderr}");
}

#[test]
fn what_a_node_leaves_that_has_another_name_is_told_while_it_is_there() {
    let site = Site::new();
    site.configure(site.checked_by_files().set("watch.update_seconds", 1));
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    site.write(
        "nodes.toml",
        "[node.Node2]\nstate = \"up\"\nmoved = \"24f9e15e\"\n",
    );
    site.wait_for_problem("\"Node2\" is marked but not in the configuration");
    site.wait_for_problem("\"Node2\" is not in the configuration, but users were moved to it (1)");
    site.write("nodes.toml", "# none\n");
    site.wait_until_well();
    let stderr = watcher.end();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_broken_node_state_is_not_replaced() {
    let site = Site::new();
    site.configure(site.checked_by_files());
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    site.write("nodes.toml", "broken");
    site.wait_for_problem("not a node state");
    site.set_up(2, false);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(fs::read_to_string(site.path("nodes.toml")).unwrap(), "broken");
    site.write("nodes.toml", "# mended\n");
    site.wait_for_down(&["node2"]);
    site.wait_until_well();
    watcher.end();
}
