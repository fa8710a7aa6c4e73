//! What the administrator is told, through PHP's error log.
//!
//! The log is written directly, not by way of PHP's warnings: SquirrelMail turns
//! those off (`error_reporting(0)`), and elsewhere they could end up in the page.

use std::ffi::{CString, c_int};
use std::time::Instant;

use ext_php_rs::zend::BailoutGuard;

use crate::ffi::php_log_err_with_severity;
use crate::kept::KEPT;
use crate::panic;

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
