//! The keys under which sendmail looks a user up.

/// The tag of the entries, as it is stored: makemap folds keys to lower case.
const TAG: &[u8] = b"qgrp:";

/// The keys of `user`, in the order in which sendmail tries them.
///
/// The order is that of the rule sets `SearchList`, `F` and `U` in sendmail's
/// `cf/m4/proto.m4`, called with `<! qgrp>` and first `<F:user@domain>`, then
/// `<U:user@>`. For `user+detail@domain`:
///
/// 1. `qgrp:user+detail@domain`
/// 2. `qgrp:user+*@domain`
/// 3. `qgrp:user@domain`
/// 4. `qgrp:user+detail@`
/// 5. `qgrp:user+*@`
/// 6. `qgrp:user@`
///
/// The domain starts after the first `@`; a user without one has only the last
/// three. The detail, which may be empty, starts after the first `+` that is
/// not the first character; a user without one has neither the `+detail` nor
/// the `+*` keys. ASCII letters are folded to lower case. No key occurs twice.
/// An empty user, or an empty part before the `@`, has no keys.
pub fn keys(user: &[u8]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut parts = user.splitn(2, |byte| *byte == b'@');
    let local = parts.next().unwrap_or_default();
    let domain = parts.next().unwrap_or_default();
    if local.is_empty() {
        return keys;
    }
    if !domain.is_empty() {
        add(&mut keys, &[user]);
        add_variants(
            &mut keys,
            around_detail(user).filter(|(_, host)| !host.is_empty()),
        );
    }
    let user = [local, b"@"].concat();
    add(&mut keys, &[&user]);
    add_variants(&mut keys, around_detail(&user));
    keys
}

/// Adds the keys with `+*` and without the detail.
fn add_variants(keys: &mut Vec<Vec<u8>>, around_detail: Option<(&[u8], &[u8])>) {
    if let Some((name, host)) = around_detail {
        add(keys, &[name, b"+*@", host]);
        add(keys, &[name, b"@", host]);
    }
}

/// What stands before the `+` and after the `@` in `name+detail@host`, found
/// as the rules' `$+ + $* @` finds them: outside mail, the `+` and the `@`
/// after it may both belong to what follows the first `@`.
fn around_detail(address: &[u8]) -> Option<(&[u8], &[u8])> {
    let after_first = address.get(1..)?;
    let plus = after_first.iter().position(|byte| *byte == b'+')?;
    let (name, rest) = address.split_at_checked(plus.checked_add(1)?)?;
    let at = rest.iter().position(|byte| *byte == b'@')?;
    Some((name, rest.get(at.checked_add(1)?..)?))
}

fn add(keys: &mut Vec<Vec<u8>>, parts: &[&[u8]]) {
    let mut key = [TAG, &parts.concat()].concat();
    key.make_ascii_lowercase();
    if !keys.contains(&key) {
        keys.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::keys;

    #[track_caller]
    fn check(user: &str, expected: &[&str]) {
        let found = keys(user.as_bytes());
        let found: Vec<_> = found.iter().map(|key| str::from_utf8(key).unwrap()).collect();
        assert_eq!(found, expected, "{user}");
    }

    #[test]
    fn full_address_first_then_user() {
        check("anna@example.org", &["qgrp:anna@example.org", "qgrp:anna@"]);
        check("first.last", &["qgrp:first.last@"]);
    }

    #[test]
    fn detail() {
        check(
            "anna+box@example.org",
            &[
                "qgrp:anna+box@example.org",
                "qgrp:anna+*@example.org",
                "qgrp:anna@example.org",
                "qgrp:anna+box@",
                "qgrp:anna+*@",
                "qgrp:anna@",
            ],
        );
        check("anna+", &["qgrp:anna+@", "qgrp:anna+*@", "qgrp:anna@"]);
        check("a+b+c", &["qgrp:a+b+c@", "qgrp:a+*@", "qgrp:a@"]);
        check("a++", &["qgrp:a++@", "qgrp:a+*@", "qgrp:a@"]);
    }

    #[test]
    fn a_plus_at_the_start_is_part_of_the_name() {
        check("+anna", &["qgrp:+anna@"]);
        check("+", &["qgrp:+@"]);
        check("++", &["qgrp:++@", "qgrp:++*@", "qgrp:+@"]);
    }

    #[test]
    fn no_key_twice() {
        check("anna+*", &["qgrp:anna+*@", "qgrp:anna@"]);
        check("anna@", &["qgrp:anna@"]);
    }

    #[test]
    fn ascii_letters_are_folded() {
        check("ANNA@Example.ORG", &["qgrp:anna@example.org", "qgrp:anna@"]);
        assert_eq!(keys(b"\xc9A"), [b"qgrp:\xc9a@"]);
    }

    #[test]
    fn nothing_before_the_at_sign() {
        check("", &[]);
        check("@example.org", &[]);
        check("@", &[]);
    }

    #[test]
    fn a_second_at_sign_belongs_to_the_domain() {
        check("a@b@c", &["qgrp:a@b@c", "qgrp:a@"]);
        check(
            "a@b+c@d",
            &["qgrp:a@b+c@d", "qgrp:a@b+*@d", "qgrp:a@b@d", "qgrp:a@"],
        );
        check("a@b+c@", &["qgrp:a@b+c@", "qgrp:a@"]);
    }
}
