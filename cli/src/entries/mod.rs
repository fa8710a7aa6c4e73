//! Which entry of the access map each user has, or why none.

pub mod other_names;

use std::collections::HashSet;

use crate::access_source::managed_block::ByHand;
use crate::users::{UserList, UsersError};
use mailaffinity::access_map::Entry;
use mailaffinity::access_map::key::{self, KeyProblem};
use mailaffinity::config::{Config, NoHash};
use mailaffinity::mapping::Cluster;

/// Why a user has no entry in the access map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEntry<'c> {
    /// Sendmail would not find it, or also for others.
    #[error("{0}")]
    NoKey(KeyProblem),
    /// The user has no hash.
    #[error(transparent)]
    NoHash(NoHash),
    /// No node with the tag of the configuration is up.
    #[error("no node is up for it")]
    NoNode,
    /// The user's node, with this name, has no queue group.
    #[error("its node \"{0}\" has no queue_group")]
    NoQueueGroup(&'c str),
    /// A user before has the same key and another queue group.
    #[error("in the access map it is another user's, whose name differs in case only")]
    AnotherUsers,
    /// Another user has the same name without the domain, and another queue group. The
    /// user has an entry, but sendmail does not look for it.
    #[error(
        "sendmail asks for the name without the domain, which is another user's too, with another queue group (an \
         entry by hand decides)"
    )]
    SharedLocalPart,
}

/// The queue group of a user's entry, whose key is appended to `keys` without its tag. Both
/// are of the name that authentication leaves.
///
/// # Errors
/// When the user has no entry: why.
pub fn of_user<'c>(
    config: &'c Config,
    cluster: &Cluster,
    user: &[u8],
    keys: &mut Vec<u8>,
) -> Result<&'c str, NoEntry<'c>> {
    let user = config.authenticated(user).map_err(NoEntry::NoHash)?;
    let hash = cluster.username_hash().hash(&user);
    let hash = hash.map_err(|problem| NoEntry::NoHash(problem.into()))?;
    let begin = keys.len();
    key::append_own(&user, keys).map_err(NoEntry::NoKey)?;
    let node = cluster.index_of_hash(hash, &config.tag);
    let queue_group = match node.and_then(|node| config.nodes.get(node)) {
        None => Err(NoEntry::NoNode),
        Some(node) => match &node.queue_group {
            Some(queue_group) => Ok(queue_group.as_str()),
            None => Err(NoEntry::NoQueueGroup(&node.node.name)),
        },
    };
    if queue_group.is_err() {
        keys.truncate(begin);
    }
    queue_group
}

/// A user without an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut<'c> {
    /// The user.
    pub user: Vec<u8>,
    /// Why.
    pub reason: NoEntry<'c>,
}

/// A user for whom the administrator wrote an entry, whatever the mapping says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override<'c> {
    /// The line in the access source.
    pub line: u64,
    /// What stands there.
    pub entry: Entry,
    /// The queue group of the user's node.
    pub computed: &'c str,
}

/// The entries of all users, in order of their keys, which have no tag here. Of users
/// whose names differ in case only, the one in lower case counts, to whom sendmail
/// delivers, else the first in the list.
pub struct Entries<'u, 'c> {
    /// All keys, each with a newline after it.
    keys: Vec<u8>,
    places: Vec<Place<'u, 'c>>,
    /// How many users there are.
    pub users: usize,
    /// Those without an entry.
    pub left_out: Vec<LeftOut<'c>>,
}

struct Place<'u, 'c> {
    /// The first bytes of the key in which keys differ at all: most comparisons need no
    /// more.
    start: u64,
    user: &'u [u8],
    queue_group: &'c str,
    key: usize,
}

/// The key that begins there.
fn key_at(keys: &[u8], begin: usize) -> &[u8] {
    let mut rest = keys.get(begin..).unwrap_or_default().split(|byte| *byte == b'\n');
    rest.next().unwrap_or_default()
}

