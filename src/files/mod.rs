//! Files that others replace, rewrite or truncate while we read them.

pub mod file_stamp;
pub mod regular_file;
