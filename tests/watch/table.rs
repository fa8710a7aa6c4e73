//! `mailaffinity nodes --watch`: what the watcher sees, for people.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, Command, Stdio};

use crate::site::{Site, Watcher};

/// Runs a program, whose output is to be read, and ends it in any case.
struct Program(Child);

impl Program {
    fn spawn(program: &str, arguments: &[&str]) -> Program {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Program(command.spawn().unwrap())
    }

    fn output(&mut self) -> impl Read + use<> {
        self.0.stdout.take().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next of the tables that come one below the other.
fn next_table(lines: &mut impl Iterator<Item = String>) -> Vec<String> {
    lines.take_while(|line| !line.is_empty()).collect()
}

#[test]
fn follows_the_watcher() {
    let site = Site::new();
    let falls = site.checked_by_files().set("watch.falls_per_hour", 1);
    site.configure(falls);
    let home = site.computed()["user1"].clone();
    let watcher = Watcher::start(&site);
    let config = site.site.config();
    let arguments = ["--config", config.to_str().unwrap(), "nodes", "--watch"];
    let mut table = Program::spawn(&support::built::MAILAFFINITY, &arguments);
    let output = BufReader::new(table.output());
    let mut lines = output.lines().map(Result::unwrap);
    let first = next_table(&mut lines);
    assert!(
        first[0].ends_with('Z') && first[0].parse::<jiff::Timestamp>().is_ok(),
        "{first:?}"
    );
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        words(&first[1]),
        ["NODE", "STATE", "SINCE", "BY", "SHARE", "FALLS", "REASON"]
    );
    let node2 = words(&first[3]);
    assert_eq!(
        (&*node2[0], &*node2[1], node2.last().unwrap().as_str()),
        ("node2", "up", "0")
    );

    // It falls, and comes back to be told that it does so too often; and somebody is moved.
    site.set_up(2, false);
    site.wait_for_down(&["node2"]);
    site.set_up(2, true);
    site.wait_for_problem("node node2: ");
    let node = if home == "node1group" { "node3" } else { "node1" };
    site.site.must(&["move", "user1", node]);
    let is_told = |table: &[String]| {
        table
            .last()
            .is_some_and(|last| last.starts_with("  node node2: it answers"))
    };
    let told = loop {
        let next = next_table(&mut lines);
        assert!(!next.is_empty());
        if is_told(&next) {
            break next;
        }
    };
    let node2 = words(&told[3]);
    assert_eq!(
        (&*node2[1], &*node2[3], &*node2[5]),
        ("down", "checks", "1"),
        "{told:?}"
    );
    assert!(
        told.iter().any(|line| line.ends_with("has problems: 1")),
        "{told:?}"
    );
    let mut next = told;
    while !next.contains(&"users moved by hand or by the Director: 1".to_owned()) {
        next = next_table(&mut lines);
        assert!(!next.is_empty());
    }

    // What nobody but the watcher needs to tell is told once.
    let state = std::fs::read_to_string(site.path("nodes.toml")).unwrap();
    site.write(
        "nodes.toml",
        &format!("{state}\n[node.node8]\nstate = \"down\"\n"),
    );
    let mut times = 0;
    let is_by_watcher = |line: &String| line.starts_with("  nodes: ");
    while !next.iter().any(is_by_watcher) {
        next = next_table(&mut lines);
        assert!(!next.is_empty());
        times = next.iter().filter(|line| line.contains("node8")).count();
    }
    assert_eq!(times, 1, "{next:?}");

    // What is broken is told, and it goes on.
    let good = std::fs::read_to_string(&config).unwrap();
    site.write("mailaffinity.toml", "broken");
    while !next[0].starts_with("mailaffinity: ") {
        next = next_table(&mut lines);
    }
    site.write("mailaffinity.toml", &good);
    while next.len() < 5 {
        next = next_table(&mut lines);
    }
    // A reader that goes away is no failure.
    drop(lines);
    assert!(table.0.wait().unwrap().success());
    watcher.end();
}

#[test]
fn redraws_a_terminal_until_it_is_interrupted() {
    let site = Site::new();
    site.configure(site.configuration());
    // Not as below nohup; and script(1) is the terminal.
    let command = format!(
        "exec env --default-signal=INT '{}' --config '{}' nodes --watch",
        &*support::built::MAILAFFINITY,
        site.site.config().display()
    );
    let mut terminal = Program::spawn(
        "script",
        &[
            "--quiet",
            "--return",
            "--flush",
            "--command",
            &command,
            "/dev/null",
        ],
    );
    let mut output = terminal.output();
    let mut text = String::new();
    let mut read_until = |is_there: &dyn Fn(&str) -> bool| {
        let mut bytes = [0; 1000];
        while !is_there(&text) {
            let length = output.read(&mut bytes).unwrap();
            assert!(length > 0, "{text:?}");
            text += &String::from_utf8_lossy(&bytes[..length]);
        }
        text.clone()
    };
    let twice = read_until(&|text| text.matches("\x1b[J").count() == 2);
    assert_eq!(
        twice.matches("\x1b[2J").count(),
        1,
        "it does not flicker: {twice:?}"
    );
    assert_eq!(twice.matches("\x1b[H").count(), 2);
    assert_eq!(twice.matches("node3  up").count(), 2);
    assert!(twice.contains("REASON\x1b[K\r\n"), "{twice:?}");
    terminal.0.stdin.as_ref().unwrap().write_all(b"\x03").unwrap();
    assert_eq!(
        terminal.0.wait().unwrap().code(),
        Some(128 + 2),
        "as interrupted commands end"
    );
}
