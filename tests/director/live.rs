//! A live Dovecot Director and [`Cluster`] give every user the same host: in
//! random clusters and after changes to them, for hashes on vhosts, under
//! random username hash formats, and for users who really log in.
//!
//! Half of what is random differs from run to run. A failure names its seed:
//! `DIRECTOR_SEED=… cargo test --test director live::` repeats it.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use mailaffinity::mapping::{
    Cluster, Node, NotHashed, Strategy, UsernameHash, parse_address, parse_mail_servers, resolve_nodes,
    ring_label,
};
use support::director::{Director, Host, LoggedIn, Lookup, NoAnswer, Settings, fits};

/// Clusters, and formats, for each of the two seeds.
const CLUSTERS: u64 = 25;
const FORMATS: u64 = 30;
const USERS_OF_A_CLUSTER: usize = 300;
const USERS_OF_A_FORMAT: usize = 150;

/// An unknown tag, which has no hosts.
const UNKNOWN_TAG: &str = "unknown";

#[test]
fn random_clusters() {
    at_once(seeds(CLUSTERS), |seed| {
        let mut random = Random::new(seed);
        let mail_servers = random.mail_servers();
        let mut nodes = nodes_of(&mail_servers);
        let changes = random.changes(&nodes);
        let mut director = Director::start(Settings {
            mail_servers: &mail_servers,
            ..Settings::default()
        });
        let name = format!("DIRECTOR_SEED={seed}\ndirector_mail_servers = {mail_servers}");
        assert_eq!(sorted(director.host_list()), hosts_of(&nodes), "{name}");

        for change in &changes {
            director.must(&change.command());
            change.apply(&mut nodes);
        }
        let name = format!("{name}\n{changes:?}");
        assert_eq!(sorted(director.host_list()), hosts_of(&nodes), "{name}");

        let mut tags: Vec<&str> = nodes.iter().map(|node| node.tag.as_str()).collect();
        tags.extend(["", UNKNOWN_TAG]);
        tags.sort_unstable();
        tags.dedup();
        let users: Vec<Vec<u8>> = (0..USERS_OF_A_CLUSTER).map(|_| random.user()).collect();
        let hashes = random.hashes_near_vhosts(&nodes);
        let cluster = Cluster::new(Strategy::Ring, UsernameHash::default(), nodes.clone()).ok();
        for tag in tags {
            let names = users
                .iter()
                .map(|user| (&user[..], cluster.as_ref().and_then(|c| c.node_of(user, tag))));
            assert_same(&mut director, &name, tag, names);
            let hashes: Vec<(Vec<u8>, u32)> = hashes
                .iter()
                .map(|hash| (hash.to_string().into(), *hash))
                .collect();
            let names = hashes.iter().map(|(text, hash)| {
                let index = cluster.as_ref().and_then(|c| c.index_of_hash(*hash, tag));
                (&text[..], index.map(|index| &nodes[index]))
            });
            assert_same(&mut director, &name, tag, names);
        }
    });
}

/// So many hosts that some share a place on the ring, where the Director takes
/// whichever its binary search meets.
#[test]
fn vhosts_that_share_a_hash() {
    let mail_servers = "10.1.0.0-10.1.0.255 10.1.1.0-10.1.1.255 10.1.2.0-10.1.2.255 10.1.3.0-10.1.3.255 \
         2001:db8::-2001:db8::7ff";
    let nodes = nodes_of(mail_servers);
    let mut vhosts: Vec<u32> = nodes
        .iter()
        .flat_map(|node| (0..node.vhost_count).map(|vhost| vhost_hash(node, vhost)))
        .collect();
    vhosts.sort_unstable();
    let shared: Vec<u32> = vhosts
        .chunk_by(|a, b| a == b)
        .filter(|same| same.len() > 1)
        .map(|same| same[0])
        .collect();
    assert!(shared.len() > 3, "{shared:?}");

    let probes: Vec<(Vec<u8>, u32)> = shared
        .iter()
        .flat_map(|hash| beside(*hash))
        .map(|hash| (hash.to_string().into(), hash))
        .collect();
    let cluster = Cluster::new(Strategy::Ring, UsernameHash::default(), nodes).unwrap();
    let mut director = Director::start(Settings {
        mail_servers,
        ..Settings::default()
    });
    let ours = probes.iter().map(|(text, hash)| {
        let index = cluster.index_of_hash(*hash, "");
        (&text[..], index.map(|index| &cluster.nodes()[index]))
    });
    assert_same(&mut director, "shared places", "", ours);
}

#[test]
fn random_username_hash_formats() {
    at_once(seeds(FORMATS), |seed| {
        let mut random = Random::new(seed);
        let format = random.format();
        UsernameHash::parse(&format).unwrap_or_else(|error| panic!("DIRECTOR_SEED={seed}: {error}"));
        assert_same_or_both_refuse(&format, seed);
    });
}

/// Most of these mean nothing, which both sides should notice.
#[test]
fn random_garbage_as_username_hash_format() {
    at_once(seeds(FORMATS), |seed| {
        let format = Random::new(seed).garbage();
        assert_same_or_both_refuse(&format, seed);
    });
}

