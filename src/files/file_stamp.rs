//! What tells one content of a file from the next, without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a file must have been left alone before it counts as complete, where
/// neither a lock nor a replacement by rename tells.
///
/// A file that is written in place by a program that pauses for longer can be seen
/// half-written; such a program should write a new file and rename it. Where the file
/// is shared, the nodes' clocks must agree to less than this. A lookup that waits for
/// less has no answer from a text map in the moment after a change.
pub const SETTLE: Duration = Duration::from_millis(250);

/// Which file it is, its size, and when it was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    /// Of a file that was replaced twice, the third may have the first one's inode. Not
    /// all file systems know when a file was made.
    born: Option<SystemTime>,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// That of a file, as the system has it.
    pub fn of(metadata: &Metadata) -> FileStamp {
        FileStamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            born: metadata.created().ok(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it is the same file, changed or not.
    pub fn is_same_file(&self, other: &FileStamp) -> bool {
        (self.device, self.inode, self.born) == (other.device, other.inode, other.born)
    }

    /// Whether this was changed later than another one, by their ctimes.
    pub fn changed_after(&self, other: &FileStamp) -> bool {
        self.changed > other.changed
    }

    /// Whether its times are finer than a second, as far as can be seen of one of them.
    pub fn is_fine(&self) -> bool {
        self.changed.1 != 0
    }

    /// How long ago the file changed, by its ctime, which nobody can set back;
    /// `None` for the future.
    pub fn age(&self) -> Option<Duration> {
        let now = now().duration_since(UNIX_EPOCH).ok()?;
        let (seconds, nanoseconds) = self.changed;
        let changed = Duration::from_secs(u64::try_from(seconds).ok()?)
            .checked_add(Duration::from_nanos(u64::try_from(nanoseconds).ok()?))?;
        now.checked_sub(changed)
    }
}

fn now() -> SystemTime {
    #[cfg(test)]
    if let Some(time) = STOPPED_AT.get() {
        return time;
    }
    SystemTime::now()
}

#[cfg(test)]
thread_local! {
    static STOPPED_AT: std::cell::Cell<Option<SystemTime>> = const { std::cell::Cell::new(None) };
}

/// Gives a file the age that a test needs, however busy the machine is: the clock stands
/// still for this thread until this is dropped.
#[cfg(test)]
pub(crate) struct StoppedClock;

#[cfg(test)]
impl StoppedClock {
    pub(crate) fn at_age(path: &std::path::Path, age: Duration) -> StoppedClock {
        let (seconds, nanoseconds) = FileStamp::of(&std::fs::metadata(path).unwrap()).changed;
        let changed = Duration::new(seconds.cast_unsigned(), nanoseconds.try_into().unwrap());
        STOPPED_AT.set(Some(UNIX_EPOCH + changed + age));
        StoppedClock
    }
}

#[cfg(test)]
impl Drop for StoppedClock {
    fn drop(&mut self) {
        STOPPED_AT.set(None);
    }
}

#[cfg(test)]
impl FileStamp {
    pub(crate) fn changed_at(time: SystemTime) -> FileStamp {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap();
        FileStamp {
            device: 1,
            inode: 1,
            born: None,
            size: 1,
            modified: (0, 0),
            changed: (
                since_epoch.as_secs().cast_signed(),
                since_epoch.subsec_nanos().into(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_the_inode_of_an_older_one_is_another() {
        let old = FileStamp {
            born: Some(UNIX_EPOCH),
            ..FileStamp::changed_at(UNIX_EPOCH)
        };
        let written_in_place = FileStamp {
            size: 2,
            ..old.clone()
        };
        let new = FileStamp {
            born: Some(SystemTime::now()),
            ..old.clone()
        };
        assert!(old.is_same_file(&written_in_place));
        assert!(!old.is_same_file(&new));
    }

    #[test]
    fn age() {
        let hour = Duration::from_secs(3600);
        let age = FileStamp::changed_at(SystemTime::now() - hour).age().unwrap();
        assert!((hour..2 * hour).contains(&age), "{age:?}");
        assert_eq!(FileStamp::changed_at(SystemTime::now() + hour).age(), None);
        let mut stamp = FileStamp::changed_at(SystemTime::now());
        stamp.changed = (-1, 0);
        assert_eq!(stamp.age(), None);
    }
}
