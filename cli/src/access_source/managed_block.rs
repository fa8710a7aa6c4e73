//! The administrator's access source, and the block in it that mailaffinity manages.
//!
//! ```text
//! QGRP:postmaster@         node1group          by hand: it wins over the block
//! # BEGIN mailaffinity: "mailaffinity update" writes this block anew; edit outside of it
//! QGRP:anna@               node1group
//! QGRP:dieter@             node2group
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
use std::fmt;

use md5::{Digest as _, Md5};

use mailaffinity::access_map::text::{self, Line};

const BEGIN: &[u8] = b"# BEGIN mailaffinity";
const END: &[u8] = b"# END mailaffinity";
const HEADING: &[u8] =
    b"# BEGIN mailaffinity: \"mailaffinity update\" writes this block anew; edit outside of it\n";
const FOOTING: &[u8] = b"# END mailaffinity\n";
/// The tag of the entries, as it is written and as a map stores it.
const TAG: (&[u8], &[u8]) = (b"QGRP:", b"qgrp:");
/// The key under which a map has the digest of its source.
pub const DIGEST_KEY: &[u8] = b"mailaffinity:source";

/// An access source, cut into what is the administrator's and what is ours.
#[derive(Debug, Clone, Copy)]
pub struct AccessSource<'t> {
    before: &'t [u8],
    block: &'t [u8],
    after: &'t [u8],
}

/// An entry of the block: a key, folded, tag included (`qgrp:anna@`), and its queue group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry<'g> {
    /// The key.
    pub key: Vec<u8>,
    /// The queue group.
    pub queue_group: &'g str,
}

/// A `QGRP:` entry that the administrator wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByHand<'t> {
    /// Its line in the source, from 1.
    pub line: u64,
    /// Its queue group, as it stands there.
    pub queue_group: &'t [u8],
}

/// A source with a new block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The whole text.
    pub text: Vec<u8>,
    /// Its digest, which the text has too, and the map built of it.
    pub digest: String,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockError {
    line: usize,
    problem: &'static str,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}: {} (the block goes from \"# BEGIN mailaffinity\" to \"# END mailaffinity\")",
            self.line, self.problem
        )
    }
}

impl std::error::Error for BlockError {}

impl<'t> AccessSource<'t> {
    /// Finds the block; without one, it will be at the end.
    ///
    /// # Errors
    /// When there is more than one, or a half of one.
    pub fn parse(text: &'t [u8]) -> Result<AccessSource<'t>, BlockError> {
        let mut begin = None;
        let mut end = None;
        let mut stranger = None;
        let mut position = 0usize;
        for (number, line) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
            let next = position.saturating_add(line.len());
            let problem = if is_marker(line, BEGIN) {
                let problem = begin.map(|_| "a second block begins");
                begin = Some((number, position));
                problem
            } else if is_marker(line, END) {
                let problem = match (begin, end) {
                    (None, _) => Some("a block ends that did not begin"),
                    (Some(_), Some(_)) => Some("the block ends a second time"),
                    (Some(_), None) => None,
                };
                end = Some(next);
                problem
            } else {
                if begin.is_some() && end.is_none() && !is_ours(line) {
                    stranger = stranger.or(Some(number));
                }
                None
            };
            if let Some(problem) = problem {
                return Err(BlockError {
                    line: number,
                    problem,
                });
            }
            position = next;
        }
        if let (Some(line), Some(_)) = (stranger, end) {
            return Err(BlockError {
                line,
                problem: "this line in the block is not mailaffinity's, which would remove it; move it out",
            });
        }
        let (begin, end) = match (begin, end) {
            (Some((_, begin)), Some(end)) => (begin, end),
            (Some((line, _)), None) => {
                return Err(BlockError {
                    line,
                    problem: "the block does not end",
                });
            }
            (None, _) => (text.len(), text.len()),
        };
        Ok(AccessSource {
            before: text.get(..begin).unwrap_or_default(),
            block: text.get(begin..end).unwrap_or_default(),
            after: text.get(end..).unwrap_or_default(),
        })
    }

