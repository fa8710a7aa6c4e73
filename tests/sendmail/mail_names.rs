//! What sendmail makes of names: its aliases as newaliases has them, and which name it
//! asks for.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use mailaffinity_cli::aliases::{Target, is_plain, parse, target};
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
    // A quoted name is none that we read.
    let database: BTreeMap<String, Target> = printed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(name, _)| *name != "@")
        .filter(|(name, _)| *name != "quoted")
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
        .filter(|(name, _)| is_plain(name.trim_end_matches("+*").as_bytes()))
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
