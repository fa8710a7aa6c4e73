//! User/node affinity for mail clusters: the Dovecot Director's user → node mapping
//! for everything that is not Dovecot.
//!
//! Layers, each of which knows only those before it:
//!
//! - [`mapping`], the core: pure, without I/O.
//! - What is on disk: [`config`] (the cluster as its administrator describes it),
//!   [`node_state`] (which nodes are down), [`access_map`] (sendmail's), and [`site`],
//!   which follows all three and says which node serves a user.
//! - The edges, side by side: the C API (`include/mailaffinity.h`), and outside of this
//!   crate the commands (`cli/`), the Lua module (`lua/`) and the PHP module (`php/`).
//!
//! ```
//! use mailaffinity::mapping::{Cluster, Node, Strategy, UsernameHash};
//!
//! let nodes = ["192.0.2.1", "192.0.2.2"].map(|address| Node::new(address, address.parse().unwrap()));
//! let cluster = Cluster::new(Strategy::Ring, UsernameHash::default(), nodes.into())?;
//! let node = cluster.node_of(b"anna", "").expect("a node that is up");
//! assert_eq!(node.name, "192.0.2.1");
//! # Ok::<(), mailaffinity::mapping::ClusterError>(())
//! ```

#![deny(unsafe_code, missing_docs)]
// Nothing that comes from outside may take a web server down.
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

pub mod access_map;
#[cfg(feature = "capi")]
mod capi;
pub mod config;
pub mod deadline;
pub mod files;
pub mod mapping;
pub mod node_state;
pub mod panic;
pub mod rate_limit;
pub mod site;
mod toml_error;
