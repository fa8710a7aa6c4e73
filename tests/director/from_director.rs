//! What `mailaffinity from-director` takes over from a live Director maps as that one does:
//! whatever its settings are, and whatever was done to it by hand.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use mailaffinity::config::Config;
use mailaffinity_cli::doveconf::Doveconf;
use support::director::{Director, Settings};
use support::namespace;
use support::site::Site;
use tempfile::TempDir;

use crate::live::{Random, at_once, nodes_of, seeds};

/// Clusters and settings, for each of the two seeds.
const CLUSTERS: u64 = 4;
const SETTINGS: u64 = 10;

/// None is of digits only, which the Director would take for a hash.
fn users() -> Vec<String> {
    let name = |number| match number % 4 {
        0 => format!("user{number}"),
        1 => format!("First.Last{number}@Example.ORG"),
        2 => format!("anna@a{number}.example"),
        _ => format!("U{number}@example.org"),
    };
    (0..240).map(name).collect()
}

/// A Director, and where its settings and state are taken over to.
struct Peers {
    director: Director,
    site: Site,
}

impl Peers {
    fn start(settings: Settings<'_>) -> Peers {
        Peers {
            director: Director::start(settings),
            site: Site::new(),
        }
    }

    /// Takes over, and returns the comments at the head of the configuration.
    #[track_caller]
    fn take_over(&self) -> String {
        let socket = self.director.admin_socket();
        let take = |options: &[&str]| {
            let from_director = ["from-director", "-", "--director", socket.to_str().unwrap()];
            let output = self
                .site
                .run(&[&from_director, options].concat(), &self.director.doveconf());
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && stderr.is_empty(), "{stderr}");
            String::from_utf8(output.stdout).unwrap()
        };
        let configuration = take(&[]);
        self.site.configure(&configuration);
        fs::write(self.site.path("nodes.toml"), take(&["--node-state"])).unwrap();
        // What the configuration can say is not left to the node state.
        let state = self.site.state();
        let mut entries = state.nodes.values();
        assert!(
            entries.all(|entry| entry.vhost_count.is_none() && entry.tag.is_none()),
            "{state:?}"
        );
        configuration.split_once("\n\n").unwrap().0.to_owned()
    }

    /// All users are where the Director has them, in lookups with each of its tags and one
    /// that it does not have.
    #[track_caller]
    fn assert_agrees(&mut self, history: &str) {
        let users = users();
        // The Director's socket is told what authentication leaves.
        let config = Config::load(&self.site.config()).unwrap();
        let names = users
            .iter()
            .map(|user| config.authenticated(user.as_bytes()).unwrap().into_owned());
        let names: Vec<Vec<u8>> = names.collect();
        let mut tags: Vec<String> = self
            .director
            .host_list()
            .into_iter()
            .map(|host| host.tag)
            .collect();
        tags.extend(["".into(), "unknown".into()]);
        tags.sort();
        tags.dedup();
        for tag in tags {
            let theirs = self.director.hosts_of(&names, &tag);
            let ours = self.mapped(&users, &tag);
            let mut both = users.iter().zip(ours.iter().zip(&theirs));
            if let Some((user, (ours, theirs))) = both.find(|(_, (ours, theirs))| ours != theirs) {
                panic!(
                    "{user} with the tag {tag:?} is at {ours:?}, the Director says {theirs:?}\n{history}\n{}\n{:#?}",
                    fs::read_to_string(self.site.config()).unwrap(),
                    self.site.state()
                );
            }
        }
    }

    fn mapped(&self, users: &[String], tag: &str) -> Vec<Option<IpAddr>> {
        let config = Config::load(&self.site.config()).unwrap();
        let output = self.site.run(&["map", "--tag", tag], users.join("\n").as_bytes());
        let text = String::from_utf8(output.stdout).unwrap();
        let nodes = text.lines().map(|line| line.split('\t').nth(1).unwrap());
        let address = |name| Some(config.nodes[config.nodes.index_of(name)?].node.address);
        let mapped: Vec<_> = nodes.map(address).collect();
        assert_eq!(mapped.len(), users.len(), "{text}");
        mapped
    }
}

#[test]
fn everything_set_by_hand_is_taken_over() {
    let mut peers = Peers::start(Settings {
        mail_servers: "10.0.0.1-10.0.0.4 2001:db8::1 10.0.1.1-10.0.1.2@east localhost",
        username_hash: "%Ln",
        more: &[
            ("director_user_kick_delay", "0"),
            ("director_user_expire", "1 hours"),
        ],
        ..Settings::default()
    });
    let head = peers.take_over();
    peers.assert_agrees("as it started");
    assert!(
        head.contains("# - director_user_expire = 1 hours: no login is remembered"),
        "{head}"
    );
    assert!(!head.contains("node state; \"mailaffinity"), "{head}");
    let config = Config::load(&peers.site.config()).unwrap();
    let last = config.nodes.iter().find(|node| node.node.name == "localhost");
    assert_eq!(last.map(|node| &*node.host), Some("localhost"));

    let moved = users().into_iter().find(|user| {
        let [host] = peers.director.hosts_of(&[user], "")[..] else {
            panic!()
        };
        host != Some("10.0.0.3".parse().unwrap())
    });
    for command in [
        &["HOST-SET", "10.0.0.1", "50"][..],
        &["HOST-SET", "2001:db8::1", "300"],
        &["HOST-SET", "10.0.0.9", "20"],
        &["HOST-SET", "10.0.1.9@west"],
        &["HOST-DOWN", "10.0.1.1"],
        &["HOST-REMOVE", "10.0.0.2"],
        &["HOST-SET", "10.0.0.4", "0"],
        // Moved there, and left there when it goes down.
        &["USER-MOVE", &moved.unwrap(), "10.0.0.3"],
        &["HOST-DOWN", "10.0.0.3"],
    ] {
        peers.director.must(command);
    }
    let head = peers.take_over();
    peers.assert_agrees("after changes by hand");
    for words in [
        "10.0.0.2 of director_mail_servers: the Director does not have it any more",
        "gives 10.0.0.1 100 vhosts: the Director has it with 50",
        "does not have 10.0.0.9: the Director does",
        "does not have 10.0.1.9@west: the Director does",
        "hosts are down (2), and users elsewhere than the ring has them (1)",
    ] {
        assert!(head.contains(words), "{words}: {head}");
    }

    // The settings alone know nothing of that.
    let output = peers
        .site
        .run(&["from-director", "-"], &peers.director.doveconf());
    let configuration = String::from_utf8(output.stdout).unwrap();
    assert!(
        configuration.contains("the Director itself was not asked"),
        "{configuration}"
    );
    assert!(
        configuration.contains("\"10.0.0.2\"") && !configuration.contains("vhost_count"),
        "{configuration}"
    );
}

