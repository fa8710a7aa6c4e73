//! Brings an access map up to date: a new source and the map that makemap makes of it
//! take the places of the old ones.
//!
//! Both are written in a folder of their own beside what they replace, so that nobody
//! else can reach them, and are complete and on disk before anything else changes. makemap, which
//! only takes a path, runs in that folder: its path may lead elsewhere by then, where the folder
//! around it is somebody else's.
//!
//! The source takes its place by rename. So does a map, unless its readers lock it: then the file
//! stays, since sendmail returns mail where one is replaced while it opens it, and gets the new
//! content while it is locked.
//!
//! Whatever ends an update, a map in force is whole, unless the update is killed in the very moment
//! at which it writes to it; what such an update left is removed by the next one, which builds the
//! map anew. The map is first. If the source then cannot be replaced, the old map comes
//! back; if the update ends between the two, the next one finds the source as it was, and
//! rewrites both.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::managed_block::{AccessSource, BlockError, Complaint, DIGEST_KEY};
use crate::child::{self, Stdin};
use crate::files::in_place::OverwriteError;
use crate::files::place::Place;
use crate::files::replace::{Staged, Staging, remove_leftovers};
use crate::undo;
use mailaffinity::access_map::AccessMap;
use mailaffinity::config::MapBuild;
use mailaffinity::files::file_stamp::{FileStamp, SETTLE};

/// More than a million entries take with the least cache.
const MAKEMAP_TIMEOUT: Duration = Duration::from_secs(600);
/// More than `makemap -l` takes.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// More than makemap adds to a large map in a second.
const BYTES_A_SECOND: u64 = 20_000;
/// makemap's default is 1 MB, with which it is slow from some 100,000 entries on.
const MAKEMAP_CACHE: &str = "67108864";

/// An access source as it was read.
#[derive(Debug)]
pub struct SourceFile {
    place: Place,
    file: File,
    stamp: FileStamp,
    /// Its content.
    pub content: AccessSource,
}

/// Why a map could not be brought up to date. What was in force still is, but for
/// [`Changed`](RebuildError::Changed).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
    /// There is no source.
    #[error("the access source {} is not there; create it, empty if need be", .0.display())]
    NoSource(PathBuf),
    /// The source's block cannot be told from the rest.
    #[error("{}: {error}", path.display())]
    Block {
        /// The source.
        path: PathBuf,
        /// What is wrong with it.
        error: BlockError,
    },
    /// makemap failed, or made something that cannot be read.
    #[error("{0}")]
    Makemap(String),
    /// Somebody else changed the source meanwhile.
    #[error(
        "{} was changed by somebody else meanwhile (the next update tries again; if that goes on, let whoever writes it \
         leave it alone for some seconds)",
        .0.display()
    )]
    SourceChanged(PathBuf),
    /// What failed came after a change that stays.
    #[error("{error}; {now}")]
    Changed {
        /// What failed.
        error: Box<RebuildError>,
        /// What is in force now.
        now: &'static str,
    },
}

impl RebuildError {
    pub(super) fn after(self, now: &'static str) -> RebuildError {
        RebuildError::Changed {
            error: Box::new(self),
            now,
        }
    }
}

/// Names the file in an error.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> RebuildError + '_ {
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
    /// When it is missing, cannot be read, is being written, or its block cannot be told.
    pub fn read(source: &Path) -> Result<SourceFile, RebuildError> {
        let place = Place::of(source).map_err(at(source))?;
        let path = place.path();
        let mut file = place.open().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => RebuildError::NoSource(path.to_owned()),
            _ => at(path)(error),
        })?;
        let stamp = FileStamp::of(&file.metadata().map_err(at(path))?);
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(at(path))?;
        // A file that is being truncated is empty before its ctime changes (ext4).
        let left_alone = !text.is_empty() && stamp.age().is_some_and(|age| age >= SETTLE);
        let content = AccessSource::parse(text);
        // Whoever is half-way through writing it would write the rest to a file that has
        // been replaced.
        let is_whole = content.as_ref().is_ok_and(|content| content.digest().is_some());
        if !left_alone && !is_whole {
            thread::sleep(SETTLE);
        }
        check_unchanged(&place, &stamp)?;
        let content = content.map_err(|error| RebuildError::Block {
            path: source.to_owned(),
            error,
        })?;
        Ok(SourceFile {
            place,
            file,
            stamp,
            content,
        })
    }

    /// Whether all may read it.
    pub fn is_public(&self) -> bool {
        let all_may = |file: Metadata| file.mode() & 0o004 != 0;
        self.file.metadata().is_ok_and(all_may)
    }

    /// Puts a new source in its place, unless somebody changes it until that very moment:
    /// the two change places, and change back if the old one is not what was read.
    fn replace_by(&self, staged: Staged<'_>) -> Result<(), RebuildError> {
        let path = self.place.path();
        if !staged.exchange().map_err(at(path))? {
            check_unchanged(&self.place, &self.stamp)?;
            return staged.put_in_force().map_err(at(path));
        }
        let old = staged.open();
        if old.is_ok_and(|old| has_content(old, self.content.text()).is_ok_and(|same| same)) {
            return Ok(());
        }
        staged
            .exchange()
            // It has somebody's edit.
            .map_err(|error| at(&staged.keep())(error))?;
        Err(RebuildError::SourceChanged(path.to_owned()))
    }
}

