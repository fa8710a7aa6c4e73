//! The site, followed from one request to the next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use ext_php_rs::prelude::PhpResult;
use ext_php_rs::zend::{ModuleGlobal, ModuleGlobals};
use mailaffinity::site::{InForce, Notice, Site};

use crate::exception::exception;
use crate::log::RateLimit;
use crate::{ini, log, panic};

/// What is kept from one request to the next.
///
/// PHP has one of these for each thread that serves requests, and frees it: no
/// locks are needed, with or without thread safety (ZTS). Nothing in it is
/// borrowed while PHP is called, since PHP may leave by `longjmp`.
#[derive(Default)]
pub(crate) struct Kept {
    /// By configuration file: Apache may have one for each virtual host.
    sites: RefCell<BTreeMap<PathBuf, Site>>,
    pub(crate) log: RefCell<RateLimit>,
}

impl ModuleGlobal for Kept {}

pub(crate) static KEPT: ModuleGlobals<Kept> = ModuleGlobals::new();

/// An answer from a site, and what the administrator should know.
pub(crate) struct Answer<T> {
    /// `None` when there is no good configuration, or on a bug.
    pub(crate) value: Option<T>,
    pub(crate) problems: Vec<String>,
}

/// Asks the site as it stands on disk now. The question may send notices.
///
/// The question must not call PHP; see [`Kept`].
pub(crate) fn ask<T>(question: impl FnOnce(&InForce, &mut dyn FnMut(Notice)) -> T) -> Answer<T> {
    let mut problems = Vec::new();
    let value = panic::guarded(|| {
        let mut sites = KEPT.get().sites.borrow_mut();
        let path = ini::config_path();
        if !path.is_absolute() {
            // PHP changes to the script's directory.
            problems.push(format!(
                "mailaffinity.config: {} is not an absolute path",
                path.display()
            ));
            return None;
        }
        // Taken out while it changes: a panic leaves nothing half-done behind.
        let mut site = sites.remove(&path).unwrap_or_else(|| Site::new(&path));
        problems.extend(site.refresh().iter().map(Notice::to_string));
        let site = sites.entry(path).or_insert(site);
        let mut notify = |notice: Notice| problems.push(notice.to_string());
        Some(question(site.in_force()?, &mut notify))
    });
    match value {
        Ok(value) => Answer { value, problems },
        Err(bug) => {
            problems.push(bug);
            Answer {
                value: None,
                problems,
            }
        }
    }
}

/// As [`ask`], for functions that throw where there is no answer. What does not
/// prevent one goes to the log.
pub(crate) fn ask_or_throw<T>(question: impl FnOnce(&InForce) -> T) -> PhpResult<T> {
    let Answer { value, problems } = ask(|in_force, _| question(in_force));
    match value {
        Some(value) => {
            log::tell(&problems);
            Ok(value)
        }
        None => {
            let problems: Vec<String> = problems.iter().map(|problem| log::printable(problem)).collect();
            Err(exception(problems.join("; ")))
        }
    }
}
