//! `mailaffinity watch`, with real Dovecots and the real makemap.

mod clock;
mod edits;
mod endurance;
mod kills;
mod life;
mod metrics;
mod nodes;
mod programs;
mod site;
mod storage;
mod table;
