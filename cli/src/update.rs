//! The update: the node state follows the checks, and the access map follows the nodes
//! that are up.
//!
//! The cron job of INFN-16-11/CCR (`construct_qgroups_all.pl`), so that it can be left
//! alone: what cannot be found out changes nothing, and what changes does so in one step.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::access_source::managed_block::{AccessSource, Complaint, DIGEST_KEY, digest};
use crate::access_source::published;
use crate::access_source::rebuild::{self, RebuildError, SourceFile};
use crate::checks::{self, ChecksError};
use crate::entries::{Entries, LeftOut, Override};
use crate::files::lock;
use crate::files::place::Place;
use crate::files::replace::{empty_leftovers, has_leftovers, remove_leftovers};
use crate::mail_names::{MailNames, Unplaced};
use crate::node_state::{self, ChangeError};
use crate::nss;
use crate::own_domains::{self, OwnDomains};
use crate::users::{self, OutsideUids, UserList, UsersError};
use mailaffinity::access_map::{AccessMap, Entry, Published, key};
use mailaffinity::config::{AccessMapConfig, Config, MapBuild, NoNodeUp, UserSource};
use mailaffinity::mapping::{Cluster, ClusterError};
use mailaffinity::node_state::{NodeState, NodeStateError};

/// Why an update stopped. What was in force before still is, but for a new node state
/// where only the map could not follow.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The nodes could not be checked.
    #[error(transparent)]
    Checks(ChecksError),
    /// The node state could not be read.
    #[error(transparent)]
    State(NodeStateError),
    /// The node state could not be changed.
    #[error(transparent)]
    Change(ChangeError),
    /// The node state makes no cluster.
    #[error("{}: {error}", path.display())]
    Cluster {
        /// The node state.
        path: PathBuf,
        /// What is wrong with it.
        error: ClusterError,
    },
    /// No node with the tag of the configuration is up.
    #[error("{0} and has vhosts; the access map stays as it is")]
    NobodyUp(NoNodeUp),
    /// The users could not be listed.
    #[error("{0}; the access map stays as it is")]
    Users(UsersError),
    /// sendmail may read the map as text, whose changes break its sessions.
    #[error(
        "{0} is not updated: sendmail refuses mail with a permanent 554 where a text: map is replaced while it opens it; \
         let sendmail and [access_map] have \"hash:\", or say update_text = true there if sendmail does not read it"
    )]
    TextMap(String),
    /// The access source is empty, and the map was built of one that was not.
    #[error(
        "{} is empty, and was not when the access map was built, which stays as it is; if this is right, run \
         \"mailaffinity update --accept-loss\"",
        .0.display()
    )]
    EmptySource(PathBuf),
    /// None of the users can have an entry.
    #[error(
        "none of the {users} users can have an entry (the last one: {example}); the access map stays as it is"
    )]
    NoUsers {
        /// How many there are.
        users: usize,
        /// Why one of them cannot.
        example: String,
    },
    /// There are suddenly far fewer users.
    #[error(
        "too few users, {after} where the access map has {before}: it stays as it is; if this is right, run \
         \"mailaffinity update --accept-loss\", or see max_loss_percent in the configuration"
    )]
    TooFewUsers {
        /// How many the access map has.
        before: usize,
        /// How many there would be.
        after: usize,
    },
    /// Publishing would overwrite something else.
    #[error(
        "published in [access_map] must be a file of its own, and {} is {}; the access map stays as it is",
        published.display(), other.display()
    )]
    PublishedElsewhere {
        /// As the configuration has it.
        published: PathBuf,
        /// The other file.
        other: PathBuf,
    },
    /// sendmail has to tell its own domains first.
    #[error("sendmail was not asked for its domains")]
    DomainsUnknown,
    /// The map or its source could not be read, built or replaced.
    #[error("{}{}", .0, consequence(.0))]
    Rebuild(#[from] RebuildError),
    /// Another update has been at work for as long as this one could wait
    /// (`WouldBlock`), or the lock cannot be taken at all.
    #[error("{}", lock::described(.0))]
    Locked(io::Error),
}

/// What an error does not say by itself.
fn consequence(error: &RebuildError) -> &'static str {
    match error {
        RebuildError::Changed { .. } => "",
        _ => "; the access map stays as it is",
    }
}

/// The node state before and after the checks.
#[derive(Debug)]
pub struct NodeChanges {
    /// As it was.
    pub before: NodeState,
    /// As it is now, or would be.
    pub after: NodeState,
    /// Why the checks found nothing out, or corosync alone did; the nodes are as they were,
    /// marks by hand included, which the map has to follow all the same.
    pub problem: Option<ChecksError>,
}

