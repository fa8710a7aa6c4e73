//! Which users there are, and the keys under which the access map has them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::child::{self, ChildError};
use mailaffinity::access_map::search_order;
use mailaffinity::config::UserSource;
use mailaffinity::files::regular_file;

/// More than any list of users has.
const LONGEST_FILE: u64 = 1 << 30;

/// The longest key that sendmail looks up: it cuts longer ones to `MAXNAME`, so that it
/// never finds them (sendmail 8.17.1, `db_map_lookup` in `map.c`; seen to be so).
const LONGEST_KEY: usize = 256;

/// How much of a line an error shows.
const SHOWN: usize = 100;

/// Why there is no list of users: a sentence that names the source.
#[derive(Debug)]
pub struct UsersError(String);

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsersError {}

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

/// Lists the users of a source: [`read`], then [`UserList::names`].
///
/// # Errors
/// Those of both.
pub fn list(source: &UserSource, timeout: Duration) -> Result<Vec<Vec<u8>>, UsersError> {
    read(source, timeout)?.names()
}

/// Asks a source for its users. [`UserSource::Nss`] and [`UserSource::Command`] run a
/// program, which is ended at `timeout`.
///
/// # Errors
/// When the source cannot be read, is not finished in time or has more than 1 GiB, and
/// when a program fails.
pub fn read(source: &UserSource, timeout: Duration) -> Result<UserList<'_>, UsersError> {
    let output = |command: &[OsString]| child::run(command, b"", timeout)?.success();
    let text = match source {
        UserSource::Nss { .. } => output(&["getent".into(), "passwd".into()])?,
        UserSource::File(path) => regular_file::read(path, LONGEST_FILE).map_err(|error| {
            UsersError(format!(
                "{}: cannot read the list of users: {error}",
                path.display()
            ))
        })?,
        UserSource::Command(command) => output(&words(command))?,
    };
    Ok(UserList { source, text })
}

impl UserList<'_> {
    /// All that the source gave.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The users, each once, in the order of the source.
    ///
    /// A name is what stands on its line, byte for byte: blanks and a carriage return
    /// belong to it. Empty lines are skipped; the last line need not end in a newline.
    ///
    /// # Errors
    /// When there is none, or something is no passwd entry.
    pub fn names(&self) -> Result<Vec<Vec<u8>>, UsersError> {
        let (users, source) = match self.source {
            UserSource::Nss { uid_min, uid_max } => {
                let users = parse_passwd(&self.text, *uid_min..=*uid_max)
                    .map_err(|problem| UsersError(format!("getent passwd: {problem}")))?;
                (users, "getent passwd".into())
            }
            UserSource::File(path) => (
                parse_names(&self.text, Comments::Skip),
                path.display().to_string(),
            ),
            UserSource::Command(command) => (
                parse_names(&self.text, Comments::AreNames),
                child::name(&words(command)),
            ),
        };
        if !users.is_empty() {
            return Ok(users);
        }
        let which = match self.source {
            UserSource::Nss { uid_min, uid_max } => format!(" with a uid from {uid_min} to {uid_max}"),
            _ => String::new(),
        };
        Err(UsersError(format!("{source} lists no user{which}")))
    }
}

fn words(command: &[String]) -> Vec<OsString> {
    command.iter().map(OsString::from).collect()
}

/// The names of the passwd entries whose uid is one of `uids`, each once.
///
/// # Errors
/// A sentence on the first line that is no passwd entry.
#[doc(hidden)]
pub fn parse_passwd(text: &[u8], uids: RangeInclusive<u32>) -> Result<Vec<Vec<u8>>, String> {
    let mut names = Vec::new();
    for (number, line) in (1u64..).zip(lines(text)) {
        let (name, uid) = passwd_entry(line).ok_or_else(|| {
            let shown = line.get(..SHOWN).unwrap_or(line).escape_ascii();
            format!("line {number} is not a passwd entry: {shown}")
        })?;
        if uids.contains(&uid) {
            names.push(name);
        }
    }
    Ok(each_once(names))
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

/// The lines that are not empty, each once.
#[doc(hidden)]
pub fn parse_names(text: &[u8], comments: Comments) -> Vec<Vec<u8>> {
    each_once(
        lines(text)
            .filter(|line| !line.is_empty())
            .filter(|line| comments == Comments::AreNames || !line.starts_with(b"#")),
    )
}

/// The lines of a text whose last newline is optional.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}

fn each_once<'t>(names: impl IntoIterator<Item = &'t [u8]>) -> Vec<Vec<u8>> {
    let mut seen = HashSet::new();
    let first = names.into_iter().filter(|name| seen.insert(*name));
    first.map(<[u8]>::to_vec).collect()
}

