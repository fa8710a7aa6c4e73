//! Looks a user up in any bytes taken for the source of a map.
//!
//! The input is the length of the user's name, the name, and the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailaffinity::access_map::{search_order, text};

fuzz_target!(|input: &[u8]| {
    let Some((length, rest)) = input.split_first() else {
        return;
    };
    let Some((user, file)) = rest.split_at_checked(usize::from(*length)) else {
        return;
    };
    let keys = search_order::keys(user);
    let found = text::lookup(file, &keys).expect("memory can be read");
    if let Some((index, value)) = found {
        assert!(index < keys.len());
        assert!(!value.is_empty() && !value.contains(&b'\n') && !value.contains(&0));
    }
});
