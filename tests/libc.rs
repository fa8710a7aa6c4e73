//! Addresses are read and written as C does it: [`parse_address`] by `inet_aton`
//! and `inet_pton`, but for what Dovecot reads by itself, and [`ring_label`] by
//! `inet_ntop`.

use std::ffi::{CStr, CString, c_char};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mailaffinity::mapping::{parse_address, ring_label};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn ipv4_is_read_by_inet_aton(text in ipv4_text()) {
        prop_assert_eq!(parse_address(&text), decimal(&text).or_else(|| inet_aton(&text)).map(IpAddr::V4));
    }

    #[test]
    fn ipv6_is_read_by_inet_pton(text in ipv6_text()) {
        prop_assert_eq!(parse_address(&text), inet_pton(&text).map(IpAddr::V6));
        prop_assert_eq!(parse_address(&format!("[{text}]")), inet_pton(&text).map(IpAddr::V6));
        prop_assert_eq!(parse_address(&format!("[{text}")), None);
        prop_assert_eq!(parse_address(&format!("{text}]")), None);
    }

    #[test]
    fn labels_are_those_of_inet_ntop(address in address()) {
        let label = ring_label(address);
        prop_assert_eq!(&label, &inet_ntop(address));
        prop_assert_eq!(parse_address(&label), Some(address));
    }
}

/// Dovecot reads one or four decimal numbers by itself. Unlike C, it does not
/// take a leading zero for octal.
fn decimal(text: &str) -> Option<Ipv4Addr> {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = text.split('.').collect();
    if !parts.iter().all(|part| digits(part)) {
        return None;
    }
    match parts[..] {
        [number] => number.parse().ok().map(Ipv4Addr::from_bits),
        [a, b, c, d] => Some(Ipv4Addr::new(
            a.parse().ok()?,
            b.parse().ok()?,
            c.parse().ok()?,
            d.parse().ok()?,
        )),
        _ => None,
    }
}

// The libc crate lacks them.
mod c {
    use std::ffi::{c_char, c_int, c_void};

    unsafe extern "C" {
        pub(crate) fn inet_aton(text: *const c_char, address: *mut libc::in_addr) -> c_int;
        pub(crate) fn inet_pton(family: c_int, text: *const c_char, address: *mut c_void) -> c_int;
        pub(crate) fn inet_ntop(
            family: c_int,
            address: *const c_void,
            text: *mut c_char,
            size: libc::socklen_t,
        ) -> *const c_char;
    }
}

fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let text = CString::new(text).unwrap();
    let mut address = libc::in_addr { s_addr: 0 };
    // SAFETY: `text` ends in a NUL, and both pointers are good for the call.
    let read = unsafe { c::inet_aton(text.as_ptr(), &mut address) } == 1;
    read.then(|| Ipv4Addr::from(address.s_addr.to_ne_bytes()))
}

fn inet_pton(text: &str) -> Option<Ipv6Addr> {
    let text = CString::new(text).unwrap();
    let mut address = [0u8; 16];
    // SAFETY: `text` ends in a NUL, and an IPv6 address has 16 bytes.
    let read = unsafe { c::inet_pton(libc::AF_INET6, text.as_ptr(), address.as_mut_ptr().cast()) } == 1;
    read.then(|| Ipv6Addr::from(address))
}

fn inet_ntop(address: IpAddr) -> String {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let mut text = [0 as c_char; 46];
    // SAFETY: `bytes` is as long as an address of the family, and `text` as the
    // size given.
    let written = unsafe { c::inet_ntop(family, bytes.as_ptr().cast(), text.as_mut_ptr(), 46) };
    assert!(!written.is_null());
    // SAFETY: inet_ntop wrote a string that ends in a NUL to `text`.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    text.to_str().unwrap().to_owned()
}

fn address() -> impl Strategy<Value = IpAddr> {
    let group = prop_oneof![3 => Just(0), 1 => 0..16u16, 1 => any::<u16>()];
    prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::V4),
        any::<Ipv6Addr>().prop_map(IpAddr::V6),
        prop::array::uniform8(group).prop_map(|groups| IpAddr::V6(Ipv6Addr::from(groups))),
        // The first 96 bits zero, and v4-mapped.
        any::<u32>().prop_map(|low| IpAddr::V6(u128::from(low).into())),
        any::<Ipv4Addr>().prop_map(|v4| IpAddr::V6(v4.to_ipv6_mapped())),
    ]
}

/// What may be an IPv4 address: without a colon, and without blanks, behind
/// which C ignores anything.
fn ipv4_text() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        4 => any::<u8>().prop_map(u64::from),
        1 => any::<u16>().prop_map(u64::from),
        1 => any::<u32>().prop_map(u64::from),
        1 => prop::sample::select(vec![255, 256, 0xff_ffff, 0x100_0000, u64::from(u32::MAX), 1 << 32, u64::MAX]),
    ];
    let part = (number, 0..8usize, "[0-9a-fxX+-]{0,3}").prop_map(|(number, spelling, junk)| match spelling {
        0..3 => format!("{number}"),
        3 => format!("0{number:o}"),
        4 => format!("{number:#x}"),
        5 => format!("0X{number:04X}"),
        6 => format!("{number:04}"),
        _ => junk,
    });
    let dotted = |parts: Vec<u16>| parts.iter().map(u16::to_string).collect::<Vec<_>>().join(".");
    prop_oneof![
        prop::collection::vec(part, 1..6).prop_map(|parts| parts.join(".")),
        prop::collection::vec(0..400u16, 4).prop_map(dotted),
        prop::collection::vec(0..3u16, 3..6).prop_map(dotted),
        "[0-9a-fxX.+-]{0,16}",
        "[^:\0 \t\n\u{b}\u{c}\r]{0,8}",
    ]
}

/// What may be an IPv6 address: with a colon, and without brackets.
fn ipv6_text() -> impl Strategy<Value = String> {
    let group = prop_oneof![8 => "[0-9a-fA-F]{1,4}", 1 => Just(String::new()), 1 => "[0-9a-fA-F]{5}|g"];
    let quad = prop_oneof![
        any::<Ipv4Addr>().prop_map(|v4| v4.to_string()),
        "[0-9]{1,3}(\\.[0-9]{1,4}){2,4}\\.?",
    ];
    let groups = |len| prop::collection::vec(group.clone(), len).prop_map(|groups| groups.join(":"));
    prop_oneof![
        address().prop_filter_map("IPv6", |address| address.is_ipv6().then(|| address.to_string())),
        groups(7..10),
        (groups(0..7), groups(0..7)).prop_map(|(head, tail)| format!("{head}::{tail}")),
        (groups(5..8), quad.clone()).prop_map(|(head, quad)| format!("{head}:{quad}")),
        (groups(0..5), groups(0..4), quad.clone())
            .prop_map(|(head, middle, quad)| format!("{head}::{middle}:{quad}")),
        quad.prop_map(|quad| format!("::{quad}")),
        ("[0-9a-fA-F:.%]{0,12}", "[0-9a-fA-F:.]{0,30}").prop_map(|(head, tail)| format!("{head}:{tail}")),
    ]
}
