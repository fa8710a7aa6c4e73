//! Roundcube, Debian's, with the plugin.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::browser::{Browser, Page};
use crate::cluster::{Cluster, NODE2, host_of, users};
use crate::squirrelmail::each;
use crate::web::{Sapi, Web, give_away};
use support::imap::PASSWORD;
use support::sendmail::run_well;

/// What stands for the cluster: nobody could connect to it.
const IMAP_HOST: &str = "imap.example.invalid";

const PROGRAM: &str = "/usr/share/roundcube";
const DEFAULTS: &str = "/etc/roundcube/defaults.inc.php";

#[test]
fn roundcube_under_php_fpm() {
    users_are_served(Sapi::Fpm, Connection::Plain);
}

#[test]
fn roundcube_under_apache_with_tls() {
    users_are_served(Sapi::Apache, Connection::Tls);
}

#[derive(Clone, Copy, PartialEq)]
enum Connection {
    Plain,
    Tls,
}

fn users_are_served(sapi: Sapi, connection: Connection) {
    // Roundcube makes all names small, also where the Director would not.
    let names: Vec<String> = users(39).iter().map(|user| user.to_lowercase()).collect();
    let mut cluster = Cluster::start(names.clone());
    let site = Roundcube::install(&cluster, connection);
    let web = Web::start(sapi, &site.root, &cluster.site.config());
    let mut sessions: Vec<Session> = users(39)
        .iter()
        .map(|user| Session::new(user, &web, &site))
        .collect();

    each(&mut sessions, |session| {
        session.log_in();
        session.add_contact();
    });
    let before = cluster.right_logins(&names);
    assert_eq!(cluster.imap.logins(), before);

    // In the middle of the session.
    let victim = before.iter().find(|(_, node)| *node == NODE2).unwrap();
    cluster.kill(|| {
        let session = sessions
            .iter_mut()
            .find(|session| session.user.to_lowercase() == victim.0);
        let page = session.unwrap().browser.get("/?_task=mail&_mbox=INBOX");
        assert!(
            page.body.contains("Connection to storage server failed"),
            "{page:?}"
        );
    });
    each(&mut sessions, Session::see_folders);
    let after = cluster.right_logins(&names);
    assert_eq!(cluster.imap.logins(), after);
    assert!(after.iter().all(|(_, node)| *node != NODE2));

    // A new session, of which Roundcube does not know that it had the user elsewhere.
    let mut new_sessions: Vec<Session> = users(39)
        .iter()
        .map(|user| Session::new(user, &web, &site))
        .collect();
    each(&mut new_sessions, |session| {
        session.log_in();
        session.see_contact();
    });
    assert_eq!(cluster.imap.logins(), after);

    cluster.revive();
    each(&mut sessions, |session| {
        session.see_folders();
        session.see_contact();
    });
    assert_eq!(cluster.imap.logins(), before);

    // One record for each, wherever they were.
    let expected: BTreeSet<String> = names.iter().map(|user| format!("{user}|{IMAP_HOST}")).collect();
    let records = site.query("SELECT username, mail_host FROM users");
    assert_eq!(records.len(), names.len());
    assert_eq!(records.into_iter().collect::<BTreeSet<_>>(), expected);
    // Nothing is wrong, but for the page of the victim.
    assert_eq!(web.php_log(), "");
    let errors = site.errors();
    assert!(!errors.is_empty());
    for line in errors.lines() {
        assert!(
            line.contains(&host_of(NODE2)) && line.contains("Connection refused"),
            "{errors}"
        );
    }
}

#[test]
fn other_hosts_are_left_alone() {
    let names: Vec<String> = users(13).iter().map(|user| user.to_lowercase()).collect();
    let mut cluster = Cluster::start(names.clone());
    let site = Roundcube::install(&cluster, Connection::Plain);
    let node2 = host_of(NODE2);
    // Another server than those of the cluster: it happens to be node2.
    site.configure(
        &cluster,
        Connection::Plain,
        &format!(
            "$config['imap_host'] = '{node2}:{}';\n$config['mailaffinity_imap_hosts'] = ['{IMAP_HOST}'];\n",
            cluster.imap.port()
        ),
    );
    let web = Web::start(Sapi::Fpm, &site.root, &cluster.site.config());
    let mut sessions: Vec<Session> = names.iter().map(|user| Session::new(user, &web, &site)).collect();
    each(&mut sessions, Session::log_in);
    let all_there: BTreeSet<_> = names.iter().map(|user| (user.clone(), NODE2)).collect();
    assert_eq!(cluster.imap.logins(), all_there);
    assert_ne!(cluster.right_logins(&names), all_there);
}

