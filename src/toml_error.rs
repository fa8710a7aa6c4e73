//! TOML's errors on one line.

/// The line an error is on, where it has one, and what is wrong there.
pub(crate) fn line_and_problem(error: &toml::de::Error, text: &str) -> (Option<usize>, String) {
    let line = error.span().map(|span| line_of(text, span.start));
    (line, error.message().replace('\n', "; "))
}

/// The line of a position in a text, from 1.
pub(crate) fn line_of(text: &str, position: usize) -> usize {
    1 + text.bytes().take(position).filter(|&b| b == b'\n').count()
}
