//! Reads the source text of a map, as makemap reads it.
//!
//! Everything here was measured with makemap 8.17.1; there is neither quoting
//! nor continuation of lines.
//!
//! - A line that is empty or starts with `#` is skipped. A `#` elsewhere is an
//!   ordinary character: `user@ group # why` has the value `group # why`.
//! - The key ends at the first blank: space, tab, vertical tab, form feed or
//!   carriage return. ASCII letters in it are folded to lower case.
//! - The value starts after all blanks and goes to the end of the line,
//!   trailing blanks and a carriage return included.
//! - Bytes above 127 are ordinary characters.
//! - The last line need not end in a newline.
//! - Of several lines with one key the first counts.
//!
//! Where makemap complains about a line, exits with status 65 in the end but
//! goes on and leaves the line out, it is left out here too: a line that starts
//! with a blank, has no value, or is longer than 1022 bytes. What follows the
//! first 1023 bytes of such a long line counts as a line of its own, and so
//! does each further piece of that size. A line with a NUL byte is too long in
//! that sense, except for a last line without a newline: it ends at the NUL.

use std::io::BufRead as _;
use std::ops::Range;

use super::Entry;
use super::read_at::{Found, ReadAt, ReadError, read_exact};

/// The longest piece that makemap reads at once.
const LONGEST: usize = 1023;

/// The value of the first of `keys` that the text holds.
///
/// The text is read once, up to the entry for the first key if there is one.
///
/// # Errors
/// [`ReadError::Io`] if reading fails; every sequence of bytes is a valid text.
pub fn lookup<S: ReadAt + ?Sized>(source: &S, keys: &[Vec<u8>]) -> Result<Found, ReadError> {
    let mut pieces = Pieces::of(source);
    let mut found: Found = None;
    let mut wanted = keys;
    while !wanted.is_empty()
        && let Some(piece) = pieces.next()?
    {
        if !wanted.iter().any(|key| may_hold(piece, key)) {
            continue;
        }
        let Some(Entry { key, value }) = entry(piece) else {
            continue;
        };
        // Only a better key than the one already found is still wanted.
        if let Some(index) = wanted.iter().position(|want| want.eq_ignore_ascii_case(key)) {
            found = Some((index, value.to_vec()));
            wanted = wanted.get(..index).unwrap_or_default();
        }
    }
    Ok(found)
}

/// A line of a text, or what makemap takes for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'t> {
    /// An entry, as makemap would store it but for the folding of its key.
    Entry(Entry<&'t [u8]>),
    /// An empty line or a comment.
    Nothing,
    /// A line that makemap complains about and leaves out, and why.
    LeftOut(&'static str),
}

/// The lines of the text: the number of each from 1, all of it, and what it is.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (u64, &[u8], Line<'_>)> {
    let mut number = 1u64;
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at_checked(length_of_piece(rest))?;
        rest = after;
        let line = match entry(piece) {
            Some(entry) => Line::Entry(entry),
            None if piece.is_empty() => return None,
            None if matches!(piece, [b'#' | b'\n', ..]) && piece.len() < LONGEST && !piece.contains(&0) => {
                Line::Nothing
            }
            None => Line::LeftOut(fault(piece)),
        };
        let found = (number, piece, line);
        if piece.ends_with(b"\n") {
            number = number.saturating_add(1);
        }
        Some(found)
    })
}

/// Why makemap leaves a piece out that is neither an entry nor nothing.
fn fault(piece: &[u8]) -> &'static str {
    match piece.first() {
        _ if piece.contains(&0) => "it has a NUL byte",
        _ if piece.len() >= LONGEST => "it is longer than 1022 bytes",
        Some(first) if is_blank(first) => "it starts with a blank",
        _ => "it has a key but no value",
    }
}

/// Whether a line may be the entry for `key`: a quick look that passes over
/// nearly all lines.
fn may_hold(line: &[u8], key: &[u8]) -> bool {
    line.split_at_checked(key.len())
        .is_some_and(|(start, rest)| rest.first().is_some_and(is_blank) && start.eq_ignore_ascii_case(key))
}

/// Key and value of a piece of text that makemap takes for one line.
fn entry(piece: &[u8]) -> Option<Entry<&[u8]>> {
    // By memchr: hardly any has one.
    let nul = piece
        .contains(&0)
        .then(|| piece.iter().position(|byte| *byte == 0))
        .flatten();
    let line = match (piece.strip_suffix(b"\n"), nul) {
        (Some(line), None) => line,
        (None, nul) if piece.len() < LONGEST => piece.get(..nul.unwrap_or(piece.len()))?,
        _ => return None,
    };
    if line.first().is_none_or(|first| *first == b'#' || is_blank(first)) {
        return None;
    }
    let (key, rest) = line.split_at_checked(line.iter().position(is_blank)?)?;
    let value = rest.get(rest.iter().position(|byte| !is_blank(byte))?..)?;
    Some(Entry { key, value })
}

