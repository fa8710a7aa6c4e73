//! The change-over from a live Director of Dovecot 2.3 and nodes of that version, as
//! doc/migration.md has it: nobody moves, whichever side users come in by.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::clients::{Protocol, log_in};
use support::director::{Director, Settings};
use support::dovecot::Dovecot;
use support::machines::{Machine, Network, address};
use support::namespace;
use support::site::Site;
use tempfile::TempDir;

use crate::agreement::doveadm;
use crate::page;

const USERS: usize = 300;
/// Who log in at once: more than there are processors, which wait for each other anyway.
const CLIENTS: usize = 6;
/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the Director's clients type.
const PASSWORD: &str = "password";
const PROXY: u8 = 11;

/// Of the page, and otherwise here.
const DIRECTOR: &str = "/run/dovecot/director-admin";
const DOVEADMS: &str = "[[\"/usr/bin/ssh\", \"node1\", \"doveadm\"]]";

/// Where each user came in, by the numbers of the nodes: all are the same where users have
/// one node.
type Homes = BTreeMap<String, Vec<u8>>;

/// A node: with Dovecot 2.3, until that has gone.
struct Node {
    machine: Machine,
    before: Option<Dovecot>,
    /// How much of the log was read.
    read: usize,
}

impl Node {
    fn start(network: &Network, mail: &Path, number: u8) -> Node {
        let name = format!("node{number}");
        let machine = network.start(&name, number);
        let tls = network.shared("tls");
        let before = machine.start_dovecot_2_3(|_| {
            format!(
                "protocols = imap
ssl = yes
ssl_cert = <{tls}/{name}.pem
ssl_key = <{tls}/{name}.key
login_trusted_networks = 10.24.0.0/24
first_valid_uid = 1
mail_location = maildir:~/Maildir
passdb {{
  driver = static
  args = password={PASSWORD}
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={mail}/{number}/%u
}}
service imap-login {{
  service_count = 0
  inet_listener imaps {{
    port = 0
  }}
}}
",
                tls = tls.display(),
                mail = mail.display(),
            )
        });
        Node {
            machine,
            before: Some(before),
            read: 0,
        }
    }

    /// Dovecot 2.4 in place of 2.3.
    fn change_over(&mut self) {
        let port = (self.machine.address(), Protocol::Imap.port());
        let before = self.before.take().unwrap();
        before.end(|| TcpStream::connect(port).is_err());
        self.read = 0;
        set_up(&self.machine, "mailaffinity-node.conf");
    }

    fn log(&self) -> String {
        match &self.before {
            Some(before) => before.log(),
            None => self.machine.log(),
        }
    }
}

/// A machine with Dovecot 2.4 and the lines of doc/dovecot.md, with another passdb before.
fn set_up(machine: &Machine, file: &str) {
    let lines = page::block_with(file)
        .replace(
            "passdb pam {",
            &format!("passdb static {{\n  password = {PASSWORD}"),
        )
        .replace("/etc/dovecot/private/ca.pem", "/srv/cluster/tls/ca.pem")
        // The proxy, and the Director, as doc/migration.md says.
        .replace(
            "10.24.0.3\n",
            &format!("10.24.0.3 {} 10.24.0.254\n", address(PROXY)),
        );
    // The Director needs no TLS there. And nothing of a test may depend on timing.
    let of_test = "auth_allow_cleartext = no\nlogin_proxy_timeout = 60s\n";
    machine.start_dovecot(&(lines + of_test));
}

