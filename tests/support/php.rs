//! The PHP module, and the PHP that loads it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::built::{cargo, root};
use crate::sendmail::run_well;

/// The module, built as `make php` builds it. Not in the folder where the library is
/// built, which has features of its own.
pub static MODULE: LazyLock<PathBuf> = LazyLock::new(|| {
    let shared = env::var_os("CARGO_TARGET_DIR").map(|folder| Path::new(&folder).join("php"));
    let target = shared.unwrap_or_else(|| root().join("php/target"));
    run_well(
        Command::new(cargo())
            .args([
                "build",
                "--locked",
                "--release",
                "-p",
                "mailaffinity-php",
                "--target-dir",
            ])
            .arg(&target)
            .current_dir(root()),
        b"",
    );
    target.join("release/libmailaffinity_php.so")
});

/// As in 8.2: Debian names packages, programs and folders by it.
pub static VERSION: LazyLock<String> = LazyLock::new(|| {
    let version = run_well(
        php().args(["-r", "echo PHP_MAJOR_VERSION, '.', PHP_MINOR_VERSION;"]),
        b"",
    );
    String::from_utf8(version.stdout).expect("a number")
});

/// PHP's command line, without the machine's configuration.
pub fn php() -> Command {
    let mut php = Command::new(env::var_os("PHP").unwrap_or_else(|| "php".into()));
    php.arg("-n");
    php
}
