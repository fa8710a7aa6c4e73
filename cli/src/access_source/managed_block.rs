//! The administrator's access source, and the block in it that mailaffinity manages.
//!
//! ```text
//! QGRP:postmaster@         node1group          by hand: it wins over the block
//! # BEGIN mailaffinity: "mailaffinity update" writes this block anew; edit outside of it
//! QGRP:anna@               node1group
//! QGRP:dieter@             node2group
//! # other names that sendmail asks for: aliases, and addresses without their domain
//! QGRP:info@               node1group
//! mailaffinity:source      3c0a5f…             what this file and a map built of it are known by
//! # END mailaffinity
//! Connect:192.0.2          RELAY
//! ```
//!
//! All bytes outside the block stay as they are. The digest tells, from a map alone,
//! whether it was built of the source as it is: by whom, when and with what clock does
//! not matter.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ops::Range;

use md5::{Digest as _, Md5};

use mailaffinity::access_map::Entry;
use mailaffinity::access_map::key;
use mailaffinity::access_map::text::{Line, lines};

const BEGIN: &[u8] = b"# BEGIN mailaffinity";
const END: &[u8] = b"# END mailaffinity";
const HEADING: &[u8] =
    b"# BEGIN mailaffinity: \"mailaffinity update\" writes this block anew; edit outside of it\n";
/// What stands before the entries that are no user's own.
const OTHER_NAMES: &[u8] =
    b"# other names that sendmail asks for: aliases, and addresses without their domain\n";
const FOOTING: &[u8] = b"# END mailaffinity\n";
/// The key under which a map has the digest of its source.
pub const DIGEST_KEY: &[u8] = b"mailaffinity:source";

/// An access source, in which it is known what is the administrator's and what is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessSource {
    text: Vec<u8>,
    block: Range<usize>,
    /// Where in the block the users' entries end.
    users_end: usize,
    digest: Option<String>,
}

/// A `QGRP:` entry that the administrator wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByHand<'t> {
    /// Its line in the source, from 1.
    pub line: u64,
    /// The entry as it stands there, its key without the tag.
    pub entry: Entry<&'t [u8]>,
}

/// A line of the administrator's that does not count, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// A source whose block cannot be told from the rest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}: {problem} (the block goes from \"# BEGIN mailaffinity\" to \"# END mailaffinity\"; a comment of yours \
     must not begin so)"
)]
pub struct BlockError {
    line: usize,
    problem: &'static str,
}

impl AccessSource {
    /// Finds the block; without one, it will be at the end.
    ///
    /// # Errors
    /// When there is more than one, or a half of one.
    pub fn parse(text: Vec<u8>) -> Result<AccessSource, BlockError> {
        let (block, users_end) = find_block(&text)?;
        let mut source = AccessSource {
            text,
            block,
            users_end,
            digest: None,
        };
        source.digest = source.intact_digest();
        Ok(source)
    }

