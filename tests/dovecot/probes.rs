//! Probes of a real Dovecot, and of services that misbehave.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mailaffinity::config::Probe;
use mailaffinity_cli::probe::probe;
use tempfile::TempDir;

/// Far more than anything here takes: reached only when something hangs.
const LONG: Duration = Duration::from_secs(60);

/// For services that never answer.
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_real_dovecot_is_up() {
    let dovecot = Dovecot::start();
    for kind in [Probe::Tcp, Probe::Imap] {
        assert_eq!(probe(dovecot.imap, kind, LONG), Ok(()), "{kind:?}");
    }
    for kind in [Probe::Tcp, Probe::Lmtp] {
        assert_eq!(probe(dovecot.lmtp, kind, LONG), Ok(()), "{kind:?}");
    }
    // One for the other.
    let error = probe(dovecot.lmtp, Probe::Imap, LONG).unwrap_err();
    assert!(
        error.starts_with(&format!("{} does not greet as IMAP does: \"220 ", dovecot.lmtp)),
        "{error}"
    );
    let error = probe(dovecot.imap, Probe::Lmtp, LONG).unwrap_err();
    assert!(
        error.starts_with(&format!(
            "{} does not greet as LMTP does: \"* OK [CAPABILITY ",
            dovecot.imap
        )),
        "{error}"
    );
}

#[test]
fn a_dovecot_notices_the_goodbye() {
    let dovecot = Dovecot::start();
    assert_eq!(probe(dovecot.imap, Probe::Imap, LONG), Ok(()));
    assert_eq!(probe(dovecot.lmtp, Probe::Lmtp, LONG), Ok(()));
    let begun = Instant::now();
    let log = loop {
        let log = dovecot.log();
        let left = [
            "imap-login: Info: Disconnected: Aborted login by logging out",
            "Disconnect from 127.0.0.1: Logged out",
        ];
        if left.iter().all(|line| log.contains(line)) {
            break log;
        }
        assert!(begun.elapsed() < LONG, "{log}");
        thread::sleep(Duration::from_millis(5));
    };
    for complaint in ["Warning:", "Error:", "Fatal:", "Panic:"] {
        assert!(!log.contains(complaint), "{log}");
    }
}

#[test]
fn greetings() {
    for (kind, greeting, goodbye) in [
        (Probe::Imap, "* OK ready\r\n", "a LOGOUT\r\n"),
        (
            Probe::Imap,
            "* ok [CAPABILITY IMAP4rev1] ready\n* more",
            "a LOGOUT\r\n",
        ),
        (Probe::Imap, "* PREAUTH welcome\r\n", "a LOGOUT\r\n"),
        (Probe::Lmtp, "220 node1 ready\r\n", "QUIT\r\n"),
        (Probe::Lmtp, "220-node1\r\n220 ready\r\n", "QUIT\r\n"),
    ] {
        let (address, service) = service(move |mut client| {
            client.write_all(greeting.as_bytes()).unwrap();
            let mut said = String::new();
            client.read_to_string(&mut said).unwrap();
            said
        });
        assert_eq!(probe(address, kind, LONG), Ok(()), "{greeting:?}");
        assert_eq!(service.join().unwrap(), goodbye, "{greeting:?}");
    }
}

#[test]
fn other_greetings() {
    let endless = "* OK ".to_owned() + &"x".repeat(5000);
    for (kind, greeting, expected) in [
        (
            Probe::Imap,
            "* BYE \x1b[1m too many \"users\"\r\n",
            "does not greet as IMAP does: \"* BYE \\x1b[1m too many \\\"users\\\"\"",
        ),
        (
            Probe::Imap,
            "* OKAY\r\n",
            "does not greet as IMAP does: \"* OKAY\"",
        ),
        (Probe::Imap, "\r\n* OK\r\n", "does not greet as IMAP does: \"\""),
        (
            Probe::Imap,
            "+OK POP3\r\n",
            "does not greet as IMAP does: \"+OK POP3\"",
        ),
        (
            Probe::Lmtp,
            "421 later\r\n",
            "does not greet as LMTP does: \"421 later\"",
        ),
        (
            Probe::Lmtp,
            "2200 x\r\n",
            "does not greet as LMTP does: \"2200 x\"",
        ),
        (
            Probe::Lmtp,
            "HTTP/1.1 400 Bad Request\r\n",
            "does not greet as LMTP does: \"HTTP/1.1 400 Bad Request\"",
        ),
        (Probe::Imap, "", "closes the connection without a greeting"),
        (
            Probe::Imap,
            "* OK",
            "closes the connection without a greeting, after \"* OK\"",
        ),
        (
            Probe::Imap,
            &endless,
            "does not end the line of its greeting: \"* OK xxx",
        ),
    ] {
        let text = greeting.to_owned();
        let (address, service) = service(move |mut client| {
            // The probe need not read all of it.
            let _ = client.write_all(text.as_bytes());
        });
        let error = probe(address, kind, LONG).unwrap_err();
        assert!(error.starts_with(&format!("{address} {expected}")), "{error}");
        assert!(error.len() < 1000, "{error}");
        service.join().unwrap();
    }
}

#[test]
fn silence() {
    let (address, service) = service(|mut client| client.read_to_end(&mut Vec::new()).unwrap());
    assert_eq!(
        probe(address, Probe::Imap, SHORT),
        Err(format!("{address} sends no IMAP greeting within 300ms"))
    );
    assert_eq!(service.join().unwrap(), 0);
}

