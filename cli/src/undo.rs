//! What is undone before SIGTERM, SIGINT or SIGHUP ends a command: programs that it started
//! end, and what it has made beside other files goes. Then it ends as by that signal. (A
//! command that never ends by itself does something else at SIGHUP.)
//!
//! All this is done by a thread that waits for them, so that it is done at any moment,
//! whatever the command waits for.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use mailaffinity::deadline::Deadline;

type Undo = Box<dyn FnOnce() + Send>;

/// What has begun, in this order.
static BEGUN: Mutex<BTreeMap<u64, Undo>> = Mutex::new(BTreeMap::new());

/// Shared by all that is just about to begin, which may take its time: a program does on storage
/// that hangs.
static BEGINNING: RwLock<()> = RwLock::new(());

/// How long a signal waits for that.
const PATIENCE: Duration = Duration::from_secs(1);

/// Held while a signal has to wait.
static HELD_OFF: Mutex<()> = Mutex::new(());

/// What happens at SIGHUP, if that does not end the command.
static AT_HANGUP: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Something that has begun, and is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Begun(u64);

/// Begins something and says how it is undone. No signal comes between the two, unless it takes
/// longer than [`PATIENCE`]: then it has to be over with this process by itself, or do no harm.
pub(crate) fn begin<T, E, U: FnOnce() + Send + 'static>(
    begin: impl FnOnce() -> Result<(T, U), E>,
) -> Result<(T, Begun), E> {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let _beginning = BEGINNING.read().unwrap_or_else(PoisonError::into_inner);
    let (made, undo) = begin()?;
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    lock(&BEGUN).insert(number, Box::new(undo));
    Ok((made, Begun(number)))
}

impl Begun {
    /// From now on, nothing is to be undone.
    pub(crate) fn over(&self) {
        let undo = lock(&BEGUN).remove(&self.0);
        drop(undo);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.over();
    }
}

/// Lets signals wait until what this returns is dropped: for moments only, between the parts
/// of what is to happen as a whole.
pub(crate) fn hold_off() -> MutexGuard<'static, ()> {
    lock(&HELD_OFF)
}

/// Has SIGHUP do this from now on, and not end the command. Only once.
pub(crate) fn at_hangup(act: impl Fn() + Send + Sync + 'static) {
    let _ = AT_HANGUP.set(Box::new(act));
}

/// Undoes what has begun when a signal comes, from now on. Without a thread to wait for them,
/// or without knowing which of them are ignored, signals end the command as ever.
pub(crate) fn before_signals() {
    let (ready, is_ready) = mpsc::channel();
    let wait = move || {
        let signals = Signals::new(that_end());
        drop(ready);
        let Ok(mut signals) = signals else { return };
        for signal in signals.forever() {
            if signal == SIGHUP
                && let Some(act) = AT_HANGUP.get()
            {
                act();
                continue;
            }
            let _held_off = hold_off();
            let deadline = Deadline::after(PATIENCE);
            let mut nothing_begins = BEGINNING.try_write();
            while nothing_begins.is_err() && deadline.pause().is_ok() {
                nothing_begins = BEGINNING.try_write();
            }
            // And nothing is over.
            let mut begun = lock(&BEGUN);
            while let Some((_, undo)) = begun.pop_last() {
                undo();
            }
            let _ = emulate_default_handler(signal);
        }
    };
    if thread::Builder::new().spawn(wait).is_ok() {
        let _: Result<(), _> = is_ready.recv();
    }
}

/// Those of the signals that whoever started us does not have us ignore, as nohup does.
fn that_end() -> Vec<c_int> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let Some(ignored) = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else {
        return Vec::new();
    };
    let mut signals = vec![SIGHUP, SIGINT, SIGTERM];
    signals.retain(|signal| ignored >> (signal - 1) & 1 == 0);
    signals
}

/// A thread that panicked has left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn what_takes_its_time_to_begin_holds_up_nothing_else() {
        let (go_on, goes_on) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let slow = thread::spawn(move || {
            let begun = begin(|| {
                tell.send(()).unwrap();
                goes_on.recv().map(|()| ((), || ()))
            });
            begun.map(drop)
        });
        told.recv().unwrap();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let begun = begin(|| Ok::<_, Infallible>(((), || ()))).map(drop);
            tell.send(begun)
        });
        // Far more than it takes.
        assert!(told.recv_timeout(Duration::from_secs(60)).is_ok());
        go_on.send(()).unwrap();
        assert!(slow.join().unwrap().is_ok());
    }
}