    /// All of it.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The digest in the block, if it is that of the source as it is.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    fn intact_digest(&self) -> Option<String> {
        let [before, block, after] = self.parts();
        let block = block.strip_suffix(FOOTING)?.strip_suffix(b"\n")?;
        let last_line = block.iter().rposition(|byte| *byte == b'\n')?.checked_add(1)?;
        let (rest, written) = block.split_at_checked(last_line)?;
        let written = written.strip_prefix(DIGEST_KEY)?.strip_prefix(b"\t")?;
        let digest = digest(&[before, rest, FOOTING, after]);
        (written == digest.as_bytes()).then_some(digest)
    }

    /// What stands before the block, the block, and what stands after it.
    fn parts(&self) -> [&[u8]; 3] {
        let Range { start, end } = self.block;
        [0..start, start..end, end..self.text.len()].map(|part| self.text.get(part).unwrap_or_default())
    }

    /// The entries of users that the block has, in order of their keys, which have no tag
    /// here.
    pub fn entries(&self) -> Box<dyn Iterator<Item = Entry<&[u8]>> + '_> {
        self.entries_in(self.block.start..self.users_end)
    }

    /// Those of the other names that sendmail asks for, likewise.
    pub fn other_names(&self) -> Box<dyn Iterator<Item = Entry<&[u8]>> + '_> {
        self.entries_in(self.users_end..self.block.end)
    }

    fn entries_in(&self, part: Range<usize>) -> Box<dyn Iterator<Item = Entry<&[u8]>> + '_> {
        let part = self.text.get(part).unwrap_or_default();
        let entries = lines(part).filter_map(|(_, _, line)| queue_group(line));
        if self.digest.is_some() {
            // Nobody has touched them since they were written, in order.
            return Box::new(entries);
        }
        Box::new(sorted(entries, |entry| entry.key).into_iter())
    }

    /// The `QGRP:` entries that the administrator wrote, in order of their keys.
    pub fn by_hand(&self) -> Vec<ByHand<'_>> {
        let entries = self
            .outside()
            .filter_map(|(line, _, entry)| queue_group(entry).map(|entry| ByHand { line, entry }));
        sorted(entries, |own| own.entry.key)
    }

    /// All `QGRP:` entries of a map that is built of this, with keys without the tag, and not
    /// folded.
    pub fn queue_groups(&self) -> impl Iterator<Item = Entry<&[u8]>> {
        let by_hand = self.by_hand().into_iter().map(|own| own.entry);
        by_hand.chain(self.entries()).chain(self.other_names())
    }

    /// The source with these entries of users and of other names in its block, which must
    /// have distinct keys without a tag. All else stays as it is; only a last line without
    /// a newline gets one, where the block comes after it.
    #[must_use]
    pub fn with_entries<'e>(
        &self,
        users: impl IntoIterator<Item = Entry<&'e [u8]>>,
        other_names: impl IntoIterator<Item = Entry<&'e [u8]>>,
    ) -> AccessSource {
        let [before, _, after] = self.parts();
        let mut text = Vec::with_capacity(self.text.len().saturating_add(256));
        text.extend_from_slice(before);
        if before.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        let start = text.len();
        text.extend_from_slice(HEADING);
        let write = |text: &mut Vec<u8>, Entry { key, value }: Entry<&[u8]>| {
            for part in [key::WRITTEN_TAG, key, b"\t", value, b"\n"] {
                text.extend_from_slice(part);
            }
        };
        users.into_iter().for_each(|entry| write(&mut text, entry));
        let after_users = text.len();
        let mut other_names = other_names.into_iter().peekable();
        let has_other_names = other_names.peek().is_some();
        if has_other_names {
            text.extend_from_slice(OTHER_NAMES);
        }
        other_names.for_each(|entry| write(&mut text, entry));
        let digest = digest(&[&text, FOOTING, after]);
        for part in [DIGEST_KEY, b"\t", digest.as_bytes(), b"\n", FOOTING] {
            text.extend_from_slice(part);
        }
        let end = text.len();
        text.extend_from_slice(after);
        AccessSource {
            text,
            block: start..end,
            users_end: if has_other_names { after_users } else { end },
            digest: Some(digest),
        }
    }

    /// The parts of the text that makemap is to read, so that it has nothing to complain
    /// about, and the administrator's lines that are not in them.
    ///
    /// The block is the last of them, so that a map with the digest has all the rest. One
    /// that does not end in a newline is to get one.
    pub fn for_makemap(&self) -> (Vec<Range<usize>>, Vec<Complaint>) {
        let Range { start, end } = self.block;
        let mut parts: Vec<Range<usize>> = Vec::new();
        let mut complaints = Vec::new();
        let mut keys: HashMap<Vec<u8>, u64> = HashMap::new();
        let mut position = 0usize;
        for (number, piece, line) in self.outside() {
            if position == start {
                position = end;
            }
            let next = position.saturating_add(piece.len());
            // The last line ends at a NUL where it has no newline.
            let nul = piece.iter().position(|byte| *byte == 0);
            let until = nul.map_or(next, |nul| position.saturating_add(nul));
            let problem = match line {
                Line::Nothing => None,
                Line::LeftOut(why) => Some(why.into()),
                Line::Entry(entry) => match keys.entry(entry.key.to_ascii_lowercase()) {
                    Slot::Occupied(first) => {
                        Some(format!("the key of line {} again, which counts", first.get()))
                    }
                    Slot::Vacant(slot) if slot.key() == DIGEST_KEY => {
                        Some("this key is mailaffinity's".into())
                    }
                    Slot::Vacant(slot) => {
                        slot.insert(number);
                        None
                    }
                },
            };
            match (problem, parts.last_mut()) {
                (Some(problem), _) => complaints.push(Complaint {
                    line: number,
                    problem,
                }),
                (None, Some(last)) if last.end == position => last.end = until,
                (None, _) => parts.push(position..until),
            }
            position = next;
        }
        parts.push(start..end);
        (parts, complaints)
    }

    /// The administrator's lines.
    fn outside(&self) -> impl Iterator<Item = (u64, &[u8], Line<'_>)> {
        let [before, block, after] = self.parts();
        let newlines = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count() as u64;
        let lines_before = match after {
            [] => 0,
            _ => newlines(before).saturating_add(newlines(block)),
        };
        let after =
            lines(after).map(move |(number, piece, line)| (number.saturating_add(lines_before), piece, line));
        // What stands before the block gets a newline, and is what it then is.
        let before = lines(before).map(|(number, piece, line)| match line {
            Line::Entry(_) if piece.contains(&0) => (number, piece, Line::LeftOut("it has a NUL byte")),
            line => (number, piece, line),
        });
        before.chain(after)
    }
}

