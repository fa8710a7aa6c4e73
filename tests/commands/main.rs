//! The commands by themselves.

mod checks;
mod scripts;
