//! The names that sendmail asks for and that are no user's own.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{Entries, LeftOut, NoEntry, Override};
use crate::access_source::managed_block::ByHand;
use crate::mail_names::{MailNames, Unplaced};
use mailaffinity::access_map::Entry;
use mailaffinity::access_map::{key, search_order};
use mailaffinity::config::Config;

/// The names that sendmail asks for besides users' own: the local parts of users who are
/// full addresses in its own domains, and aliases that lead to one user. Where a user or an
/// entry by hand has a name, it has no other entry.
#[derive(Debug, Default)]
pub struct OtherNames<'e, 'c> {
    /// Keys and queue groups, in order of the keys.
    entries: Vec<(Cow<'e, [u8]>, &'e [u8])>,
    /// Users whom sendmail asks for by a name that is also another's.
    pub left_out: Vec<LeftOut<'c>>,
    /// Aliases without an entry.
    pub unplaced: Vec<Unplaced>,
}

impl OtherNames<'_, '_> {
    /// How many have an entry.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Each entry.
    pub fn iter(&self) -> impl Iterator<Item = Entry<&[u8]>> {
        self.entries.iter().map(|(key, value)| Entry {
            key: &**key,
            value: *value,
        })
    }
}

impl<'c> Entries<'_, 'c> {
    /// The entries of the other names that sendmail asks for. `by_hand` and `taken` are
    /// what [`take_out`](Entries::take_out) was given and gave.
    ///
    /// None is that of a user without an entry, one of `left_out`. Where names may be missing,
    /// those of `before`, the other names so far, stay.
    pub fn other_names<'e>(
        &'e self,
        config: &Config,
        names: &MailNames,
        (by_hand, taken): (&'e [ByHand<'_>], &'e [Override<'c>]),
        left_out: &[LeftOut<'c>],
        before: impl Iterator<Item = Entry<&'e [u8]>>,
    ) -> OtherNames<'e, 'c> {
        let own = Own { users: self, by_hand };
        let mut found = OtherNames::default();
        found.add_local_parts(names, &own, taken);
        found.add_aliases(names, &own);
        if !names.missing.is_empty() {
            found.add_missing(&own, before);
        }
        let of_left_out = keys_of_left_out(config, left_out);
        found.entries.retain(|(key, _)| !of_left_out.contains(&**key));
        found
    }
}

/// The keys under which users without an entry are looked up, with and without a domain.
fn keys_of_left_out(config: &Config, left_out: &[LeftOut<'_>]) -> HashSet<Vec<u8>> {
    let mut keys = HashSet::new();
    for LeftOut { user, .. } in left_out {
        let Ok(user) = config.authenticated(user) else {
            continue;
        };
        let local_part = user.split(|byte| *byte == b'@').next();
        for name in [Some(&*user), local_part].into_iter().flatten() {
            let mut key = Vec::new();
            if key::append_own(name, &mut key).is_ok() {
                keys.insert(key);
            }
        }
    }
    keys
}

/// What users and the administrator have.
struct Own<'e, 'u, 'c> {
    users: &'e Entries<'u, 'c>,
    by_hand: &'e [ByHand<'e>],
}

impl<'e> Own<'e, '_, '_> {
    /// The queue group of a key.
    fn get(&self, key: &[u8]) -> Option<&'e [u8]> {
        let by_hand = self
            .by_hand
            .binary_search_by(|own| key::compare(own.entry.key, key));
        let by_hand = by_hand.ok().and_then(|place| self.by_hand.get(place));
        by_hand.map(|own| own.entry.value).or_else(|| self.users.get(key))
    }
}

impl<'e, 'c> OtherNames<'e, 'c> {
    fn add_local_parts(&mut self, names: &MailNames, own: &Own<'e, '_, 'c>, taken: &'e [Override<'c>]) {
        let users = own.users.iter().map(|entry| (entry.key, entry.value));
        let taken = taken.iter().map(|own| (&*own.entry.key, &*own.entry.value));
        let mut addresses: Vec<(&[u8], &[u8], &[u8])> = users
            .chain(taken)
            .filter_map(|(user, group)| Some((user.get(..=names.local_part(user)?.len())?, user, group)))
            .collect();
        addresses.sort_unstable();
        for same in addresses.chunk_by(|a, b| a.0 == b.0) {
            let Some((key, _, first)) = same.first() else {
                continue;
            };
            let group = own.get(key);
            if group.is_some() && own.users.get(key).is_none() {
                // What the administrator decided.
                continue;
            }
            let differ = |other: &&[u8]| *other != group.unwrap_or(first);
            let are_one = !same.iter().any(|(_, _, other)| differ(other));
            if group.is_none() && are_one {
                self.entries.push((Cow::Borrowed(key), first));
                continue;
            }
            // A user of that name has the entry; without one, nobody has.
            let left_out = same
                .iter()
                .filter(|(_, _, other)| group.is_none() || differ(other));
            self.left_out.extend(left_out.map(|(_, user, _)| LeftOut {
                user: user.to_vec(),
                reason: NoEntry::SharedLocalPart,
            }));
        }
    }

    fn add_aliases(&mut self, names: &MailNames, own: &Own<'e, '_, 'c>) {
        let mut aliases = Vec::new();
        names.for_each_alias(|alias, end| {
            let key = [alias, b"@"].concat();
            let reason = match (
                end.and_then(|end| self.of_recipient(own, end)),
                self.get(own, &key),
            ) {
                (Ok(Some(group)), None) => return aliases.push((Cow::Owned(key), group)),
                (Ok(Some(group)), Some(own)) if group != own => "a user or an entry by hand has its name",
                // System accounts are nobody's.
                (Ok(None), _) | (_, Some(_)) => return,
                (Err(reason), None) => reason,
            };
            self.unplaced.push(Unplaced {
                alias: alias.to_vec(),
                reason,
            });
        });
        self.entries.extend(aliases);
        self.entries.sort_unstable();
    }

    fn add_missing(&mut self, own: &Own<'e, '_, 'c>, before: impl Iterator<Item = Entry<&'e [u8]>>) {
        let missing = before.filter(|entry| self.get(own, entry.key).is_none());
        let missing: Vec<_> = missing
            .map(|entry| (Cow::Borrowed(entry.key), entry.value))
            .collect();
        self.entries.extend(missing);
        self.entries.sort_unstable();
    }

    /// The queue group of a key that a user, the administrator or a local part has.
    fn get(&self, own: &Own<'e, '_, 'c>, key: &[u8]) -> Option<&'e [u8]> {
        let local_part = self.entries.binary_search_by(|(name, _)| (**name).cmp(key));
        let local_part = local_part.ok().and_then(|place| self.entries.get(place));
        own.get(key).or_else(|| local_part.map(|(_, group)| *group))
    }

    /// The queue group of the name that an alias leads to, if it has one.
    fn of_recipient(&self, own: &Own<'e, '_, 'c>, name: &[u8]) -> Result<Option<&'e [u8]>, &'static str> {
        let is_elsewhere = name.contains(&b'@');
        let groups = search_order::keys(name)
            .into_iter()
            .filter(|key| key.contains(&b'@') && key.ends_with(b"@") != is_elsewhere)
            .filter_map(|key| self.get(own, key::untagged(&key)?));
        match groups.into_iter().next() {
            None if is_elsewhere => Err("it leads to an address elsewhere"),
            group => Ok(group),
        }
    }
}
