//! Answers captured from running Directors; `tests/director/README.md` has their format.

use std::fs;

use crate::built::root;

/// The files.
pub const FILES: usize = 30;

/// The lookups in all of them, so that a file cut short is noticed.
pub const LOOKUPS: usize = 15_975;

/// The captures of all files, by name: header lines, then lines of user, tag and answer. A
/// file of several formats becomes a capture for each.
pub fn captures() -> Vec<(String, String)> {
    let mut paths: Vec<_> = fs::read_dir(root().join("tests/director"))
        .expect("the folder of captures")
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tsv"))
        .collect();
    paths.sort();
    assert_eq!(paths.len(), FILES, "files in tests/director");
    let captures = paths.iter().flat_map(|path| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        by_format(name, fs::read_to_string(path).expect("a capture in UTF-8"))
    });
    captures.collect()
}

fn by_format(name: String, text: String) -> Vec<(String, String)> {
    const COLUMNS: &str = "# columns = username_hash user tag ip\n";
    let Some((before, after)) = text.split_once(COLUMNS) else {
        return vec![(name, text)];
    };
    let (headers, lookups): (Vec<&str>, Vec<&str>) = after
        .split_inclusive('\n')
        .partition(|line| line.starts_with("# "));
    let lookups: Vec<(&str, &str)> = lookups
        .iter()
        .map(|line| line.split_once('\t').expect("a format before a tab"))
        .collect();
    let of_one = lookups.chunk_by(|(one, _), (next, _)| one == next);
    of_one
        .map(|lookups| {
            let format = lookups[0].0;
            let headers = headers.concat();
            let lookups: String = lookups.iter().map(|(_, lookup)| *lookup).collect();
            (
                format!("{name} {format}"),
                format!("{before}# username_hash = {format}\n{headers}{lookups}"),
            )
        })
        .collect()
}
