//! Brings an access map up to date: a new source and the map that makemap makes of it
//! take the places of the old ones, each in one step.
//!
//! Both are written in a folder of their own beside what they replace, so that nobody
//! else can reach them, and a rename is all that is left when they are complete and on
//! disk. Whatever ends an update, a map in force is whole; what such an update left is
//! removed by the next one. The map is renamed first: if the source then is not, the next
//! update finds it as it was, and rewrites both.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::managed_block::{AccessSource, DIGEST_KEY};
use crate::child;
use crate::files::replace::{Staged, folder_of, real_path, sync_folder};
use mailaffinity::access_map::{AccessMap, Error};
use mailaffinity::config::MapBuild;
use mailaffinity::files::file_stamp::{FileStamp, SETTLE};
use mailaffinity::files::regular_file;

/// More than a million entries take with the least cache.
const MAKEMAP_TIMEOUT: Duration = Duration::from_secs(600);
/// makemap's default is 1 MB, with which it is slow from some 100,000 entries on.
const MAKEMAP_CACHE: &str = "67108864";
/// Where Linux has a file's access control list.
const ACCESS_CONTROL_LIST: &str = "system.posix_acl_access";

/// An access source as it was read.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    metadata: Metadata,
    /// Its content.
    pub text: Vec<u8>,
}

/// Why a map could not be brought up to date. What was in force still is.
#[derive(Debug)]
#[non_exhaustive]
pub enum RebuildError {
    /// A file or folder could not be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
    /// There is no source.
    NoSource(PathBuf),
    /// makemap failed, or made something that cannot be read.
    Makemap(String),
    /// Somebody else changed the source meanwhile.
    SourceChanged(PathBuf),
}

impl fmt::Display for RebuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RebuildError::Io { path, source } => write!(f, "{}: {source}", path.display()),
            RebuildError::NoSource(path) => write!(
                f,
                "the access source {} is not there; create it, empty if need be",
                path.display()
            ),
            RebuildError::Makemap(problem) => f.write_str(problem),
            RebuildError::SourceChanged(path) => {
                write!(
                    f,
                    "{} was changed by somebody else meanwhile (the next update tries again)",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for RebuildError {}

/// Names the file in an error.
fn at(path: &Path) -> impl Fn(io::Error) -> RebuildError + '_ {
    |source| RebuildError::Io {
        path: path.to_owned(),
        source,
    }
}

impl SourceFile {
    /// Reads a source, through symbolic links if it is one. One that may be half-written
    /// must first have been left alone for [`SETTLE`].
    ///
    /// # Errors
    /// When it is missing, cannot be read, or is being written.
    pub fn read(path: &Path) -> Result<SourceFile, RebuildError> {
        let path = real_path(path);
        let mut file = regular_file::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => RebuildError::NoSource(path.clone()),
            _ => at(&path)(error),
        })?;
        let metadata = file.metadata().map_err(at(&path))?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut file, &mut text).map_err(at(&path))?;
        let source = SourceFile { path, metadata, text };
        if !source.is_complete() {
            thread::sleep(SETTLE);
        }
        source.check_unchanged()?;
        Ok(source)
    }

    /// Whether nobody can be half-way through writing it. Whoever still is would write
    /// the rest to a file that has been replaced.
    fn is_complete(&self) -> bool {
        let age = FileStamp::of(&self.metadata).age();
        // A file that is being truncated is empty before its ctime changes (ext4).
        let left_alone = !self.text.is_empty() && age.is_some_and(|age| age >= SETTLE);
        left_alone || AccessSource::parse(&self.text).is_ok_and(|source| source.digest().is_some())
    }

    fn check_unchanged(&self) -> Result<(), RebuildError> {
        let now = fs::metadata(&self.path).map_err(at(&self.path))?;
        if FileStamp::of(&now) == FileStamp::of(&self.metadata) {
            Ok(())
        } else {
            Err(RebuildError::SourceChanged(self.path.clone()))
        }
    }

    /// Puts a new source in its place, unless somebody changes it until that very moment:
    /// the two change places, and change back if the old one is not what was read.
    fn replace_by(&self, staged: Staged) -> Result<(), RebuildError> {
        match staged.exchange() {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) =>
            {
                // A file system that cannot do that, such as NFS.
                self.check_unchanged()?;
                return staged.put_in_force().map_err(at(&self.path));
            }
            Err(error) => return Err(at(&self.path)(error)),
        }
        if fs::read(staged.path()).is_ok_and(|old| old == self.text) {
            return Ok(());
        }
        match staged.exchange() {
            Ok(()) => Err(RebuildError::SourceChanged(self.path.clone())),
            // It has somebody's edit.
            Err(error) => Err(at(&staged.keep())(error)),
        }
    }
}