#[test]
fn odd_username_hash_formats() {
    at_once(ODD_FORMATS.to_vec(), |format| {
        assert_same_or_both_refuse(format, FIXED_SEED)
    });
}

/// The corners of the format language: nothing here may be hashed differently.
const ODD_FORMATS: &[&str] = &[
    "",
    " ",
    "%",
    "%%",
    "%%%",
    "%%%u",
    "%5",
    "%-",
    "%-0",
    "%3.",
    "%3.-",
    "%LRM",
    "%u%",
    "%L%u",
    "%5%%u",
    "%05%",
    "%M%",
    "%0.u",
    "%.3u",
    "%.u",
    "%..u",
    "%1.2.3u",
    "%--3u",
    "%0-3u",
    "%-0.5u",
    "%-0.-0u",
    "%3.0-2u",
    "%3.-02u",
    "%00005u",
    "%-00005.00005u",
    "%0000000000000000000000012n",
    "%100000u",
    "%2147483647u",
    "%2147483647.u",
    "%-2147483647.3u",
    "%0.-2147483647u",
    "%2147483647Hu",
    "%0.-7Hu",
    "%0.-7Nu",
    "%-3.7Hu",
    "%40.7Hu",
    "%12.3HXRu",
    "%9.4HHu",
    "%3.500NMu",
    "%10.5XNRu",
    "%5000.3Nn",
    "%065535n",
    "%LULULULULUu",
    "%LULULULULULu",
    "%EEEEEEEEEEu",
    "%Xn",
    "%XXXXn",
    "%DDd",
    "%TTu",
    "%RTRu",
    "%s",
    "%l",
    "%U",
    "%ü",
    "% u",
    "%\\u",
    "%{user}}",
    "{%u}",
    "%{user}%{domain}",
    "%{user",
    "%{",
    "%{}",
    "%}",
    "%{User}",
    "%{user }",
    "%{user;}",
    "%{user;rounds=2}",
    "%{user:}",
    "%{u}",
    "%{n}",
    "%{%u}",
    "%{:user}",
    "%{;:user}",
    "%{md5}",
    "%{md5:}",
    "%{md5;user}",
    "%{md:user}",
    "%{md55:user}",
    "%{ md5:user}",
    "%{md5 :user}",
    "%{md5: user}",
    "%{md5:user:}",
    "%{md5:user;x}",
    "%{MD5:user}",
    "%{Sha1:user}",
    "%{nosuch:user}",
    "%{md5:nosuch}",
    "%{md5:sha1:nosuch}",
    "%{md5:md5:md5:md5:user}",
    "%{md5;rounds=2:sha512;truncate=9:sha1;salt=x:username}",
    "%{md5;:user}",
    "%{md5;,,rounds=2,:user}",
    "%{md5;rounds:user}",
    "%{md5;truncate,rounds,salt:user}",
    "%{md5;rounds=007:user}",
    "%{md5;rounds=2,rounds=3:user}",
    "%{md5;rounds=0:user}",
    "%{md5;rounds=:user}",
    "%{md5;rounds=-1:user}",
    "%{md5;rounds=+1:user}",
    "%{md5;rounds= 1:user}",
    "%{md5;rounds=2;truncate=8:user}",
    "%{md5;rounds=4294967296:user}",
    "%{sha256;rounds=300:user}",
    "%{md5;truncate=0:user}",
    "%{md5;truncate=1:user}",
    "%{md5;truncate=7:user}",
    "%{md5;truncate=8:user}",
    "%{md5;truncate=9:user}",
    "%{md5;truncate=127:user}",
    "%{md5;truncate=128:user}",
    "%{md5;truncate=129:user}",
    "%{md5;truncate=4294967295:user}",
    "%{md5;truncate=4294967296:user}",
    "%{md5;truncate=x:user}",
    "%{sha512;truncate=511:user}",
    "%{sha1;truncate=77,rounds=3:user}",
    "%{md5;salt=:user}",
    "%{md5;salt=%:user}",
    "%{md5;salt=%%:user}",
    "%{md5;salt=%5:user}",
    "%{md5;salt=a=b:user}",
    "%{md5;salt=a,salt=b:user}",
    "%{md5;salt=a,rounds=0:user}",
    "%{md5;salt={}:user}",
    "%{md5;salt=\\}:user}",
    "%{md5;salt=\\\\:user}",
    "%{md5;salt=\"'#$ :user}",
    "%{md5;salt=%u:user}",
    "%{md5;salt=%2.3Md,rounds=2:user}",
    "%{md5;salt=%{domain}:user}",
    "%{md5;salt=%{sha1:user}:user}",
    "%{md5;rounds=3,truncate=60,salt=%-3.2{user}-%Ud:sha1:username}",
    "%5.20LMR{sha256;rounds=2:user}",
    "%10.77H{md5:user}",
    "%{if;%d;eq;;%Ln;%Lu}",
    "%{IF;%d;eq;;%Ln;%Lu}",
    "%{if:%d;eq;;%Ln;%Lu}",
    "%{if:x;%d;eq;;%Ln;%Lu}",
    "%{ifs;%d;eq;;%Ln;%Lu}",
    "%{i;%d;eq;;%Ln;%Lu}",
    "%{ if;%d;eq;;%Ln;%Lu}",
    "%{if;%d;eq;;%Ln;%Lu:x;y}",
    "%{if;%d;eq;;%Ln:x;%Lu}",
    "%{if}",
    "%{if:}",
    "%{if;}",
    "%{if;%d}",
    "%{if;%d;eq;x}",
    "%{if;%d;eq;x;}",
    "%{if;%d;ne;;}",
    "%{if;%d;ne;;;}",
    "%{if;%d;ne;;;;}",
    "%{if;%d;ne;;%n}",
    "%{if;%d;ne;;%n;}",
    "%{if;%d;ne;;%n;%u;}",
    "%{if;%d;ne;;%n;%u;;}",
    "%{if;%d;ne;;%n;%u;%d}",
    "%{if;%d; eq;;%n;%u}",
    "%{if;%d;EQ;;%n;%u}",
    "%{if;%d;=;;%n;%u}",
    "%{if;%d;===;;%n;%u}",
    "%{if;%d;;;%n;%u}",
    "%{if;%d;%%;;%n;%u}",
    "%{if;%d;lt;%n;%u;%x}",
    "%{if;%x;eq;;%n;%u}",
    "%{if;%d;lt;%n;%u;%",
    "%{if;%d;lt;%n;%LR;%5}",
    "%{if;%d;lt;%n;\\;;\\:}",
    "%{if;%d;lt;%n;\\{a;a\\}}",
    "%{if;%d;lt;%n;{a};b}",
    "%{if;%d;lt;%n;a\\\\;;b}",
    "%{if;%d;lt;%n;a;b\\\\}",
    "%{if;%d;lt;%n;a;\\%u}",
    "%{if;%d;lt;%n;%u{;};b}",
    "%{if;%d;lt;%n;\\%{;b}",
    "%{if;%d;l\\t;%n;a;b}",
    "%{i\\f;%d;lt;%n;a;b}",
    "%{if;%d;lt;%n;%{if;%u;lt;m;\\:;b};%{if;%u;lt;m;c;d}}",
    "%{if;%d;lt;%n;%{if;%u;lt;m;\\;;b};c}",
    "%{if;%{if;%u;*;*@*;%d;%n};lt;%{sha1:user};%{md5:user};%2n}",
    "%2.7MR{if;%u;!*;*.*;%u;%n}",
    "%12H{if;%u;*;?*a*?;%u;%n}",
    "%040{if;%u;lt;m;%u;%n}",
    "%-3.2{if;%u;ge;m;%u;%n}",
    "%{md5:if;%d;eq;;%n;%u}",
    "%{md5;rounds=2:sha1:if;%d;eq;;%{md5:user};%u}",
    "%{md5;salt=%{if;%d;eq;;%n;%u}:user}",
    "%{md5;salt=%{if;%d;eq}:user}",
    "#%u",
    "$%u",
    "<%u",
    "\"%u\"",
    "'%u'",
    "\\%u\\",
    "é%u\u{1}\t",
];

