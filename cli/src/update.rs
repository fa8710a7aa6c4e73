//! The update: the node state follows the checks, and the access map follows the nodes
//! that are up.
//!
//! The cron job of INFN-16-11/CCR (`construct_qgroups_all.pl`), so that it can be left
//! alone: what cannot be found out changes nothing, and what changes does so in one step.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use crate::access_source::managed_block::{
    AccessSource, BlockError, ByHand, Complaint, DIGEST_KEY, Entry, Rewritten, digest,
};
use crate::access_source::rebuild::{self, RebuildError, SourceFile};
use crate::checks::{self, ChecksError};
use crate::files::lock;
use crate::files::replace::remove_leftovers;
use crate::node_state::{self, ChangeError};
use crate::users::{self, UserList, UsersError};
use mailaffinity::access_map::AccessMap;
use mailaffinity::config::{AccessMapConfig, Config, MapBuild, NoNodeUp};
use mailaffinity::mapping::{Cluster, ClusterError};
use mailaffinity::node_state::{Mark, NodeState, NodeStateError};

/// Why an update stopped. What was in force before still is, but for a new node state
/// where only the map could not follow.
#[derive(Debug)]
#[non_exhaustive]
pub enum UpdateError {
    /// The nodes could not be checked.
    Checks(ChecksError),
    /// The node state could not be read.
    State(NodeStateError),
    /// The node state could not be changed.
    Change(ChangeError),
    /// The node state makes no cluster.
    Cluster(PathBuf, ClusterError),
    /// No node with the tag of the configuration is up.
    NobodyUp(NoNodeUp),
    /// The users could not be listed.
    Users(UsersError),
    /// The access source is empty, and the map was built of one that was not.
    EmptySource(PathBuf),
    /// None of the users can have an entry.
    NoUsers {
        /// How many there are.
        users: usize,
        /// Why one of them cannot.
        example: String,
    },
    /// There are suddenly far fewer users.
    TooFewUsers {
        /// How many the access map has.
        before: usize,
        /// How many there would be.
        after: usize,
    },
    /// The access source's block cannot be told from the rest.
    Block(PathBuf, BlockError),
    /// The map or its source could not be read, built or replaced.
    Rebuild(RebuildError),
    /// Another update has been at work for as long as this one could wait
    /// (`WouldBlock`), or the lock cannot be taken at all.
    Locked(io::Error),
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpdateError::Checks(error) => error.fmt(f),
            UpdateError::State(error) => error.fmt(f),
            UpdateError::Change(error) => error.fmt(f),
            UpdateError::Cluster(path, error) => write!(f, "{}: {error}", path.display()),
            UpdateError::NobodyUp(error) => {
                write!(f, "{error} and has vhosts; the access map stays as it is")
            }
            UpdateError::Users(error) => write!(f, "{error}; the access map stays as it is"),
            UpdateError::EmptySource(path) => write!(
                f,
                "{} is empty, and was not when the access map was built, which stays as it is; if this is right, run \
                 \"mailaffinity update --accept-loss\"",
                path.display()
            ),
            UpdateError::NoUsers { users, example } => write!(
                f,
                "none of the {users} users can have an entry (the last one: {example}); the access map stays as it is"
            ),
            UpdateError::TooFewUsers { before, after } => write!(
                f,
                "too few users, {after} where the access map has {before}: it stays as it is; if this is right, run \
                 \"mailaffinity update --accept-loss\", or see max_loss_percent in the configuration"
            ),
            UpdateError::Block(path, error) => write!(f, "{}: {error}", path.display()),
            UpdateError::Rebuild(error) => write!(f, "{error}; the access map stays as it is"),
            UpdateError::Locked(error) if error.kind() == io::ErrorKind::WouldBlock => {
                write!(f, "another update is at work: {error}")
            }
            UpdateError::Locked(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for UpdateError {}

impl From<RebuildError> for UpdateError {
    fn from(error: RebuildError) -> UpdateError {
        UpdateError::Rebuild(error)
    }
}

/// The node state before and after the checks.
#[derive(Debug)]
pub struct NodeChanges {
    /// As it was.
    pub before: NodeState,
    /// As it is now, or would be.
    pub after: NodeState,
    /// Why the checks found nothing out; the nodes are as they were, marks by hand
    /// included, which the map has to follow all the same.
    pub problem: Option<ChecksError>,
}

/// Checks the nodes and, if `save`, writes down what is new.
///
/// # Errors
/// When the state cannot be read or written. That they cannot be checked is no error
/// here, but a part of the answer.
pub fn check_nodes(config: &Config, save: bool) -> Result<NodeChanges, UpdateError> {
    let before = NodeState::load(&config.node_state).map_err(UpdateError::State)?;
    let observation = match checks::observe(config, &before) {
        Ok(observation) => observation,
        Err(problem) => {
            return Ok(NodeChanges {
                after: before.clone(),
                before,
                problem: Some(problem),
            });
        }
    };
    let now = Timestamp::now();
    let after = observation.apply(config, &before, now);
    if !save || after == before {
        return Ok(NodeChanges {
            before,
            after,
            problem: None,
        });
    }
    let after = node_state::change(config, |state| *state = observation.apply(config, state, now))
        .map_err(UpdateError::Change)?;
    Ok(NodeChanges {
        before,
        after,
        problem: None,
    })
}

/// What is to be done about the access map.
#[derive(Debug)]
pub enum Plan<'c> {
    /// The configuration has none.
    NoMap,
    /// Source and map are in force, and made of the same as these would be.
    Unchanged,
    /// It was worked out.
    Map(Box<MapPlan<'c>>),
}

/// What the access map should be, and what is there.
#[derive(Debug)]
pub struct MapPlan<'c> {
    map: &'c AccessMap,
    build: &'c MapBuild,
    /// Of all that the block is made of, and of the source that comes of it.
    pub fingerprint: String,
    source: SourceFile,
    entries: Vec<Entry<'c>>,
    rewritten: Rewritten,
    /// The entries that change in the block, in order of their keys.
    pub changes: Vec<Change>,
    /// Users without an entry, and why.
    pub left_out: Vec<LeftOut>,
    /// Users for whom the administrator wrote entries, which win.
    pub by_hand: Vec<Override>,
    /// How many users there are.
    pub users: usize,
}

/// A user without an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The user.
    pub user: Vec<u8>,
    /// Why.
    pub reason: String,
}

