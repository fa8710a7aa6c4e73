//! The state of a live Dovecot Director is read right, and what is made of it,
//! [`Snapshot::users_in_force`] before the [`Cluster`] of its hosts, is where the
//! Director sends everybody: those who were moved, who logged in before the hosts
//! changed, or whose host is gone.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mailaffinity::mapping::{Cluster, Node, Strategy, UsernameHash, ring_label};
use mailaffinity_cli::director::{self, Host, Snapshot};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use support::director::{Director, MailHosts, Settings};
use tempfile::TempDir;

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// For a peer that keeps the client waiting on purpose.
const SOON: Duration = Duration::from_millis(50);

#[test]
fn hosts() {
    let mut director = Director::start(Settings {
        mail_servers: "10.0.0.2 10.0.0.1 2001:db8::1@east",
        ..Settings::default()
    });
    let host = |address: &str, vhost_count, tag: &str, up| Host {
        address: address.parse().unwrap(),
        vhost_count,
        tag: tag.to_owned(),
        up,
        changed: None,
    };
    let snapshot = snapshot_of(&director);
    assert_eq!(
        snapshot.hosts,
        [
            host("10.0.0.1", 100, "", true),
            host("10.0.0.2", 100, "", true),
            host("2001:db8::1", 100, "east", true),
        ]
    );
    assert_eq!(snapshot.users, []);

    let begun = Timestamp::now();
    for command in [
        &["HOST-DOWN", "10.0.0.1"][..],
        &["HOST-SET", "10.0.0.2", "0"],
        &["HOST-SET", "10.0.0.3@a@b\t\u{1}é", "7"],
        &["HOST-SET", "10.0.0.4", "1000"],
        &["HOST-REMOVE", "2001:db8::1"],
        &["HOST-DOWN", "10.0.0.4"],
        &["HOST-UP", "10.0.0.4"],
        &["HOST-SET", "10.0.0.5"],
        &["HOST-REMOVE", "10.0.0.5"],
        &["HOST-SET", "::ffff:10.0.0.1"],
    ] {
        director.must(command);
    }
    let mut snapshot = snapshot_of(&director);
    for host in &mut snapshot.hosts {
        let moved = ["10.0.0.1", "10.0.0.4"].contains(&ring_label(host.address).as_str());
        let changed = host.changed.take();
        assert_eq!(changed.is_some(), moved, "{host:?}");
        assert!(
            changed.is_none_or(|changed| whole_second(begun) <= changed && changed <= Timestamp::now()),
            "{host:?} {changed:?}"
        );
    }
    assert_eq!(
        snapshot.hosts,
        [
            host("10.0.0.1", 100, "", false),
            host("10.0.0.2", 0, "", true),
            host("10.0.0.3", 7, "a@b\t\u{1}é", true),
            host("10.0.0.4", 1000, "", true),
            host("::ffff:10.0.0.1", 100, "", true),
        ]
    );

    for host in &snapshot.hosts {
        director.must(&["HOST-REMOVE", &ring_label(host.address)]);
    }
    assert_eq!(snapshot_of(&director), Snapshot::default());
}

