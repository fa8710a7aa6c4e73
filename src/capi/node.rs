//! The nodes of a cluster, by number.

use std::ffi::{CStr, c_char};
use std::ptr;

use super::cluster::{Cluster, NodeStrings};
use super::ffi;
use crate::mapping::Node;

/// The number of nodes, which are numbered from 0; 0 if `cluster` is NULL.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_node_count(cluster: Option<&Cluster>) -> usize {
    ffi::guard(0, || cluster.map_or(0, |cluster| cluster.nodes().len()))
}

/// What the administrator calls a node. NULL if there is no such node.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_node_name(cluster: Option<&Cluster>, node: usize) -> *const c_char {
    text(cluster, node, |node| Some(&node.name))
}

/// The address under which the Director knows a node, as inet_ntop prints it. NULL if
/// there is no such node.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_node_address(cluster: Option<&Cluster>, node: usize) -> *const c_char {
    text(cluster, node, |node| Some(&node.address))
}

/// The tag of a node, "" for none. NULL if there is no such node.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_node_tag(cluster: Option<&Cluster>, node: usize) -> *const c_char {
    text(cluster, node, |node| Some(&node.tag))
}

/// The host that IMAP clients connect to, a bare name or address: the node's address,
/// unless a configuration says otherwise. NULL if there is no such node.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_node_host(cluster: Option<&Cluster>, node: usize) -> *const c_char {
    text(cluster, node, |node| Some(&node.host))
}

/// The sendmail queue group of a node's users. NULL if there is no such node, or no
/// configuration gives it one.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_node_queue_group(cluster: Option<&Cluster>, node: usize) -> *const c_char {
    text(cluster, node, |node| node.queue_group.as_deref())
}

/// The vhosts of a node, its share of the users relative to the other nodes; as many
/// while it is down. 0 if there is no such node.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_node_vhost_count(cluster: Option<&Cluster>, node: usize) -> u32 {
    ffi::guard(0, || mapped(cluster, node).map_or(0, |node| node.vhost_count))
}

/// The state of a node, "up" or "down". NULL if there is no such node.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_node_state(cluster: Option<&Cluster>, node: usize) -> *const c_char {
    ffi::guard(ptr::null(), || {
        mapped(cluster, node).map_or(ptr::null(), |node| if node.up { c"up" } else { c"down" }.as_ptr())
    })
}

fn mapped(cluster: Option<&Cluster>, node: usize) -> Option<&Node> {
    cluster?.mapping().nodes().get(node)
}

fn text(
    cluster: Option<&Cluster>,
    node: usize,
    field: impl FnOnce(&NodeStrings) -> Option<&CStr>,
) -> *const c_char {
    ffi::guard(ptr::null(), || {
        cluster
            .and_then(|cluster| cluster.nodes().get(node))
            .and_then(field)
            .map_or(ptr::null(), CStr::as_ptr)
    })
}