/// What the Director takes and [`UsernameHash`] refuses, all of it on purpose.
#[test]
fn formats_that_only_the_director_takes() {
    at_once(UNSUPPORTED_FORMATS.to_vec(), |format| {
        let error = UsernameHash::parse(format).expect_err(format);
        let answers = ask(format, &[b"user1"]);
        assert!(
            matches!(&answers, Ok(answers) if matches!(answers[0], Lookup::Host(_))),
            "{error}: the Director refuses it too: {answers:?}"
        );
    });
}

const UNSUPPORTED_FORMATS: &[&str] = &[
    // Other machines and processes would hash otherwise.
    "%{pid}",
    "%{uid}",
    "%{gid}",
    "%{hostname}",
    "%{md5:pid}",
    "%{env:HOME}",
    // The regular expressions of the Director's C library.
    "%{if;%u;~;^[a-z]+$;%n;%d}",
    "%{if;%u;!~;^[a-z]+$;%n;%d}",
    // Nobody is known to use these.
    "%{if;a;%{if;a;eq;a;eq;ne};a;%n;%d}",
    "%E{if;%u;eq;x;%n;%d}",
    "%{pkcs5;salt=x:user}",
    "%{md4:user}",
    "%{sha384:user}",
    "%{sha3-256:user}",
    "%{sha3-512:user}",
    "%{size:user}",
    "%{md5;format=base64:user}",
    // The Director passes over mistakes in arguments and salts.
    "%{md5;round=2:user}",
    "%{md5;salt=%x:user}",
    // More work than a lookup should be.
    "%{md5;rounds=1000001:user}",
    "%065536u",
    "%65536.1Hu",
    "%{md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:user}",
    "%{md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:md5:if;%u;eq;x;%n;%d}",
];

