//! `director_username_hash`: which part of a username is hashed, and how.

use std::fmt;

use md5::block_api::compress;
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use super::leading_u32;

/// A parsed `director_username_hash` format, ready to hash usernames.
///
/// The hash of a user is the first four bytes of the MD5 of the expanded format,
/// the first one most significant; 0 becomes 1, as in the Director from 2.2.33.
/// The default is `%Lu`, the whole name in ASCII lower case, which hashes without
/// allocating, as `%u` does.
///
/// Formats are `%` [`[-][0]`*offset*`.`] [`[0][-]`*width*] *modifiers* *variable*:
///
/// | | |
/// |---|---|
/// | variables | `u` `{user}` the name; `n` `{username}` what stands before the first `@`; `d` `{domain}` all after it; `%` itself |
/// | hash functions | `{md5:…}` `{sha1:…}` `{sha256:…}` `{sha512:…}` over another variable or hash, with `;rounds=`*n*`,truncate=`*bits*`,salt=`*format* |
/// | modifiers | up to ten, left to right: `L` lower and `U` upper case, `R` reversed, `T` trailing blanks off, `E` quotes escaped, `D` dots to `,dc=`, `X` decimal to hexadecimal, `M` MD5, `H` and `N` 32-bit hashes modulo width |
/// | offset, width | bytes; negative ones count from the end |
///
/// Everything in this table is what Dovecot 2.3 was seen to do. All else is a
/// [`FormatError`]: variables that Dovecot does not know, which make it refuse users
/// one by one, and what it knows beyond this table, such as variables whose value
/// depends on the machine or process that asks (`%{hostname}`, `%{pid}`).
#[derive(Clone, Debug)]
pub struct UsernameHash {
    format: Vec<u8>,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    /// `%u`
    User,
    /// `%Lu`
    LowercaseUser,
    Template(Vec<Segment>),
}

#[derive(Clone, Debug)]
enum Segment {
    Literal(Vec<u8>),
    Field(Field),
}

#[derive(Clone, Debug)]
struct Field {
    offset: i32,
    width: i32,
    zero_padding: bool,
    modifiers: Vec<Modifier>,
    variable: Variable,
}

#[derive(Clone, Debug)]
enum Variable {
    User,
    LocalPart,
    Domain,
    Percent,
    Hashed(Box<HashFunction>),
}

#[derive(Clone, Debug)]
struct HashFunction {
    algorithm: Algorithm,
    rounds: u32,
    /// 0 keeps the whole digest.
    truncate_bits: u32,
    salt: Vec<Segment>,
    of: Variable,
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Modifier {
    Lower,
    Upper,
    Escape,
    Hex,
    Reverse,
    Hash,
    NewHash,
    Md5,
    LdapDn,
    Trim,
}

/// Why a format cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    format: Vec<u8>,
    problem: String,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "username hash format \"{}\": {}",
            self.format.escape_ascii(),
            self.problem
        )
    }
}

impl std::error::Error for FormatError {}

impl Default for UsernameHash {
    fn default() -> UsernameHash {
        UsernameHash {
            format: b"%Lu".to_vec(),
            shape: Shape::LowercaseUser,
        }
    }
}

impl UsernameHash {
    /// Parses a format.
    ///
    /// # Errors
    /// On all that the table above does not have, on hash arguments that would stop
    /// the Director, and on a NUL, which cannot be in Dovecot's configuration.
    pub fn parse(format: impl AsRef<[u8]>) -> Result<UsernameHash, FormatError> {
        let format = format.as_ref();
        let shape = match format {
            b"%u" => Shape::User,
            b"%Lu" => Shape::LowercaseUser,
            _ => Shape::Template(parse_template(format).map_err(|problem| FormatError {
                format: format.to_vec(),
                problem,
            })?),
        };
        Ok(UsernameHash {
            format: format.to_vec(),
            shape,
        })
    }