fn check_unchanged(place: &Place, stamp: &FileStamp) -> Result<(), RebuildError> {
    let now = place.open().and_then(|file| file.metadata());
    match FileStamp::of(&now.map_err(at(place.path()))?) == *stamp {
        true => Ok(()),
        false => Err(RebuildError::SourceChanged(place.path().to_owned())),
    }
}

fn has_content(file: File, text: &[u8]) -> io::Result<bool> {
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut rest = text;
    loop {
        let buffer = file.fill_buf()?;
        match rest.split_at_checked(buffer.len()) {
            Some((start, _)) if start != buffer => return Ok(false),
            None => return Ok(false),
            Some(_) if buffer.is_empty() => return Ok(rest.is_empty()),
            Some((_, after)) => rest = after,
        }
        let read = buffer.len();
        file.consume(read);
    }
}

/// Puts `new` in force as the source and, where a map is given, builds it of that and puts
/// it in force before. The caller holds the lock. Returns the administrator's lines that
/// do not count.
///
/// # Errors
/// They leave everything as it was, but for [`RebuildError::Changed`].
pub fn rebuild(
    map: Option<&AccessMap>,
    build: &MapBuild,
    old: &SourceFile,
    new: &Arc<AccessSource>,
) -> Result<Vec<Complaint>, RebuildError> {
    let new_source = if new.text() == old.content.text() {
        None
    } else {
        let staged = stage(&old.place)?.write(new.text());
        let staged = staged.and_then(|staged| complete(staged, Some(&old.file)));
        Some(staged.map_err(at(old.place.path()))?)
    };
    let (parts, complaints) = new.for_makemap();
    let map_place = map.map(|map| Place::of(map.path()).map_err(at(map.path())));
    let map_place = map_place.transpose()?;
    let new_map = match (map, &map_place) {
        (Some(map), Some(place)) => {
            let staged = makemap(map, build, stage(place)?, new, parts)?;
            let old = match place.open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                old => Some(old.map_err(at(place.path()))?),
            };
            Some(complete(staged, old.as_ref()).map_err(at(place.path()))?)
        }
        _ => None,
    };
    let source_place = new_source.as_ref().map(Staged::place);
    check_unchanged(&old.place, &old.stamp)?;
    // No signal ends the update before the source follows the map.
    let held_off = undo::hold_off();
    if let Some(new_map) = &new_map {
        put_in_force(new_map, map.is_some_and(readers_lock))?;
    }
    if let Some(Err(error)) = new_source.map(|source| old.replace_by(source)) {
        return Err(match new_map.as_ref().map_or(Ok(()), Staged::take_back) {
            Ok(()) => error,
            Err(_) => error.after("the access map is new, and the next update makes its source follow"),
        });
    }
    drop(held_off);
    let last = [
        new_map.as_ref().map(|map| (map.place(), map.sync_in_force())),
        source_place.map(|source| (source, source.sync_folder())),
    ];
    for (place, lasts) in last.into_iter().flatten() {
        lasts.map_err(|error| {
            at(place.path())(error)
                .after("the access map is new, but may not be after a crash of the machine")
        })?;
    }
    drop(new_map);
    if let Some(place) = &map_place {
        remove_leftovers(place);
    }
    Ok(complaints)
}

/// Whether those who read a map lock it, and look at it anew each time: sendmail does both with
/// Berkeley DB's, but has a cdb in its memory, where nothing must be written to it.
fn readers_lock(map: &AccessMap) -> bool {
    map.kind() == "hash"
}