/// Where the block is in a text, and where in it the users' entries end.
fn find_block(text: &[u8]) -> Result<(Range<usize>, usize), BlockError> {
    let fault = |line, problem| Err(BlockError { line, problem });
    let mut begin = None;
    let mut end = None;
    let mut foreign = None;
    let mut users_end = None;
    let mut position = 0usize;
    for (number, line) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
        let next = position.saturating_add(line.len());
        if is_marker(line, BEGIN) {
            if begin.is_some() {
                return fault(
                    number,
                    "a second block begins; remove one of the two, or this line",
                );
            }
            begin = Some((number, position));
        } else if is_marker(line, END) {
            match (begin, end) {
                (None, _) => {
                    let problem = "a block ends that did not begin; write where it begins, or remove this line and the block";
                    return fault(number, problem);
                }
                (Some(_), Some(_)) => {
                    return fault(
                        number,
                        "the block ends a second time; remove one of the two lines",
                    );
                }
                (Some(_), None) => end = Some(next),
            }
        } else if begin.is_some() && end.is_none() {
            if line == OTHER_NAMES {
                users_end = users_end.or(Some(position));
            } else if !is_ours(line) {
                foreign = foreign.or(Some(number));
            }
        }
        position = next;
    }
    match (begin, end, foreign) {
        (Some(_), Some(_), Some(line)) => fault(
            line,
            "this line in the block is not mailaffinity's, which would remove it; move it out",
        ),
        (Some((_, begin)), Some(end), None) => Ok((begin..end, users_end.unwrap_or(end))),
        (Some((line, _)), None, _) => fault(
            line,
            "the block does not end; write where it ends, or remove this line and the block",
        ),
        (None, ..) => Ok((text.len()..text.len(), text.len())),
    }
}

/// MD5 of all the parts together, in hexadecimal digits.
pub fn digest(parts: &[&[u8]]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A marker is a line of its own, whatever follows it there after another character
/// than one of a word.
fn is_marker(line: &[u8], marker: &[u8]) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| !rest.first().is_some_and(u8::is_ascii_alphanumeric))
}

/// Whether a line is one that the block may have, or nothing.
fn is_ours(line: &[u8]) -> bool {
    key::untagged(line).is_some() || line.starts_with(DIGEST_KEY) || line.trim_ascii().is_empty()
}

/// In order of their keys. Of several with one key the first counts, as for makemap.
fn sorted<T>(entries: impl Iterator<Item = T>, key: impl Fn(&T) -> &[u8]) -> Vec<T> {
    let mut entries: Vec<T> = entries.collect();
    entries.sort_by(|a, b| key::compare(key(a), key(b)));
    entries.dedup_by(|later, first| key(later).eq_ignore_ascii_case(key(first)));
    entries
}