/// A user for whom the administrator wrote an entry, whatever the mapping says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The key, folded.
    pub key: Vec<u8>,
    /// The line in the access source.
    pub line: u64,
    /// The queue group it names.
    pub queue_group: Vec<u8>,
    /// The queue group of the user's node.
    pub computed: String,
}

/// A user whose entry changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, folded, tag included.
    pub key: Vec<u8>,
    /// The queue group so far; `None` for a new entry.
    pub before: Option<Vec<u8>>,
    /// The queue group from now on; `None` for an entry that goes.
    pub after: Option<Vec<u8>>,
}

/// Works out the access map for a node state.
///
/// `known` is the fingerprint of a map that was put in force earlier, if there is one;
/// where the same would come of the same again, there is nothing to work out.
///
/// # Errors
/// When the users or the source cannot be read or are not plausible.
pub fn plan<'c>(
    config: &'c Config,
    state: &NodeState,
    accept_loss: bool,
    known: Option<&str>,
) -> Result<Plan<'c>, UpdateError> {
    let Some(AccessMapConfig { map, build }) = &config.access_map else {
        return Ok(Plan::NoMap);
    };
    let cluster = config
        .cluster(state)
        .map_err(|error| UpdateError::Cluster(config.node_state.to_path_buf(), error))?;
    if cluster.index_of_hash(0, &config.tag).is_none() {
        return Err(UpdateError::NobodyUp(NoNodeUp::with_tag(&config.tag)));
    }
    let source = SourceFile::read(&build.source)?;
    let block =
        AccessSource::parse(&source.text).map_err(|error| UpdateError::Block(build.source.clone(), error))?;
    if source.text.is_empty() && !accept_loss && matches!(map.get(DIGEST_KEY), Ok(Some(_))) {
        return Err(UpdateError::EmptySource(build.source.clone()));
    }
    let users = users::read(&config.users.source, *config.users.timeout).map_err(UpdateError::Users)?;
    let made_of = made_of(config, state, &cluster, &users);
    if known.is_some()
        && let Some(digest) = block.digest()
        && known == Some(&fingerprint(&made_of, &digest))
        && is_current(map, &digest)?
    {
        return Ok(Plan::Unchanged);
    }
    let users = users.names().map_err(UpdateError::Users)?;

    let mut left_out = Vec::new();
    let mut entries = Vec::with_capacity(users.len());
    for user in &users {
        let node = cluster
            .index_of(user, &config.tag)
            .and_then(|index| config.nodes.get(index));
        let entry = match (users::access_map_key(user), node) {
            (Err(problem), _) => Err(problem.to_string()),
            (Ok(_), None) => Err("no node is up for it".into()),
            (Ok(key), Some(node)) => match &node.queue_group {
                Some(queue_group) => Ok(Entry { key, queue_group }),
                None => Err(format!("its node \"{}\" has no queue_group", node.node.name)),
            },
        };
        match entry {
            Ok(entry) => entries.push(entry),
            Err(reason) => left_out.push(LeftOut {
                user: user.clone(),
                reason,
            }),
        }
    }
    // Of names that differ in case only, the first one of the list counts.
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    entries.dedup_by(|later, first| {
        let same = later.key == first.key;
        if same && later.queue_group != first.queue_group {
            left_out.push(LeftOut {
                user: later.key.clone(),
                reason: "in the access map it is another user's, whose name differs in case only".into(),
            });
        }
        same
    });
    let by_hand = take_out_entries_by_hand(&mut entries, &block.by_hand());
    let (before, after) = (block.managed_count(), entries.len() + by_hand.len());
    // Rounded up: where there are few users, one of them may still leave.
    let may_leave = (before * *config.users.max_loss_percent as usize).div_ceil(100);
    if after == 0 {
        return Err(UpdateError::NoUsers {
            users: users.len(),
            example: left_out.pop().map(|user| user.reason).unwrap_or_default(),
        });
    }
    if after + may_leave < before && !accept_loss {
        return Err(UpdateError::TooFewUsers { before, after });
    }
    let rewritten = block.with_entries(&entries);
    let changes = if rewritten.text == source.text {
        Vec::new()
    } else {
        changes(&block, &entries)
    };
    Ok(Plan::Map(Box::new(MapPlan {
        map,
        build,
        fingerprint: fingerprint(&made_of, &rewritten.digest),
        source,
        entries,
        rewritten,
        changes,
        left_out,
        by_hand,
        users: users.len(),
    })))
}

