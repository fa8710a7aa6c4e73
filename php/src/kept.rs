//! What is kept from one request to the next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ext_php_rs::zend::{ModuleGlobal, ModuleGlobals};
use mailaffinity::rate_limit::RateLimit;
use mailaffinity::site::Site;

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

/// The site of `php.ini` as PHP found it when it started, with which each process that is
/// forked and each thread begins: a file that breaks later breaks for none of them. It
/// has nothing open, and nobody holds its lock while PHP forks.
static AT_START: Mutex<Option<(PathBuf, Site)>> = Mutex::new(None);

/// Reads the site of `php.ini`; to be called at start-up. Apache starts PHP twice, and with
/// each reload anew, and may not have unloaded the module: what it had then still counts.
pub(crate) fn read_at_start(path: PathBuf) {
    if !path.is_absolute() {
        return;
    }
    let mut site = site_at_start(&path);
    // What there is to say is said by whoever asks.
    let _ = site.refresh();
    if let Ok(mut at_start) = AT_START.lock() {
        *at_start = Some((path, site));
    }
}

/// The site that a process or thread begins with.
pub(crate) fn site_at_start(path: &Path) -> Site {
    let at_start = AT_START.lock().ok();
    let known = at_start.as_deref().and_then(Option::as_ref);
    match known {
        Some((known, site)) if known == path => site.clone(),
        _ => Site::new(path),
    }
}
