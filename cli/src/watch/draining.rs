//! The queues of nodes that have been down for long: a thread that has this node's share run.
//!
//! `mailaffinity drain` does that, as a program of its own: it may wait for storage that hangs,
//! which no process survives, and the sendmails that it starts go on whatever ends the watcher.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use clap::Args;

use super::wanted::{Wanted, next};
use crate::child::{self, Finished};
use crate::drain::{self, Duty, duties};
use crate::nodes::ThisNode;
use mailaffinity::config::NodeConfig;

/// The time from one drain of a queue to the next, as its timer has it.
const PAUSE: Duration = Duration::from_secs(300);

/// Which node this is, and what drains there.
#[derive(Args, Default)]
pub(crate) struct Drains {
    #[command(flatten)]
    pub(super) this_node: ThisNode,

    /// The unit that systemd starts for the queues of dead nodes [default: "mailaffinity drain" is run]
    #[arg(long, value_name = "UNIT")]
    drain_unit: Option<OsString>,
}

/// Has queues run whenever that is due, until nobody is left who wants anything, or `tell` says
/// no, which hears how long the last drain took, and what is wrong.
pub(crate) fn drain_forever(
    path: &Path,
    drains: Drains,
    wanted: &Receiver<Wanted>,
    tell: impl Fn(Option<f64>, Option<String>) -> bool,
) {
    let mut draining = Draining {
        program: env::current_exe().unwrap_or_default(),
        path,
        drains,
        drained: BTreeMap::new(),
        seconds: None,
        problem: None,
    };
    let (mut current, mut wait) = (None, Duration::MAX);
    while let Some(next) = next(wanted, wait) {
        current = next.or(current);
        let Some(current) = &current else { continue };
        wait = draining.go_on(current);
        if !tell(draining.seconds, draining.problem.clone()) {
            return;
        }
    }
}

struct Draining<'d> {
    /// This one, wherever an upgrade moves it.
    program: PathBuf,
    /// The configuration.
    path: &'d Path,
    drains: Drains,
    /// The dead nodes whose queues are this node's to run, and when they were run last.
    drained: BTreeMap<String, Option<Instant>>,
    seconds: Option<f64>,
    problem: Option<String>,
}

impl Draining<'_> {
    /// Drains what is due. How long it is until something else will be.
    fn go_on(&mut self, wanted: &Wanted) -> Duration {
        let mut nodes = wanted.config.nodes.iter();
        let this_node = match nodes.any(|node| node.queue_path.is_some()) {
            true => self.drains.this_node.find(&wanted.config),
            false => Ok(None),
        };
        let this_node = match this_node {
            Ok(Some(this_node)) => this_node,
            // A proxy has no queues.
            Ok(None) => {
                self.problem = None;
                return Duration::MAX;
            }
            Err(failure) => {
                self.problem = Some(failure.to_string());
                return Duration::MAX;
            }
        };
        let wait = self.wait(wanted, this_node);
        if !wait.is_zero() {
            return wait;
        }
        let begun = Instant::now();
        let drained = child::run_silent(&self.command(this_node), drain::longest(&wanted.config));
        self.problem = drained
            .and_then(Finished::success)
            .err()
            .map(|error| error.to_string());
        self.seconds = Some(begun.elapsed().as_secs_f64());
        self.drained
            .values_mut()
            .for_each(|last| *last = Some(Instant::now()));
        self.wait(wanted, this_node)
    }

    /// How long it is until a queue is to be run, by what is known now.
    fn wait(&mut self, wanted: &Wanted, this_node: &NodeConfig) -> Duration {
        let Wanted { config, state, .. } = wanted;
        let mut before = mem::take(&mut self.drained);
        for duty in duties(config, state, this_node) {
            if let Duty::Ours(queue) = duty {
                let name = &queue.node.node.name;
                let last = before.remove(name).flatten();
                self.drained.insert(name.clone(), last);
            }
        }
        if self.drained.is_empty() {
            self.problem = None;
        }
        let again = self
            .drained
            .values()
            .map(|last| last.map_or(Duration::ZERO, |last| PAUSE.saturating_sub(last.elapsed())));
        let others = config
            .nodes
            .iter()
            .filter_map(|node| drain::wait(config, state, node));
        again.chain(others).min().unwrap_or(Duration::MAX)
    }

    fn command(&self, this_node: &NodeConfig) -> Vec<OsString> {
        match &self.drains.drain_unit {
            Some(unit) => vec!["systemctl".into(), "start".into(), unit.clone()],
            None => vec![
                self.program.clone().into(),
                "--config".into(),
                self.path.into(),
                "drain".into(),
                "--node".into(),
                this_node.node.name.clone().into(),
            ],
        }
    }
}
