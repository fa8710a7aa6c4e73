//! Any bytes are lists of users or an error; and every user has an access map key that is
//! found, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailaffinity::access_map::{key, search_order, text};
use mailaffinity_cli::users::{Comments, parse_names, parse_passwd};

fuzz_target!(|input: &[u8]| {
    let names = parse_names(input, Comments::Skip).chain(parse_names(input, Comments::AreNames));
    for user in names.chain(parse_passwd(input, 0..=u32::MAX)).flatten() {
        assert!(!user.is_empty() && !user.contains(&b'\n') && !user.ends_with(b"\r"));
        check_key(user);
    }
    check_key(input);
});

fn check_key(user: &[u8]) {
    if let Ok(key) = key::own(user) {
        let line = [&key, b"\tgroup\n".as_slice()].concat();
        let found = text::lookup(line.as_slice(), &search_order::keys(user)).expect("memory can be read");
        assert_eq!(found, Some((0, b"group".to_vec())));
    }
}
