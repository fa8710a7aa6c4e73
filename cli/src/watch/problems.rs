//! What is wrong at the moment, told once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::exit::{NAME, say};
use crate::report::Log;
use mailaffinity::config::Config;

/// When the same is told again.
const AGAIN: Duration = Duration::from_secs(3600);
/// When something else about the same matter is.
const OTHERWISE: Duration = Duration::from_secs(60);

/// By what each of them is about, a sentence, and when it was told.
#[derive(Default)]
pub(crate) struct Problems(BTreeMap<String, (String, Instant)>);

impl Problems {
    /// Tells a problem, or that there is none any more, on standard error and to the system's
    /// log, if that is news. Says whether it was.
    pub(crate) fn about(&mut self, matter: &str, problem: Option<String>, config: &Config) -> bool {
        let now = Instant::now();
        match (problem, self.0.get(matter)) {
            (None, None) => false,
            (None, Some(_)) => {
                self.0.remove(matter);
                Log::open(config).notice(&format!("{matter}: all is well again"));
                true
            }
            (Some(problem), known) => {
                let is_known = known.is_some_and(|(known, told)| {
                    let again = if *known == problem { AGAIN } else { OTHERWISE };
                    now.saturating_duration_since(*told) < again
                });
                if !is_known {
                    let line = format!("{matter}: {problem}");
                    say(NAME, &line);
                    Log::open(config).error(&line);
                    self.0.insert(matter.into(), (problem, now));
                }
                !is_known
            }
        }
    }

    /// Forgets those about matters that there are no more.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|matter, _| is_there(matter));
    }

    /// Each of them, in a sentence.
    pub(crate) fn all(&self) -> Vec<String> {
        let lines = self
            .0
            .iter()
            .map(|(matter, (problem, _))| format!("{matter}: {problem}"));
        lines.collect()
    }
}
