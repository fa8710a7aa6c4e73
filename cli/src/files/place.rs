//! Where a file is, in a folder that somebody else may own.
//!
//! Whoever owns a folder can put another file, a folder or a link in the place of any name
//! there, at any moment; Debian gives `/etc/mail` to `smmta`. So a path is followed once,
//! name by name, and from then on all goes by descriptors.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use mailaffinity::files::regular_file;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::fs::{fchmod, fstat, fsync, mkdirat, open, openat, readlinkat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// As many links as Linux follows in a path.
const MOST_LINKS: usize = 40;

/// For what a name stands for, even a link, to look at it and to go on from there.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file, there or not, by its name in a folder that is kept open.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(super) folder: Arc<OwnedFd>,
    pub(super) name: OsString,
    /// The name that was given, from which links may have led to the other one.
    pub(super) given: OsString,
    path: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Links,
    LinksAndNewFolders,
    LinksToTheFolder,
    OurLinksToTheFolder,
}

impl Place {
    /// Where a path leads, through symbolic links. One is followed only if it and the folder
    /// that it is in belong to root or to us, and so must the folder that the file is in where
    /// the file's own name was a link. The file may be another user's, as makemap gives maps to
    /// sendmail's `TrustedUser`.
    ///
    /// # Errors
    /// A sentence that names the folder that is not there or cannot be searched, or the link
    /// that is somebody else's.
    pub(crate) fn of(path: &Path) -> io::Result<Place> {
        Place::find(path, Way::Links)
    }

    /// As [`of`](Place::of), and makes the folders that are not there.
    pub(crate) fn with_folders(path: &Path) -> io::Result<Place> {
        Place::find(path, Way::LinksAndNewFolders)
    }

    /// As [`of`](Place::of), but takes the last name as it is.
    pub(crate) fn itself(path: &Path) -> io::Result<Place> {
        Place::find(path, Way::LinksToTheFolder)
    }

    /// As [`itself`](Place::itself), but a link of root's or ours is followed in whoever's
    /// folder it is: its owner can move it there, and make none that leads elsewhere.
    pub(crate) fn by_our_links(path: &Path) -> io::Result<Place> {
        Place::find(path, Way::OurLinksToTheFolder)
    }

    fn find(path: &Path, way: Way) -> io::Result<Place> {
        let is_to_folder = matches!(way, Way::LinksToTheFolder | Way::OurLinksToTheFolder);
        let root = || open("/", LOOK, Mode::empty());
        let mut to_go = names(&std::path::absolute(path)?);
        let (mut folder, mut here) = (root()?, PathBuf::from("/"));
        let (mut links, mut last_link) = (0, None);
        while let Some(name) = to_go.pop() {
            let full = here.join(&name);
            let is_last = to_go.is_empty();
            let reach = |error: Errno| {
                let error = io::Error::from(error);
                let message = format!("cannot reach {}: {error}", full.display());
                io::Error::new(error.kind(), message)
            };
            let look = || openat(&folder, &name, LOOK, Mode::empty());
            let found = match look() {
                Err(Errno::NOENT) if is_last => None,
                Err(Errno::NOENT) if way == Way::LinksAndNewFolders => {
                    match mkdirat(&folder, &name, Mode::from_raw_mode(0o777)) {
                        Ok(()) => Some(for_all(&folder, &name).and_then(|()| look()).map_err(reach)?),
                        Err(Errno::EXIST) => Some(look().map_err(reach)?),
                        Err(error) => return Err(reach(error)),
                    }
                }
                found => Some(found.map_err(reach)?),
            };
            match found {
                Some(link) if is_link(&link)? && !(is_last && is_to_folder) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(reach(Errno::LOOP));
                    }
                    let is_in_any_folder = way == Way::OurLinksToTheFolder;
                    if !is_trusted(&link)? || !is_in_any_folder && !is_trusted(&folder)? {
                        return Err(not_followed(&full));
                    }
                    let target = OsString::from_vec(readlinkat(&link, "", [])?.into_bytes());
                    to_go.extend(names(target.as_ref()));
                    if is_last {
                        last_link = Some(full);
                    }
                    if target.as_bytes().starts_with(b"/") {
                        (folder, here) = (root()?, PathBuf::from("/"));
                    }
                }
                Some(next) if !is_last => {
                    folder = next;
                    match name.as_bytes() {
                        b".." => _ = here.pop(),
                        _ => here = full,
                    }
                }
                _ => {
                    if let Some(link) = last_link
                        && !is_trusted(&folder)?
                    {
                        return Err(not_followed(&link));
                    }
                    let given = path.file_name().unwrap_or_default().to_owned();
                    return Ok(Place {
                        folder: folder.into(),
                        name,
                        given,
                        path: full,
                    });
                }
            }
        }
        let message = format!("{} names no file", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }

    /// For messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file for reading.
    ///
    /// # Errors
    /// Also when it is not a regular file.
    pub(crate) fn open(&self) -> io::Result<File> {
        open_file(&self.folder, &self.name, OFlags::RDONLY)
    }

    /// Reads a text as its readers do.
    ///
    /// # Errors
    /// As [`open`](Place::open); also when it is not UTF-8 or too long.
    pub(crate) fn read_text(&self) -> io::Result<String> {
        regular_file::text_of(&self.open()?)
    }

    /// Removes the file, if it is there.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until renames in the folder are on disk.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn sync_folder(&self) -> io::Result<()> {
        Ok(fsync(to_read(&self.folder)?)?)
    }
}

/// A folder that was opened, opened once more to be read.
pub(super) fn to_read(folder: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(folder, ".", flags, Mode::empty())?)
}

/// Opens a regular file that is no link.
///
/// # Errors
/// Also for anything else.
pub(super) fn open_file(folder: impl AsFd, name: &OsStr, flags: OFlags) -> io::Result<File> {
    // Without NONBLOCK, opening a pipe waits for somebody at its other end.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => regular_file::checked(file.into()),
        Err(Errno::LOOP | Errno::ISDIR) => Err(regular_file::no_regular_file()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a name in a folder is that of an open file, which has no other.
pub(super) fn is_at(folder: impl AsFd, name: &OsStr, file: &File) -> io::Result<bool> {
    let (there, open) = (statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?, fstat(file)?);
    Ok((there.st_dev, there.st_ino, there.st_nlink) == (open.st_dev, open.st_ino, 1))
}

/// The folder that a path has before its last name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The names on a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().rev();
    names
        .filter(|name| matches!(name, Component::Normal(_) | Component::ParentDir))
        .map(|name| name.as_os_str().to_owned())
        .collect()
}

/// Lets everybody into a folder that was just made, whatever the umask: what is in it has modes
/// of its own.
fn for_all(folder: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(folder, name, flags, Mode::empty())?;
    // By now, it may be another one.
    match fstat(&made)?.st_uid == geteuid().as_raw() {
        true => fchmod(&made, Mode::from_raw_mode(0o755)),
        false => Ok(()),
    }
}

fn is_link(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode).is_symlink())
}

fn is_trusted(file: &OwnedFd) -> io::Result<bool> {
    let owner = fstat(file)?.st_uid;
    Ok(owner == 0 || owner == geteuid().as_raw())
}

fn not_followed(link: &Path) -> io::Error {
    let message = format!(
        "the symbolic link {} is not followed: it, its folder or the folder that it leads to belongs to \
         another user; put the path of the file itself into the configuration, or give all three to root",
        link.display()
    );
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}
