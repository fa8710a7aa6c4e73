//! The answers of an access map, published for those who may not read it.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use super::managed_block::{AccessSource, DIGEST_KEY};
use super::rebuild::{RebuildError, at};
use crate::files::place::Place;
use crate::files::replace::Staging;
use mailaffinity::access_map::{Published, cdb, key};

/// All may read it who do not have another file of theirs there already.
const MODE: u32 = 0o644;

/// Whether the answers in force are those of a map that is built of this source.
pub(crate) fn is_current(published: &Published, source: &AccessSource) -> bool {
    let digest = published.get(DIGEST_KEY).ok().flatten();
    digest.is_some() && digest.as_deref() == source.digest().map(str::as_bytes)
}

/// Publishes the answers of the map in force, which is built of this source, with the rights of
/// the file that is there. A crash of the program or the machine leaves the old or the new
/// ones, of which the digest tells.
///
/// # Errors
/// The old answers, which no longer hold, are then gone if that can be done, and the map in
/// force stays.
pub(crate) fn publish(path: &Path, source: &AccessSource) -> Result<(), RebuildError> {
    replace(path, source).map_err(|error| {
        // Who finds none asks the map, or the mapping, and says so.
        let _ = Place::of(path).and_then(|place| place.remove());
        at(path)(error).after(
            "the access map is up to date, but not what is published of it; the next update tries again",
        )
    })
}

fn replace(path: &Path, source: &AccessSource) -> io::Result<()> {
    let place = Place::with_folders(path)?;
    let staging = Staging::beside(&place)?;
    let written = Published::new(staging.folder().join(staging.file_name()));
    let staged = staging.write_by(|file| write(file, source))?;
    // What its readers would not take is not put in force.
    if !is_current(&written, source) {
        return Err(io::Error::other("what was written is not what is read"));
    }
    match place.open() {
        Ok(old) => staged.keep_attributes(&old)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => staged.set_mode(MODE)?,
        Err(error) => return Err(error),
    }
    staged.sync()?;
    staged.put_in_force()?;
    place.sync_folder()
}

fn write(file: &mut File, source: &AccessSource) -> io::Result<()> {
    let mut writer = cdb::Writer::new(BufWriter::with_capacity(1 << 16, file))?;
    let mut key = Vec::new();
    for entry in source.queue_groups() {
        key.clear();
        key.extend_from_slice(key::TAG);
        key.extend(entry.key.iter().map(u8::to_ascii_lowercase));
        writer.add(&key, entry.value)?;
    }
    writer.add(DIGEST_KEY, source.digest().unwrap_or_default().as_bytes())?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use mailaffinity::access_map::{Entry, search_order, text};

    /// Lines as administrators write them, most of them about a few users.
    fn lines() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            6 => "(QGRP|qgrp|QgRp):[abA.]{1,2}(\\+[b*])?@([ab]\\.org)?[ \t]{1,2}(node[12]group|other # x) ?",
            1 => "qgrp:([ab]\\.)?org[ \t]node3group",
            1 => "(Connect|From):[ab]{1,2} REJECT",
            1 => "[ #]?QGRP:a@ ?",
        ];
        let end = prop_oneof![5 => Just("\n"), 1 => Just("\r\n"), 1 => Just("")];
        prop::collection::vec((line, end), 0..8)
            .prop_map(|lines| lines.into_iter().map(|(line, end)| line + end).collect())
    }

    proptest! {
        #[test]
        fn answers_are_those_of_the_map(
            before in lines(), after in lines(),
            block in prop::collection::btree_map("[ab.]{1,2}@(b\\.org)?", "node[12]group", 0..6),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("answers.cdb");
            let empty = AccessSource::parse(before.into_bytes()).unwrap().with_entries([], []);
            let source = AccessSource::parse([empty.text(), after.as_bytes()].concat()).unwrap();
            let by_hand = source.by_hand();
            let block: Vec<_> = block
                .iter()
                .map(|(key, value)| Entry { key: key.as_bytes(), value: value.as_bytes() })
                .filter(|entry| !by_hand.iter().any(|own| own.entry.key.eq_ignore_ascii_case(entry.key)))
                .collect();
            let (users, names) = block.split_at(block.len() / 2);
            let source = source.with_entries(users.iter().copied(), names.iter().copied());
            publish(&path, &source).unwrap();

            // What makemap would get.
            let (parts, _) = source.for_makemap();
            let parts = parts.into_iter().map(|part| [&source.text()[part], b"\n"].concat());
            let map = parts.collect::<Vec<_>>().concat();
            let published = Published::new(&path);
            for local in ["a", "b", "A.", "ab", "ba", "aa", "a+b", "B+x", "+b", "c"] {
                for domain in ["", "@a.org", "@b.org", "@x.B.org", "@b.org."] {
                    let user = format!("{local}{domain}").into_bytes();
                    let keys = search_order::keys(&user);
                    let expected = text::lookup(map.as_slice(), &keys).unwrap();
                    let expected = expected.map(|(index, value)| Entry { key: keys[index].clone(), value });
                    prop_assert_eq!(published.queue_group(&user).unwrap(), expected, "{}", user.escape_ascii());
                }
            }
            for key in [&b"connect:a"[..], b"from:a", b"from:b"] {
                prop_assert_eq!(published.get(key).unwrap(), None);
            }
        }
    }
}
