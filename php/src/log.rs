//! What the administrator is told, through PHP's error log.
//!
//! The log is written directly, not by way of PHP's warnings: SquirrelMail turns
//! those off (`error_reporting(0)`), and elsewhere they could end up in the page.

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::time::{Duration, Instant};

use ext_php_rs::zend::BailoutGuard;

use crate::ffi::php_log_err_with_severity;
use crate::panic;
use crate::site::KEPT;

/// syslog's, for `error_log = syslog`.
const LOG_WARNING: c_int = 4;

/// Longer messages are cut: a line must fit into syslog's.
const LONGEST: usize = 900;

/// Writes the messages to PHP's error log, each at most once a minute.
pub(crate) fn tell(messages: &[String]) {
    if messages.is_empty() {
        return;
    }
    let lines = panic::guarded(|| admitted(messages)).unwrap_or_default();
    if lines.is_empty() {
        return;
    }
    // PHP leaves by longjmp when the client has gone.
    let lines = BailoutGuard::new(lines);
    for line in lines.iter() {
        // SAFETY: a string that ends in NUL, which PHP copies. It is no format.
        unsafe { php_log_err_with_severity(line.as_ptr(), LOG_WARNING) };
    }
}

fn admitted(messages: &[String]) -> Vec<CString> {
    let mut limit = KEPT.get().log.borrow_mut();
    let now = Instant::now();
    messages
        .iter()
        .filter_map(|message| limit.admit(&printable(message), now))
        .filter_map(|line| CString::new(line).ok())
        .collect()
}

/// A message as a single line of text: control characters are escaped.
pub(crate) fn printable(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.chars() {
        if line.len() > LONGEST {
            line.push('…');
            break;
        }
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

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
    fn admit(&mut self, message: &str, now: Instant) -> Option<String> {
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
