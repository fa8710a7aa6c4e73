//! Files that commands write: one writer at a time, and each in one step.

mod host;
pub(crate) mod in_place;
pub(crate) mod last_good;
pub(crate) mod lock;
pub(crate) mod place;
pub(crate) mod replace;
