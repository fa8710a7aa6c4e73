//! Threads that ask about the nodes, each node on its own clock.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::standing::Answer;
use crate::checks::{self, ChecksError, Observation};
use crate::corosync::{self, CorosyncError, Word};
use crate::node_state;
use crate::probe::{NotUp, Service};
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
    /// Nothing about this one: why it could not be asked.
    Unasked(usize, String),
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
            let ask =
                move || tell(Found::Shared(node_state::read_shared(&path, Duration::MAX))).then_some(None);
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
                tell(Found::Corosync(asked, corosync::ask(&config.nodes, timeout))).then_some(None)
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
                let ask = move || {
                    tell(Found::Director(checks::ask_director(&config, &socket, timeout))).then_some(None)
                };
                repeat(alive(), SECOND, Duration::ZERO, ask)?;
            }
            Some(Checks { check, .. }) => {
                let (interval, timeout) = (*config.watch.interval, *config.watch.timeout);
                for (index, node) in config.nodes.iter().enumerate() {
                    let (check, node, tell) = (check.clone(), node.node.clone(), tell.clone());
                    let mut late = None;
                    let ask = move || {
                        let now = begun.elapsed();
                        let (result, open) = match checks::ask(&check, &node, timeout, &mut late) {
                            Ok(open) => (Ok(()), open),
                            Err(NotUp::Down(problem)) => (Err(problem), None),
                            Err(NotUp::Unasked(problem)) => {
                                return tell(Found::Unasked(index, problem)).then_some(None);
                            }
                        };
                        let since = |service: &Service| service.asked.saturating_duration_since(begun);
                        let (asked, given) = (open.as_ref().map_or(now, since), begun.elapsed());
                        tell(Found::Answer(index, Answer { asked, given, result })).then_some(open)
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

/// Asks again and again in a thread, until `ask` returns nothing; after a question that took
/// long, not more often than else. A connection that it leaves open is looked at meanwhile: if it
/// ends, the next question comes at once, but never twice in a row, as a service may end all.
fn repeat(
    goes_on: Weak<()>,
    interval: Duration,
    first: Duration,
    mut ask: impl FnMut() -> Option<Option<Service>> + Send + 'static,
) -> io::Result<()> {
    let ask_forever = move || {
        let mut next = Instant::now() + first;
        let mut is_early = false;
        let mut open = None;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            is_early = match open.take() {
                Some(service) if !is_early => Service::ends_within(&service, left),
                _ => {
                    thread::sleep(left);
                    false
                }
            };
            if goes_on.strong_count() == 0 {
                return;
            }
            let Some(kept) = ask() else { return };
            open = kept;
            let now = Instant::now();
            next = if is_early {
                now + interval
            } else {
                now.max(next + interval)
            };
        }
    };
    thread::Builder::new().spawn(ask_forever).map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;

    use super::*;
    use mailaffinity::config::Probe;

    /// Asks a service once an hour: each question as it comes, and the service's end of it.
    fn asked(listener: &TcpListener) -> (Arc<()>, mpsc::Receiver<()>) {
        let (goes_on, address) = (Arc::new(()), listener.local_addr().unwrap());
        let (tell, told) = mpsc::channel();
        let ask = move || {
            let check = Check::Probe(Probe::Tcp, address.port());
            let node = mailaffinity::mapping::Node::new("node1", address.ip());
            let open = checks::ask(&check, &node, Duration::from_secs(60), &mut None).unwrap();
            tell.send(()).ok().map(|()| open)
        };
        let hour = Duration::from_secs(3600);
        repeat(Arc::downgrade(&goes_on), hour, Duration::ZERO, ask).unwrap();
        (goes_on, told)
    }

    fn accept(listener: &TcpListener) -> TcpStream {
        listener.accept().unwrap().0
    }

    #[test]
    fn the_end_of_a_connection_is_noticed_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_goes_on, told) = asked(&listener);
        let first = accept(&listener);
        told.recv().unwrap();
        drop(first);
        // An hour early.
        let second = accept(&listener);
        told.recv().unwrap();
        drop(second);
        let third = told.recv_timeout(Duration::from_millis(100));
        assert!(third.is_err(), "but only once");
    }
}
