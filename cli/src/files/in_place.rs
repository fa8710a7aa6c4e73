//! A file whose content is replaced under the lock of its readers, as makemap writes maps: sendmail
//! compares a map's file before and after it opens it, and returns the message that it has in its
//! hands where another one has taken its place meanwhile.

use std::fs::{File, FileTimes, Metadata, TryLockError};
use std::io::{self, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, UNIX_EPOCH};

use mailaffinity::deadline::Deadline;
use rustix::fs::{FallocateFlags, OFlags, fallocate, fstatfs};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use super::place::{Place, is_at, open_file};

/// Longer than anybody reads or opens a map.
const READING: Duration = Duration::from_secs(1);

/// How much longer than both contents a file is while it is written: whole pages, however large
/// Berkeley DB's are. Readers that know how long it should be refuse one whose writer was killed.
const UNFINISHED: u64 = 1 << 16;

/// NFS's number (statfs(2)): without its lock daemon, other machines do not see our locks.
const NFS: u64 = 0x6969;

/// A file that is there and stays, with its lock held until this is dropped.
#[derive(Debug)]
pub(super) struct InPlace {
    file: File,
}

/// Why a file could not be overwritten.
#[derive(Debug)]
pub(crate) enum OverwriteError {
    /// It is as it was.
    Unchanged(io::Error),
    /// It is neither the old nor the new one.
    HalfWritten(io::Error),
}

impl InPlace {
    /// Waits for its readers. `None` if it cannot be overwritten, but perhaps be replaced: it is
    /// not there, not ours, or has a second name; its readers do not come to an end; or they may
    /// be on other machines, whose locks are not seen here.
    pub(super) fn lock(place: &Place) -> Option<InPlace> {
        let file = open_file(&place.folder, &place.name, OFlags::RDWR).ok()?;
        let is_ours = geteuid().is_root() || file.metadata().ok()?.uid() == geteuid().as_raw();
        let is_local = fstatfs(&file).is_ok_and(|system| u64::try_from(system.f_type) != Ok(NFS));
        if !is_ours || !is_local {
            return None;
        }
        let deadline = Deadline::after(READING);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if deadline.pause().is_ok() => {}
                Err(_) => return None,
            }
        }
        // By now, or all the time, it may be another one.
        let is_there = is_at(&place.folder, &place.name, &file);
        is_there
            .is_ok_and(|is_there| is_there)
            .then_some(InPlace { file })
    }

    /// What it has now.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Lets its readers in again.
    pub(super) fn unlock(self) -> File {
        // It ends with the file at the latest.
        let _ = self.file.unlock();
        self.file
    }

    /// Gives it the content of `new`, or leaves it that of `old`, which is what it has. The new
    /// content need not be on disk then.
    pub(super) fn overwrite(&self, new: &File, old: &File) -> Result<(), OverwriteError> {
        let before = self.reserve(new).map_err(OverwriteError::Unchanged)?;
        let Err(error) = self.write(new, &before) else {
            return Ok(());
        };
        Err(match self.write(old, &before) {
            Ok(()) => OverwriteError::Unchanged(error),
            Err(_) => OverwriteError::HalfWritten(error),
        })
    }

    /// Makes room for a content: where there is none, the file must stay as it is. Says what it was
    /// before.
    fn reserve(&self, content: &File) -> io::Result<Metadata> {
        let before = self.file.metadata()?;
        let length = content.metadata()?.len().max(1);
        let reserve = || fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, length);
        match retry_on_intr(reserve) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(before),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, mut content: &File, before: &Metadata) -> io::Result<()> {
        let (old, new) = (before.len(), content.metadata()?.len());
        self.file.set_len(old.max(new).saturating_add(UNFINISHED))?;
        content.rewind()?;
        let mut file = &self.file;
        file.rewind()?;
        let copied = io::copy(&mut content, &mut file)?;
        if copied != new {
            return Err(io::Error::other("what was to be written changed meanwhile"));
        }
        self.file.set_len(new)?;
        make_younger(&self.file, before.mtime())
    }
}

/// sendmail opens a map anew if it is younger, by whole seconds, than the one it has open.
pub(super) fn make_younger(file: &File, than: i64) -> io::Result<()> {
    let younger = than.saturating_add(1);
    if file.metadata()?.mtime() < younger
        && let Ok(seconds) = u64::try_from(younger)
        && let Some(time) = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    {
        file.set_times(FileTimes::new().set_modified(time))?;
    }
    Ok(())
}
