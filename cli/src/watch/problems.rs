//! What is wrong at the moment, told once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::exit::{NAME, say};
use crate::report::Log;
use mailaffinity::config::Config;

/// When the same is told again.
const AGAIN: Duration = Duration::from_secs(3600);
/// When something else about the same matter is, or that it is wrong once more.
const OTHERWISE: Duration = Duration::from_secs(60);

/// By what each of them is about.
#[derive(Default)]
pub(crate) struct Problems(BTreeMap<String, Matter>);

struct Matter {
    /// A sentence; `None` if all is well again.
    problem: Option<String>,
    /// The one that was told last, unless it was told that all is well again,
    told: Option<String>,
    /// and when.
    at: Instant,
}

impl Problems {
    /// Tells a problem, or that there is none any more, on standard error and to the system's
    /// log, if that is news. What comes and goes is told once a minute. Says whether it is
    /// another one.
    pub(crate) fn about(&mut self, matter: &str, problem: Option<String>, config: &Config) -> bool {
        let now = Instant::now();
        let known = self.0.get_mut(matter);
        let is_another = known.as_ref().and_then(|known| known.problem.as_ref()) != problem.as_ref();
        let is_to_be_told = known.as_ref().is_none_or(|known| {
            let again = if known.told == problem { AGAIN } else { OTHERWISE };
            now.saturating_duration_since(known.at) >= again
        });
        match (problem, known) {
            (None, None) => {}
            (None, Some(known)) => {
                known.problem = None;
                if known.told.take().is_some() {
                    Log::open(config).notice(&format!("{matter}: all is well again"));
                }
            }
            (Some(problem), known) => {
                let mut new = Matter {
                    problem: Some(problem.clone()),
                    told: None,
                    at: now,
                };
                if is_to_be_told {
                    let line = format!("{matter}: {problem}");
                    say(NAME, &line);
                    Log::open(config).error(&line);
                    new.told = Some(problem);
                } else if let Some(known) = known {
                    (new.told, new.at) = (known.told.take(), known.at);
                }
                self.0.insert(matter.into(), new);
            }
        }
        is_another
    }

    /// Whether there is one about this.
    pub(crate) fn is_about(&self, matter: &str) -> bool {
        self.0.get(matter).is_some_and(|known| known.problem.is_some())
    }

    /// Forgets those about matters that there are no more.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|matter, _| is_there(matter));
    }

    #[cfg(test)]
    pub(crate) fn were_told_long_ago(&mut self) {
        let matters = self.0.values_mut();
        matters.for_each(|matter| matter.at = matter.at.checked_sub(OTHERWISE).expect("a time"));
    }

    /// Each of them, in a sentence.
    pub(crate) fn all(&self) -> Vec<String> {
        let lines = self.0.iter().filter_map(|(matter, known)| {
            let problem = known.problem.as_ref()?;
            Some(format!("{matter}: {problem}"))
        });
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn what_comes_and_goes_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        log.set_nonblocking(true).unwrap();
        let text = format!("syslog = {path:?}\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n");
        let config = Config::parse(&text, &path).unwrap();
        let mut problems = Problems::default();
        let lines = || {
            let mut line = [0; 1000];
            let lines = std::iter::from_fn(|| log.recv(&mut line).ok().map(|length| line[..length].to_vec()));
            lines.count()
        };
        let silent = || Some("silent".to_owned());
        for time in 0..4 {
            assert!(problems.about("quorum", silent(), &config));
            assert!(!problems.about("quorum", silent(), &config));
            assert_eq!(problems.all(), ["quorum: silent"], "also if it is not told again");
            assert_eq!(lines(), usize::from(time == 0));
            assert!(problems.about("quorum", None, &config));
            assert!(problems.all().is_empty());
            assert_eq!(lines(), usize::from(time == 0), "that all is well");
        }
        assert!(problems.about("update", silent(), &config));
        assert_eq!(lines(), 1, "another matter");
    }
}
