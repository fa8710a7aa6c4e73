//! What integration tests share: what Cargo built, sites, and the real peers.

#![expect(
    clippy::new_without_default,
    reason = "new() makes folders and starts programs"
)]

pub mod built;
pub mod captures;
pub mod clients;
pub mod configuration;
pub mod director;
pub mod dovecot;
pub mod imap;
pub mod machines;
pub mod maps;
pub mod namespace;
pub mod php;
pub mod sendmail;
pub mod site;
