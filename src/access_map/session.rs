//! How a map is read while others rebuild it.
//!
//! Each lookup opens the file anew, so that it sees a map that was replaced by
//! rename, and reads it under a shared lock (`flock`), as sendmail does.
//! makemap holds the exclusive lock from before it truncates the file until
//! all of it is written (seen with strace, 8.17.1). Only a map that makemap has
//! just created is unlocked for a moment, and then it is empty.
//!
//! Not all writers take the lock. So an answer counts only if the file is the
//! same after the lookup as before, by its size and times. Two more rules use
//! the time of the file's last change (its ctime, which no one can set back):
//!
//! - Text is usually written by editors and scripts, which truncate it and
//!   write it piece by piece. A text is read only once it has been left alone
//!   for [`SETTLE`]; until then even a complete line may hide a better one.
//! - A file that cannot be read as the map it should be is reported only once
//!   it has been left alone for as long; until then it may be one that is being
//!   written.
//!
//! Until the timeout the lookup waits and tries again. Where the ctime tells
//! nothing, the file must stay the same for [`SETTLE`] before our eyes: if the
//! ctime is in the future, from the clock of another node, and if the file is
//! empty, since ext4 shows a file that is being truncated as empty before it
//! changes its ctime (seen on Linux 6.18).

use std::fs::TryLockError;
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::Error;
use super::read_at::{OpenFile, ReadAt as _, ReadError};
use crate::deadline::Deadline;
use crate::files::file_stamp::{FileStamp, SETTLE};
use crate::files::regular_file;

const LOCKED: &str = "another process, such as makemap, holds the lock";
const EMPTY: &str = "it is empty, as at the start of a rebuild";
const RECENT: &str = "it was changed a moment ago and may be incomplete";
const CHANGED: &str = "it keeps changing while it is read";

/// Runs `lookup` on the map at `path` until its answer can be trusted. `is_locked` says whether
/// those who write the map take the lock.
///
/// # Errors
/// [`Error::Busy`] if no answer could be trusted within `timeout`; the others
/// as `lookup` and the system report them.
pub(super) fn read<T>(
    path: &Path,
    timeout: Duration,
    is_locked: bool,
    lookup: impl Fn(&OpenFile) -> Result<T, ReadError>,
) -> Result<T, Error> {
    let deadline = Deadline::after(timeout);
    let mut watch = Watch::default();
    loop {
        let problem = match attempt(path, is_locked, &mut watch, &lookup) {
            Attempt::Trusted(answer) => return answer.map_err(|error| named(path, error)),
            Attempt::Untrusted(problem) => problem,
        };
        if deadline.pause().is_err() {
            return Err(match problem {
                Problem::Busy(why) => Error::Busy {
                    path: path.into(),
                    waited: deadline.elapsed(),
                    why,
                },
                Problem::Read(error) => named(path, error),
            });
        }
    }
}

fn named(path: &Path, error: ReadError) -> Error {
    let path = path.into();
    match error {
        ReadError::Io(source) => Error::Io { path, source },
        ReadError::Damaged(detail) => Error::Damaged { path, detail },
        ReadError::Unsupported(detail) => Error::Unsupported { path, detail },
    }
}

enum Attempt<T> {
    Trusted(Result<T, ReadError>),
    Untrusted(Problem),
}

