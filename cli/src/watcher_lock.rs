//! Whether a watcher is at work: it holds a lock beside the status file, which each machine has
//! for itself unless it shares the folder.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use crate::files::lock::{self, Lock};
use crate::files::place::Place;
use mailaffinity::config::Config;

/// How long a watcher that begins waits for whoever holds its lock: longer than looking takes.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(1);
/// The file is named after it.
const WATCH: &str = "watch";

/// The file of which it is the lock.
pub(crate) fn file(config: &Config) -> PathBuf {
    config.status.with_file_name(WATCH)
}

/// Takes the watcher's lock, and waits so long for it.
///
/// # Errors
/// As [`lock::of`].
pub(crate) fn take(config: &Config, wait: Duration) -> io::Result<Lock> {
    let place = Place::with_folders(&file(config))?;
    lock::of(&place, wait)
}

/// Whether a watcher checks the nodes, and does what follows when they change.
pub(crate) fn is_at_work(config: &Config) -> bool {
    let place = Place::of(&file(config));
    place
        .and_then(|place| lock::wait_until_free(&place, Duration::ZERO))
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}
