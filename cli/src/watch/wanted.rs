//! What the threads of the watcher are to see to, and when what failed is tried again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use mailaffinity::config::Config;
use mailaffinity::node_state::NodeState;

/// The pause after a first failure, and after many.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is to be in force.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) config: Arc<Config>,
    /// The node state that is in force,
    pub(crate) state: Arc<NodeState>,
    /// and the nodes that are down by it.
    pub(crate) down: BTreeSet<String>,
}

/// Waits until something is wanted, or for this time; of several, the last counts. `None`
/// when nobody is left who could want anything.
pub(crate) fn next<T>(wanted: &Receiver<T>, wait: Duration) -> Option<Option<T>> {
    match wanted.recv_timeout(wait) {
        Ok(first) => Some(Some(wanted.try_iter().last().unwrap_or(first))),
        Err(RecvTimeoutError::Timeout) => Some(None),
        Err(RecvTimeoutError::Disconnected) => None,
    }
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
