//! Clusters that a program makes node by node.

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;

use super::cluster::{Cluster, parse_strategy};
use super::error::Error;
use super::{ffi, username_hash};
use crate::mapping::{Node, Strategy, UsernameHash, parse_address, ring_label};

/// A cluster in the making, node by node.
pub struct Builder {
    strategy: Strategy,
    username_hash: UsernameHash,
    nodes: Vec<Node>,
}

/// Begins a cluster without nodes.
///
/// `strategy` is `MAILAFFINITY_RING` or `MAILAFFINITY_MODULO`; `username_hash` a
/// director_username_hash, NULL for "%Lu". On success the builder is in
/// `*builder_out`; free it with `mailaffinity_builder_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_builder_new(
    strategy: c_int,
    username_hash: *const c_char,
    builder_out: Option<&mut MaybeUninit<Box<Builder>>>,
    detail: *mut c_char,
    detail_size: usize,
) -> c_int {
    let body = || {
        let builder_out = ffi::required("builder_out", builder_out)?;
        // SAFETY: the string is as the header's rules have it.
        let username_hash = unsafe { ffi::string(username_hash) };
        builder_out.write(Box::new(Builder {
            strategy: parse_strategy(strategy)?,
            username_hash: username_hash::parse(username_hash)?,
            nodes: Vec::new(),
        }));
        Ok(())
    };
    // SAFETY: `detail` is as the header's rules have it.
    unsafe { ffi::status_with_detail(detail, detail_size, body) }
}

/// Adds a node. Nodes are numbered from 0 in the order in which they are added, which
/// makes no difference to the mapping.
///
/// `address` is the one under which the Director knows the node, in any spelling that
/// Dovecot takes. `name` NULL stands for the address, `tag` NULL for "", no tag.
/// `vhost_count` is the node's share of the users, relative to the other nodes; the
/// Director's default is 100, and 0 takes none. `state` is "up" or "down", NULL for "up";
/// a node that is down takes none either.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_builder_add_node(
    builder: Option<&mut Builder>,
    name: *const c_char,
    address: *const c_char,
    vhost_count: u32,
    tag: *const c_char,
    state: *const c_char,
    detail: *mut c_char,
    detail_size: usize,
) -> c_int {
    let body = || {
        let builder = ffi::required("builder", builder)?;
        // SAFETY: strings are as the header's rules have them.
        let [name, address, tag, state] =
            unsafe { [name, address, tag, state].map(|text| ffi::string(text)) };
        let name = name.map(|name| ffi::utf8("name", name)).transpose()?;
        let address = ffi::utf8("address", ffi::required("address", address)?)?;
        let tag = tag.map(|tag| ffi::utf8("tag", tag)).transpose()?;
        let address = parse_address(address).ok_or_else(|| {
            Error::InvalidArgument(format!("\"{}\" is not an IP address", address.escape_debug()))
        })?;
        builder.nodes.push(Node {
            name: name.map_or_else(|| ring_label(address), str::to_owned),
            address,
            vhost_count,
            tag: tag.unwrap_or_default().to_owned(),
            up: parse_state(state)?,
        });
        Ok(())
    };
    // SAFETY: `detail` is as the header's rules have it.
    unsafe { ffi::status_with_detail(detail, detail_size, body) }
}

/// Makes a cluster of the nodes added so far.
///
/// The builder stays as it is: it can take further nodes, build again, and be freed
/// before or after the cluster. On success the cluster is in `*cluster_out`; free it
/// with `mailaffinity_cluster_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_builder_build(
    builder: Option<&Builder>,
    cluster_out: Option<&mut MaybeUninit<Box<Cluster>>>,
    detail: *mut c_char,
    detail_size: usize,
) -> c_int {
    let body = || {
        let builder = ffi::required("builder", builder)?;
        let cluster_out = ffi::required("cluster_out", cluster_out)?;
        cluster_out.write(Box::new(Cluster::of_nodes(
            builder.strategy,
            builder.username_hash.clone(),
            builder.nodes.clone(),
        )?));
        Ok(())
    };
    // SAFETY: `detail` is as the header's rules have it.
    unsafe { ffi::status_with_detail(detail, detail_size, body) }
}

/// Frees a builder, but no cluster built with it. NULL is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_builder_free(builder: Option<Box<Builder>>) {
    ffi::guard((), || drop(builder));
}

fn parse_state(state: Option<&CStr>) -> Result<bool, Error> {
    match state.map(CStr::to_bytes) {
        None | Some(b"up") => Ok(true),
        Some(b"down") => Ok(false),
        Some(other) => Err(Error::InvalidArgument(format!(
            "\"{}\" is not the state of a node, which is \"up\" or \"down\"",
            other.escape_ascii()
        ))),
    }
}
