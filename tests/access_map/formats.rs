//! The three formats.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use mailaffinity::access_map::read_at::{Found, ReadError};
use mailaffinity::access_map::{AccessMap, Error, berkeley_db, cdb, text};
use proptest::prelude::*;

use support::maps::{self, Entries};

type Lookup = fn(&[u8], &[Vec<u8>]) -> Result<Found, ReadError>;

#[track_caller]
fn get(lookup: Lookup, file: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let found = lookup(file, &[key.to_vec()]).unwrap_or_else(|error| panic!("{key:?}: {error:?}"));
    found.map(|(_, value)| value)
}

/// All entries are found, the first value of each key, and no other key is.
#[track_caller]
fn check_entries(lookup: Lookup, file: &[u8], entries: &Entries) {
    let mut expected = BTreeMap::new();
    for (key, value) in entries {
        expected.entry(key).or_insert(value);
    }
    for (key, value) in &expected {
        assert_eq!(get(lookup, file, key).as_ref(), Some(*value), "{key:?}");
        for absent in [[key.as_slice(), b"x"].concat(), key[1..].to_vec()] {
            if !expected.contains_key(&absent) {
                assert_eq!(get(lookup, file, &absent), None, "{absent:?}");
            }
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..Default::default()
    }
}

/// Entries that makemap takes: at most 1022 bytes, no blanks in the key.
fn makemap_entries(count: std::ops::Range<usize>) -> impl Strategy<Value = Entries> {
    let key = prop_oneof![
        8 => "qgrp:[a-z0-9.+]{1,20}@",
        1 => "[!-\"$-@\\[-~][!-@\\[-~]{0,400}",
    ];
    let value = prop_oneof![8 => "[!-~][ -~]{0,20}", 1 => "[!-~][ -~]{0,600}"];
    prop::collection::vec((key, value), count).prop_map(|entries| {
        entries
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    })
}

/// Any bytes, some of them too large for a page.
fn any_entries(count: std::ops::Range<usize>, largest: usize) -> impl Strategy<Value = Entries> {
    let bytes = move |least| {
        prop_oneof![
            8 => prop::collection::vec(any::<u8>(), least..24),
            1 => prop::collection::vec(any::<u8>(), least..largest),
        ]
    };
    prop::collection::vec((bytes(1), bytes(0)), count)
}

/// Without keys that differ by a trailing NUL only, which `-N` maps do.
fn without_terminators(mut entries: Entries) -> Entries {
    for (key, _) in &mut entries {
        if key.last() == Some(&0) {
            key.push(1);
        }
    }
    entries
}

fn without_duplicates(entries: Entries) -> Entries {
    let mut seen = BTreeSet::new();
    entries
        .into_iter()
        .filter(|(key, _)| seen.insert(key.clone()))
        .collect()
}

/// As many different entries as wanted, some of them long.
fn numbered(count: usize) -> Entries {
    (0..count)
        .map(|number| {
            let tail = "x".repeat(if number % 50 == 7 { 700 } else { number % 7 });
            let key = format!("qgrp:user{number}@");
            (key.into(), format!("group{number}{tail}").into())
        })
        .collect()
}

mod hash {
    use super::*;

    proptest! {
        #![proptest_config(config(40))]

        #[test]
        fn maps_of_makemap(entries in makemap_entries(1..400), terminated in any::<bool>()) {
            let directory = maps::directory();
            let path = directory.path().join("access.db");
            let options: &[&str] = if terminated { &["-N"] } else { &[] };
            maps::make_hash(&path, &maps::source(entries.clone()), options);
            check_entries(berkeley_db::lookup, &std::fs::read(&path).unwrap(), &entries);
        }

        #[test]
        fn any_bytes_page_size_and_byte_order(
            entries in any_entries(1..300, 4000),
            page_size in 9..=16_u32,
            big_endian in any::<bool>(),
            presized in any::<bool>(),
        ) {
            let entries = without_duplicates(without_terminators(entries));
            let directory = maps::directory();
            let path = directory.path().join("any.db");
            let page_size = format!("db_pagesize={}", 1_u32 << page_size);
            let order = if big_endian { "db_lorder=4321" } else { "db_lorder=1234" };
            let mut header = vec!["type=hash", &page_size, order];
            if presized {
                header.extend(["h_ffactor=10", "h_nelem=5000"]);
            }
            maps::db_load(&path, &header, &[], &entries);
            check_entries(berkeley_db::lookup, &std::fs::read(&path).unwrap(), &entries);

            make_version_8(&path, big_endian);
            let sorted = |mut entries: Entries| { entries.sort(); entries };
            prop_assert_eq!(sorted(maps::db_dump(&path)), sorted(entries.clone()));
            check_entries(berkeley_db::lookup, &std::fs::read(&path).unwrap(), &entries);
        }

        #[test]
        fn flipped_bits_do_no_harm(
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..20),
            in_meta_page in any::<bool>(),
        ) {
            let (mut file, entries) = small_pages();
            for (place, bit) in flips {
                let length = if in_meta_page { 512 } else { file.len() };
                let place = place.index(length);
                file[place] ^= 1 << bit;
            }
            for (key, value) in &entries {
                // A wrong answer is possible where the flip hit a key or value,
                // but it has the size of something that is in the file.
                if let Ok(Some((index, found))) = berkeley_db::lookup(&file[..], std::slice::from_ref(key)) {
                    prop_assert_eq!(index, 0);
                    prop_assert!(found.len() <= file.len(), "{:?}", value);
                }
            }
        }
    }

    /// A file with many pages of each kind.
    fn small_pages() -> (Vec<u8>, Entries) {
        let directory = maps::directory();
        let path = directory.path().join("small.db");
        let entries = numbered(150);
        maps::db_load(&path, &["type=hash", "db_pagesize=512"], &[], &entries);
        (std::fs::read(&path).unwrap(), entries)
    }

    /// Makes a file of version 9 one of version 8, which calls its pages
    /// unsorted: a sorted page is also a valid unsorted one.
    fn make_version_8(path: &Path, big_endian: bool) {
        let u32_of = if big_endian {
            u32::from_be_bytes
        } else {
            u32::from_le_bytes
        };
        let mut file = std::fs::read(path).unwrap();
        let page_size = u32_of(file[20..24].try_into().unwrap()) as usize;
        assert_eq!(u32_of(file[16..20].try_into().unwrap()), 9);
        file[16..20].copy_from_slice(&if big_endian {
            8_u32.to_be_bytes()
        } else {
            8_u32.to_le_bytes()
        });
        for page in file.chunks_mut(page_size) {
            if page[25] == 13 {
                page[25] = 2;
            }
        }
        std::fs::write(path, file).unwrap();
    }

    #[test]
    fn one_two_and_ten_thousand_entries() {
        let directory = maps::directory();
        let path = directory.path().join("access");
        let map = AccessMap::new(&format!("hash:{}", path.display()), Duration::ZERO).unwrap();
        for count in [1, 2, 10_000] {
            let entries = numbered(count);
            maps::make_hash(&path, &maps::source(entries.clone()), &[]);
            check_entries(berkeley_db::lookup, &std::fs::read(map.path()).unwrap(), &entries);
            for (key, value) in &entries {
                assert_eq!(map.get(key).unwrap().as_ref(), Some(value));
                assert_eq!(map.get(&key.to_ascii_uppercase()).unwrap().as_ref(), Some(value));
            }
        }
    }

    #[test]
    fn a_map_without_entries_is_refused() {
        let directory = maps::directory();
        let path = directory.path().join("access.db");
        maps::make_hash(&path, b"# nothing\n", &[]);
        let map = AccessMap::new(&format!("hash:{}", path.display()), Duration::ZERO).unwrap();
        let error = map.get(b"qgrp:user@").unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("no entries"), "{error}");
    }

    #[test]
    fn a_million_entries() {
        let directory = maps::directory();
        let path = directory.path().join("access.db");
        let mut source = Vec::new();
        for number in 0..1_000_000 {
            source.extend(format!("qgrp:user{number}@\tgroup{}\n", number % 7).into_bytes());
        }
        maps::make_hash(&path, &source, &["-c", "268435456"]);
        let map = AccessMap::new(&format!("hash:{}", path.display()), Duration::ZERO).unwrap();
        for number in (0..1_000_000).step_by(101) {
            let entry = map.queue_group(format!("User{number}@example.org").as_bytes());
            let entry = entry
                .unwrap()
                .unwrap_or_else(|| panic!("user{number} is missing"));
            assert_eq!(entry.key, format!("qgrp:user{number}@").as_bytes());
            assert_eq!(entry.value, format!("group{}", number % 7).as_bytes());
            let absent = format!("user{}", number + 1_000_000);
            assert_eq!(map.queue_group(absent.as_bytes()).unwrap(), None);
        }
    }

    #[test]
    fn replaced_large_values() {
        // `makemap -r -o` frees and reuses pages.
        let directory = maps::directory();
        let path = directory.path().join("access.db");
        maps::db_load(&path, &["type=hash", "db_pagesize=512"], &[], &numbered(500));
        let mut expected = Vec::new();
        for round in 0..4 {
            expected = numbered(500);
            for (number, (_, value)) in expected.iter_mut().enumerate() {
                *value = vec![b'a' + round, b'v'];
                value.resize(
                    if (number + usize::from(round)) % 3 == 0 {
                        2
                    } else {
                        400
                    },
                    b'y',
                );
            }
            maps::make_hash(&path, &maps::source(expected.clone()), &["-r", "-o"]);
        }
        check_entries(berkeley_db::lookup, &std::fs::read(&path).unwrap(), &expected);
    }

    #[test]
    fn of_duplicates_the_first_is_found() {
        let directory = maps::directory();
        let path = directory.path().join("any.db");
        let mut entries: Entries = numbered(30);
        for (key, _) in numbered(30) {
            entries.push((key, b"second".to_vec()));
        }
        for order in ["db_lorder=4321", "db_lorder=1234"] {
            maps::db_load(&path, &["type=hash", "duplicates=1", order], &[], &entries);
            check_entries(berkeley_db::lookup, &std::fs::read(&path).unwrap(), &entries);
            std::fs::remove_file(&path).unwrap();
        }
        for number in 0..2000 {
            entries.push((b"many".to_vec(), format!("value{number}").into_bytes()));
        }
        maps::db_load(&path, &["type=hash", "duplicates=1"], &[], &entries);
        let file = std::fs::read(&path).unwrap();
        let error = berkeley_db::lookup(&file[..], &[b"many".to_vec()]).unwrap_err();
        assert!(
            matches!(&error, ReadError::Unsupported(detail) if detail.contains("many values")),
            "{error:?}"
        );
    }

    #[test]
    fn other_databases_are_refused() {
        let directory = maps::directory();
        let path = directory.path().join("other.db");
        let file_of = |header: &[&str], options: &[&str], entries: &Entries| {
            maps::db_load(&path, header, options, entries);
            let file = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            file
        };
        let hash = file_of(&["type=hash"], &[], &numbered(9));
        let changed = |at: usize, value: u8| {
            let mut file = hash.clone();
            file[at] = value;
            file
        };
        let old = |magic: u32| [magic.to_be_bytes().as_slice(), &[0; 4092]].concat();
        let mut heap = hash.clone();
        heap[12..16].copy_from_slice(&0x0007_4582_u32.to_le_bytes());
        let queue: Entries = (1..4_u32)
            .map(|n| (n.to_le_bytes().into(), b"v".into()))
            .collect();
        for (file, reason) in [
            (
                file_of(&["type=btree"], &[], &numbered(9)),
                "a Berkeley DB btree file",
            ),
            (
                file_of(&["type=btree", "db_lorder=4321"], &[], &numbered(9)),
                "a Berkeley DB btree file",
            ),
            (
                file_of(&["type=queue", "re_len=4"], &[], &queue),
                "a Berkeley DB queue file",
            ),
            (
                file_of(&["type=hash", "chksum=1"], &[], &numbered(9)),
                "page checksums",
            ),
            (
                file_of(&["type=hash"], &["-P", "secret"], &numbered(9)),
                "encrypted",
            ),
            (changed(16, 7), "version 7"),
            (changed(16, 10), "version 10"),
            (changed(26, 2), "partitioned"),
            (changed(36, 2), "partitioned"),
            (changed(48, 2), "several databases"),
            (changed(92, hash[92] ^ 1), "hash function"),
            (heap, "a Berkeley DB heap file"),
            (old(0x0006_1561), "1.85"),
            (old(0x0005_3162), "1.85"),
            (vec![b'x'; 5000], "not a Berkeley DB hash file"),
            (vec![0; 5000], "not a Berkeley DB hash file"),
        ] {
            let result = berkeley_db::lookup(&file[..], &[b"qgrp:user1@".to_vec()]);
            let Err(ReadError::Unsupported(detail)) = result else {
                panic!("{reason}: {result:?}");
            };
            assert!(detail.contains(reason) && detail.contains("makemap"), "{detail}");
        }
    }

    #[test]
    fn a_btree_is_refused_under_its_name() {
        let directory = maps::directory();
        let path = directory.path().join("access");
        let output = maps::run(maps::makemap().arg("btree").arg(&path), b"k v\n");
        assert!(output.status.success(), "{output:?}");
        let map = AccessMap::new(&format!("hash:{}", path.display()), Duration::ZERO).unwrap();
        let error = map.get(b"k").unwrap_err().to_string();
        assert!(
            error.contains("access.db: a Berkeley DB btree file; build it"),
            "{error}"
        );
    }

    #[test]
    fn truncated_files_have_no_answers() {
        let (file, entries) = small_pages();
        let keys: Vec<_> = entries.iter().step_by(15).map(|(key, _)| key.clone()).collect();
        for length in 0..file.len() {
            berkeley_db::lookup(&file[..length], &keys).unwrap_err();
        }
        berkeley_db::lookup(&file[..], &keys).unwrap();
    }

    #[test]
    fn pages_that_were_lost_are_noticed() {
        // As after a crash: some pages never reached the disk.
        let directory = maps::directory();
        let path = directory.path().join("access.db");
        let entries = numbered(3000);
        maps::make_hash(&path, &maps::source(entries.clone()), &[]);
        let whole = std::fs::read(&path).unwrap();
        for page in 0..whole.len() / 4096 {
            let mut file = whole.clone();
            file[page * 4096..][..4096].fill(0);
            for (key, value) in &entries {
                match berkeley_db::lookup(&file[..], std::slice::from_ref(key)) {
                    Ok(found) => {
                        // The first two pages are the only ones that may
                        // rightly be empty.
                        if page > 2 || found.is_some() {
                            assert_eq!(found, Some((0, value.clone())), "page {page}");
                        }
                    }
                    Err(ReadError::Damaged(_) | ReadError::Unsupported(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    }
}

mod constant_database {
    use super::*;

    proptest! {
        #![proptest_config(config(60))]

        #[test]
        fn any_bytes(entries in any_entries(0..300, 3000)) {
            let entries = without_terminators(entries);
            let directory = maps::directory();
            let path = directory.path().join("any.cdb");
            maps::make_cdb(&path, &entries);
            let file = std::fs::read(&path).unwrap();
            check_entries(cdb::lookup, &file, &entries);
            prop_assert_eq!(get(cdb::lookup, &file, b""), None);
            let mut written = Cursor::new(Vec::new());
            let mut writer = cdb::Writer::new(&mut written).unwrap();
            for (key, value) in &entries {
                writer.add(key, value).unwrap();
            }
            writer.finish().unwrap();
            prop_assert!(written.into_inner() == file, "tinycdb writes the same");
        }

        #[test]
        fn flipped_bits_do_no_harm(
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..20),
        ) {
            let (mut file, entries) = small();
            for (place, bit) in flips {
                let place = place.index(file.len());
                file[place] ^= 1 << bit;
            }
            for (key, _) in &entries {
                if let Ok(Some((index, found))) = cdb::lookup(&file[..], std::slice::from_ref(key)) {
                    prop_assert_eq!(index, 0);
                    prop_assert!(found.len() <= file.len());
                }
            }
        }
    }

    fn small() -> (Vec<u8>, Entries) {
        let directory = maps::directory();
        let path = directory.path().join("access.cdb");
        let entries = numbered(60);
        maps::make_cdb(&path, &entries);
        (std::fs::read(&path).unwrap(), entries)
    }

    #[test]
    fn as_an_access_map() {
        let directory = maps::directory();
        let path = directory.path().join("access");
        let terminated = |(key, value): &(Vec<u8>, Vec<u8>)| {
            (
                [key.as_slice(), b"\0"].concat(),
                [value.as_slice(), b"\0"].concat(),
            )
        };
        for with_nul in [false, true] {
            let entries = numbered(1000);
            let stored: Entries = if with_nul {
                entries.iter().map(terminated).collect()
            } else {
                entries.clone()
            };
            maps::make_cdb(&path.with_extension("cdb"), &stored);
            let map = AccessMap::new(&format!("cdb:{}", path.display()), Duration::ZERO).unwrap();
            for (number, (key, value)) in entries.into_iter().enumerate() {
                let entry = map.queue_group(format!("USER{number}+box@x").as_bytes());
                let entry = entry.unwrap().unwrap();
                assert_eq!((entry.key, entry.value), (key, value));
            }
            assert_eq!(map.queue_group(b"nobody").unwrap(), None);
        }
    }

    #[test]
    fn truncated_or_unfinished_files_have_no_answers() {
        let (mut file, entries) = small();
        let keys: Vec<_> = entries.iter().step_by(15).map(|(key, _)| key.clone()).collect();
        for length in 0..file.len() {
            cdb::lookup(&file[..length], &keys).unwrap_err();
        }
        cdb::lookup(&file[..], &keys).unwrap();
        // The header is written last.
        file[..2048].fill(0);
        let error = cdb::lookup(&file[..], &keys).unwrap_err();
        assert!(
            matches!(&error, ReadError::Damaged(detail) if detail.contains("interrupted")),
            "{error:?}"
        );
    }
}

mod source_text {
    use super::*;

    /// What a line is made of, with everything that makemap treats in a way of
    /// its own.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            8 => "[a-cA-C]".prop_map(String::into_bytes),
            6 => Just(b" ".to_vec()),
            6 => Just(b"\n".to_vec()),
            3 => "[a-c]{1,3}[ \t]{1,2}[a-z]{1,5}\n".prop_map(String::into_bytes),
            2 => "[#\t\r\x0b\x0c\\\\\"':%]".prop_map(String::into_bytes),
            1 => prop::sample::select(vec![b"\0".to_vec(), b"\xc9".to_vec(), b"\xa0".to_vec(), b"\xc3\x89".to_vec(), b"\x1f".to_vec()]),
            1 => (900..1100_usize).prop_map(|length| vec![b'a'; length]),
            1 => (1010..1030_usize).prop_map(|length| vec![b' '; length]),
        ];
        prop::collection::vec(piece, 0..120).prop_map(|pieces| pieces.concat())
    }

    #[track_caller]
    fn check_as_makemap_reads_it(source: &[u8]) {
        let directory = maps::directory();
        let path = directory.path().join("access.db");
        maps::make_hash(&path, source, &[]);
        let entries: BTreeMap<_, _> = maps::db_dump(&path).into_iter().collect();
        for (key, value) in &entries {
            assert_eq!(get(text::lookup, source, key).as_ref(), Some(value), "{key:?}");
        }
        let words: BTreeSet<_> = source
            .split(|byte| b" \t\r\n\x0b\x0c\0".contains(byte))
            .flat_map(|word| [word, word.get(word.len() % 1023..).unwrap_or_default()])
            .map(<[u8]>::to_ascii_lowercase)
            .collect();
        for word in words {
            let expected = entries.get(&word).cloned();
            assert_eq!(get(text::lookup, source, &word), expected, "{word:?}");
        }
    }

    proptest! {
        #![proptest_config(config(150))]

        #[test]
        fn is_read_as_makemap_reads_it(source in text()) {
            check_as_makemap_reads_it(&source);
        }
    }

    #[test]
    fn of_more_than_one_buffer_is_read_as_makemap_reads_it() {
        let long = (0..200_usize).map(|n| (format!("k{n}"), "x".repeat(400 + 97 * n % 600)));
        let mut source = maps::source(long);
        assert!(source.len() > 2 << 16, "{}", source.len());
        source.extend(b"last line");
        check_as_makemap_reads_it(&source);
    }

    #[test]
    fn as_an_access_map() {
        let directory = maps::directory();
        let path = directory.path().join("access");
        std::fs::write(&path, "QGRP:anna@\tone\nqgrp:anna@example.org two # why\n").unwrap();
        let map = AccessMap::new(&format!("text:{}", path.display()), Duration::from_secs(60));
        let map = map.unwrap();
        let value_of = |user: &str| map.queue_group(user.as_bytes()).unwrap().unwrap().value;
        assert_eq!(value_of("Anna"), b"one");
        assert_eq!(value_of("anna@Example.org"), b"two # why");
        assert_eq!(map.queue_group(b"bert").unwrap(), None);
    }
}

#[test]
fn directories_are_refused() {
    let directory = maps::directory();
    std::fs::create_dir(directory.path().join("access.db")).unwrap();
    let spec = format!("hash:{}", directory.path().join("access").display());
    let error = AccessMap::new(&spec, Duration::ZERO)
        .unwrap()
        .get(b"k")
        .unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn changes_in_place_are_seen_by_the_next_lookup() {
    let directory = maps::directory();
    let path = directory.path().join("access.db");
    maps::make_hash(&path, b"k one\n", &[]);
    let map = AccessMap::new(&format!("hash:{}", path.display()), Duration::ZERO).unwrap();
    assert_eq!(map.get(b"k").unwrap().unwrap(), b"one");
    let file: File = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut contents = std::fs::read(&path).unwrap();
    let at = contents.windows(3).rposition(|bytes| bytes == b"one").unwrap();
    contents[at..][..3].copy_from_slice(b"two");
    file.write_all_at(&contents, 0).unwrap();
    assert_eq!(map.get(b"k").unwrap().unwrap(), b"two");
}
