//! The commands by themselves.

mod checks;
mod moves;
mod scripts;
