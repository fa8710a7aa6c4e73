//! Dovecot 2.4, which has no Director, on machines of its own, with the Lua module in it.

mod accounts;
mod agreement;
mod bench;
mod home;
mod machines;
mod migration;
mod page;
mod passdb;
mod resilience;
mod sessions;
mod soak;
mod watched;
