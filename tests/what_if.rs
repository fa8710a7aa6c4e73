//! `mailaffinity what-if`: its numbers, beside those counted from `mailaffinity map`, and
//! its bars and pictures.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use roxmltree::{Document, Node};
use serde_json::{Value, json};
use support::site::Site;

use support::built::MAILAFFINITY;
/// Node names with what is special in XML and on terminals, or is long.
const UGLY: [&str; 4] = [
    "<b>&\"amp;'</b>]]>--",
    "a-very-long-name-of-a-backend-node-0001.dc1.cluster.example.org",
    "Ünïcödé-\u{ffff}\u{202e}\u{301}",
    "WWWWWWWWWWMMMMMMMMMMWWWWWWWWWWMMMMMMMMMMWWWWWWWWWW",
];

/// A site with these nodes and 1000 users.
fn site<'n>(strategy: &str, nodes: impl IntoIterator<Item = (&'n str, u32)>) -> Site {
    let site = Site::new();
    configure(&site, strategy, nodes);
    let users: String = (0..1000)
        .map(|n| match n % 3 {
            0 => format!("user{n}\n"),
            1 => format!("First.Last{n}@example.org\n"),
            _ => format!("b\u{e9}rt+box{n}\n"),
        })
        .collect();
    fs::write(site.path("users"), users).unwrap();
    site
}

fn configure<'n>(site: &Site, strategy: &str, nodes: impl IntoIterator<Item = (&'n str, u32)>) {
    let mut text = format!(
        "strategy = {strategy:?}\n[users]\nfile = {:?}\n",
        site.path("users")
    );
    for (number, (name, vhost_count)) in (1..).zip(nodes) {
        let name = Value::from(name);
        text +=
            &format!("[[node]]\nname = {name}\naddress = \"10.0.0.{number}\"\nvhost_count = {vhost_count}\n");
    }
    site.configure(&text);
}

/// Marks these nodes down, and no others.
fn mark_down(site: &Site, nodes: &[&str]) {
    let marks = nodes
        .iter()
        .map(|node| format!("[node.{}]\nstate = \"down\"\n", Value::from(*node)));
    let text = format!("# written\n{}", marks.collect::<String>());
    fs::write(site.path("nodes.toml"), text).unwrap();
}

const THREE: [(&str, u32); 3] = [("node1", 100), ("node2", 100), ("node3", 50)];

fn many() -> Vec<String> {
    (1..=64).map(|n| format!("backend-{n:02}")).collect()
}

/// The node of each user, as `mailaffinity map` has it; none is "-".
fn map(site: &Site) -> Vec<String> {
    let output = site.run(&["map", "--all"], b"");
    let text = String::from_utf8(output.stdout).unwrap();
    let node = |line: &str| line.split('\t').nth(1).unwrap().to_owned();
    text.lines().map(node).collect()
}

fn counted<'n>(nodes: impl IntoIterator<Item = &'n String>) -> BTreeMap<&'n str, u64> {
    let mut counts = BTreeMap::new();
    for node in nodes {
        *counts.entry(node.as_str()).or_default() += 1;
    }
    counts
}

/// A number of a node's row, or of the last row.
fn number(rows: &[Value], strategy: &str, node: Option<&str>, pointer: &str) -> u64 {
    let row = rows.iter().find(|row| {
        row["strategy"] == strategy
            && match node {
                Some("-") => row.get("node").is_some_and(Value::is_null),
                Some(node) => row["node"] == node,
                None => row.get("node").is_none(),
            }
    });
    row.and_then(|row| row.pointer(pointer)?.as_u64())
        .unwrap_or_else(|| panic!("{strategy} {node:?} {pointer}: {rows:?}"))
}

#[test]
fn shares_are_those_of_the_map() {
    for strategy in ["ring", "modulo"] {
        let site = site(strategy, THREE);
        mark_down(&site, &["node2"]);
        let nodes = map(&site);
        let expected = counted(&nodes);
        assert_eq!(expected.len(), 2);
        let rows = site.json(&["what-if", "--json"]);
        assert_eq!(
            rows.iter().map(|row| &row["node"]).collect::<Vec<_>>(),
            [&json!("node1"), &json!("node2"), &json!("node3"), &Value::Null]
        );
        for (node, _) in THREE {
            let users = expected.get(node).copied().unwrap_or(0);
            assert_eq!(number(&rows, strategy, Some(node), "/before/users"), users);
        }
        for side in ["before", "after"] {
            assert_eq!(rows[1][side]["state"], "down");
            assert_eq!(rows[1][side]["vhost_count"], 0);
            assert_eq!(rows[2][side]["vhost_count"], 50);
        }
        let total = json!({"users": 1000, "stay": 1000, "must_move": 0, "move_needlessly": 0});
        assert_eq!(rows[3], json!({"strategy": strategy, "total": total}));
    }
}

