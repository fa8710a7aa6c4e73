//! Against real sendmails: what mailaffinity builds on, and which entry sendmail itself
//! takes.

mod mail_names;
mod queues;
mod search_order;
