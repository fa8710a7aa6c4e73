//! Changes of the node state file, one at a time and each in one step.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailaffinity::config::{Check, Config};
use mailaffinity::node_state::{Mark, NodeEntry, NodeState, NodeStateError};

use crate::files::lock;
use crate::files::place::Place;
use crate::files::replace::{has_leftovers, remove_leftovers, replace};
use crate::shared_node_state::{self, SharedError};

const HEADING: &str = "# The state of the nodes. Written by mailaffinity; nodes not named here are up.\n\n";

/// Longer than anybody holds the lock of the node state.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How long storage that machines share may take, lest commands hang with it.
const SHARED_PATIENCE: Duration = Duration::from_secs(5);

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
    /// The one that all machines share could not be read or written.
    #[error("{0}; the marks on this machine are as they were")]
    Shared(SharedError),
}

/// Changes the node state as people want it, on all machines that share it, and returns this
/// one's new one.
///
/// # Errors
/// When it cannot be locked, read or written.
pub fn change(config: &Config, change: impl Fn(&mut NodeState)) -> Result<NodeState, ChangeError> {
    let Some(path) = &config.shared_node_state else {
        return change_own(config, change);
    };
    let failed = |problem: String| ChangeError::Shared(SharedError::new(path, problem));
    let text = shared_node_state::change(path, SHARED_PATIENCE, |text| {
        let mut state = text.map_or_else(|| Ok(NodeState::default()), NodeState::parse)?;
        change(&mut state);
        checked_text(&state).map_err(|error| error.to_string())
    })
    .map_err(ChangeError::Shared)?;
    let shared = NodeState::parse(&text).map_err(failed)?;
    change_own(config, |own| {
        change(own);
        *own = merged(config, &shared, own);
    })
}

/// Reads the node state that all machines share.
///
/// # Errors
/// When it is not there or broken, or cannot be read within `timeout`.
pub(crate) fn read_shared(path: &Path, timeout: Duration) -> Result<NodeState, SharedError> {
    let not_there = "it is not there: is its storage mounted? \"mailaffinity auto NODE\" makes a first one";
    let text = shared_node_state::read(path, timeout)?;
    let text = text.ok_or_else(|| SharedError::new(path, not_there))?;
    NodeState::parse(&text).map_err(|problem| SharedError::new(path, format!("not a node state: {problem}")))
}

/// Takes over what people have changed on other machines, where they share a node state.
///
/// # Errors
/// When a node state cannot be read or changed.
pub(crate) fn follow_shared(config: &Config) -> Result<(), ChangeError> {
    let Some(path) = &config.shared_node_state else {
        return Ok(());
    };
    let shared = read_shared(path, SHARED_PATIENCE).map_err(ChangeError::Shared)?;
    change_own(config, |own| *own = merged(config, &shared, own)).map(drop)
}

/// What holds on a machine: what people say, for all machines, and what its own checks found,
/// which may see other nodes than those of another machine. Vhosts, tags and moved users are a
/// Director's, if there is one.
pub(crate) fn merged(config: &Config, shared: &NodeState, own: &NodeState) -> NodeState {
    let nothing = NodeEntry::default();
    let entry = |name: &String| {
        let [theirs, ours] = [shared, own].map(|state| state.nodes.get(name).unwrap_or(&nothing));
        let by_hand = theirs.mark.clone().filter(Mark::is_by_hand);
        let by_checks = ours.mark.clone().filter(|mark| !mark.is_by_hand());
        let others = if asks_director(config) { ours } else { theirs };
        let entry = NodeEntry {
            mark: by_hand.or(by_checks),
            ..others.clone()
        };
        (entry != nothing).then(|| (name.clone(), entry))
    };
    let names: BTreeSet<&String> = shared.nodes.keys().chain(own.nodes.keys()).collect();
    NodeState {
        nodes: names.into_iter().filter_map(entry).collect(),
    }
}

fn asks_director(config: &Config) -> bool {
    let checks = config.checks.as_ref();
    checks.is_some_and(|checks| matches!(checks.check, Check::Director(_)))
}

/// Changes this machine's own node state, and returns the new one.
///
/// # Errors
/// When it cannot be locked, read or written.
pub fn change_own(config: &Config, change: impl FnOnce(&mut NodeState)) -> Result<NodeState, ChangeError> {
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
    replace(place, &checked_text(state)?)
}

/// The file of a node state, which is read as the same.
fn checked_text(state: &NodeState) -> io::Result<String> {
    let text = text(state)?;
    match NodeState::parse(&text) {
        Ok(read) if read == *state => Ok(text),
        Ok(_) => Err(io::Error::other("it would be read as another one")),
        Err(error) => Err(io::Error::other(format!("it could not be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use mailaffinity::node_state::{By, State};
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

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

    fn any_state() -> impl Strategy<Value = NodeState> {
        let marks = [
            None,
            Some(down("new disks")),
            Some(Mark::new(State::Up)),
            Some(Mark {
                by: By::Checks,
                ..down("dead")
            }),
        ];
        let entry = (prop::sample::select(marks.to_vec()), any::<Option<u32>>());
        let entry = entry.prop_map(|(mark, vhost_count)| NodeEntry {
            mark,
            vhost_count,
            ..NodeEntry::default()
        });
        let names = prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned);
        prop::collection::btree_map(names, entry, 0..4).prop_map(|nodes| NodeState { nodes })
    }

    proptest! {
        #[test]
        fn people_have_their_say_on_all_machines(
            shared in any_state(), own in any_state(), by_director in any::<bool>(),
        ) {
            let checks = if by_director { "director = \"/x\"" } else { "probe = \"imap\"" };
            let text = format!("[checks]\n{checks}\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n");
            let config = Config::parse(&text, Path::new("x")).unwrap();
            let both = merged(&config, &shared, &own);
            for name in ["a", "b", "c"] {
                let mark = |state: &NodeState| state.mark_of(name).cloned();
                let by_hand = mark(&shared).filter(Mark::is_by_hand);
                let found = mark(&own).filter(|mark| !mark.is_by_hand());
                prop_assert_eq!(mark(&both), by_hand.or(found));
                let vhosts = |state: &NodeState| state.nodes.get(name).and_then(|entry| entry.vhost_count);
                prop_assert_eq!(vhosts(&both), vhosts(if by_director { &own } else { &shared }));
            }
            prop_assert_eq!(&merged(&config, &shared, &both), &both);
            prop_assert!(both.nodes.values().all(|entry| *entry != NodeEntry::default()));
        }
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
