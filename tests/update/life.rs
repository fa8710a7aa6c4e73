//! The ordinary life of a map.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use serde_json::Value;

use crate::site::{ADMINISTRATORS, Site, Stamp, assert_fails, key, outside, set_mode};
use support::maps;

/// What `diff` prints: what is, and what would be, by node or user.
fn diff(site: &Site, status: i32) -> BTreeMap<String, (String, String)> {
    let plain = site.run(&["diff"]);
    assert_eq!(plain.status.code(), Some(status), "{plain:?}");
    assert!(plain.stderr.is_empty(), "{plain:?}");
    let lines = String::from_utf8(plain.stdout).unwrap();
    let changes: BTreeMap<_, _> = lines
        .lines()
        .map(|line| {
            let (user, change) = line.split_once('\t').unwrap();
            let (before, after) = change.split_once(" -> ").unwrap();
            (user.to_owned(), (before.to_owned(), after.to_owned()))
        })
        .collect();

    let json = site.run(&["diff", "--json"]);
    assert_eq!(json.status.code(), Some(status), "{json:?}");
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows = String::from_utf8(json.stdout).unwrap();
    let rows: BTreeMap<_, _> = rows
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|row| (text(&row["user"]), (text(&row["before"]), text(&row["after"]))))
        .collect();
    assert_eq!(rows, changes);
    assert_eq!(
        site.well(&["update", "--dry-run"]),
        lines.as_bytes(),
        "a dry run says the same"
    );
    changes
}

fn utf8(computed: &crate::site::Entries) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    computed
        .iter()
        .map(|(user, group)| (text(user), text(group)))
        .collect()
}

/// Nothing is written by an update that has nothing to do.
fn assert_idle(site: &Site) {
    let before = (site.files("etc"), Stamp::of(&site.path("etc")));
    site.update();
    assert_eq!((site.files("etc"), Stamp::of(&site.path("etc"))), before);
    assert_eq!(site.status()["result"], "unchanged");
}

fn ordinary_life(site: &Site) {
    let folder = (site.files(""), Stamp::of(&site.path("etc")));
    let first = diff(site, 1);
    assert_eq!(first.len(), 500);
    for (user, group) in utf8(&site.computed()) {
        assert_eq!(first[&user], ("-".into(), group));
    }
    let nothing_written = (site.files(""), Stamp::of(&site.path("etc")));
    assert_eq!(nothing_written, folder, "by map, diff and a dry run");

    site.update();
    site.assert_agrees();
    site.assert_tidy();
    let status = site.status();
    assert_eq!(status["result"], "changed", "{status}");
    assert_eq!((&status["added"], &status["users"]), (&500.into(), &500.into()));
    assert_eq!(outside(&site.source()), (ADMINISTRATORS, &b""[..]));
    assert_idle(site);

    let (source, all_up) = (site.source(), utf8(&site.computed()));
    site.well(&["down", "node2", "--reason", "new disks"]);
    let files = site.files("");
    let changes = diff(site, 1);
    assert_eq!(site.files(""), files);
    let two_up = utf8(&site.computed());
    let of_node2: Vec<&String> = all_up
        .keys()
        .filter(|user| all_up[*user] == "node2group")
        .collect();
    assert!(of_node2.len() > 50, "{}", of_node2.len());
    assert_eq!(changes.keys().collect::<Vec<_>>(), of_node2);
    for user in all_up.keys() {
        let moves = all_up[user] == "node2group";
        assert_eq!(moves, two_up[user] != all_up[user], "{user}");
        let expected = moves.then(|| (all_up[user].clone(), two_up[user].clone()));
        assert_eq!(changes.get(user), expected.as_ref());
    }
    site.update();
    site.assert_agrees();
    let status = site.status();
    assert_eq!(
        (&status["moved"], &status["added"]),
        (&of_node2.len().into(), &0.into())
    );
    assert_eq!(status["nodes_down"], serde_json::json!(["node2"]));
    assert_idle(site);

    site.well(&["auto", "node2"]);
    site.update();
    site.assert_agrees();
    assert!(site.source() == source, "byte for byte");
    assert_idle(site);
    site.assert_tidy();
}

