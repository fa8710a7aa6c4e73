//! What integration tests share.

pub(crate) mod director;