fn put_in_force(map: &Staged<'_>, readers_lock: bool) -> Result<(), RebuildError> {
    let at = at(map.place().path());
    if !readers_lock {
        return map.put_in_force_for_now().map_err(at);
    }
    map.overwrite_for_now().map_err(|error| match error {
        OverwriteError::Unchanged(error) => at(error),
        OverwriteError::HalfWritten(error) => {
            at(error).after("the access map is half-written, and the next update builds it anew")
        }
    })
}

fn stage(place: &Place) -> Result<Staging<'_>, RebuildError> {
    Staging::beside(place).map_err(at(place.path()))
}

fn makemap<'p>(
    map: &AccessMap,
    build: &MapBuild,
    staging: Staging<'p>,
    source: &Arc<AccessSource>,
    parts: Vec<Range<usize>>,
) -> Result<Staged<'p>, RebuildError> {
    let mut command = vec![OsString::from(&build.makemap)];
    if !build.makemap_options.iter().any(|option| option == "-c") {
        command.extend(["-c".into(), MAKEMAP_CACHE.into()]);
    }
    command.extend(build.makemap_options.iter().map(OsString::from));
    command.extend([map.kind().into(), Path::new(".").join(staging.file_name()).into()]);
    let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
    let input = {
        let source = Arc::clone(source);
        move |makemap: &mut Stdin| {
            let mut parts = parts.into_iter().filter_map(|part| source.text().get(part));
            parts.try_for_each(|part| {
                makemap.write_all(part)?;
                match part.ends_with(b"\n") {
                    true => Ok(()),
                    false => makemap.write_all(b"\n"),
                }
            })
        }
    };
    let timeout = MAKEMAP_TIMEOUT.saturating_add(Duration::from_secs(length / BYTES_A_SECOND));
    let path = staging.place.path();
    let failed = |problem: String| RebuildError::Makemap(format!("{}: {problem}", path.display()));
    let made = staging.folder();
    child::run_silent_in(&made, &command, input, timeout)
        .and_then(child::Finished::success)
        .map_err(|error| failed(makes_no_such_map(map, build).unwrap_or_else(|| error.to_string())))?;
    // What we cannot read, PHP and C cannot read either.
    match map.in_file(made.join(staging.file_name())).get(DIGEST_KEY) {
        Ok(found) if found.as_deref() == source.digest().map(str::as_bytes) => {
            staging.made().map_err(at(path))
        }
        Ok(_) => Err(failed(format!(
            "{} made a map that lacks entries",
            build.makemap.display()
        ))),
        Err(error) => Err(failed(format!(
            "{} made a map that cannot be read: {error}",
            build.makemap.display()
        ))),
    }
}

/// What to say of a makemap that failed since it makes no maps of this kind: those that it
/// makes are the ones that sendmail was built with.
fn makes_no_such_map(map: &AccessMap, build: &MapBuild) -> Option<String> {
    let command = [OsString::from(&build.makemap), "-l".into()];
    let listed = child::run(&command, b"", LIST_TIMEOUT).and_then(child::Finished::success);
    let kinds = String::from_utf8(listed.ok()?).ok()?;
    let kinds: Vec<&str> = kinds.split_whitespace().collect();
    if kinds.is_empty() || kinds.contains(&map.kind()) {
        return None;
    }
    Some(format!(
        "{} makes no {} maps, only {} (makemap -l): choose one of sendmail's for [access_map] map",
        build.makemap.display(),
        map.kind(),
        kinds.join(", ")
    ))
}

/// Gives a file what its predecessor has besides its content, and waits until it is on
/// disk. A map without one stays as makemap leaves it.
fn complete<'p>(staged: Staged<'p>, old: Option<&File>) -> io::Result<Staged<'p>> {
    old.map_or(Ok(()), |old| staged.keep_attributes(old))?;
    staged.sync()?;
    Ok(staged)
}

#[cfg(test)]
mod tests {
    use std::fs;

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
            let staged = stage(&old.place).unwrap().write(b"new\n").unwrap();
            edit().unwrap();
            let error = old.replace_by(staged).unwrap_err();
            assert!(matches!(error, RebuildError::SourceChanged(_)), "{error}");
            assert!(fs::read_to_string(&path).unwrap().ends_with("edit 2\n"));

            let old = SourceFile::read(&path).unwrap();
            let staged = stage(&old.place).unwrap().write(b"new\n").unwrap();
            old.replace_by(staged).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left");
        }
    }
}
