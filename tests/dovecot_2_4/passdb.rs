//! What the passdb does where not all is well: nothing bounces, and nobody is let in who is
//! not at home.

use std::io::ErrorKind;
use std::thread;

use jiff::Timestamp;
use mailaffinity::mapping::UsernameHash;
use support::clients::{Connection, Protocol, deliver, deliver_to, log_in};
use support::configuration::{Configuration, Node, node_state};
use support::machines::{AUTHENTICATION, Machine, NETWORK, Network, PASSWORD, SHARED, address_6};
use support::namespace;
use support::sendmail::wait_for;

const SITE: &str = "
passdb static {
  result_success = continue-ok
}
auth_failure_delay = 0
auth_internal_failure_delay = 0
login_trusted_networks = 10.24.0.0/24 fd00:24::/64
";

/// Nothing of a test may depend on timing.
const PATIENCE: &str = "
login_proxy_timeout = 60s
service lmtp-home {
  inet_listener lmtp-home {
    port = 2424
  }
}
";

fn on_node(lines: &str) -> String {
    format!("{SITE}!include /usr/share/mailaffinity/mailaffinity-node.conf\n{PATIENCE}{lines}")
}

/// What `lua_settings` of a machine has.
fn settings(lines: &str) -> String {
    format!("passdb mailaffinity {{\n  lua_settings {{\n    {lines}\n  }}\n}}\n")
}

/// Its users by [`Configuration::of_three_nodes`] of 10.24.0: MD5 says so.
fn a_user_of(node: &Machine, network: &Network) -> String {
    let named = |user: &String| {
        let script = format!("print(require [[mailaffinity]].home('{user}').name)");
        let said = node.run("lua5.4", &["-e", &script]).stdout;
        said == format!("{}\n", node.name()).as_bytes()
    };
    assert!(network.shared("mailaffinity.toml").exists());
    (0..100)
        .map(|number| format!("user{number}"))
        .find(named)
        .unwrap()
}

/// The machine anew, with other lines: a reload would end logins that have begun.
fn anew(network: &Network, machine: Machine, lines: &str) -> Machine {
    let (name, number) = (machine.name().to_owned(), machine.number());
    drop(machine);
    let machine = network.start(&name, number);
    machine.start_dovecot(&on_node(lines));
    machine
}

/// Two nodes and a proxy.
fn entries(network: &Network) -> [Machine; 3] {
    let [one, two] = [1, 2].map(|number| {
        let node = network.start(&format!("node{number}"), number);
        node.start_dovecot(&on_node(""));
        node
    });
    let proxy = network.start("proxy1", 11);
    let lines = format!("{SITE}!include /usr/share/mailaffinity/mailaffinity-proxy.conf\n{PATIENCE}");
    proxy.start_dovecot(&lines);
    [one, two, proxy]
}

