//! How long something may take in all, and how long to wait between two attempts at it.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// The end of the time that something may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    begun: Instant,
    timeout: Duration,
}

impl Deadline {
    /// The deadline of what begins now.
    pub fn after(timeout: Duration) -> Deadline {
        let begun = Instant::now();
        Deadline { begun, timeout }
    }

    /// The time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The time that is left: never zero, which sockets take for no timeout.
    ///
    /// # Errors
    /// `TimedOut` when there is none.
    pub fn left(&self) -> io::Result<Duration> {
        match self.timeout.saturating_sub(self.elapsed()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }

    /// Sleeps before the next attempt, the longer the more time was spent on those before.
    ///
    /// # Errors
    /// As [`left`](Deadline::left), and then at once.
    pub fn pause(&self) -> io::Result<()> {
        let left = self.left()?;
        let pause = self
            .elapsed()
            .clamp(Duration::from_micros(100), Duration::from_millis(16));
        thread::sleep(pause.min(left));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_end_with_the_time() {
        let timeout = Duration::from_millis(5);
        let deadline = Deadline::after(timeout);
        while deadline.pause().is_ok() {}
        assert!(deadline.elapsed() >= timeout);
        assert_eq!(deadline.left().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