    /// The format as it was given.
    pub fn format(&self) -> &[u8] {
        &self.format
    }

    /// The 32-bit hash of a username, never 0.
    ///
    /// A username is bytes. A NUL is hashed like any other byte; the Director
    /// cannot be asked about one, since its usernames end there.
    pub fn hash(&self, user: &[u8]) -> u32 {
        let hash = match &self.shape {
            Shape::User => md5_start(user),
            Shape::LowercaseUser => md5_start_of_lowercase(user),
            Shape::Template(template) => md5_start(&expand(template, user)),
        };
        hash.max(1)
    }
}

/// The start of the MD5 of a name.
fn md5_start(name: &[u8]) -> u32 {
    leading_u32(&Md5::digest(name))
}

/// The start of the MD5 of a name in lower case.
fn md5_start_of_lowercase(name: &[u8]) -> u32 {
    let mut block = [0; 64];
    if name.len() <= LONGEST_IN_ONE_BLOCK {
        // Nearly all names. Without the buffer of a hasher it takes a sixth less.
        let (text, padding) = block.split_at_mut(name.len());
        text.copy_from_slice(name);
        text.make_ascii_lowercase();
        if let Some(end) = padding.first_mut() {
            *end = 0x80;
        }
        block[56..].copy_from_slice(&(8 * name.len() as u64).to_le_bytes());
        let mut state = MD5_INITIAL_STATE;
        compress(&mut state, &[block]);
        return state[0].swap_bytes();
    }
    let mut md5 = Md5::new();
    for chunk in name.chunks(block.len()) {
        let (text, _) = block.split_at_mut(chunk.len());
        text.copy_from_slice(chunk);
        text.make_ascii_lowercase();
        md5.update(text);
    }
    leading_u32(&md5.finalize())
}

/// Beside the padding of MD5, which takes nine bytes.
const LONGEST_IN_ONE_BLOCK: usize = 55;

/// RFC 1321, section 3.3.
const MD5_INITIAL_STATE: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

// Parsing. The grammar is that of Dovecot's var-expand.

/// A larger number of bytes to pad to serves no format.
const MAX_PADDING: i32 = 65_535;
/// As many take a lookup a tenth of a second or so, unless the salt is long.
const MAX_ROUNDS: u32 = 100_000;
/// Dovecot looks for a variable after so many modifiers.
const MAX_MODIFIERS: usize = 10;
/// Hash functions and salts can nest; none that serves does so deeply.
const MAX_DEPTH: usize = 16;

fn parse_template(format: &[u8]) -> Result<Vec<Segment>, String> {
    parse_nested(format, 0)
}

fn parse_nested(format: &[u8], depth: usize) -> Result<Vec<Segment>, String> {
    if depth > MAX_DEPTH {
        return Err("hash functions and salts are nested too deeply".into());
    }
    if format.contains(&0) {
        return Err("it has a NUL".into());
    }
    let mut segments = Vec::new();
    let mut rest = format;
    while !rest.is_empty() {
        let literal = rest.iter().position(|&b| b == b'%').unwrap_or(rest.len());
        let (text, from_percent) = rest.split_at(literal);
        if !text.is_empty() {
            segments.push(Segment::Literal(text.to_vec()));
        }
        let Some((_, field)) = from_percent.split_first() else {
            break;
        };
        let mut cursor = Cursor { rest: field };
        if let Some(field) = parse_field(&mut cursor, depth)? {
            segments.push(Segment::Field(field));
        }
        rest = cursor.rest;
    }
    Ok(segments)
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.next();
        }
        found
    }

    fn number(&mut self) -> Result<i32, String> {
        let mut number = 0i32;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            self.next();
            number = number
                .checked_mul(10)
                .and_then(|n| n.checked_add(i32::from(digit - b'0')))
                .ok_or("an offset or width is larger than 2147483647")?;
        }
        Ok(number)
    }
}

