//! Any bytes are lists of users, each once, or an error; and every user has an access
//! map key that is found, or none.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use mailaffinity::access_map::{search_order, text};
use mailaffinity_cli::users::{Comments, access_map_key, parse_names, parse_passwd};

fuzz_target!(|input: &[u8]| {
    let lists = [
        parse_names(input, Comments::Skip),
        parse_names(input, Comments::AreNames),
        parse_passwd(input, 0..=u32::MAX).unwrap_or_default(),
    ];
    for list in &lists {
        assert_eq!(list.iter().collect::<HashSet<_>>().len(), list.len());
        for user in list {
            assert!(!user.is_empty() && !user.contains(&b'\n'));
            check_key(user);
        }
    }
    check_key(input);
});

fn check_key(user: &[u8]) {
    if let Ok(key) = access_map_key(user) {
        let line = [&key, b"\tgroup\n".as_slice()].concat();
        let found = text::lookup(line.as_slice(), &search_order::keys(user)).expect("memory can be read");
        assert_eq!(found, Some((0, b"group".to_vec())));
    }
}
