//! The direct mapping: `director_consistent_hashing = no`, the default of
//! Dovecot 2.2 and gone in 2.3.

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
    /// counts add up to no more than [`MAX_VHOSTS`](super::MAX_VHOSTS).
    pub(super) fn new(hosts: impl Iterator<Item = (u32, u32)>) -> Modulo {
        let mut end = 0u32;
        let (ends, owners) = hosts
            .filter(|&(vhosts, _)| vhosts > 0)
            .map(|(vhosts, owner)| {
                end = end.saturating_add(vhosts);
                (end, owner)
            })
            .unzip();
        Modulo { ends, owners }
    }

    /// The owner of a hash; `None` when there are no vhosts.
    pub(super) fn owner(&self, hash: u32) -> Option<u32> {
        let vhost = hash.checked_rem(*self.ends.last()?)?;
        let host = self.ends.partition_point(|&end| end <= vhost);
        self.owners.get(host).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_each_host_by_its_vhosts() {
        let modulo = Modulo::new([(2, 7), (0, 8), (1, 9)].into_iter());
        let owners: Vec<_> = (0..7).map(|hash| modulo.owner(hash)).collect();
        assert_eq!(owners, [7, 7, 9, 7, 7, 9, 7].map(Some));
        assert_eq!(Modulo::new(std::iter::empty()).owner(5), None);
    }
}