#[test]
fn of_a_hash() {
    ordinary_life(&Site::hash());
}

#[test]
fn of_a_hash_with_nul_bytes() {
    let site = || {
        let site = Site::hash();
        site.configure(site.configuration().set("access_map.makemap_options", vec!["-N"]));
        site
    };
    ordinary_life(&site());
    let site = site();
    site.update();
    let raw = maps::db_dump(&site.path("etc/access.db"));
    assert!(raw.contains(&(b"connect:192.0.2\0".to_vec(), b"RELAY\0".to_vec())));
}

#[test]
fn of_a_text() {
    ordinary_life(&Site::with_map("text"));
}

/// Debian's sendmail has no cdb maps, others have nothing else.
#[test]
fn of_the_other_kind() {
    let other = ["hash", "cdb"]
        .into_iter()
        .find(|kind| *kind != maps::kind())
        .unwrap();
    let site = Site::with_map(other);
    let kinds = maps::run(maps::makemap().arg("-l"), b"").stdout;
    let kinds = String::from_utf8(kinds).unwrap().trim_end().replace('\n', ", ");
    if kinds.contains(other) {
        return ordinary_life(&site);
    }
    site.update_fails(
        &[],
        69,
        &format!(
            "makemap makes no {other} maps, only {kinds} (makemap -l): choose one of sendmail's for [access_map] map; \
             the access map stays as it is"
        ),
    );
    assert_eq!(site.source(), ADMINISTRATORS);
    assert_eq!(
        site.names(),
        [".access.lock", ".status.json.lock", "access", "status.json"]
    );
}

#[test]
fn all_down_leaves_the_map() {
    let site = Site::hash();
    site.update();
    let output = site.run(&["down", "node1", "node2", "node3"]);
    assert_fails(&output, 0, "all nodes are down now");
    site.update_fails(
        &[],
        75,
        "no node without a tag is up and has vhosts; the access map stays as it is",
    );
    assert_eq!(site.status()["exit_status"], 75);
}

