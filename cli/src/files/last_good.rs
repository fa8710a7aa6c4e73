//! The last good copies of files that others read, for those who come while one is broken.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use mailaffinity::files::file_stamp::FileStamp;
use mailaffinity::files::last_good::{mode_for, path_for};
use mailaffinity::files::regular_file;

use super::lock;
use super::place::Place;
use super::replace::{Staging, has_leftovers, remove_leftovers};

/// Longer than it takes to write a copy.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Keeps a copy of a file if its text is good, with the rights of the file, but that only
/// the owner may write it. A copy that is up to date stays as it is.
///
/// # Errors
/// When the file cannot be read or the copy not be written; an earlier one then stays.
pub(crate) fn keep(file: &Path, is_good: impl FnOnce(&str) -> bool) -> io::Result<()> {
    try_keep(file, is_good).map_err(|error| {
        let message = format!("cannot keep a last good copy of {}: {error}", file.display());
        io::Error::new(error.kind(), message)
    })
}

fn try_keep(file: &Path, is_good: impl FnOnce(&str) -> bool) -> io::Result<()> {
    let copy = Place::itself(&path_for(file))?;
    if is_current(file, &copy)? && !has_leftovers(&copy) {
        return Ok(());
    }
    // The lock makes the copy that of the newest text, whoever else keeps one.
    let _lock = lock::of(&copy, LOCK_WAIT)?;
    remove_leftovers(&copy);
    let file = regular_file::open(file)?;
    let text = regular_file::text_of(&file)?;
    if !is_good(&text) {
        return Ok(());
    }
    let staged = Staging::beside(&copy)?.write_text(&text)?;
    staged.keep_attributes(&file)?;
    staged.set_mode(mode_for(file.metadata()?.mode()))?;
    staged.sync()?;
    staged.put_in_force()?;
    copy.sync_folder()
}

/// Whether the copy has the text of the file, and was made after any other change of it,
/// such as of who may read it.
fn is_current(file: &Path, copy: &Place) -> io::Result<bool> {
    let file = regular_file::open(file)?;
    let kept = match copy.open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        kept => {
            kept.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", copy.path().display())))?
        }
    };
    let text = regular_file::text_of(&file)?;
    let is_same = regular_file::text_of(&kept).is_ok_and(|copy| copy == text);
    let (file, kept) = (file.metadata()?, kept.metadata()?);
    // Within one tick of the clock, times do not tell of another mode.
    let has_mode = kept.mode() & 0o777 == mode_for(file.mode());
    Ok(is_same && has_mode && !FileStamp::of(&file).changed_after(&FileStamp::of(&kept)))
}

/// Removes the copy of a file.
///
/// # Errors
/// When it is there and cannot be removed.
pub(crate) fn forget(file: &Path) -> io::Result<()> {
    match Place::itself(&path_for(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        copy => copy?.remove(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn what_is_good_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nodes.toml");
        let copy = path_for(&file);
        let kept = || fs::read_to_string(&copy).unwrap();
        let mode = || fs::metadata(&copy).unwrap().mode() & 0o7777;
        assert!(keep(&file, |_| true).is_err());

        fs::write(&file, "one").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        keep(&file, |text| text == "one").unwrap();
        assert_eq!((kept().as_str(), mode()), ("one", 0o644));
        keep(&file, |_| panic!("it is up to date")).unwrap();

        fs::write(&file, "broken").unwrap();
        keep(&file, |_| false).unwrap();
        assert_eq!(kept(), "one");
        fs::write(&file, "two").unwrap();
        keep(&file, |_| true).unwrap();
        assert_eq!(kept(), "two");
        // A password in it is not for all to read.
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        keep(&file, |_| true).unwrap();
        assert_eq!((kept().as_str(), mode()), ("two", 0o600));

        forget(&file).unwrap();
        forget(&file).unwrap();
        symlink("other", &copy).unwrap();
        let error = keep(&file, |_| true).unwrap_err().to_string();
        assert!(
            error.ends_with("nodes.toml.last-good: it is not a regular file"),
            "{error}"
        );
        assert!(!folder.path().join("other").exists());
    }
}
