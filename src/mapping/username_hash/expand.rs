//! Expands a format: what is hashed of a username.

use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use super::parse::{Algorithm, Conditional, Field, HashFunction, Modifier, Operator, Segment, Variable};

/// The expansion of a format for a user.
///
/// # Errors
/// Where it compares what is no number as one. The text is then without that field: the
/// Director ends itself, but Dovecot's authentication goes on with this text.
pub(super) fn expand(template: &[Segment], user: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
    let mut out = Vec::with_capacity(user.len() + 32);
    let mut is_whole = true;
    for segment in template {
        match segment {
            Segment::Literal(text) => out.extend_from_slice(text),
            Segment::Field(field) => is_whole &= field.expand_into(&mut out, user).is_some(),
        }
    }
    if is_whole { Ok(out) } else { Err(out) }
}

impl Field {
    fn expand_into(&self, out: &mut Vec<u8>, user: &[u8]) -> Option<()> {
        let mut value = self.variable.value(user)?;
        let mut offset = self.offset;
        let mut width = self.width;
        for &modifier in &self.modifiers {
            value = modifier.apply(value, &mut offset, &mut width);
        }
        let skip = match usize::try_from(offset) {
            Ok(offset) => offset.min(value.len()),
            Err(_) => value.len().saturating_sub(magnitude(offset)),
        };
        let value = value.get(skip..).unwrap_or_default();
        let len = value.len();
        match usize::try_from(width) {
            Ok(0) => out.extend_from_slice(value),
            Ok(width) if self.zero_padding => {
                out.extend(std::iter::repeat_n(b'0', width.saturating_sub(len)));
                out.extend_from_slice(value);
            }
            Ok(width) => out.extend(value.iter().take(width)),
            Err(_) if self.zero_padding => out.extend_from_slice(value),
            // Cuts bytes off the end, but none from a value shorter than the cut.
            Err(_) => out.extend(
                value
                    .iter()
                    .take(len.checked_sub(magnitude(width)).unwrap_or(len)),
            ),
        }
        Some(())
    }
}

fn magnitude(number: i32) -> usize {
    usize::try_from(number.unsigned_abs()).unwrap_or(usize::MAX)
}

impl Variable {
    fn value(&self, user: &[u8]) -> Option<Vec<u8>> {
        let at = user.iter().position(|&b| b == b'@');
        Some(match self {
            Variable::User => user.to_vec(),
            Variable::LocalPart => user.get(..at.unwrap_or(user.len())).unwrap_or_default().to_vec(),
            Variable::Domain => at.and_then(|at| user.get(at + 1..)).unwrap_or_default().to_vec(),
            Variable::Percent => b"%".to_vec(),
            Variable::Hashed(hash) => hash.value(user)?,
            Variable::If(conditional) => conditional.value(user)?,
        })
    }
}

impl Conditional {
    fn value(&self, user: &[u8]) -> Option<Vec<u8>> {
        let expand = |operand| expand(operand, user).ok();
        let (left, right) = (expand(&self.left)?, expand(&self.right)?);
        // Both, as Dovecot does: what has no value in the other spoils all.
        let (if_true, if_false) = (expand(&self.if_true)?, expand(&self.if_false)?);
        let holds = match self.operator {
            Operator::Number(holds) => holds(number(&left)?.cmp(&number(&right)?)),
            Operator::Text(holds) => holds(left.cmp(&right)),
            Operator::Wildcards(matching) => matches_wildcards(&left, &right) == matching,
        };
        Some(if holds { if_true } else { if_false })
    }
}

/// Dovecot's `str_to_intmax()`.
fn number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

/// Dovecot's `wildcard_match()`: `*` stands for any bytes, `?` for one.
fn matches_wildcards(mut value: &[u8], mut mask: &[u8]) -> bool {
    let mut at_star = None;
    loop {
        match (mask, value) {
            ([b'*', rest @ ..], _) => {
                mask = rest;
                at_star = Some((mask, value));
            }
            ([wanted, rest @ ..], [byte, following @ ..]) if *wanted == b'?' || wanted == byte => {
                (mask, value) = (rest, following);
            }
            ([], []) => return true,
            // The last star has to stand for one byte more.
            _ => {
                let Some((behind, [_, following @ ..])) = at_star else {
                    return false;
                };
                (mask, value) = (behind, following);
                at_star = Some((mask, value));
            }
        }
    }
}

impl HashFunction {
    fn value(&self, user: &[u8]) -> Option<Vec<u8>> {
        let salt = expand(&self.salt, user).ok()?;
        let mut digest = self.algorithm.digest(&salt, self.of.value(user)?, self.rounds);
        if self.truncate_bits > 0 {
            keep_leading_bits(&mut digest, self.truncate_bits);
        }
        Some(hex(&digest))
    }
}