/// Whether a map was built of the source with this digest. One that is missing, damaged or
/// being built by somebody else was not.
///
/// # Errors
/// When it cannot be read.
pub fn is_current(map: &AccessMap, digest: &str) -> Result<bool, RebuildError> {
    match map.get(DIGEST_KEY) {
        Ok(found) => Ok(found.as_deref() == Some(digest.as_bytes())),
        Err(Error::Io { path, source }) if source.kind() != io::ErrorKind::NotFound => {
            Err(RebuildError::Io { path, source })
        }
        Err(_) => Ok(false),
    }
}

/// Puts `text` in force as the source and, where a map is given, builds it of `input`, what
/// makemap is to make of that text, and puts it in force before. The caller holds the lock.
///
/// # Errors
/// All but a failure to rename the second of the two leaves everything as it was.
pub fn rebuild(
    map: Option<&AccessMap>,
    build: &MapBuild,
    old: &SourceFile,
    text: &[u8],
    input: &[u8],
    digest: &str,
) -> Result<(), RebuildError> {
    let new_source = if text == old.text {
        None
    } else {
        let staged = stage(&old.path)?;
        staged.write(text).map_err(at(&old.path))?;
        Some(staged)
    };
    let new_map = match map {
        Some(map) => {
            let staged = stage(map.path())?;
            makemap(map, build, staged.path(), input, digest)?;
            Some(staged)
        }
        None => None,
    };
    for staged in [&new_map, &new_source].into_iter().flatten() {
        complete(staged).map_err(at(staged.target()))?;
    }
    let mut folders = Vec::new();
    old.check_unchanged()?;
    if let Some(staged) = new_map {
        let target = staged.target().to_owned();
        staged.put_in_force().map_err(at(&target))?;
        folders.push(folder_of(&target).to_owned());
    }
    if let Some(staged) = new_source {
        old.replace_by(staged)?;
        folders.push(folder_of(&old.path).to_owned());
    }
    folders.dedup();
    folders
        .iter()
        .try_for_each(|folder| sync_folder(folder).map_err(at(folder)))
}

fn stage(target: &Path) -> Result<Staged, RebuildError> {
    Staged::beside(target).map_err(at(target))
}

fn makemap(
    map: &AccessMap,
    build: &MapBuild,
    file: &Path,
    input: &[u8],
    digest: &str,
) -> Result<(), RebuildError> {
    let mut command = vec![OsString::from(&build.makemap)];
    if !build.makemap_options.iter().any(|option| option == "-c") {
        command.extend(["-c".into(), MAKEMAP_CACHE.into()]);
    }
    command.extend(build.makemap_options.iter().map(OsString::from));
    command.extend([map.kind().into(), file.into()]);
    child::run(&command, input, MAKEMAP_TIMEOUT)
        .and_then(child::Finished::success)
        .map_err(|error| RebuildError::Makemap(error.to_string()))?;
    // What we cannot read, PHP and C cannot read either.
    match map.in_file(file).get(DIGEST_KEY) {
        Ok(Some(found)) if found == digest.as_bytes() => Ok(()),
        Ok(_) => Err(RebuildError::Makemap(format!(
            "{} made a map that lacks entries",
            build.makemap.display()
        ))),
        Err(error) => Err(RebuildError::Makemap(format!(
            "{} made a map that cannot be read: {error}",
            build.makemap.display()
        ))),
    }
}

/// Gives a file what its predecessor has besides its content, and waits until it is on
/// disk.
fn complete(staged: &Staged) -> io::Result<()> {
    match fs::metadata(staged.target()) {
        Ok(old) => keep_attributes(staged.target(), &old, staged.path())?,
        // As makemap leaves a new one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    staged.sync()
}

/// Owner, mode and extended attributes, among which are access control lists.
fn keep_attributes(from: &Path, old: &Metadata, to: &Path) -> io::Result<()> {
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
    fs::set_permissions(to, fs::Permissions::from_mode(old.mode() & 0o7777))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_of_the_last_moment_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access");
        let beside = folder.path().join("new");
        let append = || {
            let mut file = fs::OpenOptions::new().append(true).open(&path)?;
            io::Write::write_all(&mut file, b"edit 2\n")
        };
        let rename = || fs::write(&beside, "edit 2\n").and_then(|()| fs::rename(&beside, &path));
        for edit in [&append as &dyn Fn() -> io::Result<()>, &rename] {
            fs::write(&path, "edit 1\n").unwrap();
            let old = SourceFile::read(&path).unwrap();
            let staged = stage(&path).unwrap();
            staged.write(b"new\n").unwrap();
            edit().unwrap();
            let error = old.replace_by(staged).unwrap_err();
            assert!(matches!(error, RebuildError::SourceChanged(_)), "{error}");
            assert!(fs::read_to_string(&path).unwrap().ends_with("edit 2\n"));

            let old = SourceFile::read(&path).unwrap();
            let staged = stage(&path).unwrap();
            staged.write(b"new\n").unwrap();
            old.replace_by(staged).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left");
        }
    }
}