#[test]
fn users_come_from_anywhere() {
    let site = site("ring", THREE);
    let names: Vec<String> = (1..=300).map(|n| format!("user{n}")).collect();
    let listed = names.join("\n");
    let generated = site.must(&["what-if", "--json", "--generate", "300"]);
    let rows = site.json(&["what-if", "--json", "--generate", "300"]);
    let output = site.run(&["map"], listed.as_bytes());
    let text = String::from_utf8(output.stdout).unwrap();
    for (node, _) in THREE {
        let users = text
            .lines()
            .filter(|line| line.split('\t').nth(1) == Some(node))
            .count();
        assert_eq!(number(&rows, "ring", Some(node), "/before/users"), users as u64);
    }
    let on_stdin = site.run(&["what-if", "--json", "--stdin"], listed.as_bytes());
    assert_eq!(String::from_utf8(on_stdin.stdout).unwrap(), generated);
    let mut arguments = vec!["what-if", "--json", "--"];
    arguments.extend(names.iter().map(String::as_str));
    assert_eq!(site.must(&arguments), generated);
    let many = site.json(&["what-if", "--json", "--generate", "200000"]);
    assert_eq!(many.last().unwrap()["total"]["users"], 200_000);
}

/// What becomes of the users, counted from the maps before and after.
#[track_caller]
fn assert_moves(rows: &[Value], strategy: &str, before: &[String], after: &[String], changing: &[&str]) {
    let pairs: Vec<(&str, &str)> = before
        .iter()
        .zip(after)
        .map(|(b, a)| (b.as_str(), a.as_str()))
        .collect();
    let count =
        |is: &dyn Fn(&str, &str) -> bool| pairs.iter().filter(|(from, to)| is(from, to)).count() as u64;
    let must = |from: &str, to: &str| {
        from != to
            && [from, to]
                .iter()
                .any(|node| *node == "-" || changing.contains(node))
    };
    let needless = |from: &str, to: &str| from != to && !must(from, to);
    let mut nodes: Vec<&str> = pairs.iter().flat_map(|(from, to)| [*from, *to]).collect();
    nodes.sort_unstable();
    nodes.dedup();
    for node in nodes {
        for (key, expected) in [
            ("/before/users", count(&|from, _| from == node)),
            ("/after/users", count(&|_, to| to == node)),
            ("/before/stay", count(&|from, to| from == node && to == node)),
            (
                "/before/must_move",
                count(&|from, to| from == node && must(from, to)),
            ),
            (
                "/before/move_needlessly",
                count(&|from, to| from == node && needless(from, to)),
            ),
            (
                "/after/must_move",
                count(&|from, to| to == node && must(from, to)),
            ),
            (
                "/after/move_needlessly",
                count(&|from, to| to == node && needless(from, to)),
            ),
        ] {
            assert_eq!(
                number(rows, strategy, Some(node), key),
                expected,
                "{strategy} {node} {key}"
            );
        }
    }
    for (key, expected) in [
        ("/total/users", pairs.len() as u64),
        ("/total/stay", count(&|from, to| from == to)),
        ("/total/must_move", count(&must)),
        ("/total/move_needlessly", count(&needless)),
    ] {
        assert_eq!(number(rows, strategy, None, key), expected, "{strategy} {key}");
    }
}

