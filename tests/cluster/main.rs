//! Against all peers at once: a live Director, real sendmails with their access map, PHP
//! and the C library.

mod agreement;
mod locks;
mod mail_names;
mod scenario;
