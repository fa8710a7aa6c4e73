//! What a lookup in published answers takes beside one in the access map that they are of, in
//! turns in one run: medians in nanoseconds, and their ratio.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mailaffinity::access_map::{AccessMap, Published, cdb};

const USERS: usize = 100_000;
const LOOKUPS: usize = 20_000;
const ROUNDS: usize = 15;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access");
    let mut makemap = Command::new("/usr/sbin/makemap")
        .args(["-c", "67108864", "hash"])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("makemap");
    let mut source = BufWriter::new(makemap.stdin.take().expect("a pipe"));
    let answers = folder.path().join("answers.cdb");
    let file = BufWriter::new(File::create(&answers).expect("a file"));
    let mut writer = cdb::Writer::new(file).expect("a file");
    for user in 0..USERS {
        let (key, group) = (format!("qgrp:user{user}@"), format!("node{}group", user % 3 + 1));
        writeln!(source, "{key}\t{group}").expect("makemap reads");
        writer.add(key.as_bytes(), group.as_bytes()).expect("a file");
    }
    writer.finish().expect("a file");
    drop(source);
    assert!(makemap.wait().expect("makemap").success());

    let map = AccessMap::new(&format!("hash:{}", path.display()), Duration::ZERO).expect("a map");
    let published = Published::new(answers);
    for (what, domain, is_known) in [
        ("user", "", true),
        ("user@example.org", "@example.org", true),
        ("somebody else", "-@mail.example.org", false),
    ] {
        let time = |has_entry: &dyn Fn(&[u8]) -> bool| {
            let begun = Instant::now();
            for number in 0..LOOKUPS {
                let user = format!("user{}{domain}", number * 7919 % USERS);
                assert_eq!(black_box(has_entry(user.as_bytes())), is_known);
            }
            begun.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64
        };
        let rounds: [[f64; 2]; ROUNDS] = std::array::from_fn(|_| {
            [
                time(&|user| map.queue_group(user).expect("an answer").is_some()),
                time(&|user| published.queue_group(user).expect("an answer").is_some()),
            ]
        });
        let [of_map, of_published] = [0, 1].map(|which| {
            let mut times = rounds.map(|round| round[which]);
            times.sort_unstable_by(f64::total_cmp);
            times[ROUNDS / 2]
        });
        let ratio = of_published / of_map;
        println!("{what:18} access map {of_map:6.0} ns   published {of_published:6.0} ns   {ratio:.2}");
    }
}