#[test]
fn a_trickle_does_not_hold_it_up() {
    let (address, service) = service(|mut client| {
        // Until the probe goes away.
        while client.write_all(b"*").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    let begun = Instant::now();
    let error = probe(address, Probe::Imap, Duration::from_secs(1)).unwrap_err();
    assert!(
        error.starts_with(&format!("{address} sends no IMAP greeting within 1s, after \"*")),
        "{error}"
    );
    // At ten bytes a second, the longest greeting would take more.
    assert!(begun.elapsed() < LONG);
    service.join().unwrap();
}

#[test]
fn nobody_listens() {
    let address = free_addresses()[0];
    for kind in [Probe::Tcp, Probe::Imap, Probe::Lmtp] {
        assert_eq!(
            probe(address, kind, LONG),
            Err(format!(
                "{address} accepts no connection: Connection refused (os error 111)"
            ))
        );
    }
}

#[test]
fn no_time_at_all() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(
        probe(address, Probe::Tcp, Duration::ZERO),
        Err(format!("{address} accepts no connection within 0ns"))
    );
    assert_eq!(probe(address, Probe::Tcp, Duration::MAX), Ok(()));
}

/// A service for one connection.
fn service<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, thread::JoinHandle<T>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (
        address,
        thread::spawn(move || serve(listener.accept().unwrap().0)),
    )
}

/// Two addresses on which nobody listens.
fn free_addresses() -> [SocketAddr; 2] {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    [listen(), listen()].map(|listener| listener.local_addr().expect("its address"))
}

/// A running dovecot with a configuration, state and sockets of its own.
struct Dovecot {
    imap: SocketAddr,
    lmtp: SocketAddr,
    master: Child,
    files: TempDir,
    /// `base_dir`: short, as the paths of sockets must be.
    _run: TempDir,
}

impl Dovecot {
    /// Starts it, and waits until it listens.
    fn start() -> Dovecot {
        // Somebody else may take a free port before dovecot does.
        let mut log = String::new();
        for _ in 0..5 {
            let [imap, lmtp] = free_addresses();
            let mut dovecot = Dovecot::spawn(imap, lmtp);
            let begun = Instant::now();
            while dovecot.master.try_wait().expect("wait for dovecot").is_none() {
                if [imap, lmtp]
                    .iter()
                    .all(|address| TcpStream::connect(address).is_ok())
                {
                    return dovecot;
                }
                assert!(
                    begun.elapsed() < LONG,
                    "dovecot does not listen:\n{}",
                    dovecot.log()
                );
                thread::sleep(Duration::from_millis(5));
            }
            log = dovecot.log();
        }
        panic!(
            "dovecot does not start. This test needs Debian's packages dovecot-imapd and dovecot-lmtpd:\n{log}"
        );
    }

    fn spawn(imap: SocketAddr, lmtp: SocketAddr) -> Dovecot {
        let run = TempDir::with_prefix("probes").expect("a temporary directory");
        let files =
            TempDir::with_prefix_in("probes", support::built::tmp()).expect("a directory under target/");
        let config = files.path().join("dovecot.conf");
        fs::write(&config, configuration(run.path(), files.path(), imap, lmtp))
            .expect("write the configuration");
        let output = File::create(files.path().join("output")).expect("create a file for dovecot's output");
        let mut path = env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/sbin:/sbin");
        let master = Command::new("dovecot")
            .env("PATH", path)
            .args(["-F", "-c"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("share the file"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("dovecot: {error}. Install Debian's package dovecot-core"));
        Dovecot {
            imap,
            lmtp,
            master,
            files,
            _run: run,
        }
    }

    /// What it printed and logged so far.
    fn log(&self) -> String {
        ["output", "dovecot.log"]
            .iter()
            .filter_map(|name| fs::read(self.files.path().join(name)).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }
}

impl Drop for Dovecot {
    /// Ends at once. Without their master, the other processes end themselves.
    fn drop(&mut self) {
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}

fn configuration(run: &Path, files: &Path, imap: SocketAddr, lmtp: SocketAddr) -> String {
    let mut text = format!(
        "base_dir = \"{run}/base\"
state_dir = \"{files}/state\"
log_path = \"{files}/dovecot.log\"
protocols = imap lmtp
ssl = no
mail_location = maildir:{files}/mail
passdb {{
  driver = static
  args = nopassword=y
}}
service imap-login {{
  inet_listener imap {{
    address = {imap_ip}
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = {lmtp_ip}
    port = {lmtp_port}
  }}
}}
",
        run = run.display(),
        files = files.display(),
        imap_ip = imap.ip(),
        imap_port = imap.port(),
        lmtp_ip = lmtp.ip(),
        lmtp_port = lmtp.port(),
    );
    // Only root can change the user or the root directory.
    if fs::metadata(files).expect("a directory just made").uid() != 0 {
        for (setting, option) in [
            ("default_internal_user", "-un"),
            ("default_login_user", "-un"),
            ("default_internal_group", "-gn"),
        ] {
            text += &format!("{setting} = \"{}\"\n", id(option));
        }
        for service in ["anvil", "stats", "imap-login"] {
            text += &format!("service {service} {{\n  chroot =\n}}\n");
        }
    }
    text
}

/// The name of the user or group that runs the test.
fn id(option: &str) -> String {
    let output = Command::new("id").arg(option).output().expect("run id");
    String::from_utf8(output.stdout)
        .expect("a name in UTF-8")
        .trim_end()
        .to_owned()
}
