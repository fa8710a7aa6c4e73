//! What is kept from one request to the next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use ext_php_rs::zend::{ModuleGlobal, ModuleGlobals};
use mailaffinity::site::Site;

use crate::rate_limit::RateLimit;

/// PHP has one of these for each thread that serves requests, and frees it: no
/// locks are needed, with or without thread safety (ZTS). Nothing in it is
/// borrowed while PHP is called, since PHP may leave by `longjmp`.
#[derive(Default)]
pub(crate) struct Kept {
    /// By configuration file: Apache may have one for each virtual host.
    pub(crate) sites: RefCell<BTreeMap<PathBuf, Site>>,
    pub(crate) log: RefCell<RateLimit>,
}

impl ModuleGlobal for Kept {}

pub(crate) static KEPT: ModuleGlobals<Kept> = ModuleGlobals::new();
