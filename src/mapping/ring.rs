//! The hash ring: `director_consistent_hashing = yes`, and the only strategy of
//! Dovecot 2.3.

use std::cmp::Ordering;
use std::ops::Range;

/// A vhost of a host: where it stands on the ring and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vhost {
    pub(super) hash: u32,
    pub(super) owner: u32,
}

/// Vhosts sorted by hash. A user belongs to the owner of the first vhost at or
/// after the user's hash, and past the last vhost to that of the first.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    /// By hash, each hash once; behind the last the first again, for all hashes that
    /// are left. Empty without vhosts.
    places: Vec<Place>,
    /// For each value of a hash's leading bits, the first of `places` that is not
    /// below all hashes with these bits.
    slots: Vec<u32>,
    /// How far a hash is shifted to leave its leading bits.
    shift: u32,
}

/// A hash at which vhosts stand.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    /// The owner of the hashes before it.
    gap: u32,
    /// The owner of the hash. Differs from `gap` where several vhosts share it: there
    /// the Director takes whichever its binary search meets first.
    exact: u32,
}

impl Ring {
    /// A ring of vhosts. Those that share a hash must be given in the Director's
    /// order of their hosts: IPv4 before IPv6, then by address bytes.
    #[expect(clippy::indexing_slicing, reason = "no chunk is empty")]
    pub(super) fn new(mut vhosts: Vec<Vhost>) -> Ring {
        vhosts.sort_by_key(|vhost| vhost.hash);
        let mut places: Vec<Place> = vhosts
            .chunk_by(|a, b| a.hash == b.hash)
            .map(|tied| Place {
                hash: tied[0].hash,
                gap: tied[0].owner,
                exact: owner_met_by_binary_search(&vhosts, tied[0].hash),
            })
            .collect();
        if let Some(&Place { gap, .. }) = places.first() {
            places.push(Place {
                hash: u32::MAX,
                gap,
                exact: gap,
            });
        }
        // About one slot a place.
        let bits = places.len().next_power_of_two().trailing_zeros();
        let shift = u32::BITS - bits;
        let slots = (0..1u64 << bits)
            .map(|slot| places.partition_point(|place| u64::from(place.hash) < slot << shift) as u32)
            .collect();
        Ring { places, slots, shift }
    }

    /// The owner of a hash; `None` on a ring without vhosts.
    #[expect(
        clippy::indexing_slicing,
        reason = "each value of the leading bits has a slot, and no hash is above that of the last place"
    )]
    pub(super) fn owner(&self, hash: u32) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        let mut position = self.slots[(hash >> self.shift) as usize] as usize;
        // Two steps without a branch: it would be guessed wrong half of the time.
        position += usize::from(self.places[position].hash < hash);
        position += usize::from(self.places[position].hash < hash);
        while self.places[position].hash < hash {
            position += 1;
        }
        let place = &self.places[position];
        Some(if place.hash == hash {
            place.exact
        } else {
            place.gap
        })
    }

    /// Adds to the count of each owner how many of the hashes are its own.
    #[expect(clippy::indexing_slicing, reason = "the caller has a count for each owner")]
    pub(super) fn count(&self, hashes: Range<u64>, counts: &mut [u64]) {
        let mut next = hashes.start;
        for place in &self.places {
            let hash = u64::from(place.hash);
            counts[place.gap as usize] += hash.min(hashes.end).saturating_sub(next);
            next = next.max(hash);
            if next == hash && hash < hashes.end {
                counts[place.exact as usize] += 1;
                next += 1;
            }
        }
    }
}

/// The Director's `(left + right) / 2` search, which stops at the first equal
/// vhost that it meets.
#[expect(clippy::indexing_slicing, reason = "one of the vhosts has the hash")]
fn owner_met_by_binary_search(vhosts: &[Vhost], hash: u32) -> u32 {
    let (mut left, mut right) = (0, vhosts.len());
    loop {
        let middle = (left + right) / 2;
        match vhosts[middle].hash.cmp(&hash) {
            Ordering::Less => left = middle + 1,
            Ordering::Greater => right = middle,
            Ordering::Equal => return vhosts[middle].owner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(vhosts: &[(u32, u32)]) -> Ring {
        Ring::new(
            vhosts
                .iter()
                .map(|&(hash, owner)| Vhost { hash, owner })
                .collect(),
        )
    }

    /// The Director's lookup, step by step as its source has it.
    fn director(vhosts: &[(u32, u32)], hash: u32) -> Option<u32> {
        let mut sorted = vhosts.to_vec();
        sorted.sort_by_key(|vhost| vhost.0);
        let (mut left, mut right, mut idx) = (0, sorted.len(), 0);
        while left < right {
            idx = (left + right) / 2;
            match hash.cmp(&sorted[idx].0) {
                Ordering::Greater => left = idx + 1,
                Ordering::Less => right = idx,
                Ordering::Equal => return Some(sorted[idx].1),
            }
        }
        if left > idx {
            idx += 1;
        }
        if idx == sorted.len() {
            idx = 0;
        }
        sorted.get(idx).map(|vhost| vhost.1)
    }

    fn vhosts() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let hash = prop_oneof![0u32..40, any::<u32>(), (u32::MAX - 20)..=u32::MAX];
        prop::collection::vec((hash, 0u32..9), 0..80)
    }

    #[test]
    fn empty_ring_has_no_owner() {
        assert_eq!(ring(&[]).owner(0), None);
        assert_eq!(ring(&[]).owner(u32::MAX), None);
    }

    #[test]
    fn wraps_around() {
        let ring = ring(&[(10, 0), (20, 1)]);
        for (hash, owner) in [(0, 0), (10, 0), (11, 1), (20, 1), (21, 0), (u32::MAX, 0)] {
            assert_eq!(ring.owner(hash), Some(owner), "{hash}");
        }
    }

    #[test]
    fn counts_all_hashes() {
        let mut counts = [0; 3];
        ring(&[(10, 0), (20, 1), (u32::MAX, 2)]).count(0..1 << 32, &mut counts);
        assert_eq!(counts, [11, 10, (1 << 32) - 21]);
    }

    proptest! {
        #[test]
        fn agrees_with_the_search_of_the_director(
            vhosts in vhosts(),
            probes in prop::collection::vec(any::<u32>(), 0..40),
        ) {
            let ring = ring(&vhosts);
            let around = vhosts.iter().flat_map(|vhost| {
                [vhost.0.wrapping_sub(1), vhost.0, vhost.0.wrapping_add(1)]
            });
            for hash in around.chain(probes).chain([0, u32::MAX]) {
                prop_assert_eq!(ring.owner(hash), director(&vhosts, hash), "{}", hash);
            }
        }

        #[test]
        fn counts_what_a_walk_finds(
            vhosts in vhosts(), start in prop_oneof![0u64..60, (1u64 << 32) - 60..1 << 32], len in 0u64..60,
        ) {
            let hashes = start..(start + len).min(1 << 32);
            let (mut counts, mut walked) = ([0; 9], [0; 9]);
            ring(&vhosts).count(hashes.clone(), &mut counts);
            for hash in hashes {
                if let Some(owner) = director(&vhosts, u32::try_from(hash).unwrap()) {
                    walked[owner as usize] += 1;
                }
            }
            prop_assert_eq!(counts, walked);
        }
    }
}
