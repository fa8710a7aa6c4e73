//! A file that is followed while others change it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::file_stamp::{FileStamp, SETTLE};
use super::last_good::LastGood;

/// What is known of a file, and what is in force of it. A broken one never replaces a good
/// one; what was kept of it on disk does, if that is newer than what is in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed {
    /// Whether anything good is in force.
    is_good: bool,
    /// The content in force, or that of the copy it is from; `None` without a file.
    good: Option<FileStamp>,
    /// The content that was read last, good or not; `None` without a file.
    seen: Option<FileStamp>,
    /// The same, if it is good and a change is bound to show: it need not be read again.
    known: Option<FileStamp>,
    /// What is wrong with it as it is now.
    problem: Option<String>,
    /// The copy in force, in words.
    copy: Option<String>,
}

impl Followed {
    /// Loads the file if it may have changed, or parses its last good copy if that is what
    /// is left. `None` leaves in force what is.
    pub(crate) fn refresh<T>(
        &mut self,
        path: &Path,
        load: impl FnOnce() -> Result<T, String>,
        parse: impl FnOnce(&str, &Path) -> Result<T, String>,
    ) -> Option<T> {
        let before = stamp_of(path);
        if before.is_some() && before == self.known {
            return None;
        }
        if self.is_good && self.is_being_rewritten(before.as_ref()) {
            return self.newer_copy(path, parse);
        }
        let loaded = load();
        if self.is_good && stamp_of(path) != before {
            // It changed under our hands; the next call sees what became of it.
            return self.newer_copy(path, parse);
        }
        match loaded {
            Ok(loaded) => {
                let is_known = |now: &FileStamp| is_settled(now) || self.has_been_replaced(now);
                *self = Followed {
                    is_good: true,
                    good: before.clone(),
                    seen: before.clone(),
                    known: before.filter(is_known),
                    problem: None,
                    copy: None,
                };
                Some(loaded)
            }
            Err(problem) => {
                self.seen = before;
                self.known = None;
                self.problem = Some(problem);
                self.newer_copy(path, parse)
            }
        }
    }

    /// Whether the file was changed in place a moment ago: it may end too early.
    fn is_being_rewritten(&self, stamp: Option<&FileStamp>) -> bool {
        match (stamp, &self.seen) {
            (Some(now), Some(seen)) => {
                now != seen && now.is_same_file(seen) && now.age().is_some_and(|age| age < SETTLE)
            }
            _ => false,
        }
    }

    /// Whether another file has taken the place of the one that was read last, as by rename,
    /// on a file system whose clock ticks many times a second. Then it need not be left alone
    /// first: the next file in its place has another inode, since this one is still there,
    /// and the one after that would have to be made within the same tick to have the inode
    /// and the times of this one. What is written into this one has another time or size.
    fn has_been_replaced(&self, now: &FileStamp) -> bool {
        now.is_fine() && self.seen.as_ref().is_some_and(|seen| !now.is_same_file(seen))
    }

    /// What was kept of the file since that which is in force.
    fn newer_copy<T>(
        &mut self,
        path: &Path,
        parse: impl FnOnce(&str, &Path) -> Result<T, String>,
    ) -> Option<T> {
        let read = |copy: &LastGood| {
            let text = copy.read().map_err(|error| error.to_string())?;
            parse(&text, copy.path())
        };
        let loaded = match LastGood::of(path).map_err(|error| error.to_string()) {
            Ok(None) => return None,
            Ok(Some(copy)) => {
                let is_newer = |good| copy.stamp().changed_after(good);
                if !self.good.as_ref().is_none_or(is_newer) {
                    return None;
                }
                read(&copy).map(|loaded| (copy, loaded))
            }
            Err(error) => Err(error),
        };
        match loaded {
            Ok((copy, loaded)) => {
                self.is_good = true;
                self.copy = Some(copy.to_string());
                self.good = Some(copy.stamp().clone());
                Some(loaded)
            }
            Err(unusable) => {
                if !self.is_good
                    && let Some(problem) = &mut self.problem
                {
                    *problem += &format!("; its last good copy cannot be used: {unusable}");
                }
                None
            }
        }
    }

    /// What is wrong with the file, and what is in force instead: `stays` where it was good
    /// before, and `nothing` where it never was.
    pub(crate) fn notice(&self, stays: &str, nothing: &str) -> Option<String> {
        let problem = self.problem.as_ref()?;
        Some(match &self.copy {
            Some(copy) => format!("{problem}; {copy} is in force"),
            None if self.is_good => format!("{problem}; {stays}"),
            None => format!("{problem}; {nothing}"),
        })
    }

    /// What is wrong with the file, where nothing good is in force.
    #[cfg(feature = "capi")]
    pub(crate) fn unusable(&self) -> Option<&str> {
        self.problem.as_deref().filter(|_| !self.is_good)
    }
}

fn stamp_of(path: &Path) -> Option<FileStamp> {
    fs::metadata(path).ok().map(|metadata| FileStamp::of(&metadata))
}

