//! `mailaffinity agreement` on a site of a live Director, a real sendmail with its access
//! map, the C library and PHP: it agrees where all is well, and finds what is broken and
//! names the cause.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Output;

use jiff::Timestamp;
use serde_json::Value;
use support::configuration::{Configuration, Node};
use support::director::{Director, Settings};
use support::sendmail::{Cluster, feature, program, run};
use support::{built, maps, php, site};
use tempfile::TempDir;

const DIRECTOR: &str = "Director";
const ACCESS_MAP: &str = "access map";
const SENDMAIL: &str = "sendmail";
const C_LIBRARY: &str = "C library";
const PHP: &str = "PHP: mailaffinity_node()";
const WEBMAIL: &str = "PHP: map_user_via_sendmail_access()";
const PARTS: [&str; 6] = [DIRECTOR, ACCESS_MAP, SENDMAIL, C_LIBRARY, PHP, WEBMAIL];

const NODES: [&str; 3] = ["node1", "node2", "node3"];

/// A site whose parts agree, until somebody breaks it.
struct Mailsite {
    site: site::Site,
    director: Director,
    sendmail: Cluster,
    /// Where every user can read: the tests' own folder may be root's alone.
    public: TempDir,
    /// Keys of `[agreement]`, in place of those below.
    agreement: Vec<(&'static str, String)>,
}

/// What the command says of a part.
struct Said(Vec<Value>);

impl Mailsite {
    fn start() -> Mailsite {
        Mailsite::with_director(Settings::default())
    }

    fn with_director(settings: Settings<'_>) -> Mailsite {
        Mailsite::with_users(settings, &users())
    }