#[test]
fn operators_of_conditionals() {
    let texts = [
        "", "a", "A", "ab", "b", "aab", "abab", "a*b", "?", "*", "**", "?*b", "*a*", "é", "a b",
    ];
    let numbers = [
        "0",
        "-0",
        "1",
        "01",
        "-1",
        "9",
        "10",
        "9223372036854775807",
        "-9223372036854775808",
    ];
    let of_texts = ["eq", "ne", "lt", "le", "gt", "ge", "*", "!*"].map(|operator| (operator, &texts[..]));
    let of_numbers = ["==", "!=", "<", "<=", ">", ">="].map(|operator| (operator, &numbers[..]));
    at_once([&of_texts[..], &of_numbers].concat(), |(operator, values)| {
        let format = format!("%{{if;%n;{operator};%d;yes;no}}");
        let username_hash = UsernameHash::parse(&format).unwrap();
        let cluster = Cluster::new(Strategy::Ring, username_hash, nodes_of(HOSTS_OF_A_FORMAT)).unwrap();
        let users: Vec<String> = values
            .iter()
            .flat_map(|left| values.iter().map(move |right| format!("{left}@{right}")))
            .collect();
        let ours = users
            .iter()
            .map(|user| (user.as_bytes(), cluster.node_of(user.as_bytes(), "")));
        let mut nodes: Vec<&str> = ours.clone().map(|(_, node)| &*node.unwrap().name).collect();
        nodes.sort_unstable();
        nodes.dedup();
        assert_eq!(nodes.len(), 2, "{format}: it both holds and does not");
        let mut director = Director::start(Settings {
            mail_servers: HOSTS_OF_A_FORMAT,
            username_hash: &format,
            ..Settings::default()
        });
        assert_same(&mut director, &format, "", ours);
    });
}

/// The Director ends itself when such a user is to be hashed.
#[test]
fn numbers_that_are_none() {
    let none = [
        "",
        "-",
        "--1",
        "+1",
        " 1",
        "1 ",
        "0x1",
        "1.0",
        "9223372036854775808",
        "-9223372036854775809",
    ];
    let left = none.map(|none| ("%{if;%n;==;1;a;b}", format!("{none}@1")));
    let elsewhere = [
        "%{if;1;<;%n;a;b}",
        "%{if;1;==;1;a;%{if;%n;>;1;a;b}}",
        "%{md5;salt=%{if;%n;>;1;a;b}:user}",
        "%M{if;%n;!=;%n;a;b}",
    ]
    .map(|format| (format, "x@1".to_owned()));
    at_once([&left[..], &elsewhere].concat(), |(format, user)| {
        let user = user.as_bytes();
        assert_eq!(
            UsernameHash::parse(format).unwrap().hash(user),
            Err(NotHashed),
            "{format}"
        );
        let name = format!("{format}: {}", user.escape_ascii());
        assert!(ask(format, &[b"1@1"]).is_ok(), "{name}");
        assert!(ask(format, &[user]).is_err(), "{name}");
    });
}

/// Spellings of addresses, right and wrong ones.
#[test]
fn spellings_of_addresses() {
    let mut director = Director::start(Settings::default());
    director.must(&["HOST-REMOVE", "10.0.0.1"]);
    for seed in seeds(500) {
        let word = Random::new(seed).nearly_an_address();
        let theirs = match director.command(&["HOST-SET", &word]) {
            Ok(answer) => {
                assert_eq!(answer, "OK", "{word:?}");
                let hosts = director.host_list();
                director.must(&["HOST-REMOVE", &hosts[0].ip]);
                Some(hosts[0].ip.clone())
            }
            Err(_) => {
                director.reconnect();
                None
            }
        };
        assert_eq!(
            parse_address(&word).map(ring_label),
            theirs,
            "DIRECTOR_SEED={seed}: {word:?}"
        );
    }
}

#[test]
fn mail_servers_that_both_refuse() {
    let refused = [
        "",
        " ",
        "10.0.0.2-10.0.0.1",
        "10.0.0.1-10.0.1.1",
        "10.0.0.1-::1",
        "::2-::1",
        "2001:db8::ffff-2001:db8::1:0",
        "10.0.0.1 10.0.0.9-10.0.0.8 10.0.0.2",
    ];
    at_once(refused.to_vec(), |mail_servers| {
        assert!(parse_mail_servers(mail_servers).is_err(), "{mail_servers:?}");
        let director = Director::try_start(Settings {
            mail_servers,
            ..Settings::default()
        });
        assert!(director.is_err(), "{mail_servers:?}");
    });
}

/// A login hashes a name of digits like any other, unlike `USER-LOOKUP`.
#[test]
fn logins() {
    let mail_servers = "127.0.0.1-127.0.0.20";
    let users: &[&[u8]] = &[
        b"0",
        b"1",
        b"007",
        b"1234",
        b"617210206",
        b"4294967295",
        b"4294967296",
        b"18446744073709551616",
        b"Anna+list@Example.ORG",
        b"J\xf6rg \"x\" \\ %u",
    ];
    let cluster = Cluster::new(Strategy::Ring, UsernameHash::default(), nodes_of(mail_servers)).unwrap();
    let ours: Vec<LoggedIn> = users
        .iter()
        .map(|user| LoggedIn {
            username_hash: cluster.username_hash().hash(user).unwrap(),
            ip: ring_label(cluster.node_of(user, "").unwrap().address),
        })
        .collect();
    let theirs = Director::start(Settings {
        mail_servers,
        imap: true,
        ..Settings::default()
    })
    .log_in(users);
    assert_eq!(sorted(ours), sorted(theirs));
}

