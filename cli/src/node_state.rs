//! Changes of the node state file, one at a time and each in one step.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use mailaffinity::config::{Check, Config, NodeConfig};
use mailaffinity::mapping::Strategy;
use mailaffinity::node_state::{Before, Mark, NodeEntry, NodeState, NodeStateError, State};

use crate::files::lock;
use crate::files::place::Place;
use crate::files::replace::{has_leftovers, remove_leftovers, replace};
use crate::shared_node_state::{self, SharedError};
use crate::watcher_lock;

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
/// one's new one. Where a watcher is at work, who ends sessions, users who move between nodes that
/// live are let in again some time later (`move_seconds` in `[watch]`), at the same moment on all
/// machines. A Director keeps users waiting by itself. While users move, it waits until they have.
///
/// # Errors
/// When it cannot be locked, read or written.
pub fn change(config: &Config, change: impl Fn(&mut NodeState)) -> Result<NodeState, ChangeError> {
    wait_for_moves(config, &change);
    let Some(path) = &config.shared_node_state else {
        return change_own(config, change);
    };
    let failed = |problem: String| ChangeError::Shared(SharedError::new(path, problem));
    let text = shared_node_state::change(path, SHARED_PATIENCE, |text| {
        let mut state = text.map_or_else(|| Ok(NodeState::default()), NodeState::parse)?;
        // Watchers have ended these on each machine, and nobody else does here.
        state.end_moves(Timestamp::now());
        let before = state.clone();
        change(&mut state);
        set_moment(config, &before, &mut state);
        checked_text(&state).map_err(|error| error.to_string())
    })
    .map_err(ChangeError::Shared)?;
    let shared = NodeState::parse(&text).map_err(failed)?;
    change_own(config, |own| {
        change(own);
        *own = merged(config, &shared, own, Timestamp::now());
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
    let follow = |own: &mut NodeState| *own = merged(config, &shared, own, Timestamp::now());
    change_own(config, follow).map(drop)
}

/// What holds on a machine: what people say, for all machines, and what its own checks found,
/// which may see other nodes than those of another machine. Vhosts, tags and moved users are a
/// Director's, if there is one. The moment at which users move is the one that people's machine
/// has named. A move whose time has come is over, though the file of all has it for longer.
pub(crate) fn merged(config: &Config, shared: &NodeState, own: &NodeState, now: Timestamp) -> NodeState {
    let nothing = NodeEntry::default();
    let mut shared = Cow::Borrowed(shared);
    if shared.has_moves_to_end(now) {
        shared.to_mut().end_moves(now);
    }
    let shared = &*shared;
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
        before: [shared, own]
            .into_iter()
            .find_map(|state| state.before.clone().filter(|before| before.is_under_way(now))),
    }
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
    set_moment(config, &before, &mut after);
    if after != before {
        save(&after, &place).map_err(|error| ChangeError::Write {
            path: path.to_path_buf(),
            error,
        })?;
    }
    Ok(after)
}

/// Waits until users who move are where they belong, if a change moves some from nodes that live:
/// a login that waits has been told where it is let in, whatever comes meanwhile.
fn wait_for_moves(config: &Config, change: &impl Fn(&mut NodeState)) {
    // What is wrong with it, the change tells.
    while let Ok(state) = NodeState::load(&config.node_state) {
        let mut after = state.clone();
        change(&mut after);
        let now = Timestamp::now();
        let before = state.before.as_ref().filter(|before| before.is_under_way(now));
        match before {
            Some(before) if moves_between_living(config, &state, &after) => {
                thread::sleep(before.until.duration_since(now).unsigned_abs());
            }
            _ => return,
        }
    }
}

/// Has a node state say when users move, after a change.
fn set_moment(config: &Config, before: &NodeState, after: &mut NodeState) {
    let moves_wait = !asks_director(config) && watcher_lock::is_at_work(config);
    after.before = before_change(config, before, after, Timestamp::now(), moves_wait);
}

/// What is to stand in the node state of before, after a change.
fn before_change(
    config: &Config,
    before: &NodeState,
    after: &NodeState,
    now: Timestamp,
    moves_wait: bool,
) -> Option<Before> {
    let under_way = before.before.clone().filter(|earlier| earlier.is_under_way(now));
    let move_time = *config.watch.move_time;
    let until = if moves_wait && !move_time.is_zero() && moves_between_living(config, before, after) {
        let moment = |state: &NodeState| state.before.as_ref().map(|before| before.until);
        let is_told = moment(after) != moment(before);
        let told = after
            .before
            .as_ref()
            .filter(|told| is_told && told.is_under_way(now));
        // In whole seconds, as Dovecot's delay_until has it.
        let own = now.checked_add(move_time).ok()?.as_second().saturating_add(1);
        told.map_or_else(|| Timestamp::from_second(own).ok(), |told| Some(told.until))?
    } else {
        under_way.as_ref()?.until
    };
    // Whoever moves already is still kept out of where that began, unless it has died: who was
    // there is elsewhere since.
    let mut nodes = before.nodes.clone();
    if let Some(mut earlier) = under_way {
        // And where nobody had a node then, nobody is kept out.
        let is_up = |node: &&NodeConfig| !earlier.nodes.get(&node.node.name).is_some_and(is_down);
        let tags: BTreeSet<&str> = config
            .nodes
            .iter()
            .filter(is_up)
            .map(|node| &*node.node.tag)
            .collect();
        let nobodys = config.nodes.iter().filter(|node| !tags.contains(&*node.node.tag));
        let nobodys: BTreeSet<&String> = nobodys.map(|node| &node.node.name).collect();
        nodes.retain(|name, _| nobodys.contains(name));
        earlier.nodes.retain(|name, _| !nobodys.contains(name));
        nodes.append(&mut earlier.nodes);
    }
    let dead = |entry: &NodeEntry| entry.mark.clone().filter(Mark::is_by_checks);
    for (name, mark) in after
        .nodes
        .iter()
        .filter_map(|(name, entry)| Some((name, dead(entry)?)))
    {
        let entry = nodes.entry(name.clone()).or_default();
        if !is_down(entry) {
            entry.mark = Some(mark);
        }
    }
    Some(Before { until, nodes })
}

fn is_down(entry: &NodeEntry) -> bool {
    entry.mark.as_ref().is_some_and(|mark| mark.state == State::Down)
}

/// Whether users may move from nodes that live. On a ring, those of a node that checks found
/// down are the only ones who do then.
fn moves_between_living(config: &Config, before: &NodeState, after: &NodeState) -> bool {
    let nothing = NodeEntry::default();
    let names: BTreeSet<&String> = before.nodes.keys().chain(after.nodes.keys()).collect();
    names.into_iter().any(|name| {
        let entry = |state: &NodeState| state.nodes.get(name).unwrap_or(&nothing).clone();
        let (old, new) = (entry(before), entry(after));
        let has_died = new.mark.as_ref().is_some_and(Mark::is_by_checks);
        let dead = NodeEntry {
            mark: new.mark.clone(),
            ..old.clone()
        };
        old != new && !(has_died && dead == new && config.strategy == Strategy::Ring)
    })
}

/// Whether a Director says which nodes are up, who ends sessions of users who move itself.
pub(crate) fn asks_director(config: &Config) -> bool {
    let checks = config.checks.as_ref();
    checks.is_some_and(|checks| matches!(checks.check, Check::Director(_)))
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
    use jiff::SignedDuration;
    use mailaffinity::node_state::By;
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

    fn three_nodes() -> Config {
        let node =
            |name: &str, number: u8| format!("[[node]]\nname = \"{name}\"\naddress = \"10.0.0.{number}\"\n");
        let text = node("a", 1) + &node("b", 2) + &node("c", 3);
        Config::parse(&text, Path::new("x")).unwrap()
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
        prop::collection::btree_map(names, entry, 0..4).prop_map(|nodes| NodeState { nodes, before: None })
    }

    /// What a node is, or becomes.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Lives,
        Dies,
        IsMarked,
    }

    proptest! {
        /// Sessions on a node that is no longer the user's end within `move_seconds`, or when it
        /// dies, and logins that wait are let in where they were told to. Whatever follows on what,
        /// but that only deaths come while users move: nobody is let in while one lasts on another
        /// node that lives.
        #[test]
        fn nobody_is_let_in_while_at_work_elsewhere(
            changes in prop::collection::vec((0usize..3, 0u8..3, 0i64..3000), 1..12), hash in 1u32..,
        ) {
            let config = three_nodes();
            let mut now = Timestamp::from_second(1_000_000).unwrap();
            let mut state = NodeState::default();
            // When each of the user's sessions ends, by the node that it is on.
            let mut sessions = [None::<Timestamp>; 3];
            let mut is_dead = [false; 3];
            // Where logins are let in that wait, and when.
            let mut waiting: Vec<(usize, Timestamp)> = Vec::new();
            let far = now + SignedDuration::from_hours(1);
            let let_in = |node: usize, sessions: &mut [Option<Timestamp>; 3], now: Timestamp| {
                for (other, end) in sessions.iter().enumerate() {
                    let lasts = end.is_some_and(|end| end > now);
                    prop_assert!(other == node || !lasts, "let in at {node}, is at {other}: {now}");
                }
                sessions[node] = Some(far);
                Ok(())
            };
            for (node, fate, pause) in changes {
                let name = config.nodes[node].node.name.clone();
                let fate = [Fate::Lives, Fate::Dies, Fate::IsMarked][usize::from(fate)];
                let under_way = state.before.as_ref().filter(|before| before.is_under_way(now));
                if let Some(before) = under_way && !matches!(fate, Fate::Dies) {
                    now = before.until;
                }
                for (node, until) in waiting.extract_if(.., |login| login.1 <= now) {
                    if !is_dead[node] {
                        let_in(node, &mut sessions, until)?;
                    }
                }
                let mut after = state.clone();
                after.set_mark(&name, match fate {
                    Fate::Lives => None,
                    Fate::Dies => Some(Mark { by: By::Checks, ..down("dead") }),
                    Fate::IsMarked => Some(down("new disks")),
                });
                is_dead[node] = matches!(fate, Fate::Dies);
                if is_dead[node] {
                    sessions[node] = None;
                }
                after.before = before_change(&config, &state, &after, now, true);
                state = after;
                let then = config.cluster(&state).unwrap().index_of_hash(hash, "");
                for (other, end) in sessions.iter_mut().enumerate() {
                    if let Some(end) = end && Some(other) != then {
                        *end = (*end).min(now + SignedDuration::from_secs(2));
                    }
                }
                // As `InForce` has it.
                for _ in 0..3 {
                    let from = state.before.as_ref().filter(|before| before.is_under_way(now));
                    let from = from.and_then(|before| {
                        config.cluster(&before.state()).unwrap().index_of_hash(hash, "")
                    });
                    let waits = from.is_some_and(|from| {
                        let mark = state.mark_of(&config.nodes[from].node.name);
                        Some(from) != then && then.is_some() && !mark.is_some_and(Mark::is_by_checks)
                    });
                    if let (Some(before), Some(then), true) = (&state.before, then, waits) {
                        waiting.push((then, before.until));
                    }
                    for (node, until) in waiting.extract_if(.., |login| login.1 <= now) {
                        if !is_dead[node] {
                            let_in(node, &mut sessions, until)?;
                        }
                    }
                    if let Some(then) = then.filter(|then| !waits && !is_dead[*then]) {
                        let_in(then, &mut sessions, now)?;
                    }
                    now += SignedDuration::from_millis(pause / 3);
                }
            }
        }

        #[test]
        fn people_have_their_say_on_all_machines(
            shared in any_state(), own in any_state(), by_director in any::<bool>(),
        ) {
            let checks = if by_director { "director = \"/x\"" } else { "probe = \"imap\"" };
            let text = format!("[checks]\n{checks}\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n");
            let config = Config::parse(&text, Path::new("x")).unwrap();
            let both = merged(&config, &shared, &own, Timestamp::now());
            for name in ["a", "b", "c"] {
                let mark = |state: &NodeState| state.mark_of(name).cloned();
                let by_hand = mark(&shared).filter(Mark::is_by_hand);
                let found = mark(&own).filter(|mark| !mark.is_by_hand());
                prop_assert_eq!(mark(&both), by_hand.or(found));
                let vhosts = |state: &NodeState| state.nodes.get(name).and_then(|entry| entry.vhost_count);
                prop_assert_eq!(vhosts(&both), vhosts(if by_director { &own } else { &shared }));
            }
            prop_assert_eq!(&merged(&config, &shared, &both, Timestamp::now()), &both);
            prop_assert!(both.nodes.values().all(|entry| *entry != NodeEntry::default()));
        }
    }

    #[test]
    fn a_move_whose_time_has_come_does_not_come_back() {
        let text = "[checks]\nprobe = \"imap\"\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n";
        let config = Config::parse(text, Path::new("x")).unwrap();
        let state = |text: &str| NodeState::parse(&format!("#\n{text}")).unwrap();
        let shared = state("[node.a]\nmoved = \"00000001=2026-11-27T20:00:00Z 00000002\"\n");
        for (now, then) in [
            ("2026-11-27T19:59:59Z", &shared),
            ("2026-11-27T20:00:00Z", &state("[node.a]\nmoved = \"00000002\"\n")),
        ] {
            for own in [state(""), shared.clone()] {
                assert_eq!(&merged(&config, &shared, &own, now.parse().unwrap()), then);
            }
        }
    }

    #[test]
    fn who_moves_between_living_nodes_is_kept_out_meanwhile() {
        let config = |strategy: &str, keys: &str| {
            let text = format!(
                "strategy = \"{strategy}\"\n[watch]\n{keys}\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n\
                 [[node]]\nname = \"b\"\naddress = \"10.0.0.2\"\n"
            );
            Config::parse(&text, Path::new("x")).unwrap()
        };
        let ring = config("ring", "move_seconds = 2");
        let state = |text: &str| NodeState::parse(&format!("#\n{text}")).unwrap();
        let at = |time: &str| -> Timestamp { format!("2026-11-27T20:00:{time}Z").parse().unwrap() };
        let until = |before: &Option<Before>| before.as_ref().map(|before| before.until);
        let (up, died) = (state(""), state("[node.b]\nstate = \"down\"\nby = \"checks\"\n"));
        let by_hand = state("[node.b]\nstate = \"down\"\n");
        let of = |config: &Config, before: &NodeState, after: &NodeState, now: &str| {
            before_change(config, before, after, at(now), true)
        };
        assert_eq!(
            of(&ring, &up, &died, "00"),
            None,
            "all who move were on a dead node"
        );
        assert_eq!(of(&ring, &died, &died, "00"), None);
        assert_eq!(
            until(&of(&config("modulo", "move_seconds = 2"), &up, &died, "00")),
            Some(at("03")),
            "others move too"
        );
        let back = of(&ring, &died, &up, "10.5").unwrap();
        assert_eq!((back.until, &back.state()), (at("13"), &died));
        assert_eq!(of(&ring, &up, &by_hand, "00").unwrap().state(), up);
        assert_eq!(before_change(&ring, &died, &up, at("10"), false), None);
        assert_eq!(of(&config("ring", "move_seconds = 0"), &died, &up, "10"), None);

        // One after the other.
        let moving = NodeState {
            before: Some(back.clone()),
            ..up
        };
        let more = state("[node.a]\nvhost_count = 50\n");
        assert_eq!(of(&ring, &moving, &moving, "11"), Some(back.clone()));
        assert_eq!(
            of(&ring, &moving, &died, "11"),
            Some(back),
            "a node that dies ends no waiting"
        );
        let both = of(&ring, &moving, &more, "11").unwrap();
        assert_eq!((both.until, &both.state()), (at("14"), &died));
        assert_eq!(of(&ring, &moving, &moving, "13"), None, "it is over");

        // At the moment that another machine has named.
        let told = |time: &str| {
            Some(Before {
                until: at(time),
                ..Before::clone(&both)
            })
        };
        let more_by = |time: &str| NodeState {
            before: told(time),
            ..more.clone()
        };
        assert_eq!(until(&of(&ring, &died, &more_by("12"), "11")), Some(at("12")));
        assert_eq!(
            until(&of(&ring, &died, &more_by("12"), "12")),
            Some(at("15")),
            "it is over"
        );
        assert_eq!(of(&ring, &moving, &more, "13").unwrap().state(), state(""));
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
