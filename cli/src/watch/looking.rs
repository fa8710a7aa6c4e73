//! Threads that look whether files have changed: once a second, as on storage that others
//! write too, and at once where the kernel tells of it (inotify(7)).
//!
//! One looks at the configuration and the node state. What else an update reads may be on storage
//! that hangs, and with it whoever looks at it: that is another one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender};
use std::thread;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::update::files_read;
use mailaffinity::config::Config;
use mailaffinity::files::file_stamp::{FileStamp, SETTLE};

const INTERVAL: Duration = Duration::from_secs(1);

/// What has changed, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) config: bool,
    pub(crate) state: bool,
    /// What else an update reads.
    pub(crate) others: bool,
}

/// What the threads are told.
#[derive(Clone)]
pub(crate) enum Look {
    /// Everything counts as changed.
    Anew,
    /// The files of this configuration are looked at from now on.
    For(Arc<Config>),
    /// Something may have changed.
    Now,
}

/// The threads.
#[derive(Clone)]
pub(crate) struct Looking([Sender<Look>; 2]);

impl Looking {
    /// Looks from now on, until `tell` says no. All files count as changed at first.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub(crate) fn begin(
        path: &Path,
        config: &Arc<Config>,
        tell: impl Fn(Changed) -> bool + Clone + Send + 'static,
    ) -> io::Result<Looking> {
        Looking::begin_every(INTERVAL, path, config, tell)
    }

    fn begin_every(
        interval: Duration,
        path: &Path,
        config: &Arc<Config>,
        tell: impl Fn(Changed) -> bool + Clone + Send + 'static,
    ) -> io::Result<Looking> {
        let begin = |part| {
            let (sender, told) = mpsc::channel();
            let (path, config, tell) = (path.to_owned(), config.clone(), tell.clone());
            let notices = Notices::begin(sender.clone())?;
            let look = move || look_forever(interval, part, &path, config, &notices, &told, tell);
            thread::Builder::new().spawn(look)?;
            io::Result::Ok(sender)
        };
        Ok(Looking([begin(Part::Own)?, begin(Part::Others)?]))
    }

    /// # Errors
    /// When one of the threads has ended.
    pub(crate) fn tell(&self, look: &Look) -> Result<(), SendError<Look>> {
        self.0.iter().try_for_each(|thread| thread.send(look.clone()))
    }
}

/// What one of the threads looks at.
#[derive(Clone, Copy)]
enum Part {
    /// The configuration and the node state.
    Own,
    /// What else an update reads.
    Others,
}

