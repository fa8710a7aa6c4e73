//! The machines that the other tests here start are what they take them for.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Duration;

use support::clients::{Protocol, deliver, log_in};
use support::configuration::{Configuration, node_state};
use support::machines::{NETWORK, Network, PASSWORD};
use support::namespace;

#[test]
#[ignore = "as root"]
fn are_of_one_cluster_and_hang_and_die_by_themselves_as_root() {
    let test = "machines::are_of_one_cluster_and_hang_and_die_by_themselves_as_root";
    namespace::run_with_network(test, || {
        let network = Network::new();
        let _relay = network.start_relay();
        let [one, two] = [1, 2].map(|number| {
            let node = network.start(&format!("node{number}"), number);
            node.start_dovecot("auth_failure_delay = 0\n");
            node
        });
        for protocol in Protocol::ALL {
            for (address, user) in [
                (one.address(), "at1"),
                (one.address_6(), "at1by6"),
                (two.address(), "at2"),
            ] {
                log_in(protocol, address, user, PASSWORD).unwrap();
                let refused = log_in(protocol, address, "nobody", "wrong").err();
                assert_eq!(refused.unwrap().kind(), ErrorKind::Other, "{protocol:?}");
            }
        }
        for (node, here, elsewhere) in [(&one, "at1", "at2"), (&two, "at2", "at1")] {
            let log = node.log();
            let logged_in = |user: &str| log.matches(&format!("Logged in: user=<{user}>")).count();
            assert_eq!((logged_in(here), logged_in(elsewhere)), (4, 0), "{log}");
        }
        let answers = deliver(one.address(), &["anna", "bert"]).unwrap();
        assert!(
            answers.iter().all(|answer| answer.starts_with("250")),
            "{answers:?}"
        );
        assert!(two.path("/srv/cluster/mail/anna/Maildir/new").exists());

        // The module in the Lua of Debian 13, which takes its file for the site's.
        network.configure(Configuration::of_three_nodes(NETWORK));
        network.mark(&node_state(&["node1", "node2"]));
        let script = "print(require [[mailaffinity]].node('anna').name)";
        assert_eq!(two.run("lua5.4", &["-e", script]).stdout, b"node3\n");

        let address = one.address();
        let connects =
            |patience| TcpStream::connect_timeout(&(address, 143).into(), Duration::from_millis(patience));
        one.cut_off();
        assert_eq!(connects(300).unwrap_err().kind(), ErrorKind::TimedOut);
        log_in(Protocol::Imap, two.address(), "anna", PASSWORD).unwrap();
        one.connect();
        log_in(Protocol::Imap, address, "anna", PASSWORD).unwrap();
        one.hang();
        let mut silent = connects(60_000).unwrap();
        silent.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!(silent.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        one.go_on();
        log_in(Protocol::Imap, address, "anna", PASSWORD).unwrap();
        drop(one);
        assert!(connects(300).is_err());
        log_in(Protocol::Imap, two.address(), "anna", PASSWORD).unwrap();
    });
}
