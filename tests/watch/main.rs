//! `mailaffinity watch`, with real Dovecots and the real makemap.

mod clock;
mod edits;
mod endurance;
mod kills;
mod life;
mod nodes;
mod programs;
mod site;
