//! SquirrelMail: a page that keeps its contract, and the real one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::browser::Browser;
use crate::cluster::{Cluster, NODE2, users};
use crate::web::{Sapi, Web, give_away};
use support::imap::PASSWORD;
use support::sendmail::run_well;

#[test]
fn contract_under_php_fpm() {
    contract_holds(Sapi::Fpm);
}

#[test]
fn contract_under_apache() {
    contract_holds(Sapi::Apache);
}

/// Whoever logs in by HTTP lands on the Director's node, and so does each page after
/// that, also when the node dies in the middle of the session.
fn contract_holds(sapi: Sapi) {
    let mut cluster = Cluster::start(users(200));
    let root = cluster.site.path("www");
    fs::create_dir(&root).unwrap();
    fs::copy("tests/webmail/squirrelmail.php", root.join("squirrelmail.php")).unwrap();
    fs::write(
        root.join("config.php"),
        format!(
            "<?php\n$imapServerAddress = 'map:map_user_via_sendmail_access';\n$imapPort = {};\n",
            cluster.imap.port()
        ),
    )
    .unwrap();
    let web = Web::start(sapi, &root, &cluster.site.config());
    let users = cluster.users.clone();

    let mut sessions: Vec<(&String, Browser)> = users.iter().map(|user| (user, web.browser())).collect();
    each(&mut sessions, |(user, browser)| {
        let page = browser.post(
            "/squirrelmail.php",
            &[("login_username", user), ("secretkey", PASSWORD)],
        );
        assert_eq!(page.body, "logged in\n", "{user}\n{}", web.log());
    });
    assert_eq!(cluster.imap.logins(), cluster.right_logins(&users));
    let next_page = |sessions: &mut Vec<(&String, Browser)>| {
        each(sessions, |(user, browser)| {
            let page = browser.get("/squirrelmail.php");
            assert_eq!(page.body, "logged in\n", "{user}\n{}", web.log());
        });
    };
    let victim = cluster
        .nodes_of(&users)
        .iter()
        .position(|node| *node == NODE2)
        .unwrap();
    cluster.kill(|| {
        let page = sessions[victim].1.get("/squirrelmail.php");
        assert!(
            page.body.starts_with("Error connecting to IMAP server"),
            "{page:?}"
        );
    });
    next_page(&mut sessions);
    assert_eq!(cluster.imap.logins(), cluster.right_logins(&users));
    cluster.revive();
    next_page(&mut sessions);
    assert_eq!(cluster.imap.logins(), cluster.right_logins(&users));
    assert_eq!(web.php_log(), "");
}

/// The real one, as its administrator has unpacked it.
#[test]
#[ignore = "needs SQUIRRELMAIL=/path/of/a/squirrelmail/tree"]
fn real_squirrelmail_under_php_fpm() {
    users_are_served(Sapi::Fpm);
}

#[test]
#[ignore = "needs SQUIRRELMAIL=/path/of/a/squirrelmail/tree"]
fn real_squirrelmail_under_apache() {
    users_are_served(Sapi::Apache);
}

fn users_are_served(sapi: Sapi) {
    let tree = env::var_os("SQUIRRELMAIL").expect("SQUIRRELMAIL names a tree of SquirrelMail");
    let mut cluster = Cluster::start(users(52));
    let root = install(Path::new(&tree), &cluster);
    let web = Web::start(sapi, &root, &cluster.site.config());
    let users = cluster.users.clone();

    let mut sessions: Vec<(&String, Browser)> = users.iter().map(|user| (user, web.browser())).collect();
    each(&mut sessions, |(user, browser)| {
        let login = browser.get("/src/login.php");
        assert!(
            login.body.contains("name=\"secretkey\""),
            "{login:?}\n{}",
            web.log()
        );
        let form = [
            ("login_username", user.as_str()),
            ("secretkey", PASSWORD),
            ("js_autodetect_results", "0"),
            ("just_logged_in", "1"),
        ];
        let page = browser.post("/src/redirect.php", &form);
        assert!(
            page.path.ends_with("/src/webmail.php"),
            "{user}: {page:?}\n{}",
            web.log()
        );
        assert!(
            page.body.contains("right_main.php"),
            "{user}: {page:?}\n{}",
            web.log()
        );
    });
    assert_eq!(cluster.imap.logins(), cluster.right_logins(&users));
    for (path, text) in [
        ("/src/left_main.php", "INBOX"),
        ("/src/right_main.php?mailbox=INBOX", "INBOX"),
    ] {
        let see = |(user, browser): &mut (&String, Browser)| {
            let page = browser.get(path);
            let good = page.body.contains(text) && !page.body.contains("ERROR");
            assert!(good, "{user}: {page:?}\n{}", web.log());
        };
        each(&mut sessions, see);
        let before = cluster.right_logins(&users);
        assert_eq!(cluster.imap.logins(), before, "{path}");
        let victim = before.iter().find(|(_, node)| *node == NODE2).unwrap();
        cluster.kill(|| {
            let session = sessions.iter_mut().find(|(user, _)| **user == victim.0);
            let page = session.unwrap().1.get(path);
            assert!(page.body.contains("Error connecting to IMAP server"), "{page:?}");
        });
        each(&mut sessions, see);
        let after = cluster.right_logins(&users);
        assert_ne!(before, after);
        assert_eq!(cluster.imap.logins(), after, "{path}");
        cluster.revive();
        each(&mut sessions, see);
        assert_eq!(cluster.imap.logins(), before, "{path}");
    }
}

/// A copy of the tree with a configuration of the test's.
fn install(tree: &Path, cluster: &Cluster) -> PathBuf {
    assert!(
        tree.join("src/redirect.php").exists(),
        "{tree:?} is no tree of SquirrelMail"
    );
    let root = cluster.site.path("www");
    run_well(Command::new("cp").arg("-rL").arg(tree).arg(&root), b"");
    run_well(Command::new("chmod").args(["-R", "a+rX"]).arg(&root), b"");
    let folders = ["data", "attachments"].map(|name| cluster.site.path(name));
    for folder in &folders {
        fs::create_dir(folder).unwrap();
        give_away(folder);
    }
    let [data, attachments] = folders.map(|folder| folder.display().to_string());
    let config = format!(
        "<?php
$config_version = '1.5.0';
$imapServerAddress = 'map:map_user_via_sendmail_access';
$imapPort = {};
$imap_server_type = 'dovecot';
$imap_auth_mech = 'login';
$use_imap_tls = 0;
$data_dir = '{data}/';
$attachment_dir = '{attachments}/';
$only_secure_cookies = false;
$ask_user_info = false;
",
        cluster.imap.port()
    );
    fs::write(root.join("config/config.php"), config).unwrap();
    root
}

/// Works on all, some at once.
pub(crate) fn each<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    let part = items.len().div_ceil(4);
    thread::scope(|scope| {
        for part in items.chunks_mut(part) {
            scope.spawn(|| part.iter_mut().for_each(&work));
        }
    });
}