/// Why a user cannot have an entry in the access map. It displays as a reason, such as
/// "it has a blank".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyProblem {
    /// The name is empty.
    Empty,
    /// Nothing stands before the first `@`.
    NoLocalPart,
    /// Nothing stands after the last `@`: the key would be that of the name without it.
    NoDomain,
    /// The name has a NUL.
    Nul,
    /// The name has a blank, at which makemap ends a key: space, tab, newline, vertical
    /// tab, form feed or carriage return.
    Blank,
    /// The name has another ASCII control character.
    ControlCharacter,
    /// The detail is `*`: the entry would be for all details of the user.
    AnyDetail,
    /// The key is longer than 256 bytes, the most that sendmail looks up.
    TooLong,
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyProblem::Empty => "it is empty",
            KeyProblem::NoLocalPart => "nothing stands before the @",
            KeyProblem::NoDomain => "nothing stands after the @",
            KeyProblem::Nul => "it has a NUL",
            KeyProblem::Blank => "it has a blank",
            KeyProblem::ControlCharacter => "it has a control character",
            KeyProblem::AnyDetail => "with the detail * it stands for all details",
            KeyProblem::TooLong => "it is too long for sendmail",
        })
    }
}

impl std::error::Error for KeyProblem {}

/// The access map key of a user: the first that sendmail looks the user up by (see
/// [`search_order::keys`]), `qgrp:anna@` or `qgrp:anna@example.org`, folded to lower
/// case as makemap stores it.
///
/// An entry under it is for this user alone, with all details and, where the name has
/// no domain, in all domains, as far as those have no entries of their own. ASCII case
/// does not tell users apart.
///
/// # Errors
/// When sendmail would not find the entry, or also for others.
pub fn access_map_key(user: &[u8]) -> Result<Vec<u8>, KeyProblem> {
    if user.is_empty() {
        return Err(KeyProblem::Empty);
    }
    if let Some(control) = user.iter().find(|byte| **byte == b' ' || byte.is_ascii_control()) {
        return Err(match control {
            0 => KeyProblem::Nul,
            b' ' | b'\t'..=b'\r' => KeyProblem::Blank,
            _ => KeyProblem::ControlCharacter,
        });
    }
    if user.ends_with(b"@") {
        return Err(KeyProblem::NoDomain);
    }
    let key = search_order::keys(user)
        .into_iter()
        .next()
        .ok_or(KeyProblem::NoLocalPart)?;
    // All keys for any detail look like this, and hardly any other.
    if key.windows(3).any(|part| part == b"+*@") {
        return Err(KeyProblem::AnyDetail);
    }
    if key.len() > LONGEST_KEY {
        return Err(KeyProblem::TooLong);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use mailaffinity::access_map::text;

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

    #[test]
    fn nss_lists_those_of_etc_passwd() {
        let local = fs::read("/etc/passwd").unwrap();
        for (uid_min, uid_max) in [(0, u32::MAX), (0, 0), (1, 999)] {
            let listed = list(&UserSource::Nss { uid_min, uid_max }, LONG).unwrap();
            let expected = parse_passwd(&local, uid_min..=uid_max).unwrap();
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
            anna:x:1002:100::/:/bin/sh:x\n\
            daemon:x:1:1::/:/bin/sh";
        let names = parse_passwd(text, 1000..=60000).unwrap();
        assert_eq!(names, [b"anna".to_vec(), b"b\xe9rt".to_vec()]);
        assert_eq!(parse_passwd(b"", 0..=9).unwrap(), Vec::<Vec<u8>>::new());
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
            assert_eq!(parse_passwd(text.as_bytes(), 5..=9), Err(expected));
        }
        assert_eq!(
            parse_passwd(b"\x1b[1m\xff\n", 5..=9).unwrap_err(),
            "line 1 is not a passwd entry: \\x1b[1m\\xff"
        );
        assert!(parse_passwd(&[b'a'; 100_000], 5..=9).unwrap_err().len() < 200);
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

    #[test]
    fn keys_are_the_first_of_the_search_order() {
        for (user, key) in [
            (b"anna".as_slice(), b"qgrp:anna@".as_slice()),
            (b"Anna@Example.ORG", b"qgrp:anna@example.org"),
            (b"anna+box@example.org", b"qgrp:anna+box@example.org"),
            (b"b\xe9rt", b"qgrp:b\xe9rt@"),
            (b"#1", b"qgrp:#1@"),
            (b"*", b"qgrp:*@"),
            (&[b'x'; 250], &[b"qgrp:".as_slice(), &[b'x'; 250], b"@"].concat()),
        ] {
            assert_eq!(access_map_key(user), Ok(key.to_vec()));
        }
    }

    #[test]
    fn names_without_a_key_of_their_own() {
        for (user, problem) in [
            (b"".as_slice(), KeyProblem::Empty),
            (b"@example.org", KeyProblem::NoLocalPart),
            (b"@", KeyProblem::NoDomain),
            (b"anna@", KeyProblem::NoDomain),
            (b"anna@@", KeyProblem::NoDomain),
            (b"anna@example.org@", KeyProblem::NoDomain),
            (b"an\0na", KeyProblem::Nul),
            (b"anna\r", KeyProblem::Blank),
            (b"an\x0bna", KeyProblem::Blank),
            (b" anna", KeyProblem::Blank),
            (b"an\x1bna", KeyProblem::ControlCharacter),
            (b"anna\x7f", KeyProblem::ControlCharacter),
            (b"anna+*", KeyProblem::AnyDetail),
            (b"anna+*@example.org", KeyProblem::AnyDetail),
            (&[b'x'; 251], KeyProblem::TooLong),
        ] {
            assert_eq!(access_map_key(user), Err(problem), "{}", user.escape_ascii());
        }
    }

    fn finds(user: &[u8], key: &[u8]) -> Option<(usize, Vec<u8>)> {
        let line = [key, b"\tgroup\n"].concat();
        text::lookup(line.as_slice(), &search_order::keys(user)).unwrap()
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[abA+*@ .#]{0,6}".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn an_accepted_key_is_found_first(user in name()) {
            if let Ok(key) = access_map_key(&user) {
                prop_assert_eq!(finds(&user, &key), Some((0, b"group".to_vec())));
            }
        }

        #[test]
        fn others_do_not_find_it(user in "[abA+*@]{1,5}", other in "[abA+*@]{1,5}") {
            let (user, other) = (user.to_ascii_lowercase(), other.to_ascii_lowercase());
            if let Ok(key) = access_map_key(user.as_bytes())
                && finds(other.as_bytes(), &key).is_some()
            {
                // sendmail drops an @ with nothing after it, and takes what stands after the
                // first of two for a domain.
                let other = other.trim_end_matches('@');
                prop_assume!(other.matches('@').count() <= 1);
                let own = match user.split_once('@') {
                    Some((local, domain)) => {
                        let detail = other.strip_prefix(local).and_then(|rest| rest.strip_suffix(domain));
                        detail.is_some_and(|detail| detail.starts_with('+') && detail.ends_with('@'))
                    }
                    None => other.strip_prefix(&user).is_some_and(|rest| rest.starts_with(['+', '@'])),
                };
                prop_assert!(user == other || own, "{} is found for {}", user, other);
            }
        }
    }
}
