//! Which users there are.

use std::collections::HashSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::child::{self, ChildError};
use crate::exit::Status;
use crate::nss;
use mailaffinity::config::UserSource;
use mailaffinity::files::regular_file;

/// More than any list of users has.
const LONGEST_FILE: u64 = 1 << 30;

/// How much of a line an error shows.
const SHOWN: usize = 100;

/// Why there is no list of users: a sentence that names the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsersError {
    /// The file cannot be read.
    #[error("{}: cannot read the list of users: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        error: io::Error,
    },
    /// The program that lists them failed.
    #[error("{0}")]
    Program(String),
    /// The list makes no sense.
    #[error("{0}")]
    List(String),
}

impl UsersError {
    /// The exit status that tells it.
    pub(crate) fn status(&self) -> Status {
        match self {
            UsersError::File { .. } => Status::IoError,
            UsersError::Program(_) => Status::Unavailable,
            UsersError::List(_) => Status::DataErr,
        }
    }
}

impl From<ChildError> for UsersError {
    fn from(error: ChildError) -> UsersError {
        UsersError::Program(error.to_string())
    }
}

/// A list of users as its source gave it.
#[derive(Debug)]
pub struct UserList<'s> {
    source: &'s UserSource,
    timeout: Duration,
    text: Vec<u8>,
    /// The services that need not list whom they know.
    unlisting: Vec<String>,
}

/// How many accounts are left out by their uids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideUids {
    /// Below `uid_min`.
    pub below: usize,
    /// Above `uid_max`.
    pub above: usize,
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

/// What the administrator should know of services of the system's accounts that may have
/// users and list none, a sentence for each.
pub(crate) fn silent_services(source: &UserSource, timeout: Duration) -> Vec<String> {
    match source {
        UserSource::Nss { .. } => nss::silent_services(&nss::unlisting_services(), timeout),
        UserSource::File(_) | UserSource::Command(_) => Vec::new(),
    }
}

/// Asks a source for its users. [`UserSource::Nss`] and [`UserSource::Command`] run a
/// program, which is ended at `timeout`.
///
/// # Errors
/// When the source cannot be read, is not finished in time or has more than 1 GiB, and
/// when a program fails.
pub fn read(source: &UserSource, timeout: Duration) -> Result<UserList<'_>, UsersError> {
    let mut unlisting = Vec::new();
    let text = match source {
        UserSource::Nss { .. } => {
            unlisting = nss::unlisting_services();
            nss::getent(None, timeout)?
        }
        UserSource::File(path) => {
            regular_file::read(path, LONGEST_FILE).map_err(|error| UsersError::File {
                path: path.clone(),
                error,
            })?
        }
        UserSource::Command(command) => child::run(command, b"", timeout)?.success()?,
    };
    Ok(UserList {
        source,
        timeout,
        text,
        unlisting,
    })
}

impl UserList<'_> {
    /// All that the source gave.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The services of the system's accounts that need not list whom they know.
    pub(crate) fn unlisting_services(&self) -> &[String] {
        &self.unlisting
    }

    /// What the administrator should know of those that list nobody, a sentence for each.
    pub fn silent_services(&self) -> Vec<String> {
        nss::silent_services(&self.unlisting, self.timeout)
    }

    /// How many accounts are left out by their uids.
    pub fn outside_uids(&self) -> OutsideUids {
        let mut outside = OutsideUids::default();
        if let UserSource::Nss { uid_min, uid_max } = self.source {
            for (_, uid) in lines(&self.text).filter_map(passwd_entry) {
                outside.below += usize::from(uid < *uid_min);
                outside.above += usize::from(uid > *uid_max);
            }
        }
        outside
    }

    /// Calls `each` for each name in the list, in its order; a user who is there several
    /// times comes several times.
    ///
    /// A name is what stands on its line, byte for byte, blanks included. Empty lines are
    /// skipped; the last line need not end in a newline.
    ///
    /// # Errors
    /// When there is none, or something is no passwd entry or not a username.
    pub fn for_each<'t>(&'t self, mut each: impl FnMut(&'t [u8])) -> Result<(), UsersError> {
        match self.source {
            UserSource::Nss { uid_min, uid_max } => {
                let names = parse_passwd(&self.text, *uid_min..=*uid_max);
                let range = format!(" with a uid from {uid_min} to {uid_max}");
                all_of("getent passwd", names, &mut each, || {
                    [&[range][..], &self.silent_services()].concat().join("; ")
                })
            }
            UserSource::File(path) => {
                let names = parse_names(&self.text, Comments::Skip);
                all_of(&path.display().to_string(), names, &mut each, String::new)
            }
            UserSource::Command(command) => {
                let names = parse_names(&self.text, Comments::AreNames);
                all_of(&child::name(command), names, &mut each, String::new)
            }
        }
    }
}

/// Calls `each` for all names of a source, of which there must be one.
fn all_of<'t>(
    source: &str,
    names: impl Iterator<Item = Result<&'t [u8], String>>,
    each: &mut impl FnMut(&'t [u8]),
    whom: impl FnOnce() -> String,
) -> Result<(), UsersError> {
    let mut is_empty = true;
    for name in names {
        each(name.map_err(|problem| UsersError::List(format!("{source}: {problem}")))?);
        is_empty = false;
    }
    match is_empty {
        true => Err(UsersError::List(format!("{source} lists no user{}", whom()))),
        false => Ok(()),
    }
}