#[test]
fn random_directors_are_taken_over() {
    at_once(seeds(CLUSTERS), |seed| {
        let mut random = Random::new(seed);
        let mail_servers = random.mail_servers();
        let changes = random.changes(&nodes_of(&mail_servers));
        let username_hash = ["%Lu", "%u", "%Ln", "%Ld", "%{if;%d;eq;;%Ln;%Lu}"][seed as usize % 5];
        let mut peers = Peers::start(Settings {
            mail_servers: &mail_servers,
            username_hash,
            ..Settings::default()
        });
        let history = format!("DIRECTOR_SEED={seed}\n{mail_servers}\n{username_hash}\n{changes:?}");
        peers.take_over();
        peers.assert_agrees(&history);
        for change in &changes {
            peers.director.must(&change.command());
        }
        if !peers.director.host_list().is_empty() {
            peers.take_over();
            peers.assert_agrees(&history);
        }
    });
}

/// What authentication is set to is in the settings only: a login goes where the
/// configuration says.
#[test]
fn what_authentication_makes_of_names_is_taken_over() {
    let mut peers = Peers::start(Settings {
        mail_servers: "127.0.0.1-127.0.0.9",
        imap: true,
        more: &[
            ("auth_default_realm", "Example.org"),
            ("auth_master_user_separator", "*"),
        ],
        ..Settings::default()
    });
    peers.take_over();
    for user in ["Anna", "bert@a", "Carla*admin", "dieter@Example.ORG*admin"] {
        let theirs = peers.director.log_in_anew(user.as_bytes());
        let ours = peers.mapped(&[user.to_owned()], "");
        assert_eq!(ours, [theirs.parse().ok()], "{user}");
    }
}

/// What doveconf prints is read as Dovecot has it.
#[test]
fn random_settings_are_read_as_dovecot_has_them() {
    at_once(seeds(SETTINGS), |seed| {
        let mut random = Random::new(seed);
        let mut value = random.text("ab =#{}%'\"\\$<\té", 12);
        // Of these it prints what it would read as another one itself.
        let is_quoted = |value: &str| {
            ['\'', '"']
                .iter()
                .any(|quote| value.starts_with(*quote) && value.ends_with(*quote))
        };
        while value.ends_with('\\') || is_quoted(&value) {
            value.push('x');
        }
        let director = Director::start(Settings {
            more: &[("auth_default_realm", &value)],
            ..Settings::default()
        });
        let settings =
            Doveconf::parse(&director.doveconf()).unwrap_or_else(|error| panic!("{value:?}: {error}"));
        assert_eq!(
            settings.top.get("auth_default_realm"),
            Some(&*value),
            "DIRECTOR_SEED={seed}"
        );
        assert!(
            settings
                .version
                .is_some_and(|version| version.starts_with("2.3."))
        );
    });
}

/// Names, one of which has several addresses, are the system's, and only root can change
/// what a Director finds for them.
#[test]
#[ignore = "needs root"]
fn names_are_taken_over_as_root() {
    namespace::run("from_director::names_are_taken_over_as_root", || {
        let hosts = TempDir::new().unwrap();
        let hosts = hosts.path().join("hosts");
        let lines = "10.0.0.1 imap1.example.org\n10.0.0.2 imap.example.org\n2001:db8::1 imap.example.org\n";
        fs::write(&hosts, lines).unwrap();
        namespace::mount(&["--bind", hosts.to_str().unwrap()], Path::new("/etc/hosts"));
        let mut peers = Peers::start(Settings {
            mail_servers: "imap1.example.org imap.example.org imap1.example.org@far",
            ..Settings::default()
        });
        assert_eq!(peers.director.host_list().len(), 4);
        let output = peers
            .site
            .run(&["from-director", "-"], &peers.director.doveconf());
        peers.site.configure(String::from_utf8(output.stdout).unwrap());
        peers.assert_agrees("by its settings");
        peers.take_over();
        peers.assert_agrees("by what it has");
        let config = Config::load(&peers.site.config()).unwrap();
        let names: BTreeSet<&str> = config.nodes.iter().map(|node| &*node.node.name).collect();
        let expected = ["10.0.0.1@", "10.0.0.1@far", "10.0.0.2", "2001:db8::1"];
        assert_eq!(names, BTreeSet::from(expected));
    });
}
