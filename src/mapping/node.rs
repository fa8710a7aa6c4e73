//! What the mapping knows of a node.

use std::net::IpAddr;

/// How many vhosts a node has unless it says otherwise, as in the Director.
pub const DEFAULT_VHOST_COUNT: u32 = 100;

/// A mail host: one machine that users are mapped to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What the administrator calls it. The mapping does not look at it.
    pub name: String,
    /// The address under which the Director knows it (`director_mail_servers`).
    /// Its text, [`ring_label`](super::ring_label), places it on the ring.
    pub address: IpAddr,
    /// Its share of the users, relative to the other nodes; 0 takes none.
    pub vhost_count: u32,
    /// The pool it belongs to (`host@tag`), case-sensitive; empty for none.
    /// Nodes serve only the users that are looked up with their tag.
    pub tag: String,
    /// A node that is down gets no users.
    pub up: bool,
}

impl Node {
    /// A node that is up, untagged, with the default vhost count.
    pub fn new(name: impl Into<String>, address: IpAddr) -> Node {
        Node {
            name: name.into(),
            address,
            vhost_count: DEFAULT_VHOST_COUNT,
            tag: String::new(),
            up: true,
        }
    }

    /// The vhosts it takes part with: none while it is down.
    pub(super) fn usable_vhosts(&self) -> u32 {
        if self.up { self.vhost_count } else { 0 }
    }
}
