//! Threads that ask about the nodes, each node on its own clock.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::standing::Answer;
use crate::checks::{self, ChecksError, Observation};
use crate::corosync::{self, CorosyncError, Word};
use crate::node_state;
use crate::shared_node_state::SharedError;
use mailaffinity::config::{Check, Checks, Config, Quorum};
use mailaffinity::node_state::NodeState;

/// How often a Director is asked, and corosync, and the shared node state is read.
const SECOND: Duration = Duration::from_secs(1);

/// What was found out.
#[derive(Debug)]
pub(crate) enum Found {
    /// About the node with this place in the configuration.
    Answer(usize, Answer),
    /// By a Director.
    Director(Result<Observation, ChecksError>),
    /// In the node state that machines share.
    Shared(Result<NodeState, SharedError>),
    /// By corosync, which was asked then.
    Corosync(Duration, Result<Word, CorosyncError>),
}

/// Those who ask by one configuration, until this is dropped.
#[derive(Debug)]
pub(crate) struct Asking {
    _goes_on: Arc<()>,
}

impl Asking {
    /// Begins to ask, and to tell what was found until `tell` says no. Times of answers are
    /// those since `begun`.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub(crate) fn begin(
        config: &Arc<Config>,
        begun: Instant,
        tell: impl Fn(Found) -> bool + Clone + Send + 'static,
    ) -> io::Result<Asking> {
        let goes_on = Arc::new(());
        let alive = || Arc::downgrade(&goes_on);
        if let Some(path) = config.shared_node_state.clone() {
            let tell = tell.clone();
            let ask = move || tell(Found::Shared(node_state::read_shared(&path, Duration::MAX)));
            repeat(alive(), SECOND, Duration::ZERO, ask)?;
        }
        if let Some(Checks {
            quorum: Some(Quorum::Corosync),
            timeout,
            ..
        }) = &config.checks
        {
            let (config, timeout, tell) = (config.clone(), **timeout, tell.clone());
            let ask = move || {
                let asked = begun.elapsed();
                tell(Found::Corosync(asked, corosync::ask(&config.nodes, timeout)))
            };
            repeat(alive(), SECOND, Duration::ZERO, ask)?;
        }
        match &config.checks {
            None => {}
            Some(Checks {
                check: Check::Director(socket),
                timeout,
                ..
            }) => {
                let (config, socket, timeout) = (config.clone(), socket.clone(), **timeout);
                let ask = move || tell(Found::Director(checks::ask_director(&config, &socket, timeout)));
                repeat(alive(), SECOND, Duration::ZERO, ask)?;
            }
            Some(Checks { check, .. }) => {
                let (interval, timeout) = (*config.watch.interval, *config.watch.timeout);
                for (index, node) in config.nodes.iter().enumerate() {
                    let (check, node, tell) = (check.clone(), node.node.clone(), tell.clone());
                    let ask = move || {
                        let asked = begun.elapsed();
                        let result = checks::ask(&check, &node, timeout);
                        let given = begun.elapsed();
                        tell(Found::Answer(index, Answer { asked, given, result }))
                    };
                    // Not all at the same moment.
                    let part = index as f64 / config.nodes.len() as f64;
                    repeat(alive(), interval, interval.mul_f64(part), ask)?;
                }
            }
        }
        Ok(Asking { _goes_on: goes_on })
    }
}

/// Asks again and again in a thread; after a question that took long, not more often than else.
fn repeat(
    goes_on: Weak<()>,
    interval: Duration,
    first: Duration,
    ask: impl Fn() -> bool + Send + 'static,
) -> io::Result<()> {
    let ask_forever = move || {
        let mut next = Instant::now() + first;
        loop {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            if goes_on.strong_count() == 0 || !ask() {
                return;
            }
            next = Instant::now().max(next + interval);
        }
    };
    thread::Builder::new().spawn(ask_forever).map(drop)
}
