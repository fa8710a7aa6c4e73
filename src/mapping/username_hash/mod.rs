//! `director_username_hash`: which part of a username is hashed, and how.

use std::borrow::Cow;

mod expand;
mod parse;

use expand::expand;
use parse::{Segment, parse};

use super::md5::{md5_start, md5_start_of_lowercase};

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
/// | conditionals | `{if;`*value*`;`*operator*`;`*value*`;`*result*`;`*result otherwise*`}`, all but the operator formats themselves; numbers `==` `!=` `<` `<=` `>` `>=`, text `eq` `ne` `lt` `le` `gt` `ge`, wildcards `*` `!*`; `\` before `;` `:` `{` `}` |
/// | modifiers | up to ten, left to right: `L` lower and `U` upper case, `R` reversed, `T` trailing blanks off, `E` quotes escaped, `D` dots to `,dc=`, `X` decimal to hexadecimal, `M` MD5, `H` and `N` 32-bit hashes modulo width |
/// | offset, width | bytes; negative ones count from the end |
///
/// Everything in this table is what Dovecot 2.3 was seen to do. All else is a
/// [`FormatError`]: variables that Dovecot does not know, which make it refuse users
/// one by one, and what it knows beyond this table: variables whose value depends on
/// the machine or process that asks (`%{hostname}`, `%{pid}`), and regular expressions in
/// conditionals (`~`, `!~`), which are those of the Director's C library.
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

/// Why a format cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("username hash format \"{}\": {problem}", format.escape_ascii())]
pub struct FormatError {
    format: Vec<u8>,
    problem: String,
}

impl FormatError {
    /// What is wrong, without the format.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

/// A format compares as a number what is none in a user's name: the Director ends itself
/// when it is asked for such a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("username_hash compares what is no number as one in this user's name")]
pub struct NotHashed;

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
            _ => Shape::Template(parse(format).map_err(|problem| FormatError {
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

    /// What Dovecot's authentication makes of a username by this format, were it
    /// `auth_username_format`: where a conditional compares as a number what is none, it
    /// goes on without that field.
    pub fn expand<'u>(&self, user: &'u [u8]) -> Cow<'u, [u8]> {
        match &self.shape {
            Shape::User => user.into(),
            Shape::LowercaseUser if !user.iter().any(u8::is_ascii_uppercase) => user.into(),
            Shape::LowercaseUser => user.to_ascii_lowercase().into(),
            Shape::Template(template) => expand(template, user).unwrap_or_else(|rest| rest).into(),
        }
    }

    /// The 32-bit hash of a username, never 0.
    ///
    /// A username is bytes. A NUL is hashed like any other byte; the Director
    /// cannot be asked about one, since its usernames end there.
    ///
    /// # Errors
    /// Where a conditional compares as a number what is none in this name.
    pub fn hash(&self, user: &[u8]) -> Result<u32, NotHashed> {
        let hash = match &self.shape {
            Shape::User => md5_start(user),
            Shape::LowercaseUser => md5_start_of_lowercase(user),
            Shape::Template(template) => md5_start(&expand(template, user).map_err(|_| NotHashed)?),
        };
        Ok(hash.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(format: &str, user: &str) -> u32 {
        UsernameHash::parse(format)
            .unwrap()
            .hash(user.as_bytes())
            .unwrap()
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
    fn an_error_names_the_format() {
        let error = UsernameHash::parse("%Lx").unwrap_err();
        assert!(error.to_string().contains("\"%Lx\""), "{error}");
    }

    // printf %s user6425916608 | md5sum: 00000000…
    #[test]
    fn zero_becomes_one() {
        for format in ["%u", "%Lu", "%n"] {
            assert_eq!(hash(format, "user6425916608"), 1, "{format}");
        }
    }

    #[test]
    fn a_name_that_is_no_number() {
        let hash = UsernameHash::parse("%{if;%n;>;5;%u;%d}").unwrap();
        assert!(hash.hash(b"6@x").is_ok());
        assert_eq!(hash.hash(b"six@x"), Err(NotHashed));
    }

    proptest! {
        #[test]
        fn operators_are_those_of_numbers_and_text(left: i64, right: i64, user in prop::collection::vec(1u8.., 0..8)) {
            let holds = |operator: &str, left: &str, right: &str, user: &[u8]| {
                let format = format!("%{{if;{left};{operator};{right};yes}}");
                UsernameHash::parse(format).unwrap().hash(user).unwrap() == hash("yes", "")
            };
            let (l, r) = (left.to_string(), right.to_string());
            prop_assert_eq!(holds("<", &l, &r, b""), left < right);
            prop_assert_eq!(holds("==", &l, &r, b""), left == right);
            prop_assert_eq!(holds("<=", &l, &l, b""), true);
            prop_assert_eq!(holds("lt", "%u", "m", &user), user < b"m".to_vec());
            prop_assert_eq!(holds("*", "%u", "*a?", &user), user.iter().rev().nth(1) == Some(&b'a'));
        }

        #[test]
        fn short_cuts_equal_the_template(user in prop::collection::vec(any::<u8>(), 0..200)) {
            for format in ["%u", "%Lu"] {
                let template = Shape::Template(parse(format.as_bytes()).unwrap());
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
                prop_assert_ne!(parsed.hash(&user), Ok(0));
            }
        }
    }
}
