//! Runs the queues of nodes that are down.
//!
//! Mail that waits in a dead node's queue would wait until the node is back. Of those
//! that are up, one node runs the queue in its place: the one that the mapping gives to
//! the dead node's name, so that all nodes agree on it without a word. It holds a lock
//! in the queue directory meanwhile, and sendmail itself locks each message that it
//! delivers, so a node that comes back can run its own queue at any time.
//!
//! sendmail is told the ids of some messages at a time and is never interrupted, which
//! could deliver a message twice. Each message is tried once in a drain; one that cannot
//! be delivered stays queued.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::child;
use crate::files::lock;
use crate::files::place::Place;
use crate::queue_group;
use mailaffinity::config::{Config, NodeConfig};
use mailaffinity::deadline::Deadline;
use mailaffinity::mapping::UsernameHash;
use mailaffinity::node_state::NodeState;

/// Messages for one sendmail: few enough that a node that comes back gets the rest.
const BATCH: usize = 20;
/// What the batches that were begun before the limit may take after it, before others
/// worry.
const LAST_BATCH: Duration = Duration::from_secs(600);
/// sendmail's own timeouts end a delivery long before.
const SENDMAIL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// A queue that this node is to run.
#[derive(Debug)]
pub struct Queue<'c> {
    /// The dead node.
    pub node: &'c NodeConfig,
    queue_group: &'c str,
    path: &'c Path,
}

/// What is to be done about the queue of a node that is down.
#[derive(Debug)]
pub enum Duty<'c> {
    /// This node runs it.
    Ours(Queue<'c>),
    /// Another node runs it.
    Others {
        /// The dead node.
        node: &'c NodeConfig,
        /// Who runs it.
        by: &'c NodeConfig,
    },
    /// Nobody does, and why.
    Nobody {
        /// The dead node.
        node: &'c NodeConfig,
        /// Why.
        why: String,
    },
}

/// How a queue was run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// Messages that waited before.
    pub before: usize,
    /// Messages that wait now.
    pub after: usize,
    /// Why not all of them were tried.
    pub ended_early: Option<&'static str>,
    /// What sendmails that failed or complained said, once each.
    pub problems: Vec<String>,
}

/// Why a queue could not be run.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The queue directory could not be read or locked.
    #[error("queue {}: {_1}", _0.display())]
    Io(PathBuf, io::Error),
    /// Another drain is at it.
    #[error("another drain is at work: {0}")]
    Locked(io::Error),
    /// Another drain has been at it for longer than it may begin new batches.
    #[error("another drain has been at work for {} s, past its limit_seconds; end it if it hangs: {error}", since.as_secs())]
    Overdue {
        /// How long.
        since: Duration,
        /// Who.
        error: io::Error,
    },
}

/// What is to be done about each node that is down, as seen from `this_node`.
pub fn duties<'c>(config: &'c Config, state: &NodeState, this_node: &NodeConfig) -> Vec<Duty<'c>> {
    let down = config.nodes.iter().filter(|node| state.is_down(&node.node.name));
    down.map(|node| match chosen(config, state, node) {
        Err(why) => Duty::Nobody { node, why },
        Ok(by) if by.node.name == this_node.node.name => match queue_of(node) {
            Ok(queue) => Duty::Ours(queue),
            Err(why) => Duty::Nobody { node, why },
        },
        Ok(by) => Duty::Others { node, by },
    })
    .collect()
}

/// How long a node that is down has been so, where that is not yet long enough for others to
/// run its queue. A mark without a time was written by hand, by somebody who knew.
fn too_short(config: &Config, state: &NodeState, node: &NodeConfig) -> Option<SignedDuration> {
    let since = state.mark_of(&node.node.name)?.since?;
    let down_for = Timestamp::now().duration_since(since);
    // Clocks differ. But whoever waited for one that was wrong might wait for years.
    (down_for.unsigned_abs() < *config.drain.after).then_some(down_for)
}

/// How long it is until somebody runs the queue of a node, if it is down and not yet for long
/// enough.
pub(crate) fn wait(config: &Config, state: &NodeState, node: &NodeConfig) -> Option<Duration> {
    let down_for = too_short(config, state, node).filter(|_| state.is_down(&node.node.name))?;
    let after = SignedDuration::try_from(*config.drain.after).ok()?;
    Some(after.saturating_sub(down_for).unsigned_abs())
}

/// How long a drain takes at most, unless somebody hangs.
pub(crate) fn longest(config: &Config) -> Duration {
    config.drain.limit.saturating_add(LAST_BATCH)
}

/// Who runs the queue of a node that is down.
fn chosen<'c>(config: &'c Config, state: &NodeState, node: &NodeConfig) -> Result<&'c NodeConfig, String> {
    if let Some(down_for) = too_short(config, state, node) {
        return Err(format!(
            "it has been down for {} of the {} s of after_seconds",
            down_for.as_secs().max(0),
            config.drain.after.as_secs()
        ));
    }
    // Without moved users: a hash that happens to be that of one must not count.
    let state = state.without_moved();
    let cluster = config.cluster(&state).map_err(|error| error.to_string())?;
    let tag = state
        .nodes
        .get(&node.node.name)
        .and_then(|entry| entry.tag.as_deref());
    // Not by the configured username hash, which may look at a part of a name only.
    let hash = UsernameHash::default()
        .hash(node.node.name.as_bytes())
        .map_err(|error| error.to_string())?;
    cluster
        .index_of_hash(hash, tag.unwrap_or(&node.node.tag))
        .and_then(|index| config.nodes.get(index))
        .ok_or_else(|| "no node with its tag is up".into())
}