#[track_caller]
fn is_unavailable(login: std::io::Result<Connection>) {
    match login.err() {
        Some(refused) if refused.kind() == ErrorKind::Other => {
            assert!(refused.to_string().starts_with("a NO [UNAVAILABLE]"), "{refused}");
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_refused_for_now(answers: &[String]) {
    assert!(
        answers.iter().all(|answer| answer.starts_with("451 ")),
        "{answers:?}"
    );
}

#[test]
#[ignore = "as root"]
fn fails_as_its_page_says_as_root() {
    namespace::run_with_network("passdb::fails_as_its_page_says_as_root", || {
        let network = Network::new();
        network.configure(Configuration::of_three_nodes(NETWORK));
        let [one, two, proxy] = entries(&network);
        let user = &a_user_of(&two, &network);
        let by_imap = |machine: &Machine| log_in(Protocol::Imap, machine.address(), user, PASSWORD);
        let entries = [&one, &two, &proxy];

        // A password that is wrong.
        for machine in entries {
            let refused = log_in(Protocol::Imap, machine.address(), user, "wrong")
                .err()
                .unwrap();
            let refused = refused.to_string();
            assert!(refused.starts_with("a NO [AUTHENTICATIONFAILED]"), "{refused}");
        }
        two.wait_for_log("Login aborted");
        assert_eq!(two.log().matches("Login aborted").count(), 1, "{}", two.log());

        // No node is up: nobody is let in at a proxy, or at a node by chance.
        network.mark(&node_state(&["node1", "node2", "node3"]));
        for machine in entries {
            is_unavailable(by_imap(machine));
            machine.wait_for_log("no node without a tag is up");
            assert!(!machine.log().contains("Logged in"), "{}", machine.log());
        }
        is_refused_for_now(&deliver(proxy.address(), &[user]).unwrap());
        is_refused_for_now(&deliver_to((one.address(), 2424).into(), &[user]).unwrap());

        // A node state that is broken: the last good one.
        network.mark(&node_state(&["node1"]));
        by_imap(&one).unwrap();
        network.mark("[[");
        by_imap(&one).unwrap();
        two.wait_for_log("not a node state");
        one.wait_for_log("the last good node state stays in force");
        network.mark(&node_state(&[]));

        // A certificate of somebody else.
        drop(proxy);
        let other = format!(
            "ssl_server_cert_file = {SHARED}/tls/proxy1.pem\nssl_server_key_file = {SHARED}/tls/proxy1.key\n"
        );
        let two = anew(&network, two, &other);
        is_unavailable(by_imap(&one));
        one.wait_for_log("SSL certificate doesn't match expected host name");
        let one = anew(&network, one, &settings("starttls = any-cert"));
        by_imap(&one).unwrap();
        let one = anew(&network, one, &settings("starttls = no"));
        by_imap(&one).unwrap();
        wait_for("both logins are logged", || {
            two.log().matches("Logged in").count() == 2
        });
        let log = two.log();
        let logins: Vec<&str> = log.lines().filter(|line| line.contains("Logged in")).collect();
        let tls: Vec<bool> = logins.iter().map(|line| line.contains("TLS")).collect();
        assert_eq!(tls, [true, false], "{log}");

        // Nodes that are not of one opinion: each says it is the other.
        for (node, other) in [(1, 2), (2, 1)] {
            let nodes = [
                Node::new("here", &format!("{NETWORK}.{node}")).vhost_count(0),
                Node::new("there", &format!("{NETWORK}.{other}")),
            ];
            network.replace(&format!("of{node}.toml"), Configuration::of(nodes));
        }
        let says = |node| settings(&format!("config = {SHARED}/of{node}.toml"));
        let (one, two) = (anew(&network, one, &says(1)), anew(&network, two, &says(2)));
        for machine in [&one, &two] {
            is_unavailable(by_imap(machine));
            for port in [24, 2424] {
                let answers = deliver_to((machine.address(), port).into(), &[user]).unwrap();
                assert!(answers[0].starts_with("250 "), "{answers:?}");
            }
        }

        // userdb prefetch leaves to the next userdb what no passdb gives.
        drop(two);
        let two = network.start("node2", 2);
        let userdbs = format!(
            "userdb prefetch {{\n}}\nuserdb static {{\n  fields {{\n    home = {SHARED}/mail/elsewhere\n  }}\n}}\n"
        );
        two.write(
            "/etc/dovecot/conf.d/10-auth.conf",
            &AUTHENTICATION.replace("userdb static {\n}\n", &userdbs),
        );
        two.start_dovecot(&on_node(""));
        assert!(!network.shared("mail/elsewhere").exists());
        let mut session = by_imap(&two).unwrap();
        session.send("b SELECT INBOX\r\n").unwrap();
        wait_for("the mailbox", || network.shared("mail/elsewhere").exists());

        // A setting that there is not.
        let one = anew(&network, one, &settings("tga = far"));
        assert!(by_imap(&one).is_err());
        one.wait_for_log("dovecot.lua: lua_settings: there is no tga");
    });
}

#[test]
#[ignore = "as root"]
fn names_sessions_by_node_and_takes_ipv6_as_root() {
    namespace::run_with_network("passdb::names_sessions_by_node_and_takes_ipv6_as_root", || {
        let network = Network::new();
        let nodes = (1..=2).map(|number| Node::new(&format!("node{number}"), &address_6(number).to_string()));
        network.configure(Configuration::of(nodes));
        let [one, two] = [1, 2].map(|number| {
            let node = network.start(&format!("node{number}"), number);
            node.start_dovecot(&on_node(&settings("userdb_fields = yes")));
            node
        });
        let user = &a_user_of(&two, &network);
        for protocol in Protocol::ALL
            .into_iter()
            .filter(|protocol| *protocol != Protocol::Submission)
        {
            // By way of node1, and at home; and by the address that no node has.
            for address in [one.address_6(), two.address_6(), one.address()] {
                log_in(protocol, address, user, PASSWORD).unwrap();
            }
        }
        assert!(!one.log().contains("Logged in"), "{}", one.log());
        assert_eq!(two.log().matches("Logged in").count(), 9, "{}", two.log());

        // Those who are elsewhere than at home, for when the node is back.
        network.mark(&node_state(&["node2"]));
        let mut away = log_in(Protocol::Imap, two.address_6(), user, PASSWORD).unwrap();
        for (machine, kicked) in [(&one, "0"), (&two, "0")] {
            let said = machine.doveadm(&["kick", "-f", "user_node", "node2"]);
            assert!(said.starts_with(kicked), "{said}");
        }
        let who = one.doveadm(&["who", "-1"]);
        assert!(
            who.lines()
                .any(|line| line.contains(user) && line.contains("node1")),
            "{who}"
        );
        let said = one.doveadm(&["kick", "-f", "user_home", "node2"]);
        assert!(said.starts_with('1'), "{said}");
        while away.line().is_ok() {}
        two.wait_for_log("Disconnected by server");

        // On the machine that has the connection, too: in Dovecot's default it would stay.
        let mut away = log_in(Protocol::Imap, two.address_6(), user, PASSWORD).unwrap();
        let said = two.doveadm(&["kick", "-f", "user_node", "node1"]);
        assert!(said.starts_with('1'), "{said}");
        while away.line().is_ok() {}
        two.wait_for_log("Kicked by admin");

        // Who was moved by hand, also while that node is dead.
        let hash = UsernameHash::default().hash(user.as_bytes()).unwrap();
        let moved = format!("[node.node1]\nmoved = \"{hash:08x}\"\n");
        let dead = format!("{moved}state = \"down\"\nby = \"checks\"\n");
        for (state, node) in [(&moved, &one), (&dead, &two), (&moved, &one)] {
            network.mark(state);
            let before = node.log().matches("Logged in").count();
            log_in(Protocol::Imap, two.address_6(), user, PASSWORD).unwrap();
            wait_for("the login", || node.log().matches("Logged in").count() > before);
        }
    });
}

/// A node comes back while users of it have sessions elsewhere.
#[test]
#[ignore = "as root"]
fn who_moves_between_nodes_that_live_waits_as_root() {
    let test = "passdb::who_moves_between_nodes_that_live_waits_as_root";
    namespace::run_with_network(test, || {
        let network = Network::new();
        network.configure(Configuration::of_three_nodes(NETWORK));
        let [one, two, proxy] = entries(&network);
        let user = &a_user_of(&two, &network);
        let other = &a_user_of(&one, &network);

        // Long enough to see that mail is refused meanwhile.
        let now = Timestamp::now();
        let until = Timestamp::from_second(now.as_second() + 10).unwrap();
        network.mark(&format!(
            "[node.node3]\nstate = \"down\"\n[before]\nuntil = \"{until}\"\n{}",
            node_state(&["node2", "node3"]).replace("[node.", "[before.node.")
        ));
        let deliveries = [(one.address(), 2424), (proxy.address(), 24)];
        for (entry, port) in deliveries {
            let answers = deliver_to((entry, port).into(), &[user]).unwrap();
            if Timestamp::now() < until {
                is_refused_for_now(&answers);
            }
        }
        proxy.wait_for_log("moves from");
        for machine in [&one, &two, &proxy] {
            log_in(Protocol::Imap, machine.address(), other, PASSWORD).unwrap();
        }
        thread::scope(|scope| {
            for machine in [&one, &two, &proxy] {
                for protocol in Protocol::ALL {
                    scope.spawn(move || {
                        log_in(protocol, machine.address(), user, PASSWORD).unwrap();
                        let (let_in, name) = (Timestamp::now(), machine.name());
                        assert!(let_in >= until, "{name}, {protocol:?}: {let_in}, before {until}");
                    });
                }
            }
        });
        for (entry, port) in deliveries {
            let answers = deliver_to((entry, port).into(), &[user]).unwrap();
            assert!(answers[0].starts_with("250 "), "{answers:?}");
        }
        let logged_in = |node: &Machine, user: &str| {
            let words = format!("imap-login: Info: Logged in: user=<{user}>");
            node.log().matches(&words).count()
        };
        wait_for("all logins in the logs", || {
            logged_in(&two, user) == 3 && logged_in(&one, other) == 3
        });
        assert_eq!((logged_in(&one, user), logged_in(&two, other)), (0, 0));
    });
}
