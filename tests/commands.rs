//! The commands, as scripts and administrators run them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mailaffinity::config::Config;
use mailaffinity::mapping::{modulo_vnode, ring_vnode};
use tempfile::TempDir;

/// A folder with a configuration of three nodes and, possibly, a node state.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Site {
        let site = Site {
            folder: tempfile::tempdir().unwrap(),
        };
        let state = site.path("nodes.toml");
        let mut text = format!("node_state = {state:?}\n");
        for number in 1..=3 {
            text += &format!("[[node]]\nname = \"node{number}\"\naddress = \"10.0.0.{number}\"\n");
            text += &format!("imap_host = \"imap{number}.example.org\"\n");
            if number < 3 {
                text += &format!("queue_group = \"node{number}group\"\n");
            }
        }
        text += "[[node]]\nname = \"far\"\naddress = \"10.9.0.1\"\ntag = \"far\"\n";
        fs::write(site.path("mailaffinity.toml"), text).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn map(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let config = self.path("mailaffinity.toml");
        let arguments = [&["map", "--config", config.to_str().unwrap()], arguments].concat();
        run(env!("CARGO_BIN_EXE_mailaffinity"), &arguments, stdin)
    }
}

fn run(program: &str, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails at once does not read it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn hash_user_group(arguments: &[&str], stdin: &[u8]) -> Output {
    run(env!("CARGO_BIN_EXE_hash_user_group"), arguments, stdin)
}

#[track_caller]
fn assert_quiet_success(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[track_caller]
fn assert_fails(output: &Output, status: i32, message: &str) {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(message), "{stderr}");
}

#[test]
fn map_answers_as_the_director_did() {
    let site = Site::new();
    let capture = fs::read_to_string("tests/director/ring-3.tsv").unwrap();
    let answers: Vec<(&str, &str)> = capture
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains('%'))
        .map(|line| {
            let (user, answer) = line.split_once("\t\t10.0.0.").unwrap();
            (user, answer)
        })
        .filter(|(user, _)| !user.is_empty())
        .collect();
    assert!(answers.len() > 100);
    let users: Vec<&str> = answers.iter().map(|(user, _)| *user).collect();
    let output = site.map(&[], users.join("\n").as_bytes());
    assert_quiet_success(&output);
    let expected: String = answers
        .iter()
        .map(|(user, node)| {
            let group = if *node == "3" {
                "-".into()
            } else {
                format!("node{node}group")
            };
            format!("{user}\tnode{node}\timap{node}.example.org\t{group}\n")
        })
        .collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn the_example_of_readme_is_true() {
    let readme = fs::read_to_string("README.md").unwrap();
    let (_, from_example) = readme.split_once("```toml\n").unwrap();
    let (example, _) = from_example.split_once("```").unwrap();
    let site = Site::new();
    let state = site.path("nodes.toml");
    let example = example.replace("/var/lib/mailaffinity/nodes.toml", state.to_str().unwrap());
    fs::write(site.path("mailaffinity.toml"), example).unwrap();

    let (_, from_call) = readme.split_once("    $ mailaffinity map ").unwrap();
    let mut lines = from_call.lines();
    let users: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let shown: String = lines
        .map_while(|line| line.strip_prefix("    "))
        .map(|line| format!("{line}\n"))
        .collect();
    let output = site.map(&users, b"");
    assert_quiet_success(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
}

#[test]
fn map_takes_users_as_arguments_and_bytes_on_standard_input() {
    let site = Site::new();
    let arguments = site.map(&["user1", "USER1"], b"ignored\n");
    assert_quiet_success(&arguments);
    let lines = String::from_utf8(arguments.stdout).unwrap();
    let nodes: Vec<&str> = lines
        .lines()
        .map(|line| line.split_once('\t').unwrap().1)
        .collect();
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes[0], nodes[1], "%Lu folds case");

    let bytes = site.map(&[], b"\xff\xfe\n\na\tb\r\nlast");
    assert_quiet_success(&bytes);
    let lines: Vec<&[u8]> = bytes.stdout.split(|&b| b == b'\n').collect();
    assert!(lines[0].starts_with(b"\xff\xfe\tnode"), "{bytes:?}");
    assert!(
        lines[1].starts_with(b"\tnode"),
        "a line out for each line in: {bytes:?}"
    );
    assert!(lines[2].starts_with(b"a\\tb\\r\tnode"), "{bytes:?}");
    assert!(lines[3].starts_with(b"last\tnode"), "{bytes:?}");
    assert_eq!(lines.len(), 5);
}

#[test]
fn all_keys_that_readme_lists_are_taken() {
    let readme = fs::read_to_string("README.md").unwrap();
    let keys = readme
        .split("```toml\n")
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains("max_loss_percent"))
        .unwrap();
    // Also what stands there as a comment, in place of its alternative.
    let others = keys
        .replace("director =", "# director =")
        .replace("# probe", "probe")
        .replace("# port", "port")
        .replace("# command = [\"/usr/bin", "command = [\"/usr/bin");
    assert_ne!(keys, others);
    for text in [keys, &others] {
        let config = Config::parse(text, Path::new("README.md")).unwrap();
        assert_eq!(config.nodes.len(), 1);
    }
    // The values it shows are the defaults.
    let bare =
        "[access_map]\nmap = \"hash:/etc/mail/access\"\n[[node]]\nname = \"a\"\naddress = \"192.0.2.1\"\n";
    let (shown, default) = (
        Config::parse(keys, Path::new("x")).unwrap(),
        Config::parse(bare, Path::new("x")).unwrap(),
    );
    assert_eq!(shown.map_build, default.map_build);
    assert_eq!(shown.users, default.users);
    assert_eq!(shown.sendmail, default.sendmail);
    assert_eq!(shown.drain, default.drain);
    assert_eq!((shown.status, shown.syslog), (default.status, default.syslog));
}

