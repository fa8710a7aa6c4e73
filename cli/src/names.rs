//! Names on the command line, and lines out. A username is bytes.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, BufRead as _, BufWriter, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;

use crate::exit::Failure;
use crate::users::{self, username, username_on};
use mailaffinity::config::Config;

/// The users of a command line.
pub(crate) enum Users {
    Listed(Vec<Vec<u8>>),
    OnStdin,
    /// `user1`, `user2` and so on: so many.
    Generated(u64),
}

/// The users given as arguments or, without any, on the lines of standard input.
pub(crate) fn given(arguments: Vec<OsString>) -> Users {
    if arguments.is_empty() {
        Users::OnStdin
    } else {
        Users::Listed(arguments.into_iter().map(OsString::into_vec).collect())
    }
}

/// The users given as arguments or, without any, all of the configuration.
pub(crate) fn given_or_all(arguments: Vec<OsString>, config: &Config) -> Result<Users, Failure> {
    match arguments.is_empty() {
        true => all(config),
        false => Ok(given(arguments)),
    }
}

/// All users of the configuration.
pub(crate) fn all(config: &Config) -> Result<Users, Failure> {
    users::list(&config.users.source, *config.users.timeout)
        .map(Users::Listed)
        .map_err(|error| Failure::new(error.status(), error))
}

impl Users {
    /// Calls `each` for each user.
    ///
    /// # Errors
    /// Those of `each`; `InvalidData` for what no list of users could have either.
    pub(crate) fn try_for_each(self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let refused = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
        match self {
            Users::Listed(users) => users.iter().try_for_each(|user| {
                let named = |problem| refused(format!("the username \"{}\" {problem}", user.escape_ascii()));
                each(username(user).map_err(named)?)
            }),
            Users::OnStdin => {
                let mut stdin = io::stdin().lock();
                let mut line = Vec::new();
                for number in 1.. {
                    if stdin.read_until(b'\n', &mut line)? == 0 {
                        break;
                    }
                    let user = username_on(number, line.strip_suffix(b"\n").unwrap_or(&line));
                    each(user.map_err(|problem| refused(format!("standard input: {problem}")))?)?;
                    line.clear();
                }
                Ok(())
            }
            Users::Generated(number) => {
                let mut user = Vec::new();
                (1..=number).try_for_each(|n| {
                    user.clear();
                    write!(user, "user{n}")?;
                    each(&user)
                })
            }
        }
    }
}

/// Prints on standard output. A reader that goes away ends it without an error.
pub(crate) fn print(
    write: impl FnOnce(&mut BufWriter<io::StdoutLock<'static>>) -> io::Result<()>,
) -> Result<ExitCode, Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Control characters of a username are escaped, lest they make fields and lines of
/// their own or command a terminal.
pub(crate) fn write_user(out: &mut impl Write, user: &[u8]) -> io::Result<()> {
    if user.iter().any(u8::is_ascii_control) {
        write!(out, "{}", user.escape_ascii())
    } else {
        out.write_all(user)
    }
}

/// Writes the line of a user: the user, and these fields.
pub(crate) fn write_line(out: &mut impl Write, user: &[u8], fields: &[impl Display]) -> io::Result<()> {
    write_user(out, user)?;
    for field in fields {
        write!(out, "\t{field}")?;
    }
    out.write_all(b"\n")
}

/// A username as JSON has it: bytes that are not UTF-8 become replacement characters.
pub(crate) fn json_name(user: &[u8]) -> String {
    String::from_utf8_lossy(user).into_owned()
}
