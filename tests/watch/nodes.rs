//! Real Dovecots that die, hang, and return.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use mailaffinity::node_state::{By, NodeState};
use support::director::{Director, Settings};
use support::dovecot::{Dovecot, Syntax, imap_and_lmtp};
use support::sendmail::wait_for;

use crate::site::{Site, Watcher};

/// Three of them, at one port.
pub(crate) struct Dovecots {
    port: u16,
    running: [Option<Dovecot>; 3],
}

impl Dovecots {
    pub(crate) fn start() -> Dovecots {
        // Somebody else may take a free port before dovecot does.
        for _ in 0..5 {
            let port = free_port();
            let mut dovecots = Dovecots {
                port,
                running: [None, None, None],
            };
            if (1..=3).all(|node| dovecots.try_start_one(node)) {
                return dovecots;
            }
        }
        panic!("dovecot does not start (Debian's packages dovecot-imapd and dovecot-lmtpd)");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How often a node was asked.
    pub(crate) fn probes(&self, node: usize) -> usize {
        let log = self.running[node - 1].as_ref().unwrap().log();
        log.matches("no auth attempts in").count()
    }

    fn address(&self, node: usize) -> SocketAddr {
        (Ipv4Addr::new(127, 0, 0, node.try_into().unwrap()), self.port).into()
    }

    fn try_start_one(&mut self, node: usize) -> bool {
        let imap = self.address(node);
        let lmtp = TcpListener::bind((imap.ip(), 0)).unwrap().local_addr().unwrap();
        // One process for all logins.
        let logins = |syntax| match syntax {
            Syntax::V2_3 => "service_count = 0",
            Syntax::V2_4 => "restart_request_count = unlimited",
        };
        let mut dovecot = Dovecot::start(|syntax, files| {
            let settings = imap_and_lmtp(syntax, files, imap, lmtp);
            format!("{settings}service imap-login {{\n  {}\n}}\n", logins(syntax))
        });
        let listens = || TcpStream::connect(imap).is_ok().then_some(());
        let is_up = dovecot.wait_for(listens).is_some() && !dovecot.has_ended();
        self.running[node - 1] = Some(dovecot);
        is_up
    }

    fn kill(&mut self, node: usize) {
        let address = self.address(node);
        let dovecot = self.running[node - 1].take().unwrap();
        dovecot.end(|| TcpStream::connect(address).is_err());
    }

    fn signal(&self, node: usize, signal: &str) {
        self.running[node - 1].as_ref().unwrap().signal(signal);
    }
}

/// One that is free at all three addresses.
fn free_port() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let is_free = |last: u8| TcpListener::bind((IpAddr::from([127, 0, 0, last]), port)).is_ok();
        if is_free(2) && is_free(3) {
            return port;
        }
    }
}

