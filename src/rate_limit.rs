//! How often the administrator is told the same.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Lets each message pass once in a while, so that nobody who asks can flood the log.
#[derive(Debug, Default)]
pub struct RateLimit {
    /// By what tells messages apart.
    passed: HashMap<u64, Passed>,
}

#[derive(Clone, Copy, Debug)]
struct Passed {
    /// When, in seconds.
    at: u64,
    held_back: u64,
}

impl Passed {
    /// One of the future is from before the system started anew.
    fn is_recent(&self, now: u64) -> bool {
        now.checked_sub(self.at)
            .is_some_and(|age| age < RateLimit::INTERVAL)
    }
}

impl RateLimit {
    const INTERVAL: u64 = 60;
    const MESSAGES: usize = 100;
    const TOO_MANY: &str = "too many different messages; holding back those that are new";

    /// The most that [`to_bytes`](RateLimit::to_bytes) gives: the messages, and that they
    /// are too many.
    pub const LONGEST: usize = (Self::MESSAGES + 1) * size_of::<[u64; 3]>();

    /// The line to log for a message about this site, unless it is held back. `now` is in
    /// seconds, by a clock that nobody sets.
    pub fn admit(&mut self, site: &[u8], message: &str, now: u64) -> Option<String> {
        let key = |message: &str| {
            let mut hasher = DefaultHasher::new();
            (site, message).hash(&mut hasher);
            hasher.finish()
        };
        let (message, key) = if self.has_room_for(key(message), now) {
            (message, key(message))
        } else {
            (Self::TOO_MANY, 0)
        };
        let earlier = self.passed.get_mut(&key);
        if let Some(passed) = earlier
            && passed.is_recent(now)
        {
            passed.held_back = passed.held_back.saturating_add(1);
            return None;
        }
        let passed = Passed {
            at: now,
            held_back: 0,
        };
        let earlier = self.passed.insert(key, passed);
        Some(match earlier.map_or(0, |earlier| earlier.held_back) {
            0 => message.to_owned(),
            times => format!("{message} ({times} times more since it was last logged)"),
        })
    }

    /// Forgets old messages where that is needed to make room.
    fn has_room_for(&mut self, message: u64, now: u64) -> bool {
        if self.passed.len() < Self::MESSAGES || self.passed.contains_key(&message) {
            return true;
        }
        self.passed.retain(|_, passed| passed.is_recent(now));
        self.passed.len() < Self::MESSAGES
    }

    /// What [`from_bytes`](RateLimit::from_bytes) takes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = self
            .passed
            .iter()
            .flat_map(|(message, passed)| [*message, passed.at, passed.held_back]);
        numbers.flat_map(u64::to_ne_bytes).collect()
    }

    /// Any bytes are some limit: who could write them is to be known.
    pub fn from_bytes(bytes: &[u8]) -> RateLimit {
        let (numbers, _) = bytes.as_chunks();
        let (passed, _) = numbers.as_chunks();
        let passed = passed.iter().map(|numbers| {
            let [message, at, held_back] = numbers.map(u64::from_ne_bytes);
            (message, Passed { at, held_back })
        });
        RateLimit {
            passed: passed.collect(),
        }
    }
}
