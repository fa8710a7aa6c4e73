//! What sendmail's access map is made of: the administrator's text, the block in it that
//! mailaffinity manages, and the map that makemap makes of both.

pub mod managed_block;
pub mod rebuild;