#[test]
fn dovecots_die_hang_and_return() {
    let mut dovecots = Dovecots::start();
    let site = Site::new();
    // What the program finds when it is told: the order is the node state, the map, the program.
    fs::create_dir(site.path("told")).unwrap();
    site.script(
        "tell",
        &format!(
            "cd {} || exit\nnew=told/$(ls told | wc -l)\nmkdir new.d && cp nodes.toml access new.d && \
             echo \"$*\" >new.d/words && mv new.d $new",
            site.path("").display()
        ),
    );
    site.configure(
        site.configuration()
            .set("checks.probe", "imap")
            .set("checks.port", i64::from(dovecots.port))
            .set("watch.interval_ms", 200)
            .set("watch.timeout_ms", 1500)
            .set(
                "watch.on_change",
                vec![vec![site.path("tell").to_str().unwrap().to_owned()]],
            ),
    );
    let mut watcher = Watcher::start(&site);
    site.wait_for_map();

    dovecots.kill(1);
    site.wait_for_down(&["node1"]);
    let mark = site.site.state().mark_of("node1").unwrap().clone();
    assert_eq!(mark.by, By::Checks);
    assert!(
        mark.reason.starts_with(&dovecots.address(1).to_string()),
        "{mark:?}"
    );
    assert!(mark.since.is_some());
    site.wait_for_map();
    wait_for("the program", || site.path("told/0").exists());
    let told = |name: &str| fs::read_to_string(site.path("told/0").join(name)).unwrap();
    assert_eq!(told("words"), "node1 down\n");
    assert!(
        NodeState::load(&site.path("told/0/nodes.toml"))
            .unwrap()
            .is_down("node1")
    );
    assert!(told("access").contains("node2group") && !told("access").contains("node1group"));
    watcher.wait_for("STATUS=2 of 3 nodes up; down: node1");

    // It takes connections, and does not greet.
    dovecots.signal(2, "STOP");
    site.wait_for_down(&["node1", "node2"]);
    let mark = site.site.state().mark_of("node2").unwrap().clone();
    assert!(
        mark.reason.contains("sends no IMAP greeting within 1.5s"),
        "{mark:?}"
    );
    site.wait_for_map();
    assert!(site.groups().values().all(|group| group == "node3group"));

    // Nobody is left: that is who asks, and nothing changes.
    dovecots.signal(3, "STOP");
    site.wait_for_problem("the probe finds no node up");
    assert_eq!(site.down(), ["node1", "node2"]);
    assert!(dovecots.try_start_one(1));
    site.wait_for_down(&["node2", "node3"]);
    site.wait_until_well();
    for node in [2, 3] {
        dovecots.signal(node, "CONT");
    }
    site.wait_for_down(&[]);
    site.wait_for_map();
    watcher.wait_for("STATUS=3 nodes, all up");
    let stderr = watcher.end();
    assert_eq!(stderr.matches("finds no node up").count(), 1, "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(site.path("told/3").exists());
}

#[test]
fn a_director_is_followed() {
    let mut director = Director::start(Settings {
        mail_servers: "127.0.0.1 127.0.0.2 127.0.0.3",
        ..Settings::default()
    });
    let site = Site::new();
    site.configure(
        site.configuration()
            .set_path("checks.director", director.admin_socket())
            .set("checks.timeout_ms", 60_000),
    );
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    director.must(&["HOST-DOWN", "127.0.0.2"]);
    site.wait_for_down(&["node2"]);
    site.wait_for_map();
    // Without it, nothing changes.
    let socket = director.admin_socket();
    drop(director);
    site.wait_for_problem(socket.to_str().unwrap());
    assert_eq!(site.down(), ["node2"]);
    let stderr = watcher.end();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_move_ends_when_its_time_has_come() {
    let site = Site::new();
    site.configure(site.checked_by_files());
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    let home = site.groups();
    let users = ["user0", "user1"];
    let node = |user: &str| match home[user].as_str() {
        "node1group" => "node2",
        _ => "node1",
    };
    for user in users {
        site.site.must(&["move", "--for", "1h", user, node(user)]);
    }
    let are_away = || {
        users
            .iter()
            .all(|user| site.groups()[*user] == format!("{}group", node(user)))
    };
    wait_for("the map", are_away);
    // What nodes do ends no move.
    site.set_up(3, false);
    site.wait_for_down(&["node3"]);
    site.set_up(3, true);
    site.wait_for_down(&[]);
    site.wait_for_map();
    assert!(are_away());
    let state = fs::read_to_string(site.path("nodes.toml")).unwrap();
    let moved = |user: &str| site.site.state().nodes[node(user)].moved.clone();
    let hashes: Vec<_> = moved("user0").iter().collect();
    let until = moved("user0").until(hashes[0]).unwrap();
    site.write(
        "nodes.toml",
        &state.replacen(&until.to_string(), "2026-01-01T00:00:00Z", 1),
    );
    wait_for("the end of one", || {
        site.site
            .state()
            .nodes
            .values()
            .map(|entry| entry.moved.len())
            .sum::<usize>()
            == 1
    });
    site.wait_for_map();
    assert!(!are_away() && site.groups() != home);
    watcher.end();
}