#[test]
fn of_several_hosts_those_of_the_cluster_are_exchanged() {
    let names: Vec<String> = users(13).iter().map(|user| user.to_lowercase()).collect();
    let mut cluster = Cluster::start(names.clone());
    let site = Roundcube::install(&cluster, Connection::Plain);
    let port = cluster.imap.port();
    let (of_cluster, other) = (
        format!("imap.%n.invalid:{port}"),
        format!("{}:{port}", host_of(NODE2)),
    );
    site.configure(
        &cluster,
        Connection::Plain,
        &format!(
            "$config['imap_host'] = ['{of_cluster}' => 'Ours', '{other}' => 'Theirs'];
$config['mailaffinity_imap_hosts'] = ['{of_cluster}'];\n"
        ),
    );
    let web = Web::start(Sapi::Fpm, &site.root, &cluster.site.config());
    let mut log_in_at = |host: &str| {
        let mut sessions: Vec<Session> = names.iter().map(|user| Session::new(user, &web, &site)).collect();
        each(&mut sessions, |session| {
            session.host = host.to_owned();
            session.log_in();
            session.see_folders();
        });
        cluster.imap.logins()
    };
    let ours = log_in_at(&of_cluster);
    let theirs: BTreeSet<_> = names.iter().map(|user| (user.clone(), NODE2)).collect();
    assert_eq!(log_in_at(&other), theirs);
    assert_eq!(ours, cluster.right_logins(&names));
}

#[test]
fn the_mailbox_counts_that_other_plugins_open() {
    let names: Vec<String> = users(13).iter().map(|user| user.to_lowercase()).collect();
    let mut cluster = Cluster::start(names.clone());
    let right = cluster.right_logins(&names);
    let site = Roundcube::install(&cluster, Connection::Plain);
    let impersonate = site.root.join("plugins/impersonate");
    fs::create_dir(&impersonate).unwrap();
    fs::copy(
        "tests/webmail/impersonate.php",
        impersonate.join("impersonate.php"),
    )
    .unwrap();
    let web = Web::start(Sapi::Fpm, &site.root, &cluster.site.config());
    for plugins in ["'impersonate', 'mailaffinity'", "'mailaffinity', 'impersonate'"] {
        for as_user in [true, false] {
            let more =
                format!("$config['plugins'] = [{plugins}];\n$config['impersonate_as_user'] = {as_user};\n");
            site.configure(&cluster, Connection::Plain, &more);
            let mut sessions: Vec<Session> = names
                .iter()
                .map(|user| Session::new(&format!("{user}*admin"), &web, &site))
                .collect();
            each(&mut sessions, |session| {
                session.log_in();
                session.see_folders();
            });
            assert_eq!(cluster.imap.logins(), right, "{plugins}, as the user: {as_user}");
        }
    }
}

#[test]
fn without_the_module_all_go_to_imap_host() {
    let names: Vec<String> = users(3).iter().map(|user| user.to_lowercase()).collect();
    let mut cluster = Cluster::start(names.clone());
    let site = Roundcube::install(&cluster, Connection::Plain);
    let other = format!(
        "$config['imap_host'] = '{}:{}';\n",
        host_of(NODE2),
        cluster.imap.port()
    );
    site.configure(&cluster, Connection::Plain, &other);
    let web = Web::start_without_module(Sapi::Apache, &site.root, &cluster.site.config());
    let mut sessions: Vec<Session> = names.iter().map(|user| Session::new(user, &web, &site)).collect();
    each(&mut sessions, Session::log_in);
    let all_there: BTreeSet<_> = names.iter().map(|user| (user.clone(), NODE2)).collect();
    assert_eq!(cluster.imap.logins(), all_there);
    let errors = site.errors();
    assert!(
        errors
            .lines()
            .all(|line| line.contains("the PHP module mailaffinity is not loaded"))
            && !errors.is_empty(),
        "{errors}"
    );
}

/// A Roundcube in a folder of the test's own.
struct Roundcube {
    root: PathBuf,
    /// Database, logs, temporary files.
    data: PathBuf,
}

impl Roundcube {
    fn install(cluster: &Cluster, connection: Connection) -> Roundcube {
        let program = Path::new(PROGRAM);
        assert!(
            program.exists(),
            "this test needs Debian's packages roundcube-core and roundcube-sqlite3"
        );
        let site = Roundcube {
            root: cluster.site.path("roundcube"),
            data: cluster.site.path("roundcube-data"),
        };
        for folder in ["", "config", "plugins", "plugins/mailaffinity"] {
            fs::create_dir(site.root.join(folder)).unwrap();
        }
        // Those plugins are always there.
        let plugins = ["plugins/filesystem_attachments", "plugins/jqueryui"];
        for name in ["program", "skins", "SQL"].into_iter().chain(plugins) {
            symlink(program.join(name), site.root.join(name)).unwrap();
        }
        symlink(DEFAULTS, site.root.join("config/defaults.inc.php")).unwrap();
        fs::write(
            site.root.join("index.php"),
            format!("<?php\ndefine('INSTALL_PATH', __DIR__ . '/');\nrequire '{PROGRAM}/index.php';\n"),
        )
        .unwrap();
        let plugin = Path::new("php/roundcube/mailaffinity");
        let of_plugin = |name: &str| site.root.join("plugins/mailaffinity").join(name);
        fs::copy(plugin.join("mailaffinity.php"), of_plugin("mailaffinity.php")).unwrap();
        fs::copy(plugin.join("config.inc.php.dist"), of_plugin("config.inc.php")).unwrap();

        fs::create_dir(&site.data).unwrap();
        give_away(&site.data);
        let schema = fs::read(program.join("SQL/sqlite.initial.sql")).unwrap();
        // In WAL mode, no login fails since another one is being written down.
        let schema = [b"PRAGMA journal_mode = WAL;\n", &*schema].concat();
        run_well(Command::new("sqlite3").arg(site.database()), &schema);
        give_away(&site.database());
        site.configure(cluster, connection, "");
        site
    }

