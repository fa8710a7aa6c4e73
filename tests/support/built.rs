//! What Cargo built, and the header of the C library.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The functions of the header: names before a parenthesis, outside of comments and preprocessor lines.
pub fn declared_functions() -> BTreeSet<String> {
    let header = fs::read_to_string(root().join("include/mailaffinity.h")).expect("the header");
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

/// A library that Cargo built for this test.
pub fn library(name: &str) -> PathBuf {
    let path = profile_folder().join("deps").join(name);
    assert!(path.exists(), "{path:?} is not there");
    path
}

/// The command `mailaffinity`, in the profile of the test.
pub static MAILAFFINITY: LazyLock<String> = LazyLock::new(|| command("mailaffinity"));

/// The command `hash_user_group`.
pub static HASH_USER_GROUP: LazyLock<String> = LazyLock::new(|| command("hash_user_group"));

/// The commands are another package's: Cargo builds them for its own tests alone.
fn command(name: &str) -> String {
    let folder = profile_folder();
    let mut build = Command::new(cargo());
    build
        .args(["build", "--locked", "--quiet", "--bins"])
        .current_dir(root());
    if folder.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("run cargo").success());
    folder.join(name).to_str().expect("a path in UTF-8").to_owned()
}

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A folder for what tests make. It is not in the system's temporary directory, whose
/// maps sendmail calls unsafe.
pub fn tmp() -> PathBuf {
    let tmp = profile_folder().with_file_name("tmp");
    fs::create_dir_all(&tmp).expect("a folder for tests");
    tmp
}

pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Where Cargo puts what it builds: the test itself is in `deps/` there.
fn profile_folder() -> PathBuf {
    let test = env::current_exe().expect("the test's own path");
    test.ancestors().nth(2).expect("a folder above").to_owned()
}
