//! Changes of the node state file, one at a time and each in one step.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use mailaffinity::config::Config;
use mailaffinity::node_state::{NodeState, NodeStateError};

use crate::files::lock;
use crate::files::place::Place;
use crate::files::replace::{has_leftovers, remove_leftovers, replace};

const HEADING: &str = "# The state of the nodes. Written by mailaffinity; nodes not named here are up.\n\n";

/// Longer than anybody holds the lock of the node state.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Why a node state could not be changed. The old one then stands as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Another process has it locked (`WouldBlock`), or the lock cannot be taken at all.
    #[error("{}", lock::described(.0))]
    Locked(io::Error),
    /// It could not be read.
    #[error(transparent)]
    Read(NodeStateError),
    /// It could not be written.
    #[error("{}: cannot write the node state: {error}", path.display())]
    Write {
        /// The node state.
        path: PathBuf,
        /// What the system reported.
        error: io::Error,
    },
}

/// Changes the node state, and returns the new one.
///
/// # Errors
/// When it cannot be locked, read or written.
pub fn change(config: &Config, change: impl FnOnce(&mut NodeState)) -> Result<NodeState, ChangeError> {
    let path = &config.node_state;
    let place = Place::with_folders(path).map_err(ChangeError::Locked)?;
    let _lock = lock::of(&place, LOCK_WAIT).map_err(ChangeError::Locked)?;
    remove_leftovers(&place);
    let before = NodeState::load(path).map_err(ChangeError::Read)?;
    let mut after = before.clone();
    change(&mut after);
    if after != before {
        save(&after, &place).map_err(|error| ChangeError::Write {
            path: path.to_path_buf(),
            error,
        })?;
    }
    Ok(after)
}

/// Removes what a change left that was killed when the new state was in force already, so that
/// nothing is to be changed.
pub(crate) fn tidy(config: &Config) {
    if let Ok(place) = Place::of(&config.node_state)
        && has_leftovers(&place)
        && let Ok(_lock) = lock::of(&place, LOCK_WAIT)
    {
        remove_leftovers(&place);
    }
}

/// The file of a node state.
pub(crate) fn text(state: &NodeState) -> io::Result<String> {
    Ok(HEADING.to_owned() + &toml::to_string(state).map_err(io::Error::other)?)
}

/// Replaces the file in one step: readers see the old state or the new one, whole,
/// whatever happens meanwhile. Everybody may read it, whatever the umask.
fn save(state: &NodeState, place: &Place) -> io::Result<()> {
    let text = text(state)?;
    match NodeState::parse(&text) {
        Ok(read) if read == *state => replace(place, &text),
        Ok(_) => Err(io::Error::other("it would be read as another one")),
        Err(error) => Err(io::Error::other(format!("it could not be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use mailaffinity::node_state::{Mark, State};

    use super::*;

    fn save(state: &NodeState, path: &Path) -> io::Result<()> {
        super::save(state, &Place::of(path)?)
    }

    fn down(reason: &str) -> Mark {
        Mark {
            since: Some("2026-11-23T20:45:00Z".parse().unwrap()),
            reason: reason.into(),
            ..Mark::new(State::Down)
        }
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (link, file) = (folder.path().join("link"), folder.path().join("nodes.toml"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut state = NodeState::default();
        state.set_mark("node2", Some(down("new disks")));
        save(&state, &link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(NodeState::load(&file).unwrap(), state);
    }

    #[test]
    fn what_was_saved_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.toml");
        for reason in ["new disks", "\"quoted\"\nand [brackets]", ""] {
            let mut state = NodeState::default();
            state.set_mark("node 2", Some(down(reason)));
            save(&state, &path).unwrap();
            assert_eq!(NodeState::load(&path).unwrap(), state);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_failed_save_leaves_the_old_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.toml");
        fs::create_dir(&path).unwrap();
        save(&NodeState::default(), &path).unwrap_err();
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
