//! The keys under which sendmail looks a user up.

use super::key::{LONGEST, TAG, split};

/// The longest address that sendmail takes (8.17.1: "too long (255 bytes max)").
const LONGEST_ADDRESS: usize = 255;

/// More than any mail domain has above it, and any address literal. Each costs a page of the
/// map, which is locked meanwhile, and anybody can ask. (sendmail's rules give up after 48.)
const DOMAINS: usize = 10;

/// The characters that are words of their own to sendmail: the default of its
/// option `OperatorChars`.
const OPERATORS: &[u8] = b".:%@!^/[]+";

/// The keys of `user`, in the order in which sendmail tries them.
///
/// The order is that of `dist/sendmail/feature/mailaffinity.m4`, which calls
/// the rule sets of sendmail's `cf/m4/proto.m4`: `SearchList` with `<! qgrp>`
/// and `<F:user@domain>`, `<U:user@>`, `<D:domain>`. It does so for the site's own
/// domains, and leaves `<U:user@>` out for recipients elsewhere; `user` is one of the
/// site's own, whoever asks. For `user+detail@host.example.org`:
///
/// 1. `qgrp:user+detail@host.example.org`
/// 2. `qgrp:user+*@host.example.org`
/// 3. `qgrp:user@host.example.org`
/// 4. `qgrp:user+detail@`
/// 5. `qgrp:user+*@`
/// 6. `qgrp:user@`
/// 7. `qgrp:host.example.org`
/// 8. `qgrp:example.org`
/// 9. `qgrp:org`
///
/// The domain starts after the first `@`; a user without one has only the keys
/// 4 to 6. The detail, which may be empty, starts after the first `+` that is
/// not the first character; a user without one has neither the `+detail` nor
/// the `+*` keys. An address literal has its networks in place of parents:
/// `[192.0.2.1]`, `[192.0.2]`, `[192.0]`, `[192]`. Dots at the end of the
/// domain do not count, nor does an `@` without a domain. ASCII letters are
/// folded to lower case. No key occurs twice.
///
/// An empty user, an empty part before the `@` and a name of more than 255 bytes have no
/// keys: sendmail takes no such address. Nor is there a key of more than 256 bytes, which
/// sendmail does not find, or one after the first 10 domains. Of what addresses can have outside
/// mail to a mailbox, angle brackets, source routes, quotes, comments and blanks
/// are not interpreted.
pub fn keys(user: &[u8]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let (local, domain) = split(user);
    if local.is_empty() || user.len() > LONGEST_ADDRESS {
        return keys;
    }
    for address in [[local, b"@", domain].concat(), [local, b"@"].concat()] {
        add(&mut keys, &[&address]);
        if let Some((name, host)) = around_detail(&address) {
            add(&mut keys, &[name, b"+*@", host]);
            add(&mut keys, &[name, b"@", host]);
        }
    }
    let first = (!domain.is_empty()).then(|| domain.to_vec());
    for domain in std::iter::successors(first, |domain| parent(domain)).take(DOMAINS) {
        add(&mut keys, &[&domain]);
    }
    keys
}

/// What the rule set `D` tries after `domain`.
fn parent(domain: &[u8]) -> Option<Vec<u8>> {
    if let Some(network) = network(domain) {
        return Some([b"[", network, b"]"].concat());
    }
    let dot = domain.iter().skip(1).position(|byte| *byte == b'.')?;
    let rest = domain.get(dot.checked_add(2)?..)?;
    (!rest.is_empty()).then(|| rest.to_vec())
}

/// The inside of an address literal without its last word and what separates it.
fn network(domain: &[u8]) -> Option<&[u8]> {
    let inside = domain.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let (last, rest) = inside.split_last()?;
    let word = rest
        .iter()
        .rev()
        .take_while(|byte| !OPERATORS.contains(last) && !OPERATORS.contains(byte))
        .count();
    let before = rest.get(..rest.len().checked_sub(word)?)?;
    [b".".as_slice(), b"::", b":"]
        .iter()
        .filter_map(|separator| before.strip_suffix(*separator))
        .find(|network| !network.is_empty())
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
    if key.len() <= LONGEST && !keys.contains(&key) {
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
    fn full_address_then_user_then_domains() {
        check(
            "anna@mail.example.org",
            &[
                "qgrp:anna@mail.example.org",
                "qgrp:anna@",
                "qgrp:mail.example.org",
                "qgrp:example.org",
                "qgrp:org",
            ],
        );
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
                "qgrp:example.org",
                "qgrp:org",
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
        check(
            "ANNA@Home.ORG",
            &["qgrp:anna@home.org", "qgrp:anna@", "qgrp:home.org", "qgrp:org"],
        );
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
        check("a@b@c", &["qgrp:a@b@c", "qgrp:a@", "qgrp:b@c"]);
        check(
            "a@b+c@d",
            &[
                "qgrp:a@b+c@d",
                "qgrp:a@b+*@d",
                "qgrp:a@b@d",
                "qgrp:a@",
                "qgrp:b+c@d",
            ],
        );
    }

    #[test]
    fn ends_that_do_not_count() {
        check("a@org.", &["qgrp:a@org", "qgrp:a@", "qgrp:org"]);
        check("a@org..", &["qgrp:a@org", "qgrp:a@", "qgrp:org"]);
        check("a@@", &["qgrp:a@"]);
        check("a@org@", &["qgrp:a@org", "qgrp:a@", "qgrp:org"]);
        check("a.", &["qgrp:a.@"]);
    }

    #[test]
    fn dots_side_by_side() {
        check("a@b..c", &["qgrp:a@b..c", "qgrp:a@", "qgrp:b..c", "qgrp:.c"]);
        check("a@...c", &["qgrp:a@...c", "qgrp:a@", "qgrp:...c", "qgrp:.c"]);
        check("a@.", &["qgrp:a@.", "qgrp:a@", "qgrp:."]);
    }

    #[test]
    fn address_literals_have_networks() {
        check(
            "a@[192.0.2.1]",
            &[
                "qgrp:a@[192.0.2.1]",
                "qgrp:a@",
                "qgrp:[192.0.2.1]",
                "qgrp:[192.0.2]",
                "qgrp:[192.0]",
                "qgrp:[192]",
            ],
        );
        check(
            "a@[IPv6:2001:db8::1]",
            &[
                "qgrp:a@[ipv6:2001:db8::1]",
                "qgrp:a@",
                "qgrp:[ipv6:2001:db8::1]",
                "qgrp:[ipv6:2001:db8]",
                "qgrp:[ipv6:2001]",
                "qgrp:[ipv6]",
            ],
        );
        check("a@[]", &["qgrp:a@[]", "qgrp:a@", "qgrp:[]"]);
        check(
            "a@[b::.]",
            &["qgrp:a@[b::.]", "qgrp:a@", "qgrp:[b::.]", "qgrp:[b]"],
        );
    }

    #[test]
    fn no_end_of_keys() {
        let keys_of = |user: String| keys(user.as_bytes()).len();
        assert_eq!(keys_of(format!("a@{}a", "a.".repeat(9))), 2 + 10);
        assert_eq!(keys_of(format!("a@{}a", "a.".repeat(120))), 2 + 10);
        assert_eq!(keys_of(format!("{:x<255}", "a+")), 2);
        assert_eq!(keys_of(format!("{:x<250}", "a+")), 3);
        assert_eq!(keys_of(format!("{:x<256}", "a+")), 0);
    }
}