/// What `USER-LOOKUP` says of a user in the table is also what a login gets, whatever
/// happens to the host.
#[test]
fn an_entry_wins_until_its_host_is_flushed_or_removed() {
    let mail_hosts = MailHosts::new();
    let mut director = start_with_imap(&mail_hosts, "127.0.0.1-127.0.0.3");
    let user = "anna";
    let hash = UsernameHash::default().hash(user.as_bytes()).unwrap();
    let home = expected(&snapshot_of(&director), hash, "").unwrap();
    let away = address(if home == address("127.0.0.1") {
        "127.0.0.2"
    } else {
        "127.0.0.1"
    });
    let away_text = &ring_label(away);

    assert_eq!(assert_agrees(&mut director, &[hash], ""), [Some(home)]);
    assert_eq!(director.log_in_to(user, &mail_hosts), home);
    assert_eq!(snapshot_of(&director).users.len(), 1, "a login makes an entry");

    let begun = Timestamp::now();
    director.must(&["USER-MOVE", user, away_text]);
    let snapshot = snapshot_of(&director);
    assert_eq!(snapshot.users.len(), 1, "a move changes it");
    assert_eq!(snapshot.users[0].username_hash, hash);
    assert_eq!(snapshot.users[0].address, away);
    let lasts = snapshot.users[0].expires.duration_since(whole_second(begun));
    assert!((900..960).contains(&lasts.as_secs()), "{lasts}");

    for (command, host) in [
        (&["HOST-UP", away_text][..], away),
        (&["HOST-DOWN", away_text], away),
        (&["HOST-SET", away_text, "0"], away),
        (&["HOST-UP", away_text], away),
        (&["HOST-SET", away_text, "1"], away),
        // The host only moves users that the ring puts elsewhere.
        (&["HOST-SET", "127.0.0.4", "1000"], away),
        (&["HOST-REMOVE", "127.0.0.4"], away),
        (&["HOST-FLUSH", away_text], home),
        (&["USER-MOVE", user, away_text], away),
        (
            &["HOST-FLUSH", "127.0.0.3"],
            if away == address("127.0.0.3") { home } else { away },
        ),
        (&["HOST-REMOVE", away_text], home),
        (&["HOST-SET", away_text, "0"], home),
        (&["USER-MOVE", user, away_text], away),
        (&["HOST-RESET-USERS", away_text], home),
    ] {
        director.must(command);
        assert_eq!(
            assert_agrees(&mut director, &[hash], ""),
            [Some(host)],
            "{command:?}"
        );
        assert_eq!(director.log_in_to(user, &mail_hosts), host, "{command:?}");
        assert_eq!(
            assert_agrees(&mut director, &[hash], ""),
            [Some(host)],
            "{command:?}"
        );
    }
}

#[test]
fn users_who_logged_in_stay_where_they_are_when_the_ring_changes() {
    let mail_hosts = MailHosts::new();
    let mut director = start_with_imap(&mail_hosts, "127.0.0.1-127.0.0.3");
    let names: Vec<String> = (0..30).map(|number| format!("user{number}")).collect();
    let hashes: Vec<u32> = names
        .iter()
        .map(|name| UsernameHash::default().hash(name.as_bytes()).unwrap())
        .collect();
    let (stay, strangers) = names.split_at(20);
    let before: Vec<IpAddr> = stay
        .iter()
        .map(|name| director.log_in_to(name, &mail_hosts))
        .collect();

    director.must(&["HOST-SET", "127.0.0.4", "300"]);
    director.must(&["HOST-DOWN", "127.0.0.1"]);
    director.must(&["HOST-SET", "127.0.0.2", "0"]);
    let ours = assert_agrees(&mut director, &hashes, "");
    let ring = expected_of_all(&without_users(snapshot_of(&director)), &hashes, "");
    let (of_stay, of_strangers) = ours.split_at(stay.len());
    assert!(
        of_stay
            .iter()
            .zip(&before)
            .all(|(ours, before)| *ours == Some(*before))
    );
    assert!(
        of_stay
            .iter()
            .zip(&ring)
            .filter(|(ours, ring)| ours != ring)
            .count()
            > 5
    );
    assert_eq!(of_strangers, &ring[stay.len()..]);
    for (name, host) in stay.iter().chain(strangers).zip(&ours) {
        assert_eq!(Some(director.log_in_to(name, &mail_hosts)), *host, "{name}");
    }
    assert_eq!(assert_agrees(&mut director, &hashes, ""), ours);
}