/// The block is a function of these alone, and of the rest of the source, which has a
/// digest of its own.
fn made_of(config: &Config, state: &NodeState, cluster: &Cluster, users: &UserList<'_>) -> String {
    let queue_groups: Vec<_> = config.nodes.iter().map(|node| &node.queue_group).collect();
    // Who marked a node decides on the users moved to it.
    let by_hand = |name: &str| state.mark_of(name).map(Mark::is_by_hand);
    let moved = state.nodes.iter().filter(|(_, entry)| !entry.moved.is_empty());
    let moved: Vec<_> = moved
        .map(|(name, entry)| (name, by_hand(name), &entry.moved))
        .collect();
    let rules = format!(
        "{} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        env!("CARGO_PKG_VERSION"),
        cluster.strategy(),
        cluster.username_hash().format(),
        config.tag,
        cluster.nodes(),
        queue_groups,
        moved,
        config.users.source,
    );
    digest(&[rules.as_bytes(), users.text()])
}

fn fingerprint(made_of: &str, digest: &str) -> String {
    format!("{made_of} {digest}")
}

fn is_current(map: &AccessMap, digest: &str) -> Result<bool, UpdateError> {
    Ok(!map.is_built() || rebuild::is_current(map, digest)?)
}

fn take_out_entries_by_hand(
    entries: &mut Vec<Entry<'_>>,
    by_hand: &HashMap<Vec<u8>, ByHand<'_>>,
) -> Vec<Override> {
    if by_hand.is_empty() {
        return Vec::new();
    }
    let mut taken = Vec::new();
    entries.retain(|entry| {
        let Some(own) = by_hand.get(&entry.key) else {
            return true;
        };
        taken.push(Override {
            key: entry.key.clone(),
            line: own.line,
            queue_group: own.queue_group.to_vec(),
            computed: entry.queue_group.into(),
        });
        false
    });
    taken
}

