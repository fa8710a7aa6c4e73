//! What is wrong with an access map, in the words that the administrator gets.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A map that was not given in a supported notation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("access map {spec:?} {problem}; write hash:/path, cdb:/path or text:/path")]
pub struct SpecError {
    pub(super) spec: String,
    pub(super) problem: &'static str,
}

/// Why a lookup has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Others were writing the map for as long as the lookup could wait.
    #[error("access map {} is busy: {why}; gave up after {:.1} s", path.display(), waited.as_secs_f64())]
    Busy {
        /// The map.
        path: PathBuf,
        /// How long the lookup waited.
        waited: Duration,
        /// What it waited for.
        why: &'static str,
    },
    /// The map could not be opened, locked or read.
    #[error("cannot read access map {}: {source}", path.display())]
    Io {
        /// The map.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
    /// The map's contents contradict its format.
    #[error("access map {} is damaged: {detail}; build it again", path.display())]
    Damaged {
        /// The map.
        path: PathBuf,
        /// What is wrong, and on which page.
        detail: String,
    },
    /// The file is of a kind that is not read.
    #[error("cannot use access map {}: {detail}", path.display())]
    Unsupported {
        /// The map.
        path: PathBuf,
        /// What the file is.
        detail: String,
    },
}
