//! Any access source keeps all that is outside the block, whatever is put in it.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use mailaffinity::access_map::Entry;
use mailaffinity::access_map::text::{Line, lines};
use mailaffinity_cli::access_source::managed_block::AccessSource;

fuzz_target!(|text: &[u8]| {
    let Ok(source) = AccessSource::parse(text.to_vec()) else {
        return;
    };
    let entry = Entry {
        key: &b"anna@"[..],
        value: b"node1group",
    };
    let by_hand = source.by_hand();
    let mut own = by_hand.iter().map(|own| own.entry.key);
    let entry = (!own.any(|key| key.eq_ignore_ascii_case(entry.key))).then_some(entry);

    let name = entry.map(|entry| Entry {
        key: &b"info@"[..],
        ..entry
    });
    let name = name.filter(|name| {
        !by_hand
            .iter()
            .any(|own| own.entry.key.eq_ignore_ascii_case(name.key))
    });

    // Without the block: all that was outside of it, and at most a newline more.
    let empty = source.with_entries([], []);
    let filled = source.with_entries(entry, name);
    let again = AccessSource::parse(filled.text().to_vec()).expect("what was written is read");
    assert_eq!(again, filled);
    assert_eq!(again.with_entries([], []).text(), empty.text());
    assert_eq!(again.with_entries(entry, name), filled);
    assert!(again.entries().eq(entry) && again.other_names().eq(name));

    // makemap has nothing to complain about.
    let (parts, _) = filled.for_makemap();
    let input: Vec<_> = parts.into_iter().map(|part| &filled.text()[part]).collect();
    let mut keys = HashSet::new();
    for (_, _, line) in lines(&input.concat()) {
        match line {
            Line::Entry(entry) => assert!(keys.insert(entry.key.to_ascii_lowercase())),
            Line::Nothing => {}
            Line::LeftOut(why) => panic!("{why}"),
        }
    }
});