impl NodeChanges {
    /// The nodes that go up or down: name, what they are from now on, and why.
    pub(crate) fn up_or_down<'c>(&self, config: &'c Config) -> Vec<(&'c str, &'static str, String)> {
        let names = config.nodes.iter().map(|node| node.node.name.as_str());
        names
            .filter_map(|name| {
                let down = self.after.is_down(name);
                (self.before.is_down(name) != down).then(|| match self.after.mark_of(name) {
                    Some(mark) if down => (name, "down", mark.reason.clone()),
                    _ => (name, "up", String::new()),
                })
            })
            .collect()
    }

    /// The same in lines, for the log.
    pub(crate) fn lines(&self, config: &Config) -> Vec<String> {
        let line = |(node, state, reason): (&str, &str, String)| {
            let colon = if reason.is_empty() { "" } else { ": " };
            format!("node {node} is {state}{colon}{}", reason.escape_debug())
        };
        self.up_or_down(config).into_iter().map(line).collect()
    }
}

/// Checks the nodes, ends moves whose time has come and, if `save`, writes down what is new.
///
/// # Errors
/// When the state cannot be read or written. That they cannot be checked is no error
/// here, but a part of the answer.
pub fn check_nodes(config: &Config, save: bool) -> Result<NodeChanges, UpdateError> {
    if save {
        node_state::tidy(config);
    }
    let before = NodeState::load(&config.node_state).map_err(UpdateError::State)?;
    let mut after = before.clone();
    let (observation, problem) = checks::observe(config, &before);
    let has_quorum = !matches!(problem, Some(ChecksError::Corosync(_)));
    let now = Timestamp::now();
    let apply = |state: &mut NodeState| {
        if let Some(observation) = &observation {
            observation.apply(config, state, now);
        }
        if has_quorum {
            state.end_moves(now);
        }
    };
    apply(&mut after);
    if save && after != before {
        // To the state as it is now, which others may have changed meanwhile.
        after = node_state::change_own(config, apply).map_err(UpdateError::Change)?;
    }
    Ok(NodeChanges {
        before,
        after,
        problem,
    })
}

/// The nodes as they are marked, for whoever leaves the checks to somebody else.
///
/// # Errors
/// When the state cannot be read.
pub fn nodes_as_marked(config: &Config) -> Result<NodeChanges, UpdateError> {
    let state = NodeState::load(&config.node_state).map_err(UpdateError::State)?;
    Ok(NodeChanges {
        before: state.clone(),
        after: state,
        problem: None,
    })
}

/// The files that an update reads, besides the configuration: as soon as one of them is
/// another, an update may have something to do.
pub(crate) fn files_read(config: &Config) -> Vec<PathBuf> {
    let mut files = vec![config.node_state.to_path_buf()];
    let Some(AccessMapConfig {
        map,
        build,
        published,
        ..
    }) = &config.access_map
    else {
        return files;
    };
    files.extend([build.source.clone(), map.path().to_owned()]);
    files.extend(published.as_deref().map(Path::to_owned));
    match &config.users.source {
        UserSource::Nss { .. } => files.extend(nss::FILES.map(PathBuf::from)),
        UserSource::File(file) => files.push(file.clone()),
        UserSource::Command(_) => {}
    }
    files.extend(MailNames::default().alias_files(config));
    if config.sendmail.local_domains.is_none() {
        files.extend(own_domains::files(config));
    }
    files
}

/// What is to be done about the access map.
#[derive(Debug)]
pub enum Plan<'c> {
    /// The configuration has none.
    NoMap,
    /// Source and map are in force, made of the same as these would be, and published.
    Unchanged,
    /// It was worked out.
    Map(Box<MapPlan<'c>>),
}

/// What the access map should be, and what is there.
#[derive(Debug)]
pub struct MapPlan<'c> {
    map: &'c AccessMap,
    build: &'c MapBuild,
    /// Of all that the block comes from, and of the new source.
    pub fingerprint: String,
    source: SourceFile,
    new: Arc<AccessSource>,
    map_is_current: bool,
    /// Where its answers are published, and whether they are the new ones.
    published: Option<(&'c Path, bool)>,
    /// How many entries the block has.
    pub entries: usize,
    /// Users without an entry, and why.
    pub left_out: Vec<LeftOut<'c>>,
    /// Users for whom the administrator wrote entries, which win.
    pub by_hand: Vec<Override<'c>>,
    /// How many entries the block has besides for other names that sendmail asks for.
    pub other_names: usize,
    /// Aliases without an entry, and why.
    pub unplaced: Vec<Unplaced>,
    /// What is wrong with the alias files.
    pub alias_problems: Vec<String>,
    /// What could not be found out of other names, which therefore stay as they are.
    pub missing_names: Vec<String>,
    /// How many users there are.
    pub users: usize,
    /// Accounts that are no users, by their uids.
    pub outside_uids: OutsideUids,
    /// What is wrong with services that may have users and list none.
    pub silent_services: Vec<String>,
}