/// `USER-LIST` still has users who expired, behind one who was moved again and again.
#[test]
fn expired_entries_do_not_count() {
    let mail_hosts = MailHosts::new();
    let mut director = start_with_imap_and(
        &mail_hosts,
        "127.0.0.1-127.0.0.3",
        &[("director_user_expire", "10 secs")],
    );
    let user = "bert";
    let hash = UsernameHash::default().hash(user.as_bytes()).unwrap();
    let hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let home = expected(&snapshot_of(&director), hash, "").unwrap();
    let away = hosts.into_iter().find(|host| address(host) != home).unwrap();
    director.must(&["USER-MOVE", "1", hosts[0]]);
    director.must(&["USER-MOVE", user, away]);
    assert_eq!(assert_agrees(&mut director, &[hash], ""), [Some(address(away))]);

    let begun = Instant::now();
    let mut moves = 0;
    let expired = loop {
        moves += 1;
        let answer = director
            .command(&["USER-MOVE", "1", hosts[moves % hosts.len()]])
            .unwrap();
        assert!(["OK", "TRYAGAIN"].contains(&answer.as_str()), "{answer}");
        let snapshot = snapshot_of(&director);
        let listed = snapshot.users.iter().find(|entry| entry.username_hash == hash);
        let listed = listed.expect("the user is listed, expired or not");
        if listed.expires < whole_second(Timestamp::now()) {
            break snapshot;
        }
        assert!(begun.elapsed() < DEADLINE, "{listed:?} does not expire");
        thread::sleep(SOON);
    };
    assert_eq!(expected(&expired, hash, ""), Some(home));
    // To look the user up takes the entry out of the table.
    assert_eq!(assert_agrees(&mut director, &[hash], ""), [Some(home)]);
    assert_eq!(snapshot_of(&director).users.len(), 1);
    assert_eq!(director.log_in_to(user, &mail_hosts), home);
}

#[test]
fn tags_have_tables_of_their_own() {
    let mut director = Director::start(Settings {
        mail_servers: "10.0.0.1-10.0.0.3 10.0.1.1-10.0.1.3@east 10.0.2.1@East",
        ..Settings::default()
    });
    let hashes: Vec<u32> = (0..200).map(hash_of).collect();
    for (hash, number) in hashes.iter().zip(0..) {
        for (network, nth) in [(0, number), (1, number / 2), (2, 0)] {
            if number % (network + 2) == 0 {
                let host = format!("10.0.{network}.{}", nth % 3 + 1);
                director
                    .command(&["USER-MOVE", &hash.to_string(), &host])
                    .unwrap();
            }
        }
    }
    director.must(&["HOST-DOWN", "10.0.1.1"]);
    for tag in ["", "east", "East", "west"] {
        assert_agrees(&mut director, &hashes, tag);
    }
    let in_force = |tag| snapshot_of(&director).users_in_force(tag, Timestamp::now()).len();
    assert_eq!(["", "east", "West"].map(in_force), [100, 67, 0]);
}

/// The same address with two tags, whose users the Director does not tell apart.
#[test]
fn a_host_of_two_tags() {
    let mut director = Director::start(Settings {
        mail_servers: "10.0.0.1 10.0.0.1@east 10.0.0.2",
        ..Settings::default()
    });
    director.must(&["USER-MOVE", "1", "10.0.0.2"]);
    assert_eq!(
        assert_agrees(&mut director, &[1], ""),
        [Some(address("10.0.0.2"))]
    );
    assert_eq!(
        assert_agrees(&mut director, &[1], "east"),
        [Some(address("10.0.0.1"))]
    );
    director.must(&["USER-MOVE", "2", "10.0.0.1"]);
    assert_error(
        &director.admin_socket(),
        DEADLINE,
        "and does not say for which one user 2 is there; give each host one tag",
    );
}

