//! What Cargo built, and the header of the C library.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use tempfile::Builder;

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

/// A folder for what tests make: beside what Cargo built where the peers take such a path,
/// else one that is gone when this process is.
pub fn tmp() -> PathBuf {
    static ELSEWHERE: LazyLock<(PathBuf, Child)> = LazyLock::new(elsewhere);
    let tmp = beside("tmp");
    if !peers_take(&tmp) {
        return ELSEWHERE.0.clone();
    }
    fs::create_dir_all(&tmp).expect("a folder for tests");
    tmp
}

/// sendmail calls all files unsafe that are below a folder in which others can write
/// (`safedirpath()`), in configurations a blank ends a path, and a socket's has 107 bytes.
fn peers_take(folder: &Path) -> bool {
    let text = folder.to_string_lossy();
    let others_write = |folder: &Path| {
        let mode = fs::metadata(folder).map_or(0, |metadata| metadata.mode());
        mode & 0o022 != 0
    };
    text.len() <= 70 && !text.contains(char::is_whitespace) && !folder.ancestors().any(others_write)
}

/// Below /var/lib or, for an ordinary user, at home. It is removed by somebody who waits
/// for this process to end, however it does.
fn elsewhere() -> (PathBuf, Child) {
    let home = env::var_os("HOME").map(PathBuf::from);
    let mut builder = Builder::new();
    builder
        .prefix("mailaffinity-tests")
        .permissions(Permissions::from_mode(0o755));
    let folder = [Some(PathBuf::from("/var/lib")), home]
        .into_iter()
        .flatten()
        .filter(|base| peers_take(base))
        .find_map(|base| builder.tempdir_in(base).ok())
        .unwrap_or_else(|| {
            panic!(
                "{:?} has a blank, is too long, or is below a folder in which others can write, and neither in \
                 /var/lib nor in $HOME can be one for tests: use another checkout or CARGO_TARGET_DIR",
                profile_folder()
            )
        })
        .keep();
    let remover = Command::new("sh")
        .args(["-c", "trap '' HUP INT TERM; cat; rm -rf \"$1\"", "sh"])
        .arg(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("run sh");
    (folder, remover)
}

pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A folder beside those of Cargo's profiles.
pub(crate) fn beside(name: &str) -> PathBuf {
    profile_folder().with_file_name(name)
}

/// Where Cargo puts what it builds: the test itself is in `deps/` there.
pub(crate) fn profile_folder() -> PathBuf {
    let test = env::current_exe().expect("the test's own path");
    test.ancestors().nth(2).expect("a folder above").to_owned()
}
