//! What sendmail's configuration file says of its aliases and its own domains (`readcf`
//! and `setoption` in `readcf.c`, `setalias` in `alias.c` of sendmail 8.17, seen to be so).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use mailaffinity::files::regular_file;

/// Where it is unless sendmail's command names one by `-C`.
const SENDMAIL_CF: &str = "/etc/mail/sendmail.cf";
const LONGEST: u64 = 1 << 26;
/// The kinds of alias databases that newaliases makes of a file.
const KINDS: [&str; 5] = ["hash", "btree", "dbm", "cdb", "implicit"];
/// The shortest name that sendmail takes for the option `AliasFile`, and not `AliasWait`.
const SHORTEST: &str = "AliasF";

/// The file of a command that is sendmail.
pub(crate) fn path(command: &[String]) -> PathBuf {
    let mut words = command.iter();
    let after = words.find_map(|word| word.strip_prefix("-C"));
    match after {
        Some("") => words.next().map_or(SENDMAIL_CF, |word| word.as_str()),
        Some(file) => file,
        None => SENDMAIL_CF,
    }
    .into()
}

/// Its lines: without comments, and each that begins with a blank in one with the line before.
pub(crate) struct Lines(Vec<Vec<u8>>);

impl Lines {
    pub(crate) fn read(command: &[String]) -> io::Result<Lines> {
        regular_file::read(&path(command), LONGEST).map(|text| Lines::of(&text))
    }

    fn of(text: &[u8]) -> Lines {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            let line = without_comment(line);
            match lines.last_mut() {
                Some(last) if line.starts_with(b" ") || line.starts_with(b"\t") => {
                    last.extend_from_slice(line);
                }
                _ => lines.push(line.to_vec()),
            }
        }
        Lines(lines)
    }

    /// The alias files, and what else stands where they are named.
    pub(crate) fn alias_files(&self) -> (Vec<PathBuf>, Vec<String>) {
        let (mut files, mut others) = (Vec::new(), Vec::new());
        let options = self.0.iter().filter_map(|line| alias_file(line));
        for database in options.flat_map(|value| value.split(|byte| *byte == b',')) {
            let database = database.trim_ascii();
            let kind = database.iter().position(|byte| *byte == b':');
            let (kind, rest) = kind
                .and_then(|colon| database.split_at_checked(colon))
                .unwrap_or((b"", database));
            let rest = rest.strip_prefix(b":").unwrap_or(rest);
            // Options come before the path.
            let path = rest
                .split(|byte| *byte == b' ')
                .find(|word| !word.is_empty() && !word.starts_with(b"-"));
            let is_file = kind.is_empty() || KINDS.iter().any(|known| known.as_bytes() == kind);
            match path {
                Some(path) if is_file && path.starts_with(b"/") => files.push(OsStr::from_bytes(path).into()),
                _ if database.is_empty() => {}
                _ => others.push(database.escape_ascii().to_string()),
            }
        }
        (files, others)
    }

    /// The files that class w comes from; `None` if it comes from a program or a map, too.
    pub(crate) fn class_w_files(&self) -> Option<Vec<PathBuf>> {
        let classes = self.0.iter().filter_map(|line| line.strip_prefix(b"F"));
        classes
            .filter_map(|line| line.strip_prefix(b"w").or_else(|| line.strip_prefix(b"{w}")))
            .map(|file| {
                let mut words = file
                    .split(u8::is_ascii_whitespace)
                    .filter(|word| !word.is_empty());
                let path = words.find(|word| !word.starts_with(b"-o"))?;
                path.starts_with(b"/").then(|| OsStr::from_bytes(path).into())
            })
            .collect()
    }
}

/// `$#` and `\#` begin no comment.
fn without_comment(line: &[u8]) -> &[u8] {
    let mut before = b'\n';
    let end = line.iter().position(|byte| {
        let before = std::mem::replace(&mut before, *byte);
        *byte == b'#' && before != b'$' && before != b'\\'
    });
    end.and_then(|end| line.get(..end)).unwrap_or(line)
}

/// The value of the option `AliasFile`, or `A`, if the line sets it.
fn alias_file(line: &[u8]) -> Option<&[u8]> {
    let option = line.strip_prefix(b"O")?;
    if let Some(value) = option.strip_prefix(b"A") {
        return Some(value);
    }
    let option = option.strip_prefix(b" ")?;
    let (name, value) = option.split_at_checked(option.iter().position(|byte| *byte == b'=')?)?;
    let name = name.trim_ascii_end();
    let is_prefix = b"AliasFile"
        .get(..name.len())
        .is_some_and(|part| part.eq_ignore_ascii_case(name));
    (is_prefix && name.len() >= SHORTEST.len()).then(|| value.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn where_it_is() {
        let path = |words: &[&str]| path(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
        assert_eq!(path(&["/usr/sbin/sendmail"]), Path::new(SENDMAIL_CF));
        assert_eq!(path(&["/s", "-C", "/a.cf", "-x"]), Path::new("/a.cf"));
        assert_eq!(path(&["/s", "-C/a.cf"]), Path::new("/a.cf"));
    }

    #[test]
    fn where_the_aliases_are() {
        let (files, others) = Lines::of(
            b"#O AliasFile=/no\nO AliasFile=/etc/aliases, hash:/a/b,cdb: -o /c,ldap:-k (x\nO AliasWait=10\n",
        )
        .alias_files();
        assert_eq!(files, ["/etc/aliases", "/a/b", "/c"].map(PathBuf::from));
        assert_eq!(others, ["ldap:-k (x"]);
        assert_eq!(Lines::of(b"\xff\0").alias_files(), Default::default());
    }

    #[test]
    fn where_its_domains_are() {
        let found = |text: &[u8]| Lines::of(text).class_w_files();
        assert_eq!(
            found(b"Fw/a\nF{w}-o /b %[^\\#]\nFw -o /c # here\nFx/no\nF{wx}/no\nCwlocalhost\n"),
            Some(["/a", "/b", "/c"].map(PathBuf::from).into())
        );
        assert_eq!(found(b"Cwlocalhost\n"), Some(vec![]));
        for other in [&b"Fw|/bin/prog\n"[..], b"Fw/a\nF{w}@LDAP\n", b"Fw\n"] {
            assert_eq!(found(other), None, "{}", other.escape_ascii());
        }
    }
}
