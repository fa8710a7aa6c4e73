//! Which users there are.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::child::{self, ChildError};
use mailaffinity::config::UserSource;
use mailaffinity::files::regular_file;

/// More than any list of users has.
const LONGEST_FILE: u64 = 1 << 30;

/// How much of a line an error shows.
const SHOWN: usize = 100;

/// Why there is no list of users: a sentence that names the source.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsersError(String);

impl From<ChildError> for UsersError {
    fn from(error: ChildError) -> UsersError {
        UsersError(error.to_string())
    }
}

/// A list of users as its source gave it.
#[derive(Debug)]
pub struct UserList<'s> {
    source: &'s UserSource,
    text: Vec<u8>,
}

/// The users of a source, each once, in its order.
///
/// # Errors
/// Those of [`read`] and [`UserList::for_each`].
pub fn list(source: &UserSource, timeout: Duration) -> Result<Vec<Vec<u8>>, UsersError> {
    let list = read(source, timeout)?;
    let mut seen = HashSet::new();
    let mut users = Vec::new();
    list.for_each(|name| {
        if seen.insert(name) {
            users.push(name.to_vec());
        }
    })?;
    Ok(users)
}

/// Asks a source for its users. [`UserSource::Nss`] and [`UserSource::Command`] run a
/// program, which is ended at `timeout`.
///
/// # Errors
/// When the source cannot be read, is not finished in time or has more than 1 GiB, and
/// when a program fails.
pub fn read(source: &UserSource, timeout: Duration) -> Result<UserList<'_>, UsersError> {
    let output = |command: &[String]| child::run(command, b"", timeout)?.success();
    let text = match source {
        UserSource::Nss { .. } => output(&["getent".into(), "passwd".into()])?,
        UserSource::File(path) => regular_file::read(path, LONGEST_FILE).map_err(|error| {
            UsersError(format!(
                "{}: cannot read the list of users: {error}",
                path.display()
            ))
        })?,
        UserSource::Command(command) => output(command)?,
    };
    Ok(UserList { source, text })
}

impl UserList<'_> {
    /// All that the source gave.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Calls `each` for each name in the list, in its order; a user who is there several
    /// times comes several times.
    ///
    /// A name is what stands on its line, byte for byte: blanks and a carriage return
    /// belong to it. Empty lines are skipped; the last line need not end in a newline.
    ///
    /// # Errors
    /// When there is none, or something is no passwd entry.
    pub fn for_each<'t>(&'t self, mut each: impl FnMut(&'t [u8])) -> Result<(), UsersError> {
        let mut is_empty = true;
        let mut each = |name| {
            is_empty = false;
            each(name);
        };
        let source = match self.source {
            UserSource::Nss { uid_min, uid_max } => {
                for name in parse_passwd(&self.text, *uid_min..=*uid_max) {
                    each(name.map_err(|problem| UsersError(format!("getent passwd: {problem}")))?);
                }
                "getent passwd".into()
            }
            UserSource::File(path) => {
                parse_names(&self.text, Comments::Skip).for_each(each);
                path.display().to_string()
            }
            UserSource::Command(command) => {
                parse_names(&self.text, Comments::AreNames).for_each(each);
                child::name(command)
            }
        };
        if !is_empty {
            return Ok(());
        }
        let which = match self.source {
            UserSource::Nss { uid_min, uid_max } => format!(" with a uid from {uid_min} to {uid_max}"),
            _ => String::new(),
        };
        Err(UsersError(format!("{source} lists no user{which}")))
    }
}

/// The names of the passwd entries whose uid is one of `uids`, or a sentence on a line
/// that is no passwd entry.
#[doc(hidden)]
pub fn parse_passwd(text: &[u8], uids: RangeInclusive<u32>) -> impl Iterator<Item = Result<&[u8], String>> {
    (1u64..)
        .zip(lines(text))
        .filter_map(move |(number, line)| match passwd_entry(line) {
            Some((name, uid)) => uids.contains(&uid).then_some(Ok(name)),
            None => {
                let shown = line.get(..SHOWN).unwrap_or(line).escape_ascii();
                Some(Err(format!("line {number} is not a passwd entry: {shown}")))
            }
        })
}

/// Name and uid of `name:password:uid:gid:gecos:home:shell`. The shell is the rest of
/// the line, as for the C library.
fn passwd_entry(line: &[u8]) -> Option<(&[u8], u32)> {
    let mut fields = line.splitn(7, |byte| *byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let _password = fields.next()?;
    let uid = number(fields.next()?)?;
    let _gid = number(fields.next()?)?;
    (fields.count() == 3).then_some((name, uid))
}

fn number(digits: &[u8]) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

/// What lines that start with `#` are.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comments {
    Skip,
    AreNames,
}

/// The lines that are not empty.
#[doc(hidden)]
pub fn parse_names(text: &[u8], comments: Comments) -> impl Iterator<Item = &[u8]> {
    lines(text)
        .filter(|line| !line.is_empty())
        .filter(move |line| comments == Comments::AreNames || !line.starts_with(b"#"))
}

