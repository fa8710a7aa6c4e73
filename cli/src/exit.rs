//! How a command ends: quietly, or with one line on standard error and an exit
//! status of sysexits.h.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;

/// A reason to stop, with the exit status that tells it to scripts.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    status: Status,
    message: String,
}

/// The command that has all the others as subcommands.
pub(crate) const NAME: &str = "mailaffinity";

/// The heading of the exit statuses in a help.
pub(crate) const EXIT_STATUS: &str = "Exit status:";

/// The part of sysexits.h that the commands use; see [`Status::meaning`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// EX_USAGE
    Usage = 64,
    /// EX_DATAERR
    DataErr = 65,
    /// EX_UNAVAILABLE
    Unavailable = 69,
    /// EX_IOERR
    IoError = 74,
    /// EX_TEMPFAIL
    TempFail = 75,
    /// EX_CONFIG
    Config = 78,
}

impl Status {
    /// What it tells.
    fn meaning(self) -> &'static str {
        match self {
            Status::Usage => "the command line is wrong",
            Status::DataErr => "the access source, the list of users or what doveconf prints makes no sense",
            Status::Unavailable => "a program that is needed failed, as one that lists the users",
            Status::IoError => "a file could not be read or written, as on a full disk",
            Status::TempFail => {
                "no node is up, somebody else is at work, or a server does not answer; later it may be better"
            }
            Status::Config => "the configuration or the node state is broken",
        }
    }

    /// A section of a help that lists what these tell.
    pub(crate) fn help(statuses: &[Status]) -> String {
        let lines = statuses
            .iter()
            .map(|status| format!("  {:<3} {}\n", *status as u8, status.meaning()));
        format!("{EXIT_STATUS}\n  0   success\n{}", lines.collect::<String>())
    }
}

impl Failure {
    pub(crate) fn new(status: Status, message: impl fmt::Display) -> Failure {
        Failure {
            status,
            message: message.to_string(),
        }
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        self.status as u8
    }

    /// The configuration, or what belongs to it, is broken.
    pub(crate) fn config(error: impl fmt::Display) -> Failure {
        Failure::new(Status::Config, error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        let status = match error.kind() {
            io::ErrorKind::InvalidData => Status::DataErr,
            _ => Status::IoError,
        };
        Failure::new(status, error)
    }
}

/// Reads the command line, runs the command and tells how it went.
pub(crate) fn run<Arguments: Parser>(
    command: impl FnOnce(Arguments) -> Result<ExitCode, Failure>,
) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output and are no failure. Nothing
            // can be done where they cannot be printed.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(Status::Usage as u8)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match command(arguments) {
        Ok(code) => code,
        Err(failure) => {
            say(Arguments::command().get_name(), &failure);
            ExitCode::from(failure.status())
        }
    }
}

/// Says something on standard error, in one line that starts with the command. Where it
/// cannot be written, nobody reads it.
pub(crate) fn say(command: &str, what: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{command}: {what}");
}