struct Cluster {
    network: Network,
    nodes: Vec<Node>,
    director: Option<Director>,
    site: Site,
    users: Vec<String>,
    /// Where users can come in other than by the Director.
    entries: Vec<IpAddr>,
    doveadms: Vec<Vec<String>>,
    page: String,
    configuration: String,
    /// How often all have come.
    rounds: usize,
    _mail: TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        let network = Network::new();
        let mail = TempDir::with_prefix("mail").unwrap();
        fs::set_permissions(mail.path(), Permissions::from_mode(0o777)).unwrap();
        let nodes = (1..=3).map(|number| Node::start(&network, mail.path(), number));
        let nodes = nodes.collect();
        let mut director = Director::start(Settings {
            mail_servers: "10.24.0.1 10.24.0.2 10.24.0.3",
            imap: true,
            imap_port: Protocol::Imap.port(),
            more: &[("director_user_kick_delay", "0")],
            ..Settings::default()
        });
        for (number, share) in [(1, "50"), (2, "100"), (3, "170")] {
            director.must(&["HOST-SET", &address(number).to_string(), share]);
        }
        let site = Site::new();
        let user = |number| match number % 3 {
            0 => format!("user{number}"),
            1 => format!("User{number}@example.org"),
            _ => format!("First.Last{number}@Example.ORG"),
        };
        let users: Vec<String> = (0..USERS).map(user).collect();
        fs::write(site.path("users"), users.join("\n")).unwrap();
        Cluster {
            network,
            nodes,
            director: Some(director),
            site,
            users,
            entries: Vec::new(),
            doveadms: Vec::new(),
            page: page::page("doc/migration.md"),
            configuration: String::new(),
            rounds: 0,
            _mail: mail,
        }
    }

    fn director(&mut self) -> &mut Director {
        self.director.as_mut().unwrap()
    }

    /// What the Director has is the configuration of all, and is followed while it runs.
    fn take_over(&mut self) {
        let socket = self.director().admin_socket();
        let from_director = ["from-director", "-", "--director", socket.to_str().unwrap()];
        let doveconf = self.director().doveconf();
        let output = self.site.run(&from_director, &doveconf);
        self.configuration = String::from_utf8(output.stdout).unwrap();
        self.network.configure(&self.configuration);
        self.configure("[agreement]");
        self.update();
    }

    /// A block of the page is the end of the configuration from now on.
    fn configure(&self, words: &str) {
        let blocks = page::blocks(&self.page, "");
        let block = blocks.iter().find(|block| block.contains(words)).unwrap();
        let mut lines = block.replace(DOVEADMS, &format!("{:?}", self.doveadms));
        if let Some(director) = &self.director {
            lines = lines.replace(DIRECTOR, director.admin_socket().to_str().unwrap());
        }
        let users = self.site.path("users");
        self.site.configure(format!(
            "{}\n{lines}\n[users]\nfile = {users:?}\n[sendmail]\ncommand = [\"/bin/false\"]\n",
            self.configuration
        ));
    }

    /// The node state follows the Director, and all machines have it.
    fn update(&self) {
        self.site.must(&["update"]);
        let state = fs::read_to_string(self.site.path("nodes.toml")).unwrap_or_default();
        self.network.mark(&(state + "# written\n"));
    }

    /// Runs a command of the page at the Director.
    #[track_caller]
    fn at_director(&self, line: &str) {
        assert!(
            self.page.contains(&format!("       doveadm director {line}\n")),
            "{line}"
        );
        let words: Vec<&str> = line.split(' ').collect();
        self.director.as_ref().unwrap().doveadm(&words);
    }

    /// The same, and updates until the Director has nobody elsewhere any more.
    #[track_caller]
    fn flush(&self, what: &str) {
        self.at_director(&format!("flush {what}"));
        let begun = Instant::now();
        loop {
            self.update();
            if !self.has_moved() {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "{:?}", self.site.state());
        }
    }

    /// Whether the Director has users elsewhere than on the nodes of its ring.
    fn has_moved(&self) -> bool {
        let state = self.site.state();
        state.nodes.values().any(|entry| !entry.moved.is_empty())
    }

    fn change_over(&mut self, number: u8) {
        let node = &mut self.nodes[usize::from(number) - 1];
        node.change_over();
        let (address, doveadm) = (node.machine.address(), doveadm(&node.machine));
        self.enter_by(address, doveadm);
    }

    /// Users come in there too from now on.
    fn enter_by(&mut self, address: IpAddr, doveadm: Vec<String>) {
        self.entries.push(address);
        self.doveadms.push(doveadm);
        self.configure("[agreement]");
    }

    /// Lets all users log in, by the Director as long as there is one, and each by one of the
    /// other entries: where they land by the nodes' logs.
    fn land(&mut self) -> Homes {
        self.rounds += 1;
        let (users, entries, director, rounds) =
            (&self.users, &self.entries, self.director.as_ref(), self.rounds);
        thread::scope(|scope| {
            for begin in 0..CLIENTS {
                scope.spawn(move || {
                    for (number, user) in users.iter().enumerate().skip(begin).step_by(CLIENTS) {
                        if let Some(director) = director {
                            log_in_by(director, user);
                        }
                        if let Some(index) = (number + rounds).checked_rem(entries.len()) {
                            let entry = entries[index];
                            log_in(Protocol::Imap, entry, user, PASSWORD)
                                .unwrap_or_else(|error| panic!("{user} at {entry}: {error}"));
                        }
                    }
                });
            }
        });
        let count = USERS * (usize::from(director.is_some()) + usize::from(!entries.is_empty()));
        let begun = Instant::now();
        loop {
            let mut homes = Homes::new();
            for (number, node) in (1..).zip(&mut self.nodes) {
                let log = node.log();
                let landed = log[node.read..].lines().filter_map(who_landed);
                for user in landed {
                    homes.entry(user.to_owned()).or_default().push(number);
                }
            }
            if homes.values().map(Vec::len).sum::<usize>() >= count {
                for node in &mut self.nodes {
                    node.read = node.log().len();
                }
                assert_eq!(homes.len(), USERS);
                return homes;
            }
            assert!(begun.elapsed() < DEADLINE, "{homes:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// All sides say the same of each user.
    #[track_caller]
    fn assert_agree(&self) {
        let output = self.site.run(&["agreement", "--json"], b"");
        let text = String::from_utf8(output.stdout).unwrap();
        let rows = text.lines().map(|row| serde_json::from_str(row).unwrap());
        let rows: Vec<Value> = rows
            .filter(|row: &Value| {
                let part = row["part"].as_str().unwrap();
                part == "Director" || part.starts_with("Dovecot")
            })
            .collect();
        assert_eq!(rows.len(), 1 + self.doveadms.len(), "{text}");
        for row in rows {
            assert_eq!(
                (&row["agrees"], &row["asked"]),
                (&true.into(), &USERS.into()),
                "{row:#}"
            );
        }
    }

    /// All users land there, whichever side they come in by.
    #[track_caller]
    fn assert_all_at(&mut self, homes: &Homes, step: &str) {
        let found = self.land();
        let moved = found.iter().filter(|(user, nodes)| {
            let home = homes[*user][0];
            nodes.iter().any(|node| *node != home)
        });
        let moved: Vec<_> = moved.collect();
        assert!(moved.is_empty(), "{step}: {} moved: {moved:?}", moved.len());
    }
}

/// Logs in by the Director, which proxies to the node.
#[track_caller]
fn log_in_by(director: &Director, user: &str) {
    let socket = director.begin_login(user.as_bytes());
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut imap = BufReader::new(socket);
    let mut line = String::new();
    while !line.starts_with("a ") {
        line.clear();
        let read = imap.read_line(&mut line);
        assert!(read.is_ok_and(|read| read > 0), "{user}: {}", director.log());
    }
    assert!(line.starts_with("a OK"), "{user}: {line}{}", director.log());
}

/// Whom a line of a log lets in: 2.3 and 2.4 word it differently.
fn who_landed(line: &str) -> Option<&str> {
    let (_, said) = line.split_once("imap-login: Info: ")?;
    let said = said
        .strip_prefix("Login: ")
        .or_else(|| said.strip_prefix("Logged in: "))?;
    Some(said.strip_prefix("user=<")?.split_once('>')?.0)
}

#[test]
#[ignore = "as root"]
fn moves_nobody_as_root() {
    namespace::run_with_network("migration::moves_nobody_as_root", || {
        let mut cluster = Cluster::start();
        let homes = cluster.land();
        cluster.take_over();

        cluster.change_over(1);
        cluster.assert_agree();
        cluster.assert_all_at(&homes, "node1 has 2.4");

        // A node is down while it changes over: its users move, and to the same nodes for all.
        cluster.at_director("down 10.24.0.2");
        cluster.flush("10.24.0.2");
        let meanwhile = cluster.land();
        for (user, nodes) in &meanwhile {
            let moved = homes[user][0] == 2;
            assert!(
                nodes.iter().all(|node| *node == nodes[0]),
                "{user} is at {nodes:?}"
            );
            assert_ne!(nodes[0] == homes[user][0], moved, "{user} is at {nodes:?}");
        }
        cluster.assert_agree();
        cluster.change_over(2);
        // Back again: the Director leaves users where they were last, and so do all.
        cluster.at_director("up 10.24.0.2");
        cluster.update();
        assert!(cluster.has_moved(), "{:?}", cluster.site.state());
        cluster.assert_agree();
        cluster.assert_all_at(&meanwhile, "node2 is back");
        cluster.flush("all");
        cluster.assert_agree();
        cluster.assert_all_at(&homes, "node2 has its users back");

        // In a quiet hour.
        cluster.change_over(3);
        cluster.assert_all_at(&homes, "node3 has 2.4");

        let proxy = cluster.network.start("proxy1", PROXY);
        set_up(&proxy, "mailaffinity-proxy.conf");
        cluster.enter_by(proxy.address(), doveadm(&proxy));
        cluster.assert_agree();
        cluster.assert_all_at(&homes, "there is a proxy");

        // Nothing is left of what the Director had by hand, and it goes.
        cluster.flush("all");
        cluster.director = None;
        cluster.configure("probe");
        cluster.update();
        let state = cluster.site.state();
        assert!(state.nodes.is_empty(), "{state:?}");
        cluster.assert_all_at(&homes, "without the Director");
    });
}