/// The entries that change in the block, in order of their keys.
fn changes(block: &AccessSource<'_>, entries: &[Entry<'_>]) -> Vec<Change> {
    let mut managed = block.managed();
    let mut changes = Vec::new();
    for Entry { key, queue_group } in entries {
        let before = managed.remove(key);
        if before != Some(queue_group.as_bytes()) {
            changes.push(Change {
                key: key.clone(),
                before: before.map(<[u8]>::to_vec),
                after: Some(queue_group.as_bytes().to_vec()),
            });
        }
    }
    changes.extend(managed.into_iter().map(|(key, before)| Change {
        key,
        before: Some(before.to_vec()),
        after: None,
    }));
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

impl MapPlan<'_> {
    /// Whether the source and the map are as they should be.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn is_in_force(&self) -> Result<bool, UpdateError> {
        Ok(self.rewritten.text == self.source.text && is_current(self.map, &self.rewritten.digest)?)
    }

    /// The access source.
    pub fn source(&self) -> &std::path::Path {
        &self.build.source
    }

    /// How many entries the block has.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Puts the map in force; the caller holds the [`lock`](lock_map). If `force`, it is
    /// built also if the one in force is of the same source. Returns the administrator's
    /// lines that do not count.
    ///
    /// # Errors
    /// Whatever fails, source and map in force stay whole.
    pub fn carry_out(&self, force: bool) -> Result<Vec<Complaint>, UpdateError> {
        let block = AccessSource::parse(&self.source.text)
            .map_err(|error| UpdateError::Block(self.build.source.clone(), error))?;
        let (input, complaints) = block.makemap_input(&self.entries, &self.rewritten.digest);
        let Rewritten { text, digest } = &self.rewritten;
        let is_current = !force && text == &self.source.text && is_current(self.map, digest)?;
        let map = (self.map.is_built() && !is_current).then_some(self.map);
        rebuild::rebuild(map, self.build, &self.source, text, &input, digest)?;
        Ok(complaints)
    }
}

/// Held while the access map is brought up to date.
#[derive(Debug)]
pub struct MapLock {
    _lock: Option<lock::Lock>,
}

/// Takes the lock of the access source, if there is one, and removes what an update left
/// that was killed.
///
/// # Errors
/// When another update holds it for longer than `wait`, or it cannot be taken.
pub fn lock_map(config: &Config, wait: Duration) -> Result<MapLock, UpdateError> {
    let Some(AccessMapConfig { map, build }) = &config.access_map else {
        return Ok(MapLock { _lock: None });
    };
    let lock = lock::of(&build.source, wait).map_err(UpdateError::Locked)?;
    remove_leftovers(&build.source);
    remove_leftovers(map.path());
    Ok(MapLock { _lock: Some(lock) })
}

/// Waits until no update is at work. Changes nothing.
///
/// # Errors
/// When one is for longer than `wait`, or it cannot be told.
pub fn wait_until_done(config: &Config, wait: Duration) -> Result<(), UpdateError> {
    match &config.access_map {
        Some(AccessMapConfig { build, .. }) => {
            lock::wait_until_free(&build.source, wait).map_err(UpdateError::Locked)
        }
        None => Ok(()),
    }
}

/// A user's name as a key has it, for people to read.
pub fn name_in_key(key: &[u8]) -> &[u8] {
    let name = key.strip_prefix(b"qgrp:").unwrap_or(key);
    name.strip_suffix(b"@").unwrap_or(name)
}
