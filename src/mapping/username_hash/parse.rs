//! Reads a format. The grammar is that of Dovecot's var-expand.

use std::cmp::Ordering;

#[derive(Clone, Debug)]
pub(super) enum Segment {
    Literal(Vec<u8>),
    Field(Field),
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) offset: i32,
    pub(super) width: i32,
    pub(super) zero_padding: bool,
    pub(super) modifiers: Vec<Modifier>,
    pub(super) variable: Variable,
}

#[derive(Clone, Debug)]
pub(super) enum Variable {
    User,
    LocalPart,
    Domain,
    Percent,
    Hashed(Box<HashFunction>),
    If(Box<Conditional>),
}

#[derive(Clone, Debug)]
pub(super) struct HashFunction {
    pub(super) algorithm: Algorithm,
    pub(super) rounds: u32,
    /// 0 keeps the whole digest.
    pub(super) truncate_bits: u32,
    pub(super) salt: Vec<Segment>,
    pub(super) of: Variable,
}

#[derive(Clone, Debug)]
pub(super) struct Conditional {
    pub(super) left: Vec<Segment>,
    pub(super) operator: Operator,
    pub(super) right: Vec<Segment>,
    pub(super) if_true: Vec<Segment>,
    pub(super) if_false: Vec<Segment>,
}

