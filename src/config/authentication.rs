//! What authentication makes of a name before the Director hashes it.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::Config;
use crate::mapping::{NotHashed, UsernameHash};

/// Dovecot's `auth_username_format`, in the language of `director_username_hash`; an empty
/// one leaves names as they are.
#[derive(Clone, Debug, Default)]
pub struct UsernameFormat(UsernameHash);

impl UsernameFormat {
    /// The format; `%u` for an empty one.
    pub fn format(&self) -> &[u8] {
        self.0.format()
    }
}

impl<'de> Deserialize<'de> for UsernameFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UsernameFormat, D::Error> {
        let format = String::deserialize(deserializer)?;
        let parsed = UsernameHash::parse(if format.is_empty() { "%u" } else { &format });
        parsed
            .map(UsernameFormat)
            .map_err(|error| D::Error::custom(error.problem()))
    }
}

/// Dovecot's `auth_master_user_separator`: one byte, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Separator(pub Option<u8>);

impl<'de> Deserialize<'de> for Separator {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Separator, D::Error> {
        match *String::deserialize(deserializer)?.as_bytes() {
            [] => Ok(Separator(None)),
            [separator] => Ok(Separator(Some(separator))),
            _ => Err(D::Error::custom(
                "a separator is one ASCII character; Dovecot looks at no more",
            )),
        }
    }
}

/// The longest name of which anything is made, in bytes. The Director drops who sends it a
/// longer line (2.3.19.1, seen), and so has no such user. The bound is on what is typed, since
/// anybody can type anything, and formats can make much of it.
pub const LONGEST_NAME: usize = 1023;

/// Why a user has no hash, and so no node and no entry, whatever nodes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHash {
    /// The name has more than [`LONGEST_NAME`] bytes.
    #[error("a user's name is longer than {LONGEST_NAME} bytes")]
    TooLong,
    /// The Director has none.
    #[error(transparent)]
    NotHashed(#[from] NotHashed),
}

impl Config {
    /// The name that authentication leaves of one that was typed: what stands before the
    /// first separator, put through the format (`auth_request_set_username` in Dovecot 2.3).
    ///
    /// Everything that is asked for a user begins with this, once. Dovecot lets nobody in
    /// of whose name nothing is left.
    ///
    /// # Errors
    /// [`NoHash::TooLong`], without a look at the name.
    pub fn authenticated<'u>(&self, typed: &'u [u8]) -> Result<Cow<'u, [u8]>, NoHash> {
        if typed.len() > LONGEST_NAME {
            return Err(NoHash::TooLong);
        }
        let user = match self.auth_master_user_separator.0 {
            None => typed,
            Some(separator) => typed.split(|byte| *byte == separator).next().unwrap_or_default(),
        };
        Ok(self.auth_username_format.0.expand(user))
    }

    /// The Director's hash of a user, by the name that authentication leaves.
    ///
    /// # Errors
    /// As [`authenticated`](Config::authenticated) and [`UsernameHash::hash`].
    pub fn hash_of(&self, typed: &[u8]) -> Result<u32, NoHash> {
        Ok(self.username_hash.hash(&self.authenticated(typed)?)?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[track_caller]
    fn check(settings: &str, names: &[(&str, &str)]) {
        let text = format!("{settings}\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n");
        let config = Config::parse(&text, Path::new("x")).unwrap();
        for (typed, left) in names {
            let name = config.authenticated(typed.as_bytes()).unwrap();
            assert_eq!(name, left.as_bytes(), "{settings} {typed}");
        }
    }

    #[test]
    fn of_a_name_that_is_too_long_nothing_is_made() {
        let text = "auth_username_format = \"%1u\"\nauth_master_user_separator = \"*\"\n\
            [[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n";
        let config = Config::parse(text, Path::new("x")).unwrap();
        for start in ["a", "a*"] {
            let name = format!("{start:x<LONGEST_NAME$}");
            assert_eq!(config.authenticated(name.as_bytes()).unwrap(), b"a".as_slice());
            assert_eq!(config.hash_of(name.as_bytes()), config.hash_of(b"a"));
            assert_eq!(config.hash_of((name + "x").as_bytes()), Err(NoHash::TooLong));
        }
    }

    // Each of these is what doveadm director map of 2.3.19.1 showed after a login.
    #[test]
    fn names_that_were_seen() {
        check("", &[("Anna@Example.ORG", "anna@example.org"), ("a*b", "a*b")]);
        check("auth_username_format = \"\"", &[("Anna@A@b", "Anna@A@b")]);
        check(
            "auth_username_format = \"%Ld\"",
            &[("anna", ""), ("bert@A@b", "a@b"), ("carl@", "")],
        );
        check(
            "auth_username_format = \"%Ln@%d\"",
            &[("anna", "anna@"), ("bert@A@b", "bert@A@b")],
        );
        let separator = "auth_master_user_separator = \"*\"";
        check(
            separator,
            &[
                ("Anna*admin", "anna"),
                ("anna*bert*admin", "anna"),
                ("carl**admin", "carl"),
                ("Emil*emil", "emil"),
                ("gabi@a*admin@b", "gabi@a"),
                ("*admin", ""),
            ],
        );
        check(
            &format!("auth_username_format = \"x%Ln\"\n{separator}"),
            &[("anna*admin", "xanna"), ("anna*anna", "xanna")],
        );
        // It is not sought in what the format makes.
        check(
            &format!("auth_username_format = \"%n*%d\"\n{separator}"),
            &[("anna@admin", "anna*admin")],
        );
    }
}
