//! The rate limit that all workers of a web server share.
//!
//! A worker may serve one request alone (`pm.max_requests = 1`), and under CGI each is a
//! process that nothing but files outlives. So the limit stands in a file, in the folder for
//! temporary files, which is the one that a web server's user can always write to.
//!
//! Others may write to that folder too, and this runs before anybody has logged in. The file
//! has a name that is known beforehand, so whoever comes first could put something else
//! there: a link, a pipe, another's file. It is opened without following a link and without
//! waiting, and used only if it is a file with one name, of this user, to whom alone it is
//! open, and with nothing of another kind in it. Nobody but this user can lock it, and even
//! then nobody waits for long. Whatever it holds, the worst is a line too many or too few.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use mailaffinity::rate_limit::RateLimit;

/// What the file begins with.
const MAGIC: &[u8] = b"mailaffinity: when messages were logged\n";

/// How often the lock is tried for: whoever has it needs some microseconds.
const TRIES: u32 = 20;

/// Uses the limit in a folder, and keeps it there.
///
/// # Errors
/// When the file cannot be had, or is not to be trusted.
pub(crate) fn with<T>(folder: &Path, using: impl FnOnce(&mut RateLimit) -> T) -> io::Result<T> {
    // SAFETY: it cannot fail.
    let user = unsafe { libc::geteuid() };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(folder.join(format!("mailaffinity-{user}")))?;
    let metadata = file.metadata()?;
    let is_ours =
        metadata.is_file() && (metadata.uid(), metadata.nlink()) == (user, 1) && metadata.mode() & 0o077 == 0;
    if !is_ours {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    lock(&file)?;
    let mut kept = Vec::with_capacity(MAGIC.len() + RateLimit::LONGEST);
    (&file)
        .take((MAGIC.len() + RateLimit::LONGEST) as u64)
        .read_to_end(&mut kept)?;
    let mut limit = match kept.strip_prefix(MAGIC) {
        Some(limit) => RateLimit::from_bytes(limit),
        None if kept.is_empty() => RateLimit::default(),
        None => return Err(io::ErrorKind::InvalidData.into()),
    };
    let outcome = using(&mut limit);
    let kept = [MAGIC, &limit.to_bytes()].concat();
    file.write_all_at(&kept, 0)?;
    file.set_len(kept.len() as u64)?;
    Ok(outcome)
}

/// Locks the file until it is closed.
fn lock(file: &File) -> io::Result<()> {
    for _ in 1..TRIES {
        if file.try_lock().is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(1));
    }
    Ok(file.try_lock()?)
}
