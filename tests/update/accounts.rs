//! The system's accounts, as glibc and its services list them.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::configuration::Configuration;
use support::{maps, sendmail};

use crate::site::{Site, assert_fails, script};
use support::namespace;

/// Those whom sendmail's programs ask for, and two people.
fn passwd(more: &str) -> String {
    let system = fs::read_to_string("/etc/passwd").unwrap();
    let sendmails = system.lines().filter(|line| line.starts_with("smm"));
    let sendmails: String = sendmails.map(|line| format!("{line}\n")).collect();
    format!(
        "root:x:0:0::/root:/bin/sh\n{sendmails}anna:x:1000:1000::/home/anna:/bin/sh\n{more}\
         bert:x:59999:100::/home/bert:/bin/sh\n"
    )
}

/// A site whose users are the accounts of the system, which are those of these files.
fn site_of_accounts(nsswitch: &str, passwd: &str) -> Site {
    let site = Site::hash();
    fs::remove_file(site.path("users")).unwrap();
    site.configure(configuration(&site));
    for (name, content) in [("nsswitch.conf", nsswitch), ("passwd", passwd)] {
        site.write(name, content.as_bytes());
        let file = site.path(name);
        namespace::mount(&["--bind", file.to_str().unwrap()], &Path::new("/etc").join(name));
    }
    site
}

fn configuration(site: &Site) -> Configuration {
    // The machine's own sendmail may wait for the host's name.
    let sendmail = vec!["/nonexistent/sendmail"];
    site.configuration()
        .set("users", toml::Table::new())
        .set("sendmail.command", sendmail)
}

