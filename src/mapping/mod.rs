//! The Director's user → node mapping: pure, no I/O, no `unsafe`.
//!
//! A username becomes a 32-bit hash ([`UsernameHash`]); a [`Cluster`] gives the
//! node that owns the hash, by one of two [`Strategy`]s, among the nodes of one
//! tag that are up. Every rule here is one that Dovecot's Director was seen to
//! follow (2.3.19.1; 2.2.36 for [`Strategy::Modulo`]), and `tests/` proves it
//! against a live one.

mod address;
mod cluster;
mod hash_user_group;
mod mail_servers;
mod md5;
mod modulo;
mod node;
mod ring;
mod username_hash;

pub use address::{parse_address, ring_label};
pub use cluster::{Cluster, ClusterError, MAX_VHOSTS, Strategy};
pub use hash_user_group::{VnodeRing, modulo_vnode, ring_vnode};
pub use mail_servers::{MailHost, MailServer, MailServersError, parse_mail_servers, resolve_nodes};
pub use node::{DEFAULT_VHOST_COUNT, Node};
pub use username_hash::{FormatError, NotHashed, UsernameHash};
