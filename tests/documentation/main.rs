//! The documentation beside the code: fails where they part.

mod example;
mod modules;
mod pages;