/// The entry of a line, its key without the tag, if it is one of a queue group.
fn queue_group(line: Line<'_>) -> Option<Entry<&[u8]>> {
    match line {
        Line::Entry(Entry { key, value }) => key::untagged(key).map(|key| Entry { key, value }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailaffinity::access_map::text::lookup;
    use proptest::prelude::*;

    type Bytes = &'static [u8];

    fn entry(key: &'static str, queue_group: &'static str) -> Entry<Bytes> {
        Entry {
            key: key.as_bytes(),
            value: queue_group.as_bytes(),
        }
    }

    fn parse(text: impl AsRef<[u8]>) -> AccessSource {
        AccessSource::parse(text.as_ref().to_vec()).unwrap()
    }

    fn rewrite(text: &str, entries: &[Entry<Bytes>]) -> String {
        String::from_utf8(parse(text).with_entries(entries.iter().copied(), []).text).unwrap()
    }

    /// What makemap reads.
    fn for_makemap(source: &AccessSource) -> (Vec<u8>, Vec<Complaint>) {
        let (parts, complaints) = source.for_makemap();
        let parts = parts.into_iter().map(|part| match &source.text[part] {
            part if part.ends_with(b"\n") => part.to_vec(),
            part => [part, b"\n"].concat(),
        });
        (parts.flatten().collect(), complaints)
    }

    #[test]
    fn the_block_is_the_last_that_makemap_reads() {
        for after in ["Connect:9 RELAY", "Connect:9 RELAY\n", "# why", "a b\0c"] {
            let text = rewrite("x 1\n", &[entry("anna@", "node1group")]) + after;
            let source = parse(text).with_entries([entry("anna@", "node2group")], []);
            let (input, _) = for_makemap(&source);
            let digest = format!("\n{}\t{}\n", DIGEST_KEY.escape_ascii(), source.digest().unwrap());
            let input = String::from_utf8(input).unwrap();
            assert!(input.ends_with(&(digest + "# END mailaffinity\n")), "{input}");
            assert!(!input.contains('\0'), "{input}");
        }
    }

    #[test]
    fn a_nul_is_told_wherever_it_is() {
        let source = parse("# caf\0e\nConnect:9 RELAY\nQGRP:anna@ g9\0x");
        assert_eq!(source.by_hand(), [], "with a newline it is no entry");
        let (input, complaints) = for_makemap(&source.with_entries([entry("anna@", "node1group")], []));
        assert!(!input.contains(&0), "{}", input.escape_ascii());
        let lines: Vec<u64> = complaints.iter().map(|complaint| complaint.line).collect();
        assert_eq!(lines, [1, 3]);
    }

    #[test]
    fn a_line_that_crosses_the_edge_of_the_block_shows() {
        let text = rewrite("", &[entry("anna@", "node1group")]) + "QGRP:aab@\tg9\n";
        let text = rewrite(&text, &[entry("anna@", "node1group")]);
        assert!(parse(&text).digest().is_some());
        let moved = text.replace("QGRP:aab@\tg9\n", "");
        let moved = moved.replace("mailaffinity:source", "QGRP:aab@\tg9\nmailaffinity:source");
        assert_eq!(parse(moved).digest(), None);
    }

    #[test]
    fn the_block_is_added_and_replaced() {
        let anna = entry("anna@", "node1group");
        let bert = entry("bert@", "node2group");
        let text = rewrite("# mine\nconnect:1 RELAY", &[anna]);
        assert!(
            text.starts_with("# mine\nconnect:1 RELAY\n# BEGIN mailaffinity: "),
            "{text}"
        );
        assert!(
            text.contains(" of it\nQGRP:anna@\tnode1group\nmailaffinity:source\t"),
            "{text}"
        );
        assert!(text.ends_with("\n# END mailaffinity\n"), "{text}");
        let text = text + "after";
        assert!(parse(&text).entries().eq([anna]));
        let touched = parse(text.replace("QGRP:anna", "QGRP:x@ g\nqgrp:Anna@ node1group\nQGRP:anna"));
        let by_key = ["Anna@", "x@"].map(str::as_bytes);
        assert!(touched.entries().map(|entry| entry.key).eq(by_key));
        let both = rewrite(&text, &[anna, bert]);
        assert!(both.ends_with("# END mailaffinity\nafter"), "{both}");
        assert_eq!(rewrite(&both, &[bert]).matches("node1group").count(), 0);
    }

    #[test]
    fn the_digest_is_that_of_the_whole_source() {
        let digest = |text: &str, entries: &[Entry<Bytes>]| {
            let source = parse(text).with_entries(entries.iter().copied(), []);
            source.digest.unwrap()
        };
        let anna = [entry("anna@", "node1group")];
        let text = rewrite("a b\n", &anna);
        assert_eq!(
            digest(&text, &anna),
            digest("a b\n", &anna),
            "a new block or the same"
        );
        assert!(text.contains(&digest(&text, &anna)));
        let in_block = |text: &str| parse(text).digest;
        assert_eq!(in_block(&text), Some(digest(&text, &anna)));
        assert_eq!(in_block(&text.replace("a b", "a c")), None);
        assert_eq!(in_block(&text.replace("node1group", "node2group")), None);
        assert_eq!(in_block("a b\n# BEGIN mailaffinity\n# END mailaffinity\n"), None);
        assert_ne!(digest(&text, &anna), digest(&text, &[]));
        assert_ne!(digest(&text, &anna), digest(&text.replace("a b", "a c"), &anna));
        assert_ne!(digest(&text, &anna), digest(&(text.clone() + "#"), &anna));
    }

    #[test]
    fn broken_blocks_are_refused() {
        for (text, message) in [
            ("a\n# BEGIN mailaffinity\nb", "line 2: the block does not end"),
            ("# END mailaffinity\n", "line 1: a block ends that did not begin"),
            (
                "# BEGIN mailaffinity\n# BEGIN mailaffinity: x\n",
                "line 2: a second block begins",
            ),
            (
                "# BEGIN mailaffinity\nQGRP:a@ g\n\nConnect:1 REJECT\n# END mailaffinity\n",
                "line 4: this line in the block is not mailaffinity's",
            ),
            (
                "# BEGIN mailaffinity\n# END mailaffinity\n# END mailaffinity",
                "line 3: the block ends a second time",
            ),
            (
                "# BEGIN mailaffinity\n# END mailaffinity\n# BEGIN mailaffinity\n# END mailaffinity",
                "line 3: a second block begins",
            ),
        ] {
            let error = AccessSource::parse(text.into()).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let other = parse("# BEGIN mailaffinity2\n # END mailaffinity\n#END mailaffinity\n");
        assert!(other.block.is_empty());
    }

    #[test]
    fn a_block_with_carriage_returns_is_found() {
        let text = b"x 1\r\n# BEGIN mailaffinity\r\nQGRP:a@ g\r\n# END mailaffinity\r\ny 2\r\n";
        let source = parse(text);
        let [before, _, after] = source.parts();
        assert_eq!((before, after), (&b"x 1\r\n"[..], &b"y 2\r\n"[..]));
    }

    #[test]
    fn entries_by_hand() {
        let text = "QGRP:Anna@ g1\n# BEGIN mailaffinity\nQGRP:b@ g\n# END mailaffinity\n\nqgrp:c@ g2\nqgrp:anna@ g3\n";
        let expected = |line, key, queue_group| ByHand {
            line,
            entry: entry(key, queue_group),
        };
        assert_eq!(
            parse(text).by_hand(),
            [expected(1, "Anna@", "g1"), expected(6, "c@", "g2")]
        );
    }

    #[test]
    fn makemap_gets_nothing_to_complain_about() {
        let text = "A 1\n# c\na 2\n broken\n# BEGIN mailaffinity\nQGRP:old@ g\n# END mailaffinity\nmailaffinity:source x\nB  2 # c \r\nb 3\nq";
        let source = parse(text).with_entries([entry("anna@", "g1")], []);
        let (input, complaints) = for_makemap(&source);
        let [_, block, _] = source.parts();
        let block = str::from_utf8(block).unwrap();
        assert_eq!(
            String::from_utf8(input).unwrap(),
            format!("A 1\n# c\nB  2 # c \r\n{block}")
        );
        let complaints: Vec<_> = complaints.iter().map(|c| (c.line, c.problem.as_str())).collect();
        assert_eq!(
            complaints,
            [
                (3, "the key of line 1 again, which counts"),
                (4, "it starts with a blank"),
                (9, "this key is mailaffinity's"),
                (11, "the key of line 10 again, which counts"),
                (12, "it has a key but no value"),
            ]
        );
    }

    /// Texts as administrators and their editors leave them.
    fn access_text() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            4 => "[ -~]{0,30}".prop_map(String::into_bytes),
            2 => "(Connect|From|To|QGRP):[a-c]{1,3}@?[ \t]{1,3}[a-zA-Z0-9: ]{0,12}".prop_map(String::into_bytes),
            1 => "#[ -~]{0,20}".prop_map(String::into_bytes),
            1 => "# (BEGIN|END) mailaffinit[a-y]".prop_map(String::into_bytes),
            1 => "[ \t]+[a-z]+ [a-z]*\\\\?".prop_map(String::into_bytes),
            2 => prop::collection::vec(any::<u8>(), 0..20),
            1 => prop::collection::vec(prop::num::u8::ANY, 1000..1100),
        ];
        let end = prop_oneof![5 => Just("\n"), 2 => Just("\r\n"), 1 => Just("")];
        prop::collection::vec((line, end), 0..12).prop_map(|lines| {
            lines
                .into_iter()
                .flat_map(|(line, end)| [line, end.as_bytes().to_vec()].concat())
                .collect()
        })
    }

    fn entries() -> impl Strategy<Value = Vec<(String, Bytes)>> {
        let group = prop_oneof![Just(&b"node1group"[..]), Just(&b"g2"[..])];
        prop::collection::btree_map("[a-z0-9.]{1,8}@", group, 0..6)
            .prop_map(|entries| entries.into_iter().collect())
    }

    fn borrowed(entries: &[(String, Bytes)]) -> Vec<Entry<&[u8]>> {
        let entries = entries.iter();
        entries
            .map(|(key, value)| Entry {
                key: key.as_bytes(),
                value,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_byte_outside_the_block_stays(
            before in access_text(), after in access_text(), first in entries(), second in entries(),
        ) {
            // Random lines may contain a marker of their own.
            prop_assume!(AccessSource::parse(before.clone()).is_ok_and(|source| source.block.is_empty()));
            let (first, second) = (borrowed(&first), borrowed(&second));
            let added = parse(&before).with_entries(first, []);
            let newline: &[u8] = if before.is_empty() || before.ends_with(b"\n") { b"" } else { b"\n" };
            let kept = [&before[..], newline].concat();
            prop_assert!(added.text.starts_with(&kept));

            let edited = [&added.text[..], &after].concat();
            let Ok(source) = AccessSource::parse(edited) else { return Ok(()) };
            let outside = [&kept[..], &after];
            let [before, _, after] = source.parts();
            prop_assert_eq!([before, after], outside);
            let replaced = source.with_entries(second.iter().copied(), []);
            let again = parse(&replaced.text);
            prop_assert_eq!(&again, &replaced);
            let [before, _, after] = again.parts();
            prop_assert_eq!([before, after], outside);
            prop_assert!(again.entries().eq(second.iter().copied()));
            // What changes nothing changes nothing.
            prop_assert_eq!(&again.with_entries(second, []), &replaced);
        }

        #[test]
        fn makemap_gets_the_meaning_of_the_source(before in access_text(), entries in entries()) {
            let Ok(source) = AccessSource::parse(before) else { return Ok(()) };
            let by_hand = source.by_hand();
            let mut entries = borrowed(&entries);
            entries.retain(|entry| !by_hand.iter().any(|own| own.entry.key.eq_ignore_ascii_case(entry.key)));
            let rewritten = source.with_entries(entries, []);
            let (input, _) = for_makemap(&rewritten);
            for (_, _, line) in lines(&rewritten.text) {
                let Line::Entry(Entry { key, .. }) = line else { continue };
                let key = key.to_ascii_lowercase();
                let of = |text: &[u8]| lookup(text, std::slice::from_ref(&key)).unwrap().map(|(_, value)| value);
                if key == DIGEST_KEY {
                    prop_assert_eq!(of(&input), rewritten.digest().map(|digest| digest.as_bytes().to_vec()));
                } else {
                    prop_assert_eq!(of(&input), of(&rewritten.text), "{}", key.escape_ascii());
                }
            }
            let mut seen = std::collections::HashSet::new();
            for (number, _, line) in lines(&input) {
                match line {
                    Line::Nothing => {}
                    Line::LeftOut(why) => prop_assert!(false, "line {}: {}", number, why),
                    Line::Entry(entry) => {
                        prop_assert!(seen.insert(entry.key.to_ascii_lowercase()), "line {} again", number);
                    }
                }
            }
        }
    }
}
