//! `mailaffinity agreement` asks each Dovecot where it would send users.

use std::fs;

use mailaffinity::config::Config;
use mailaffinity::node_state::NodeState;
use serde_json::Value;
use support::configuration::{Configuration, Node, node_state};
use support::machines::{Machine, NETWORK, Network};
use support::namespace;
use support::site::Site;

/// What sends users home, after those who may log in.
const DOVECOT: &str = "passdb static {
  result_success = continue-ok
}
login_trusted_networks = 10.24.0.0/24
!include /usr/share/mailaffinity/mailaffinity-node.conf
";

fn configuration() -> Configuration {
    Configuration::of((1..=3).map(|number| {
        let node = Node::numbered(number, NETWORK);
        node.host(&format!("node{number}.example.org"))
    }))
}

/// doveadm on a machine, as by ssh.
pub(crate) fn doveadm(node: &Machine) -> Vec<String> {
    let command = node.command("doveadm");
    let words = command.get_args().map(|word| word.to_str().unwrap().to_owned());
    ["/usr/bin/nsenter".to_owned()].into_iter().chain(words).collect()
}

/// What `agreement` says of Dovecots, a row for each.
fn rows(site: &Site, doveadms: &[Vec<String>]) -> Vec<Value> {
    fs::write(site.path("users"), users().join("\n")).unwrap();
    site.configure(
        configuration()
            .users(site.path("users"))
            .set("sendmail.command", vec!["/bin/false"])
            .set("agreement.dovecot", doveadms.to_vec()),
    );
    let output = site.run(&["agreement", "--json"], b"");
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rows: Vec<Value> = rows
        .filter(|row| row["part"].as_str().unwrap().starts_with("Dovecot"))
        .collect();
    assert_eq!(rows.len(), doveadms.len(), "{text}");
    rows
}

fn users() -> Vec<String> {
    let name = |number| match number % 3 {
        0 => format!("user{number}"),
        1 => format!("First.Last{number}@Example.org"),
        _ => format!("{number}"),
    };
    (0..60).map(name).chain(["a b".to_owned()]).collect()
}

#[test]
#[ignore = "as root"]
fn asks_each_node_as_root() {
    namespace::run_with_network("agreement::asks_each_node_as_root", || {
        let network = Network::new();
        network.configure(configuration());
        let [one, two, three] = [1, 2, 3].map(|number| {
            let node = network.start(&format!("node{number}"), number);
            node.start_dovecot(DOVECOT);
            node
        });
        let doveadms = [&one, &two, &three].map(doveadm);
        let site = Site::new();
        for row in rows(&site, &doveadms) {
            assert_eq!(
                (&row["asked"], &row["differ"]),
                (&60.into(), &0.into()),
                "{row:#}"
            );
            assert_eq!(row["agrees"], true, "{row:#}");
            assert_eq!(row["not_asked"][0]["first"], "a b", "{row:#}");
        }
        // The machines take a node for down that is up here.
        network.mark(&node_state(&["node2"]));
        let config = Config::load(&site.config()).unwrap();
        let state = NodeState::default();
        let cluster = config.cluster(&state).unwrap();
        let of_node2 = users().into_iter().filter(|user| {
            let hash = config.hash_of(user.as_bytes()).unwrap();
            user != "a b" && cluster.index_of_hash(hash, "") == Some(1)
        });
        let of_node2 = of_node2.count();
        assert!(of_node2 > 5);
        for row in rows(&site, &doveadms) {
            assert_eq!(
                (&row["agrees"], &row["differ"]),
                (&false.into(), &of_node2.into()),
                "{row:#}"
            );
            assert_eq!(row["first"]["expected"], "node2");
            let problem = row["problems"][0].as_str().unwrap();
            assert!(
                problem.contains("compare its /etc/mailaffinity.toml and node state"),
                "{problem}"
            );
        }
        network.mark(&node_state(&[]));

        // One that cannot be asked is told in a sentence, and the others are asked.
        three.doveadm(&["stop"]);
        let [one, two, three] = &rows(&site, &doveadms)[..] else {
            panic!()
        };
        assert_eq!(
            [&one["agrees"], &two["agrees"], &three["agrees"]],
            [true, true, false]
        );
        assert_eq!(three["asked"], 0);
        let problem = three["problems"][0].as_str().unwrap();
        assert!(
            problem.contains(" doveadm ended with exit status 75: Error: auth-master: "),
            "{problem}"
        );
    });
}
