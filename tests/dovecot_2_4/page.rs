//! doc/dovecot.md, with the nodes' addresses in this network, and Debian's own configuration
//! and PAM, as on a new Debian 13.

use std::fs;

use support::built;
use support::clients::{Protocol, deliver, log_in};
use support::machines::{DOMAIN, Machine, NETWORK, Network, PASSWORD, SHARED};
use support::namespace;
use support::sendmail::wait_for;

use crate::home::{Logs, Way};
use crate::sessions::Client;
use crate::watched::watch;

const PAGE: &str = "doc/dovecot.md";

const USERS: [&str; 6] = ["anna", "bert", "carla", "dieter", "emil", "fritz"];

/// What the test needs beside: it has no TLS, and nothing of it may depend on timing.
const OF_TEST: &str = "
log_path = /var/log/dovecot.log
auth_allow_cleartext = yes
login_proxy_timeout = 60s
";

/// A page, with the nodes' addresses in this network.
pub(crate) fn page(path: &str) -> String {
    let page = fs::read_to_string(built::root().join(path)).unwrap();
    page.replace("10.0.0.", &format!("{NETWORK}."))
}

/// The blocks of a page between fences, of a kind.
pub(crate) fn blocks(page: &str, kind: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(found) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let block = lines.by_ref().take_while(|line| line.trim_start() != "```");
        let block: String = block
            .map(|line| format!("{}\n", line.get(indent..).unwrap_or("")))
            .collect();
        if found == kind {
            blocks.push(block);
        }
    }
    blocks
}

/// The block of Dovecot's configuration with a line in it.
pub(crate) fn block_with(words: &str) -> String {
    let found = blocks(&page(PAGE), "")
        .into_iter()
        .find(|block| block.contains(words));
    found.unwrap_or_else(|| panic!("the page has no {words}"))
}

fn set_up(machine: &Machine, lines: &str) {
    machine.write(
        "/etc/dovecot/conf.d/10-auth.conf",
        "!include auth-system.conf.ext\n",
    );
    machine.write("/etc/dovecot/local.conf", &format!("{lines}{OF_TEST}"));
    let name = machine.name();
    for (from, to) in [
        ("ca.pem", "ca.pem".to_owned()),
        (&format!("{name}.pem"), "dovecot.pem".into()),
        (&format!("{name}.key"), "dovecot.key".into()),
    ] {
        let (from, to) = (
            format!("{SHARED}/made/{from}"),
            format!("/etc/dovecot/private/{to}"),
        );
        // A proxy's is Debian's, which the nodes' clients do not see here.
        machine.run(
            "sh",
            &[
                "-c",
                &format!("[ ! -e {from} ] || cp --remove-destination {from} {to}"),
            ],
        );
    }
    let make =
        USERS.map(|user| format!("useradd --create-home {user}; echo {user}:{PASSWORD} >>/tmp/passwords"));
    machine.run(
        "sh",
        &["-euc", &format!("{}; chpasswd </tmp/passwords", make.join("; "))],
    );
    machine.start("dovecot", &[]);
}

