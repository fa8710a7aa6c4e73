//! The two functions of `hash_user_group.c` (INFN-16-11/CCR): a user's vnode
//! among a bare number of vnodes, without hosts.
//!
//! They hash the username as it stands, without `director_username_hash`, and
//! their ring strings are `"-0"`, `"-1"`, …: the paper's, not the Director's,
//! whose strings begin with the host's address.

use md5::{Digest, Md5};

use super::leading_u32;

/// `director_consistent_hashing` false: the hash modulo the number of vnodes.
/// `None` when there are none.
pub fn modulo_vnode(user: &[u8], vnodes: u32) -> Option<u32> {
    leading_u32(&Md5::digest(user)).checked_rem(vnodes)
}

/// `director_consistent_hashing` true: the vnode whose hash is the first at or
/// after the user's, or the first of all. `None` when there are no vnodes.
///
/// Vnodes are numbered from 0. Costs one MD5 a vnode and keeps nothing.
pub fn ring_vnode(user: &[u8], vnodes: u32) -> Option<u32> {
    let hash = leading_u32(&Md5::digest(user));
    // The distance from the user to a point, going up and around.
    (0..vnodes).min_by_key(|vnode| leading_u32(&Md5::digest(format!("-{vnode}"))).wrapping_sub(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_vnodes_no_answer() {
        assert_eq!(modulo_vnode(b"user1", 0), None);
        assert_eq!(ring_vnode(b"user1", 0), None);
    }

    // printf %s user1 | md5sum: 24c9e15e… = 617210206; -0: f35e6e6d…,
    // -1: 6bb61e3b…, -2: 5d7b9adc….
    #[test]
    fn worked_by_hand() {
        assert_eq!(modulo_vnode(b"user1", 3), Some(617_210_206 % 3));
        assert_eq!(ring_vnode(b"user1", 3), Some(2));
    }
}