/// A user or other name whose entry changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'p> {
    /// The key, without its tag.
    pub key: &'p [u8],
    /// The queue group so far; `None` for a new entry.
    pub before: Option<&'p [u8]>,
    /// The queue group from now on; `None` for an entry that goes.
    pub after: Option<&'p [u8]>,
}

/// Makes sure that what is published takes no other file's place, by whatever path; `path` is
/// the configuration's.
///
/// # Errors
/// [`PublishedElsewhere`](UpdateError::PublishedElsewhere).
pub fn check_published(path: &Path, config: &Config) -> Result<(), UpdateError> {
    let Some((AccessMapConfig { map, build, .. }, published)) = published_by(config) else {
        return Ok(());
    };
    let users = match &config.users.source {
        UserSource::File(file) => Some(&**file),
        _ => None,
    };
    let others = [
        path,
        map.path(),
        &build.source,
        &config.node_state,
        &config.status,
    ];
    let found = resolved(published);
    match others
        .into_iter()
        .chain(users)
        .find(|other| resolved(other) == found)
    {
        None => Ok(()),
        Some(other) => Err(UpdateError::PublishedElsewhere {
            published: published.to_path_buf(),
            other: other.to_owned(),
        }),
    }
}

/// The access map whose answers are published, and where.
fn published_by(config: &Config) -> Option<(&AccessMapConfig, &Path)> {
    let access_map = config.access_map.as_ref()?;
    Some((access_map, access_map.published.as_deref()?))
}

/// Where a path leads, to a file that need not be there.
fn resolved(path: &Path) -> PathBuf {
    let in_folder = || Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    fs::canonicalize(path)
        .ok()
        .or_else(in_folder)
        .unwrap_or_else(|| path.to_owned())
}

/// Publishes the answers of the map in force where those of another are published: whatever
/// comes of the update, as where another node has made the map and the users cannot be listed
/// here. The caller holds the [`lock`](lock_map). Says whether it did.
///
/// # Errors
/// When the map's source cannot be read, or nothing can be published.
pub fn publish_in_force(config: &Config) -> Result<bool, UpdateError> {
    let Some((AccessMapConfig { map, build, .. }, published)) = published_by(config) else {
        return Ok(false);
    };
    let built_of = map.get(DIGEST_KEY).unwrap_or_default();
    let of_published = Published::new(published).get(DIGEST_KEY).ok().flatten();
    if !map.is_built() || built_of.is_none() || built_of == of_published {
        return Ok(false);
    }
    let source = SourceFile::read(&build.source)?.content;
    // Else the source has changed since, and the map is to follow.
    let is_in_force = built_of.as_deref() == source.digest().map(str::as_bytes);
    if is_in_force {
        published::publish(published, &source)?;
    }
    Ok(is_in_force)
}

