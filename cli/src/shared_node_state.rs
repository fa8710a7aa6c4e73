//! The node state that all machines share. It is on storage that may hang, and with it whoever
//! touches it: so only processes of their own do, which are left behind then.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::child;
use crate::files::lock;
use crate::files::place::Place;
use crate::files::replace::{remove_leftovers, replace};
use mailaffinity::deadline::Deadline;
use mailaffinity::files::regular_file;

/// The subcommand of such a process. Its argument is the file; its input is nothing, or a
/// [`Replacement`] in JSON; what it prints is the file's text in JSON, or `null`.
pub(crate) const SUBCOMMAND: &str = "shared-node-state";

/// This program, also where a newer one has its name by now.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How long such a process waits for the others that change the file.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// What the file is to have, if it still has what it had; `None` if it was not there.
#[derive(Debug, Serialize, Deserialize)]
struct Replacement {
    before: Option<String>,
    after: String,
}

/// Why the shared node state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct SharedError {
    path: PathBuf,
    problem: String,
}

impl SharedError {
    pub(crate) fn new(path: &Path, problem: impl ToString) -> SharedError {
        SharedError {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }
}

/// Reads the file: `None` if it is not there.
///
/// # Errors
/// When it cannot be read, or not within `timeout`.
pub(crate) fn read(path: &Path, timeout: Duration) -> Result<Option<String>, SharedError> {
    ask(path, b"", timeout)
}

/// Replaces the file's text by what `change` makes of it, of one that nobody has changed
/// meanwhile, and returns that.
///
/// # Errors
/// Those of `change`; when the file cannot be read or written, or not within `timeout`. What was
/// to be written then may be there all the same, if nobody knows what became of it.
pub(crate) fn change(
    path: &Path,
    timeout: Duration,
    change: impl Fn(Option<&str>) -> Result<String, String>,
) -> Result<String, SharedError> {
    let deadline = Deadline::after(timeout);
    let left = || {
        deadline
            .left()
            .map_err(|_| SharedError::new(path, "it changes all the time"))
    };
    let mut before = read(path, left()?)?;
    loop {
        let after = change(before.as_deref()).map_err(|problem| SharedError::new(path, problem))?;
        if before.as_ref() == Some(&after) {
            return Ok(after);
        }
        let replacement = Replacement { before, after };
        let input = serde_json::to_vec(&replacement).map_err(|error| SharedError::new(path, error))?;
        before = ask(path, &input, left()?)?;
    }
}

fn ask(path: &Path, input: &[u8], timeout: Duration) -> Result<Option<String>, SharedError> {
    let command = [THIS_PROGRAM.as_ref(), SUBCOMMAND.as_ref(), path.as_os_str()];
    let answer = child::run(&command, input, timeout).and_then(child::Finished::success);
    let answer = answer
        .map_err(|error| SharedError::new(path, format!("the process that opens it {}", error.problem)))?;
    serde_json::from_slice(&answer).map_err(|error| SharedError::new(path, error))
}

/// What such a process does, and prints.
///
/// # Errors
/// When the file cannot be read, locked or replaced.
pub(crate) fn serve(path: &Path, input: &[u8]) -> io::Result<Option<String>> {
    if input.is_empty() {
        return text_of(path);
    }
    let Replacement { before, after } = serde_json::from_slice(input)?;
    // No folder is made: where there is none, the storage is not mounted.
    let place = Place::of(path)?;
    let _lock = lock::of(&place, LOCK_WAIT)?;
    remove_leftovers(&place);
    let now = text_of(path)?;
    if now != before {
        return Ok(now);
    }
    replace(&place, &after)?;
    Ok(Some(after))
}

fn text_of(path: &Path) -> io::Result<Option<String>> {
    match regular_file::read_text(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_nobody_changed_meanwhile_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.toml");
        let serve = |before: Option<&str>, after: &str| {
            let replacement = Replacement {
                before: before.map(str::to_owned),
                after: after.to_owned(),
            };
            super::serve(&path, &serde_json::to_vec(&replacement).unwrap())
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(super::serve(&path, b"").unwrap(), None);
        assert_eq!(serve(Some("other"), "1").unwrap(), None);
        assert_eq!(serve(None, "1").unwrap(), text("1"));
        assert_eq!(serve(None, "2").unwrap(), text("1"));
        assert_eq!(super::serve(&path, b"").unwrap(), text("1"));
        assert_eq!(serve(Some("1"), "2").unwrap(), text("2"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "2");
        super::serve(
            &folder.path().join("none/nodes.toml"),
            b"{\"before\":null,\"after\":\"1\"}",
        )
        .unwrap_err();
        assert!(
            !folder.path().join("none").exists(),
            "that may be where storage is to be mounted"
        );
    }
}