/// Whether a later change of the file is bound to show. One within the same tick of
/// the file system's clock, a second at most, might leave the stamp as it is. Where it ticks
/// many times a second, what was left alone for [`SETTLE`] need not be read until then, which
/// may cost a worker much with each page.
fn is_settled(stamp: &FileStamp) -> bool {
    let tick = match stamp.is_fine() {
        true => SETTLE,
        false => Duration::from_secs(2),
    };
    stamp.age().is_some_and(|age| age > tick)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::file_stamp::StoppedClock;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_failure_to_read_is_tried_again() {
        // Unchanged for long, so that nothing but the failure asks for another try.
        let path = Path::new("/bin/sh");
        let mut followed = Followed::default();
        let mut refresh = |loaded: Result<&'static str, String>| {
            followed.refresh(path, || loaded, |_, _| unreachable!("there is no copy"))
        };
        assert_eq!(refresh(Err("too many open files".into())), None);
        assert_eq!(refresh(Ok("text")), Some("text"));
        assert_eq!(refresh(Ok("text")), None, "it need not be read again");
        assert_eq!(followed.notice("", ""), None);
    }

    #[test]
    fn only_old_stamps_are_settled() {
        let now = std::time::SystemTime::now();
        let hour = Duration::from_secs(3600);
        assert!(is_settled(&FileStamp::changed_at(now - hour)));
        assert!(!is_settled(&FileStamp::changed_at(now)));
        assert!(!is_settled(&FileStamp::changed_at(now + hour)));
        let file = tempfile::NamedTempFile::new().unwrap();
        let fine = stamp_of(file.path()).unwrap();
        assert!(fine.is_fine());
        let _clock = StoppedClock::at_age(file.path(), Duration::from_secs(1));
        assert!(is_settled(&fine));
        let modified = file.as_file().metadata().unwrap().modified().unwrap();
        let seconds = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let coarse = FileStamp::changed_at(std::time::UNIX_EPOCH + Duration::from_secs(seconds));
        assert!(!is_settled(&coarse), "its clock may tick once a second");
    }

    #[test]
    fn what_comes_by_rename_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("file"), folder.path().join("new"));
        let mut followed = Followed::default();
        let mut is_read = |path: &Path| {
            let loaded = followed.refresh(path, || Ok(()), |_, _| unreachable!("there is no copy"));
            loaded.is_some()
        };
        fs::write(&file, "0").unwrap();
        let clock = StoppedClock::at_age(&file, Duration::ZERO);
        assert!(
            is_read(&file) && is_read(&file),
            "it may have been written in place"
        );
        drop(clock);
        // Many within a tick of the clock, and with the size of those before.
        for number in 0..100 {
            fs::write(&new, "1").unwrap();
            fs::rename(&new, &file).unwrap();
            assert!(is_read(&file), "{number}");
            assert!(!is_read(&file), "{number}");
        }
        fs::write(&file, "22").unwrap();
        let clock = StoppedClock::at_age(&file, SETTLE - Duration::from_millis(1));
        assert!(!is_read(&file), "it may be incomplete");
        drop(clock);
        let _clock = StoppedClock::at_age(&file, SETTLE);
        assert!(
            is_read(&file) && is_read(&file),
            "it may be written again in the same tick"
        );
    }

    #[test]
    fn of_memory_and_copy_the_newer_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (file, copy) = (folder.path().join("file"), folder.path().join("file.last-good"));
        let load = |text: Option<&'static str>| move || text.ok_or_else(|| "broken".to_owned());
        let parse = |text: &str, _: &Path| match text {
            "kept" => Ok("kept"),
            _ => Err("no copy".to_owned()),
        };
        // Until the file system's clock has gone on, which has a tick of its own.
        let replace = |path: &Path, text: &str| {
            let new = folder.path().join("new");
            let before: Vec<_> = [&file, &copy]
                .into_iter()
                .filter_map(|path| stamp_of(path))
                .collect();
            loop {
                fs::write(&new, text).unwrap();
                fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
                fs::rename(&new, path).unwrap();
                let now = stamp_of(path).unwrap();
                if before.iter().all(|before| now.changed_after(before)) {
                    return;
                }
            }
        };
        let stays = |followed: &Followed| followed.notice("stays", "nothing").unwrap();

        let mut followed = Followed::default();
        replace(&file, "");
        replace(&copy, "kept");
        assert_eq!(followed.refresh(&file, load(Some("new")), parse), Some("new"));
        let mut inherited = followed.clone();
        replace(&file, "");
        assert_eq!(followed.refresh(&file, load(Some("newer")), parse), Some("newer"));
        replace(&file, "");
        // The copy is of what was before it.
        assert_eq!(followed.refresh(&file, load(None), parse), None);
        assert_eq!(stays(&followed), "broken; stays");
        // Who read the file before it was kept has it from the copy, once.
        assert_eq!(inherited.refresh(&file, load(None), parse), Some("kept"));
        assert_eq!(inherited.refresh(&file, load(None), parse), None);
        assert!(stays(&inherited).starts_with("broken; the last good copy "));
        // And so has who comes new.
        let mut new = Followed::default();
        assert_eq!(new.refresh(&file, load(None), parse), Some("kept"));
        assert!(stays(&new).ends_with(" is in force"));
        assert_eq!(new.refresh(&file, load(Some("mended")), parse), Some("mended"));
        assert_eq!(new.notice("", ""), None);

        replace(&copy, "broken too");
        let mut new = Followed::default();
        assert_eq!(new.refresh(&file, load(None), parse), None);
        assert_eq!(
            stays(&new),
            "broken; its last good copy cannot be used: no copy; nothing"
        );
        assert_eq!(followed.refresh(&file, load(None), parse), None);
        assert_eq!(stays(&followed), "broken; stays");
    }
}