#[test]
fn moves_are_those_between_two_maps() {
    let site = site("ring", THREE);
    let maps = |down: &[&str]| {
        mark_down(&site, down);
        ["ring", "modulo"].map(|strategy| {
            configure(&site, strategy, THREE);
            map(&site)
        })
    };
    let all = ["node1", "node2", "node3"];
    for (down_before, down_after) in [
        (&[][..], &["node2"][..]),
        (&["node2"], &[]),
        (&["node2"], &["node3"]),
        (&["node2"], &["node2"]),
        (&[], &all),
        (&all, &["node1"]),
    ] {
        let after = maps(down_after);
        let before = maps(down_before);
        let mut arguments = vec!["what-if", "--json"];
        let changing: Vec<&str> = all
            .into_iter()
            .filter(|node| down_before.contains(node) != down_after.contains(node))
            .collect();
        for node in all {
            let is_down = down_after.contains(&node);
            if changing.contains(&node) || is_down {
                arguments.extend([if is_down { "--down" } else { "--up" }, node]);
            }
        }
        for configured in ["ring", "modulo"] {
            configure(&site, configured, THREE);
            let rows = site.json(&arguments);
            assert_eq!(
                rows[0]["strategy"], configured,
                "that of the configuration is the first"
            );
            for (index, strategy) in ["ring", "modulo"].into_iter().enumerate() {
                assert_moves(&rows, strategy, &before[index], &after[index], &changing);
            }
            assert_eq!(number(&rows, "ring", None, "/total/move_needlessly"), 0);
            if down_before.is_empty() && down_after == ["node2"] {
                let left = number(&rows, "ring", Some("node2"), "/before/users");
                assert_eq!(number(&rows, "ring", None, "/total/must_move"), left);
                assert!(number(&rows, "modulo", None, "/total/move_needlessly") > 200);
            }
        }
    }
}

#[test]
fn tags_are_apart() {
    let site = site("ring", THREE);
    let mut text = fs::read_to_string(site.config()).unwrap();
    text += "[[node]]\nname = \"far\"\naddress = \"10.9.0.1\"\ntag = \"far\"\n";
    fs::write(site.config(), text).unwrap();
    for (tag, expected) in [("", &["node1", "node2", "node3"][..]), ("far", &["far"])] {
        let rows = site.json(&["what-if", "--json", "--tag", tag]);
        let names: Vec<&str> = rows.iter().filter_map(|row| row["node"].as_str()).collect();
        assert_eq!(names, expected);
        assert_eq!(number(&rows, "ring", None, "/total/users"), 1000);
    }
}

#[test]
fn the_list_has_those_who_move() {
    let site = site("ring", THREE);
    let users = fs::read_to_string(site.path("users")).unwrap();
    let before = map(&site);
    let list = site.json(&["what-if", "--json", "--list", "--down", "node2"]);
    site.must(&["down", "node2"]);
    let moved: Vec<Value> = users
        .lines()
        .zip(before.iter().zip(map(&site)))
        .filter(|(_, (from, to))| *from != to)
        .map(|(user, (from, to))| json!({"user": user, "from": from, "to": to}))
        .collect();
    assert!(moved.len() > 200);
    assert_eq!(list, moved);

    let back = site.must(&["what-if", "--up", "node2", "--list"]);
    assert_eq!(back.lines().count(), moved.len());
    assert!(back.lines().all(|line| line.ends_with(" -> node2")), "{back}");
    let (first, _) = back.split_once('\t').unwrap();
    let rows = site.json(&["what-if", "--up", "node2", "--json", "--", first]);
    assert_eq!(number(&rows, "ring", None, "/total/users"), 1);
    assert_eq!(number(&rows, "ring", None, "/total/must_move"), 1);
    let nobody = site.must(&["what-if", "--down", "node1,node2,node3", "--list", "--", "anna"]);
    assert!(nobody.ends_with(" -> -\n"), "{nobody}");
}

