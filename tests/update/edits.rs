//! Edits of the access source while it is updated.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mailaffinity::access_map::SETTLE;

use crate::site::{ADMINISTRATORS, Site, outside, script};

/// A site whose users and map are made by scripts that run the script `edit` first: in
/// the middle of an update, when the source has been read.
fn site_with_edits() -> Site {
    let site = Site::hash();
    let edit = site.path("edit");
    let (makemap, list) = (site.path("makemap"), site.path("list"));
    let real = support::sendmail::program(&["makemap"], "sendmail-bin");
    script(&edit, "");
    script(
        &makemap,
        &format!("{edit:?} makemap </dev/null || exit\nexec {real:?} \"$@\""),
    );
    script(
        &list,
        &format!("{edit:?} list || exit\ncat {:?}", site.path("users")),
    );
    site.configure(
        site.configuration()
            .set_path("access_map.makemap", makemap)
            .users_of([list.to_str().unwrap()]),
    );
    site
}

/// Edits as administrators, their editors and scripts make them; `$1` is the file.
const WAYS: [(&str, &str); 5] = [
    ("append", "echo \"edit:$n OK\" >>$1"),
    ("rename", "{ echo \"edit:$n OK\"; cat $1; } >$1.new; mv $1.new $1"),
    (
        "in place",
        "text=$(cat $1; echo x); printf 'edit:%s OK\\n%s' $n \"${text%x}\" >$1",
    ),
    ("sed -i", "sed -i \"1iedit:$n OK\" $1"),
    (
        "the old time",
        "touch -r $1 $1.time; sed -i \"1s/.*/edit:$n OK/\" $1; touch -r $1.time $1; rm $1.time",
    ),
];

#[test]
fn in_its_middle_are_kept() {
    let site = site_with_edits();
    let (access, count) = (site.path("etc/access"), site.path("count"));
    let mut n = 0;
    for (way, edit) in WAYS {
        for when in ["list", "makemap"] {
            n += 1;
            // Once.
            script(
                &site.path("edit"),
                &format!(
                    "[ $1 = {when} ] || exit 0\n[ -e {count:?}.{n} ] && exit 0\n>{count:?}.{n}\nset -- {access:?}\nn={n}\n{edit}"
                ),
            );
            let node = ["down", "auto"][n % 2];
            site.well(&[node, "node2"]);
            site.update();
            let source = site.source();
            let text = String::from_utf8_lossy(&source);
            assert!(
                text.contains(&format!("edit:{n} OK\n")),
                "{way} in {when}: {text:.300}"
            );
            assert_eq!(
                site.entries()[format!("edit:{n}").as_bytes()],
                b"OK",
                "{way} in {when}: in the map at once"
            );
            assert_eq!(site.well(&["diff"]), b"");
            site.assert_tidy();
        }
    }
}

