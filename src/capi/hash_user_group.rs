//! The functions of the paper's `hash_user_group.c`.

use std::ffi::{c_char, c_int};

use super::ffi;
use crate::mapping;

/// The vnode of a user, from 0 to `vnodes` - 1, without consistent hashing: the
/// user's hash modulo the number of vnodes. -1 if `user` is NULL or `vnodes` < 1.
///
/// This and `hash_user_group_ring` are the two functions of hash_user_group.c in
/// INFN-16-11/CCR. They hash the name as it stands, up to its NUL, and know no hosts;
/// `mailaffinity_lookup` is what agrees with a Director.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hash_user_group_modulo(user: *const c_char, vnodes: c_int) -> c_int {
    // SAFETY: `user` is what that function asks for, by the header's rules.
    unsafe { vnode(user, vnodes, mapping::modulo_vnode) }
}

/// The vnode of a user, from 0 to `vnodes` - 1, by consistent hashing: the one that
/// follows the user's hash on a ring of vnodes. -1 if `user` is NULL or `vnodes` < 1.
///
/// A call computes the whole ring, one MD5 for each vnode.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hash_user_group_ring(user: *const c_char, vnodes: c_int) -> c_int {
    // SAFETY: `user` is what that function asks for, by the header's rules.
    unsafe { vnode(user, vnodes, mapping::ring_vnode) }
}

/// # Safety
/// `user` is NULL or a NUL-terminated string.
unsafe fn vnode(user: *const c_char, vnodes: c_int, mapping: fn(&[u8], u32) -> Option<u32>) -> c_int {
    ffi::guard(-1, || {
        // SAFETY: as the caller of this function promises.
        unsafe { ffi::string(user) }
            .zip(u32::try_from(vnodes).ok())
            .and_then(|(user, vnodes)| mapping(user.to_bytes(), vnodes))
            .and_then(|vnode| c_int::try_from(vnode).ok())
            .unwrap_or(-1)
    })
}
