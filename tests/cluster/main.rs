//! Against all peers at once: a live Director, real sendmails with their access map, PHP,
//! the C library, and corosync.

mod agreement;
mod locks;
mod mail_names;
mod quorum;
mod scenario;
mod watchers;