/// Asks the Director about users of a tag, and compares.
fn assert_same<'a>(
    director: &mut Director,
    name: &str,
    tag: &str,
    ours: impl Iterator<Item = (&'a [u8], Option<&'a Node>)>,
) {
    let (users, ours): (Vec<_>, Vec<_>) = ours.unzip();
    let questions: Vec<(&[u8], &str)> = users.iter().map(|user| (*user, tag)).collect();
    let theirs = match director.lookups(&questions) {
        Ok(theirs) => theirs,
        Err(NoAnswer { log }) => panic!("{name}\n{log}"),
    };
    for ((user, ours), theirs) in users.iter().zip(ours).zip(theirs) {
        let ours = match ours {
            Some(node) => Lookup::Host(ring_label(node.address)),
            None => Lookup::NoHost,
        };
        assert!(
            ours == theirs,
            "{name}\nuser \"{}\" tag {tag:?}: the Director says {theirs:?}, the mapping {ours:?}",
            user.escape_ascii()
        );
    }
}

/// So many hosts that another hash means another host, nearly always.
const HOSTS_OF_A_FORMAT: &str = "10.0.0.1-10.0.0.40";

/// The Director and [`UsernameHash`] hash all users alike, or neither of them any.
fn assert_same_or_both_refuse(format: &str, seed: u64) {
    let mut random = Random::new(seed);
    let users: Vec<Vec<u8>> = (0..USERS_OF_A_FORMAT).map(|_| random.user()).collect();
    let users: Vec<&[u8]> = users.iter().map(Vec::as_slice).collect();
    let username_hash = match UsernameHash::parse(format) {
        Ok(username_hash) => username_hash,
        Err(error) => {
            if let Ok(answers) = ask(format, &users) {
                assert!(
                    answers.iter().all(|answer| *answer == Lookup::TryAgain),
                    "DIRECTOR_SEED={seed}: {error}: the Director takes it: {answers:?}"
                );
            }
            return;
        }
    };
    let cluster = Cluster::new(Strategy::Ring, username_hash, nodes_of(HOSTS_OF_A_FORMAT)).unwrap();
    let mut director = Director::start(Settings {
        mail_servers: HOSTS_OF_A_FORMAT,
        username_hash: format,
        ..Settings::default()
    });
    let name = format!("DIRECTOR_SEED={seed}\ndirector_username_hash = {format}");
    let ours = users.iter().map(|user| (*user, cluster.node_of(user, "")));
    assert_same(&mut director, &name, "", ours);
}

/// What the Director says with a format that it may refuse. Mistakes in the
/// arguments of a hash function end it.
fn ask(format: &str, users: &[&[u8]]) -> Result<Vec<Lookup>, NoAnswer> {
    let questions: Vec<(&[u8], &str)> = users.iter().map(|user| (*user, "")).collect();
    Director::start(Settings {
        mail_servers: HOSTS_OF_A_FORMAT,
        username_hash: format,
        ..Settings::default()
    })
    .lookups(&questions)
}

pub(super) fn nodes_of(mail_servers: &str) -> Vec<Node> {
    let servers = parse_mail_servers(mail_servers).unwrap_or_else(|error| panic!("{error}"));
    resolve_nodes(&servers, |name| Err::<Vec<_>, _>(format!("{name} is a name")))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The nodes as `HOST-LIST` has them.
fn hosts_of(nodes: &[Node]) -> Vec<Host> {
    let hosts = nodes.iter().map(|node| Host {
        ip: ring_label(node.address),
        vhost_count: node.vhost_count,
        tag: node.tag.clone(),
        up: node.up,
    });
    sorted(hosts.collect())
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

/// The hash of one of a node's vhosts.
fn vhost_hash(node: &Node, vhost: u32) -> u32 {
    let md5 = UsernameHash::parse("%u").unwrap();
    md5.hash(format!("{}-{vhost}", ring_label(node.address)).as_bytes())
        .unwrap()
}

fn beside(hash: u32) -> [u32; 3] {
    [hash.wrapping_sub(1), hash, hash.wrapping_add(1)]
}

/// A change to the hosts of a Director.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A host that is not there yet.
    Add {
        address: IpAddr,
        tag: String,
        vhost_count: Option<u32>,
    },
    SetVhosts(IpAddr, u32),
    UpdateVhosts(IpAddr, u32),
    Down(IpAddr),
    Up(IpAddr),
    Remove(IpAddr),
}

impl Change {
    pub(super) fn command(&self) -> Vec<String> {
        let (name, host, vhost_count) = match self {
            Change::Add {
                address,
                tag,
                vhost_count,
            } => ("HOST-SET", format!("{address}@{tag}"), *vhost_count),
            Change::SetVhosts(address, count) => ("HOST-SET", address.to_string(), Some(*count)),
            Change::UpdateVhosts(address, count) => ("HOST-UPDATE", address.to_string(), Some(*count)),
            Change::Down(address) => ("HOST-DOWN", address.to_string(), None),
            Change::Up(address) => ("HOST-UP", address.to_string(), None),
            Change::Remove(address) => ("HOST-REMOVE", address.to_string(), None),
        };
        let count = vhost_count.map(|count| count.to_string());
        [name.to_owned(), host].into_iter().chain(count).collect()
    }

    fn apply(&self, nodes: &mut Vec<Node>) {
        let mut change = |address: &IpAddr, change: &dyn Fn(&mut Node)| {
            nodes
                .iter_mut()
                .filter(|node| node.address == *address)
                .for_each(change);
        };
        match self {
            Change::Add {
                address,
                tag,
                vhost_count,
            } => {
                let node = Node::new("", *address);
                nodes.push(Node {
                    tag: tag.clone(),
                    vhost_count: vhost_count.unwrap_or(node.vhost_count),
                    ..node
                });
            }
            Change::SetVhosts(address, count) | Change::UpdateVhosts(address, count) => {
                change(address, &|node| node.vhost_count = *count);
            }
            Change::Down(address) => change(address, &|node| node.up = false),
            Change::Up(address) => change(address, &|node| node.up = true),
            Change::Remove(address) => nodes.retain(|node| node.address != *address),
        }
    }
}

/// Runs `check` on every item, several at a time: to start a Director is mostly
/// to wait.
pub(super) fn at_once<T: Send>(items: Vec<T>, check: impl Fn(T) + Sync) {
    let items = Mutex::new(items.into_iter());
    let next = || items.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(item) = next() {
                    check(item);
                }
            });
        }
    });
}