#[test]
fn map_follows_tags_and_the_node_state() {
    let site = Site::new();
    let far = site.map(&["--tag", "far", "user1"], b"");
    assert_quiet_success(&far);
    assert_eq!(far.stdout, b"user1\tfar\t10.9.0.1\t-\n");
    assert_fails(
        &site.map(&["--tag", "nosuch", "user1"], b""),
        75,
        "no node with the tag \"nosuch\"",
    );

    let down = "[down.node2]\nsince = \"2026-11-23T20:45:00Z\"\nreason = \"test\"\n";
    let users: String = (0..200).map(|n| format!("user{n}\n")).collect();
    let before = site.map(&[], users.as_bytes());
    assert!(String::from_utf8_lossy(&before.stdout).contains("\tnode2\t"));
    fs::write(site.path("nodes.toml"), down).unwrap();
    let after = site.map(&[], users.as_bytes());
    assert_quiet_success(&after);
    assert!(!String::from_utf8_lossy(&after.stdout).contains("\tnode2\t"));
}

#[test]
fn map_says_what_is_wrong() {
    let site = Site::new();
    fs::write(site.path("nodes.toml"), "[down").unwrap();
    assert_fails(
        &site.map(&["user1"], b""),
        78,
        "nodes.toml: not a node state: line 1",
    );
    fs::write(site.path("mailaffinity.toml"), "strategy = 1\n").unwrap();
    assert_fails(&site.map(&["user1"], b""), 78, "mailaffinity.toml:1: ");
    fs::remove_file(site.path("mailaffinity.toml")).unwrap();
    assert_fails(&site.map(&["user1"], b""), 78, "cannot read the configuration");
    let mailaffinity = env!("CARGO_BIN_EXE_mailaffinity");
    assert_fails(&run(mailaffinity, &["nosuch"], b""), 64, "nosuch");
    assert_fails(&run(mailaffinity, &["map", "--nosuch"], b""), 64, "--nosuch");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hash_user_group"))
        .args(["--vnodes", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let users = "user1\n".repeat(100_000);
    let _ = child.stdin.take().unwrap().write_all(users.as_bytes());
    assert_quiet_success(&child.wait_with_output().unwrap());
}

#[test]
fn hash_user_group_prints_vnodes() {
    let users: Vec<String> = (0..300).map(|n| format!("user{n}")).collect();
    let expected = |vnode: fn(&[u8], u32) -> Option<u32>| -> String {
        users
            .iter()
            .map(|user| format!("{user}\t{}\n", vnode(user.as_bytes(), 17).unwrap()))
            .collect()
    };
    for (arguments, expected) in [
        (&["--vnodes", "17"][..], expected(ring_vnode)),
        (&["-n", "17", "--strategy", "ring"], expected(ring_vnode)),
        (&["-n", "17", "-s", "modulo"], expected(modulo_vnode)),
    ] {
        let output = hash_user_group(arguments, users.join("\n").as_bytes());
        assert_quiet_success(&output);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
    assert_eq!(hash_user_group(&["-n", "3", "user1"], b"").stdout, b"user1\t2\n");
}

#[test]
fn hash_user_group_refuses_what_it_cannot_do() {
    for arguments in [&[][..], &["-n", "0"], &["-n", "x"], &["-n", "3", "-s", "other"]] {
        assert_fails(&hash_user_group(arguments, b""), 64, "error: ");
    }
    for flag in ["--help", "--version"] {
        let output = hash_user_group(&[flag], b"");
        assert_quiet_success(&output);
        assert!(!output.stdout.is_empty());
    }
}
