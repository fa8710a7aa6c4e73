//! Questions to the site as it stands on disk now.

use ext_php_rs::prelude::PhpResult;
use mailaffinity::panic;
use mailaffinity::site::InForce;

use crate::exception::exception;
use crate::kept::{KEPT, site_at_start};
use crate::{ini, log};

/// An answer from a site, and what the administrator should know.
pub(crate) struct Answer<T> {
    /// `None` when there is no good configuration, or on a bug.
    pub(crate) value: Option<T>,
    pub(crate) problems: Vec<String>,
}

/// Asks the site as it stands on disk now. The question may send notices.
///
/// The question must not call PHP; see [`KEPT`].
pub(crate) fn ask<T>(question: impl FnOnce(&InForce, &mut dyn FnMut(String)) -> T) -> Answer<T> {
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
        let mut site = sites.remove(&path).unwrap_or_else(|| site_at_start(&path));
        problems.extend(site.refresh());
        let site = sites.entry(path).or_insert(site);
        Some(question(site.in_force()?, &mut |notice| problems.push(notice)))
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
