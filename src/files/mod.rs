//! Files that others replace, rewrite or truncate while we read them.

pub mod file_stamp;
pub(crate) mod followed;
pub mod last_good;
pub mod regular_file;