fn queue_of(node: &NodeConfig) -> Result<Queue<'_>, String> {
    let queue_group = node.queue_group.as_deref().ok_or("it has no queue_group")?;
    let path = node.queue_path.as_deref().ok_or("it has no queue_path")?;
    Ok(Queue {
        node,
        queue_group,
        path,
    })
}

impl Queue<'_> {
    /// The ids of the messages that wait.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn message_ids(&self) -> Result<Vec<String>, DrainError> {
        let mut ids = Vec::new();
        for directory in self.directories()? {
            match queue_group::message_ids(&directory) {
                Ok(found) => ids.extend(found),
                Err(error) => return Err(DrainError::Io(directory, error)),
            }
        }
        Ok(ids)
    }

    fn directories(&self) -> Result<Vec<PathBuf>, DrainError> {
        queue_group::directories(self.path).map_err(|error| DrainError::Io(self.path.to_owned(), error))
    }

    /// Runs the queue until each message that waits now was tried once, the time of the
    /// configuration is over, or the node is no longer this one's to run. `progress` is
    /// told how many messages were tried, of how many.
    ///
    /// # Errors
    /// When another drain is at it, or the queue cannot be read.
    pub fn drain(
        &self,
        config: &Config,
        this_node: &NodeConfig,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Result<Drained, DrainError> {
        let directories = self.directories()?;
        let lock_of = directories
            .first()
            .map_or(self.path, PathBuf::as_path)
            .join("mailaffinity");
        let failed = |error| DrainError::Io(self.path.to_owned(), error);
        // sendmail follows links to queue directories, whosever folder they are in (seen).
        let place = Place::by_our_links(&lock_of).map_err(failed)?;
        let _lock = lock::of(&place, Duration::ZERO).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => match lock::held_for(&place) {
                Some(since) if since > longest(config) => DrainError::Overdue { since, error },
                _ => DrainError::Locked(error),
            },
            _ => failed(error),
        })?;
        let ids = self.message_ids()?;
        let deadline = Deadline::after(*config.drain.limit);
        let run = Mutex::new(Run {
            batches: ids.chunks(BATCH),
            tried: 0,
            ended_early: None,
            problems: Vec::new(),
        });
        let work = || {
            while let Some(batch) = next_batch(&run, || self.reason_to_end(config, this_node, deadline)) {
                let problem = self.run_sendmail(config, batch).err();
                let mut run = locked(&run);
                run.tried += batch.len();
                progress(run.tried, ids.len());
                if let Some(problem) = problem
                    && !run.problems.contains(&problem)
                {
                    run.problems.push(problem);
                }
            }
        };
        thread::scope(|scope| {
            let begins = || thread::Builder::new().spawn_scoped(scope, work).is_ok();
            // Where the system has no thread left, it is done here.
            if (0..*config.drain.runners).filter(|_| begins()).count() == 0 {
                work();
            }
        });
        let run = run.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        Ok(Drained {
            before: ids.len(),
            after: self.message_ids()?.len(),
            ended_early: run.ended_early,
            problems: run.problems,
        })
    }

    fn reason_to_end(
        &self,
        config: &Config,
        this_node: &NodeConfig,
        deadline: Deadline,
    ) -> Option<&'static str> {
        if deadline.left().is_err() {
            return Some("the time for a drain was over");
        }
        let Ok(state) = NodeState::load(&config.node_state) else {
            return Some("the node state cannot be read");
        };
        let still_ours = state.is_down(&self.node.node.name)
            && chosen(config, &state, self.node).is_ok_and(|by| by.node.name == this_node.node.name);
        (!still_ours).then_some("the nodes changed")
    }

    /// Has sendmail try these messages, one after the other.
    fn run_sendmail(&self, config: &Config, ids: &[String]) -> Result<(), String> {
        let mut command = config.sendmail.command.to_vec();
        // Without -qf it would go on in the background.
        command.extend(["-qf".into(), format!("-qG{}", self.queue_group)]);
        let name = child::name(&command);
        command.extend(ids.iter().map(|id| format!("-qI{id}")));
        // It succeeds also where it could do nothing, as for an unknown queue group.
        child::run_on(&command, SENDMAIL_TIMEOUT)
            .and_then(child::Finished::silent_success)
            .map_err(|error| format!("{name} {}", error.problem))
    }
}

/// What the runners share.
struct Run<'i> {
    batches: std::slice::Chunks<'i, String>,
    tried: usize,
    ended_early: Option<&'static str>,
    problems: Vec<String>,
}

fn next_batch<'i>(
    run: &Mutex<Run<'i>>,
    reason_to_end: impl FnOnce() -> Option<&'static str>,
) -> Option<&'i [String]> {
    let reason = reason_to_end();
    let mut run = locked(run);
    if run.ended_early.is_some() {
        return None;
    }
    let batch = run.batches.next();
    if batch.is_some() && reason.is_some() {
        run.ended_early = reason;
        return None;
    }
    batch
}

/// A runner that panicked has left nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