#[test]
fn what_cannot_be_shown_is_told() {
    let site = site("ring", THREE);
    let folder = site.path("");
    for (arguments, status, words) in [
        (&["--down", "nod"][..], 64, "there is no node \"nod\""),
        (
            &["--down", "node1", "--up", "node1"],
            64,
            "cannot be --down and --up",
        ),
        (&["--tag", "near"], 64, "no node has the tag \"near\""),
        (&["--generate", "10", "--stdin"], 64, "cannot be used with"),
        (&["--json", "--svg", "-"], 64, "cannot be used with"),
        (&["--list"], 64, "--down <NODE>"),
        (&["--generate", "many"], 64, "invalid value"),
        (
            &["--svg", folder.to_str().unwrap()],
            74,
            ": cannot write the picture: ",
        ),
        (
            &["--svg", "/nonexistent/x.svg"],
            74,
            "/nonexistent/x.svg: cannot write the picture: ",
        ),
    ] {
        let output = site.run(&[&["what-if"], arguments].concat(), b"");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
    fs::remove_file(site.path("users")).unwrap();
    assert_eq!(site.run(&["what-if"], b"").status.code(), Some(74));
}

/// Clusters of all sorts, each with what may happen to its nodes.
fn all_sorts(mut each: impl FnMut(&Site, &[&str])) {
    let many = many();
    let many: Vec<(&str, u32)> = many.iter().map(|name| (name.as_str(), 100)).collect();
    let ugly = UGLY.map(|name| (name, 100));
    for nodes in [&THREE[..], &THREE[..1], &[("idle", 0)], &ugly, &many] {
        let site = site("ring", nodes.iter().copied());
        let all: Vec<&str> = nodes.iter().map(|(name, _)| *name).collect();
        for users in ["0", "1", "1000"] {
            let generate = ["--generate", users];
            each(&site, &generate);
            each(&site, &[&generate[..], &["--down"], &all[..1]].concat());
            each(&site, &[&generate[..], &["--down"], &all].concat());
            each(&site, &[&generate[..], &["--up"], &all].concat());
        }
        mark_down(&site, &all);
        each(&site, &["--generate", "100"]);
        each(&site, &[&["--generate", "100", "--up"], &all[..1]].concat());
    }
    let site = site("ring", THREE);
    each(&site, &["--generate", "1234567", "--down", "node1,node2,node3"]);
}

#[test]
fn lines_fit_the_terminal() {
    all_sorts(|site, arguments| {
        let text = site.must(&[&["what-if"], arguments].concat());
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
            assert_eq!(line, line.trim_end());
        }
    });
}

#[test]
fn bars_take_the_width_of_the_terminal() {
    let site = site("ring", THREE);
    for columns in [60, 132] {
        let command = format!(
            "stty cols {columns}; exec '{}' --config '{}' what-if --down node2",
            *MAILAFFINITY,
            site.config().display()
        );
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env("LC_ALL", "C.UTF-8")
            .env("SHELL", "/bin/sh")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let bars = text
            .lines()
            .filter(|line| line.trim_end().ends_with(['░', '▓', '█']));
        let longest = bars.map(|line| line.trim_end().chars().count()).max();
        assert_eq!(longest, Some(columns), "{text}");
    }
}

/// The texts of a picture, in its order.
fn texts(svg: &str) -> Vec<String> {
    let document = Document::parse(svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
    let texts = document.descendants().filter(|node| node.has_tag_name(SVG_TEXT));
    texts
        .map(|node| node.text().unwrap_or_default().trim().to_owned())
        .collect()
}

const SVG_TEXT: (&str, &str) = ("http://www.w3.org/2000/svg", "text");

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| str::from_utf8(group).unwrap());
    groups.collect::<Vec<_>>().join(",")
}

#[test]
fn pictures_have_the_numbers() {
    let site = site("ring", THREE);
    let shares = texts(&site.must(&["what-if", "--svg", "-"]));
    let rows = site.json(&["what-if", "--json"]);
    for (node, _) in THREE {
        assert!(shares.iter().any(|text| text == node), "{shares:?}");
        let users = number(&rows, "ring", Some(node), "/before/users");
        let expected = format!("{} ({}.{}%)", grouped(users), users / 10, users % 10);
        assert!(shares.contains(&expected), "{expected}: {shares:?}");
    }

    let moves = texts(&site.must(&["what-if", "--svg", "-", "--down", "node2"]));
    assert_eq!(moves[0], "Who of 1,000 users moves if node2 is down");
    let rows = site.json(&["what-if", "--json", "--down", "node2"]);
    for strategy in ["ring", "modulo"] {
        let percent = |key| {
            let users = number(&rows, strategy, None, key);
            format!("{}.{}%", users / 10, users % 10)
        };
        let heading = format!(
            "{strategy}: {} must move, {} needlessly",
            percent("/total/must_move"),
            percent("/total/move_needlessly")
        );
        let at = moves.iter().position(|text| *text == heading).expect(&heading);
        let users = |node, when: &str| {
            let users = number(&rows, strategy, Some(node), &format!("/{when}/users"));
            format!("{} {when}", grouped(users))
        };
        let mut expected: Vec<String> = THREE
            .into_iter()
            .flat_map(|(node, _)| ["before", "after"].map(|when| users(node, when)))
            .collect();
        expected[3] += ", down";
        assert_eq!(moves[at + 1..at + 7], expected);
    }
}

/// What an element takes, at the least.
struct Box {
    x: Range<f64>,
    y: Range<f64>,
    text: String,
}

