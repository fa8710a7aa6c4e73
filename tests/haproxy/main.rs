//! A real HAProxy, as `doc/c-programs.md` has it, before a web server for each node.
//!
//! `make haproxy` puts Debian 13's beside what Cargo builds, with all that it needs.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::built;
use support::configuration::Configuration;
use support::sendmail::run_well;
use support::site::Site;

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

#[test]
fn requests_go_to_the_nodes_of_their_users() {
    let site = Site::new();
    site.configure(Configuration::of_three_nodes("192.0.2"));
    let haproxy = Haproxy::start(&site);
    let users: Vec<String> = (1..=20)
        .map(|number| format!("User{number}@example.org"))
        .collect();
    let agree = || {
        let nodes: Vec<String> = users.iter().map(|user| haproxy.node_of(user)).collect();
        let mut arguments = vec!["map"];
        arguments.extend(users.iter().map(String::as_str));
        let map = site.must(&arguments);
        let mapped: Vec<&str> = map.lines().map(|line| line.split('\t').nth(1).unwrap()).collect();
        assert_eq!(nodes, mapped, "{}", haproxy.log());
        nodes
    };
    let home = agree();
    assert!(
        ["node1", "node2", "node3"]
            .iter()
            .all(|node| home.iter().any(|home| home == node))
    );

    site.must(&["down", "node2", "--reason", "new disks"]);
    assert!(!agree().contains(&"node2".to_owned()));
    site.must(&["up", "node2"]);
    assert_eq!(agree(), home);
    assert_eq!(
        haproxy.log().matches("mailaffinity: ").count(),
        0,
        "{}",
        haproxy.log()
    );

    // What breaks does not count, and is told.
    fs::write(site.path("new"), "[[node").unwrap();
    fs::rename(site.path("new"), site.config()).unwrap();
    let nodes: Vec<String> = users.iter().map(|user| haproxy.node_of(user)).collect();
    assert_eq!(nodes, home);
    let log = haproxy.log();
    assert!(log.contains("/mailaffinity.toml:1: "), "{log}");

    let down = support::configuration::node_state(&["node1", "node2", "node3"]);
    fs::write(site.path("new"), down).unwrap();
    fs::rename(site.path("new"), site.path("nodes.toml")).unwrap();
    assert_eq!(haproxy.node_of(&users[0]), "503");
    assert!(
        haproxy
            .log()
            .contains("mailaffinity: no node without a tag is up"),
        "{}",
        haproxy.log()
    );
}

/// It ends when this is dropped.
struct Haproxy {
    child: Child,
    address: SocketAddr,
    site: std::path::PathBuf,
}

impl Haproxy {
    fn start(site: &Site) -> Haproxy {
        let page = fs::read_to_string("doc/c-programs.md").unwrap();
        let shown = |before: &str| {
            let (_, text) = page.split_once(before).unwrap();
            let lines = text
                .lines()
                .take_while(|line| line.is_empty() || line.starts_with("    "));
            lines
                .flat_map(|line| [line.get(4..).unwrap_or(""), "\n"])
                .collect::<String>()
        };
        let root = built::beside("haproxy");
        assert!(
            root.exists(),
            "\"make haproxy\" puts Debian 13's HAProxy beside what Cargo builds"
        );
        let mut make = Command::new("make");
        make.args(["install-lua", "--no-print-directory"])
            .arg(format!("PREFIX={}", site.path("").display()))
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL");
        run_well(&mut make, b"");

        let script = shown("makes a converter of it:\n\n");
        let opened = format!("require \"mailaffinity\".open({:?})", site.config());
        let replaced = script.replace("require \"mailaffinity\"", &opened);
        assert_ne!(replaced, script);
        fs::write(site.path("mailaffinity.lua"), replaced).unwrap();

        let mut config = shown("by its name:\n\n");
        let address = free_address();
        let mut put = |shown: &str, ours: &str| {
            assert!(config.contains(shown), "{shown}: {config}");
            config = config.replace(shown, ours);
        };
        put(
            "/etc/haproxy/mailaffinity.lua",
            site.path("mailaffinity.lua").to_str().unwrap(),
        );
        put("bind :80\n", &format!("bind {address}\n"));
        for number in 1..=3 {
            let server = serve(format!("node{number}"));
            put(&format!(" 192.0.2.{number}:80\n"), &format!(" {server}\n"));
        }
        config += "\ndefaults\n    timeout connect 10s\n    timeout client 10s\n    timeout server 10s\n";
        let (defaults, sections) = (
            config.find("\ndefaults").unwrap(),
            config.find("\nfrontend").unwrap(),
        );
        let config = [
            &config[..sections],
            &config[defaults..],
            &config[sections..defaults],
        ]
        .concat();
        fs::write(site.path("haproxy.cfg"), config).unwrap();

        let log = File::create(site.path("haproxy.log")).unwrap();
        let child = Command::new(root.join(LIBRARIES).join("ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(root.join(LIBRARIES))
            .arg(root.join("usr/sbin/haproxy"))
            .args(["-db", "-f"])
            .arg(site.path("haproxy.cfg"))
            .env("LUA_CPATH", site.path("lib/lua/5.4/?.so"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut haproxy = Haproxy {
            child,
            address,
            site: site.path(""),
        };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let has_ended = haproxy.child.try_wait().unwrap();
            assert!(
                has_ended.is_none() && begun.elapsed() < DEADLINE,
                "{}",
                haproxy.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
        haproxy
    }

    /// Who answers a request of a user, or with which status HAProxy does.
    fn node_of(&self, user: &str) -> String {
        let mut connection = TcpStream::connect(self.address).unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        let user = user.replace('@', "%40");
        write!(
            connection,
            "GET /Microsoft-Server-ActiveSync?Cmd=Sync&User={user} HTTP/1.1\r\nHost: mail\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let status = answer
            .split(' ')
            .nth(1)
            .unwrap_or_else(|| panic!("{}", self.log()));
        match status {
            "200" => answer.split_once("\r\n\r\n").unwrap().1.to_owned(),
            other => other.to_owned(),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.site.join("haproxy.log")).unwrap()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// A web server that says which node it is, as long as this process runs.
fn serve(name: String) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match connection.read(&mut buffer) {
                    Ok(length) if length > 0 => request.extend_from_slice(&buffer[..length]),
                    _ => break,
                }
            }
            let length = name.len();
            let _ = write!(
                connection,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}"
            );
        }
    });
    address
}