fn look_forever(
    interval: Duration,
    part: Part,
    path: &Path,
    mut config: Arc<Config>,
    notices: &Notices,
    told: &Receiver<Look>,
    tell: impl Fn(Changed) -> bool,
) {
    let mut seen = Seen::default();
    loop {
        let (own, state) = (path.to_owned(), config.node_state.to_path_buf());
        let [own, state, others] = match part {
            Part::Own => [vec![own], vec![state], vec![]],
            Part::Others => {
                let mut others = files_read(&config);
                others.retain(|file| *file != state);
                [vec![], vec![], others]
            }
        };
        for file in [&own, &state, &others].into_iter().flatten() {
            notices.of_folder(file);
        }
        let what = Changed {
            config: seen.look(own),
            state: seen.look(state),
            others: seen.look(others),
        };
        if (what.config || what.state || what.others) && !tell(what) {
            return;
        }
        let first = match told.recv_timeout(interval) {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        for look in first.into_iter().chain(told.try_iter()) {
            match look {
                Look::Anew => seen = Seen::default(),
                Look::For(new) => config = new,
                Look::Now => {}
            }
        }
    }
}

/// What the kernel tells of changes in folders, if it does: looking once a second is enough where
/// all inotify instances are taken that root may have, of which there are few.
struct Notices(Option<OwnedFd>);

impl Notices {
    /// Has each of them followed by a look.
    ///
    /// # Errors
    /// When the system has no thread left.
    fn begin(look: Sender<Look>) -> io::Result<Notices> {
        let Ok(notices) = inotify::init(CreateFlags::CLOEXEC) else {
            return Ok(Notices(None));
        };
        let mut told = File::from(notices.try_clone()?);
        let mut events = [0; 4096];
        let forward = move || while told.read(&mut events).is_ok() && look.send(Look::Now).is_ok() {};
        thread::Builder::new().spawn(forward)?;
        Ok(Notices(Some(notices)))
    }

    /// Wants to be told of changes in the folder of a file, as it is now. Where that cannot be,
    /// looking once a second is all there is.
    fn of_folder(&self, file: &Path) {
        let what =
            WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
        if let (Some(notices), Some(folder)) = (&self.0, file.parent()) {
            let _ = inotify::add_watch(notices, folder, what);
        }
    }
}

/// Files as they were seen last; `None` for one that was not there.
#[derive(Default)]
struct Seen(BTreeMap<PathBuf, Option<FileStamp>>);

impl Seen {
    /// Whether one of these files is not as it was. One that is written in place counts when
    /// it was left alone for [`SETTLE`].
    fn look(&mut self, files: impl IntoIterator<Item = PathBuf>) -> bool {
        let mut is_changed = false;
        for file in files {
            let now = fs::metadata(&file).ok().map(|metadata| FileStamp::of(&metadata));
            let known = self.0.get(&file);
            if known == Some(&now) || is_being_written(known, now.as_ref()) {
                continue;
            }
            self.0.insert(file, now);
            is_changed = true;
        }
        is_changed
    }
}

fn is_being_written(known: Option<&Option<FileStamp>>, now: Option<&FileStamp>) -> bool {
    match (known, now) {
        (Some(Some(known)), Some(now)) => {
            now.is_same_file(known) && now.age().is_some_and(|age| age < SETTLE)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mailaffinity.toml");
        let state = folder.path().join("nodes.toml");
        let text = format!("node_state = {state:?}\n[[node]]\nname = \"a\"\naddress = \"192.0.2.1\"\n");
        let config = Config::parse(&text, &path).unwrap();
        let (tell, told) = mpsc::channel();
        // Who only looked would do so in an hour.
        let hour = Duration::from_secs(3600);
        let tell = move |changed| tell.send(changed).is_ok();
        let _looking = Looking::begin_every(hour, &path, &Arc::new(config), tell).unwrap();
        let at_first = told.recv().unwrap();
        assert!(
            at_first.config && at_first.state && !at_first.others,
            "{at_first:?}"
        );
        let new = folder.path().join("new");
        fs::write(&new, "# all up\n").unwrap();
        fs::rename(&new, &state).unwrap();
        let changed = told.recv().unwrap();
        assert!(changed.state && !changed.config, "{changed:?}");
        fs::remove_file(&state).unwrap();
        assert!(told.recv().unwrap().state);
    }

    #[test]
    fn changes_are_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let both = || [one.clone(), two.clone()];
        fs::write(&one, "1").unwrap();
        let mut seen = Seen::default();
        assert!(seen.look(both()), "at first");
        assert!(!seen.look(both()));
        fs::write(&two, "2").unwrap();
        assert!(seen.look(both()), "a new file");
        assert!(!seen.look(both()));
        fs::rename(&two, &one).unwrap();
        assert!(seen.look([one.clone()]), "by rename");
        assert!(seen.look(both()), "the other one is gone");
        assert!(!seen.look(both()));
        fs::remove_file(&one).unwrap();
        assert!(seen.look(both()), "gone");
        assert!(!seen.look(both()));
    }

    #[test]
    fn what_is_written_in_place_counts_when_it_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = file.path().to_owned();
        fs::write(&file, "1").unwrap();
        let stamp = || FileStamp::of(&fs::metadata(&file).unwrap());
        let before = stamp();
        while stamp() == before {
            fs::write(&file, "22").unwrap();
        }
        // Whatever the machine was doing meanwhile.
        let is_young = |stamp: &FileStamp| stamp.age().is_some_and(|age| age < SETTLE);
        let (writing, after) = (
            is_being_written(Some(&Some(before.clone())), Some(&stamp())),
            stamp(),
        );
        assert!(writing || !is_young(&after));
        while is_young(&after) {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(!is_being_written(Some(&Some(before)), Some(&after)));
        assert!(
            !is_being_written(Some(&None), Some(&stamp())),
            "it is another one"
        );
    }
}
