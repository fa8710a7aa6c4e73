//! Every consumer gives the live Director's answer, for the same users, while nodes die
//! and come back: programs, the web servers' PHP, and webmail that logs in to real nodes.

#![cfg(all(feature = "capi", feature = "cli"))]

mod support;

#[path = "consumers/browser.rs"]
mod browser;
#[path = "consumers/cluster.rs"]
mod cluster;
#[path = "consumers/web.rs"]
mod web;

#[path = "consumers/programs.rs"]
mod programs;
#[path = "consumers/roundcube.rs"]
mod roundcube;
#[path = "consumers/squirrelmail.rs"]
mod squirrelmail;
#[path = "consumers/workers.rs"]
mod workers;
