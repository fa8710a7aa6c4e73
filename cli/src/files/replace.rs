//! Files that take another's place in one step.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::PathBuf;
use std::sync::Arc;

use mailaffinity::files::regular_file;
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, StatxAttributes, StatxFlags};
use rustix::fs::{fstat, mkdirat, openat, renameat, renameat_with, statat, statx, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use xattr::FileExt as _;

use super::host;
use super::in_place::{InPlace, OverwriteError, make_younger};
use super::place::{Place, folder_of, is_at, open_file, to_read};
use crate::undo::{self, Begun};

/// How many seconds it takes at least until what another machine left is surely no longer in
/// use: a week, where makemap may take some hours.
const LONGEST_USE: i64 = 7 * 24 * 60 * 60;

/// Where Linux has a file's access control list.
const ACCESS_CONTROL_LIST: &str = "system.posix_acl_access";

/// How many folders with a name that this process would take may be there.
const MOST_LEFTOVERS: u32 = 1000;

/// Writes a text beside the file and renames it over the file when all of it is on
/// disk. Everybody may read it, whatever the umask.
///
/// # Errors
/// The old file then stands as it was, unless all that failed was to make the new one
/// last through a crash of the machine.
pub(crate) fn replace(place: &Place, text: &str) -> io::Result<()> {
    let staged = stage_for_all(place, text)?;
    staged.sync()?;
    staged.put_in_force()?;
    place.sync_folder()
}

/// As [`replace`], for a file that a crash of the machine may take.
pub(crate) fn replace_for_now(place: &Place, text: &str) -> io::Result<()> {
    stage_for_all(place, text)?.put_in_force()
}

fn stage_for_all<'p>(place: &'p Place, text: &str) -> io::Result<Staged<'p>> {
    let staged = Staging::beside(place)?.write_text(text)?;
    staged.set_mode(0o644)?;
    Ok(staged)
}

/// A folder beside a file that is to be replaced, where nobody else reaches what is made: it
/// is kept open, whatever its name comes to stand for. It goes with all that is in it.
#[derive(Debug)]
pub(crate) struct Staging<'p> {
    pub(crate) place: &'p Place,
    folder: Arc<OwnedFd>,
    name: OsString,
    begun: Begun,
}

impl<'p> Staging<'p> {
    /// # Errors
    /// Also when it is known that nothing can take the file's place.
    pub(crate) fn beside(place: &'p Place) -> io::Result<Staging<'p>> {
        obstacle(place).map_or(Ok(()), Err)?;
        let prefix = own_prefix(place);
        for number in 0..MOST_LEFTOVERS {
            let mut name = prefix.clone();
            name.push(format!("{}-{number}", std::process::id()));
            match undo::begin(|| make_staging(place, &name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    let (folder, begun) = made?;
                    return Ok(Staging {
                        place,
                        folder,
                        name,
                        begun,
                    });
                }
            }
        }
        Err(Errno::EXIST.into())
    }

    /// The folder under a name that is its own in this process, for what takes no descriptor.
    pub(crate) fn folder(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.folder.as_raw_fd()).into()
    }

    /// The name of the file to be: the one that was given, since makemap insists on an
    /// extension.
    pub(crate) fn file_name(&self) -> &'p OsStr {
        &self.place.given
    }

    pub(crate) fn write(self, bytes: &[u8]) -> io::Result<Staged<'p>> {
        self.write_by(|file| file.write_all(bytes))
    }

    /// As [`write`](Staging::write), piece by piece.
    pub(crate) fn write_by(self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<Staged<'p>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        write(&mut open_file(&self.folder, self.file_name(), flags)?)?;
        self.made()
    }

    /// # Errors
    /// Also when its readers would not take it, or find another text.
    pub(crate) fn write_text(self, text: &str) -> io::Result<Staged<'p>> {
        let staged = self.write(text.as_bytes())?;
        match regular_file::text_of(&staged.open()?)? == text {
            true => Ok(staged),
            false => Err(io::Error::other("what was written is not what is read")),
        }
    }

    /// When the file has been made.
    ///
    /// # Errors
    /// When it is not there or no regular file.
    pub(crate) fn made(self) -> io::Result<Staged<'p>> {
        let file = open_file(&self.folder, self.file_name(), OFlags::RDONLY)?;
        Ok(Staged {
            staging: self,
            file,
            overwritten: OnceCell::new(),
        })
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // One that stays does no harm.
        let _ = remove_staging(self.place, &self.name, &self.folder);
    }
}

/// A file that is complete and can take another's place. It is gone if it does not.
#[derive(Debug)]
pub(crate) struct Staged<'p> {
    staging: Staging<'p>,
    file: File,
    /// The other one, where that stays and has got this one's content.
    overwritten: OnceCell<File>,
}