/// Keeps so many leading bits of a digest, as the low bits of fewer bytes.
fn keep_leading_bits(digest: &mut Vec<u8>, bits: u32) {
    digest.truncate(usize::try_from(bits.div_ceil(8)).unwrap_or(usize::MAX));
    let surplus = (8 - bits % 8) % 8;
    let mut carry = 0u16;
    for byte in digest {
        let shifted = (carry << 8 | u16::from(*byte)) >> surplus;
        carry = u16::from(*byte);
        *byte = shifted.to_le_bytes()[0];
    }
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|byte| format!("{byte:02x}").into_bytes())
        .collect()
}

impl Modifier {
    fn apply(self, mut value: Vec<u8>, offset: &mut i32, width: &mut i32) -> Vec<u8> {
        match self {
            Modifier::Lower => value.make_ascii_lowercase(),
            Modifier::Upper => value.make_ascii_uppercase(),
            Modifier::Reverse => value.reverse(),
            Modifier::Trim => {
                let blank = |b: &u8| matches!(b, b' ' | b'\t'..=b'\r');
                let kept = value.iter().rposition(|b| !blank(b)).map_or(0, |last| last + 1);
                value.truncate(kept);
            }
            Modifier::Escape => {
                return value
                    .into_iter()
                    .flat_map(|b| {
                        let quoted = matches!(b, b'"' | b'\'' | b'\\');
                        quoted.then_some(b'\\').into_iter().chain([b])
                    })
                    .collect();
            }
            Modifier::LdapDn => {
                return value.split(|&b| b == b'.').collect::<Vec<_>>().join(&b",dc="[..]);
            }
            Modifier::Hex => {
                let number = std::str::from_utf8(&value)
                    .ok()
                    .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|text| text.parse::<u64>().ok())
                    .unwrap_or(0);
                return format!("{number:x}").into_bytes();
            }
            Modifier::Md5 => return hex(&Md5::digest(&value)),
            Modifier::Hash => {
                let modulus = std::mem::take(width).cast_unsigned();
                let hash = str_hash(&value);
                return padded_hex(hash.checked_rem(modulus).unwrap_or(hash), offset);
            }
            Modifier::NewHash => {
                let modulus = i64::from(std::mem::take(width)).cast_unsigned();
                let hash = Md5::digest(&value)
                    .iter()
                    .take(8)
                    .fold(0u64, |hash, &byte| hash << 8 | u64::from(byte));
                let hash = hash.checked_rem(modulus).unwrap_or(hash);
                let [a, b, c, d, ..] = hash.to_le_bytes();
                return padded_hex(u32::from_le_bytes([a, b, c, d]), offset);
            }
        }
        value
    }
}

/// `H` and `N` use up the offset: they pad to so many digits.
fn padded_hex(number: u32, offset: &mut i32) -> Vec<u8> {
    let digits = usize::try_from(std::mem::take(offset)).unwrap_or(0);
    format!("{number:0digits$x}").into_bytes()
}

/// Dovecot's `str_hash()`, the old PJW hash.
fn str_hash(value: &[u8]) -> u32 {
    value.iter().fold(0u32, |hash, &byte| {
        let hash = (hash << 4).wrapping_add(u32::from(byte));
        let high = hash & 0xf000_0000;
        hash ^ (high >> 24) ^ high
    })
}

