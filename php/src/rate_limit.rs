//! How often the administrator is told the same.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Lets each message pass once in a while, so that no web client can flood the log.
#[derive(Default)]
pub(crate) struct RateLimit {
    passed: HashMap<String, Passed>,
}

struct Passed {
    at: Instant,
    held_back: u64,
}

impl RateLimit {
    const INTERVAL: Duration = Duration::from_secs(60);
    const MESSAGES: usize = 100;
    const TOO_MANY: &str = "too many different messages; holding back those that are new";

    /// The line to log for a message, unless it is held back.
    pub(crate) fn admit(&mut self, message: &str, now: Instant) -> Option<String> {
        let message = if self.has_room_for(message, now) {
            message
        } else {
            Self::TOO_MANY
        };
        let Some(passed) = self.passed.get_mut(message) else {
            let passed = Passed {
                at: now,
                held_back: 0,
            };
            self.passed.insert(message.to_owned(), passed);
            return Some(format!("mailaffinity: {message}"));
        };
        if now.saturating_duration_since(passed.at) < Self::INTERVAL {
            passed.held_back += 1;
            return None;
        }
        passed.at = now;
        Some(match std::mem::take(&mut passed.held_back) {
            0 => format!("mailaffinity: {message}"),
            times => format!("mailaffinity: {message} ({times} times more since it was last logged)"),
        })
    }

    /// Forgets old messages where that is needed to make room.
    fn has_room_for(&mut self, message: &str, now: Instant) -> bool {
        if self.passed.len() < Self::MESSAGES || self.passed.contains_key(message) {
            return true;
        }
        self.passed
            .retain(|_, passed| now.saturating_duration_since(passed.at) < Self::INTERVAL);
        self.passed.len() < Self::MESSAGES
    }
}
