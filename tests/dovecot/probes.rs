//! Probes of a real Dovecot, and of services that misbehave.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use mailaffinity::config::Probe;
use mailaffinity_cli::probe::probe;
use support::dovecot::{Dovecot, Syntax, imap_and_lmtp};

/// Far more than anything here takes: reached only when something hangs.
const LONG: Duration = Duration::from_secs(60);

/// For services that never answer.
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_real_dovecot_is_up() {
    let services = Services::start();
    for kind in [Probe::Tcp, Probe::Imap] {
        assert_eq!(probe(services.imap, kind, LONG), Ok(()), "{kind:?}");
    }
    for kind in [Probe::Tcp, Probe::Lmtp] {
        assert_eq!(probe(services.lmtp, kind, LONG), Ok(()), "{kind:?}");
    }
    // One for the other.
    let error = probe(services.lmtp, Probe::Imap, LONG).unwrap_err();
    assert!(
        error.starts_with(&format!("{} does not greet as IMAP does: \"220 ", services.lmtp)),
        "{error}"
    );
    let error = probe(services.imap, Probe::Lmtp, LONG).unwrap_err();
    assert!(
        error.starts_with(&format!(
            "{} does not greet as LMTP does: \"* OK [CAPABILITY ",
            services.imap
        )),
        "{error}"
    );
}

#[test]
fn a_dovecot_notices_the_goodbye() {
    let services = Services::start();
    assert_eq!(probe(services.imap, Probe::Imap, LONG), Ok(()));
    assert_eq!(probe(services.lmtp, Probe::Lmtp, LONG), Ok(()));
    let left = [
        match Syntax::installed() {
            Syntax::V2_3 => "imap-login: Info: Disconnected: Aborted login by logging out",
            Syntax::V2_4 => "imap-login: Info: Login aborted: Logged out",
        },
        "Disconnect from 127.0.0.1: Logged out",
    ];
    let begun = Instant::now();
    let log = loop {
        let log = services.dovecot.log();
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

/// A dovecot that serves IMAP and LMTP.
struct Services {
    imap: SocketAddr,
    lmtp: SocketAddr,
    dovecot: Dovecot,
}

impl Services {
    /// Starts it, and waits until it listens.
    fn start() -> Services {
        // Somebody else may take a free port before dovecot does.
        let mut log = String::new();
        for _ in 0..5 {
            let [imap, lmtp] = free_addresses();
            let mut dovecot = Dovecot::start(|syntax, files| imap_and_lmtp(syntax, files, imap, lmtp));
            let listen = || {
                [imap, lmtp]
                    .iter()
                    .all(|address| TcpStream::connect(address).is_ok())
                    .then_some(())
            };
            if dovecot.wait_for(listen).is_some() && !dovecot.has_ended() {
                return Services { imap, lmtp, dovecot };
            }
            log = dovecot.log();
        }
        panic!("dovecot does not start (Debian's packages dovecot-imapd and dovecot-lmtpd):\n{log}");
    }
}
