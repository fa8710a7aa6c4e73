//! The commands `mailaffinity` and `hash_user_group`, on the library `mailaffinity`.
//!
//! What the commands are for, each module knowing only those before it:
//!
//! - [`users`] says which users there are, [`access_source`] what the access map comes
//!   from, [`mail_names`] what sendmail makes of names, [`entries`] which entry each user
//!   has, [`checks`] which nodes are up.
//! - [`update`] keeps the node state true to the checks, and the access map true to the
//!   node state, and the watcher does so all the time; [`drain`] runs the queues of dead
//!   nodes; [`agreement`] holds all parts against each other.
//! - `commands` has a file for each subcommand, and none of them knows another.
//!
//! The modules are public for tests and fuzz targets; nobody else is promised anything.

#![deny(unsafe_code, missing_docs)]
// Nothing that comes from outside may end a command by a panic.
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

pub mod access_source;
pub mod agreement;
pub mod aliases;
pub mod checks;
mod child;
mod commands;
pub mod corosync;
mod differences;
pub mod director;
pub mod director_settings;
pub mod doveconf;
pub mod drain;
pub mod entries;
mod exit;
mod files;
mod hash_user_group;
mod last_good;
pub mod mail_names;
mod names;
pub mod node_state;
mod nodes;
mod nss;
pub mod own_domains;
pub mod probe;
pub mod queue_group;
mod report;
mod sendmail_cf;
pub mod sessions;
mod test_mode;
mod timed_socket;
mod undo;
pub mod update;
mod update_run;
pub mod users;
mod watch;
mod watcher_lock;

pub use commands::mailaffinity;
pub use hash_user_group::hash_user_group;