/// What stands behind a `%`. `None` where the format ends before a variable:
/// Dovecot then expands to nothing.
fn parse_field(cursor: &mut Cursor<'_>, depth: usize) -> Result<Option<Field>, String> {
    let mut offset = 0;
    let mut from_end = cursor.skip(b'-');
    let mut zero_padding = cursor.skip(b'0');
    let mut width = cursor.number()?;
    if cursor.skip(b'.') {
        offset = if from_end { -width } else { width };
        zero_padding = cursor.skip(b'0');
        from_end = cursor.skip(b'-');
        width = cursor.number()?;
        if from_end {
            width = -width;
        }
    }
    let mut modifiers = Vec::new();
    while modifiers.len() < MAX_MODIFIERS {
        let Some(modifier) = cursor.peek().and_then(Modifier::from_key) else {
            break;
        };
        cursor.next();
        modifiers.push(modifier);
    }
    let hashes = modifiers
        .iter()
        .any(|m| matches!(m, Modifier::Hash | Modifier::NewHash));
    if (zero_padding && width > MAX_PADDING) || (hashes && offset > MAX_PADDING) {
        return Err(format!("a field is padded to more than {MAX_PADDING} bytes"));
    }
    let Some(key) = cursor.next() else {
        return Ok(None);
    };
    let variable = match key {
        b'u' => Variable::User,
        b'n' => Variable::LocalPart,
        b'd' => Variable::Domain,
        b'%' => Variable::Percent,
        b'{' => parse_long_variable(braced(cursor)?, depth)?,
        _ => {
            return Err(format!(
                "unknown variable %{}; the Director knows %u, %n and %d",
                key.escape_ascii()
            ));
        }
    };
    Ok(Some(Field {
        offset,
        width,
        zero_padding,
        modifiers,
        variable,
    }))
}

/// The text up to the brace that closes the one just read; `\` hides a brace.
fn braced<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], String> {
    let text = cursor.rest;
    let mut depth = 1;
    let mut escaped = false;
    for (position, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            cursor.rest = text.get(position + 1..).unwrap_or_default();
            return Ok(text.get(..position).unwrap_or_default());
        }
    }
    Err("a \"%{\" is not closed by \"}\"".into())
}

fn parse_long_variable(name: &[u8], depth: usize) -> Result<Variable, String> {
    match name {
        b"user" => return Ok(Variable::User),
        b"username" => return Ok(Variable::LocalPart),
        b"domain" => return Ok(Variable::Domain),
        b"pid" | b"uid" | b"gid" | b"hostname" => {
            return Err(format!(
                "%{{{}}} differs between machines or processes, so no other program can follow it",
                name.escape_ascii()
            ));
        }
        _ => {}
    }
    if depth > MAX_DEPTH {
        return Err("hash functions and salts are nested too deeply".into());
    }
    let mut halves = name.splitn(2, |&b| b == b':');
    let function = halves.next().unwrap_or_default();
    let of = halves.next();
    let mut parts = function.splitn(2, |&b| b == b';');
    let algorithm = parts.next().unwrap_or_default();
    let arguments = parts.next().unwrap_or_default();
    match (Algorithm::from_name(algorithm), of) {
        (Some(algorithm), Some(of)) => {
            let of = parse_long_variable(of, depth + 1)?;
            parse_hash_function(algorithm, arguments, of, depth).map(|hash| Variable::Hashed(Box::new(hash)))
        }
        _ => Err(format!(
            "unknown variable %{{{}}}; supported are user, username, domain, and md5, sha1, sha256, sha512 of them",
            name.escape_ascii()
        )),
    }
}