    fn with_users(settings: Settings<'_>, users: &str) -> Mailsite {
        let public = TempDir::new().unwrap();
        fs::set_permissions(public.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(&*php::MODULE, public.path().join("mailaffinity.so")).unwrap();
        let mailsite = Mailsite {
            site: site::Site::new(),
            director: Director::start(Settings {
                mail_servers: "192.0.2.1 192.0.2.2 192.0.2.3",
                ..settings
            }),
            sendmail: Cluster::new(&NODES),
            public,
            agreement: Vec::new(),
        };
        fs::write(mailsite.site.path("users"), users).unwrap();
        fs::write(mailsite.access(), "# by hand\n").unwrap();
        mailsite.configure();
        mailsite.site.must(&["update"]);
        // makemap gives it to sendmail's user only.
        fs::set_permissions(mailsite.map(), Permissions::from_mode(0o644)).unwrap();
        mailsite
    }

    fn access(&self) -> PathBuf {
        self.sendmail.access_map()
    }

    fn map(&self) -> PathBuf {
        maps::file(self.access())
    }

    fn configure(&self) {
        let words = |words: &[String]| {
            words
                .iter()
                .map(|word| format!("{word:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let sendmail = self.sendmail.words("node1");
        let agreement = [
            ("director", format!("{:?}", self.director.admin_socket())),
            ("c_library", format!("{:?}", built::library("libmailaffinity.so"))),
            ("php", format!("[{}]", words(&self.php(&self.site.config())))),
        ];
        let agreement = agreement.into_iter().map(|(key, value)| {
            let own = self.agreement.iter().find(|(own, _)| *own == key);
            format!("{key} = {}\n", own.map_or(&value, |(_, value)| value))
        });
        let nodes = (1..)
            .zip(NODES)
            .map(|(number, node)| Node::numbered(number, "192.0.2").host(&format!("{node}.example.org")));
        self.site.configure(
            Configuration::of(nodes)
                .access_map(maps::kind(), maps::named(self.access()))
                .set_path("access_map.makemap", program(&["makemap"], "sendmail-bin"))
                .users(self.site.path("users"))
                .sendmail(sendmail)
                .with(&format!("[agreement]\n{}", agreement.collect::<String>())),
        );
    }

    /// Puts lines before the configuration.
    fn prepend(&self, lines: &str) {
        let text = fs::read_to_string(self.site.config()).unwrap();
        fs::write(self.site.config(), lines.to_owned() + &text).unwrap();
    }

    /// Names a place where the map's answers are published, and says where.
    fn publish(&self) -> PathBuf {
        let published = self.public.path().join("answers.cdb");
        let table = format!("[access_map]\npublished = {published:?}\n");
        let text = fs::read_to_string(self.site.config()).unwrap();
        fs::write(self.site.config(), text.replace("[access_map]\n", &table)).unwrap();
        published
    }

    fn php(&self, config: &Path) -> Vec<String> {
        vec![
            program(&["php"], "php-cli").to_str().unwrap().into(),
            "-n".into(),
            "-d".into(),
            format!(
                "extension={}",
                self.public.path().join("mailaffinity.so").display()
            ),
            "-d".into(),
            format!("mailaffinity.config={}", config.display()),
        ]
    }

    /// Access source, map and whatever is beside them: name, inode and time of change.
    fn access_files(&self) -> BTreeSet<(OsString, u64, i64, i64)> {
        let entries = fs::read_dir(self.sendmail.folder()).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        files
            .map(|entry| {
                let metadata = entry.metadata().unwrap();
                let changed = (metadata.ctime(), metadata.ctime_nsec());
                (entry.file_name(), metadata.ino(), changed.0, changed.1)
            })
            .collect()
    }

    fn run(&self) -> Output {
        self.site.run(&["agreement", "--json"], b"")
    }

    /// What the command says where not all agree.
    #[track_caller]
    fn disagrees(&self) -> Said {
        let before = (self.site.seen(), self.access_files());
        let output = self.run();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        assert_eq!(
            (self.site.seen(), self.access_files()),
            before,
            "nothing is changed"
        );
        let said = Said::of(&output);
        // People are told the same.
        let table = String::from_utf8(self.site.run(&["agreement"], b"").stdout).unwrap();
        for row in &said.0 {
            for problem in row["problems"].as_array().unwrap() {
                assert!(table.contains(problem.as_str().unwrap()), "{table}");
            }
        }
        said
    }
}

impl Said {
    fn of(output: &Output) -> Said {
        let text = str::from_utf8(&output.stdout).unwrap();
        let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
        Said(rows.collect())
    }

    fn part(&self, part: &str) -> &Value {
        self.0.iter().find(|row| row["part"] == part).expect(part)
    }

    /// These parts do not agree, and all others do.
    #[track_caller]
    fn only(&self, parts: &[&str]) -> &Said {
        for part in PARTS {
            let row = self.part(part);
            assert_eq!(row["agrees"], !parts.contains(&part), "{row:#}");
        }
        self
    }

    /// The part names this cause.
    #[track_caller]
    fn because(&self, part: &str, cause: &str) -> &Said {
        let row = self.part(part);
        let problems = row["problems"].as_array().unwrap();
        assert!(
            problems
                .iter()
                .any(|problem| problem.as_str().unwrap().contains(cause)),
            "{cause}: {row:#}"
        );
        self
    }

    /// So many users have another answer, the first of them this one.
    #[track_caller]
    fn first(&self, part: &str, user: &str, expected: &str, answer: &str) -> &Said {
        let row = self.part(part);
        let first = serde_json::json!({"user": user, "expected": expected, "answer": answer});
        assert_eq!(row["first"], first, "{row:#}");
        self
    }
}

/// Names of all kinds, digits and mixed case among them.
fn users() -> String {
    let mut users: Vec<String> = (1..=40).map(|number| format!("user{number}")).collect();
    users.extend((1..=10).map(|number| format!("anna.{number}@mail{number}.example.org")));
    // Others than those: each has the entry that is found first.
    users.extend((1..=10).map(|number| format!("anna.{number}")));
    users.extend(
        [
            "Bert",
            "carla+lists",
            "4711",
            "0",
            "d'arc",
            "elena_x",
            "naïve",
            "100%",
            "a b",
        ]
        .map(str::to_owned),
    );
    users.join("\n") + "\n"
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// PHP has the old node of those who move until then.
#[test]
fn it_waits_for_users_who_move() {
    let mailsite = Mailsite::start();
    let until = Timestamp::from_second(Timestamp::now().as_second() + 15).unwrap();
    let state = format!("[before]\nuntil = \"{until}\"\n[before.node.node2]\nstate = \"down\"\n");
    fs::write(mailsite.site.path("new"), state).unwrap();
    fs::rename(mailsite.site.path("new"), mailsite.site.path("nodes.toml")).unwrap();
    mailsite.site.must(&["agreement"]);
    assert!(Timestamp::now() >= until);
}

#[test]
fn all_agree() {
    let mailsite = Mailsite::start();
    let rows = mailsite.site.json(&["agreement", "--json"]);
    let parts: Vec<&str> = rows.iter().map(|row| row["part"].as_str().unwrap()).collect();
    assert_eq!(parts, PARTS);
    let total = users().lines().count();
    for row in &rows {
        assert_eq!(
            (&row["agrees"], &row["differ"]),
            (&true.into(), &0.into()),
            "{row:#}"
        );
        // sendmail's test mode cannot be asked for all names, nor can all have entries.
        let asked = usize::try_from(row["asked"].as_u64().unwrap()).unwrap();
        match row["part"].as_str().unwrap() {
            ACCESS_MAP | WEBMAIL => assert_eq!(asked, total - 1),
            SENDMAIL => assert_eq!(asked, total - 2),
            _ => assert_eq!(asked, total),
        }
    }
    let table = mailsite.site.must(&["agreement"]);
    for line in [
        "access map: not asked for 1, such as \"a b\": the name can have no entry in the access map",
        "sendmail: not asked for 1, such as \"100%\": sendmail's test mode takes no such name",
    ] {
        assert!(table.contains(line), "{table}");
    }
    assert!(
        table.ends_with("\nThe configuration and 6 parts agree.\n"),
        "{table}"
    );
    assert_eq!(mailsite.site.must(&["agreement", "--quiet"]), "");
    let table = mailsite.site.must(&["agreement", "--", "user1"]);
    assert!(
        table.ends_with("\nThe configuration and 6 parts agree.\n"),
        "{table}"
    );
    let table = mailsite.site.must(&["agreement", "--", "a b"]);
    assert!(
        table.ends_with("\nThe configuration and 3 parts agree.\n"),
        "{table}"
    );
}

/// A node goes, in the Director, the node state and the map, and all agree again.
#[test]
fn all_agree_when_a_node_is_down() {
    let mut mailsite = Mailsite::start();
    mailsite.director.must(&["HOST-DOWN", "192.0.2.2"]);
    mailsite.site.must(&["down", "node2"]);
    mailsite.site.must(&["update"]);
    fs::set_permissions(mailsite.map(), Permissions::from_mode(0o644)).unwrap();
    mailsite.site.must(&["agreement"]);
}

#[test]
fn the_map_is_stale() {
    let mut mailsite = Mailsite::start();
    mailsite.director.must(&["HOST-DOWN", "192.0.2.2"]);
    mailsite.site.must(&["down", "node2"]);
    mailsite
        .disagrees()
        .only(&[ACCESS_MAP, SENDMAIL, WEBMAIL])
        .because(ACCESS_MAP, "is stale: run \"mailaffinity update\"")
        .because(WEBMAIL, "node \"node2\" is down, but a user is mapped to it")
        .because(SENDMAIL, "it is what the access map has")
        .first(ACCESS_MAP, "user1", "node3", "node2");
}

#[test]
fn the_example_of_its_page_is_true() {
    let page = fs::read_to_string("doc/agreement.md").unwrap();
    let example = page.split("nobody ran the update:\n\n").nth(1).unwrap();
    let example = example
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n");
    let example: String = example.collect();

    let users = "anna\nbert\ncarla\ndieter\nelena\nfranco\n";
    let mut mailsite = Mailsite::with_users(Settings::default(), users);
    mailsite.director.must(&["HOST-DOWN", "192.0.2.2"]);
    mailsite.site.must(&["down", "node2"]);
    let output = mailsite.site.run(&["agreement"], b"");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed = printed.replace(mailsite.access().to_str().unwrap(), "/etc/mail/access");
    assert_eq!(printed.trim_end(), example.trim_end(), "{printed}");
}

#[test]
fn the_director_hashes_names_otherwise() {
    for format in ["%Ln", "%u"] {
        let mailsite = Mailsite::with_director(Settings {
            username_hash: format,
            ..Settings::default()
        });
        mailsite.prepend("auth_username_format = \"%u\"\n");
        mailsite.disagrees().only(&[DIRECTOR]).because(
            DIRECTOR,
            &format!("the Director answers as by director_username_hash = {format}, while the configuration has username_hash = \"%Lu\""),
        );
    }
    let mailsite = Mailsite::with_director(Settings {
        username_hash: "x%Lu",
        ..Settings::default()
    });
    mailsite
        .disagrees()
        .only(&[DIRECTOR])
        .because(DIRECTOR, "compare director_username_hash");
}

#[test]
fn the_director_has_other_hosts() {
    let mut mailsite = Mailsite::start();
    mailsite.director.must(&["HOST-SET", "192.0.2.2", "50"]);
    mailsite.disagrees().only(&[DIRECTOR]).because(
        DIRECTOR,
        "node2 (192.0.2.2) has 50 vhosts in the Director, and vhost_count 100",
    );
    mailsite.director.must(&["HOST-SET", "192.0.2.2", "100"]);
    mailsite.site.must(&["agreement"]);

    mailsite.director.must(&["HOST-DOWN", "192.0.2.3"]);
    mailsite
        .disagrees()
        .only(&[DIRECTOR])
        .because(DIRECTOR, "node3 (192.0.2.3) is down in the Director, and up in");
    mailsite.director.must(&["HOST-UP", "192.0.2.3"]);
    mailsite.director.must(&["HOST-REMOVE", "192.0.2.1"]);
    mailsite
        .disagrees()
        .only(&[DIRECTOR])
        .because(DIRECTOR, "the Director has no host node1 (192.0.2.1)");
    mailsite.director.must(&["HOST-SET", "192.0.2.1", "100"]);
    mailsite.director.must(&["HOST-SET", "192.0.2.9", "100"]);
    mailsite.disagrees().only(&[DIRECTOR]).because(
        DIRECTOR,
        "the Director's host 192.0.2.9 is not in the configuration",
    );
    mailsite.director.must(&["HOST-REMOVE", "192.0.2.9"]);
    mailsite.site.must(&["agreement"]);
}

#[test]
fn the_director_has_a_user_elsewhere() {
    let mut mailsite = Mailsite::start();
    let own = mailsite.site.must(&["map", "user7"]);
    let other = if own.contains("node1") {
        ("192.0.2.2", "node2")
    } else {
        ("192.0.2.1", "node1")
    };
    mailsite.director.must(&["USER-MOVE", "user7", other.0]);
    mailsite
        .disagrees()
        .only(&[DIRECTOR])
        .first(DIRECTOR, "user7", own.split('\t').nth(1).unwrap(), other.1)
        .because(
            DIRECTOR,
            "the Director's table has users on other nodes than its ring",
        );
}

#[test]
fn the_director_does_not_run() {
    let mut mailsite = Mailsite::start();
    mailsite.agreement = vec![("director", "\"/nonexistent/director-admin\"".into())];
    mailsite.configure();
    mailsite.disagrees().only(&[DIRECTOR]).because(
        DIRECTOR,
        "/nonexistent/director-admin: cannot connect to the Director",
    );
}

#[test]
fn sendmail_has_no_rule_set() {
    let mailsite = Mailsite::start();
    let line = format!("FEATURE(`{}', `mqueue')", feature());
    mailsite.sendmail.reconfigure("node1", &[(&line, "")]);
    let config = fs::read_to_string(mailsite.site.config()).unwrap();
    // Where there is a node, it needs one.
    let node = "\n[[node]]\nname = \"here\"\naddress = \"127.0.0.1\"\nvhost_count = 0\n";
    fs::write(mailsite.site.config(), config.clone() + node).unwrap();
    mailsite.disagrees().because(
        SENDMAIL,
        "has no rule set queuegroup: add FEATURE(`mailaffinity')",
    );
    // On a web server, whose addresses no node has, it does not.
    fs::write(mailsite.site.config(), config.replace("192.0.2.", "203.0.113.")).unwrap();
    let row = Said::of(&mailsite.run()).part(SENDMAIL).clone();
    let not_here = row["not_here"].as_str().unwrap();
    assert!(not_here.contains("has no rule set queuegroup"), "{row:#}");
    mailsite.configure();

    mailsite
        .sendmail
        .reconfigure("node1", &[(&line, "FEATURE(`queuegroup')")]);
    mailsite.disagrees().only(&[SENDMAIL]).because(
        SENDMAIL,
        "put FEATURE(`mailaffinity') in place of FEATURE(`queuegroup')",
    );
}

#[test]
fn sendmail_waits_for_a_host_name() {
    let mailsite = Mailsite::start();
    // As of no host that is well set up: it is in /etc/hosts, and has no dot.
    mailsite.sendmail.name_host("node1", "localhost");
    let starts = mailsite.site.path("starts");
    let counted = format!(
        "[\"/bin/sh\", \"-c\", \"echo >>{}; exec \\\"$0\\\" \\\"$@\\\"\", \"/usr/bin/env\",",
        starts.display()
    );
    let config = fs::read_to_string(mailsite.site.config()).unwrap();
    let config = config.replace("[\"/usr/bin/env\",", &counted);
    // Shorter than it waits.
    let config = config.replace("[agreement]\n", "[agreement]\ntimeout_seconds = 30\n");
    fs::write(mailsite.site.config(), config).unwrap();
    let output = mailsite.run();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = str::from_utf8(&output.stderr).unwrap();
    assert!(
        stderr.starts_with("mailaffinity: sendmail takes its time: it waits for this host's name"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    Said::of(&output)
        .only(&[SENDMAIL])
        .because(SENDMAIL, "did not end within 30s");
    assert_eq!(fs::read_to_string(starts).unwrap(), "\n", "it is asked once");
}

#[test]
fn sendmail_has_another_map() {
    let mailsite = Mailsite::start();
    let access = mailsite.access().display().to_string();
    let other = format!("{access}-other");
    let makemap = program(&["makemap"], "sendmail-bin");
    let mut command = std::process::Command::new(makemap);
    run(
        command.arg(maps::kind()).arg(&other),
        b"QGRP:other@\tnode1group\n",
    );
    mailsite.sendmail.reconfigure("node1", &[(&access, &other)]);
    mailsite
        .disagrees()
        .only(&[SENDMAIL])
        .because(SENDMAIL, "its map access has no entry for user1: is it hash:");
    run(command.arg("-r"), b"QGRP:user1@\tnode1group\n");
    mailsite
        .disagrees()
        .only(&[SENDMAIL])
        .because(SENDMAIL, "its map access has another entry for user1 than hash:");

    mailsite
        .sendmail
        .reconfigure("node1", &[(&access, "/nonexistent/access")]);
    mailsite
        .disagrees()
        .only(&[SENDMAIL])
        .because(SENDMAIL, "it cannot read its map access");
}

#[test]
fn there_is_no_sendmail_where_the_configuration_says() {
    let mailsite = Mailsite::start();
    let text = fs::read_to_string(mailsite.site.config()).unwrap();
    let text = text.replace("command = [\"/usr/bin/env\"", "command = [\"/nonexistent/env\"");
    fs::write(mailsite.site.config(), text).unwrap();
    mailsite
        .disagrees()
        .only(&[SENDMAIL])
        .because(SENDMAIL, "/nonexistent/env");
}

/// Nodes may share a host, as behind one address, and have no queue group.
#[test]
fn nodes_with_one_host_and_nodes_without_a_queue_group() {
    // None whose bare name is another user's, and has the entry that this one has not.
    let users = users();
    let users: Vec<_> = users
        .lines()
        .filter(|user| user.contains('@') || !user.starts_with("anna."))
        .collect();
    let mailsite = Mailsite::with_users(Settings::default(), &(users.join("\n") + "\n"));
    let text = fs::read_to_string(mailsite.site.config()).unwrap();
    let text = text
        .replace("queue_group = \"node2group\"\n", "")
        .replace("\"node2.example.org\"", "\"node1.example.org\"");
    fs::write(mailsite.site.config(), text).unwrap();
    mailsite.site.must(&["update", "--accept-loss"]);
    fs::set_permissions(mailsite.map(), Permissions::from_mode(0o644)).unwrap();
    let table = mailsite.site.must(&["agreement"]);
    assert!(table.contains("the node has no queue_group"), "{table}");
}

/// Somebody takes a node down and up again, whenever PHP is asked: so often, or always.
#[test]
fn a_node_goes_down_and_up_meanwhile() {
    let mut mailsite = Mailsite::start();
    let (config, script) = (mailsite.site.config(), mailsite.site.path("php"));
    let php = mailsite.php(&config);
    mailsite.agreement = vec![("php", format!("[\"/bin/sh\", {script:?}]"))];
    mailsite.configure();
    for (times, status) in [(2, 0), (100, 75)] {
        let asked = mailsite.site.path(&format!("asked-{times}"));
        fs::write(&asked, "").unwrap();
        let text = format!(
            "echo >>{asked:?}; asked=$(wc -l <{asked:?})\n\
             if [ $asked -le {times} ]; then\n\
             if [ $((asked % 2)) = 1 ]; then mark=down; else mark=up; fi\n\
             {program:?} --config {config:?} $mark node2 && {program:?} --config {config:?} update\n\
             fi\nexec {php} \"$@\"\n",
            program = &*support::built::MAILAFFINITY,
            php = php
                .iter()
                .map(|word| format!("{word:?}"))
                .collect::<Vec<_>>()
                .join(" "),
        );
        fs::write(&script, text).unwrap();
        let output = mailsite.run();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let asked = fs::read_to_string(&asked).unwrap().lines().count();
        assert_eq!(asked, if status == 0 { 3 } else { 5 });
    }
}

/// A warning of another extension's is none of ours.
#[test]
fn php_has_other_things_to_say() {
    let mut mailsite = Mailsite::start();
    let mut words = mailsite.php(&mailsite.site.config());
    words.extend(["-d", "extension=nonexistent"].map(str::to_owned));
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    mailsite.agreement = vec![("php", format!("[{}]", words.join(", ")))];
    mailsite.configure();
    mailsite.site.must(&["agreement"]);
}

#[test]
fn sendmail_does_not_have_a_queue_group() {
    let mailsite = Mailsite::start();
    mailsite.sendmail.reconfigure(
        "node1",
        &[("QUEUE_GROUP(`node2group'", "QUEUE_GROUP(`node9group'")],
    );
    mailsite
        .disagrees()
        .only(&[SENDMAIL])
        .because(SENDMAIL, "sendmail has no queue group node2group");
}

#[test]
fn somebody_wrote_an_entry_by_hand() {
    let mailsite = Mailsite::start();
    let own = mailsite.site.must(&["map", "user7"]);
    let other = if own.contains("node1") { "node2" } else { "node1" };
    let text = fs::read_to_string(mailsite.access()).unwrap();
    fs::write(mailsite.access(), format!("QGRP:user7@\t{other}group\n{text}")).unwrap();
    mailsite.site.must(&["update"]);
    fs::set_permissions(mailsite.map(), Permissions::from_mode(0o644)).unwrap();
    mailsite
        .disagrees()
        .only(&[ACCESS_MAP, SENDMAIL, WEBMAIL])
        .first(ACCESS_MAP, "user7", own.split('\t').nth(1).unwrap(), other)
        .because(
            ACCESS_MAP,
            "access:1: an entry by hand gives user7 the queue group",
        )
        .because(SENDMAIL, "it is what the access map has")
        .because(WEBMAIL, "it is what the access map has");
}

/// The Director tells them apart, and the access map cannot.
#[test]
fn names_differ_in_case_only() {
    let settings = Settings {
        username_hash: "%u",
        ..Settings::default()
    };
    let mailsite = Mailsite::with_users(settings, "bert\nanna\nAnna\nANNA\n");
    mailsite.prepend("auth_username_format = \"%u\"\nusername_hash = \"%u\"\n");
    mailsite
        .disagrees()
        .only(&[ACCESS_MAP, SENDMAIL, WEBMAIL])
        .because(ACCESS_MAP, "cannot tell Anna from anna");
}

#[test]
fn the_map_is_damaged_or_gone() {
    let mailsite = Mailsite::start();
    let map = fs::read(mailsite.map()).unwrap();
    fs::write(mailsite.map(), &map[..map.len() / 2]).unwrap();
    let said = mailsite.disagrees();
    said.because(ACCESS_MAP, "is damaged")
        .because(WEBMAIL, "is damaged");
    fs::remove_file(mailsite.map()).unwrap();
    let said = mailsite.disagrees();
    said.because(ACCESS_MAP, "No such file")
        .because(WEBMAIL, "No such file");
    said.because(SENDMAIL, "it cannot read its map access");
}

#[test]
fn what_is_published_is_not_of_the_map() {
    let mut mailsite = Mailsite::start();
    let published = mailsite.publish();
    mailsite
        .disagrees()
        .only(&[ACCESS_MAP, WEBMAIL])
        .because(
            ACCESS_MAP,
            "answers.cdb: No such file or directory (os error 2); run ",
        )
        .because(WEBMAIL, "; using the access map");
    mailsite.site.must(&["update"]);
    mailsite.site.must(&["agreement"]);
    let old = fs::read(&published).unwrap();
    mailsite.director.must(&["HOST-DOWN", "192.0.2.2"]);
    mailsite.site.must(&["down", "node2"]);
    mailsite.site.must(&["update"]);
    mailsite.site.must(&["agreement"]);
    fs::write(&published, &old).unwrap();
    mailsite
        .disagrees()
        .only(&[ACCESS_MAP, WEBMAIL])
        .because(
            ACCESS_MAP,
            "answers.cdb has another entry for user1 than the map: run \"mailaffinity update\"",
        )
        .because(WEBMAIL, "is down, but a user is mapped to it");
    fs::write(&published, &old[..3000]).unwrap();
    mailsite
        .disagrees()
        .only(&[ACCESS_MAP, WEBMAIL])
        .because(ACCESS_MAP, "answers.cdb are damaged: ");
    mailsite.site.must(&["update"]);
    mailsite.site.must(&["agreement"]);
}

/// The web server's user cannot read what root can; the answers are right all the same,
/// until the map says something else than the mapping.
#[test]
fn a_file_cannot_be_read() {
    let mut mailsite = Mailsite::start();
    if is_root() {
        let mut php = vec![
            "/usr/sbin/runuser".into(),
            "-u".into(),
            "nobody".into(),
            "--".into(),
        ];
        let config = mailsite.public.path().join("mailaffinity.toml");
        php.extend(mailsite.php(&config));
        let words: Vec<String> = php.iter().map(|word: &String| format!("{word:?}")).collect();
        mailsite.agreement = vec![("php", format!("[{}]", words.join(", ")))];
        mailsite.configure();
        fs::copy(mailsite.site.config(), &config).unwrap();
    }
    let unreadable = if is_root() { 0o640 } else { 0 };
    fs::set_permissions(mailsite.map(), Permissions::from_mode(unreadable)).unwrap();
    let said = mailsite.disagrees();
    said.because(WEBMAIL, "Permission denied");
    if is_root() {
        said.only(&[WEBMAIL])
            .because(WEBMAIL, "let the update publish its answers");
        assert_eq!(said.part(WEBMAIL)["differ"], 0);
        // It need not, once its answers are published.
        let published = mailsite.publish();
        let public_config = mailsite.public.path().join("mailaffinity.toml");
        fs::copy(mailsite.site.config(), &public_config).unwrap();
        mailsite.site.must(&["update"]);
        mailsite.site.must(&["agreement"]);
        fs::set_permissions(&published, Permissions::from_mode(0o640)).unwrap();
        mailsite
            .disagrees()
            .only(&[WEBMAIL])
            .because(WEBMAIL, "setfacl -m u:www-data:r");
        // PHP cannot read its configuration.
        fs::set_permissions(public_config, Permissions::from_mode(0o600)).unwrap();
        mailsite
            .disagrees()
            .only(&[PHP, WEBMAIL])
            .because(PHP, "cannot read the configuration: Permission denied");
    } else {
        said.because(ACCESS_MAP, "Permission denied");
    }
}

#[test]
fn php_does_not_load_the_extension() {
    let mut mailsite = Mailsite::start();
    let php = program(&["php"], "php-cli");
    mailsite.agreement = vec![("php", format!("[{php:?}, \"-n\"]"))];
    mailsite.configure();
    mailsite.disagrees().only(&[PHP, WEBMAIL]).because(
        PHP,
        "does not load the extension mailaffinity: run \"phpenmod mailaffinity\"",
    );
    mailsite.agreement = vec![("php", "[\"/nonexistent/php\"]".into())];
    mailsite.configure();
    mailsite
        .disagrees()
        .only(&[PHP, WEBMAIL])
        .because(PHP, "/nonexistent/php cannot be run");
}

/// The Director ends itself when it is asked for one, and drops who sends it the other.
#[test]
fn users_without_a_hash_are_counted_and_the_others_asked() {
    let format = "%{if;%n;>;5;%u;%d}";
    let long = "9".repeat(1024);
    let mailsite = Mailsite::with_users(
        Settings {
            username_hash: format,
            ..Settings::default()
        },
        &format!("6@a.example\nsix@a.example\n4@b.example\n{long}\n7@c.example\n"),
    );
    mailsite.prepend(&format!("username_hash = \"{format}\"\n"));
    mailsite.site.must(&["update"]);
    let output = mailsite.run();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = Said::of(&output);
    said.only(&[]);
    let number =
        "no part has a node for it: username_hash compares what is no number as one in this user's name";
    let length = "no part has a node for it: a user's name is longer than 1023 bytes";
    for part in PARTS {
        let row = said.part(part);
        assert_eq!(row["asked"], 3, "{row:#}");
        let reason = |reason, first| serde_json::json!({"reason": reason, "users": 1, "first": first});
        assert_eq!(
            row["not_asked"],
            serde_json::json!([reason(length, &*long), reason(number, "six@a.example")])
        );
    }
    let alone = mailsite.site.run(&["agreement", "--", "six@a.example"], b"");
    assert_eq!(alone.status.code(), Some(69));
    let said = String::from_utf8(alone.stderr).unwrap();
    assert!(said.contains(&format!("six@a.example: {number}")), "{said}");
}

#[test]
fn php_reads_another_configuration() {
    let mut mailsite = Mailsite::start();
    let other = mailsite.site.path("other.toml");
    let text = fs::read_to_string(mailsite.site.config()).unwrap();
    fs::write(
        &other,
        text.replace("[access_map]", "username_hash = \"%Ln\"\n[access_map]"),
    )
    .unwrap();
    let words: Vec<String> = mailsite
        .php(&other)
        .iter()
        .map(|word| format!("{word:?}"))
        .collect();
    mailsite.agreement = vec![("php", format!("[{}]", words.join(", ")))];
    mailsite.configure();
    mailsite
        .disagrees()
        .only(&[PHP])
        .because(PHP, "PHP reads another configuration")
        .first(PHP, "anna.2@mail2.example.org", "node3", "node2");
    fs::write(&other, text.replace("192.0.2.3", "192.0.2.4")).unwrap();
    mailsite
        .disagrees()
        .only(&[PHP])
        .because(PHP, "PHP reads another configuration")
        .because(
            PHP,
            "PHP has the node node3 at 192.0.2.4, and the configuration at 192.0.2.3",
        );
}

#[test]
fn the_c_library_is_missing_or_another() {
    let mut mailsite = Mailsite::start();
    for (library, cause) in [
        (
            "/nonexistent/libmailaffinity.so.0",
            "cannot open shared object file",
        ),
        ("libc.so.6", "mailaffinity_abi_version"),
    ] {
        mailsite.agreement = vec![("c_library", format!("{library:?}"))];
        mailsite.configure();
        mailsite.disagrees().only(&[C_LIBRARY]).because(C_LIBRARY, cause);
    }
}

#[test]
fn what_is_not_here_is_not_asked() {
    let site = site::Site::new();
    fs::write(site.path("users"), "user1\n").unwrap();
    let php = [
        program(&["php"], "php-cli").to_str().unwrap().to_owned(),
        "-n".to_owned(),
        "-d".to_owned(),
        format!("extension={}", php::MODULE.display()),
        "-d".to_owned(),
        format!("mailaffinity.config={}", site.config().display()),
    ];
    site.configure(
        Configuration::of([Node::new("node1", "192.0.2.1")])
            .users(site.path("users"))
            .set_path("agreement.c_library", built::library("libmailaffinity.so"))
            .set("agreement.php", php.to_vec()),
    );
    let rows = site.json(&["agreement", "--json"]);
    let not_here: Vec<&str> = rows
        .iter()
        .filter(|row| row["not_here"].is_string())
        .map(|row| row["part"].as_str().unwrap())
        .collect();
    assert_eq!(not_here, [DIRECTOR, ACCESS_MAP, SENDMAIL]);

    // Without an answer of its own there is nothing to compare.
    site.run(&["down", "node1"], b"");
    let output = site.run(&["agreement"], b"");
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    site.configure("nonsense");
    let output = site.run(&["agreement"], b"");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}
