//! User/node affinity for mail clusters.

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
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
mod file_stamp;
pub mod mapping;
pub mod node_state;
mod regular_file;
pub mod site;
mod toml_error;