impl<'p> Staged<'p> {
    /// The file it is to replace.
    pub(crate) fn place(&self) -> &'p Place {
        self.staging.place
    }

    /// Waits until it is on disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// What has its name: this file, or after [`exchange`](Staged::exchange) the other.
    pub(crate) fn open(&self) -> io::Result<File> {
        open_file(&self.staging.folder, self.name(), OFlags::RDONLY)
    }

    /// Lets the two change places in one step, and says whether they did: a file system such
    /// as NFS cannot do that.
    pub(crate) fn exchange(&self) -> io::Result<bool> {
        let Place { folder, name, .. } = self.place();
        match renameat_with(
            &self.staging.folder,
            self.name(),
            folder,
            name,
            RenameFlags::EXCHANGE,
        ) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(obstacle(self.place()).unwrap_or(error.into())),
            Ok(()) => Ok(true),
        }
    }

    /// Keeps what has its name under one beside the other file, and says where it is.
    pub(crate) fn keep(self) -> PathBuf {
        let folder = folder_of(self.place().path());
        let mut saved = self.place().name.clone();
        saved.push(".mailaffinity-saved");
        match renameat(&self.staging.folder, self.name(), &self.place().folder, &saved) {
            Ok(()) => folder.join(saved),
            Err(_) => {
                let kept = folder.join(&self.staging.name).join(self.name());
                self.staging.begun.over();
                std::mem::forget(self);
                kept
            }
        }
    }

    /// Takes the other's place, until [`take_back`](Staged::take_back). The other never has two
    /// names, for which makemap would refuse to read it: where the file system cannot exchange
    /// files, there is a copy of it.
    pub(crate) fn put_in_force_for_now(&self) -> io::Result<()> {
        self.check()?;
        match self.exchange() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.put_in_force(),
            Err(error) => return Err(error),
        }
        let old = self.place().open()?;
        self.copy_of_former(&old)?.sync_all()?;
        self.put_in_force()
    }

    /// As [`put_in_force_for_now`](Staged::put_in_force_for_now), but the other one gets this
    /// one's content, if it can be had to itself. Its readers, who lock it, have the old content
    /// or the new one, unless this process is killed meanwhile: then the file is longer than it
    /// should be, and what is beside it is left.
    pub(crate) fn overwrite_for_now(&self) -> Result<(), OverwriteError> {
        let Some(other) = InPlace::lock(self.place()) else {
            return self.put_in_force_for_now().map_err(OverwriteError::Unchanged);
        };
        let Ok(old) = self.copy_of_former(other.file()) else {
            // There may be no room for a third content.
            let _ = unlinkat(&self.staging.folder, self.former(), AtFlags::empty());
            return self.put_in_force_for_now().map_err(OverwriteError::Unchanged);
        };
        if let Err(error) = other.overwrite(&self.file, &old) {
            // There is always room for that.
            return self.put_in_force().map_err(|_| error);
        }
        let _ = self.overwritten.set(other.unlock());
        Ok(())
    }

    /// Waits until what took the other's place lasts through a crash of the machine.
    pub(crate) fn sync_in_force(&self) -> io::Result<()> {
        match self.overwritten.get() {
            Some(file) => {
                file.sync_all()?;
                // sendmail lets go of the lock when it has opened a map, and only then asks how old
                // that is: one that did so meanwhile takes the new time for that of the old content.
                let _ = make_younger(file, file.metadata()?.mtime());
                Ok(())
            }
            None => self.place().sync_folder(),
        }
    }

    /// Puts back what was there before, if only nothing.
    pub(crate) fn take_back(&self) -> io::Result<()> {
        if self.overwritten.get().is_some()
            && let Some(other) = InPlace::lock(self.place())
        {
            let former = open_file(&self.staging.folder, &self.former(), OFlags::RDONLY)?;
            if other.overwrite(&former, &self.file).is_ok() {
                return Ok(());
            }
        }
        let Place { folder, name, .. } = self.place();
        // It is the one where the two could not change places, the other where they did.
        for before in [&self.former(), self.name()] {
            match renameat(&self.staging.folder, before, folder, name) {
                Err(Errno::NOENT) => {}
                result => return Ok(result?),
            }
        }
        self.place().remove()
    }

    /// A copy of the other file in the folder beside it, open to be read too.
    fn copy_of_former(&self, mut old: &File) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mut copy = open_file(&self.staging.folder, &self.former(), flags)?;
        io::copy(&mut old, &mut copy)?;
        keep_attributes(old, &copy)?;
        Ok(copy)
    }

    pub(crate) fn put_in_force(&self) -> io::Result<()> {
        let Place { folder, name, .. } = self.place();
        self.check()?;
        Ok(renameat(&self.staging.folder, self.name(), folder, name)?)
    }

    /// That its name still stands for it.
    fn check(&self) -> io::Result<()> {
        match is_at(&self.staging.folder, self.name(), &self.file)? {
            true => Ok(()),
            false => Err(io::Error::other("what was to replace it was itself replaced")),
        }
    }

    /// Gives the file what another one has, as [`keep_attributes`].
    pub(crate) fn keep_attributes(&self, from: &File) -> io::Result<()> {
        keep_attributes(from, &self.file)
    }

    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode))
    }

    fn name(&self) -> &'p OsStr {
        self.staging.file_name()
    }

    fn former(&self) -> OsString {
        let mut name = self.name().to_owned();
        name.push(".former");
        name
    }
}