/// The lines of a text whose last newline is optional.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use std::fs;

    use super::*;

    /// Far more than anything here takes: reached only when something hangs.
    const LONG: Duration = Duration::from_secs(60);

    fn sh(script: &str) -> UserSource {
        UserSource::Command(vec!["sh".into(), "-c".into(), script.into()])
    }

    fn error(source: &UserSource) -> String {
        list(source, LONG).unwrap_err().to_string()
    }

    fn file(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn passwd(text: &[u8], uids: RangeInclusive<u32>) -> Result<Vec<&[u8]>, String> {
        parse_passwd(text, uids).collect()
    }

    #[test]
    fn nss_lists_those_of_etc_passwd() {
        let local = fs::read("/etc/passwd").unwrap();
        for (uid_min, uid_max) in [(0, u32::MAX), (0, 0), (1, 999)] {
            let listed = list(&UserSource::Nss { uid_min, uid_max }, LONG).unwrap();
            let expected = passwd(&local, uid_min..=uid_max).unwrap();
            // Other services may list more after them.
            assert_eq!(listed[..expected.len()], expected);
            assert_eq!(listed.contains(&b"root".to_vec()), uid_min == 0);
        }
    }

    #[test]
    fn nss_without_anybody_in_the_range() {
        let nobody = UserSource::Nss {
            uid_min: 4_294_967_000,
            uid_max: 4_294_967_001,
        };
        assert_eq!(
            error(&nobody),
            "getent passwd lists no user with a uid from 4294967000 to 4294967001"
        );
        let turned_round = UserSource::Nss {
            uid_min: 1,
            uid_max: 0,
        };
        assert!(list(&turned_round, LONG).is_err());
    }

    #[test]
    fn passwd_entries() {
        let text = b"anna:x:1000:100:Anna \xc4, Room 1,,:/home/anna:/bin/sh\n\
            b\xe9rt:*:1001:100:::\n\
            carla:x:1002:100::/:/bin/sh:x\n\
            daemon:x:1:1::/:/bin/sh";
        let expected: [&[u8]; 3] = [b"anna", b"b\xe9rt", b"carla"];
        assert_eq!(passwd(text, 1000..=60000).unwrap(), expected);
        assert!(passwd(b"", 0..=9).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_passwd_entry_is_named() {
        for line in [
            "",
            "anna",
            ":x:1:1::/:/bin/sh",
            "anna:x:1:1::/",
            "anna:x::1::/:/bin/sh",
            "anna:x:+1:1::/:/bin/sh",
            "anna:x:-1:1::/:/bin/sh",
            "anna:x:4294967296:1::/:/bin/sh",
            "anna:x:1:users::/:/bin/sh",
        ] {
            let text = format!("root:x:0:0::/:/bin/sh\n{line}\n");
            let expected = format!("line 2 is not a passwd entry: {line}");
            assert_eq!(passwd(text.as_bytes(), 5..=9), Err(expected));
        }
        assert_eq!(
            passwd(b"\x1b[1m\xff\n", 5..=9).unwrap_err(),
            "line 1 is not a passwd entry: \\x1b[1m\\xff"
        );
        assert!(passwd(&[b'a'; 100_000], 5..=9).unwrap_err().len() < 200);
    }

    #[test]
    fn names_of_files_are_bytes() {
        let (_folder, path) = file(b"# ours\nanna\n\n b\xe9rt \ncarla\r\nanna\n#\nlast#");
        let names = list(&UserSource::File(path), Duration::ZERO).unwrap();
        let expected: [&[u8]; 4] = [b"anna", b" b\xe9rt ", b"carla\r", b"last#"];
        assert_eq!(names, expected);
    }

    #[test]
    fn files_that_list_nobody_or_are_no_files() {
        let (folder, path) = file(b"# nobody\n\n");
        assert_eq!(
            error(&UserSource::File(path.clone())),
            format!("{} lists no user", path.display())
        );
        let absent = folder.path().join("absent");
        assert_eq!(
            error(&UserSource::File(absent.clone())),
            format!(
                "{}: cannot read the list of users: No such file or directory (os error 2)",
                absent.display()
            )
        );
        assert_eq!(
            error(&UserSource::File("/dev/zero".into())),
            "/dev/zero: cannot read the list of users: it is not a regular file"
        );
        assert_eq!(regular_file::read(&path, 10).unwrap(), b"# nobody\n\n");
        assert_eq!(
            regular_file::read(&path, 9).unwrap_err().to_string(),
            "it is too long"
        );
    }

    #[test]
    fn commands_list_names() {
        let names = list(&sh("printf 'anna\\n#bert\\n\\nanna\\ncarla'"), LONG).unwrap();
        let expected: [&[u8]; 3] = [b"anna", b"#bert", b"carla"];
        assert_eq!(names, expected);
        let names = list(&sh("seq -f user%.0f 100000"), LONG).unwrap();
        assert_eq!(
            (names.len(), names[99_999].as_slice()),
            (100_000, b"user100000".as_slice())
        );
    }

    #[test]
    fn commands_that_fail() {
        assert_eq!(
            error(&sh("echo anna; echo no passwd >&2; exit 75")),
            "sh -c echo anna; echo no passwd >&2; exit 75 ended with exit status 75: no passwd"
        );
        assert_eq!(error(&sh("true")), "sh -c true lists no user");
        assert_eq!(
            error(&UserSource::Command(vec![
                "/nonexistent/doveadm".into(),
                "user".into()
            ])),
            "/nonexistent/doveadm user cannot be run: No such file or directory (os error 2)"
        );
        assert!(list(&UserSource::Command(Vec::new()), LONG).is_err());
        let names = list(&sh("head -c 10000000 /dev/zero >&2; echo anna"), LONG).unwrap();
        assert_eq!(names, [b"anna"]);
    }

    #[test]
    fn commands_that_hang() {
        assert_eq!(
            list(&sh("echo anna; sleep 1000"), Duration::from_secs(1))
                .unwrap_err()
                .to_string(),
            "sh -c echo anna; sleep 1000 did not end within 1s and was stopped"
        );
    }
}
