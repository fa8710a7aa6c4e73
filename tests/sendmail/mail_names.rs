//! What sendmail makes of names: its aliases as newaliases has them, and which name it
//! asks for.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use mailaffinity_cli::aliases::{Target, is_plain, parse, target};
use support::built::MAILAFFINITY;
use support::configuration::{Configuration, Node};
use support::sendmail::{Cluster, program, run};

/// All that can go wrong in an alias file, and what looks so.
const ALIASES: &str = "# a comment
Info: anna
info2 : info
cont: anna,
  bert,
\tcarla
bs: an\\
na
\"quoted\": anna
dup: anna
dup: bert
esc: \\anna
incl: :include:/nowhere
\tand more
  no continuation of a comment's, but of the alias

  of nothing
  of nothing either
no colon
  and more
empty:
next:
 anna
trail: anna   \t
comment: anna (Anna)
hash: anna # x
pipe: \"|/bin/prog a, b\"
file: /dev/null
UPPER+Foo: Anna
det+*: anna
r&d: anna
a/b: r&d
q?: $x{y}
t~i^c|k`k: a*b
#x: anna
naïve: naïve
a=b: a#b
[a]: anna
a\\b: anna
late: anna # \\
bert
last: anna";

#[test]
fn aliases_are_those_that_newaliases_makes() {
    let cluster = Cluster::new(&["node1"]);
    let file = cluster.folder().join("aliases");
    fs::write(&file, ALIASES).unwrap();
    let said = run(cluster.command("node1").arg("-bi"), b"");
    let said = String::from_utf8(said.stdout).unwrap() + &String::from_utf8(said.stderr).unwrap();
    let makemap = program(&["makemap"], "sendmail-bin");
    let printed = run(Command::new(makemap).args(["-u", "hash"]).arg(&file), b"");
    let printed = String::from_utf8(printed.stdout).unwrap();
    let database: BTreeMap<String, Target> = printed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(name, _)| *name != "@")
        .filter(|(name, _)| is_plain(name.as_bytes()) && *name != "quoted")
        .map(|(name, value)| (name.to_owned(), target(value.as_bytes())))
        .collect();

    let (aliases, bad) = parse(ALIASES.as_bytes());
    let ours: BTreeMap<String, Target> = aliases
        .into_iter()
        .map(|alias| {
            (
                String::from_utf8(alias.name).unwrap().to_lowercase(),
                target(&alias.value),
            )
        })
        .filter(|(name, _)| is_plain(name.as_bytes()))
        .collect();
    assert_eq!(ours, database, "{printed}");
    // sendmail names the last line of what it reads as one.
    let lines: Vec<u64> = bad.iter().map(|bad| bad.line).collect();
    assert_eq!(lines, [17, 19, 21], "{bad:?}");
    let complaints = said
        .lines()
        .filter(|line| line.contains(": line ") && !line.contains("Warning"));
    assert_eq!(complaints.count(), bad.len(), "{said}");
}

/// The lines that set the option, as sendmail reads them.
#[test]
fn alias_files_are_those_that_sendmail_has() {
    let cluster = Cluster::new(&["node1"]);
    let folder = cluster.folder();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let options = format!(
        "OA{}\nO AliasFile = {} # ours\nO ALIASF={},\n  hash: -o {}\n#O AliasFile={}\n",
        path("one"),
        path("two"),
        path("three"),
        path("four"),
        path("no"),
    );
    let names = ["one", "two", "three", "four", "no"];
    for name in names {
        fs::write(folder.join(name), format!("{name}: daemon\n")).unwrap();
    }
    let cf = folder.join("node1/sendmail.cf");
    let text = fs::read_to_string(&cf).unwrap();
    let ours = text
        .lines()
        .position(|line| line.starts_with("O AliasFile="))
        .unwrap();
    let lines: Vec<&str> = text.lines().collect();
    fs::write(
        &cf,
        [&lines[..ours], &[&options], &lines[ours + 1..]]
            .concat()
            .join("\n"),
    )
    .unwrap();

    run(cluster.command("node1").arg("-bi"), b"");
    let made: Vec<&str> = names
        .into_iter()
        .filter(|name| folder.join(format!("{name}.db")).exists())
        .collect();
    assert_eq!(made, ["one", "two", "three", "four"]);

    let config = folder.join("mailaffinity.toml");
    fs::write(folder.join("users"), "daemon\n").unwrap();
    fs::write(folder.join("source"), "").unwrap();
    let configuration = Configuration::of([Node::numbered(1, "10.0.0").queue_group("node1group")])
        .set_path("node_state", folder.join("nodes.toml"))
        .access_map("hash", folder.join("source"))
        .set_path("access_map.makemap", program(&["makemap"], "sendmail-bin"))
        .users(folder.join("users"))
        .sendmail(cluster.words("node1"));
    fs::write(&config, configuration.to_string()).unwrap();
    let diff = run(
        Command::new(&*MAILAFFINITY)
            .arg("--config")
            .arg(config)
            .arg("diff"),
        b"",
    );
    let diff = String::from_utf8(diff.stdout).unwrap();
    let others = diff.lines().filter(|line| line.ends_with("(other name)"));
    let mut others: Vec<&str> = others.map(|line| line.split_once('\t').unwrap().0).collect();
    others.sort_unstable();
    assert_eq!(others, ["four", "one", "three", "two"], "{diff}");
}
