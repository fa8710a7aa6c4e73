//! The last good copies of the configuration and node state, with which lookups go on while
//! one of the files is broken. The commands do not: they refuse what is broken.

use std::io::ErrorKind;
use std::path::Path;

use crate::files::last_good::{forget, keep as keep_copy};
use mailaffinity::config::Config;
use mailaffinity::node_state::NodeState;

/// Keeps both, as far as they are good. `path` is where `config` is from. Where all nodes
/// are up for want of a node state, that is what is good, and there is no copy.
///
/// Returns what could not be kept, each in a sentence.
pub(crate) fn keep(path: &Path, config: &Config) -> Vec<String> {
    let kept = keep_copy(path, |text| Config::parse(text, path).is_ok());
    let is_good = |text: &str| NodeState::parse(text).is_ok_and(|state| config.cluster(&state).is_ok());
    let kept_state = match keep_copy(&config.node_state, is_good) {
        Err(error) if error.kind() == ErrorKind::NotFound => forget(&config.node_state),
        kept => kept,
    };
    let problems = [kept, kept_state].into_iter().filter_map(Result::err);
    // As of a container, whose files are changed as a whole and from outside.
    let problems = problems.filter(|problem| problem.kind() != ErrorKind::ReadOnlyFilesystem);
    problems.map(|error| error.to_string()).collect()
}
