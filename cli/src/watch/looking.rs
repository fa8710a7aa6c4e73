//! A thread that looks once a second whether files have changed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

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

/// What the thread is told.
pub(crate) enum Look {
    /// Everything counts as changed.
    Anew,
    /// The files of this configuration are looked at from now on.
    For(Arc<Config>),
}

/// Looks from now on, until `tell` says no. All files count as changed at first.
///
/// # Errors
/// When the system has no thread left.
pub(crate) fn begin(
    path: &Path,
    config: Arc<Config>,
    tell: impl Fn(Changed) -> bool + Send + 'static,
) -> io::Result<Sender<Look>> {
    let (sender, told) = mpsc::channel();
    let path = path.to_owned();
    let look = move || look_forever(&path, config, &told, tell);
    thread::Builder::new().spawn(look)?;
    Ok(sender)
}

fn look_forever(path: &Path, mut config: Arc<Config>, told: &Receiver<Look>, tell: impl Fn(Changed) -> bool) {
    let mut seen = Seen::default();
    loop {
        let files = files_read(&config).into_iter();
        let what = Changed {
            config: seen.look([path.to_owned()]),
            state: seen.look([config.node_state.to_path_buf()]),
            others: seen.look(files.filter(|file| *file != *config.node_state)),
        };
        if (what.config || what.state || what.others) && !tell(what) {
            return;
        }
        match told.recv_timeout(INTERVAL) {
            Ok(Look::Anew) => seen = Seen::default(),
            Ok(Look::For(new)) => config = new,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
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