    fn configure(&self, cluster: &Cluster, connection: Connection, more: &str) {
        let imap = &cluster.imap;
        let connection = match connection {
            Connection::Plain => format!("$config['imap_host'] = '{IMAP_HOST}:{}';", imap.port()),
            Connection::Tls => format!(
                "$config['imap_host'] = 'ssl://{IMAP_HOST}:{}';\n\
                 $config['imap_conn_options'] = ['ssl' => ['verify_peer' => true, 'cafile' => '{}']];",
                imap.tls_port(),
                imap.certificate().display()
            ),
        };
        let data = self.data.display();
        let text = format!(
            "<?php
$config = [];
$config['db_dsnw'] = 'sqlite:///{}?mode=0600';
{connection}
$config['plugins'] = ['mailaffinity'];
$config['des_key'] = 'twenty-four-characters-x';
$config['log_dir'] = '{data}';
$config['temp_dir'] = '{data}';
{more}",
            self.database().display()
        );
        fs::write(self.root.join("config/config.inc.php"), text).unwrap();
        // The plugin's own would come after it.
        if !more.is_empty() {
            let _ = fs::remove_file(self.root.join("plugins/mailaffinity/config.inc.php"));
        }
    }

    fn database(&self) -> PathBuf {
        self.data.join("roundcube.db")
    }

    fn query(&self, query: &str) -> Vec<String> {
        let output = run_well(Command::new("sqlite3").arg(self.database()).arg(query), b"");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.data.join("errors.log")).unwrap_or_default()
    }
}

/// A user at a browser.
struct Session<'w> {
    user: String,
    /// Chosen of several; empty where there is no choice.
    host: String,
    browser: Browser,
    web: &'w Web,
    site: &'w Roundcube,
}

impl<'w> Session<'w> {
    fn new(user: &str, web: &'w Web, site: &'w Roundcube) -> Session<'w> {
        Session {
            user: user.to_owned(),
            host: String::new(),
            browser: web.browser(),
            web,
            site,
        }
    }

    fn log_in(&mut self) {
        let login = self.browser.get("/");
        assert_eq!(login.status, 200, "{}{}", self.web.log(), self.site.errors());
        let form = [
            ("_token", login.field("_token")),
            ("_task", "login"),
            ("_action", "login"),
            ("_timezone", "UTC"),
            ("_url", ""),
            ("_user", &self.user),
            ("_host", &self.host),
            ("_pass", PASSWORD),
        ];
        let page = self.browser.post("/?_task=login", &form);
        self.check(&page, "INBOX");
    }

    fn see_folders(&mut self) {
        let page = self.browser.get("/?_task=mail&_mbox=INBOX");
        self.check(&page, "INBOX");
    }

    /// Adds somebody whose name has the user's in it.
    fn add_contact(&mut self) {
        let page = self
            .browser
            .get("/?_task=addressbook&_action=add&_source=0&_framed=1");
        let token = between(&page.body, "\"request_token\":\"", "\"");
        let name = self.contact();
        let form = [
            ("_token", token),
            ("_source", "0"),
            ("_framed", "1"),
            ("_name", &name),
            ("_email[]", "friend@example.org"),
            ("_subtype_email[]", "home"),
            ("_locality[]", "Rome"),
        ];
        let page = self.browser.post("/?_task=addressbook&_action=save", &form);
        assert!(
            page.body.contains("Successfully saved"),
            "{}: {page:?}",
            self.user
        );
    }

    fn see_contact(&mut self) {
        let page = self
            .browser
            .get("/?_task=addressbook&_action=list&_source=0&_remote=1");
        let name = self.contact();
        self.check(&page, &name);
    }

    fn contact(&self) -> String {
        let plain = self.user.bytes().filter(u8::is_ascii_alphanumeric);
        format!("friend of {}", String::from_utf8(plain.collect()).unwrap())
    }

    fn check(&self, page: &Page, text: &str) {
        let good = page.status == 200 && page.body.contains(text) && !page.body.contains("name=\"_pass\"");
        assert!(
            good,
            "{}: {text:?} is not in {page:?}\n{}{}",
            self.user,
            self.web.log(),
            self.site.errors()
        );
    }
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> &'t str {
    let (_, rest) = text
        .split_once(before)
        .unwrap_or_else(|| panic!("no {before} in {text}"));
    rest.split(after).next().unwrap()
}