/// Works out the access map for a node state.
///
/// `known` is the fingerprint of a map that was put in force earlier, if there is one;
/// where the same would come of the same again, there is nothing to work out.
/// `own_domains` are sendmail's, if it was asked for them.
///
/// # Errors
/// When the users or the source cannot be read or are not plausible; also
/// [`DomainsUnknown`](UpdateError::DomainsUnknown) when sendmail must be asked first.
pub fn plan<'c>(
    config: &'c Config,
    state: &NodeState,
    accept_loss: bool,
    known: Option<&str>,
    own_domains: Option<&OwnDomains>,
) -> Result<Plan<'c>, UpdateError> {
    let Some(AccessMapConfig {
        map,
        build,
        update_text,
        published,
    }) = &config.access_map
    else {
        return Ok(Plan::NoMap);
    };
    if !map.is_built() && !update_text {
        return Err(UpdateError::TextMap(map.to_string()));
    }
    let cluster = config.cluster(state).map_err(|error| UpdateError::Cluster {
        path: config.node_state.to_path_buf(),
        error,
    })?;
    if cluster.index_of_hash(0, &config.tag).is_none() {
        return Err(UpdateError::NobodyUp(NoNodeUp(config.tag.clone())));
    }
    let source = SourceFile::read(&build.source)?;
    let list = users::read(&config.users.source, *config.users.timeout).map_err(UpdateError::Users)?;
    // One that cannot be read is not the one that is wanted.
    let built_of = match map.is_built() {
        true => map.get(DIGEST_KEY).unwrap_or_default(),
        false => None,
    };
    if source.content.text().is_empty() && !accept_loss && built_of.is_some() {
        return Err(UpdateError::EmptySource(build.source.clone()));
    }
    // Whoever left something beside it may have been ended while it wrote to it.
    let is_whole = !Place::of(map.path()).is_ok_and(|map| has_leftovers(&map));
    let is_current = |source: &AccessSource| {
        let is_of = || built_of.is_some() && built_of.as_deref() == source.digest().map(str::as_bytes);
        !map.is_built() || is_whole && is_of()
    };
    let published_path = published.as_deref();
    let published = published_path.map(Published::new);
    let is_published = |source: &AccessSource| {
        published
            .iter()
            .all(|published| published::is_current(published, source))
    };
    let names = MailNames::read(config, &list, own_domains).ok_or(UpdateError::DomainsUnknown)?;
    let origin = digest_of_origin(config, state, &cluster, &list, &names);
    let fingerprint = |source: &AccessSource| format!("{origin} {}", source.digest().unwrap_or_default());
    if known.is_some_and(|known| known == fingerprint(&source.content))
        && is_current(&source.content)
        && is_published(&source.content)
    {
        return Ok(Plan::Unchanged);
    }
    let before = source.content.entries().count();
    let mut entries = Entries::of(config, &cluster, &list).map_err(UpdateError::Users)?;
    let all_by_hand = source.content.by_hand();
    let by_hand = entries.take_out(&all_by_hand);
    let (users, mut left_out) = (entries.users, std::mem::take(&mut entries.left_out));
    let after = entries.len().saturating_add(by_hand.len());
    // Rounded up: where there are few users, one of them may still leave.
    let may_leave = (before * *config.users.max_loss_percent as usize).div_ceil(100);
    if after == 0 {
        let example = left_out.last().map(|user| user.reason.to_string());
        return Err(UpdateError::NoUsers {
            users,
            example: example.unwrap_or_default(),
        });
    }
    if after + may_leave < before && !accept_loss {
        return Err(UpdateError::TooFewUsers { before, after });
    }
    let others = entries.other_names(
        config,
        &names,
        (&all_by_hand, &by_hand),
        &left_out,
        source.content.other_names(),
    );
    let new = source.content.with_entries(entries.iter(), others.iter());
    let (other_names, unplaced) = (others.len(), others.unplaced);
    left_out.extend(others.left_out);
    Ok(Plan::Map(Box::new(MapPlan {
        map,
        build,
        fingerprint: fingerprint(&new),
        map_is_current: is_current(&new),
        published: published_path.map(|path| (path, is_published(&new))),
        source,
        new: Arc::new(new),
        entries: entries.len(),
        left_out,
        by_hand,
        other_names,
        unplaced,
        missing_names: names.missing,
        alias_problems: names.problems,
        users,
        outside_uids: list.outside_uids(),
        silent_services: list.silent_services(),
    })))
}

/// The same, whatever is in force, for whoever holds no lock: sendmail is asked for its
/// domains if need be, once for one `own_domains`.
///
/// # Errors
/// As [`plan`].
pub fn plan_unlocked<'c>(
    config: &'c Config,
    state: &NodeState,
    accept_loss: bool,
    own_domains: &OnceCell<OwnDomains>,
) -> Result<Plan<'c>, UpdateError> {
    let now = || OwnDomains::now(config, OwnDomains::last(config));
    match plan(config, state, accept_loss, None, own_domains.get()) {
        Err(UpdateError::DomainsUnknown) => plan(
            config,
            state,
            accept_loss,
            None,
            Some(own_domains.get_or_init(now)),
        ),
        plan => plan,
    }
}

/// The block is a function of these alone, and of the rest of the source, which has a
/// digest of its own.
fn digest_of_origin(
    config: &Config,
    state: &NodeState,
    cluster: &Cluster,
    users: &UserList<'_>,
    names: &MailNames,
) -> String {
    let queue_groups: Vec<_> = config.nodes.iter().map(|node| &node.queue_group).collect();
    let moved = state.nodes.iter().filter(|(_, entry)| entry.keeps_moved());
    let moved: Vec<_> = moved
        .filter(|(_, entry)| !entry.moved.is_empty())
        .map(|(name, entry)| (name, &entry.moved))
        .collect();
    let rules = format!(
        "{} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        env!("CARGO_PKG_VERSION"),
        config.auth_username_format.format(),
        config.auth_master_user_separator,
        cluster.strategy(),
        cluster.username_hash().format(),
        config.tag,
        cluster.nodes(),
        queue_groups,
        moved,
        config.users.source,
        users.unlisting_services(),
    );
    digest(&[rules.as_bytes(), names.described().as_bytes(), users.text()])
}

