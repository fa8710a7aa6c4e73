//! One at a time: a lock that ends with the process that holds it, however it ends.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use mailaffinity::deadline::Deadline;
use rustix::fs::OFlags;

use super::host;
use super::place::{Place, folder_of, is_at, open_file};

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
pub(crate) fn of(place: &Place, wait: Duration) -> io::Result<Lock> {
    // A lock file is never removed: whoever waits for it would then hold another one
    // than whoever comes next.
    let mut file = open(place, OFlags::RDWR | OFlags::CREATE)?;
    wait_for(place, &file, File::try_lock, wait)?;
    // Only said to whoever waits. What a longer line left after it does not count.
    let _ = file.write_all(format!("process {} on {}\n", std::process::id(), host::name()).as_bytes());
    Ok(Lock { _file: file })
}

/// Waits until nobody holds the lock of a file any more, without taking or making it.
///
/// # Errors
/// As [`of`].
pub(crate) fn wait_until_free(place: &Place, wait: Duration) -> io::Result<()> {
    match open(place, OFlags::RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        file => wait_for(place, &file?, File::try_lock_shared, wait),
    }
}

fn open(place: &Place, flags: OFlags) -> io::Result<File> {
    let name = name_for(place);
    let file = open_file(&place.folder, &name, flags).map_err(|error| named(place, error))?;
    // What is written to it must not go to a file that somebody gave this name too.
    match is_at(&place.folder, &name, &file).map_err(|error| named(place, error))? {
        true => Ok(file),
        false => Err(named(
            place,
            io::Error::other("it is also another file, or was replaced; remove it"),
        )),
    }
}

/// How long whoever holds the lock of a file has had it, by the clocks of the machines.
pub(crate) fn held_for(place: &Place) -> Option<Duration> {
    let taken = open(place, OFlags::RDONLY)
        .ok()?
        .metadata()
        .ok()?
        .modified()
        .ok()?;
    taken.elapsed().ok()
}

fn wait_for(
    place: &Place,
    file: &File,
    try_lock: fn(&File) -> Result<(), TryLockError>,
    wait: Duration,
) -> io::Result<()> {
    let deadline = Deadline::after(wait);
    loop {
        match try_lock(file) {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(named(place, error)),
            Err(TryLockError::WouldBlock) if deadline.pause().is_ok() => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.take(300).read_to_string(&mut holder);
                let holder = holder.lines().next().unwrap_or_default().escape_debug();
                let message = format!("{} is held by {holder}", path_for(place));
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

fn named(place: &Place, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot lock {}: {error}", path_for(place)))
}

fn path_for(place: &Place) -> String {
    folder_of(place.path())
        .join(name_for(place))
        .display()
        .to_string()
}

fn name_for(place: &Place) -> OsString {
    let mut name = OsString::from(".");
    name.push(&place.name);
    name.push(".lock");
    name
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = Place::of(&folder.path().join("access")).unwrap();
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
        let path = Place::of(&folder.path().join("access")).unwrap();
        wait_until_free(&path, Duration::ZERO).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let lock = of(&path, Duration::ZERO).unwrap();
        let error = wait_until_free(&path, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        wait_until_free(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn what_cannot_be_locked_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (file, lock) = (folder.path().join("file"), folder.path().join(".access.lock"));
        let access = Place::of(&folder.path().join("access")).unwrap();
        let make: [(&dyn Fn() -> io::Result<()>, &str); 4] = [
            (&|| symlink("file", &lock), "it is not a regular file"),
            (&|| symlink("nothing", &lock), "it is not a regular file"),
            (&|| symlink("/", &lock), "it is not a regular file"),
            (
                &|| fs::hard_link(&file, &lock),
                "it is also another file, or was replaced; remove it",
            ),
        ];
        for (make, problem) in make {
            fs::write(&file, "text").unwrap();
            make().unwrap();
            for error in [
                of(&access, Duration::ZERO).unwrap_err(),
                wait_until_free(&access, Duration::ZERO).unwrap_err(),
            ] {
                let expected = format!("cannot lock {}: {problem}", lock.display());
                assert_eq!(error.to_string(), expected);
            }
            assert_eq!(fs::read(&file).unwrap(), b"text");
            assert!(!folder.path().join("nothing").exists());
            fs::remove_file(&lock).unwrap();
        }
    }
}