fn parse_hash_function(
    algorithm: Algorithm,
    arguments: &[u8],
    of: Variable,
    depth: usize,
) -> Result<HashFunction, String> {
    let mut hash = HashFunction {
        algorithm,
        rounds: 1,
        truncate_bits: 0,
        salt: Vec::new(),
        of,
    };
    for argument in arguments.split(|&b| b == b',') {
        let mut sides = argument.splitn(2, |&b| b == b'=');
        let name = sides.next().unwrap_or_default();
        // Dovecot passes over what has no value.
        let Some(value) = sides.next() else { continue };
        match name {
            b"rounds" => hash.rounds = parse_argument(name, value, 1, MAX_ROUNDS)?,
            b"truncate" => {
                hash.truncate_bits =
                    parse_argument(name, value, 0, u32::MAX)?.min(8 * algorithm.digest_len());
            }
            b"salt" => {
                hash.salt = parse_nested(value, depth + 1)?;
                // Dovecot does not look at what follows a salt.
                break;
            }
            _ => {
                return Err(format!(
                    "unsupported argument \"{}\" of a hash function; supported are rounds, truncate and salt",
                    name.escape_ascii()
                ));
            }
        }
    }
    Ok(hash)
}

fn parse_argument(name: &[u8], value: &[u8], least: u32, most: u32) -> Result<u32, String> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            format!(
                "{}={} of a hash function is not a number from {least} to {most}",
                name.escape_ascii(),
                value.escape_ascii()
            )
        })
}

impl Modifier {
    fn from_key(key: u8) -> Option<Modifier> {
        Some(match key {
            b'L' => Modifier::Lower,
            b'U' => Modifier::Upper,
            b'E' => Modifier::Escape,
            b'X' => Modifier::Hex,
            b'R' => Modifier::Reverse,
            b'H' => Modifier::Hash,
            b'N' => Modifier::NewHash,
            b'M' => Modifier::Md5,
            b'D' => Modifier::LdapDn,
            b'T' => Modifier::Trim,
            _ => return None,
        })
    }
}

impl Algorithm {
    fn from_name(name: &[u8]) -> Option<Algorithm> {
        Some(match name {
            b"md5" => Algorithm::Md5,
            b"sha1" => Algorithm::Sha1,
            b"sha256" => Algorithm::Sha256,
            b"sha512" => Algorithm::Sha512,
            _ => return None,
        })
    }