impl Algorithm {
    fn digest(self, salt: &[u8], data: Vec<u8>, rounds: u32) -> Vec<u8> {
        // A salt can be as long as a name, and is the same in each round.
        fn of<D: Digest + Clone>(salt: &[u8], data: Vec<u8>, rounds: u32) -> Vec<u8> {
            let salted = D::new_with_prefix(salt);
            (0..rounds).fold(data, |data, _| {
                salted.clone().chain_update(data).finalize().to_vec()
            })
        }
        match self {
            Algorithm::Md5 => of::<Md5>(salt, data, rounds),
            Algorithm::Sha1 => of::<Sha1>(salt, data, rounds),
            Algorithm::Sha256 => of::<Sha256>(salt, data, rounds),
            Algorithm::Sha512 => of::<Sha512>(salt, data, rounds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn expanded(format: &str, user: &str) -> String {
        let expanded = expand(&parse(format.as_bytes()).unwrap(), user.as_bytes()).unwrap();
        String::from_utf8_lossy(&expanded).into_owned()
    }

    #[test]
    fn offsets_and_widths() {
        for (format, expected) in [
            ("%3u", "abc"),
            ("%2.3u", "cde"),
            ("%-3u", "abc"),
            ("%-4.2u", "gh"),
            ("%-20.2u", "ab"),
            ("%0.-3u", "abcdefg"),
            ("%0.-10u", ""),
            ("%0.-11u", "abcdefghij"),
            ("%012u", "00abcdefghij"),
            ("%020.3u", ""),
            ("%8.05u", "000ij"),
            ("%-", ""),
            ("%%", "%"),
            ("%%u", "%u"),
        ] {
            assert_eq!(expanded(format, "abcdefghij"), expected, "{format}");
        }
    }

    #[test]
    fn modifiers() {
        for (format, user, expected) in [
            ("%LRu", "Anna", "anna"),
            ("%Eu", r#"a"b'c\"#, r#"a\"b\'c\\"#),
            ("%Xu", "255", "ff"),
            ("%Xu", "255 ", "0"),
            ("%Xu", "18446744073709551616", "0"),
            ("%Dd", "u@mail.example.org", "mail,dc=example,dc=org"),
            ("%Tu", "anna \t\r\n", "anna"),
            ("%Mu", "user1", "24c9e15e52afc47c225b757e7bee1f9d"),
            ("%8.16Hu", "a", "00000001"),
            ("%Hu", "a", "61"),
            // The modulus -5 is 2^64 - 5 in C, and changes nothing.
            ("%0.-5Nu", "user1", "52afc47c"),
            ("%Nu", "user1", "52afc47c"),
        ] {
            assert_eq!(expanded(format, user), expected, "{format}");
        }
    }

    #[test]
    fn conditionals() {
        for (format, user, expected) in [
            ("%{if;%d;eq;;%Ln;%Lu}", "Anna", "anna"),
            ("%{if;%d;eq;;%Ln;%Lu}", "Anna@Example.org", "anna@example.org"),
            ("%{if;%n;<;10;few}", "9@x", "few"),
            ("%{if;%n;<;10;few}", "010@x", ""),
            ("%{if;%n;lt;10;few;many}", "9@x", "many"),
            ("%{if;%u;*;a*@?;%U{if;%d;ne;b;c;d};e}", "anna@b", "D"),
            ("%{if;%u;!*;a*@?;c;e}", "anna@bb", "c"),
            (r"%{if;\%u;eq;a\\nna;\;\:\{;}", "anna", ";:{"),
            ("%{IF;%u;eq;anna;c:d}", "anna", "c"),
            (
                "%{md5:if;%u;eq;anna;user1}",
                "anna",
                "24c9e15e52afc47c225b757e7bee1f9d",
            ),
        ] {
            assert_eq!(expanded(format, user), expected, "{format}");
        }
    }

    /// As users of a live Director were named by such an `auth_username_format`.
    #[test]
    fn a_field_without_a_value_is_left_out() {
        let template = parse(b"x%M{if;%n;==;1;a;b}y%d").unwrap();
        assert_eq!(expand(&template, b"anna@dom"), Err(b"xydom".to_vec()));
    }

    #[test]
    fn wildcards() {
        for (value, mask, expected) in [
            ("", "", true),
            ("", "**", true),
            ("", "?", false),
            ("a", "", false),
            ("abab", "*ab", true),
            ("ababa", "a*b?b", false),
            ("aXbXc", "a*X?", true),
            ("a*", "a**", true),
        ] {
            let matches = matches_wildcards(value.as_bytes(), mask.as_bytes());
            assert_eq!(matches, expected, "{value:?} {mask:?}");
        }
    }

    #[test]
    fn hash_functions() {
        assert_eq!(
            expanded("%{md5:user}", "user1"),
            "24c9e15e52afc47c225b757e7bee1f9d"
        );
        assert_eq!(expanded("%4{md5:user}", "user1"), "24c9");
        assert_eq!(expanded("%{md5;truncate=12:user}", "user1"), "024c");
        assert_eq!(expanded("%{md5;truncate=0:user}", "user1").len(), 32);
        assert_eq!(
            expanded("%{md5;truncate=201:user}", "user1"),
            expanded("%Mu", "user1")
        );
        assert_eq!(
            expanded("%{md5;salt=us:domain}", "x@er1"),
            expanded("%Mu", "user1")
        );
        assert_eq!(
            expanded("%{md5;salt=%n:domain}", "us@er1"),
            expanded("%Mu", "user1")
        );
        assert_eq!(expanded("%{md5:md5:user}", "a"), expanded("%MMu", "a"));
        // A salt ends the arguments, as in Dovecot.
        assert_eq!(
            expanded("%{md5;salt=s,rounds=9:user}", "a"),
            expanded("%{md5;salt=s:user}", "a")
        );
    }
}
