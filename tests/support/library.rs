//! The C library that Cargo built, and its header.

// Each test uses a part of this.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::PathBuf;

/// The functions of the header: names before a parenthesis, outside of comments and preprocessor lines.
pub(crate) fn declared_functions() -> BTreeSet<String> {
    let header = fs::read_to_string("include/mailaffinity.h").expect("the header");
    let code: String = header
        .split("/*")
        .map(|part| part.split_once("*/").map_or(part, |(_, code)| code))
        .flat_map(str::lines)
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut before_parentheses: Vec<&str> = code.split('(').collect();
    before_parentheses.pop();
    before_parentheses
        .iter()
        .map(|text| {
            let part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            text.rsplit(|c| !part_of_name(c))
                .next()
                .expect("one part at least")
                .to_owned()
        })
        .collect()
}

/// A library that Cargo built for this test: `cargo test` leaves it beside the test,
/// `cargo build` one folder above.
pub(crate) fn built(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the test's own path");
    let places: Vec<PathBuf> = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .collect();
    places
        .iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("none of {places:?} exists"))
        .clone()
}