/// The first bytes of what follows `common` bytes that all keys have, in their order.
fn start(key: &[u8], common: usize) -> u64 {
    let mut start = [0; 8];
    let rest = key.get(common..).unwrap_or_default();
    start
        .iter_mut()
        .zip(rest)
        .for_each(|(byte, of_key)| *byte = *of_key);
    u64::from_be_bytes(start)
}

impl<'u, 'c> Entries<'u, 'c> {
    /// The entries of these users.
    ///
    /// # Errors
    /// Those of [`UserList::for_each`].
    pub fn of(
        config: &'c Config,
        cluster: &Cluster,
        users: &'u UserList<'_>,
    ) -> Result<Entries<'u, 'c>, UsersError> {
        let lines = users.text().iter().filter(|byte| **byte == b'\n').count();
        let mut keys = Vec::with_capacity(users.text().len().saturating_add(lines));
        let mut places: Vec<Place<'u, 'c>> = Vec::with_capacity(lines);
        let mut left_out = Vec::new();
        // Those who have no place.
        let mut others = HashSet::new();
        users.for_each(|user| {
            let key = keys.len();
            match of_user(config, cluster, user, &mut keys) {
                Ok(queue_group) => {
                    keys.push(b'\n');
                    places.push(Place {
                        start: 0,
                        user,
                        queue_group,
                        key,
                    });
                }
                Err(reason) if others.insert(user) => left_out.push(LeftOut {
                    user: user.to_vec(),
                    reason,
                }),
                Err(_) => {}
            }
        })?;

        let first = key_at(&keys, 0);
        let common = places.iter().fold(first.len(), |common, place| {
            let key = key_at(&keys, place.key).iter().zip(first).take(common);
            key.take_while(|(byte, of_first)| byte == of_first).count()
        });
        for place in &mut places {
            place.start = start(key_at(&keys, place.key), common);
        }
        let by_key = |a: &Place<'_, '_>, b: &Place<'_, '_>| {
            let starts = a.start.cmp(&b.start);
            starts.then_with(|| key_at(&keys, a.key).cmp(key_at(&keys, b.key)))
        };
        let has_case = |place: &Place<'_, '_>| place.user.iter().any(u8::is_ascii_uppercase);
        places.sort_unstable_by(|a, b| {
            by_key(a, b).then_with(|| has_case(a).cmp(&has_case(b)).then(a.key.cmp(&b.key)))
        });
        places.dedup_by(|later, first| {
            let same = by_key(later, first).is_eq();
            if same
                && later.user != first.user
                && others.insert(later.user)
                && later.queue_group != first.queue_group
            {
                left_out.push(LeftOut {
                    user: later.user.to_vec(),
                    reason: NoEntry::AnotherUsers,
                });
            }
            same
        });
        Ok(Entries {
            users: places.len().saturating_add(others.len()),
            keys,
            places,
            left_out,
        })
    }

    /// Removes those that give way to entries by hand, which are in order of their keys.
    pub fn take_out(&mut self, by_hand: &[ByHand<'_>]) -> Vec<Override<'c>> {
        let mut taken = Vec::new();
        let mut by_hand = by_hand.iter().peekable();
        self.places.retain(|place| {
            let key = key_at(&self.keys, place.key);
            let before = |own: &&ByHand<'_>| key::compare(own.entry.key, key).is_lt();
            while by_hand.next_if(before).is_some() {}
            let own = by_hand.next_if(|own| own.entry.key.eq_ignore_ascii_case(key));
            taken.extend(own.map(|own| Override {
                line: own.line,
                entry: Entry {
                    key: key.to_vec(),
                    value: own.entry.value.to_vec(),
                },
                computed: place.queue_group,
            }));
            own.is_none()
        });
        taken
    }

    /// The queue group of a key that a user has.
    fn get(&self, key: &[u8]) -> Option<&'c [u8]> {
        let place = self
            .places
            .binary_search_by(|place| key_at(&self.keys, place.key).cmp(key))
            .ok()?;
        self.places.get(place).map(|place| place.queue_group.as_bytes())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Entry<&[u8]>> {
        self.places.iter().map(|place| Entry {
            key: key_at(&self.keys, place.key),
            value: place.queue_group.as_bytes(),
        })
    }
}
