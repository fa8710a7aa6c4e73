//! Programs that ask for the users on standard input.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::cluster::{Cluster, NODE2, NODES, host_of, name_of, node_at, users};
use support::imap::Login;
use support::php;
use support::sendmail::run_well;

/// A program that is given the users, a line each.
struct Program {
    name: &'static str,
    command: fn(config: &Path) -> Command,
    prints: Prints,
}

/// What a program prints of each user.
#[derive(Clone, Copy)]
enum Prints {
    /// The host, and nothing else.
    Host,
    /// The user, the name of the node, and maybe more, between tabs.
    UserAndNode,
}

const PROGRAMS: [Program; 6] = [
    Program {
        name: "C",
        command: |config| with_config(&INSTALLED.join("map-c"), config),
        prints: Prints::Host,
    },
    Program {
        name: "C++",
        command: |config| with_config(&INSTALLED.join("map-c++"), config),
        prints: Prints::Host,
    },
    Program {
        name: "php-cli",
        command: |config| {
            let mut php = php::php();
            php.arg("-d").arg(format!("extension={}", php::MODULE.display()));
            php.arg("-d")
                .arg(format!("mailaffinity.config={}", config.display()));
            // It keeps scripts, not the module, from all other folders.
            php.args(["-d", "open_basedir=demo"]);
            // So that what is wrong is seen.
            php.args(["-d", "error_log=/dev/stderr", "demo/map.php"]);
            php
        },
        prints: Prints::Host,
    },
    Program {
        name: "Lua",
        command: |config| {
            let mut lua = Command::new("lua5.4");
            let script = MAP_IN_LUA.replace("CONFIG", &format!("{config:?}"));
            lua.args(["-e", &script])
                .env("LUA_CPATH", INSTALLED.join("lib/lua/5.4/?.so"));
            lua
        },
        prints: Prints::UserAndNode,
    },
    Program {
        name: "Perl",
        command: |config| {
            let mut perl = Command::new("perl");
            perl.args(["-Iperl/lib", "-MMail::Affinity", "-lne", MAP_IN_PERL]);
            perl.arg(config).env("LD_LIBRARY_PATH", INSTALLED.join("lib"));
            perl
        },
        prints: Prints::UserAndNode,
    },
    Program {
        name: "mailaffinity map",
        command: |config| {
            let mut mailaffinity = Command::new(&*support::built::MAILAFFINITY);
            mailaffinity.arg("map").arg("--config").arg(config);
            mailaffinity
        },
        prints: Prints::UserAndNode,
    },
];

/// The users, a line each, are standard input: what is left of the arguments.
const MAP_IN_PERL: &str = r#"BEGIN { $c = Mail::Affinity->load(shift) } print "$_\t", $c->node($_)->name"#;

const MAP_IN_LUA: &str = r#"
local site = assert(require "mailaffinity".open(CONFIG))
for user in io.lines() do print(user, assert(site.node(user)).name) end
"#;

fn with_config(program: &Path, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(config);
    command
}

impl Program {
    /// The host of each user.
    fn hosts(&self, config: &Path, users: &[String]) -> Vec<String> {
        let mut command = (self.command)(config);
        let output = run_well(&mut command, users.join("\n").as_bytes());
        assert!(output.stderr.is_empty(), "{}: {output:?}", self.name);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), users.len(), "{}: {text}", self.name);
        let host = |(user, line): (&String, &str)| match self.prints {
            Prints::Host => line.to_owned(),
            Prints::UserAndNode => {
                let fields: Vec<&str> = line.split('\t').collect();
                assert_eq!(fields[0], user, "{}", self.name);
                let node = (0..NODES).find(|node| name_of(*node) == fields[1]);
                host_of(node.unwrap_or_else(|| panic!("{}: {line}", self.name)))
            }
        };
        users.iter().zip(text.lines()).map(host).collect()
    }
}

/// The C library and the Lua module as they are installed, and two programs of one source
/// that were compiled with the former.
static INSTALLED: LazyLock<PathBuf> = LazyLock::new(|| {
    let prefix = support::built::tmp().join("webmail");
    let _ = fs::remove_dir_all(&prefix);
    let mut make = Command::new("make");
    make.args(["install-library", "install-lua", "--no-print-directory"])
        .arg(format!("PREFIX={}", prefix.display()))
        // It may be another make that runs this test.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL");
    run_well(&mut make, b"");
    for (compiler, options, program) in [
        ("cc", &["-std=c99"][..], "map-c"),
        ("c++", &["-x", "c++", "-std=c++17"], "map-c++"),
    ] {
        run_well(
            Command::new(compiler)
                .args(options)
                .args(["-Wall", "-Wextra", "-Werror", "demo/map.c", "-x", "none", "-o"])
                .arg(prefix.join(program))
                .args(pkg_config(&prefix))
                .arg(format!("-Wl,-rpath,{}/lib", prefix.display())),
            b"",
        );
    }
    prefix
});

