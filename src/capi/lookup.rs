//! The node of a user.

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;

use super::cluster::Cluster;
use super::error::Error;
use super::ffi;

/// Finds the node of a user among those with the tag that are up. In a cluster that was
/// loaded from a configuration, it is the node of the name that authentication leaves, and
/// a name of more than 1,023 bytes is `MAILAFFINITY_ERROR_INVALID_ARGUMENT`.
///
/// `tag` NULL stands for the configuration's default tag, which is "", no tag, in a
/// cluster that was not loaded from a configuration. On success the number of the node
/// is in `*node_out`; `MAILAFFINITY_ERROR_NO_NODE` if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_lookup(
    cluster: Option<&Cluster>,
    user: *const c_char,
    user_len: usize,
    tag: *const c_char,
    node_out: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    ffi::status(|| {
        let cluster = ffi::required("cluster", cluster)?;
        let node_out = ffi::required("node_out", node_out)?;
        // SAFETY: strings are as the header's rules have them.
        let (user, tag) = unsafe { (ffi::bytes("user", user, user_len)?, ffi::string(tag)) };
        let tag = tag_or_default(tag, cluster)?;
        let hash = match cluster.config() {
            Some(config) => config.hash_of(user)?,
            None => cluster.mapping().username_hash().hash(user)?,
        };
        let node = cluster.mapping().index_of_hash(hash, tag);
        found(node, node_out)
    })
}

/// As `mailaffinity_lookup`, for a hash in place of a name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_lookup_hash(
    cluster: Option<&Cluster>,
    hash: u32,
    tag: *const c_char,
    node_out: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    ffi::status(|| {
        let cluster = ffi::required("cluster", cluster)?;
        let node_out = ffi::required("node_out", node_out)?;
        // SAFETY: the string is as the header's rules have it.
        let tag = unsafe { ffi::string(tag) };
        let node = cluster
            .mapping()
            .index_of_hash(hash, tag_or_default(tag, cluster)?);
        found(node, node_out)
    })
}

fn tag_or_default<'a>(tag: Option<&'a CStr>, cluster: &'a Cluster) -> Result<&'a str, Error> {
    match tag {
        None => Ok(cluster.config().map_or("", |config| &config.tag)),
        // Nearly all tags.
        Some(tag) if tag.is_empty() => Ok(""),
        Some(tag) => ffi::utf8("tag", tag),
    }
}

fn found(node: Option<usize>, node_out: &mut MaybeUninit<usize>) -> Result<(), Error> {
    let Some(node) = node else {
        return Err(Error::NoNode);
    };
    node_out.write(node);
    Ok(())
}