enum Problem {
    Busy(&'static str),
    Read(ReadError),
}

fn attempt<T>(
    path: &Path,
    is_locked: bool,
    watch: &mut Watch,
    lookup: impl Fn(&OpenFile) -> Result<T, ReadError>,
) -> Attempt<T> {
    let (map, before) = match open(path) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Attempt::Untrusted(Problem::Busy(LOCKED)),
        Err(error) => return Attempt::Trusted(Err(error)),
    };
    let watched = watch.is_unchanged(&before);
    if map.size() == 0 && !watched {
        return Attempt::Untrusted(Problem::Busy(EMPTY));
    }
    if map.size() == 0 && is_locked {
        return Attempt::Trusted(Err(ReadError::Damaged(
            "the file is empty: its last rebuild was interrupted".into(),
        )));
    }
    let settled = watched || before.age().is_some_and(|age| age >= SETTLE);
    if !is_locked && !settled {
        return Attempt::Untrusted(Problem::Busy(RECENT));
    }
    let answer = lookup(&map);
    match map.file.metadata() {
        Ok(after) if FileStamp::of(&after) == before => {}
        Ok(_) => return Attempt::Untrusted(Problem::Busy(CHANGED)),
        Err(error) => return Attempt::Trusted(Err(ReadError::Io(error))),
    }
    match answer {
        Err(error) if !settled => Attempt::Untrusted(Problem::Read(error)),
        answer => Attempt::Trusted(answer),
    }
}

/// Opens and locks the file; `None` if another process holds the lock. The lock
/// goes when the file is closed.
fn open(path: &Path) -> Result<Option<(OpenFile, FileStamp)>, ReadError> {
    let file = regular_file::open(path).map_err(ReadError::Io)?;
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(ReadError::Io(error)),
    }
    let metadata = file.metadata().map_err(ReadError::Io)?;
    Ok(Some((
        OpenFile::new(file, metadata.len()),
        FileStamp::of(&metadata),
    )))
}

/// Watches whether a file is left alone.
#[derive(Default)]
struct Watch(Option<(FileStamp, Instant)>);

impl Watch {
    /// Whether the file has been the same for [`SETTLE`].
    fn is_unchanged(&mut self, stamp: &FileStamp) -> bool {
        match &self.0 {
            Some((seen, since)) if seen == stamp => since.elapsed() >= SETTLE,
            _ => {
                self.0 = Some((stamp.clone(), Instant::now()));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::SystemTime;

    use super::*;
    use crate::files::file_stamp::StoppedClock;

    /// Reads a new file, with an answer for each attempt.
    fn read_new<T>(lookup: impl Fn(&Path, u32) -> Result<T, ReadError>) -> Result<T, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "map").unwrap();
        let _clock = StoppedClock::at_age(file.path(), Duration::ZERO);
        let attempts = Cell::new(0);
        read(file.path(), Duration::from_secs(60), true, |_| {
            attempts.set(attempts.get() + 1);
            lookup(file.path(), attempts.get())
        })
    }

    #[test]
    fn an_answer_from_a_changing_file_does_not_count() {
        let answer = read_new(|path, attempt| {
            if attempt < 3 {
                let contents = "a longer map".repeat(attempt as usize);
                std::fs::write(path, contents).unwrap();
            }
            Ok(attempt)
        });
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn damage_in_a_new_file_does_not_count_at_once() {
        let damage = || ReadError::Damaged("half a map".into());
        let answer = read_new(|_, attempt| if attempt == 1 { Err(damage()) } else { Ok(()) });
        assert!(answer.is_ok(), "{answer:?}");
        let error = read_new(|_, _| Err::<(), _>(damage()));
        assert!(matches!(error, Err(Error::Damaged { .. })), "{error:?}");
    }

    #[test]
    fn a_file_is_unchanged_once_it_was_seen_to_stay_the_same() {
        let mut watch = Watch::default();
        let one = FileStamp::changed_at(SystemTime::UNIX_EPOCH);
        let two = FileStamp::changed_at(SystemTime::now());
        assert!(!watch.is_unchanged(&one));
        assert!(!watch.is_unchanged(&two));
        let (_, since) = watch.0.as_mut().unwrap();
        *since = since.checked_sub(SETTLE).unwrap();
        assert!(!watch.is_unchanged(&one));
        let (_, since) = watch.0.as_mut().unwrap();
        *since = since.checked_sub(SETTLE).unwrap();
        assert!(watch.is_unchanged(&one));
    }
}
