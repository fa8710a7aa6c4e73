//! Any bytes are a Director's answers or an error, and answers read the same again.
#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use mailaffinity::mapping::ring_label;
use mailaffinity_cli::director::{Lookup, Snapshot, lookup_line};

fuzz_target!(|answers: &[u8]| {
    let _ = Lookup::parse(answers);
    // A question is one line, whatever the name has in it.
    if let Some(line) = lookup_line(answers, "") {
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
    }
    let Ok(snapshot) = Snapshot::read(answers) else {
        return;
    };
    let again = text(&snapshot);
    assert_eq!(Snapshot::read(again.as_bytes()).unwrap(), snapshot);
    for host in &snapshot.hosts {
        for (hash, address) in snapshot.users_in_force(&host.tag, Timestamp::UNIX_EPOCH) {
            assert!(
                snapshot
                    .users
                    .iter()
                    .any(|user| (user.username_hash, user.address) == (hash, address))
            );
        }
    }
});

/// The snapshot as a Director says it.
fn text(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for host in &snapshot.hosts {
        let mut tag = host.tag.replace('\x01', "\x011");
        for (from, to) in [("\0", "\x010"), ("\t", "\x01t"), ("\n", "\x01n"), ("\r", "\x01r")] {
            tag = tag.replace(from, to);
        }
        text += &format!(
            "{}\t{}\t0\t{tag}\t{}\t{}\n",
            ring_label(host.address),
            host.vhost_count,
            if host.up { 'U' } else { 'D' },
            host.changed.map_or(0, Timestamp::as_second),
        );
    }
    text += "\n";
    for user in &snapshot.users {
        text += &format!(
            "{}\t{}\t{}\n",
            user.username_hash,
            user.expires.as_second(),
            ring_label(user.address)
        );
    }
    text + "\n"
}
