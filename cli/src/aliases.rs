//! sendmail's alias files, as `newaliases` reads them (aliases(5); `readaliases` in
//! `alias.c` of sendmail 8.17, seen to be so).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// An alias as it stands in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Its line in the file, from 1.
    pub line: u64,
    /// What stands before the colon, without blanks around it.
    pub name: Vec<u8>,
    /// What stands after it, on all its lines.
    pub value: Vec<u8>,
}

/// A line that makes no alias, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Where an alias leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A name or address, which may be an alias itself.
    Name(Vec<u8>),
    /// A name after a backslash, which is no alias.
    Final(Vec<u8>),
    /// The addresses in a file.
    Include(PathBuf),
    /// Several addresses.
    Several,
    /// A program or file.
    NoMailbox,
    /// Something else, such as `error:nouser`, or with quotes or a comment.
    Other,
}

/// Reads an alias file. Lines that are wrong make no alias, as for newaliases, and take
/// nothing with them.
pub fn parse(text: &[u8]) -> (Vec<Alias>, Vec<BadLine>) {
    let mut aliases = Vec::new();
    let mut bad = Vec::new();
    let mut lines = logical_lines(text).peekable();
    while let Some((line, mut content)) = lines.next() {
        let continuation = |next: &(u64, Vec<u8>)| next.1.starts_with(b" ") || next.1.starts_with(b"\t");
        let problem = match content.first() {
            None | Some(b'#') => continue,
            Some(b' ' | b'\t') => {
                // One complaint for all of them.
                while lines.next_if(continuation).is_some() {}
                Err("it starts with a blank, and continues no alias")
            }
            Some(_) => {
                while let Some((_, more)) = lines.next_if(continuation) {
                    content.extend(more);
                }
                alias(line, &content)
            }
        };
        match problem {
            Ok(alias) => aliases.push(alias),
            Err(problem) => bad.push(BadLine { line, problem }),
        }
    }
    (aliases, bad)
}

/// The lines with their numbers, from 1; one that ends in a backslash is one with the next.
fn logical_lines(text: &[u8]) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let mut lines = (1..).zip(text.split_inclusive(|byte| *byte == b'\n'));
    std::iter::from_fn(move || {
        let (number, line) = lines.next()?;
        let mut content = line.to_vec();
        while content.ends_with(b"\\\n")
            && let Some((_, more)) = lines.next()
        {
            content.truncate(content.len().saturating_sub(2));
            content.extend_from_slice(more);
        }
        // What follows a NUL is not there for C.
        content.truncate(
            content
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(content.len()),
        );
        content.truncate(content.strip_suffix(b"\n").unwrap_or(&content).len());
        Some((number, content))
    })
}

fn alias(line: u64, content: &[u8]) -> Result<Alias, &'static str> {
    let mut is_quoted = false;
    let colon = content.iter().position(|byte| {
        is_quoted ^= *byte == b'"';
        *byte == b':' && !is_quoted
    });
    let (name, value) = colon
        .and_then(|colon| content.split_at_checked(colon))
        .ok_or("it has no colon")?;
    let (name, value) = (name.trim_ascii(), value.get(1..).unwrap_or_default().trim_ascii());
    if name.is_empty() {
        return Err("nothing stands before the colon");
    }
    if value.is_empty() {
        return Err("nothing stands after the colon");
    }
    Ok(Alias {
        line,
        name: name.to_vec(),
        value: value.to_vec(),
    })
}

/// Where the value of an alias leads.
pub fn target(value: &[u8]) -> Target {
    let mut addresses = addresses(value);
    let (Some(address), None) = (addresses.next(), addresses.next()) else {
        return Target::Several;
    };
    let unquoted = address.strip_prefix(b"\"").unwrap_or(address);
    match address {
        [b'\\', name @ ..] if is_plain(name) => Target::Final(name.to_vec()),
        name if is_plain(name) => Target::Name(name.to_vec()),
        _ if unquoted.starts_with(b"|") || unquoted.starts_with(b"/") => Target::NoMailbox,
        _ => match address.split_at_checked(INCLUDE.len()) {
            Some((keyword, file)) if keyword.eq_ignore_ascii_case(INCLUDE) => {
                Target::Include(OsStr::from_bytes(file.trim_ascii()).into())
            }
            _ => Target::Other,
        },
    }
}

const INCLUDE: &[u8] = b":include:";

