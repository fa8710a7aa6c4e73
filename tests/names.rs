//! One name for one thing: what each edge calls what is known of a node, held against the
//! table in CONTRIBUTING.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mailaffinity::config::Config;
use mailaffinity::node_state::NodeState;
use serde_json::Value;
use support::built::declared_functions;
use support::site::Site;

/// The names that the table has for an edge.
fn table(edge: &str) -> BTreeSet<String> {
    let text = fs::read_to_string("CONTRIBUTING.md").unwrap();
    let (_, section) = text.split_once("## One name for one thing\n").unwrap();
    let mut rows = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let column = rows
        .next()
        .unwrap()
        .iter()
        .position(|head| *head == edge)
        .unwrap();
    let names = rows.skip(1).filter(|row| row[column] == "yes");
    names.map(|row| row[1].trim_matches('`').to_owned()).collect()
}

/// The names in "expected one of `a`, `b`", which is how the parser refuses another one.
fn expected(error: &str) -> BTreeSet<String> {
    let (_, names) = error.split_once("expected one of ").expect(error);
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn configuration() {
    let error = Config::parse("[[node]]\nnosuch = 1\n", Path::new("x")).unwrap_err();
    assert_eq!(expected(&error.to_string()), table("configuration"));
}

#[test]
fn node_state() {
    let error = NodeState::parse("[node.node1]\nnosuch = 1\n").unwrap_err();
    assert_eq!(expected(&error.to_string()), table("node state"));
}

#[test]
fn c() {
    let functions = declared_functions();
    let names = functions
        .iter()
        .filter_map(|function| function.strip_prefix("mailaffinity_node_"))
        .filter(|name| *name != "count");
    assert_eq!(names.map(str::to_owned).collect::<BTreeSet<_>>(), table("C"));
}

#[test]
fn perl() {
    let module = fs::read_to_string("perl/lib/Mail/Affinity.pm").unwrap();
    let (_, node) = module.split_once("package Mail::Affinity::Node;").unwrap();
    let methods = node.lines().filter_map(|line| {
        let (name, body) = line.strip_prefix("sub ")?.split_once(' ')?;
        body.contains("return $_[0]{").then(|| name.to_owned())
    });
    assert_eq!(methods.collect::<BTreeSet<_>>(), table("Perl"));
}

#[test]
fn lua() {
    let module = fs::read_to_string("lua/src/lib.rs").unwrap();
    let (_, keys) = module.split_once("impl IntoLua for Described").unwrap();
    let names = keys.split("table.raw_set(\"").skip(1);
    let names = names.map(|key| key.split('"').next().unwrap().to_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), table("Lua"));
}

/// The stub is what the module has: its own test says so.
#[test]
fn php() {
    let stub = fs::read_to_string("php/mailaffinity.stub.php").unwrap();
    let (_, keys) = stub.split_once("@return list<array{").unwrap();
    let (keys, _) = keys.split_once('}').unwrap();
    let names = keys
        .split(", ")
        .map(|key| key.split(':').next().unwrap().to_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), table("PHP"));
}

#[test]
fn json() {
    let site = Site::new();
    site.configure("[[node]]\nname = \"node1\"\naddress = \"10.0.0.1\"\n");
    let row = site.json(&["nodes", "--json"]).remove(0);
    let Value::Object(row) = row else { panic!("{row}") };
    assert_eq!(row.keys().cloned().collect::<BTreeSet<_>>(), table("JSON"));
}
