//! Hashes of usernames, without a cluster.

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;

use super::error::Error;
use super::ffi;
use crate::mapping::UsernameHash;

/// The 32-bit hash of a user, never 0, as the Director computes it.
///
/// `format` is a director_username_hash such as "%Ln"; NULL stands for "%Lu". On
/// success the hash is in `*hash_out`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_username_hash(
    format: *const c_char,
    user: *const c_char,
    user_len: usize,
    hash_out: Option<&mut MaybeUninit<u32>>,
    detail: *mut c_char,
    detail_size: usize,
) -> c_int {
    let body = || {
        // SAFETY: strings are as the header's rules have them.
        let (format, user) = unsafe { (ffi::string(format), ffi::bytes("user", user, user_len)?) };
        let hash_out = ffi::required("hash_out", hash_out)?;
        hash_out.write(parse(format)?.hash(user)?);
        Ok(())
    };
    // SAFETY: `detail` is as the header's rules have it.
    unsafe { ffi::status_with_detail(detail, detail_size, body) }
}

/// A format as a caller gives it; none is the default.
pub(super) fn parse(format: Option<&CStr>) -> Result<UsernameHash, Error> {
    Ok(match format {
        Some(format) => UsernameHash::parse(format.to_bytes())?,
        None => UsernameHash::default(),
    })
}
