//! A site, followed from one call to the next.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mailaffinity::panic;
use mailaffinity::site::{InForce, Site};

/// A value, or nil, and what there is to say of it.
pub(crate) type Returned<T> = (Option<T>, Option<String>);

/// How often the same is told, while there are answers all the same.
const INTERVAL: Duration = Duration::from_secs(60);

/// A site, of which one Lua program asks.
pub(crate) struct Followed {
    path: PathBuf,
    kept: Cell<Option<Box<Kept>>>,
}

struct Kept {
    site: Site,
    told: Option<(Vec<String>, Instant)>,
}

impl Followed {
    /// Reads the site: what breaks before the first question does not count.
    pub(crate) fn new(path: &Path) -> Followed {
        let followed = Followed {
            path: path.to_owned(),
            kept: Cell::new(None),
        };
        // What there is to say is said to who asks, and so is a bug.
        let _ = panic::guarded(|| {
            let mut kept = followed.take();
            kept.site.refresh();
            followed.kept.set(Some(kept));
        });
        followed
    }

    /// Asks the site as it stands on disk now.
    ///
    /// The question must not call Lua, which may run a program's code (`__gc`) at any time,
    /// and that may ask too.
    pub(crate) fn ask<A, T>(
        &self,
        arguments: Result<A, String>,
        question: impl FnOnce(&InForce, A) -> Result<T, String>,
    ) -> Returned<T> {
        let asked = arguments.and_then(|arguments| {
            panic::guarded(|| {
                // Taken out while it changes: a panic leaves nothing half-done behind.
                let mut kept = self.take();
                let notices = kept.site.refresh();
                let returned = match kept.site.in_force() {
                    None => (None, notices),
                    Some(in_force) => {
                        let answer = question(in_force, arguments);
                        let notices = kept.due(notices);
                        match answer {
                            Ok(value) => (Some(value), notices),
                            Err(problem) => (None, [vec![problem], notices].concat()),
                        }
                    }
                };
                self.kept.set(Some(kept));
                returned
            })
        });
        let (value, messages) = asked.unwrap_or_else(|problem| (None, vec![problem]));
        // One line, for a log.
        let message = (!messages.is_empty()).then(|| messages.join("; ").replace(char::is_control, "?"));
        (value, message)
    }

    fn take(&self) -> Box<Kept> {
        self.kept.take().unwrap_or_else(|| {
            Box::new(Kept {
                site: Site::new(&self.path),
                told: None,
            })
        })
    }
}

impl Kept {
    /// The notices when they are others than before, and again once in a while: logins are
    /// too many to tell it at each.
    fn due(&mut self, notices: Vec<String>) -> Vec<String> {
        if notices.is_empty() {
            self.told = None;
            return notices;
        }
        match &self.told {
            Some((told, at)) if *told == notices && at.elapsed() < INTERVAL => Vec::new(),
            _ => {
                self.told = Some((notices.clone(), Instant::now()));
                notices
            }
        }
    }
}
