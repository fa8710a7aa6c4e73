//! The last good copy of a file, which is there for whoever comes while the file is broken.
//!
//! It stands beside the file, as `NAME.last-good`: who has the path of the one has that
//! of the other, also where nothing can be learned from the file. The commands write it
//! when they found the file to be good.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::file_stamp::FileStamp;
use super::regular_file;

/// The write permission of all but the owner.
const OTHERS_WRITE: u32 = 0o022;

/// A last good copy, as a sentence names it.
#[derive(Debug)]
pub(crate) struct LastGood {
    path: PathBuf,
    stamp: FileStamp,
    kept: Timestamp,
}

/// Where the last good copy of a file is.
pub fn path_for(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".last-good");
    path.into()
}

/// The permissions of the copy of a file that has these: nobody but its owner writes it.
pub fn mode_for(mode: u32) -> u32 {
    mode & 0o777 & !OTHERS_WRITE
}

impl LastGood {
    /// The last good copy of a file, if there is one.
    ///
    /// # Errors
    /// When somebody may have written it who could not have written the file: it must
    /// belong to root, or to the owner of the file or of the folder, and nobody else may
    /// write it.
    pub(crate) fn of(file: &Path) -> io::Result<Option<LastGood>> {
        let path = path_for(file);
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata?,
        };
        let owns = |of: Option<&Path>| {
            of.and_then(|of| fs::metadata(of).ok())
                .is_some_and(|of| of.uid() == metadata.uid())
        };
        let refused = if !metadata.is_file() {
            "it is not a regular file"
        } else if metadata.permissions().mode() & OTHERS_WRITE != 0 {
            "others than its owner may write it"
        } else if metadata.uid() != 0 && !owns(Some(file)) && !owns(file.parent()) {
            "it belongs neither to root nor to the owner of the file or the folder"
        } else {
            let kept = Timestamp::try_from(metadata.modified()?).map_err(io::Error::other)?;
            return Ok(Some(LastGood {
                path,
                stamp: FileStamp::of(&metadata),
                kept,
            }));
        };
        Err(io::Error::other(refused))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn stamp(&self) -> &FileStamp {
        &self.stamp
    }

    pub(crate) fn read(&self) -> io::Result<String> {
        regular_file::read_text(&self.path)
    }
}

impl fmt::Display for LastGood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the last good copy {} of {:.0}",
            self.path.display(),
            self.kept
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn what_others_could_have_written_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nodes.toml");
        let copy = path_for(&file);
        assert!(LastGood::of(&file).unwrap().is_none());
        fs::write(&copy, "text").unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(0o644)).unwrap();
        let found = LastGood::of(&file).unwrap().unwrap();
        assert_eq!(found.read().unwrap(), "text");
        let begin = format!("the last good copy {} of 2", copy.display());
        assert!(found.to_string().starts_with(&begin), "{found}");

        for mode in [0o664, 0o646] {
            fs::set_permissions(&copy, Permissions::from_mode(mode)).unwrap();
            let error = LastGood::of(&file).unwrap_err().to_string();
            assert_eq!(error, "others than its owner may write it");
        }
        fs::rename(&copy, folder.path().join("other")).unwrap();
        symlink("other", &copy).unwrap();
        let error = LastGood::of(&file).unwrap_err().to_string();
        assert_eq!(error, "it is not a regular file");
    }

    #[test]
    fn it_belongs_to_whom_the_file_or_folder_belongs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nodes.toml");
        let copy = path_for(&file);
        fs::write(&copy, "text").unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(0o644)).unwrap();
        if let Err(error) = chown(&copy, Some(33), None) {
            // Only root can give files away.
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(LastGood::of(&file).unwrap().is_some());
        } else {
            let error = LastGood::of(&file).unwrap_err().to_string();
            assert!(error.starts_with("it belongs neither to root"), "{error}");
            fs::write(&file, "").unwrap();
            chown(&file, Some(33), None).unwrap();
            assert!(LastGood::of(&file).unwrap().is_some());
            fs::remove_file(&file).unwrap();
            chown(folder.path(), Some(33), None).unwrap();
            assert!(LastGood::of(&file).unwrap().is_some());
        }
    }

    #[test]
    fn a_copy_has_no_more_rights_than_the_file() {
        for (mode, expected) in [(0o100_644, 0o644), (0o664, 0o644), (0o640, 0o640), (0o600, 0o600)] {
            assert_eq!(mode_for(mode), expected);
        }
    }
}
