//! Addresses as Dovecot reads them (`net_addr2ip`) and as C's `inet_ntop`
//! prints them, which is the text that the Director hashes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads an address in any spelling that Dovecot takes: dotted decimal (leading
/// zeros are not octal there), a single number, the short, octal and hexadecimal
/// forms of C's `inet_aton`, IPv6 with or without brackets.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    if let Some(address) = decimal_ipv4(text) {
        return Some(IpAddr::V4(address));
    }
    if text.contains(':') {
        let bare = match text.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').unwrap_or(text),
            None => text,
        };
        return bare.parse().ok().map(IpAddr::V6);
    }
    inet_aton(text).map(IpAddr::V4)
}

/// The text of an address on the ring: what C's `inet_ntop` prints.
///
/// For IPv6 it differs from Rust's own in one place: an address whose first 96
/// bits are zero ends in dotted decimal (`::10.0.0.8`), unless it fits 16 bits.
pub fn ring_label(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => inet_ntop6(v6),
    }
}

fn decimal_ipv4(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| -> Option<u32> {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    };
    let mut parts = text.split('.');
    let first = number(parts.next()?)?;
    let mut octets = [u8::try_from(first).unwrap_or_default(), 0, 0, 0];
    let Some(second) = parts.next() else {
        return Some(Ipv4Addr::from(first));
    };
    if first > 255 {
        return None;
    }
    let mut rest = std::iter::once(second).chain(parts);
    for octet in octets.iter_mut().skip(1) {
        *octet = u8::try_from(number(rest.next()?)?).ok()?;
    }
    rest.next().is_none().then_some(Ipv4Addr::from(octets))
}

/// One to four numbers, each decimal, octal (`0…`) or hexadecimal (`0x…`); the
/// last one fills the bytes that are left.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = text.split('.').map(c_number).collect::<Option<_>>()?;
    let (&last, leading) = parts.split_last()?;
    if leading.len() > 3 || leading.iter().any(|&part| part > 255) {
        return None;
    }
    let free_bits = 32 - 8 * leading.len();
    if u64::from(last) >> free_bits != 0 {
        return None;
    }
    let high = leading
        .iter()
        .fold(0u64, |all, &part| (all << 8) | u64::from(part));
    u32::try_from((high << free_bits) | u64::from(last))
        .ok()
        .map(Ipv4Addr::from)
}

/// A number as C's `strtoul` reads it with base 0, without a sign.
fn c_number(text: &str) -> Option<u32> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hex {
        Some(digits) => (digits, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

fn inet_ntop6(address: Ipv6Addr) -> String {
    let groups = address.segments();
    let (start, len) = longest_zero_run(&groups);
    if start == 0 && (len == 6 || (len == 5 && groups.get(5) == Some(&0xffff))) {
        let [.., a, b, c, d] = address.octets();
        let prefix = if len == 6 { "::" } else { "::ffff:" };
        return format!("{prefix}{}", Ipv4Addr::new(a, b, c, d));
    }
    let mut text = String::new();
    let mut separator = "";
    let mut index = 0;
    while let Some(group) = groups.get(index) {
        if len > 0 && index == start {
            text.push_str("::");
            separator = "";
            index += len;
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{group:x}");
            separator = ":";
            index += 1;
        }
    }
    text
}

/// Start and length of the first longest run of two or more zero groups.
fn longest_zero_run(groups: &[u16; 8]) -> (usize, usize) {
    let mut best = (0, 0);
    let mut run = 0;
    for (index, &group) in groups.iter().enumerate() {
        run = if group == 0 { run + 1 } else { 0 };
        if run > 1 && run > best.1 {
            best = (index + 1 - run, run);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn label(text: &str) -> Option<String> {
        parse_address(text).map(ring_label)
    }

    #[test]
    fn ipv4_spellings_of_dovecot() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.0.0.1", Some("10.0.0.1")),
            ("167772162", Some("10.0.0.2")),
            ("10.0.3", Some("10.0.0.3")),
            ("0x0a.0.0.4", Some("10.0.0.4")),
            ("010.1", Some("8.0.0.1")),
            ("0377.0.0.1", Some("255.0.0.1")),
            ("256.0.0.1", None),
            ("4294967296", None),
            ("1.2.3.4.5", None),
            ("1.2.3.", None),
            ("0x.1.2.3", None),
            ("0x+1.2.3.4", None),
            ("08.1", None),
            ("1.0x1000000", None),
            ("", None),
            ("node1", None),
        ] {
            assert_eq!(label(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn ipv6_text_is_that_of_inet_ntop() {
        for (text, expected) in [
            ("2001:0DB8:0:0:0:0:0:2", "2001:db8::2"),
            ("[2001:db8:0:1::3]", "2001:db8:0:1::3"),
            ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("2001:db8:1:1:1:1:0:1", "2001:db8:1:1:1:1:0:1"),
            ("::ffff:10.0.0.9", "::ffff:10.0.0.9"),
            ("::10.0.0.8", "::10.0.0.8"),
            ("::1", "::1"),
            ("::", "::"),
            ("1::", "1::"),
            ("::1:0:0", "::1:0:0"),
        ] {
            assert_eq!(label(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(label("fe80::1%eth0"), None);
        assert_eq!(label("[::1"), None);
    }
}
