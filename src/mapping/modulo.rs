//! The direct mapping: `director_consistent_hashing = no`, the default of
//! Dovecot 2.2 and gone in 2.3.

use std::ops::Range;

/// Hosts in the Director's order, each repeated as often as it has vhosts; a
/// user belongs to number `hash % count` of them.
#[derive(Clone, Debug)]
pub(super) struct Modulo {
    /// For each host, how many vhosts it and those before it have.
    ends: Vec<u32>,
    owners: Vec<u32>,
}

impl Modulo {
    /// Hosts with their vhost counts and owners, in the Director's order. The
    /// counts add up to a `u32`.
    pub(super) fn new(hosts: impl Iterator<Item = (u32, u32)>) -> Modulo {
        let mut end = 0;
        let (ends, owners) = hosts
            .filter(|&(vhosts, _)| vhosts > 0)
            .map(|(vhosts, owner)| {
                end += vhosts;
                (end, owner)
            })
            .unzip();
        Modulo { ends, owners }
    }

    /// The owner of a hash; `None` when there are no vhosts.
    #[expect(clippy::indexing_slicing, reason = "the remainder is below the last end")]
    pub(super) fn owner(&self, hash: u32) -> Option<u32> {
        let vhost = hash % self.ends.last()?;
        Some(self.owners[self.ends.partition_point(|&end| end <= vhost)])
    }

    /// Adds to the count of each owner how many of the hashes are its own.
    #[expect(clippy::indexing_slicing, reason = "the caller has a count for each owner")]
    pub(super) fn count(&self, hashes: Range<u64>, counts: &mut [u64]) {
        let total = self.ends.last().copied().map_or(1, u64::from);
        let mut start = 0;
        for (&end, &owner) in self.ends.iter().zip(&self.owners) {
            let vhosts = start..u64::from(end);
            // Of the hashes below one: those of whole rounds, and of the one begun.
            let below = |hash: u64| {
                hash / total * (vhosts.end - vhosts.start) + (hash % total).clamp(vhosts.start, vhosts.end)
                    - vhosts.start
            };
            counts[owner as usize] += below(hashes.end) - below(hashes.start);
            start = vhosts.end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repeats_each_host_by_its_vhosts() {
        let modulo = Modulo::new([(2, 7), (0, 8), (1, 9)].into_iter());
        let owners: Vec<_> = (0..7).map(|hash| modulo.owner(hash)).collect();
        assert_eq!(owners, [7, 7, 9, 7, 7, 9, 7].map(Some));
        assert_eq!(Modulo::new(std::iter::empty()).owner(5), None);
    }

    #[test]
    fn counts_all_hashes() {
        let mut counts = [0; 2];
        Modulo::new([(2, 0), (1, 1)].into_iter()).count(0..1 << 32, &mut counts);
        // 2^32 is 3 * 1431655765 + 1.
        assert_eq!(counts, [2 * 1_431_655_765 + 1, 1_431_655_765]);
    }

    proptest! {
        #[test]
        fn counts_what_a_walk_finds(
            vhosts in prop::collection::vec(0u32..40, 0..9), start in 0u64..(1 << 32) - 200, len in 0u64..200,
        ) {
            let modulo = Modulo::new(vhosts.into_iter().zip(0..));
            let (mut counts, mut walked) = ([0; 9], [0; 9]);
            modulo.count(start..start + len, &mut counts);
            for hash in start..start + len {
                if let Some(owner) = modulo.owner(u32::try_from(hash).unwrap()) {
                    walked[owner as usize] += 1;
                }
            }
            prop_assert_eq!(counts, walked);
        }
    }
}
