//! Any access source keeps all that is outside the block, whatever is put in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailaffinity::access_map::text::{Line, for_each_line};
use mailaffinity_cli::access_source::managed_block::{AccessSource, Entry};

fuzz_target!(|text: &[u8]| {
    let Ok(source) = AccessSource::parse(text) else {
        return;
    };
    let entry = Entry {
        key: b"qgrp:anna@".to_vec(),
        queue_group: "node1group",
    };
    let by_hand = source.by_hand();
    let entries: Vec<_> = [entry]
        .into_iter()
        .filter(|entry| !by_hand.contains_key(&entry.key))
        .collect();

    // Without the block: all that was outside of it, and at most a newline more.
    let empty = source.with_entries(&[]).text;
    let filled = source.with_entries(&entries);
    let again = AccessSource::parse(&filled.text).expect("what was written is read");
    assert_eq!(again.with_entries(&[]).text, empty);
    assert_eq!(again.with_entries(&entries), filled);
    assert_eq!(again.managed_count(), entries.len());
    assert_eq!(again.digest().as_ref(), Some(&filled.digest));

    // makemap has nothing to complain about.
    let (input, _) = source.makemap_input(&entries, &filled.digest);
    let mut keys = std::collections::HashSet::new();
    for_each_line(&input, |_, line| match line {
        Line::Entry(key, _) => assert!(keys.insert(key.to_vec())),
        other => panic!("{other:?}"),
    });
});
