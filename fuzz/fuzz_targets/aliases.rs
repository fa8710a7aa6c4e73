//! Any bytes are aliases or lines that are named, and each value leads somewhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailaffinity_cli::aliases::{Target, included, is_plain, parse, target};

fuzz_target!(|text: &[u8]| {
    let lines = text.split_inclusive(|byte| *byte == b'\n').count() as u64;
    let (aliases, bad) = parse(text);
    assert!(bad.iter().all(|bad| (1..=lines).contains(&bad.line)));
    for alias in &aliases {
        assert!((1..=lines).contains(&alias.line));
        assert!(!alias.name.is_empty() && !alias.value.is_empty());
        if let Target::Name(name) | Target::Final(name) = target(&alias.value) {
            assert!(is_plain(&name));
        }
    }
    // A line that is wrong takes nothing with it: an alias after it is there, unless
    // backslashes make it a part of the last one.
    if !text.contains(&b'\\') {
        let (again, _) = parse(&[text, b"\n\nlast: anna\n"].concat());
        assert!(
            again
                .iter()
                .any(|alias| alias.name == b"last" && alias.value == b"anna")
        );
    }
    included(text);
});
