//! One at a time: a lock that ends with the process that holds it, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailaffinity::deadline::Deadline;

use crate::files::replace::{folder_of, real_path};

/// A lock that is held; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes the lock of a file, `.NAME.lock` beside it, and waits for it if need be.
///
/// It is `flock`'s: where the folder is shared by several machines, it holds between
/// them if the file system says so (GFS2, OCFS2 and NFSv4 do).
///
/// # Errors
/// `WouldBlock`, naming the holder, when another process has it for longer than `wait`.
/// When the file cannot be made or locked.
pub(crate) fn of(path: &Path, wait: Duration) -> io::Result<Lock> {
    let path = path_for(path);
    // A lock file is never removed: whoever waits for it would then hold another one
    // than whoever comes next.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .map_err(|error| named(&path, error))?;
    wait_for(&path, &file, File::try_lock, wait)?;
    // Only said to whoever waits. What a longer line left after it does not count.
    let _ = file.write_all(format!("process {} on {}\n", std::process::id(), host_name()).as_bytes());
    Ok(Lock { _file: file })
}

/// Waits until nobody holds the lock of a file any more, without taking or making it.
///
/// # Errors
/// As [`of`].
pub(crate) fn wait_until_free(path: &Path, wait: Duration) -> io::Result<()> {
    let path = path_for(path);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path);
    match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(named(&path, error)),
        Ok(file) => wait_for(&path, &file, File::try_lock_shared, wait),
    }
}

/// How long whoever holds the lock of a file has had it, by the clocks of the machines.
pub(crate) fn held_for(path: &Path) -> Option<Duration> {
    let taken = std::fs::metadata(path_for(path)).ok()?.modified().ok()?;
    taken.elapsed().ok()
}

fn wait_for(
    path: &Path,
    file: &File,
    try_lock: fn(&File) -> Result<(), TryLockError>,
    wait: Duration,
) -> io::Result<()> {
    let deadline = Deadline::after(wait);
    loop {
        match try_lock(file) {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(named(path, error)),
            Err(TryLockError::WouldBlock) if deadline.pause().is_ok() => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.take(300).read_to_string(&mut holder);
                let holder = holder.lines().next().unwrap_or_default().escape_debug();
                let message = format!("{} is held by {holder}", path.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
            }
        }
    }
}

/// Why a lock of what updates write could not be had, as a sentence.
pub(crate) fn described(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock => format!("another update is at work: {error}"),
        _ => error.to_string(),
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot lock {}: {error}", path.display()))
}

fn path_for(path: &Path) -> PathBuf {
    let path = real_path(path);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".lock");
    folder_of(&path).join(name)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "?".into(), |name| name.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access");
        let lock = of(&path, Duration::ZERO).unwrap();
        let error = of(&path, Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let holder = format!("/.access.lock is held by process {} on ", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| of(&path, Duration::from_secs(60)));
            drop(lock);
            waiting.join().unwrap().unwrap();
        });
        of(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn waiting_makes_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access");
        wait_until_free(&path, Duration::ZERO).unwrap();
        assert!(!path_for(&path).exists());
        let lock = of(&path, Duration::ZERO).unwrap();
        let error = wait_until_free(&path, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        wait_until_free(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn what_cannot_be_locked_is_named() {
        let error = of(Path::new("/nonexistent/access"), Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot lock /nonexistent/.access.lock: "),
            "{error}"
        );
    }
}