/// What a command prints, a word or line each.
fn lines(command: &mut Command) -> Vec<String> {
    let output = maps::run(command, b"");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

fn getent(arguments: &[&str]) -> Vec<String> {
    lines(Command::new("getent").args(arguments))
}

fn users_of(site: &Site) -> Vec<String> {
    let users = site
        .computed()
        .into_keys()
        .map(|user| String::from_utf8(user).unwrap());
    users.collect()
}

#[test]
fn lines_of_nis_are_no_accounts() {
    namespace::run("accounts::lines_of_nis_are_no_accounts", || {
        let of_nis = "+carla\n+@staff\n-@guests::::::\n-dora\n+emil::::::/bin/false\n+::::::\n";
        let site = site_of_accounts("passwd: files\n", &passwd(of_nis));
        assert!(
            getent(&["passwd"]).contains(&"+::::::".into()),
            "getent passes them on"
        );
        let in_range = "while (my @account = getpwent) { print \"$account[0]\\n\" if $account[2] >= 1000 }";
        for services in ["files", "compat"] {
            site.write("nsswitch.conf", format!("passwd: {services}\n").as_bytes());
            site.update();
            assert_eq!(
                users_of(&site),
                lines(Command::new("perl").args(["-e", in_range])),
                "{services}"
            );
        }
        // Without NIS, nobody comes after a line of all its accounts.
        assert_eq!(users_of(&site), ["anna"]);

        site.write("nsswitch.conf", b"passwd: files\n");
        site.update();
        assert_eq!(users_of(&site), ["anna", "bert"]);
        site.assert_tidy();
    });
}

#[test]
fn accounts_outside_of_the_uids_are_counted() {
    namespace::run("accounts::accounts_outside_of_the_uids_are_counted", || {
        let above = "carla:x:60000:100::/:/bin/sh\ndora:x:1234600002:100::/:/bin/sh\n";
        let passwd = passwd(above);
        let site = site_of_accounts("passwd: files\n", &passwd);
        let below = passwd.lines().count() - 4;
        let folder = tempfile::tempdir().unwrap();
        let log = UnixDatagram::bind(folder.path().join("log")).unwrap();
        site.configure(configuration(&site).set_path("syslog", folder.path().join("log")));
        site.update();
        let counts = serde_json::json!({"below": below, "above": 2});
        assert_eq!(site.status()["outside_uids"], counts);
        let mut line = [0; 1000];
        let length = log.recv(&mut line).unwrap();
        let line = String::from_utf8_lossy(&line[..length]);
        assert!(
            line.contains(&format!(
                "2 users, 0 moved, 2 new, 0 gone, not counting {below} below uid_min and 2 above uid_max; "
            )),
            "{line}"
        );
        let text = format!("accounts\tleft out: {below} below uid_min, 2 above uid_max\n");
        assert_eq!(site.well(&["diff"]), text.as_bytes());
        let json: serde_json::Value = serde_json::from_slice(&site.well(&["diff", "--json"])).unwrap();
        assert_eq!(json, serde_json::json!({"outside_uids": counts}));

        site.configure(configuration(&site).set("users.uid_max", u32::MAX));
        site.update();
        assert_eq!(users_of(&site), ["anna", "bert", "carla", "dora"]);
        assert_eq!(site.status()["outside_uids"]["above"], 0);
    });
}

/// A program that is ended when this is dropped.
struct Server(Child);

impl Server {
    fn start(program: &Path, arguments: &[&str], socket: &Path) -> Server {
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
        let mut server = Server(child.unwrap());
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            let ended = server.0.try_wait().unwrap();
            assert!(ended.is_none(), "{}: {ended:?}", program.display());
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{} does not listen",
                program.display()
            );
            sleep(Duration::from_millis(10));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// slapd's folder, which must be short for its socket.
struct Ldap {
    folder: tempfile::TempDir,
    slapd: PathBuf,
}

impl Ldap {
    /// With this many accounts.
    fn with_accounts(count: usize) -> Ldap {
        let ldap = Ldap {
            folder: tempfile::tempdir().unwrap(),
            slapd: sendmail::program(&["slapd"], "slapd"),
        };
        let root =
            "dn: dc=example,dc=org\nobjectClass: dcObject\nobjectClass: organization\no: x\ndc: example\n";
        let people = (1..=count).map(|n| {
            format!(
                "\ndn: uid=ldap{n},dc=example,dc=org\nobjectClass: account\nobjectClass: posixAccount\n\
                 uid: ldap{n}\ncn: {n}\nuidNumber: {}\ngidNumber: 100\nhomeDirectory: /\n",
                20_000 + n
            )
        });
        let entries = [root.into()].into_iter().chain(people).collect::<String>();
        let mut add = Command::new(&ldap.slapd);
        add.args(["-T", "add", "-q", "-f"]).arg(ldap.configured(count));
        sendmail::run_well(&mut add, entries.as_bytes());
        ldap
    }

    /// A configuration that gives so many entries at once.
    fn configured(&self, limit: usize) -> PathBuf {
        let schemas =
            ["core", "cosine", "nis"].map(|name| format!("include /etc/ldap/schema/{name}.schema\n"));
        let (folder, conf) = (self.folder.path(), self.folder.path().join("slapd.conf"));
        let text = format!(
            "{}modulepath /usr/lib/ldap\nmoduleload back_mdb\nsizelimit {limit}\n\
             database mdb\nsuffix dc=example,dc=org\ndirectory {}\n",
            schemas.concat(),
            folder.display()
        );
        fs::write(&conf, text).unwrap();
        conf
    }

    fn start(&self, limit: usize) -> Server {
        let conf = self.configured(limit);
        let arguments = ["-d", "0", "-h", &self.url(), "-f", conf.to_str().unwrap()];
        Server::start(&self.slapd, &arguments, &self.folder.path().join("ldapi"))
    }

    fn url(&self) -> String {
        let socket = self.folder.path().join("ldapi");
        format!("ldapi://{}", socket.to_str().unwrap().replace('/', "%2F"))
    }

    /// The command of the manual, for this server.
    fn users_command(&self) -> PathBuf {
        let page = fs::read_to_string("doc/man/mailaffinity.toml.5").unwrap();
        let (_, from_script) = page.split_once("#!/bin/sh\n").unwrap();
        let (text, _) = from_script.split_once(".Ed\n").unwrap();
        assert!(text.contains("ldap://ldap.example.org"), "{text}");
        let path = self.folder.path().join("mail-users");
        let text = text
            .replace("\\e", "\\")
            .replace("ldap://ldap.example.org", &self.url());
        script(&path, &text);
        path
    }
}

#[test]
fn a_directory_that_lists_nobody_is_told() {
    namespace::run("accounts::a_directory_that_lists_nobody_is_told", || {
        let site = site_of_accounts("passwd: files [NOTFOUND=continue] ldap\n", &passwd(""));
        let ldap = Ldap::with_accounts(20);
        let slapd = ldap.start(10);
        let nslcd_conf = format!("uri {}\nbase dc=example,dc=org\n", ldap.url());
        // Where nslcd and its clients meet.
        namespace::mount(&["-t", "tmpfs", "tmpfs"], Path::new("/run"));
        fs::create_dir("/run/nslcd").unwrap();
        let conf: PathBuf = site.path("nslcd.conf");
        fs::write(&conf, format!("{nslcd_conf}nss_disable_enumeration yes\n")).unwrap();
        namespace::mount(&["--bind", conf.to_str().unwrap()], Path::new("/etc/nslcd.conf"));
        let nslcd = sendmail::program(&["nslcd"], "nslcd");
        let start = || Server::start(&nslcd, &["--nofork"], Path::new("/run/nslcd/socket"));

        let server = start();
        assert_eq!(getent(&["passwd", "ldap7"]).len(), 1, "by name it has them");
        let message =
            "passwd in /etc/nsswitch.conf has the service ldap, and \"getent -s ldap passwd\" lists nobody";
        assert_fails(&site.run(&["update"]), 0, message);
        assert_eq!(users_of(&site), ["anna", "bert"]);
        let silent = &site.status()["silent_services"];
        assert!(silent[0].as_str().unwrap().starts_with(message), "{silent}");
        assert!(String::from_utf8_lossy(&site.well(&["diff"])).contains(message));
        // Said once, and kept in the status.
        site.update();
        assert_eq!(&site.status()["silent_services"], silent);
        let agreement = |users: &[&str]| {
            let output = site.run(&[&["agreement", "--json"], users].concat());
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines()
                .any(|line| line.contains("\"user list\"") && line.contains("lists nobody"))
        };
        assert!(agreement(&[]));
        assert!(!agreement(&["--", "anna"]), "who is named needs no list");
        // Where it had all users, the error says so too.
        site.configure(
            configuration(&site)
                .set("users.uid_min", 20_000)
                .set("users.uid_max", 30_000),
        );
        site.update_fails(&[], 65, message);
        site.configure(configuration(&site));

        // The manual's own command.
        let command = ldap.users_command();
        site.configure(configuration(&site).users_of([command.to_str().unwrap()]));
        site.update_fails(&[], 69, "ended with exit status 4: Size limit exceeded (4)");
        drop(slapd);
        site.update_fails(&[], 69, "ended with exit status 255: ldap_sasl_bind");
        let _slapd = ldap.start(20);
        site.update();
        assert_eq!(users_of(&site).len(), 20);
        assert_eq!(site.status()["silent_services"], serde_json::json!([]));
        site.configure(configuration(&site));

        drop(server);
        fs::remove_file("/run/nslcd/socket").unwrap();
        fs::write(&conf, nslcd_conf).unwrap();
        let _server = start();
        site.update();
        assert_eq!(users_of(&site).len(), 2 + 20);
        assert_eq!(site.status()["silent_services"], serde_json::json!([]));
        assert!(!agreement(&[]));
    });
}