/// How two values are compared, and for which outcome the condition holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operator {
    Number(fn(Ordering) -> bool),
    Text(fn(Ordering) -> bool),
    Wildcards(bool),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Modifier {
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

/// A larger number of bytes to pad to serves no format.
const MAX_PADDING: i32 = 65_535;
/// As many take a lookup a tenth of a second or so, unless the salt is long.
const MAX_ROUNDS: u32 = 100_000;
/// Dovecot looks for a variable after so many modifiers.
const MAX_MODIFIERS: usize = 10;
/// Hash functions, salts and conditions can nest; none that serves does so deeply.
const MAX_DEPTH: usize = 16;

/// The segments of a format, or what is wrong with it.
pub(super) fn parse(format: &[u8]) -> Result<Vec<Segment>, String> {
    parse_nested(format, 0)
}

fn parse_nested(format: &[u8], depth: usize) -> Result<Vec<Segment>, String> {
    check_depth(depth)?;
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

fn check_depth(depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("hash functions, salts or conditions are nested too deeply".into());
    }
    Ok(())
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
    // Each could double what the next conditional around it gets.
    if matches!(variable, Variable::If(_)) && modifiers.contains(&Modifier::Escape) {
        return Err("the modifier E cannot stand before {if}".into());
    }
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
    check_depth(depth)?;
    let mut halves = name.splitn(2, |&b| b == b':');
    let function = halves.next().unwrap_or_default();
    let of = halves.next();
    let mut parts = function.splitn(2, |&b| b == b';');
    let algorithm = parts.next().unwrap_or_default();
    let arguments = parts.next().unwrap_or_default();
    if algorithm.eq_ignore_ascii_case(b"if") {
        return parse_conditional(name, depth).map(|conditional| Variable::If(Box::new(conditional)));
    }
    match (Algorithm::from_name(algorithm), of) {
        (Some(algorithm), Some(of)) => {
            let of = parse_long_variable(of, depth + 1)?;
            parse_hash_function(algorithm, arguments, of, depth).map(|hash| Variable::Hashed(Box::new(hash)))
        }
        _ => Err(format!(
            "unknown variable %{{{}}}; supported are user, username, domain, md5, sha1, sha256, sha512 of them, and if",
            name.escape_ascii()
        )),
    }
}

fn parse_conditional(name: &[u8], depth: usize) -> Result<Conditional, String> {
    let operands = operands(name);
    let count = operands.len();
    let [left, operator, right, if_true, if_false] = operands.try_into().map_err(|_| {
        format!("%{{if}} has {count} operands in place of value, operator, value, and one or two results")
    })?;
    let parse = |operand: Vec<u8>| parse_nested(&operand, depth + 1);
    Ok(Conditional {
        left: parse(left)?,
        operator: Operator::from_name(&operator)?,
        right: parse(right)?,
        if_true: parse(if_true)?,
        if_false: parse(if_false)?,
    })
}

/// What stands behind the first `;`, parted by further ones. As in Dovecot, a `:` ends it,
/// a `\` before any byte makes this ordinary text and is gone afterwards (so none is left
/// for a nested conditional), and the last result can be left out.
fn operands(name: &[u8]) -> Vec<Vec<u8>> {
    let mut operands = Vec::new();
    let mut operand = Vec::new();
    let mut depth = 0u32;
    let (mut escaped, mut after_percent) = (false, false);
    // Dovecot looks for a `:` in the name and puts one at its end without.
    let end: &[u8] = if name.contains(&b':') { b"" } else { b":" };
    for &byte in name.iter().skip_while(|&&b| b != b';').skip(1).chain(end) {
        match byte {
            b'\\' => {
                escaped = true;
                continue;
            }
            _ if escaped => escaped = false,
            b'%' => after_percent = true,
            b'{' if after_percent => {
                depth += 1;
                after_percent = false;
            }
            b'}' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => {
                operands.push(std::mem::take(&mut operand));
                continue;
            }
            b':' if depth == 0 => break,
            _ => {}
        }
        operand.push(byte);
    }
    if !operand.is_empty() || operands.len() == 4 {
        operands.push(operand);
    }
    if operands.len() == 4 {
        operands.push(Vec::new());
    }
    operands
}

impl Operator {
    fn from_name(name: &[u8]) -> Result<Operator, String> {
        Ok(match name {
            b"==" => Operator::Number(Ordering::is_eq),
            b"!=" => Operator::Number(Ordering::is_ne),
            b"<" => Operator::Number(Ordering::is_lt),
            b"<=" => Operator::Number(Ordering::is_le),
            b">" => Operator::Number(Ordering::is_gt),
            b">=" => Operator::Number(Ordering::is_ge),
            b"eq" => Operator::Text(Ordering::is_eq),
            b"ne" => Operator::Text(Ordering::is_ne),
            b"lt" => Operator::Text(Ordering::is_lt),
            b"le" => Operator::Text(Ordering::is_le),
            b"gt" => Operator::Text(Ordering::is_gt),
            b"ge" => Operator::Text(Ordering::is_ge),
            b"*" => Operator::Wildcards(true),
            b"!*" => Operator::Wildcards(false),
            b"~" | b"!~" => {
                return Err(format!(
                    "%{{if}} with {}, a regular expression, is not supported; use * or !* with * and ?",
                    name.escape_ascii()
                ));
            }
            _ => {
                return Err(format!(
                    "unknown operator \"{}\" of %{{if}}; supported are == != < <= > >= eq ne lt le gt ge * !*",
                    name.escape_ascii()
                ));
            }
        })
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "%R3u",
            "%{md5;rounds=100001:user}",
            "%065536u",
            "%099999999999u",
            "%0999999999u",
            "%{if}",
            "%{if;%d;eq;x}",
            "%{if;%d;eq;x;%n;%u;%d}",
            "%{if;%d;=;x;%n;%u}",
            "%{if;%d;~;x;%n;%u}",
            "%{if;%x;eq;x;%n;%u}",
            "%{if;%d;eq;x;%n;%{user}",
            "%E{if;%d;eq;x;%n;%u}",
        ] {
            assert!(parse(format.as_bytes()).is_err(), "{format}");
        }
        let deep = format!("%{{{}user}}", "md5:".repeat(100_000));
        assert!(parse(deep.as_bytes()).is_err());
        let deep = format!("{}{}", "%{if;a;eq;a;".repeat(10_000), "}".repeat(10_000));
        assert!(parse(deep.as_bytes()).is_err());
    }
}