#[test]
fn a_map_that_is_gone_or_broken_is_built_anew() {
    let site = Site::hash();
    let map = site.path("etc/access.db");
    site.update();
    fs::remove_file(&map).unwrap();
    let output = site.run(&["diff"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("the map is not the one of this source"));
    let source = Stamp::of(&site.path("etc/access"));
    site.update();
    site.assert_agrees();
    for broken in [&b"not a map"[..], b""] {
        fs::write(&map, broken).unwrap();
        site.update();
        site.assert_agrees();
    }
    assert_eq!(
        Stamp::of(&site.path("etc/access")),
        source,
        "the source was not touched"
    );
    assert!(
        maps::run(
            maps::makemap().arg("hash").arg(site.path("etc/access")),
            ADMINISTRATORS
        )
        .status
        .success()
    );
    site.update();
    site.assert_agrees();
}

/// An access control list as Linux stores it: of `setfacl -m u:1:r--` on a file with mode
/// 0640, or 0740, by the rights of the owner.
fn access_control_list(owner: u16) -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (0x01, owner, u32::MAX),
        (0x02, 4, 1),
        (0x04, 4, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const LIST: &str = "system.posix_acl_access";

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    xattr::list(path)
        .unwrap()
        .map(|name| {
            let value = xattr::get(path, &name).unwrap().unwrap();
            (name.into_string().unwrap(), value)
        })
        .collect()
}

#[test]
fn owner_mode_and_attributes_are_kept() {
    let site = Site::hash();
    site.update();
    let (source, map) = (site.path("etc/access"), site.path("etc/access.db"));
    set_mode(&source, 0o604);
    set_mode(&map, 0o640);
    if rustix::process::geteuid().is_root() {
        chown(&source, Some(1), Some(2)).unwrap();
        chown(&map, Some(3), Some(4)).unwrap();
    }
    xattr::set(&source, "user.note", b"mine\0\xff").unwrap();
    xattr::set(&map, "user.note", b"").unwrap();
    xattr::set(&map, LIST, &access_control_list(6)).unwrap();
    let kept = |path: &Path| {
        let Stamp { mode, owner, .. } = Stamp::of(path);
        (mode, owner, attributes(path))
    };
    let before = [kept(&source), kept(&map)];
    assert!(before[1].2.contains_key(LIST));
    let inodes = [Stamp::of(&source).inode, Stamp::of(&map).inode];
    site.well(&["down", "node1"]);
    site.update();
    assert_eq!([kept(&source), kept(&map)], before);
    assert_ne!(Stamp::of(&source).inode, inodes[0]);
    // sendmail returns mail where it is replaced while it is opened.
    assert_eq!(Stamp::of(&map).inode, inodes[1]);
    // As root, makemap does not read other people's maps.
    set_mode(&map, 0o644);
    site.assert_agrees();
}

#[test]
fn nobody_gets_rights_that_the_old_file_does_not_give() {
    let site = Site::hash();
    site.update();
    let (source, map) = (site.path("etc/access"), site.path("etc/access.db"));
    set_mode(&source, 0o640);
    set_mode(&map, 0o640);
    // From now on, new files in the folder are for one more user.
    xattr::set(
        site.path("etc"),
        "system.posix_acl_default",
        &access_control_list(7),
    )
    .unwrap();
    fs::write(site.path("etc/other"), "").unwrap();
    assert!(attributes(&site.path("etc/other")).contains_key(LIST));
    site.well(&["down", "node1"]);
    site.update();
    for file in [source, map] {
        assert_eq!(Stamp::of(&file).mode & 0o7777, 0o640);
        assert_eq!(attributes(&file), BTreeMap::new(), "{}", file.display());
    }
}

#[test]
fn symbolic_links_stay() {
    let site = Site::hash();
    fs::create_dir_all(site.path("real/maps")).unwrap();
    fs::rename(site.path("etc/access"), site.path("real/source")).unwrap();
    symlink("../real/source", site.path("etc/access")).unwrap();
    // To a map that is still to be made.
    symlink("../real/maps/map", site.path("etc/access.db")).unwrap();
    for node in ["node1", "node2"] {
        site.update();
        site.assert_agrees();
        assert_eq!(
            fs::read_link(site.path("etc/access")).unwrap(),
            Path::new("../real/source")
        );
        assert_eq!(
            fs::read_link(site.path("etc/access.db")).unwrap(),
            Path::new("../real/maps/map")
        );
        assert!(outside(&site.read("real/source")).0 == ADMINISTRATORS);
        assert_eq!(maps::db_dump(&site.path("real/maps/map")).len(), 500 + 2 + 1);
        site.assert_tidy();
        let real = site.files("real").into_keys();
        let real: Vec<_> = real.map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(real, ["maps", "map", "source"]);
        site.well(&["down", node]);
    }
}

#[test]
fn a_check_moves_the_users_of_a_dead_node() {
    let site = Site::hash();
    let check = site.path("check");
    crate::site::script(&check, "[ ! -e \"$0.$1\" ]");
    let checks = format!("[checks]\ncommand = [{check:?}]\nfall = 1\nrise = 1\n");
    site.configure(site.configuration().with(&checks));
    site.update();
    site.assert_agrees();
    let source = site.source();
    site.write("check.node3", b"");
    let files = site.files("");
    let said = String::from_utf8(site.run(&["diff"]).stdout).unwrap();
    assert!(said.starts_with("node3\tup -> down\t"), "{said}");
    assert_eq!(site.files(""), files);
    site.update();
    site.assert_agrees();
    assert!(!site.entries().values().any(|group| group == b"node3group"));
    assert!(site.entries().contains_key(&key(b"user1")));
    fs::remove_file(site.path("check.node3")).unwrap();
    site.update();
    site.assert_agrees();
    assert!(site.source() == source);
    site.assert_tidy();
}

/// sendmail would answer a change of it with 554.
#[test]
fn a_text_map_is_written_only_on_request() {
    let site = Site::with_map("text");
    site.update();
    let text = String::from_utf8(site.read("mailaffinity.toml")).unwrap();
    let text = text.replace("update_text = true\n", "");
    site.write("mailaffinity.toml", text.as_bytes());
    site.update_fails(
        &[],
        78,
        "is not updated: sendmail refuses mail with a permanent 554",
    );
    assert_fails(&site.run(&["diff"]), 78, "or say update_text = true");
}