/// The names of the passwd entries whose uid is one of `uids`, or a sentence on a line
/// that is no passwd entry. Lines of NIS are skipped.
#[doc(hidden)]
pub fn parse_passwd(text: &[u8], uids: RangeInclusive<u32>) -> impl Iterator<Item = Result<&[u8], String>> {
    (1u64..)
        .zip(lines(text))
        .filter_map(move |(number, line)| match passwd_entry(line) {
            Some((name, uid)) => uids.contains(&uid).then_some(Ok(name)),
            None if is_of_nis(line) => None,
            None => {
                let shown = line.get(..SHOWN).unwrap_or(line).escape_ascii();
                Some(Err(format!("line {number} is not a passwd entry: {shown}")))
            }
        })
}

/// Whether it is a line such as `+::::::`, `+@group` or `-user`, which names accounts of
/// NIS under `passwd: compat` and is no account itself. Under `files`, glibc's `getent`
/// passes it on, and leaves out uid and gid of all names that begin so (`putpwent`).
fn is_of_nis(line: &[u8]) -> bool {
    let uid_and_gid = line.split(|byte| *byte == b':').skip(2).take(2);
    matches!(line.first(), Some(b'+' | b'-')) && uid_and_gid.flatten().next().is_none()
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

/// The lines that are not empty, or a sentence on one that is no username.
#[doc(hidden)]
pub fn parse_names(text: &[u8], comments: Comments) -> impl Iterator<Item = Result<&[u8], String>> {
    (1u64..)
        .zip(lines(text))
        .filter(|(_, line)| !line.is_empty())
        .filter(move |(_, line)| comments == Comments::AreNames || !line.starts_with(b"#"))
        .map(|(number, line)| username_on(number, line))
}

/// A username: any bytes but those that programs add to the lines of a list, and that no
/// user types.
///
/// # Errors
/// What of them it has, and what to do.
pub(crate) fn username(name: &[u8]) -> Result<&[u8], &'static str> {
    if name.starts_with("\u{feff}".as_bytes()) {
        return Err("begins with a byte order mark; make it UTF-8 without a BOM");
    }
    if name.ends_with(b"\r") {
        return Err("ends in a carriage return; end lines with LF and not CRLF, as \"sed 's/\\r$//'\" does");
    }
    Ok(name)
}

/// The same on a line of a list.
pub(crate) fn username_on(number: u64, line: &[u8]) -> Result<&[u8], String> {
    username(line).map_err(|problem| format!("line {number} {problem}"))
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
        let (_folder, path) = file(b"# ours\nanna\n\n b\xe9rt \nca\rrla\nanna\n#\nlast#");
        let names = list(&UserSource::File(path), Duration::ZERO).unwrap();
        let expected: [&[u8]; 4] = [b"anna", b" b\xe9rt ", b"ca\rrla", b"last#"];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_programs_add_to_lines_is_no_part_of_names() {
        let windows =
            "line 3 ends in a carriage return; end lines with LF and not CRLF, as \"sed 's/\\r$//'\" does";
        let mark = "line 1 begins with a byte order mark; make it UTF-8 without a BOM";
        for (text, problem) in [
            (&b"# ours\r\nanna\nbert\r\n"[..], windows),
            (b"anna\n\n\r\nbert\n", windows),
            (b"anna\n\nbert\r", windows),
            (b"\xef\xbb\xbfanna\nbert\n", mark),
            (b"\xef\xbb\xbf# ours\r\nanna\r\n", mark),
            (b"\xef\xbb\xbf\nanna\n", mark),
        ] {
            let (_folder, path) = file(text);
            assert_eq!(
                error(&UserSource::File(path.clone())),
                format!("{}: {problem}", path.display())
            );
            let cat = ["cat".into(), path.display().to_string()];
            let printed = error(&UserSource::Command(cat.into()));
            if text.starts_with(b"#") {
                assert!(
                    printed.contains(": line 1 ends in a carriage return"),
                    "{printed}"
                );
            } else {
                assert_eq!(printed, format!("cat {}: {problem}", path.display()));
            }
        }
        // Nobody edits the list of the system's accounts: one odd name stops no update.
        assert!(passwd(b"\xef\xbb\xbfanna:x:5:1::/:/bin/sh\n", 5..=9).is_ok());
    }

    #[test]
    fn lines_of_nis_are_skipped() {
        let of_nis =
            "+::::::\n+\n+@staff::::::\n-@guests\n-bert\n+carla::::Carla:/:/bin/sh\n+d:x::::/:/bin/sh\n";
        let text = format!("{of_nis}anna:x:5:1::/:/bin/sh\n");
        assert_eq!(passwd(text.as_bytes(), 5..=9).unwrap(), [b"anna"]);
        // Where uids are given, they are names like others.
        assert_eq!(passwd(b"+anna:x:5:1::/:/bin/sh\n", 5..=9).unwrap(), [b"+anna"]);
        for broken in ["+anna:x:5", "-anna:x:x:1::/:/bin/sh", "anna:x:::::"] {
            assert!(passwd(broken.as_bytes(), 5..=9).is_err(), "{broken}");
        }
    }

    #[test]
    fn accounts_outside_of_the_uids() {
        let text =
            b"root:x:0:0::/:\n+::::::\nanna:x:5:1::/:\nbert:x:9:1::/:\ncarla:x:10:1::/:\ndora:x:11:1::/:\n";
        let count = |source: UserSource| {
            let list = UserList {
                source: &source,
                timeout: LONG,
                text: text.to_vec(),
                unlisting: Vec::new(),
            };
            list.outside_uids()
        };
        let nss = UserSource::Nss {
            uid_min: 5,
            uid_max: 9,
        };
        assert_eq!(count(nss), OutsideUids { below: 1, above: 2 });
        assert_eq!(count(UserSource::File("users".into())), OutsideUids::default());
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