    /// The queue groups that the block gives now, by folded key.
    pub fn managed(&self) -> HashMap<Vec<u8>, &'t [u8]> {
        let mut entries = HashMap::new();
        for_each_entry(self.block, 0, |_, key, value| {
            if is_queue_group(key) {
                entries.entry(key.to_ascii_lowercase()).or_insert(value);
            }
        });
        entries
    }

    /// The digest in the block, if it is that of the source as it is.
    pub fn digest(&self) -> Option<String> {
        let block = self.block.strip_suffix(FOOTING)?.strip_suffix(b"\n")?;
        let last_line = block.iter().rposition(|byte| *byte == b'\n')?.checked_add(1)?;
        let (rest, written) = block.split_at_checked(last_line)?;
        let digest = digest(&[self.before, rest, self.after]);
        (written.strip_prefix(DIGEST_KEY)?.strip_prefix(b"\t")? == digest.as_bytes()).then_some(digest)
    }

    /// How many entries the block has now.
    pub fn managed_count(&self) -> usize {
        let lines = self.block.split(|byte| *byte == b'\n');
        lines.filter(|line| is_queue_group(line)).count()
    }

    /// The `QGRP:` entries that the administrator wrote, by folded key.
    pub fn by_hand(&self) -> HashMap<Vec<u8>, ByHand<'t>> {
        let mut entries = HashMap::new();
        self.for_each_outside(|line, key, queue_group| {
            if is_queue_group(key) {
                let by_hand = ByHand { line, queue_group };
                entries.entry(key.to_ascii_lowercase()).or_insert(by_hand);
            }
        });
        entries
    }

    /// The source with these entries in its block, which must have distinct keys. All
    /// else stays as it is; only a last line without a newline gets one, where the block
    /// comes after it.
    pub fn with_entries(&self, entries: &[Entry<'_>]) -> Rewritten {
        let size = entries
            .iter()
            .map(|entry| entry.key.len() + entry.queue_group.len() + 2);
        let size = size.sum::<usize>() + self.before.len() + self.after.len() + 256;
        let mut text = Vec::with_capacity(size);
        text.extend_from_slice(self.before);
        if self.before.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(HEADING);
        for entry in entries {
            text.extend_from_slice(TAG.0);
            text.extend_from_slice(entry.key.strip_prefix(TAG.1).unwrap_or(&entry.key));
            push_value(&mut text, entry.queue_group.as_bytes());
        }
        let digest = digest(&[&text, self.after]);
        text.extend_from_slice(DIGEST_KEY);
        push_value(&mut text, digest.as_bytes());
        text.extend_from_slice(FOOTING);
        text.extend_from_slice(self.after);
        Rewritten { text, digest }
    }

    /// What makemap is to make of the source with these entries and this digest: each
    /// key once, folded, so that it has nothing to complain about. Also the
    /// administrator's lines that do not count.
    pub fn makemap_input(&self, entries: &[Entry<'_>], digest: &str) -> (Vec<u8>, Vec<Complaint>) {
        let mut input = Vec::new();
        let mut complaints = Vec::new();
        let mut lines: HashMap<Vec<u8>, u64> = HashMap::new();
        for (text, lines_before) in self.outside() {
            text::for_each_line(text, |number, line| {
                let number = number.saturating_add(lines_before);
                let problem = match line {
                    Line::Nothing => return,
                    Line::LeftOut(why) => why.into(),
                    Line::Entry(key, value) => match lines.entry(key.to_ascii_lowercase()) {
                        _ if key.eq_ignore_ascii_case(DIGEST_KEY) => "this key is mailaffinity's".into(),
                        Slot::Occupied(first) => {
                            format!("the key of line {} again, which counts", first.get())
                        }
                        Slot::Vacant(slot) => {
                            input.extend_from_slice(slot.key());
                            push_value(&mut input, value);
                            slot.insert(number);
                            return;
                        }
                    },
                };
                complaints.push(Complaint {
                    line: number,
                    problem,
                });
            });
        }
        for entry in entries {
            input.extend_from_slice(&entry.key);
            push_value(&mut input, entry.queue_group.as_bytes());
        }
        input.extend_from_slice(DIGEST_KEY);
        push_value(&mut input, digest.as_bytes());
        (input, complaints)
    }

    /// What is the administrator's: text, and the number of lines before it.
    fn outside(&self) -> [(&'t [u8], u64); 2] {
        let lines = [self.before, self.block]
            .into_iter()
            .map(|part| part.iter().filter(|byte| **byte == b'\n').count() as u64);
        [(self.before, 0), (self.after, lines.sum())]
    }

    fn for_each_outside(&self, mut each: impl FnMut(u64, &'t [u8], &'t [u8])) {
        for (text, lines_before) in self.outside() {
            for_each_entry(text, lines_before, &mut each);
        }
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

fn for_each_entry<'t>(text: &'t [u8], lines_before: u64, mut each: impl FnMut(u64, &'t [u8], &'t [u8])) {
    text::for_each_line(text, |number, line| {
        if let Line::Entry(key, value) = line {
            each(number.saturating_add(lines_before), key, value);
        }
    });
}

/// A marker is a line of its own, whatever follows it there after another character
/// than one of a word.
fn is_marker(line: &[u8], marker: &[u8]) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| !rest.first().is_some_and(u8::is_ascii_alphanumeric))
}

/// Whether a line is one that the block may have, or nothing.
fn is_ours(line: &[u8]) -> bool {
    is_queue_group(line) || line.starts_with(DIGEST_KEY) || line.trim_ascii().is_empty()
}

fn is_queue_group(key: &[u8]) -> bool {
    key.get(..TAG.1.len())
        .is_some_and(|tag| tag.eq_ignore_ascii_case(TAG.1))
}

fn push_value(text: &mut Vec<u8>, value: &[u8]) {
    text.push(b'\t');
    text.extend_from_slice(value);
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailaffinity::access_map::text::lookup;
    use proptest::prelude::*;

    fn entry(key: &str, queue_group: &'static str) -> Entry<'static> {
        Entry {
            key: key.as_bytes().to_vec(),
            queue_group,
        }
    }

    fn rewrite(text: &str, entries: &[Entry<'_>]) -> String {
        let source = AccessSource::parse(text.as_bytes()).unwrap();
        String::from_utf8(source.with_entries(entries).text).unwrap()
    }

    #[test]
    fn the_block_is_added_and_replaced() {
        let anna = entry("qgrp:anna@", "node1group");
        let bert = entry("qgrp:bert@", "node2group");
        let text = rewrite("# mine\nconnect:1 RELAY", std::slice::from_ref(&anna));
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
        let source = AccessSource::parse(text.as_bytes()).unwrap();
        assert_eq!(source.managed()[&b"qgrp:anna@".to_vec()], b"node1group");
        assert_eq!(source.managed_count(), 1);
        let both = rewrite(&text, &[anna, bert.clone()]);
        assert!(both.ends_with("# END mailaffinity\nafter"), "{both}");
        assert_eq!(rewrite(&both, &[bert]).matches("node1group").count(), 0);
    }

    #[test]
    fn the_digest_is_that_of_the_whole_source() {
        let digest = |text: &str, entries: &[Entry<'_>]| {
            AccessSource::parse(text.as_bytes())
                .unwrap()
                .with_entries(entries)
                .digest
        };
        let anna = [entry("qgrp:anna@", "node1group")];
        let text = rewrite("a b\n", &anna);
        assert_eq!(
            digest(&text, &anna),
            digest("a b\n", &anna),
            "a new block or the same"
        );
        assert!(text.contains(&digest(&text, &anna)));
        let in_block = |text: &str| AccessSource::parse(text.as_bytes()).unwrap().digest();
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
            let error = AccessSource::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let other = b"# BEGIN mailaffinity2\n # END mailaffinity\n#END mailaffinity\n";
        assert!(AccessSource::parse(other).unwrap().block.is_empty());
    }

    #[test]
    fn a_block_with_carriage_returns_is_found() {
        let text = b"x 1\r\n# BEGIN mailaffinity\r\nQGRP:a@ g\r\n# END mailaffinity\r\ny 2\r\n";
        let source = AccessSource::parse(text).unwrap();
        assert_eq!((source.before, source.after), (&b"x 1\r\n"[..], &b"y 2\r\n"[..]));
    }

    #[test]
    fn entries_by_hand() {
        let text = "QGRP:Anna@ g1\n# BEGIN mailaffinity\nQGRP:b@ g\n# END mailaffinity\n\nqgrp:c@ g2\nqgrp:anna@ g3\n";
        let source = AccessSource::parse(text.as_bytes()).unwrap();
        let by_hand = source.by_hand();
        let expected = |line, queue_group| ByHand { line, queue_group };
        assert_eq!(by_hand.len(), 2);
        assert_eq!(by_hand[&b"qgrp:anna@".to_vec()], expected(1, b"g1"));
        assert_eq!(by_hand[&b"qgrp:c@".to_vec()], expected(6, b"g2"));
    }

    #[test]
    fn makemap_gets_nothing_to_complain_about() {
        let text = "A 1\n# c\na 2\n broken\n# BEGIN mailaffinity\nQGRP:old@ g\n# END mailaffinity\nmailaffinity:source x\nB  2 # c \r\nb 3\nq";
        let source = AccessSource::parse(text.as_bytes()).unwrap();
        let (input, complaints) = source.makemap_input(&[entry("qgrp:anna@", "g1")], "d1");
        assert_eq!(
            String::from_utf8(input).unwrap(),
            "a\t1\nb\t2 # c \r\nqgrp:anna@\tg1\nmailaffinity:source\td1\n"
        );
        let complaints: Vec<_> = complaints.iter().map(|c| (c.line, c.problem.as_str())).collect();
        assert_eq!(
            complaints,
            [
                (3, "the key of line 1 again, which counts"),
                (4, "it starts with a blank"),
                (8, "this key is mailaffinity's"),
                (10, "the key of line 9 again, which counts"),
                (11, "it has a key but no value"),
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

    fn entries() -> impl Strategy<Value = Vec<Entry<'static>>> {
        prop::collection::btree_map(
            "[a-z0-9.]{1,8}",
            prop_oneof![Just("node1group"), Just("g2")],
            0..6,
        )
        .prop_map(|users| {
            users
                .into_iter()
                .map(|(user, group)| entry(&format!("qgrp:{user}@"), group))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn every_byte_outside_the_block_stays(
            before in access_text(), after in access_text(), first in entries(), second in entries(),
        ) {
            // Random lines may contain a marker of their own.
            prop_assume!(AccessSource::parse(&before).is_ok_and(|source| source.block.is_empty()));
            let added = AccessSource::parse(&before).unwrap().with_entries(&first);
            let newline: &[u8] = if before.is_empty() || before.ends_with(b"\n") { b"" } else { b"\n" };
            let kept = [&before[..], newline].concat();
            prop_assert!(added.text.starts_with(&kept));

            let edited = [&added.text[..], &after].concat();
            let Ok(source) = AccessSource::parse(&edited) else { return Ok(()) };
            prop_assert_eq!(source.before, &kept[..]);
            prop_assert_eq!(source.after, &after[..]);
            let replaced = source.with_entries(&second);
            let again = AccessSource::parse(&replaced.text).unwrap();
            prop_assert_eq!((again.before, again.after), (source.before, source.after));
            prop_assert_eq!(again.managed().len(), second.len());
            prop_assert_eq!(again.managed_count(), second.len());
            prop_assert_eq!(again.digest(), Some(replaced.digest.clone()));
            // What changes nothing changes nothing.
            prop_assert_eq!(&again.with_entries(&second), &replaced);
        }

        #[test]
        fn makemap_gets_the_meaning_of_the_source(before in access_text(), mut entries in entries()) {
            let Ok(source) = AccessSource::parse(&before) else { return Ok(()) };
            let by_hand = source.by_hand();
            entries.retain(|entry| !by_hand.contains_key(&entry.key));
            let rewritten = source.with_entries(&entries);
            let (input, _) = source.makemap_input(&entries, &rewritten.digest);
            let mut keys = Vec::new();
            text::for_each_line(&rewritten.text, |_, line| {
                if let Line::Entry(key, _) = line {
                    keys.push(key.to_ascii_lowercase());
                }
            });
            for key in keys {
                let of = |text: &[u8]| lookup(text, std::slice::from_ref(&key)).unwrap().map(|(_, value)| value);
                if key != DIGEST_KEY {
                    prop_assert_eq!(of(&input), of(&rewritten.text), "{}", key.escape_ascii());
                }
            }
            let mut seen = std::collections::HashSet::new();
            let mut lines = 0;
            text::for_each_line(&input, |_, line| {
                lines += 1;
                if let Line::Entry(key, _) = line {
                    seen.insert(key.to_vec());
                }
            });
            prop_assert_eq!(lines, seen.len(), "each line is an entry with a key of its own");
        }
    }
}
