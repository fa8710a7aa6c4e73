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

impl Config {
    /// The name that authentication leaves of one that was typed: what stands before the
    /// first separator, put through the format (`auth_request_set_username` in Dovecot 2.3).
    ///
    /// Everything that is asked for a user begins with this, once. Dovecot lets nobody in
    /// of whose name nothing is left.
    pub fn authenticated<'u>(&self, typed: &'u [u8]) -> Cow<'u, [u8]> {
        let user = match self.auth_master_user_separator.0 {
            None => typed,
            Some(separator) => typed.split(|byte| *byte == separator).next().unwrap_or_default(),
        };
        self.auth_username_format.0.expand(user)
    }

    /// The Director's hash of a user, by the name that authentication leaves.
    ///
    /// # Errors
    /// As [`UsernameHash::hash`].
    pub fn hash_of(&self, typed: &[u8]) -> Result<u32, NotHashed> {
        self.username_hash.hash(&self.authenticated(typed))
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
            let name = config.authenticated(typed.as_bytes());
            assert_eq!(name, left.as_bytes(), "{settings} {typed}");
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
