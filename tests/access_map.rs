//! Maps that are made by the real programs, read by `access_map`.

#[path = "access_map/formats.rs"]
mod formats;
#[path = "access_map/peers.rs"]
mod peers;
#[path = "access_map/rebuilds.rs"]
mod rebuilds;
#[path = "access_map/sendmail.rs"]
mod sendmail;
mod support;
