//! The programs of on_change, and what they are told.

use std::fs;

use support::sendmail::wait_for;

use crate::site::{Site, Watcher};

/// The lines that a program wrote.
fn told(site: &Site, name: &str) -> Vec<String> {
    let text = fs::read_to_string(site.path(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn programs(site: &Site, names: &[&str]) -> Vec<Vec<String>> {
    let program = |name: &&str| vec![site.path(name).to_str().unwrap().to_owned(), "argument".into()];
    names.iter().map(program).collect()
}

/// One that writes down what it is told, and fails while there is a file.
fn teller(site: &Site, name: &str) {
    let (told, fails) = (
        site.path(&format!("{name}.told")),
        site.path(&format!("{name}.fails")),
    );
    let (told, fails) = (told.display(), fails.display());
    site.script(
        name,
        &format!("echo \"$*\" >>{told}\ntest ! -e {fails} || {{ echo out of order >&2; exit 1; }}"),
    );
}

#[test]
fn one_that_fails_is_tried_again_and_holds_up_no_other() {
    let site = Site::new();
    teller(&site, "one");
    teller(&site, "two");
    site.configure(
        site.checked_by_files()
            .set("watch.on_change", programs(&site, &["one", "two"])),
    );
    site.write("one.fails", "");
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    site.set_up(2, false);
    wait_for("the second", || {
        told(&site, "two.told") == ["argument node2 down"]
    });
    wait_for("another attempt", || told(&site, "one.told").len() > 1);
    site.wait_for_problem("one node2 down ended with exit status 1: out of order");
    let status = fs::read_to_string(site.path("status.json")).unwrap();
    assert!(!status.contains("argument"), "everybody may read it: {status}");
    // It is told all that it does not know.
    site.set_up(3, false);
    wait_for("both", || {
        told(&site, "one.told")
            .last()
            .is_some_and(|last| last == "argument node2 down node3 down")
    });
    // The knowledge outlives the watcher, however it ends.
    drop(watcher);
    let before = told(&site, "one.told").len();
    fs::remove_file(site.path("one.fails")).unwrap();
    let watcher = Watcher::start(&site);
    wait_for("what it does not know", || told(&site, "one.told").len() > before);
    assert_eq!(
        told(&site, "one.told").last().unwrap(),
        "argument node2 down node3 down"
    );
    site.wait_until_well();
    for node in [2, 3] {
        site.set_up(node, true);
    }
    let knows_all = |name: &str| {
        let words: Vec<String> = told(&site, name);
        let last = |node: &str| {
            let lines = words.iter().rev();
            let found = lines.flat_map(|line| line.split_once(&format!("{node} ")));
            found
                .map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned())
                .next()
        };
        ["node2", "node3"]
            .iter()
            .all(|node| last(node).as_deref() == Some("up"))
    };
    wait_for("the return", || knows_all("one.told") && knows_all("two.told"));
    watcher.end();
}

#[test]
fn one_that_hangs_is_killed() {
    let site = Site::new();
    let count = site.path("count");
    site.script("hangs", &format!("echo >>{}\nexec sleep 3600", count.display()));
    teller(&site, "two");
    site.configure(
        site.checked_by_files()
            .set("watch.on_change", programs(&site, &["hangs", "two"]))
            .set("watch.on_change_seconds", 1),
    );
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    site.set_up(2, false);
    wait_for("the other one", || {
        told(&site, "two.told") == ["argument node2 down"]
    });
    site.wait_for_problem("did not end within 1s and was stopped");
    wait_for("another attempt", || told(&site, "count").len() > 1);
    watcher.end();
}