#[test]
#[ignore = "as root"]
fn its_configuration_sends_users_home_as_root() {
    namespace::run_with_network("page::its_configuration_sends_users_home_as_root", || {
        let network = Network::new();
        network.configure(&blocks(&page(PAGE), "toml")[0]);
        let nodes = [1, 2, 3].map(|number| network.start(&format!("node{number}"), number));
        let proxy = network.start("proxy1", 11);
        let make = format!(
            "mkdir {SHARED}/made && cd {SHARED}/made && {}",
            blocks(&page(PAGE), "sh")[0]
        );
        nodes[0].run("sh", &["-euc", &make]);
        for node in &nodes {
            // As the page says of where there are proxies.
            let trusted = format!("{NETWORK}.3");
            let lines = block_with("mailaffinity-node.conf");
            let lines = lines.replace(&trusted, &format!("{trusted} {}", proxy.address()));
            // And of Postfix, and of PAM.
            set_up(
                node,
                &[lines, block_with("service lmtp-home"), block_with("skip = never")].concat(),
            );
        }
        set_up(&proxy, &block_with("mailaffinity-proxy.conf"));

        let mut home = Vec::new();
        for user in USERS {
            let map = proxy.run(&built::MAILAFFINITY, &["map", user]);
            let host = String::from_utf8(map.stdout).unwrap();
            let host = host.split('\t').nth(2).unwrap().to_owned();
            for machine in nodes.iter().chain([&proxy]) {
                let asked = machine.doveadm(&["auth", "lookup", "-x", "service=mailaffinity", user]);
                let said = asked.lines().find_map(|line| line.trim().strip_prefix("host "));
                assert_eq!(
                    said.map(|host| host.trim_start_matches([' ', ':'])),
                    Some(&*host),
                    "{asked}"
                );
            }
            home.push(
                (1..=3)
                    .position(|number| host == format!("node{number}.example.org"))
                    .unwrap(),
            );
        }
        assert!(
            (0..3).all(|node| home.contains(&node)),
            "each node has some: {home:?}"
        );

        let mut logs = Logs::of(&nodes);
        for machine in nodes.iter().chain([&proxy]) {
            for user in USERS {
                log_in(Protocol::Imap, machine.address(), user, PASSWORD).unwrap();
            }
            let landed = logs.landed(USERS.len());
            for (user, home) in USERS.iter().zip(&home) {
                let found = &landed[&((*user).to_owned(), Way::LogIn(Protocol::Imap))];
                assert_eq!(found, &[*home], "{user} by {}", machine.name());
                let (number, line) = (home + 1, nodes[*home].log());
                let client = format!("Logged in: user=<{user}>, method=PLAIN, rip=10.24.0.254,");
                assert!(line.contains(&client), "{line}");
                let proxied = format!(
                    "proxy({user},node{number}.example.org[{NETWORK}.{number}]:143): Started proxying"
                );
                if machine.name() == nodes[*home].name() {
                    assert!(!machine.log().contains(&proxied), "{}", machine.log());
                } else {
                    machine.wait_for_log(&proxied);
                }
            }
        }
        let answers = deliver(proxy.address(), &USERS).unwrap();
        assert!(
            answers.iter().all(|answer| answer.starts_with("250 ")),
            "{answers:?}"
        );
        let landed = logs.landed(USERS.len());
        for (user, home) in USERS.iter().zip(&home) {
            assert_eq!(landed[&((*user).to_owned(), Way::Deliver)], [*home], "{user}");
        }

        // By the mail server of a node.
        let page = page(PAGE);
        let transport = page
            .lines()
            .find(|line| line.contains("virtual_transport = "))
            .unwrap();
        let main = format!(
            "compatibility_level = 3.9\nmaillog_file = /var/log/postfix.log\nmydestination =\n\
             virtual_mailbox_domains = {DOMAIN}\n{}\n",
            transport.trim()
        );
        nodes[0].write("/etc/postfix/main.cf", &main);
        nodes[0].start("postfix", &["start"]);
        let recipients = USERS.map(|user| format!("{user}@{DOMAIN}")).join(" ");
        nodes[0].run("sh", &["-c", &format!("echo text | sendmail {recipients}")]);
        let landed = logs.landed(USERS.len());
        let by_postfix = fs::read_to_string(nodes[0].path("/var/log/postfix.log")).unwrap_or_default();
        for (user, home) in USERS.iter().zip(&home) {
            let found = landed.get(&((*user).to_owned(), Way::Deliver));
            assert_eq!(found, Some(&vec![*home]), "{user}: {by_postfix}");
        }
        let refused = deliver(proxy.address(), &["nobody-here"]).unwrap();
        assert!(refused[0].starts_with("550 "), "{refused:?}");

        // A node that dies is noticed, and one that is back.
        for machine in nodes.iter().chain([&proxy]) {
            watch(machine);
        }
        let of_node3 = USERS[home.iter().position(|home| *home == 2).unwrap()];
        let at_home = || {
            let map = proxy.run(&built::MAILAFFINITY, &["map", of_node3]);
            String::from_utf8(map.stdout).unwrap().contains("node3")
        };
        nodes[2].doveadm(&["stop"]);
        wait_for("node3 to be down", || !at_home());
        let mut session = Client::at(&proxy, of_node3);
        session.must_be_there();
        nodes[2].start("dovecot", &[]);
        session.must_be_ended();
        wait_for("node3 to be up", at_home);
    });
}
