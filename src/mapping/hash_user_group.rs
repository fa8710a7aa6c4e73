//! The two functions of `hash_user_group.c` (INFN-16-11/CCR): a user's vnode
//! among a bare number of vnodes, without hosts.
//!
//! They hash the username as it stands, without `director_username_hash`, and
//! their ring strings are `"-0"`, `"-1"`, …: the paper's, not the Director's,
//! whose strings begin with the host's address. Vnodes are numbered from 0.

use super::md5::md5_start;

/// `director_consistent_hashing` false: the hash modulo the number of vnodes.
/// `None` when there are none.
pub fn modulo_vnode(user: &[u8], vnodes: u32) -> Option<u32> {
    md5_start(user).checked_rem(vnodes)
}

/// `director_consistent_hashing` true: the vnode whose hash is the first at or
/// after the user's, or the first of all. `None` when there are no vnodes.
///
/// Costs one MD5 a vnode; a [`VnodeRing`] spares many users that.
pub fn ring_vnode(user: &[u8], vnodes: u32) -> Option<u32> {
    let hash = md5_start(user);
    // The distance from the user to a vnode, going up and around.
    (0..vnodes).min_by_key(|&vnode| vnode_hash(vnode).wrapping_sub(hash))
}

/// The ring of so many vnodes, for mapping many users.
#[derive(Clone, Debug)]
pub struct VnodeRing {
    /// Hash and vnode, ascending.
    vnodes: Vec<(u32, u32)>,
}

impl VnodeRing {
    /// The ring of vnodes 0, 1, … `vnodes - 1`.
    pub fn new(vnodes: u32) -> VnodeRing {
        let mut vnodes: Vec<_> = (0..vnodes).map(|vnode| (vnode_hash(vnode), vnode)).collect();
        vnodes.sort_unstable();
        VnodeRing { vnodes }
    }

    /// As [`ring_vnode`].
    pub fn vnode(&self, user: &[u8]) -> Option<u32> {
        let hash = md5_start(user);
        let following = self.vnodes.partition_point(|&(vnode_hash, _)| vnode_hash < hash);
        let found = self.vnodes.get(following).or_else(|| self.vnodes.first());
        found.map(|&(_, vnode)| vnode)
    }
}

fn vnode_hash(vnode: u32) -> u32 {
    md5_start(format!("-{vnode}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_vnodes_no_answer() {
        assert_eq!(modulo_vnode(b"user1", 0), None);
        assert_eq!(ring_vnode(b"user1", 0), None);
        assert_eq!(VnodeRing::new(0).vnode(b"user1"), None);
    }

    // printf %s user1 | md5sum: 24c9e15e… = 617210206; -0: f35e6e6d…,
    // -1: 6bb61e3b…, -2: 5d7b9adc….
    #[test]
    fn worked_by_hand() {
        assert_eq!(modulo_vnode(b"user1", 3), Some(617_210_206 % 3));
        assert_eq!(ring_vnode(b"user1", 3), Some(2));
    }

    proptest! {
        #[test]
        fn a_ring_kept_answers_as_one_made_anew(users in prop::collection::vec(any::<Vec<u8>>(), 1..20), vnodes in 0u32..300) {
            let ring = VnodeRing::new(vnodes);
            for user in users {
                let vnode = ring_vnode(&user, vnodes);
                prop_assert_eq!(ring.vnode(&user), vnode);
                prop_assert!(vnode.is_none_or(|vnode| vnode < vnodes));
            }
        }
    }
}
