//! Who may log in is for the site's own passdb to say, be it passwd-file, SQL, LDAP or PAM;
//! where to is of the name that it leaves.

use std::io::ErrorKind;
use std::path::Path;

use mailaffinity::config::Config;
use mailaffinity::node_state::NodeState;
use support::clients::{Protocol, deliver_to, log_in};
use support::configuration::{Configuration, Node};
use support::machines::{Machine, Network, PASSWORD, SHARED, address};
use support::namespace;

use crate::home::{Logs, Way};

const LMTP_PORT: u16 = 24;
const LMTP_HOME_PORT: u16 = 2424;

/// What all have, before their own passdb: master users, and names without a domain. (The
/// last is Debian's for LMTP alone.)
const SITE: &str = "
auth_username_format = %{user | username | lower}
auth_master_user_separator = *
auth_failure_delay = 0
login_trusted_networks = 10.24.0.0/24
passdb masters {
  driver = static
  passdb_static_password = boss
  master = yes
  result_success = continue
}
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

/// The same users for each: one for each node, and one whom the passdb knows by another name
/// too.
struct Users {
    of_node: [String; 2],
    /// Of the second node; it would itself be of the first.
    other_name: String,
}

struct Kind {
    name: &'static str,
    lines: &'static str,
    /// What follows the line that includes ours.
    after: &'static str,
    /// Makes the accounts, on the first node for all, or on each machine.
    make: fn(&Users, &Machine),
    /// Names that the passdb changes.
    has_other_names: bool,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "passwd-file",
        lines: "
passdb passwd-file {
  passwd_file_path = /srv/cluster/users
  result_success = continue-ok
}
userdb passwd-file {
  passwd_file_path = /srv/cluster/users
}
",
        after: "",
        make: |users, machine| {
            let [one, two] = &users.of_node;
            let lines = [(one, one), (two, two), (&users.other_name, two)].map(|(name, user)| {
                format!("{name}:{{PLAIN}}{PASSWORD}::::::user={user} userdb_user={user}\n")
            });
            machine.write(&format!("{SHARED}/users"), &lines.concat());
        },
        has_other_names: true,
    },
    Kind {
        name: "SQL",
        lines: "
sql_driver = sqlite
sqlite_path = /srv/cluster/users.sqlite
passdb sql {
  query = SELECT user, password FROM users WHERE name = '%{user}'
  default_password_scheme = PLAIN
  result_success = continue-ok
}
userdb sql {
  query = SELECT user FROM users WHERE name = '%{user}'
}
",
        after: "",
        make: |users, machine| {
            let [one, two] = &users.of_node;
            let rows = [(one, one), (two, two), (&users.other_name, two)]
                .map(|(name, user)| format!("INSERT INTO users VALUES ('{name}', '{user}', '{PASSWORD}');"));
            let table = "CREATE TABLE users (name TEXT PRIMARY KEY, user TEXT, password TEXT);";
            let database = format!("{SHARED}/users.sqlite");
            machine.run("sqlite3", &[&database, &(table.to_owned() + &rows.concat())]);
        },
        has_other_names: true,
    },
    Kind {
        name: "LDAP",
        lines: "
ldap_uris = ldap://10.24.0.1
ldap_base = dc=example,dc=org
passdb ldap {
  ldap_filter = (uid=%{user})
  ldap_bind = yes
  fields {
    user = %{ldap:cn}
  }
  result_success = continue-ok
}
userdb ldap {
  ldap_filter = (uid=%{user})
  fields {
    user = %{ldap:cn}
  }
}
",
        after: "",
        make: start_ldap,
        has_other_names: true,
    },
    Kind {
        name: "PAM",
        // It can say nothing of a user without the password.
        lines: "
passdb masters {
  result_success = continue-ok
}
passdb pam {
  skip = authenticated
  result_success = continue-ok
}
userdb passwd {
  fields {
    uid = mail
    gid = mail
    home = /srv/cluster/mail/%{user}
  }
}
",
        after: "
protocol lmtp {
  passdb mailaffinity {
    skip = never
  }
}
",
        make: |users, machine| {
            for user in &users.of_node {
                machine.run("useradd", &["--no-create-home", user]);
                let set = format!("echo {user}:{PASSWORD} | chpasswd");
                machine.run("sh", &["-c", &set]);
            }
        },
        has_other_names: false,
    },
];