fn pkg_config(prefix: &Path) -> Vec<String> {
    let output = run_well(
        Command::new("pkg-config")
            .args(["--cflags", "--libs", "mailaffinity"])
            .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")),
        b"",
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn programs_agree() {
    let mut cluster = Cluster::start(users(200));
    let node2 = host_of(NODE2);
    let mut answers = Vec::new();
    for commands in [
        &[][..],
        &[&["HOST-DOWN", &node2][..]],
        &[&["HOST-UP", &node2]],
        &[&["HOST-SET", &node2, "0"]],
        &[&["HOST-SET", &node2, "300"]],
        &[&["HOST-REMOVE", &node2]],
    ] {
        for command in commands {
            cluster.tell(command);
        }
        let hosts = cluster.hosts();
        for program in &PROGRAMS {
            let theirs = program.hosts(&cluster.site.config(), &cluster.users);
            assert_same(program.name, &cluster.users, &theirs, &hosts, commands);
        }
        answers.push(hosts);
    }
    let [before, down, up, without_vhosts, large, removed] = &answers[..] else {
        panic!("six states");
    };
    assert_eq!(before, up);
    assert_eq!(down, without_vhosts);
    assert_eq!(down, removed);
    assert!(before.contains(&node2) && !down.contains(&node2));
    assert!(large != before);
}

#[track_caller]
fn assert_same(program: &str, users: &[String], ours: &[String], theirs: &[String], state: &[&[&str]]) {
    for (user, (ours, theirs)) in users.iter().zip(ours.iter().zip(theirs)) {
        assert_eq!(ours, theirs, "{program}: {user}, after {state:?}");
    }
}

/// The Director hashes what authentication leaves of a name, and so do all; the map's
/// entries, which PHP reads, are of such names too.
#[test]
fn names_are_what_authentication_leaves_of_them() {
    const SEPARATOR: (&str, &str) = ("auth_master_user_separator", "*");
    for settings in [
        &[][..],
        &[("auth_username_format", "%Ln")],
        &[("auth_username_format", "%u")],
        &[SEPARATOR],
        &[SEPARATOR, ("auth_username_format", "%Ln")],
    ] {
        // One only of those that %Ln makes one of.
        let listed: Vec<String> = users(26).into_iter().step_by(2).collect();
        let mut cluster = Cluster::with_authentication(listed, settings);
        if settings.contains(&SEPARATOR) {
            let masters = ["*admin", "*Boss@example.org*x", "**"];
            for (user, master) in cluster.users.iter_mut().zip(masters.iter().cycle()) {
                user.push_str(master);
            }
        }
        let hosts: Vec<String> = cluster
            .users
            .iter()
            .map(|user| cluster.director.log_in_anew(user.as_bytes()))
            .collect();
        for program in &PROGRAMS {
            let theirs = program.hosts(&cluster.site.config(), &cluster.users);
            assert_same(program.name, &cluster.users, &theirs, &hosts, &[]);
        }
    }
}

/// The Director takes a name of digits only for a hash when it is asked, but not when
/// somebody logs in by it.
#[test]
fn names_of_digits_are_where_they_log_in() {
    let users: Vec<String> = (0..40).map(|number| format!("{}", 1234 * (number + 1))).collect();
    let mut cluster = Cluster::start(users);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let answers = PROGRAMS
            .each_ref()
            .map(|program| program.hosts(&cluster.site.config(), &cluster.users));
        let sessions: Vec<UnixStream> = cluster
            .users
            .iter()
            .map(|user| cluster.director.begin_login(user.as_bytes()))
            .collect();
        cluster.imap.await_users(&cluster.users);
        let logins = cluster.imap.logins();
        drop(sessions);
        for hosts in &answers {
            let nodes = hosts.iter().map(|host| node_at(host));
            let ours: BTreeSet<Login> = cluster.users.iter().cloned().zip(nodes).collect();
            assert_eq!(ours, logins);
        }
        seen.push(logins);
        // Nobody is logged in any more, when node2 is down.
        cluster.director.must(&["HOST-FLUSH"]);
        cluster.tell(&["HOST-DOWN", &host_of(NODE2)]);
    }
    assert_ne!(seen[0], seen[1]);
}
