//! Files that take another's place in one step.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Where Linux has a file's access control list.
const ACCESS_CONTROL_LIST: &str = "system.posix_acl_access";

/// Writes a text beside the file and renames it over the file when all of it is on
/// disk. Everybody may read it, whatever the umask. A symbolic link stays, and the file
/// it leads to is replaced.
///
/// # Errors
/// The old file then stands as it was, unless all that failed was to make the new one
/// last through a crash of the machine.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let staged = stage_for_all(path, text)?;
    staged.sync()?;
    let folder = folder_of(staged.target()).to_owned();
    staged.put_in_force()?;
    sync_folder(&folder)
}

/// As [`replace`], for a file that a crash of the machine may take.
pub(crate) fn replace_for_now(path: &Path, text: &str) -> io::Result<()> {
    stage_for_all(path, text)?.put_in_force()
}

fn stage_for_all(path: &Path, text: &str) -> io::Result<Staged> {
    let staged = Staged::beside(path)?;
    staged.write(text.as_bytes())?;
    fs::set_permissions(staged.path(), Permissions::from_mode(0o644))?;
    Ok(staged)
}

/// Waits until renames in a folder are on disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A file to be, beside the one it is to replace and in a folder of its own, where
/// nobody else reaches it. Both are gone if it is not put in force.
pub(crate) struct Staged {
    target: PathBuf,
    path: PathBuf,
    folder: TempDir,
}

impl Staged {
    /// # Errors
    /// Also when it is known that nothing can take the target's place.
    pub(crate) fn beside(target: &Path) -> io::Result<Staged> {
        // The name that was given, since makemap insists on an extension.
        let name = target.file_name().unwrap_or_default().to_owned();
        let target = real_path(target);
        obstacle(&target).map_or(Ok(()), Err)?;
        let folder = tempfile::Builder::new()
            .prefix(&prefix(&target))
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(folder_of(&target))?;
        Ok(Staged {
            path: folder.path().join(name),
            target,
            folder,
        })
    }

    /// The file to be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file it is to replace.
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

    /// Lets the two change places in one step.
    ///
    /// # Errors
    /// `InvalidInput` or `Unsupported` where the file system cannot do that.
    pub(crate) fn exchange(&self) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::EXCHANGE)
            .map_err(|error| obstacle(&self.target).unwrap_or(error.into()))
    }

    /// Keeps the file under a name of its own beside the target, and says where it is.
    pub(crate) fn keep(self) -> PathBuf {
        let mut saved = self.target.clone().into_os_string();
        saved.push(".mailaffinity-saved");
        match fs::rename(&self.path, &saved) {
            Ok(()) => saved.into(),
            Err(_) => self.folder.keep().join(self.path.file_name().unwrap_or_default()),
        }
    }

    /// Takes the target's place, until [`take_back`](Staged::take_back).
    pub(crate) fn put_in_force_for_now(&self) -> io::Result<()> {
        match fs::hard_link(&self.target, self.former()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::rename(&self.path, &self.target),
        }
    }

    /// Puts back what was there before, if only nothing.
    pub(crate) fn take_back(&self) -> io::Result<()> {
        match fs::rename(self.former(), &self.target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_file(&self.target),
            result => result,
        }
    }

    fn former(&self) -> PathBuf {
        self.path.with_extension("former")
    }

    pub(crate) fn put_in_force(self) -> io::Result<()> {
        fs::rename(&self.path, &self.target)?;
        // An empty folder that stays does no harm.
        let _ = self.folder.close();
        Ok(())
    }
}

/// Why nothing can take a file's place, if the system says so without an attempt (statx(2)).
fn obstacle(path: &Path) -> Option<io::Error> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let attributes = statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .ok()?
        .stx_attributes;
    let obstacle = if attributes.contains(StatxAttributes::MOUNT_ROOT) {
        "it is a mount point, which cannot be replaced; mount the folder that it is in (for a container: \
         the folder as the volume, not the file)"
    } else if attributes.contains(StatxAttributes::IMMUTABLE) {
        "it is immutable and cannot be replaced; chattr -i allows that"
    } else if attributes.contains(StatxAttributes::APPEND) {
        "it is append-only and cannot be replaced; chattr -a allows that"
    } else {
        return None;
    };
    Some(io::Error::new(io::ErrorKind::ResourceBusy, obstacle))
}

/// Gives a file another one's owner, mode and extended attributes, among which are access
/// control lists.
pub(crate) fn keep_attributes(from: &Path, old: &Metadata, to: &Path) -> io::Result<()> {
    let new = fs::metadata(to)?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        chown(to, Some(old.uid()), Some(old.gid()))?;
    }
    let named = |name: &OsStr, error: io::Error| {
        let message = format!("cannot keep the attribute {}: {error}", name.display());
        io::Error::new(error.kind(), message)
    };
    // The folder may give one to new files, with rights that the old file does not give.
    let list = OsStr::new(ACCESS_CONTROL_LIST);
    if xattr::get(to, list).is_ok_and(|value| value.is_some()) {
        xattr::remove(to, list).map_err(|error| named(list, error))?;
    }
    fs::set_permissions(to, Permissions::from_mode(old.mode() & 0o7777))?;
    let attributes = match xattr::list(from) {
        Ok(attributes) => attributes,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in attributes {
        let value = xattr::get(from, &name).map_err(|error| named(&name, error))?;
        if let Some(value) = value
            && xattr::get(to, &name).ok().flatten().as_ref() != Some(&value)
        {
            xattr::set(to, &name, &value).map_err(|error| named(&name, error))?;
        }
    }
    Ok(())
}

/// Removes what was left beside a file by processes that were killed before they could
/// replace it. Only for whoever holds the file's lock.
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
    match fs::canonicalize(path) {
        Ok(path) => path,
        // A chain of links to nothing ends; one in a circle is another error.
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => real_path(&folder_of(path).join(target)),
            Err(_) => path.to_owned(),
        },
        Err(_) => path.to_owned(),
    }
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