fn start_ldap(users: &Users, machine: &Machine) {
    let [one, two] = &users.of_node;
    let entries = [(one, one), (two, two), (&users.other_name, two)].map(|(name, user)| {
        format!(
            "dn: uid={name},dc=example,dc=org\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {user}\nsn: {user}\n\
             userPassword: {PASSWORD}\n\n"
        )
    });
    machine.run("mkdir", &["/srv/ldap"]);
    machine.write(
        "/srv/ldap/slapd.conf",
        "include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix dc=example,dc=org
directory /srv/ldap
access to attrs=userPassword by anonymous auth
access to * by * read
",
    );
    let domain =
        "dn: dc=example,dc=org\nobjectClass: dcObject\nobjectClass: organization\no: all\ndc: example\n\n";
    machine.write("/srv/ldap/users.ldif", &(domain.to_owned() + &entries.concat()));
    let conf = ["-f", "/srv/ldap/slapd.conf"];
    machine.run("slapadd", &[&conf[..], &["-l", "/srv/ldap/users.ldif"]].concat());
    machine.start("slapd", &[&conf[..], &["-h", "ldap://10.24.0.1"]].concat());
}

/// Names of which the mapping makes what the test needs.
fn users(configuration: &Configuration) -> Users {
    let config = Config::parse(&configuration.to_string(), Path::new("mailaffinity.toml")).unwrap();
    let cluster = config.cluster(&NodeState::default()).unwrap();
    let index = |user: &str| {
        let hash = config.hash_of(user.as_bytes()).unwrap();
        cluster.index_of_hash(hash, "").unwrap()
    };
    let mut names = (0..).map(|number| format!("user{number}"));
    // With its domain, each would be of the other node: what is mapped is what is left.
    let mut next = |node| {
        let differs = |name: &String| index(name) == node && index(&format!("{name}@example.org")) != node;
        names.find(differs).unwrap()
    };
    Users {
        of_node: [next(0), next(1)],
        other_name: next(0),
    }
}

#[test]
#[ignore = "as root"]
fn of_each_kind_are_asked_first_as_root() {
    namespace::run_with_network("accounts::of_each_kind_are_asked_first_as_root", || {
        let network = Network::new();
        let configuration = Configuration::of(
            [1, 2].map(|number| Node::new(&format!("node{number}"), &address(number).to_string())),
        );
        network.configure(&configuration);
        let users = users(&configuration);
        for kind in KINDS {
            println!("{}", kind.name);
            check(&network, &users, &kind);
        }
    });
}

fn check(network: &Network, users: &Users, kind: &Kind) {
    let nodes = [1, 2].map(|number| network.start(&format!("node{number}"), number));
    let proxy = network.start("proxy", 11);
    (kind.make)(users, &nodes[0]);
    if kind.name == "PAM" {
        (kind.make)(users, &nodes[1]);
        (kind.make)(users, &proxy);
    }
    for (machine, file) in [(&nodes[0], "node"), (&nodes[1], "node"), (&proxy, "proxy")] {
        machine.write("/etc/dovecot/conf.d/10-auth.conf", SITE);
        let include = format!("!include /usr/share/mailaffinity/mailaffinity-{file}.conf");
        let (before, after) = (kind.lines, kind.after);
        machine.start_dovecot(&format!("{before}{include}\n{after}{PATIENCE}"));
    }
    let [one, two] = &users.of_node;
    let mut logs = Logs::of(&nodes);
    for (entry, lmtp_port) in [(&nodes[0], LMTP_HOME_PORT), (&proxy, LMTP_PORT)] {
        let at = entry.address();
        let imap = |user: &str, password: &str| log_in(Protocol::Imap, at, user, password).map(drop);
        let mut lands = |name: &str, user: &str, password: &str, node: usize| {
            imap(name, password).unwrap_or_else(|error| panic!("{name}: {error}"));
            let way = Way::LogIn(Protocol::Imap);
            assert_eq!(
                logs.landed(1).get(&(user.to_owned(), way)),
                Some(&vec![node]),
                "{name}"
            );
        };
        lands(one, one, PASSWORD, 0);
        lands(two, two, PASSWORD, 1);
        lands(&format!("{}@Example.org", two.to_uppercase()), two, PASSWORD, 1);
        lands(&format!("{two}*master"), two, "boss", 1);
        if kind.has_other_names {
            lands(&users.other_name, two, PASSWORD, 1);
        }
        let master = format!("{two}*master");
        for (user, password) in [(&**two, "wrong"), ("nobody", PASSWORD), (&master, PASSWORD)] {
            let refused = imap(user, password).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Other, "{user}: {refused}");
            assert!(
                refused.to_string().contains("AUTHENTICATIONFAILED"),
                "{user}: {refused}"
            );
        }
        // By the entry itself.
        entry.wait_for_log("(auth failed, 1 attempts");
        assert!(!nodes[1].log().contains("auth failed"));

        let deliver = |user: &str| deliver_to((at, lmtp_port).into(), &[user]).unwrap().concat();
        for (name, user, node) in [(&**one, one, 0), (two, two, 1)] {
            let answer = deliver(name);
            assert!(answer.starts_with("250 "), "{answer}");
            let landed = logs.landed(1);
            assert_eq!(
                landed.get(&(user.clone(), Way::Deliver)),
                Some(&vec![node]),
                "{name}"
            );
        }
        let answer = deliver("stranger");
        assert!(answer.starts_with("550 5.1.1 "), "{answer}");
    }
}
