//! What follows when nodes or files have changed: threads that never hold up those who ask.
//!
//! Sessions of users who belong elsewhere come first, then the access map, then the programs,
//! which are started whether the map could follow or not, and the queues of dead nodes when their
//! time has come. None waits long for a step before it that takes its time. Each is tried again
//! until it succeeds, with pauses that grow.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::draining::{self, Drains};
use super::ending::{self, Ended};
use super::wanted::{Retry, Wanted, next};
use crate::child::{self, Finished};
use crate::update_run::UpdateRun;

/// How long programs wait for an update.
const PATIENCE: Duration = Duration::from_secs(30);

/// What programs wait for.
enum Told {
    Wanted(Wanted),
    /// An update has come to its end.
    Updated,
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Done {
    /// The sessions, if there are any to end, and what is wrong.
    Sessions(Option<Ended>, Option<String>),
    /// The update, after so many seconds.
    Update(f64, Result<(), String>),
    /// It has not come to its end for so long.
    UpdateLasts(Duration),
    /// The programs, and what all of them came to so far.
    Programs(Vec<Program>),
    /// The drain, after so many seconds if there was one, and what is wrong.
    Drain(Option<f64>, Option<String>),
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

/// The threads.
pub(crate) struct Steps {
    sessions: Sender<Wanted>,
    updates: Sender<Wanted>,
    programs: Sender<Told>,
    drains: Sender<Wanted>,
}

impl Steps {
    /// Starts them. They do at once what is wanted, until `tell` says no. `known` is what programs
    /// knew when a watcher ended.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub(crate) fn begin(
        path: &Path,
        wanted: Wanted,
        known: Vec<Program>,
        drains: Drains,
        tell: impl Fn(Done) -> bool + Clone + Send + 'static,
    ) -> io::Result<Steps> {
        let (sessions, sessions_wanted) = mpsc::channel();
        let (updates, updates_wanted) = mpsc::channel();
        let (programs, programs_wanted) = mpsc::channel();
        let told = tell.clone();
        let tell_sessions = move |ended, problem| told(Done::Sessions(ended, problem));
        let this_node = drains.this_node.clone();
        in_thread(move || ending::end_forever(&this_node, &sessions_wanted, tell_sessions))?;
        let (drained_by, told, (drain, drain_wanted)) = (path.to_owned(), tell.clone(), mpsc::channel());
        let tell_drain = move |seconds, problem| told(Done::Drain(seconds, problem));
        in_thread(move || draining::drain_forever(&drained_by, drains, &drain_wanted, tell_drain))?;
        let (path, first, tell_update) = (path.to_owned(), wanted.clone(), tell.clone());
        let updated = programs.clone();
        in_thread(move || update_forever(&path, first, &updates_wanted, &updated, tell_update))?;
        let all = Programs {
            programs: known,
            wanted,
        };
        in_thread(move || all.run_forever(&programs_wanted, tell))?;
        Ok(Steps {
            sessions,
            updates,
            programs,
            drains: drain,
        })
    }

    /// Has all that follows done.
    ///
    /// # Errors
    /// When one of the threads has ended.
    pub(crate) fn want(&self, wanted: Wanted) -> Result<(), SendError<Wanted>> {
        self.sessions.send(wanted.clone())?;
        // Before the update can come to its end.
        let told = self.programs.send(Told::Wanted(wanted.clone()));
        told.map_err(|_| SendError(wanted.clone()))?;
        self.updates.send(wanted.clone())?;
        self.drains.send(wanted)
    }
}

fn in_thread(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().spawn(work).map(drop)
}

fn update_forever(
    path: &Path,
    mut wanted: Wanted,
    updates: &Receiver<Wanted>,
    programs: &Sender<Told>,
    tell: impl Fn(Done) -> bool,
) {
    let mut retry = Retry::default();
    let mut wait = Duration::MAX;
    while let Some(next) = next(updates, wait) {
        wanted = next.unwrap_or(wanted);
        let begun = Instant::now();
        let run = UpdateRun {
            tells_problems: false,
            ..UpdateRun::of(path, &wanted.config)
        };
        let result = run.run().map_err(|failure| failure.to_string());
        retry.after(result.is_err());
        wait = match &result {
            Ok(()) => *wanted.config.watch.update,
            Err(_) => retry.wait(),
        };
        let is_told = tell(Done::Update(begun.elapsed().as_secs_f64(), result));
        if !is_told || programs.send(Told::Updated).is_err() {
            return;
        }
    }
}

struct Programs {
    programs: Vec<Program>,
    wanted: Wanted,
}

impl Programs {
    fn run_forever(mut self, told: &Receiver<Told>, tell: impl Fn(Done) -> bool) {
        self.take_configured();
        // Until when an update is waited for.
        let mut until: Option<Instant> = None;
        let mut wait = Duration::MAX;
        loop {
            let first = match told.recv_timeout(wait) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for told in first.into_iter().chain(told.try_iter()) {
                match told {
                    Told::Wanted(wanted) => {
                        self.wanted = wanted;
                        self.take_configured();
                        until = until.or_else(|| Some(Instant::now() + PATIENCE));
                    }
                    Told::Updated => until = None,
                }
            }
            wait = until.map_or(Duration::ZERO, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if !wait.is_zero() {
                continue;
            }
            if until.take().is_some() && !tell(Done::UpdateLasts(PATIENCE)) {
                return;
            }
            let Wanted { config, down, .. } = &self.wanted;
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
        let Wanted { config, down, .. } = &self.wanted;
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
        let Wanted { config, down, .. } = wanted;
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
    use std::sync::Arc;

    use super::*;
    use mailaffinity::config::Config;

    #[test]
    fn a_program_is_not_told_of_a_node_that_is_gone() {
        let text = "[[node]]\nname = \"node1\"\naddress = \"192.0.2.1\"\n";
        let config = Config::parse(text, Path::new("mailaffinity.toml")).unwrap();
        let wanted = Wanted {
            config: Arc::new(config),
            state: Arc::default(),
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