const FIXED_SEED: u64 = 0x1a17_0a1f_f171_7e57;

/// `count` seeds that are always the same, and as many that never are; or the
/// one in `DIRECTOR_SEED`.
pub(super) fn seeds(count: u64) -> Vec<u64> {
    if let Ok(seed) = env::var("DIRECTOR_SEED") {
        return vec![seed.parse().unwrap()];
    }
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    [FIXED_SEED, since_1970.as_nanos() as u64]
        .into_iter()
        .flat_map(|seed| {
            let mut random = Random::new(seed);
            (0..count).map(move |_| random.next())
        })
        .collect()
}

/// Random numbers (SplitMix64), and what is made of them.
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end - 1`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub(super) fn text(&mut self, alphabet: &str, most: usize) -> String {
        let alphabet: Vec<char> = alphabet.chars().collect();
        (0..=self.below(most)).map(|_| self.pick(&alphabet)).collect()
    }

    // Clusters.

    pub(super) fn mail_servers(&mut self) -> String {
        let count = 1 + self.below(40);
        let mut words: Vec<String> = (0..count).map(|_| self.mail_server()).collect();
        if self.one_in(5) {
            // A host may be there twice, and its share doubles.
            words.push(words[0].clone());
        }
        let blank = self.pick(&[" ", "  "]);
        words.join(blank)
    }

    fn mail_server(&mut self) -> String {
        let address = self.address();
        let host = if self.one_in(8) {
            let end = match address {
                IpAddr::V4(v4) => IpAddr::V4(
                    (v4.to_bits() | 0xff)
                        .min(v4.to_bits().saturating_add(self.next() as u32 % 5))
                        .into(),
                ),
                IpAddr::V6(v6) => IpAddr::V6(
                    (v6.to_bits() | 0xffff)
                        .min(v6.to_bits().saturating_add(u128::from(self.next() % 5)))
                        .into(),
                ),
            };
            format!("{}-{}", self.spelling(address), self.spelling(end))
        } else {
            self.spelling(address)
        };
        let tag = self.tag();
        if tag.is_empty() {
            host
        } else {
            format!("{host}@{tag}")
        }
    }

    fn tag(&mut self) -> String {
        self.pick(&["", "", "", "", "east", "East", "a@b", "-", "é", "10.0.0.1"])
            .to_owned()
    }

    fn address(&mut self) -> IpAddr {
        let low = self.next() as u32;
        let octets = low.to_be_bytes();
        match self.below(8) {
            0 | 1 => Ipv4Addr::from(low).into(),
            2 | 3 => Ipv4Addr::new(10, 0, 0, octets[3]).into(),
            // A v4-mapped one, and one whose first 96 bits are zero.
            4 => Ipv4Addr::from(low).to_ipv6_mapped().into(),
            5 => Ipv6Addr::from(u128::from(low >> self.below(32))).into(),
            _ => {
                let groups: [u16; 8] = std::array::from_fn(|_| match self.below(4) {
                    0 => self.next() as u16,
                    1 => self.next() as u16 & 0xf,
                    _ => 0,
                });
                Ipv6Addr::from(groups).into()
            }
        }
    }

    /// One of the ways to write an address.
    fn spelling(&mut self, address: IpAddr) -> String {
        match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                let tail = u16::from_be_bytes([c, d]);
                match self.below(9) {
                    0 => v4.to_bits().to_string(),
                    1 => format!("{a:03}.{b:02}.{c:04}.{d:03}"),
                    2 => format!("0x{a:x}.{b}.0{c:o}.0X{d:02X}"),
                    3 => format!("0{a:o}.0x{b:x}.{tail}"),
                    4 => format!("{a}.0x{:06X}", v4.to_bits() & 0xff_ffff),
                    5 => format!("{:#x}", v4.to_bits()),
                    _ => v4.to_string(),
                }
            }
            IpAddr::V6(v6) => {
                let full = v6.segments().map(|group| format!("{group:x}")).join(":");
                match self.below(6) {
                    0 => full,
                    1 => full.to_uppercase(),
                    2 => v6.segments().map(|group| format!("{group:04x}")).join(":"),
                    3 => format!("[{v6}]"),
                    _ => v6.to_string(),
                }
            }
        }
    }

    /// The spelling of an address, or one with a mistake or two in it.
    fn nearly_an_address(&mut self) -> String {
        let address = self.address();
        let mut word: Vec<char> = self.spelling(address).chars().collect();
        for _ in 0..self.below(3) {
            let at = self.below(word.len() + 1);
            let stranger = self.pick(&[
                '0', '1', '2', '8', '9', 'a', 'f', 'F', 'x', 'X', '.', ':', '[', ']', '-', '+', 'g', '%', 'é',
            ]);
            match self.below(3) {
                0 => word.insert(at, stranger),
                _ if at == word.len() => word.push(stranger),
                1 => word[at] = stranger,
                _ => drop(word.remove(at)),
            }
        }
        word.into_iter().collect()
    }

    /// Changes to hosts that are there once.
    pub(super) fn changes(&mut self, nodes: &[Node]) -> Vec<Change> {
        let times = |address| nodes.iter().filter(|node| node.address == address).count();
        let mut addresses: Vec<IpAddr> = nodes.iter().map(|node| node.address).collect();
        addresses.retain(|address| times(*address) == 1);
        let mut removed = Vec::new();
        let mut changes = Vec::new();
        for _ in 0..self.below(2 * nodes.len() + 2) {
            if addresses.is_empty() || self.one_in(6) {
                let address = removed.pop().unwrap_or_else(|| {
                    loop {
                        let new = self.address();
                        if times(new) == 0 && !addresses.contains(&new) {
                            break new;
                        }
                    }
                });
                addresses.push(address);
                changes.push(Change::Add {
                    address,
                    tag: self.tag(),
                    vhost_count: (!self.one_in(3)).then(|| self.vhost_count()),
                });
                continue;
            }
            let at = self.below(addresses.len());
            let address = addresses[at];
            changes.push(match self.below(12) {
                0..4 => Change::UpdateVhosts(address, self.vhost_count()),
                4..6 => Change::SetVhosts(address, self.vhost_count()),
                6..9 => Change::Down(address),
                9 | 10 => Change::Up(address),
                _ => {
                    removed.push(addresses.swap_remove(at));
                    Change::Remove(address)
                }
            });
        }
        if self.one_in(20) {
            // Nobody is left.
            changes.extend(addresses.into_iter().map(Change::Remove));
        }
        changes
    }

    /// 1000 is the most that the Director takes.
    fn vhost_count(&mut self) -> u32 {
        let any = 1 + self.next() as u32 % 1000;
        self.pick(&[0, 1, 2, 100, 1000, any, any])
    }

    /// The ends of the ring, vhosts, other hashes, and what is next to
    /// all these.
    fn hashes_near_vhosts(&mut self, nodes: &[Node]) -> Vec<u32> {
        let mut hashes = vec![0, 1, u32::MAX];
        for _ in 0..30 {
            hashes.push(self.next() as u32);
            if !nodes.is_empty() {
                let at = self.below(nodes.len());
                let vhost = self.below(nodes[at].vhost_count.max(1) as usize);
                hashes.push(vhost_hash(&nodes[at], vhost as u32));
            }
        }
        hashes.into_iter().flat_map(beside).collect()
    }

    // Users.

    /// A name that `USER-LOOKUP` can carry, and does not take for a hash.
    pub(super) fn user(&mut self) -> Vec<u8> {
        let number = self.next() % 10_000;
        let mut user = match self.below(16) {
            0 => Vec::new(),
            1 => format!("user{number}").into_bytes(),
            2 => format!("First.Last{number}@Example{}.ORG", number % 7).into_bytes(),
            3 => format!("anna+list{number}@example.org").into_bytes(),
            4 => format!("{number}@{}.example.org", number % 9).into_bytes(),
            5 => format!(
                "{}{number}",
                self.pick(&["4294967296", "-", "+", " ", "0x", "1 ", "1."])
            )
            .into_bytes(),
            6 => self.text("aäÄßéÉ用户İ😀@.", 30).into_bytes(),
            7 => self
                .text("\"'\\ %{}$#@.\t\r\n\u{1}\u{b}\u{7f}tnr1", 40)
                .into_bytes(),
            8 => self.text("ABCxyz019 .-_+@", 60).into_bytes(),
            9 => self.text("@a", 6).into_bytes(),
            10 => (0..self.below(950)).map(|_| 1 + self.below(255) as u8).collect(),
            11 => self.text("abcdefghijklmnopqrstuvwxyzABCDEF.@", 950).into_bytes(),
            12 => vec![b'm'; 1050],
            _ => (0..self.below(60)).map(|_| 1 + self.below(255) as u8).collect(),
        };
        while !fits(&user, LONGEST_TAG) {
            user.pop();
        }
        let is_taken_for_a_hash =
            str::from_utf8(&user).is_ok_and(|text| text.parse::<u32>().is_ok() && !text.starts_with('+'));
        if is_taken_for_a_hash {
            user.push(b'x');
        }
        user
    }

    // Username hash formats.

    /// A format that means something, in the grammar of [`UsernameHash`].
    fn format(&mut self) -> String {
        let mut format = String::new();
        for _ in 0..=self.below(4) {
            match self.below(10) {
                0 => format += &self.text("ab@.-+:;,=é{}\\\"' #$", 5),
                1 => format += "%%",
                _ => format += &self.field(0),
            }
        }
        if self.one_in(10) {
            format += self.pick(&["%", "%5", "%-", "%03.", "%LR", "%1.2"]);
        }
        format
    }

    /// `depth` is how many hash functions are around it.
    fn field(&mut self, depth: usize) -> String {
        let mut field = "%".to_owned();
        if self.one_in(2) {
            if self.one_in(2) {
                field += self.pick(&["", "", "-"]);
                field += self.pick(&["", "", "0"]);
                field += &self.width();
                field += ".";
                field += self.pick(&["", "", "0"]);
                field += self.pick(&["", "", "-"]);
            } else {
                field += self.pick(&["", "", "-"]);
                field += self.pick(&["", "0"]);
            }
            field += &self.width();
        }
        let modifiers = self.pick(&[0, 0, 0, 1, 1, 1, 2, 2, 3, 5, 10]);
        for _ in 0..modifiers {
            field.push(self.pick(&['L', 'U', 'R', 'T', 'E', 'D', 'X', 'M', 'H', 'N']));
        }
        match self.below(8) {
            0 if depth < MAX_DEPTH => field.replace('E', "") + "{" + &self.conditional(depth) + "}",
            0 | 1 => field + "u",
            2 => field + "n",
            3 => field + "d",
            4 => field + self.pick(&["%", "{user}", "{username}", "{domain}"]),
            _ => field + "{" + &self.variable(depth) + "}",
        }
    }

    fn width(&mut self) -> String {
        match self.below(8) {
            0 => String::new(),
            1 => self.pick(&[16, 20, 32, 33, 64, 100, 256, 300]).to_string(),
            _ => self.below(13).to_string(),
        }
    }

    /// What stands between braces.
    fn variable(&mut self, depth: usize) -> String {
        if depth == MAX_DEPTH || self.one_in(3) {
            return self.pick(&["user", "username", "domain"]).to_owned();
        }
        let mut variable = self.pick(&["md5", "sha1", "sha256", "sha512"]).to_owned();
        if !self.one_in(3) {
            let arguments: Vec<String> = (0..=self.below(3)).map(|_| self.argument()).collect();
            variable += ";";
            variable += &arguments.join(",");
        }
        variable + ":" + &self.variable(depth + 1)
    }

    fn conditional(&mut self, depth: usize) -> String {
        let operators = ["eq", "ne", "lt", "le", "gt", "ge", "*", "!*"];
        let mut conditional = format!("if;{};{}", self.operand(depth), self.pick(&operators));
        for _ in 0..self.pick(&[2, 3, 3]) {
            conditional += ";";
            conditional += &self.operand(depth);
        }
        conditional
    }

    fn operand(&mut self, depth: usize) -> String {
        match self.below(4) {
            0 => self.text("ab@.*?-+,=é'\" #$", 5),
            1 => self.pick(&["*@*", "*a*", "?*", "m", "%", "%%", "*%d"]).to_owned(),
            _ => self.field(depth + 1),
        }
    }

    fn argument(&mut self) -> String {
        match self.below(9) {
            0..3 => format!("rounds={}", 1 + self.below(5)),
            3..5 => format!("truncate={}", self.below(600)),
            // Neither a comma nor a colon can be in a salt, so no hash function.
            5 => format!("salt={}", self.text("abc=; .@'\"", 8)),
            6 => format!("salt={}", self.field(MAX_DEPTH)),
            7 => format!(
                "salt=%{}",
                self.pick(&["", "%", "5", "u", "Ln", "{domain}", "-2.3Ud", "3M{user}"])
            ),
            _ => self.pick(&["", "rounds", "truncate", "x"]).to_owned(),
        }
    }

    /// Without braces, since Dovecot reads past the end of a format whose braces
    /// do not match; and too short for a padding that only it takes.
    fn garbage(&mut self) -> String {
        let mut garbage = self.text("%%%%0123456789.-LUEXRHNMDTunds x", 6);
        garbage.insert(self.pick(&[0, garbage.len()]), '%');
        garbage
    }
}

/// Of hash functions within hash functions.
const MAX_DEPTH: usize = 3;

const LONGEST_TAG: &str = "10.0.0.1";
