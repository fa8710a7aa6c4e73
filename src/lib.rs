//! User/node affinity for mail clusters.

pub mod mapping;
