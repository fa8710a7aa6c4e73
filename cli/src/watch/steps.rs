//! What follows when nodes or files have changed: threads that never hold up those who ask.
//!
//! Sessions of users who belong elsewhere come first, then the access map, then the programs,
//! which are started whether the map could follow or not, and the queues of dead nodes when their
//! time has come. None waits long for a step before it that takes its time. Each is tried again
//! until it succeeds, with pauses that grow.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::draining::{self, Drains};
use super::ending::{self, Ended};
use super::wanted::{Retry, Wanted, next};
use crate::access_source::managed_block;
use crate::child::{self, Finished};
use crate::update_run::UpdateRun;

/// How long programs wait for an update.
const PATIENCE: Duration = Duration::from_secs(30);

/// What programs wait for.
enum Told {
    Wanted(Numbered),
    /// An update has come to its end, for what has this number and all before it.
    Updated(u64),
}

/// What is wanted, numbered as it comes.
type Numbered = (u64, Wanted);

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
    /// Its path,
    program: String,
    /// and a digest of that and its arguments, which are not for all who may read the status.
    digest: String,
    #[serde(skip)]
    command: Vec<String>,
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
    /// Counts what was wanted.
    number: u64,
    sessions: Sender<Wanted>,
    updates: Sender<Numbered>,
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
        let (path, first, tell_update) = (path.to_owned(), (0, wanted), tell.clone());
        let _ = programs.send(Told::Wanted(first.clone()));
        let updated = programs.clone();
        in_thread(move || update_forever(&path, first, &updates_wanted, &updated, tell_update))?;
        in_thread(move || Programs::new(known).run_forever(&programs_wanted, tell))?;
        Ok(Steps {
            number: 0,
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
    pub(crate) fn want(&mut self, wanted: Wanted) -> Result<(), SendError<Wanted>> {
        self.number = self.number.wrapping_add(1);
        self.sessions.send(wanted.clone())?;
        // Before the update can come to its end.
        let told = self.programs.send(Told::Wanted((self.number, wanted.clone())));
        told.map_err(|_| SendError(wanted.clone()))?;
        let updates = self.updates.send((self.number, wanted.clone()));
        updates.map_err(|_| SendError(wanted.clone()))?;
        self.drains.send(wanted)
    }
}

fn in_thread(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().spawn(work).map(drop)
}

fn update_forever(
    path: &Path,
    mut last: Numbered,
    updates: &Receiver<Numbered>,
    programs: &Sender<Told>,
    tell: impl Fn(Done) -> bool,
) {
    let mut retry = Retry::default();
    let mut wait = Duration::MAX;
    while let Some(next) = next(updates, wait) {
        last = next.unwrap_or(last);
        let (number, wanted) = &last;
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
        if !is_told || programs.send(Told::Updated(*number)).is_err() {
            return;
        }
    }
}

struct Programs {
    programs: Vec<Program>,
    /// What they are to be told.
    wanted: Option<Wanted>,
    /// What follows that, with its numbers, and until when an update is waited for.
    awaited: VecDeque<(Instant, Numbered)>,
}

impl Programs {
    fn new(known: Vec<Program>) -> Programs {
        Programs {
            programs: known,
            wanted: None,
            awaited: VecDeque::new(),
        }
    }

    fn run_forever(mut self, told: &Receiver<Told>, tell: impl Fn(Done) -> bool) {
        let mut wait = Duration::MAX;
        loop {
            let first = match told.recv_timeout(wait) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for told in first.into_iter().chain(told.try_iter()) {
                match told {
                    Told::Wanted(wanted) => self.awaited.push_back((Instant::now() + PATIENCE, wanted)),
                    Told::Updated(number) => self.take(number),
                }
            }
            if self.wait_for_update().is_zero() {
                self.take(u64::MAX);
                if !tell(Done::UpdateLasts(PATIENCE)) {
                    return;
                }
            }
            wait = self.wait_for_update();
            let Some(wanted) = &self.wanted else { continue };
            let timeout = *wanted.config.watch.on_change_timeout;
            let mut has_run = false;
            for program in &mut self.programs {
                has_run |= program.run_if_due(wanted, timeout);
            }
            let waiting = self
                .programs
                .iter()
                .filter(|program| program.told_down != wanted.down);
            let waits = waiting.map(|program| program.retry.wait());
            wait = waits.fold(self.wait_for_update(), Duration::min);
            if has_run && !tell(Done::Programs(self.programs.clone())) {
                return;
            }
        }
    }

    fn wait_for_update(&self) -> Duration {
        let until = self.awaited.front().map(|(until, _)| *until);
        until.map_or(Duration::MAX, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// Has them told of what has this number, and of all before it.
    fn take(&mut self, number: u64) {
        while self.awaited.front().is_some_and(|(_, (own, _))| *own <= number)
            && let Some((_, (_, wanted))) = self.awaited.pop_front()
        {
            self.take_configured(&wanted);
            self.wanted = Some(wanted);
        }
    }

    /// The programs of the configuration. A new one has nothing to be told.
    fn take_configured(&mut self, wanted: &Wanted) {
        let Wanted { config, down, .. } = wanted;
        let program = |command: &[String]| {
            let digest = digest(command);
            let known = self.programs.iter().find(|program| program.digest == digest);
            Program {
                command: command.to_vec(),
                ..known.cloned().unwrap_or_else(|| Program::new(command, down))
            }
        };
        let commands = config.watch.on_change.iter();
        self.programs = commands.map(|command| program(command)).collect();
    }
}

/// Of the words of a command.
fn digest(command: &[String]) -> String {
    let words = command.iter().flat_map(|word| [word.as_bytes(), b"\0"]);
    managed_block::digest(&words.collect::<Vec<_>>())
}

impl Program {
    fn new(command: &[String], told_down: &BTreeSet<String>) -> Program {
        Program {
            program: command.first().cloned().unwrap_or_default(),
            digest: digest(command),
            command: command.to_vec(),
            told_down: told_down.clone(),
            seconds: None,
            error: None,
            retry: Retry::default(),
        }
    }

    /// Tells it of the nodes that are not as it was told last. Says whether it was started.
    fn run_if_due(&mut self, wanted: &Wanted, timeout: Duration) -> bool {
        let Wanted { config, down, .. } = wanted;
        let mut news = Vec::new();
        // One that the configuration no longer has is neither.
        self.told_down
            .retain(|node| config.nodes.index_of(node).is_some());
        for node in self.told_down.symmetric_difference(down) {
            let state = if down.contains(node) { "down" } else { "up" };
            news.extend([node.clone(), state.into()]);
        }
        if news.is_empty() || !self.retry.is_due() {
            return false;
        }
        let command = [&self.command[..], &news].concat();
        let begun = Instant::now();
        let result = child::run_silent(&command, timeout).and_then(Finished::success);
        self.seconds = Some(begun.elapsed().as_secs_f64());
        self.retry.after(result.is_err());
        match result {
            Ok(_) => {
                self.told_down.clone_from(down);
                self.error = None;
            }
            Err(error) => {
                news.insert(0, self.program.clone());
                self.error = Some(format!("{} {}", child::name(&news), error.problem));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use mailaffinity::config::Config;

    /// With these nodes down.
    fn wanted(down: &[&str]) -> Wanted {
        let text =
            "watch.on_change = [[\"/bin/true\"]]\n[[node]]\nname = \"node1\"\naddress = \"192.0.2.1\"\n";
        let config = Config::parse(text, Path::new("mailaffinity.toml")).unwrap();
        Wanted {
            config: Arc::new(config),
            state: Arc::default(),
            down: nodes(down),
        }
    }

    fn nodes(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn program(known: &str) -> Program {
        Program::new(&["/bin/true".into()], &nodes(&[known]))
    }

    #[test]
    fn a_program_is_not_told_of_a_node_that_is_gone() {
        let wanted = wanted(&[]);
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

    /// An update that began before a change says nothing of that.
    #[test]
    fn programs_wait_for_the_update_that_follows_a_change() {
        let (tell, told) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        for number in [(0, wanted(&[])), (1, wanted(&["node1"]))] {
            tell.send(Told::Wanted(number)).unwrap();
        }
        tell.send(Told::Updated(0)).unwrap();
        let programs = Programs::new(vec![program("node1")]);
        thread::spawn(move || programs.run_forever(&told, |what| done.send(what).is_ok()));
        // Far more than it takes.
        let told_down = || match is_done.recv_timeout(Duration::from_secs(60)).unwrap() {
            Done::Programs(programs) => programs[0].told_down.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(told_down(), nodes(&[]));
        tell.send(Told::Updated(1)).unwrap();
        assert_eq!(told_down(), nodes(&["node1"]));
    }
}
