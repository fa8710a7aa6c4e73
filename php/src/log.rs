//! What the administrator is told, through PHP's error log.
//!
//! The log is written directly, not by way of PHP's warnings: SquirrelMail turns
//! those off (`error_reporting(0)`), and elsewhere they could end up in the page.

use std::ffi::{CString, c_int};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use ext_php_rs::zend::BailoutGuard;
use mailaffinity::panic;
use mailaffinity::rate_limit::RateLimit;

use crate::ffi::php_log_err_with_severity;
use crate::kept::KEPT;
use crate::{ini, limit_file};

/// syslog's, for `error_log = syslog`.
const LOG_WARNING: c_int = 4;

/// Longer messages are cut: a line must fit into syslog's.
const LONGEST: usize = 900;

/// Writes the messages to PHP's error log, each at most once a minute: by all workers of a
/// web server together, or by this process where they cannot share the limit.
pub(crate) fn tell(messages: &[String]) {
    if messages.is_empty() {
        return;
    }
    let shared = ini::folder_of_workers();
    let lines = panic::guarded(|| admitted(messages, shared.as_deref())).unwrap_or_default();
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

fn admitted(messages: &[String], shared: Option<&Path>) -> Vec<CString> {
    let (site, now) = (ini::config_path(), seconds_since_start());
    let admitted = |limit: &mut RateLimit| {
        let lines = messages
            .iter()
            .filter_map(|message| limit.admit(site.as_os_str().as_bytes(), &printable(message), now));
        lines
            .filter_map(|line| CString::new(format!("mailaffinity: {line}")).ok())
            .collect()
    };
    shared
        .and_then(|folder| limit_file::with(folder, admitted).ok())
        .unwrap_or_else(|| admitted(&mut KEPT.get().log.borrow_mut()))
}

/// By the clock that all processes share, and that nobody sets.
fn seconds_since_start() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time is written there; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or_default()
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