/// Whatever is done to hosts and users, all are where the Director says.
#[test]
fn random_changes() {
    for seed in 1..=8 {
        let mut random = seed;
        let mut below = |end: u32| {
            random =
                u64::wrapping_mul(random, 6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as u32 % end
        };
        let mut director = Director::start(Settings {
            mail_servers: "10.0.0.1-10.0.0.4 10.0.0.5-10.0.0.7@east",
            more: &[("director_user_kick_delay", "0")],
            ..Settings::default()
        });
        let hashes: Vec<u32> = (0..100).map(hash_of).collect();
        let mut done = Vec::new();
        for _ in 0..30 {
            for _ in 0..6 {
                let host = format!("10.0.0.{}", 1 + below(7));
                let hash = hashes[below(100) as usize].to_string();
                let count = [0, 1, 100, 1000][below(4) as usize].to_string();
                let tagged = if host.as_str() > "10.0.0.4" {
                    format!("{host}@east")
                } else {
                    host.clone()
                };
                let command = match below(10) {
                    0 => vec!["HOST-DOWN", &host],
                    1 | 2 => vec!["HOST-UP", &host],
                    3 => vec!["HOST-SET", &tagged, &count],
                    4 if below(2) == 0 => vec!["HOST-FLUSH", &host],
                    5 if below(2) == 0 => vec!["HOST-REMOVE", &host],
                    _ => vec!["USER-MOVE", &hash, &host],
                };
                let mut answer = director.command(&command).unwrap();
                // The Director may end when a host is removed while users who were moved
                // are still kicked from it.
                while command[0] == "USER-MOVE" && answer != "NOTFOUND" {
                    thread::sleep(Duration::from_millis(1));
                    answer = director.command(&command).unwrap();
                    if answer == "OK" {
                        break;
                    }
                }
                done.push(format!("{command:?} {answer}"));
            }
            for tag in ["", "east"] {
                let disagree = disagreement(&mut director, &hashes, tag);
                assert_eq!(disagree, None, "seed {seed}\n{}", done.join("\n"));
            }
        }
    }
}

#[test]
fn a_big_table_is_read_whole() {
    const USERS: u32 = 20_000;
    let director = Director::start(Settings {
        mail_servers: "10.0.0.1-10.0.0.9",
        ..Settings::default()
    });
    let entry = |number: u32| (hash_of(number), 1 + number % 9);
    let mut admin = BufReader::new(UnixStream::connect(director.admin_socket()).unwrap());
    let mut commands = "VERSION\tdirector-doveadm\t1\t0\n".to_owned();
    for (hash, host) in (0..USERS).map(entry) {
        commands += &format!("USER-MOVE\t{hash}\t10.0.0.{host}\n");
    }
    admin.get_mut().write_all(commands.as_bytes()).unwrap();
    let answers = admin.by_ref().lines().skip(1).take(USERS as usize);
    assert!(answers.map(Result::unwrap).all(|answer| answer == "OK"));

    let ours: BTreeSet<(u32, IpAddr)> = snapshot_of(&director)
        .users_in_force("", Timestamp::now())
        .into_iter()
        .collect();
    let theirs: BTreeSet<(u32, IpAddr)> = (0..USERS)
        .map(entry)
        .map(|(hash, host)| (hash, address(&format!("10.0.0.{host}"))))
        .collect();
    assert_eq!(theirs.len(), USERS as usize);
    assert!(
        ours == theirs,
        "{} of {USERS} are right",
        ours.intersection(&theirs).count()
    );
}

/// While hosts come and go, no user is read to be at a host that is gone.
#[test]
fn a_snapshot_is_of_one_instant() {
    let mut director = Director::start(Settings::default());
    let socket = director.admin_socket();
    let changes = thread::spawn(move || {
        for _ in 0..2000 {
            director.must(&["HOST-SET", "10.0.0.2"]);
            director.must(&["USER-MOVE", "1", "10.0.0.2"]);
            director.must(&["HOST-REMOVE", "10.0.0.2"]);
        }
        director
    });
    let mut seen = BTreeSet::new();
    while !changes.is_finished() {
        let snapshot = director::snapshot(&socket, DEADLINE).unwrap_or_else(|error| panic!("{error}"));
        seen.insert((snapshot.hosts.len(), snapshot.users.len()));
    }
    assert!(seen.is_subset(&[(1, 0), (2, 0), (2, 1)].into()), "{seen:?}");
    drop(changes.join().unwrap());
}

#[test]
fn no_director() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("director-admin");
    assert_error(
        &socket,
        DEADLINE,
        "cannot connect to the Director: No such file or directory",
    );
    drop(UnixListener::bind(&socket).unwrap());
    assert_error(
        &socket,
        DEADLINE,
        "cannot connect to the Director: Connection refused",
    );
    assert_error(folder.path(), DEADLINE, "cannot connect to the Director: ");
    assert_error(
        &folder.path().join("x".repeat(200)),
        DEADLINE,
        "cannot connect to the Director: ",
    );
}