    fn digest_len(self) -> u32 {
        match self {
            Algorithm::Md5 => 16,
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    fn digest(self, salt: &[u8], data: &[u8]) -> Vec<u8> {
        fn of<D: Digest>(salt: &[u8], data: &[u8]) -> Vec<u8> {
            D::new().chain_update(salt).chain_update(data).finalize().to_vec()
        }
        match self {
            Algorithm::Md5 => of::<Md5>(salt, data),
            Algorithm::Sha1 => of::<Sha1>(salt, data),
            Algorithm::Sha256 => of::<Sha256>(salt, data),
            Algorithm::Sha512 => of::<Sha512>(salt, data),
        }
    }
}

// Expansion.

fn expand(template: &[Segment], user: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(user.len() + 32);
    for segment in template {
        match segment {
            Segment::Literal(text) => out.extend_from_slice(text),
            Segment::Field(field) => field.expand_into(&mut out, user),
        }
    }
    out
}

impl Field {
    fn expand_into(&self, out: &mut Vec<u8>, user: &[u8]) {
        let mut value = self.variable.value(user);
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
    }
}

fn magnitude(number: i32) -> usize {
    usize::try_from(number.unsigned_abs()).unwrap_or(usize::MAX)
}

impl Variable {
    fn value(&self, user: &[u8]) -> Vec<u8> {
        let at = user.iter().position(|&b| b == b'@');
        match self {
            Variable::User => user.to_vec(),
            Variable::LocalPart => user.get(..at.unwrap_or(user.len())).unwrap_or_default().to_vec(),
            Variable::Domain => at.and_then(|at| user.get(at + 1..)).unwrap_or_default().to_vec(),
            Variable::Percent => b"%".to_vec(),
            Variable::Hashed(hash) => hash.value(user),
        }
    }
}

impl HashFunction {
    fn value(&self, user: &[u8]) -> Vec<u8> {
        let salt = expand(&self.salt, user);
        let mut digest = self.of.value(user);
        for _ in 0..self.rounds {
            digest = self.algorithm.digest(&salt, &digest);
        }
        if self.truncate_bits > 0 {
            keep_leading_bits(&mut digest, self.truncate_bits);
        }
        hex(&digest)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(format: &str, user: &str) -> u32 {
        UsernameHash::parse(format).unwrap().hash(user.as_bytes())
    }

    fn expanded(format: &str, user: &str) -> String {
        String::from_utf8_lossy(&expand(
            &parse_template(format.as_bytes()).unwrap(),
            user.as_bytes(),
        ))
        .into_owned()
    }

    // printf %s USER | md5sum
    #[test]
    fn hashes_that_md5sum_confirms() {
        assert_eq!(hash("%Lu", "user1"), 0x24c9_e15e);
        assert_eq!(hash("%Lu", "USER1"), 0x24c9_e15e);
        assert_eq!(hash("%u", ""), 0xd41d_8cd9);
        assert_eq!(hash("%n", "user1@example.org"), 0x24c9_e15e);
        assert_eq!(hash("", "anyone"), 0xd41d_8cd9);
    }

    #[test]
    fn only_ascii_letters_are_folded() {
        assert_eq!(hash("%Lu", "Ä"), hash("%u", "Ä"));
        assert_ne!(hash("%Lu", "Ä"), hash("%Lu", "ä"));
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
            ("%R3u", ""),
        ] {
            if format == "%R3u" {
                assert!(UsernameHash::parse(format).is_err());
            } else {
                assert_eq!(expanded(format, "abcdefghij"), expected, "{format}");
            }
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

    #[test]
    fn formats_that_are_refused() {
        for format in [
            "%x",
            "%l",
            "%{user",
            "%{}",
            "%{User}",
            "%{nosuch}",
            "%{md5:nosuch}",
            "%{md5}",
            "%{MD5:user}",
            "%{hostname}",
            "%{pid}",
            "%{env:HOME}",
            "%{md5;rounds=0:user}",
            "%{md5;rounds=x:user}",
            "%{md5;salt=%x:user}",
            "%{md5;format=base64:user}",
            "%{pkcs5:user}",
            "%LLLLLLLLLLLu",
            "%{md5;rounds=100001:user}",
            "%065536u",
            "%099999999999u",
            "%0999999999u",
        ] {
            let error = UsernameHash::parse(format).expect_err(format);
            assert!(error.to_string().contains(format), "{error}");
        }
        let deep = format!("%{{{}user}}", "md5:".repeat(100_000));
        assert!(UsernameHash::parse(deep).is_err());
    }

    // printf %s user6425916608 | md5sum: 00000000…
    #[test]
    fn zero_becomes_one() {
        for format in ["%u", "%Lu", "%n"] {
            assert_eq!(hash(format, "user6425916608"), 1, "{format}");
        }
    }

    proptest! {
        #[test]
        fn short_cuts_equal_the_template(user in prop::collection::vec(any::<u8>(), 0..200)) {
            for format in ["%u", "%Lu"] {
                let template = Shape::Template(parse_template(format.as_bytes()).unwrap());
                let template = UsernameHash { format: format.into(), shape: template };
                prop_assert_eq!(UsernameHash::parse(format).unwrap().hash(&user), template.hash(&user));
            }
        }

        #[test]
        fn any_format_is_parsed_or_refused(
            format in prop::collection::vec(prop_oneof![
                any::<u8>(),
                prop::sample::select(b"%%%%{}0123456789.-LUEXRHNMDTund:;=,\\".to_vec()),
            ], 0..24),
            user in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Ok(parsed) = UsernameHash::parse(&format) {
                prop_assert_ne!(parsed.hash(&user), 0);
            }
        }
    }
}