/// C's `isspace` in the C locale.
fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// How much of a text makemap reads at once.
fn length_of_piece(text: &[u8]) -> usize {
    let mut longest = text.get(..LONGEST).unwrap_or(text);
    // By memchr; memory can be read.
    longest.skip_until(b'\n').unwrap_or_default()
}

/// The text, cut as makemap cuts it: after each newline, and after
/// [`LONGEST`] bytes without one.
struct Pieces<'s, S: ?Sized> {
    source: &'s S,
    /// The position in the source of what follows the buffer.
    offset: u64,
    buffer: Vec<u8>,
    /// The part of the buffer that is still to be handed out.
    rest: Range<usize>,
}

impl<'s, S: ReadAt + ?Sized> Pieces<'s, S> {
    fn of(source: &'s S) -> Self {
        Pieces {
            source,
            offset: 0,
            buffer: vec![0; 1 << 16],
            rest: 0..0,
        }
    }

    fn next(&mut self) -> Result<Option<&[u8]>, ReadError> {
        let length = loop {
            let rest = self.buffer.get(self.rest.clone()).unwrap_or_default();
            let length = length_of_piece(rest);
            let is_whole =
                length == LONGEST || rest.get(..length).is_some_and(|piece| piece.ends_with(b"\n"));
            if is_whole || !self.read_more()? {
                break length;
            }
        };
        let piece = self.rest.start..self.rest.start.saturating_add(length);
        self.rest.start = piece.end;
        Ok(self.buffer.get(piece).filter(|piece| !piece.is_empty()))
    }

    /// Moves the rest to the front of the buffer and reads on behind it.
    /// Returns whether there was anything to read.
    fn read_more(&mut self) -> Result<bool, ReadError> {
        self.buffer.copy_within(self.rest.clone(), 0);
        self.rest = 0..self.rest.len();
        let free = self.buffer.get_mut(self.rest.end..).unwrap_or_default();
        let left = self.source.size().saturating_sub(self.offset);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(free.len());
        read_exact(
            self.source,
            free.get_mut(..count).unwrap_or_default(),
            self.offset,
        )?;
        self.offset = self.offset.saturating_add(count as u64);
        self.rest.end = self.rest.end.saturating_add(count);
        Ok(count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Line, lines, lookup};

    #[track_caller]
    fn check(text: &[u8], key: &[u8], expected: Option<&[u8]>) {
        let found = lookup(text, &[key.to_vec()]).unwrap();
        assert_eq!(found, expected.map(|value| (0, value.to_vec())));
    }

    #[test]
    fn values_keep_comments_and_trailing_blanks() {
        check(b"k\t \tv # w \r\n", b"k", Some(b"v # w \r"));
        check(b"k\x0bv", b"k", Some(b"v"));
    }

    #[test]
    fn lines_left_out() {
        check(b"#k v\n", b"#k", None);
        check(b" k v\n", b"k", None);
        check(b"k\nk \nk2\n", b"k", None);
        check(b"k v\0\n", b"k", None);
    }

    #[test]
    fn the_last_line_may_lack_a_newline_and_then_ends_at_a_nul() {
        check(b"a b\nk v", b"k", Some(b"v"));
        check(b"k v\0w", b"k", Some(b"v"));
    }

    #[test]
    fn long_lines_are_cut_into_pieces() {
        let mut text = [b"a ".as_slice(), &[b'x'; 1020]].concat();
        let longest = &text[2..].to_vec();
        check(&text, b"a", Some(longest));
        text.push(b'\n');
        check(&text, b"a", Some(longest));
        text.insert(2, b'x');
        check(&text, b"a", None);
        text.pop();
        check(&text, b"a", None);
        text.extend_from_slice(b"k v\n");
        check(&text, b"k", Some(b"v"));
    }

    #[test]
    fn lines_of_all_kinds() {
        let long = "x".repeat(1023);
        let text = format!("# c\n\nk v \n w\nk\nb\0 v\n{long} v\nend 1");
        let lines: Vec<String> = lines(text.as_bytes())
            .map(|(number, _, line)| match line {
                Line::Entry(Entry { key, value }) => {
                    format!("{number} {}={}", key.escape_ascii(), value.escape_ascii())
                }
                Line::Nothing => format!("{number}"),
                Line::LeftOut(why) => format!("{number} {why}"),
            })
            .collect();
        assert_eq!(
            lines,
            [
                "1",
                "2",
                "3 k=v ",
                "4 it starts with a blank",
                "5 it has a key but no value",
                "6 it has a NUL byte",
                "7 it is longer than 1022 bytes",
                "7 it starts with a blank",
                "8 end=1"
            ]
        );
    }

    #[test]
    fn the_first_key_asked_for_wins_wherever_it_stands() {
        let keys = [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
        let text = b"three 3\ntwo 2\nONE 1\none 0\n".as_slice();
        assert_eq!(lookup(text, &keys).unwrap(), Some((0, b"1".to_vec())));
        assert_eq!(lookup(text, &keys[1..]).unwrap(), Some((0, b"2".to_vec())));
    }
}
