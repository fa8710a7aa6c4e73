//! Any bytes are what corosync's programs print or none of it, and nobody is a member who
//! is not listed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailaffinity_cli::corosync::{parse_cmap, parse_status};

fuzz_target!(|text: &[u8]| {
    if let Some(membership) = parse_status(text) {
        let words: Vec<&str> = str::from_utf8(text).unwrap().split_whitespace().collect();
        assert!(words.contains(&if membership.quorate { "Yes" } else { "No" }));
        assert!(!membership.members.is_empty());
        for member in membership.members {
            assert!(words.iter().any(|word| word.parse() == Ok(member)));
        }
    }
    if let Some(cmap) = parse_cmap(text) {
        let names = cmap.nodes.into_values().flatten();
        for name in names {
            assert!(text.windows(name.len()).any(|part| part == name.as_bytes()) || name.is_empty());
        }
    }
});
