//! What follows when nodes or files have changed: threads that never hold up those who ask.
//!
//! The access map comes first, then the programs, which are started whether the map could
//! follow or not. Each is tried again until it succeeds, with pauses that grow.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::child::{self, Finished};
use crate::update_run::UpdateRun;
use mailaffinity::config::Config;

/// The pause after a first failure, and after many.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is to be in force.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) config: Arc<Config>,
    /// The nodes that are down.
    pub(crate) down: BTreeSet<String>,
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Done {
    /// The update, after so many seconds.
    Update(f64, Result<(), String>),
    /// The programs, and what all of them came to so far.
    Programs(Vec<Program>),
}

/// A program, and what it knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) command: Vec<String>,
    /// The nodes that are down as far as it was told.
    pub(crate) told_down: BTreeSet<String>,
    /// How long it took when it ran last.
    #[serde(default)]
    pub(crate) seconds: Option<f64>,
    /// What went wrong then.
    #[serde(default)]
    pub(crate) error: Option<String>,
    #[serde(skip)]
    retry: Retry,
}

/// When something that failed is tried again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retry {
    failures: u32,
    not_before: Option<Instant>,
}

impl Retry {
    pub(crate) fn after(&mut self, has_failed: bool) {
        if !has_failed {
            *self = Retry::default();
            return;
        }
        let pause = PAUSES.0.saturating_mul(1 << self.failures.min(16)).min(PAUSES.1);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause);
    }

    pub(crate) fn is_due(&self) -> bool {
        self.wait().is_zero()
    }

    /// How long it has to wait.
    pub(crate) fn wait(&self) -> Duration {
        let until = |then: Instant| then.saturating_duration_since(Instant::now());
        self.not_before.map_or(Duration::ZERO, until)
    }
}

/// Starts the threads, which do at once what is sent to them, until `tell` says no. `known` is
/// what programs knew when a watcher ended.
///
/// # Errors
/// When the system has no threads left.
pub(crate) fn begin(
    path: &Path,
    wanted: Wanted,
    known: Vec<Program>,
    tell: impl Fn(Done) -> bool + Clone + Send + 'static,
) -> io::Result<Sender<Wanted>> {
    let (updates, updates_wanted) = mpsc::channel();
    let (programs, programs_wanted) = mpsc::channel();
    let path = path.to_owned();
    let (first, tell_update) = (wanted.clone(), tell.clone());
    thread::Builder::new()
        .spawn(move || update_forever(&path, first, &updates_wanted, &programs, tell_update))?;
    let programs = Programs {
        programs: known,
        wanted,
    };
    thread::Builder::new().spawn(move || programs.run_forever(&programs_wanted, tell))?;
    Ok(updates)
}

/// Waits until something is wanted, or for this time; of several, the last counts. `None`
/// when nobody is left who could want anything.
fn next<T>(wanted: &Receiver<T>, wait: Duration) -> Option<Option<T>> {
    match wanted.recv_timeout(wait) {
        Ok(first) => Some(Some(wanted.try_iter().last().unwrap_or(first))),
        Err(RecvTimeoutError::Timeout) => Some(None),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

fn update_forever(
    path: &Path,
    mut wanted: Wanted,
    updates: &Receiver<Wanted>,
    programs: &Sender<Wanted>,
    tell: impl Fn(Done) -> bool,
) {
    let mut retry = Retry::default();
    let mut wait = Duration::MAX;
    while let Some(next) = next(updates, wait) {
        wanted = next.unwrap_or(wanted);
        let begun = Instant::now();
        let run = UpdateRun {
            tells_failure: false,
            ..UpdateRun::of(path, &wanted.config)
        };
        let result = run.run().map_err(|failure| failure.to_string());
        retry.after(result.is_err());
        wait = match &result {
            Ok(()) => *wanted.config.watch.update,
            Err(_) => retry.wait(),
        };
        let is_told = tell(Done::Update(begun.elapsed().as_secs_f64(), result));
        if !is_told || programs.send(wanted.clone()).is_err() {
            return;
        }
    }
}

struct Programs {
    programs: Vec<Program>,
    wanted: Wanted,
}

impl Programs {
    fn run_forever(mut self, wanted: &Receiver<Wanted>, tell: impl Fn(Done) -> bool) {
        self.take_configured();
        let mut wait = Duration::MAX;
        while let Some(next) = next(wanted, wait) {
            if let Some(next) = next {
                self.wanted = next;
                self.take_configured();
            }
            let Wanted { config, down } = &self.wanted;
            let timeout = *config.watch.on_change_timeout;
            let mut has_run = false;
            for program in &mut self.programs {
                has_run |= program.run_if_due(&self.wanted, timeout);
            }
            let waiting = self.programs.iter().filter(|program| program.told_down != *down);
            wait = waiting
                .map(|program| program.retry.wait())
                .min()
                .unwrap_or(Duration::MAX);
            if has_run && !tell(Done::Programs(self.programs.clone())) {
                return;
            }
        }
    }

    /// The programs of the configuration. A new one has nothing to be told.
    fn take_configured(&mut self) {
        let Wanted { config, down } = &self.wanted;
        let program = |command: &[String]| {
            let known = self.programs.iter().find(|program| program.command == command);
            known.cloned().unwrap_or_else(|| Program {
                command: command.to_vec(),
                told_down: down.clone(),
                seconds: None,
                error: None,
                retry: Retry::default(),
            })
        };
        self.programs = config
            .watch
            .on_change
            .iter()
            .map(|command| program(command))
            .collect();
    }
}

impl Program {
    /// Tells it of the nodes that are not as it was told last. Says whether it was started.
    fn run_if_due(&mut self, wanted: &Wanted, timeout: Duration) -> bool {
        let Wanted { config, down } = wanted;
        let mut command = self.command.clone();
        // One that the configuration no longer has is neither.
        self.told_down
            .retain(|node| config.nodes.index_of(node).is_some());
        for node in self.told_down.symmetric_difference(down) {
            let state = if down.contains(node) { "down" } else { "up" };
            command.extend([node.clone(), state.into()]);
        }
        if command.len() == self.command.len() || !self.retry.is_due() {
            return false;
        }
        let begun = Instant::now();
        let result = child::run_silent(&command, timeout).and_then(Finished::success);
        self.seconds = Some(begun.elapsed().as_secs_f64());
        self.retry.after(result.is_err());
        match result {
            Ok(_) => {
                self.told_down.clone_from(down);
                self.error = None;
            }
            Err(error) => self.error = Some(error.to_string()),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_program_is_not_told_of_a_node_that_is_gone() {
        let text = "[[node]]\nname = \"node1\"\naddress = \"192.0.2.1\"\n";
        let config = Config::parse(text, Path::new("mailaffinity.toml")).unwrap();
        let wanted = Wanted {
            config: Arc::new(config),
            down: BTreeSet::new(),
        };
        let program = |known: &str| Program {
            command: vec!["/bin/true".into()],
            told_down: BTreeSet::from([known.to_owned()]),
            seconds: None,
            error: None,
            retry: Retry::default(),
        };
        for (known, is_told) in [("node1", true), ("node2", false)] {
            let mut program = program(known);
            assert_eq!(
                program.run_if_due(&wanted, Duration::from_secs(60)),
                is_told,
                "{known}"
            );
            assert_eq!(program.told_down, wanted.down);
        }
    }
}
