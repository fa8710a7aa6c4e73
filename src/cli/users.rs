//! Usernames in, lines out. A username is bytes.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufWriter, Write};
use std::os::unix::ffi::OsStringExt as _;

use super::exit::Failure;

/// Writes a line for each user given as an argument or, without any, on a line of
/// standard input. A reader that goes away ends it without an error.
pub(super) fn write_line_for_each(
    arguments: Vec<OsString>,
    mut fields: impl FnMut(&[u8]) -> Vec<String>,
) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut write = |user: &[u8]| write_line(&mut out, user, &fields(user));
    let result = if arguments.is_empty() {
        each_line(&mut write)
    } else {
        arguments.into_iter().try_for_each(|user| write(&user.into_vec()))
    };
    match result.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn each_line(mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    while stdin.read_until(b'\n', &mut line)? > 0 {
        write(line.strip_suffix(b"\n").unwrap_or(&line))?;
        line.clear();
    }
    Ok(())
}

/// Control characters of a username are escaped, lest they make fields and lines of
/// their own or command a terminal.
fn write_line(out: &mut impl Write, user: &[u8], fields: &[String]) -> io::Result<()> {
    if user.iter().any(u8::is_ascii_control) {
        write!(out, "{}", user.escape_ascii())?;
    } else {
        out.write_all(user)?;
    }
    for field in fields {
        write!(out, "\t{field}")?;
    }
    out.write_all(b"\n")
}
