//! What sendmail's access map is made of: the administrator's text, the block in it that
//! mailaffinity manages, the map that makemap makes of both, and what is published of it.

pub mod managed_block;
pub(crate) mod published;
pub mod rebuild;
