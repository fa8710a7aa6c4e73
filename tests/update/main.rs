//! `mailaffinity update`, with the real makemap: the ordinary life, and whatever may
//! come in its way. The map in force and the administrator's lines take no harm.

mod accounts;
mod attacks;
mod edits;
mod faults;
mod folders;
mod full_disk;
mod kills;
mod life;
mod opening;
mod other_names;
mod published;
mod several;
mod site;
mod source;
mod users;
