//! Every consumer gives the live Director's answer, for the same users, while nodes die
//! and come back: programs, the web servers' PHP, and webmail that logs in to real nodes.

mod browser;
mod cluster;
mod web;

mod broken;
mod programs;
mod roundcube;
mod squirrelmail;
mod workers;