fn boxes(document: &Document<'_>) -> Vec<Box> {
    let number = |node: Node<'_, '_>, name: &str| -> f64 { node.attribute(name).unwrap().parse().unwrap() };
    let elements = document.descendants().filter(|node| node.is_element());
    elements
        .filter_map(|node| match node.tag_name().name() {
            "rect" if node.attribute("width") != Some("100%") => {
                let (x, y) = (number(node, "x"), number(node, "y"));
                Some(Box {
                    x: x..x + number(node, "width"),
                    y: y..y + number(node, "height"),
                    text: String::new(),
                })
            }
            "text" => {
                let text = node.text().unwrap_or_default().trim().to_owned();
                let (x, y, size) = (number(node, "x"), number(node, "y"), number(node, "font-size"));
                // Most fonts take no more than this.
                let width = text.chars().count() as f64 * size * 0.55;
                let x = match node.attribute("text-anchor") {
                    Some("end") => x - width..x,
                    _ => x..x + width,
                };
                Some(Box {
                    x,
                    // From the top of a capital letter to the baseline.
                    y: y - size * 0.75..y,
                    text,
                })
            }
            _ => None,
        })
        .collect()
}

#[test]
fn pictures_are_well_formed_and_nothing_overlaps() {
    all_sorts(|site, arguments| {
        let svg = site.must(&[&["what-if", "--svg", "-"], arguments].concat());
        let document = Document::parse(&svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
        let root = document.root_element();
        let side = |name| -> f64 { root.attribute(name).unwrap().parse().unwrap() };
        let (width, height) = (side("width"), side("height"));
        let boxes = boxes(&document);
        for element in &boxes {
            let Box { x, y, text } = element;
            assert!(
                x.start >= 0.0 && x.end <= width,
                "{text}: {x:?} of {width}: {arguments:?}"
            );
            assert!(y.start >= 0.0 && y.end <= height, "{text}: {y:?} of {height}");
        }
        let texts: Vec<&Box> = boxes.iter().filter(|element| !element.text.is_empty()).collect();
        for (index, one) in texts.iter().enumerate() {
            for other in &texts[index + 1..] {
                let apart =
                    |one: &Range<f64>, other: &Range<f64>| one.end <= other.start || other.end <= one.start;
                assert!(
                    apart(&one.x, &other.x) || apart(&one.y, &other.y),
                    "{:?} and {:?}: {arguments:?}",
                    one.text,
                    other.text
                );
            }
        }
    });
}

#[test]
fn names_are_escaped() {
    let site = site("ring", UGLY.map(|name| (name, 100)));
    for arguments in [
        &["what-if", "--svg", "-"][..],
        &["what-if", "--svg", "-", "--down", UGLY[0]],
    ] {
        let texts = texts(&site.must(arguments));
        assert!(texts.iter().any(|text| text == UGLY[0]), "{texts:?}");
        assert!(
            texts.iter().any(|text| text.starts_with("Ünïcödé-\u{fffd}")),
            "{texts:?}"
        );
        assert!(
            texts
                .iter()
                .any(|text| text == "a-very-long-name…ter.example.org"),
            "{texts:?}"
        );
    }
}

#[test]
fn a_picture_takes_the_place_of_a_file() {
    let site = site("ring", THREE);
    let file = site.path("shares.svg");
    let path = file.to_str().unwrap();
    for arguments in [&["what-if"][..], &["what-if", "--down", "node1,node3"]] {
        let printed = site.must(&[arguments, &["--svg", "-"]].concat());
        fs::write(&file, "old").unwrap();
        assert_eq!(site.must(&[arguments, &["--svg", path]].concat()), "");
        assert_eq!(fs::read_to_string(&file).unwrap(), printed, "the same each time");
        assert_eq!(
            site.must(&[arguments, &["--svg", "/dev/stdout"]].concat()),
            printed
        );
    }
}

#[test]
fn the_pictures_of_the_documentation_are_current() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("doc/pictures/draw.sh")
        .arg(&*MAILAFFINITY)
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let pictures = |folder: &Path| -> BTreeMap<_, _> {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|extension| extension == "svg"))
            .map(|path| {
                (
                    path.file_name().unwrap().to_owned(),
                    fs::read_to_string(&path).unwrap(),
                )
            })
            .collect()
    };
    let drawn = pictures(folder.path());
    assert_eq!(drawn.len(), 3);
    assert!(
        drawn == pictures(Path::new("doc/pictures")),
        "run doc/pictures/draw.sh"
    );
}
