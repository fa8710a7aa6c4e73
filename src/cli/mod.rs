//! The commands. Each one is a `main` that `src/bin/` calls.

mod exit;
mod hash_user_group;
mod mailaffinity;
mod users;

pub use hash_user_group::hash_user_group;
pub use mailaffinity::mailaffinity;
