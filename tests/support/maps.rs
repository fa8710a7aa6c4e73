//! The programs that make maps, and the places where they put them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::sendmail::{program, run_well};

pub use crate::sendmail::run;

pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// The kind of sendmail's maps in most tests, and the extension of their files. Where the
/// sendmail that is first in `PATH` has no hash maps, `ACCESS_MAP` says it: `cdb.db`.
static KIND: LazyLock<(String, String)> = LazyLock::new(|| {
    let text = std::env::var("ACCESS_MAP").unwrap_or_else(|_| "hash.db".into());
    let (kind, extension) = text
        .split_once('.')
        .expect("ACCESS_MAP is a kind and an extension");
    (kind.to_owned(), extension.to_owned())
});

pub fn kind() -> &'static str {
    &KIND.0
}

/// A map of that kind as a configuration names it: without the extension, if that is usual.
pub fn named(map: impl AsRef<Path>) -> PathBuf {
    match (kind(), &*KIND.1) {
        ("cdb", "db") => file(map),
        _ => map.as_ref().to_owned(),
    }
}

/// Its file.
pub fn file(map: impl AsRef<Path>) -> PathBuf {
    map.as_ref().with_extension(&KIND.1)
}

/// A directory that is removed at the end of the test. It is not in the system's
/// temporary directory, whose maps sendmail calls unsafe.
pub fn directory() -> TempDir {
    TempDir::new_in(crate::built::tmp()).expect("a directory for the test")
}

pub fn makemap() -> Command {
    Command::new(program(&["makemap"], "sendmail-bin"))
}

/// Makes `path`; lines that makemap complains about (status 65) are allowed.
pub fn make_hash(path: &Path, source: &[u8], options: &[&str]) {
    let output = run(makemap().args(options).arg("hash").arg(path), source);
    assert!(matches!(output.status.code(), Some(0 | 65)), "{output:?}");
}

/// The source text of a map.
pub fn source<K: AsRef<[u8]>, V: AsRef<[u8]>>(entries: impl IntoIterator<Item = (K, V)>) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in entries {
        text.extend([key.as_ref(), b"\t", value.as_ref(), b"\n"].concat());
    }
    text
}

/// Loads a Berkeley DB file: the lines of the dump header, such as `type=hash`,
/// then the entries.
pub fn db_load(path: &Path, header: &[&str], options: &[&str], entries: &Entries) {
    let mut dump = format!("VERSION=3\nformat=bytevalue\n{}\nHEADER=END\n", header.join("\n"));
    for bytes in entries.iter().flat_map(|(key, value)| [key, value]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        dump.push_str(&format!(" {hex}\n"));
    }
    dump.push_str("DATA=END\n");
    let program = program(&["db5.3_load", "db_load"], "db5.3-util");
    run_well(Command::new(program).args(options).arg(path), dump.as_bytes());
}

/// The entries of a Berkeley DB file, as Berkeley DB itself reads them.
pub fn db_dump(path: &Path) -> Entries {
    let program = program(&["db5.3_dump", "db_dump"], "db5.3-util");
    let output = run_well(Command::new(program).arg(path), b"");
    let dump = String::from_utf8(output.stdout).expect("a dump is text");
    let lines: Vec<Vec<u8>> = dump
        .lines()
        .skip_while(|line| *line != "HEADER=END")
        .filter_map(|line| line.strip_prefix(' '))
        .map(|hex| {
            let digits: Vec<u8> = hex
                .bytes()
                .map(|digit| (digit as char).to_digit(16).unwrap() as u8)
                .collect();
            digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
        })
        .collect();
    lines
        .chunks(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

/// Makes a cdb file, with duplicates if there are any.
pub fn make_cdb(path: &Path, entries: &Entries) {
    let mut records = Vec::new();
    for (key, value) in entries {
        records.extend(format!("+{},{}:", key.len(), value.len()).into_bytes());
        records.extend([key, b"->".as_slice(), value, b"\n"].concat());
    }
    records.push(b'\n');
    let program = program(&["cdb"], "tinycdb");
    run_well(Command::new(program).arg("-c").arg(path), &records);
}

/// Overwrites a file in place, as scripts do: truncate, then write in pieces.
/// Returns the longest time from before one step to after the next.
pub fn rewrite_in_place(path: &Path, contents: &[u8], piece: usize) -> Duration {
    let (mut before, mut longest) = (Instant::now(), Duration::ZERO);
    let mut file = File::create(path).expect("file truncated");
    for piece in contents.chunks(piece) {
        let now = Instant::now();
        file.write_all(piece).expect("piece written");
        longest = longest.max(before.elapsed());
        before = now;
    }
    longest
}
