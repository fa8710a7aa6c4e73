//! The keys of the access map: how they are written and folded, and the one that is a
//! user's own.

use std::cmp::Ordering;

/// The tag of all keys of users, as a map stores it: makemap folds keys to lower case.
pub const TAG: &[u8] = b"qgrp:";

/// The same as it is written in an access source.
pub const WRITTEN_TAG: &[u8] = b"QGRP:";

/// The longest key that sendmail looks up: it cuts longer ones to `MAXNAME`, so that it
/// never finds them (sendmail 8.17.1, `db_map_lookup` in `map.c`; seen to be so).
pub(super) const LONGEST: usize = 256;

/// What follows the tag of a key, folded or not; `None` if it has another tag.
pub fn untagged(key: &[u8]) -> Option<&[u8]> {
    let (tag, rest) = key.split_at_checked(TAG.len())?;
    tag.eq_ignore_ascii_case(TAG).then_some(rest)
}

/// The name of a user or address in a key without its tag, for people to read.
pub fn name(untagged: &[u8]) -> &[u8] {
    untagged.strip_suffix(b"@").unwrap_or(untagged)
}

/// The order of keys in a map, where ASCII case does not matter.
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    a.iter()
        .map(u8::to_ascii_lowercase)
        .cmp(b.iter().map(u8::to_ascii_lowercase))
}

/// The parts of a user before and after the first `@`. Dots at the end of the domain do
/// not count, nor does an `@` without a domain.
pub(super) fn split(user: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = user.splitn(2, |byte| *byte == b'@');
    let local = parts.next().unwrap_or_default();
    let mut domain = parts.next().unwrap_or_default();
    while let [rest @ .., b'.'] = domain
        && !rest.is_empty()
    {
        domain = rest;
    }
    while let [rest @ .., b'@'] = domain {
        domain = rest;
    }
    (local, domain)
}

/// Why a user cannot have an entry in the access map. It displays as a reason, such as
/// "it has a blank".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// The name is empty.
    #[error("it is empty")]
    Empty,
    /// Nothing stands before the first `@`.
    #[error("nothing stands before the @")]
    NoLocalPart,
    /// Nothing stands after the last `@`: the key would be that of the name without it.
    #[error("nothing stands after the @")]
    NoDomain,
    /// The name has a NUL.
    #[error("it has a NUL")]
    Nul,
    /// The name has a blank, at which makemap ends a key: space, tab, newline, vertical
    /// tab, form feed or carriage return.
    #[error("it has a blank")]
    Blank,
    /// The name has another ASCII control character.
    #[error("it has a control character")]
    ControlCharacter,
    /// The detail is `*`: the entry would be for all details of the user.
    #[error("with the detail * it stands for all details")]
    AnyDetail,
    /// The key is longer than 256 bytes, the most that sendmail looks up.
    #[error("it is too long for sendmail")]
    TooLong,
}

/// The key of a user's own entry: the first that sendmail looks the user up by (see
/// [`search_order::keys`](super::search_order::keys)), `qgrp:anna@` or
/// `qgrp:anna@example.org`, folded to lower case as makemap stores it.
///
/// An entry under it is for this user alone, with all details and, where the name has
/// no domain, in all domains of the site, as far as those have no entries of their own.
/// ASCII case does not tell users apart.
///
/// # Errors
/// When sendmail would not find the entry, or also for others.
pub fn own(user: &[u8]) -> Result<Vec<u8>, KeyProblem> {
    let mut key = TAG.to_vec();
    append_own(user, &mut key).map(|()| key)
}

/// Appends the key of a user's [`own`] entry without its tag.
///
/// # Errors
/// As [`own`]; nothing is appended then.
pub fn append_own(user: &[u8], keys: &mut Vec<u8>) -> Result<(), KeyProblem> {
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
    let (local, domain) = split(user);
    if local.is_empty() {
        return Err(KeyProblem::NoLocalPart);
    }
    let begin = keys.len();
    for part in [local, b"@", domain] {
        keys.extend_from_slice(part);
    }
    let key = keys.get_mut(begin..).unwrap_or_default();
    key.make_ascii_lowercase();
    // All keys for any detail look like this, and hardly any other.
    let problem = if key.windows(3).any(|part| part == b"+*@") {
        KeyProblem::AnyDetail
    } else if key.len() > LONGEST - TAG.len() {
        KeyProblem::TooLong
    } else {
        return Ok(());
    };
    keys.truncate(begin);
    Err(problem)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{search_order, text};
    use super::*;

    #[test]
    fn order_and_names() {
        assert_eq!(compare(b"QGRP:a@", b"qgrp:B@"), Ordering::Less);
        assert_eq!(compare(b"QGRP:A@", b"qgrp:a@"), Ordering::Equal);
        assert_eq!(compare(b"qgrp:_@", b"qgrp:A@"), Ordering::Less);
        assert_eq!(untagged(b"Qgrp:anna@").map(super::name), Some(&b"anna"[..]));
        assert_eq!(
            untagged(b"qgrp:a@example.org").map(super::name),
            Some(&b"a@example.org"[..])
        );
        assert_eq!(untagged(b"to:anna@"), None);
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
            assert_eq!(own(user), Ok(key.to_vec()));
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
            assert_eq!(own(user), Err(problem), "{}", user.escape_ascii());
        }
    }

    fn finds(user: &[u8], key: &[u8]) -> Option<(usize, Vec<u8>)> {
        let line = [key, b"\tgroup\n"].concat();
        text::lookup(line.as_slice(), &search_order::keys(user)).unwrap()
    }

    fn any_user() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[abA+*@ .#]{0,6}".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn an_accepted_key_is_found_first(user in any_user()) {
            if let Ok(key) = own(&user) {
                prop_assert_eq!(finds(&user, &key), Some((0, b"group".to_vec())));
            }
        }

        #[test]
        fn others_do_not_find_it(user in "[abA+*@]{1,5}", other in "[abA+*@]{1,5}") {
            let (user, other) = (user.to_ascii_lowercase(), other.to_ascii_lowercase());
            if let Ok(key) = own(user.as_bytes())
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
