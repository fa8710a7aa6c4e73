//! Dovecot 2.4, which has no Director, on machines of its own, with the Lua module in it.

mod agreement;
mod home;
mod machines;
mod nodes;
mod page;
mod passdb;
mod sessions;