/// Gives a file another one's owner, mode and extended attributes, among which are
/// access control lists. It never runs with other rights than those of who runs it:
/// somebody may have put a program there for the old file.
fn keep_attributes(from: &File, to: &File) -> io::Result<()> {
    let old = from.metadata()?;
    let new = to.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        fchown(to, Some(old.uid()), Some(old.gid()))?;
    }
    let named = |name: &OsStr, error: io::Error| {
        let message = format!("cannot keep the attribute {}: {error}", name.display());
        io::Error::new(error.kind(), message)
    };
    // The folder may give one to new files, with rights that the old file does not give.
    let list = OsStr::new(ACCESS_CONTROL_LIST);
    if to.get_xattr(list).is_ok_and(|value| value.is_some()) {
        to.remove_xattr(list).map_err(|error| named(list, error))?;
    }
    to.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
    let attributes = match from.list_xattr() {
        Ok(attributes) => attributes,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in attributes {
        let value = from.get_xattr(&name).map_err(|error| named(&name, error))?;
        if let Some(value) = value
            && to.get_xattr(&name).ok().flatten().as_ref() != Some(&value)
        {
            to.set_xattr(&name, &value).map_err(|error| named(&name, error))?;
        }
    }
    Ok(())
}

/// Why nothing can take a file's place, if the system says so without an attempt (statx(2)).
fn obstacle(place: &Place) -> Option<io::Error> {
    let attributes = statx(
        &place.folder,
        &place.name,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::empty(),
    )
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

/// Whether something was left beside a file by processes of this machine that were killed before
/// they could replace it, or right after that. A folder that stays whatever we do, since there is
/// something else in it, such as makemap's core, does not count.
pub(crate) fn has_leftovers(place: &Place) -> bool {
    let own = own_prefix(place);
    leftovers(place, &own).any(|(_, folder)| has_only_ours(place, &folder).is_ok_and(|only| only))
}

fn has_only_ours(place: &Place, folder: &OwnedFd) -> io::Result<bool> {
    let names = names_that_start(folder, OsStr::new(""))?;
    let is_ours = |name: &OsString| name.as_bytes().starts_with(place.given.as_bytes());
    Ok(names
        .iter()
        .all(|name| name == "." || name == ".." || is_ours(name)))
}

/// Removes what was left. Only for whoever holds the file's lock. Another machine may not see
/// that lock (NFS with nolock): what is its own may be in use, unless it is old.
pub(crate) fn remove_leftovers(place: &Place) {
    let own = own_prefix(place);
    for (name, folder) in leftovers(place, &prefix(place)) {
        if name.as_bytes().starts_with(own.as_bytes()) || is_old(place, &folder).is_ok_and(|old| old) {
            // One that stays does no harm.
            let _ = remove_staging(place, &name, &folder);
        }
    }
}

/// Makes room as [`remove_leftovers`] does, but leaves what [`has_leftovers`] sees.
pub(crate) fn empty_leftovers(place: &Place) {
    for (_, folder) in leftovers(place, &own_prefix(place)) {
        let _ = empty_staging(place, &folder);
    }
}

/// The staging folders whose names start so.
fn leftovers(place: &Place, start: &OsStr) -> impl Iterator<Item = (OsString, OwnedFd)> {
    let names = names_that_start(&place.folder, start).unwrap_or_default();
    names.into_iter().filter_map(|name| {
        let folder = open_staging(place, &name).ok()??;
        Some((name, folder))
    })
}

/// Whether nothing was made in a staging folder, or written to it, for longer than any update
/// takes. Its file system's clock tells, which one more folder gets its time from.
fn is_old(place: &Place, folder: &OwnedFd) -> io::Result<bool> {
    let now = fstat(&Staging::beside(place)?.folder)?.st_mtime;
    let mut last = fstat(folder)?.st_mtime;
    for name in names_that_start(folder, &place.given)? {
        last = last.max(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mtime);
    }
    Ok(now.saturating_sub(last) > LONGEST_USE)
}

/// Makes a folder, and says how it is removed.
fn make_staging(place: &Place, name: &OsStr) -> io::Result<(Arc<OwnedFd>, impl FnOnce() + use<>)> {
    mkdirat(&place.folder, name, Mode::RWXU)?;
    // By now, it may be another one.
    let Some(folder) = open_staging(place, name)? else {
        return Err(io::Error::other(format!(
            "somebody put another folder in the place of {}",
            folder_of(place.path()).join(name).display()
        )));
    };
    let folder = Arc::new(folder);
    let (place, name, made) = (place.clone(), name.to_owned(), Arc::clone(&folder));
    Ok((folder, move || _ = remove_staging(&place, &name, &made)))
}

/// Opens a folder if it is as [`Staging`] makes it: ours, and nobody else's.
fn open_staging(place: &Place, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match openat(&place.folder, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        folder => folder?,
    };
    let found = fstat(&folder)?;
    let is_ours = found.st_uid == geteuid().as_raw() && found.st_mode & 0o077 == 0;
    Ok(is_ours.then_some(folder))
}

/// Removes a staging folder, and from it what is made in one: another folder
/// that was given its name keeps what it has. Where a signal has this done, what is in the
/// folder may come and go meanwhile.
fn remove_staging(place: &Place, name: &OsStr, folder: &OwnedFd) -> io::Result<()> {
    let mut attempts = 3;
    loop {
        empty_staging(place, folder)?;
        attempts -= 1;
        match gone(unlinkat(&place.folder, name, AtFlags::REMOVEDIR)) {
            Err(Errno::NOTEMPTY) if attempts > 0 => {}
            result => return Ok(result?),
        }
    }
}

fn empty_staging(place: &Place, folder: &OwnedFd) -> io::Result<()> {
    for file in names_that_start(folder, &place.given)? {
        gone(unlinkat(folder, file, AtFlags::empty()))?;
    }
    Ok(())
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

fn names_that_start(folder: &OwnedFd, start: &OsStr) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::new(to_read(folder)?)? {
        let name = entry?.file_name().to_bytes().to_owned();
        if name.starts_with(start.as_bytes()) {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

fn prefix(place: &Place) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(&place.name);
    prefix.push(".mailaffinity-");
    prefix
}

fn own_prefix(place: &Place) -> OsString {
    let mut prefix = prefix(place);
    prefix.push(host::id());
    prefix.push("-");
    prefix
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn what_was_replaced_for_now_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for old in [None, Some("old")] {
            if let Some(old) = old {
                fs::write(&path, old).unwrap();
            }
            let place = Place::of(&path).unwrap();
            let staged = Staging::beside(&place).unwrap().write(b"new").unwrap();
            staged.put_in_force_for_now().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            staged.take_back().unwrap();
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), old);
            drop(staged);
            let left = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, usize::from(old.is_some()), "nothing else is left");
        }
    }

    /// A file with the content `old`, and whether it is the same file and has the content `new` in
    /// force, then `old` again.
    #[track_caller]
    fn overwrite(prepare: impl FnOnce(&Path) -> Option<File>, old: &str, new: &str, stays: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, old).unwrap();
        let _held = prepare(&path);
        let before = fs::metadata(&path).unwrap();
        let names = fs::read_dir(folder.path()).unwrap().count();
        let place = Place::of(&path).unwrap();
        let staged = Staging::beside(&place).unwrap().write(new.as_bytes()).unwrap();
        staged.overwrite_for_now().unwrap();
        let meanwhile = fs::metadata(&path).unwrap();
        staged.sync_in_force().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), new);
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.ino() == before.ino(), stays);
        if stays {
            assert!(
                meanwhile.mtime() > before.mtime() && after.mtime() > meanwhile.mtime(),
                "sendmail would not open it anew"
            );
        }
        staged.take_back().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), old);
        if stays {
            let back = fs::metadata(&path).unwrap();
            assert_eq!(back.ino(), before.ino());
            assert!(back.mtime() > after.mtime());
        }
        drop(staged);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            names,
            "nothing else is left"
        );
    }

    #[test]
    fn a_file_that_can_be_had_to_oneself_stays() {
        for (old, new) in [
            ("old", "a longer one"),
            ("a longer one", "new"),
            ("", "new"),
            ("old", ""),
        ] {
            overwrite(|_| None, old, new, true);
        }
    }

    #[test]
    fn a_file_that_cannot_be_had_to_oneself_is_replaced() {
        let read = |path: &Path| {
            let file = File::open(path).unwrap();
            file.lock_shared().unwrap();
            Some(file)
        };
        overwrite(read, "old", "new", false);
        let link = |path: &Path| {
            fs::hard_link(path, path.with_extension("other")).unwrap();
            None
        };
        overwrite(link, "old", "new", false);
    }
}
