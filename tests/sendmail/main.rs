//! Against real sendmails: what mailaffinity builds on, and which entry sendmail itself
//! takes.

mod queues;
mod search_order;