#[test]
fn sockets_of_something_else() {
    let director = Director::start(Settings {
        imap: true,
        ..Settings::default()
    });
    // One that greets, and one that waits for the client.
    assert_error(
        &director.socket("imap"),
        DEADLINE,
        "is not the handshake of a Director of Dovecot 2.3; is this its director-admin socket?",
    );
    assert_error(&director.socket("anvil"), SOON, "did not answer within 50ms");
}

#[test]
fn peers_that_are_wrong() {
    let handshake = "VERSION\tdirector-doveadm\t1\t0\n";
    let hosts = "10.0.0.1\t100\t0\t\tU\t0\n\n";
    for (says, error) in [
        ("", "closed the connection within the handshake"),
        (
            "VERSION\tdirector-doveadm\t2\t0\n",
            "\"VERSION\\tdirector-doveadm\\t2\\t0\" is not the handshake",
        ),
        (handshake, "closed the connection within HOST-LIST"),
        (
            &format!("{handshake}\u{1b}[2J\n\n\n"),
            "HOST-LIST has a line that is not one of Dovecot 2.3: \"\\x1b[2J\"",
        ),
        (
            &format!("{handshake}{hosts}"),
            "closed the connection within USER-LIST",
        ),
        (
            &format!("{handshake}{hosts}5\t1\t10.0.0.1\n"),
            "closed the connection within USER-LIST",
        ),
        (
            &format!("{handshake}{hosts}5\t1\t10.0.0.1"),
            "within USER-LIST, after \"5\\t1\\t10.0.0.1\"",
        ),
    ] {
        let says = says.to_owned();
        let peer = Peer::new(move |mut client| {
            client.write_all(says.as_bytes())?;
            client.shutdown(std::net::Shutdown::Write)?;
            client.read_to_end(&mut Vec::new()).map(drop)
        });
        assert_error(&peer.socket, DEADLINE, error);
    }
}

#[test]
fn peers_that_take_their_time() {
    let silent = Peer::new(|mut client| client.read_to_end(&mut Vec::new()).map(drop));
    assert_error(&silent.socket, SOON, "did not answer within 50ms");
    assert_error(&silent.socket, Duration::ZERO, "did not answer within 0ns");

    // Never silent for long, and never ready.
    let slow = Peer::new(|mut client| {
        client.write_all(b"VERSION\tdirector-doveadm\t1\t0\n")?;
        loop {
            client.write_all(b"1")?;
            thread::sleep(Duration::from_millis(1));
        }
    });
    assert_error(&slow.socket, SOON, "did not answer within 50ms");

    // Nobody accepts, and the queue is full.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("director-admin");
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _queued = UnixStream::connect(&path).unwrap();
    assert_error(&path, SOON, "did not answer within 50ms");
}

/// What a test makes of a socket.
struct Peer {
    socket: PathBuf,
    _folder: TempDir,
}

impl Peer {
    /// Every client is served until either side ends.
    fn new(serve: impl Fn(UnixStream) -> io::Result<()> + Send + 'static) -> Peer {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("director-admin");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for client in listener.incoming() {
                let _ = serve(client.unwrap());
            }
        });
        Peer {
            socket,
            _folder: folder,
        }
    }
}