/// Where the content of an `:include:` file leads: comments and empty lines are skipped.
pub fn included(text: &[u8]) -> Target {
    let lines = text.split(|byte| *byte == b'\n');
    let lines: Vec<&[u8]> = lines.filter(|line| !line.starts_with(b"#")).collect();
    target(&lines.join(&b','))
}

/// The parts between commas that are outside of quotes and comments.
fn addresses(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped, mut comments) = (false, false, 0u32);
    let parts = value.split(move |byte| {
        if std::mem::take(&mut is_escaped) {
            return false;
        }
        match byte {
            b'\\' => is_escaped = true,
            b'"' if comments == 0 => is_quoted = !is_quoted,
            b'(' if !is_quoted => comments = comments.saturating_add(1),
            b')' if !is_quoted => comments = comments.saturating_sub(1),
            _ => {}
        }
        *byte == b',' && !is_quoted && comments == 0
    });
    parts
        .map(<[u8]>::trim_ascii)
        .filter(|address| !address.is_empty())
}

/// Whether a name is one recipient to sendmail as it stands, in a local domain or with one:
/// there is syntax for commas, blanks, quotes, brackets and more, a name that begins with `|`
/// or `/` is a program or file, and newaliases takes no bytes from 0x80 to 0x9f.
pub fn is_plain(name: &[u8]) -> bool {
    let plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0xa0 || b"._-+=@'#$&*/?^`{|}~".contains(byte);
    !matches!(name, [] | [b'|' | b'/', ..]) && name.len() < 200 && name.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, name and value of each alias, and the lines that are wrong.
    fn parsed(text: &str) -> (Vec<(u64, String, String)>, Vec<u64>) {
        let (aliases, bad) = parse(text.as_bytes());
        let string = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let aliases = aliases.into_iter();
        (
            aliases
                .map(|alias| (alias.line, string(alias.name), string(alias.value)))
                .collect(),
            bad.into_iter().map(|bad| bad.line).collect(),
        )
    }

    #[test]
    fn lines_continue_after_a_backslash_and_with_a_blank() {
        let (aliases, bad) = parsed(
            "# ours\n\nInfo : anna\nmany: anna,\n  bert,\n\tcarla\nback: an\\\nna\n\"a:b\": anna\nlater:\n anna\nlast: \\anna",
        );
        let expected = [
            (3, "Info", "anna"),
            (4, "many", "anna,  bert,\tcarla"),
            (7, "back", "anna"),
            (9, "\"a:b\"", "anna"),
            (10, "later", "anna"),
            (12, "last", "\\anna"),
        ];
        let expected: Vec<_> = expected
            .map(|(line, name, value)| (line, name.into(), value.into()))
            .into();
        assert_eq!(aliases, expected);
        assert_eq!(bad, [0; 0]);
    }

    #[test]
    fn a_broken_line_takes_nothing_with_it() {
        let (aliases, bad) =
            parsed("# c\n  x: anna\n  y: anna\ninfo: anna\nno colon\n more\nempty:\n: anna\nb: bert");
        let aliases: Vec<_> = aliases.into_iter().map(|(line, name, _)| (line, name)).collect();
        assert_eq!(aliases, [(4, "info".into()), (9, "b".into())]);
        assert_eq!(bad, [2, 5, 7, 8]);
    }

    #[test]
    fn targets() {
        let name = |name: &str| Target::Name(name.into());
        for (value, expected) in [
            ("anna", name("anna")),
            (" anna+box@example.org ,", name("anna+box@example.org")),
            ("\\anna", Target::Final("anna".into())),
            ("anna, bert", Target::Several),
            (",", Target::Several),
            ("\"|/usr/bin/prog a, b\"", Target::NoMailbox),
            ("|/usr/bin/prog", Target::NoMailbox),
            ("/var/mail/archive", Target::NoMailbox),
            (
                ":Include: /etc/mail/list",
                Target::Include("/etc/mail/list".into()),
            ),
            ("error:nouser", Target::Other),
            ("anna (Anna, or so)", Target::Other),
            ("anna # why", Target::Other),
            ("\"a,b\"", Target::Other),
            ("r&d/a|b", name("r&d/a|b")),
            ("a!b", Target::Other),
        ] {
            assert_eq!(target(value.as_bytes()), expected, "{value}");
        }
        assert_eq!(included(b"# members\n\nanna\n"), name("anna"));
        assert_eq!(included(b"anna\nbert\n"), Target::Several);
        assert_eq!(included(b""), Target::Several);
    }
}
