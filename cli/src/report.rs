//! What an update or drain leaves behind for others to read: lines in the system's log
//! and the status file.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

use crate::exit::{NAME, say};
use crate::files::{lock, replace};
use mailaffinity::config::Config;

/// The system's log. Where there is none, as in a container, nothing is lost: failures
/// are on standard error too.
pub(crate) struct Log {
    socket: Option<Logger<LoggerBackend, Formatter3164>>,
}

impl Log {
    pub(crate) fn open(config: &Config) -> Log {
        let formatter = Formatter3164 {
            facility: Facility::LOG_MAIL,
            hostname: None,
            process: NAME.into(),
            pid: std::process::id(),
        };
        Log {
            socket: syslog::unix_custom(formatter, &*config.syslog).ok(),
        }
    }

    pub(crate) fn info(&mut self, line: &str) {
        self.socket.as_mut().map(|log| log.info(line));
    }

    pub(crate) fn notice(&mut self, line: &str) {
        self.socket.as_mut().map(|log| log.notice(line));
    }

    pub(crate) fn warning(&mut self, line: &str) {
        self.socket.as_mut().map(|log| log.warning(line));
    }

    pub(crate) fn error(&mut self, line: &str) {
        self.socket.as_mut().map(|log| log.err(line));
    }
}

/// The last result of a command, as the status file has it.
pub(crate) fn last_status(config: &Config, command: &str) -> Option<Map<String, Value>> {
    match read_status(&config.status).remove(command)? {
        Value::Object(result) => Some(result),
        _ => None,
    }
}

/// Puts the result of a command under its name into the status file, beside the results
/// of others. A status that cannot be written is told and is no failure.
pub(crate) fn write_status(config: &Config, command: &str, result: Value) {
    if let Err(error) = try_write_status(&config.status, command, result) {
        say(
            NAME,
            format!("cannot write the status to {}: {error}", config.status.display()),
        );
    }
}

fn try_write_status(path: &Path, command: &str, result: Value) -> std::io::Result<()> {
    std::fs::create_dir_all(replace::folder_of(path))?;
    let _lock = lock::of(path, Duration::from_secs(10))?;
    replace::remove_leftovers(path);
    let mut status = read_status(path);
    status.insert(command.into(), result);
    replace::replace_for_now(path, &format!("{:#}\n", Value::Object(status)))
}

/// One that is missing or broken is as an empty one.
fn read_status(path: &Path) -> Map<String, Value> {
    let text = mailaffinity::files::regular_file::read_text(path).ok();
    text.and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}
