//! sendmail's address test mode (`sendmail -bt`), in which it tells what it makes of names.

use std::path::Path;
use std::time::Duration;

use crate::child::{self, ChildError};
use mailaffinity::config::{Config, DEFAULT_SENDMAIL};

/// What a sendmail printed.
pub(crate) struct Session {
    pub(crate) command: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The sendmail that is not there, where the configuration names none.
pub(crate) fn not_installed(config: &Config) -> Option<&Path> {
    let command = &config.sendmail.command;
    let program = command.first().map(Path::new)?;
    (**command == [DEFAULT_SENDMAIL] && program.try_exists().is_ok_and(|exists| !exists)).then_some(program)
}

/// Gives sendmail's test mode these lines.
///
/// # Errors
/// When it cannot be run or does not end in time.
pub(crate) fn ask(config: &Config, input: &[u8], timeout: Duration) -> Result<Session, ChildError> {
    run(config, &["-bt"], input, timeout)
}

/// Runs sendmail with these arguments. Its exit status says nothing: in the test mode it
/// is that of the last lookup.
///
/// # Errors
/// As [`ask`].
pub(crate) fn run(
    config: &Config,
    arguments: &[&str],
    input: &[u8],
    timeout: Duration,
) -> Result<Session, ChildError> {
    let mut command = config.sendmail.command.to_vec();
    command.extend(arguments.iter().map(|argument| argument.to_string()));
    let finished = child::run(&command, input, timeout)?;
    Ok(Session {
        command: child::name(&command),
        stdout: String::from_utf8_lossy(&finished.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&finished.stderr).into_owned(),
    })
}

impl Session {
    pub(crate) fn says(&self, words: &str) -> bool {
        self.stdout.contains(words) || self.stderr.contains(words)
    }

    /// What follows the greeting, without prompts and empty lines.
    pub(crate) fn answers(&self) -> impl Iterator<Item = &str> {
        let lines = self.stdout.lines();
        let answers = lines
            .skip_while(|line| !line.starts_with("Enter <ruleset>"))
            .skip(1);
        answers
            .map(|line| line.trim_start_matches("> ").trim())
            .filter(|line| !line.is_empty() && *line != ">")
    }

    /// What it says in place of an answer.
    pub(crate) fn complaint(&self) -> String {
        let lines: Vec<&str> = self
            .stderr
            .lines()
            .chain(self.stdout.lines())
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("ADDRESS TEST MODE"))
            .take(3)
            .collect();
        let said = lines.join("; ").replace(char::is_control, "?");
        format!("{} does not answer; it says: {said}", self.command)
    }
}
