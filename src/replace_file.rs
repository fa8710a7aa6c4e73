//! Files that take another's place in one step.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Writes a text beside the file and renames it over the file when all of it is on
/// disk. Everybody may read it, whatever the umask. A symbolic link stays, and the file
/// it leads to is replaced.
///
/// # Errors
/// The old file then stands as it was, unless all that failed was to make the new one
/// last through a crash of the machine.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let staged = Staged::beside(path)?;
    staged.write(text.as_bytes())?;
    fs::set_permissions(staged.path(), Permissions::from_mode(0o644))?;
    staged.sync()?;
    staged.put_in_force()
}

/// A file to be, beside the one it is to replace and in a folder of its own, where
/// nobody else reaches it. Both are gone if it is not put in force.
pub(crate) struct Staged {
    target: PathBuf,
    path: PathBuf,
    _folder: TempDir,
}

impl Staged {
    pub(crate) fn beside(target: &Path) -> io::Result<Staged> {
        let target = real_path(target);
        let folder = tempfile::Builder::new()
            .prefix(&prefix(&target))
            .tempdir_in(folder_of(&target))?;
        Ok(Staged {
            path: folder.path().join(target.file_name().unwrap_or_default()),
            target,
            _folder: folder,
        })
    }

    /// The file to be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file it is to replace.
    #[cfg(feature = "cli")]
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    pub(crate) fn write(&self, text: &[u8]) -> io::Result<()> {
        File::create_new(&self.path)?.write_all(text)
    }

    /// Waits until it is on disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    pub(crate) fn put_in_force(self) -> io::Result<()> {
        fs::rename(&self.path, &self.target)?;
        File::open(folder_of(&self.target))?.sync_all()
    }
}

/// Removes what was left beside a file by processes that were killed before they could
/// replace it. Only for whoever holds the file's lock.
#[cfg(feature = "cli")]
pub(crate) fn remove_leftovers(target: &Path) {
    let target = real_path(target);
    let Ok(entries) = fs::read_dir(folder_of(&target)) else {
        return;
    };
    let prefix = prefix(&target);
    for entry in entries.flatten() {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_bytes())
        {
            // One that stays does no harm.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The file that a path leads to through symbolic links, whether or not it is there.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn prefix(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default();
    format!(".{}.mailaffinity-", name.to_string_lossy())
}
