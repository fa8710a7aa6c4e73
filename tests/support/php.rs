//! The PHP module, and the PHP that loads it.

// Each test uses a part of this.
#![allow(dead_code)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::sendmail::run_well;

/// The module, built as `make php` builds it. Not in the folder where the library is
/// built, which has features of its own.
pub(crate) static MODULE: LazyLock<PathBuf> = LazyLock::new(|| {
    let php = Path::new(env!("CARGO_MANIFEST_DIR")).join("php");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let shared = env::var_os("CARGO_TARGET_DIR").map(|folder| Path::new(&folder).join("php"));
    let target = shared.unwrap_or_else(|| php.join("target"));
    run_well(
        Command::new(cargo)
            .args(["build", "--release", "--manifest-path"])
            .arg(php.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target),
        b"",
    );
    target.join("release/libmailaffinity_php.so")
});

/// PHP's command line, without the machine's configuration.
pub(crate) fn php() -> Command {
    let mut php = Command::new(env::var_os("PHP").unwrap_or_else(|| "php".into()));
    php.arg("-n");
    php
}
