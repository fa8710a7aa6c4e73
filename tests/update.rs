//! `mailaffinity update`, with the real makemap: the ordinary life, and whatever may
//! come in its way. The map in force and the administrator's lines take no harm.

// Shared with the tests of the maps, which need more of it.
#[path = "update/namespace.rs"]
mod namespace;
#[allow(dead_code)]
#[path = "access_map/peers.rs"]
mod peers;
#[path = "update/site.rs"]
mod site;
mod support;

#[path = "update/edits.rs"]
mod edits;
#[path = "update/folders.rs"]
mod folders;
#[path = "update/full_disk.rs"]
mod full_disk;
#[path = "update/kills.rs"]
mod kills;
#[path = "update/life.rs"]
mod life;
#[path = "update/several.rs"]
mod several;
#[path = "update/source.rs"]
mod source;
#[path = "update/users.rs"]
mod users;