impl MapPlan<'_> {
    /// Whether the source, the map and what is published of it are as they should be.
    pub fn is_in_force(&self) -> bool {
        self.is_map_in_force() && self.unpublished().is_none()
    }

    /// Whether the source and the map are as they should be.
    pub fn is_map_in_force(&self) -> bool {
        self.map_is_current && self.new.text() == self.source.content.text()
    }

    /// Where the map's answers are to be published, if they are not there.
    pub fn unpublished(&self) -> Option<&Path> {
        self.published
            .and_then(|(path, is_current)| (!is_current).then_some(path))
    }

    /// The access source.
    pub fn source(&self) -> &Path {
        &self.build.source
    }

    /// Whether all may read it, and so may know the users in it.
    pub fn is_public(&self) -> bool {
        self.source.is_public()
    }

    /// The entries of users that change in the block, in order of their keys.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        changes(self.source.content.entries(), self.new.entries())
    }

    /// Those of other names, likewise.
    pub fn other_changes(&self) -> impl Iterator<Item = Change<'_>> {
        changes(self.source.content.other_names(), self.new.other_names())
    }

    /// Puts the map in force and publishes its answers; the caller holds the
    /// [`lock`](lock_map). If `force`, also where those in force are of the same source.
    /// Returns the administrator's lines that do not count.
    ///
    /// # Errors
    /// Source and map are then as they were, unless the error says otherwise, and whole.
    pub fn carry_out(&self, force: bool) -> Result<Vec<Complaint>, UpdateError> {
        let is_built = self.map.is_built() && (force || !self.is_map_in_force());
        let map = is_built.then_some(self.map);
        let complaints = rebuild::rebuild(map, self.build, &self.source, &self.new)?;
        // After the map, whose users need it more.
        if let Some((path, is_current)) = self.published
            && (force || !is_current)
        {
            published::publish(path, &self.new)?;
        }
        Ok(complaints)
    }
}

/// What changes between entries that are in order of their keys.
fn changes<'p>(
    old: impl Iterator<Item = Entry<&'p [u8]>>,
    new: impl Iterator<Item = Entry<&'p [u8]>>,
) -> impl Iterator<Item = Change<'p>> {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    let changes = iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (Some(old), Some(new)) => key::compare(old.key, new.key),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let before = old.next_if(|_| order.is_le());
        let after = new.next_if(|_| order.is_ge());
        Some(Change {
            key: after.or(before)?.key,
            before: before.map(|entry| entry.value),
            after: after.map(|entry| entry.value),
        })
    });
    changes.filter(|change| change.before != change.after)
}

/// Held while the access map is brought up to date.
#[derive(Debug)]
pub struct MapLock {
    _lock: Option<lock::Lock>,
}

/// Takes the lock of the access source, if there is one, and removes what an update left
/// that was killed; what it left beside the map, when that was built anew.
///
/// # Errors
/// When another update holds it for longer than `wait`, or it cannot be taken.
pub fn lock_map(config: &Config, wait: Duration) -> Result<MapLock, UpdateError> {
    let Some(AccessMapConfig {
        map,
        build,
        published,
        ..
    }) = &config.access_map
    else {
        return Ok(MapLock { _lock: None });
    };
    let place = |path| Place::of(path).map_err(UpdateError::Locked);
    let (source, map) = (place(&build.source)?, place(map.path())?);
    let lock = lock::of(&source, wait).map_err(UpdateError::Locked)?;
    remove_leftovers(&source);
    empty_leftovers(&map);
    // It need not be there yet, nor its folder.
    if let Some(Ok(published)) = published.as_deref().map(Place::of) {
        remove_leftovers(&published);
    }
    Ok(MapLock { _lock: Some(lock) })
}

/// Waits until no update is at work. Changes nothing.
///
/// # Errors
/// When one is for longer than `wait`, or it cannot be told.
pub fn wait_until_done(config: &Config, wait: Duration) -> Result<(), UpdateError> {
    match &config.access_map {
        Some(AccessMapConfig { build, .. }) => Place::of(&build.source)
            .and_then(|source| lock::wait_until_free(&source, wait))
            .map_err(UpdateError::Locked),
        None => Ok(()),
    }
}
