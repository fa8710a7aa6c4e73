//! Looks a key up in any bytes taken for a cdb file.
//!
//! The input is the length of the key, the key, and the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailaffinity::access_map::cdb;

fuzz_target!(|input: &[u8]| {
    let Some((length, rest)) = input.split_first() else {
        return;
    };
    let Some((key, file)) = rest.split_at_checked(usize::from(*length)) else {
        return;
    };
    if let Ok(Some((index, value))) = cdb::lookup(file, &[key.to_vec()]) {
        assert_eq!(index, 0);
        assert!(value.len() <= file.len());
    }
});