/// An administrator's makemap has emptied the map, and writes it until after the update.
#[test]
fn a_makemap_beside_it_does_no_harm() {
    let site = site_with_edits();
    site.configure(site.configuration().set("access_map.busy_timeout_ms", 100));
    site.update();
    let source = [b"Connect:9 RELAY\n", &*site.source()].concat();
    site.write("etc/access", &source);
    let mut makemap = support::maps::makemap();
    let mut makemap = makemap
        .arg("hash")
        .arg(site.path("etc/access"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let map = site.path("etc/access.db");
    let is_emptied = || std::fs::metadata(&map).unwrap().len() < 16_384;
    support::sendmail::wait_for("makemap to begin", is_emptied);
    site.update();
    let mut input = makemap.stdin.take().unwrap();
    input.write_all(&source).unwrap();
    drop(input);
    assert!(makemap.wait().unwrap().success());
    assert_eq!(site.entries()[&b"connect:9"[..]], b"RELAY");
    assert_eq!(site.entries().len(), 500 + 1 + 2 + 1);
    assert_eq!(site.well(&["diff"]), b"");
}

#[test]
fn without_end_stop_it() {
    let site = site_with_edits();
    let access = site.path("etc/access");
    site.update();
    let map = site.files("etc").remove(&site.path("etc/access.db"));
    site.well(&["down", "node2"]);
    script(
        &site.path("edit"),
        &format!("[ $1 = list ] || echo '# edit' >>{access:?}"),
    );
    let output = site.run(&["update"]);
    let message = format!(
        "{} was changed by somebody else meanwhile (the next update tries again; if that goes on, let whoever writes it \
         leave it alone for some seconds); the access map stays as it is",
        access.display()
    );
    crate::site::assert_fails(&output, 75, &message);
    assert_eq!(site.files("etc").remove(&site.path("etc/access.db")), map);
    let source = site.source();
    let (before, after) = outside(&source);
    assert_eq!(before, ADMINISTRATORS);
    assert_eq!(after, b"# edit\n".repeat(5), "it tried five times");
    site.assert_tidy();
    script(&site.path("edit"), "");
    site.update();
    site.assert_agrees();
}

/// Whoever writes in place, piece by piece, keeps all pieces.
#[test]
fn that_are_half_written_are_waited_for() {
    const PIECES: u64 = 12;
    // One who pauses for longer than SETTLE cannot be told from one who has finished,
    // and on a busy machine anybody may: such a run proves nothing.
    for attempt in 0..20 {
        let site = Site::hash();
        site.update();
        site.well(&["down", "node2"]);
        let path = site.path("etc/access");
        let mut longest = Duration::ZERO;
        thread::scope(|scope| {
            let mut before = Instant::now();
            let mut file = File::create(&path).unwrap();
            let update = scope.spawn(|| site.run(&["update"]));
            for piece in 0..PIECES {
                // Time for many updates.
                thread::sleep(SETTLE / 3);
                let now = Instant::now();
                writeln!(file, "piece:{piece} OK").unwrap();
                longest = longest.max(before.elapsed());
                before = now;
            }
            drop(file);
            let output = update.join().unwrap();
            // Or it gave up, as it should.
            assert!(matches!(output.status.code(), Some(0 | 75)), "{output:?}");
        });
        site.update();
        let pieces: String = (0..PIECES).map(|piece| format!("piece:{piece} OK\n")).collect();
        if longest < SETTLE {
            assert_eq!(String::from_utf8_lossy(outside(&site.source()).0), pieces);
            assert_eq!(site.entries()[&b"piece:11"[..]], b"OK");
            return;
        }
        println!("attempt {attempt}: a pause of {longest:?}");
    }
    panic!("this machine is too busy for this test");
}

/// Appends a line, and again if an update that was at work did not see it. Returns how
/// often it was appended.
fn append(site: &Site, line: &str) -> u64 {
    let lock = File::open(site.path("etc/.access.lock")).unwrap();
    for attempt in 1.. {
        let mut file = OpenOptions::new()
            .append(true)
            .open(site.path("etc/access"))
            .unwrap();
        file.write_all(line.as_bytes()).unwrap();
        drop(file);
        // Updates that begin from here on read the line.
        lock.lock().unwrap();
        let source = site.source();
        lock.unlock().unwrap();
        if String::from_utf8_lossy(&source).contains(line) {
            return attempt;
        }
    }
    unreachable!()
}

/// Between the last look at the source and the rename, an edit can be lost, as with
/// everybody who replaces files. Whoever looks again when the update has ended finds it
/// out; nothing is lost at any other time.
#[test]
fn at_any_time_are_kept_or_missed_at_once() {
    let site = Site::hash();
    site.update();
    let over = AtomicBool::new(false);
    let (edits, again) = (AtomicU64::new(0), AtomicU64::new(0));
    let (mut changed, mut stopped) = (0, 0);
    thread::scope(|scope| {
        let editor = scope.spawn(|| {
            for number in 0.. {
                again.fetch_add(
                    append(&site, &format!("edit:{number} OK\n")) - 1,
                    Ordering::SeqCst,
                );
                edits.store(number + 1, Ordering::SeqCst);
                if over.load(Ordering::SeqCst) {
                    break;
                }
                thread::sleep(SETTLE + Duration::from_millis(number % 100));
            }
        });
        let begun = Instant::now();
        for run in 0.. {
            site.well(&[["down", "auto"][run % 2], "node2"]);
            match site.run(&["update"]).status.code() {
                Some(0) => changed += 1,
                Some(75) => stopped += 1,
                other => panic!("{other:?}"),
            }
            if editor.is_finished() || begun.elapsed() > Duration::from_secs(8) {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    println!("{changed} updates, {stopped} stopped; {edits:?} edits, {again:?} of them made again");
    site.update();
    let source = site.source();
    let (before, after) = outside(&source);
    let lines: Vec<&str> = str::from_utf8(after).unwrap().lines().collect();
    let expected: Vec<String> = (0..edits.into_inner())
        .map(|number| format!("edit:{number} OK"))
        .collect();
    assert_eq!(before, ADMINISTRATORS);
    assert_eq!(lines, expected, "each, in order");
    assert_eq!(site.entries()[&b"edit:0"[..]], b"OK");
}
