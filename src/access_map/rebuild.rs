//! Brings an access map up to date: a new source and the map that makemap makes of it
//! take the places of the old ones, each in one step.
//!
//! Both are written in a folder of their own beside what they replace, so that nobody
//! else can reach them, and a rename is all that is left when they are complete and on
//! disk. Whatever ends an update, a map in force is whole; what such an update left is
//! removed by the next one. The map is renamed first: if the source then is not, the next
//! update finds it as it was, and rewrites both.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::managed_block::DIGEST_KEY;
use super::{AccessMap, Kind};
use crate::child;
use crate::config::MapBuild;
use crate::file_stamp::FileStamp;
use crate::regular_file;
use crate::replace_file::{Staged, folder_of, real_path, remove_leftovers, sync_folder};

/// More than a million entries take with the least cache.
const MAKEMAP_TIMEOUT: Duration = Duration::from_secs(600);
/// makemap's default is 1 MB, with which it is slow from some 100,000 entries on.
const MAKEMAP_CACHE: &str = "67108864";

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
    /// makemap failed, or made something that cannot be read.
    Makemap(String),
    /// Somebody else changed the source meanwhile.
    SourceChanged(PathBuf),
}

impl fmt::Display for RebuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RebuildError::Io { path, source } => write!(f, "{}: {source}", path.display()),
            RebuildError::Makemap(problem) => f.write_str(problem),
            RebuildError::SourceChanged(path) => {
                write!(f, "{} was changed by somebody else meanwhile", path.display())
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
    /// Reads a source, through symbolic links if it is one.
    ///
    /// # Errors
    /// When it is missing or cannot be read.
    pub fn read(path: &Path) -> Result<SourceFile, RebuildError> {
        let path = real_path(path);
        let mut file = regular_file::open(&path).map_err(at(&path))?;
        let metadata = file.metadata().map_err(at(&path))?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut file, &mut text).map_err(at(&path))?;
        let source = SourceFile { path, metadata, text };
        source.check_unchanged()?;
        Ok(source)
    }

    fn check_unchanged(&self) -> Result<(), RebuildError> {
        let now = fs::metadata(&self.path).map_err(at(&self.path))?;
        if FileStamp::of(&now) == FileStamp::of(&self.metadata) {
            Ok(())
        } else {
            Err(RebuildError::SourceChanged(self.path.clone()))
        }
    }
}

/// Whether a map was built of the source with this digest.
pub fn is_current(map: &AccessMap, digest: &str) -> bool {
    map.get(DIGEST_KEY)
        .is_ok_and(|found| found.as_deref() == Some(digest.as_bytes()))
}

/// Builds the map of `input`, what makemap is to make of `text`, and puts both in force.
/// The caller holds the lock.
///
/// # Errors
/// All but a failure to rename the second of the two leaves everything as it was.
pub fn rebuild(
    map: &AccessMap,
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
    let new_map = if map.is_built() && !(new_source.is_none() && is_current(map, digest)) {
        let staged = stage(map.path())?;
        makemap(map, build, staged.path(), input, digest)?;
        Some(staged)
    } else {
        None
    };
    for staged in [&new_map, &new_source].into_iter().flatten() {
        complete(staged).map_err(at(staged.target()))?;
    }
    let mut folders = Vec::new();
    for staged in [new_map, new_source].into_iter().flatten() {
        old.check_unchanged()?;
        let target = staged.target().to_owned();
        staged.put_in_force().map_err(at(&target))?;
        folders.push(folder_of(&target).to_owned());
    }
    folders.dedup();
    folders
        .iter()
        .try_for_each(|folder| sync_folder(folder).map_err(at(folder)))
}

fn stage(target: &Path) -> Result<Staged, RebuildError> {
    remove_leftovers(target);
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
    command.extend([map.kind.name().into(), file.into()]);
    child::run(&command, input, MAKEMAP_TIMEOUT)
        .and_then(child::Finished::success)
        .map_err(|error| RebuildError::Makemap(error.to_string()))?;
    // What we cannot read, PHP and C cannot read either.
    let made = AccessMap {
        path: file.to_owned(),
        ..map.clone()
    };
    match made.get(DIGEST_KEY) {
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
    fs::set_permissions(to, fs::Permissions::from_mode(old.mode() & 0o7777))?;
    let named = |name: &std::ffi::OsStr, error: io::Error| {
        let message = format!("cannot keep the attribute {}: {error}", name.display());
        io::Error::new(error.kind(), message)
    };
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

impl Kind {
    /// As makemap calls it.
    fn name(self) -> &'static str {
        match self {
            Kind::Hash => "hash",
            Kind::Cdb => "cdb",
            Kind::Text => "text",
        }
    }
}
