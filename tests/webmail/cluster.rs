//! A cluster of IMAP nodes with a live Director, and a site that follows it.

use std::collections::BTreeSet;
use std::fs;

use support::configuration::{Configuration, Node};
use support::director::{Director, Lookup, Settings};
use support::imap::{ImapNodes, Login};
use support::site::Site;

pub(crate) const NODES: usize = 3;

/// The node that dies.
pub(crate) const NODE2: usize = 1;

pub(crate) struct Cluster {
    pub(crate) director: Director,
    pub(crate) imap: ImapNodes,
    pub(crate) site: Site,
    /// The users of the access map.
    pub(crate) users: Vec<String>,
}

impl Cluster {
    /// Starts it, with an access map that a web server cannot read, and what is published of
    /// it.
    pub(crate) fn start(users: Vec<String>) -> Cluster {
        Cluster::with_authentication(users, &[])
    }

    /// As [`start`](Cluster::start), with Dovecot's settings of authentication, which the
    /// configuration has too.
    pub(crate) fn with_authentication(users: Vec<String>, authentication: &[(&str, &str)]) -> Cluster {
        let imap = ImapNodes::start(NODES);
        let addresses: Vec<String> = (0..NODES).map(host_of).collect();
        let director = Director::start(Settings {
            mail_servers: &addresses.join(" "),
            imap: true,
            imap_port: imap.port(),
            more: authentication,
            ..Settings::default()
        });
        let site = Site::for_all();
        let nodes = (0..NODES).map(|node| {
            let (name, host) = (name_of(node), host_of(node));
            let group = format!("{name}group");
            Node::new(&name, &host).host(&host).queue_group(&group)
        });
        let configuration = authentication
            .iter()
            .fold(Configuration::of(nodes), |keys, (name, value)| {
                keys.set(name, *value)
            });
        site.configure(
            configuration
                .access_map("hash", site.path("access"))
                .set_path("access_map.published", site.path("answers.cdb"))
                .users(site.path("users"))
                .set_path("checks.director", director.admin_socket())
                .set("checks.timeout_ms", 60_000),
        );
        fs::write(site.path("users"), users.join("\n")).unwrap();
        fs::write(site.path("access"), "Connect:192.0.2\tRELAY\n").unwrap();
        let cluster = Cluster {
            director,
            imap,
            site,
            users,
        };
        cluster.update();
        cluster
    }

    pub(crate) fn update(&self) {
        assert_eq!(self.site.must(&["update"]), "");
    }

    /// The node of each user, by the Director's word. Nobody has logged in there.
    pub(crate) fn nodes_of(&mut self, users: &[String]) -> Vec<usize> {
        let asked: Vec<(&[u8], &str)> = users.iter().map(|user| (user.as_bytes(), "")).collect();
        let lookups = self.director.lookups(&asked).unwrap();
        lookups
            .iter()
            .map(|lookup| match lookup {
                Lookup::Host(host) => node_at(host),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// The host of each of the cluster's users, by the Director's word.
    pub(crate) fn hosts(&mut self) -> Vec<String> {
        let users = self.users.clone();
        self.nodes_of(&users).into_iter().map(host_of).collect()
    }

    /// Which logins there are when each of these users logs in and the Director is
    /// followed.
    pub(crate) fn right_logins(&mut self, users: &[String]) -> BTreeSet<Login> {
        let nodes = self.nodes_of(users);
        users.iter().cloned().zip(nodes).collect()
    }

    /// Tells the Director about node2, and lets the site follow.
    pub(crate) fn tell(&mut self, command: &[&str]) {
        self.director.must(command);
        self.update();
    }

    /// Lets node2 die, whose users have `meanwhile` until the site follows.
    pub(crate) fn kill(&mut self, meanwhile: impl FnOnce()) {
        self.imap.kill(NODE2);
        meanwhile();
        self.tell(&["HOST-DOWN", &host_of(NODE2)]);
    }

    pub(crate) fn revive(&mut self) {
        self.imap.revive(NODE2);
        self.tell(&["HOST-UP", &host_of(NODE2)]);
    }
}

pub(crate) fn name_of(node: usize) -> String {
    format!("node{}", node + 1)
}

/// Where a node serves.
pub(crate) fn host_of(node: usize) -> String {
    ImapNodes::address(node).to_string()
}

#[track_caller]
pub(crate) fn node_at(host: &str) -> usize {
    let node = (0..NODES).find(|node| host_of(*node) == host);
    node.unwrap_or_else(|| panic!("no node is at {host:?}"))
}

/// Users of all kinds, none of digits only: the Director would take such a name for a
/// hash if it were asked by `USER-LOOKUP`.
pub(crate) fn users(count: usize) -> Vec<String> {
    let kind = |number| match number % 13 {
        0 => format!("user{number}"),
        1 => format!("First.Last{number}"),
        2 => format!("MIXED-case_{number}"),
        3 => format!("user{number}@example.org"),
        4 => format!("User{number}@Mail.Example.COM"),
        5 => format!("user{number}+box"),
        6 => format!("User{number}+Box@example.org"),
        7 => format!("jürgen.groß{number}"),
        8 => format!("ÄRGER{number}"),
        9 => format!("o'neil{number}"),
        10 => format!("{number}.5-{number}"),
        11 => format!("\"quoted\"{number}"),
        _ => format!("{}{number}", "long".repeat(15)),
    };
    (0..count).map(kind).collect()
}
