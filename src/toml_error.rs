//! TOML's errors on one line.

/// The line an error is on, where it has one, and what is wrong there.
pub(crate) fn line_and_problem(error: &toml::de::Error, text: &str) -> (Option<usize>, String) {
    let line = error.span().map(|span| line_of(text, span.start));
    let message = error.message().replace('\n', "; ");
    // The parser names no key for a value that is refused.
    let key = line
        .and_then(|line| text.lines().nth(line.saturating_sub(1)))
        .and_then(|line| Some(line.split_once('=')?.0.trim()))
        .filter(|key| !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .filter(|key| !message.contains(*key));
    match key {
        Some(key) => (line, format!("{key}: {message}")),
        None => (line, message),
    }
}

/// The line of a position in a text, from 1.
pub(crate) fn line_of(text: &str, position: usize) -> usize {
    1 + text.bytes().take(position).filter(|&b| b == b'\n').count()
}