#[track_caller]
fn assert_error(socket: &Path, timeout: Duration, problem: &str) {
    let error = director::snapshot(socket, timeout)
        .expect_err(problem)
        .to_string();
    assert!(error.starts_with(&format!("{}: ", socket.display())), "{error}");
    assert!(error.contains(problem), "{error}");
}

fn start_with_imap(mail_hosts: &MailHosts, mail_servers: &str) -> Director {
    start_with_imap_and(mail_hosts, mail_servers, &[])
}

fn start_with_imap_and(mail_hosts: &MailHosts, mail_servers: &str, more: &[(&str, &str)]) -> Director {
    // So that a user who was moved does not have to wait.
    let more = [&[("director_user_kick_delay", "0")], more].concat();
    Director::start(Settings {
        mail_servers,
        imap: true,
        imap_port: mail_hosts.port(),
        more: &more,
        ..Settings::default()
    })
}

fn snapshot_of(director: &Director) -> Snapshot {
    director::snapshot(&director.admin_socket(), DEADLINE)
        .unwrap_or_else(|error| panic!("{error}\n{}", director.log()))
}

/// Where a snapshot says that a user is.
fn expected(snapshot: &Snapshot, hash: u32, tag: &str) -> Option<IpAddr> {
    expected_of_all(snapshot, &[hash], tag)[0]
}

fn expected_of_all(snapshot: &Snapshot, hashes: &[u32], tag: &str) -> Vec<Option<IpAddr>> {
    let nodes = snapshot.hosts.iter().map(|host| Node {
        vhost_count: host.vhost_count,
        tag: host.tag.clone(),
        up: host.up,
        ..Node::new("", host.address)
    });
    let cluster = Cluster::new(Strategy::Ring, UsernameHash::default(), nodes.collect()).ok();
    let in_force = snapshot.users_in_force(tag, Timestamp::now());
    let on_ring = |hash| {
        let cluster = cluster.as_ref()?;
        Some(cluster.nodes()[cluster.index_of_hash(hash, tag)?].address)
    };
    hashes
        .iter()
        .map(|hash| in_force.get(hash).copied().or_else(|| on_ring(*hash)))
        .collect()
}

/// Where a new snapshot says that users are, which is also what the Director says.
#[track_caller]
fn assert_agrees(director: &mut Director, hashes: &[u32], tag: &str) -> Vec<Option<IpAddr>> {
    let snapshot = snapshot_of(director);
    assert_eq!(disagreement(director, hashes, tag), None);
    expected_of_all(&snapshot, hashes, tag)
}

/// The first user whom a new snapshot has elsewhere than the Director.
fn disagreement(director: &mut Director, hashes: &[u32], tag: &str) -> Option<String> {
    // First: a lookup takes an expired user out of the table.
    let snapshot = snapshot_of(director);
    let ours = expected_of_all(&snapshot, hashes, tag);
    hashes.iter().zip(ours).find_map(|(hash, ours)| {
        let line = director
            .command(&["USER-LOOKUP", &hash.to_string(), tag])
            .unwrap();
        let theirs = match line.split('\t').collect::<Vec<_>>()[..] {
            ["", "0", "", _initial] => None,
            ["", "0", hashed, _initial] => Some(address(hashed)),
            [current, _expires, _hashed, _initial] => Some(address(current)),
            _ => panic!("USER-LOOKUP answers {line:?}"),
        };
        (ours != theirs).then(|| format!("{hash} tag {tag:?}: {line:?}, but {ours:?} by {snapshot:?}"))
    })
}

fn without_users(snapshot: Snapshot) -> Snapshot {
    Snapshot {
        users: Vec::new(),
        ..snapshot
    }
}

/// Hashes all over the ring, and never 0, which no user has: to move it makes the
/// Director end.
fn hash_of(number: u32) -> u32 {
    (number + 1).wrapping_mul(0x9e37_79b9)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The Director counts in seconds.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap()
}
