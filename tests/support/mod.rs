//! What integration tests share.

pub(crate) mod director;
pub(crate) mod imap;
pub(crate) mod library;
pub(crate) mod php;
pub(crate) mod sendmail;
pub(crate) mod site;
