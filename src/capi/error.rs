//! What can go wrong, and the numbers that C knows it by.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;

use super::ffi;
use crate::config::ConfigError;
use crate::mapping::{ClusterError, FormatError, MailServersError};
use crate::node_state::NodeStateError;

// A number that was once given out keeps its meaning and is never reused.

/// All went well.
pub const MAILAFFINITY_OK: c_int = 0;
/// A pointer that must not be NULL is NULL.
pub const MAILAFFINITY_ERROR_NULL: c_int = 1;
/// An argument has no meaning: an unknown strategy, a text that is not an address, a
/// text that is not UTF-8, an impossible length.
pub const MAILAFFINITY_ERROR_INVALID_ARGUMENT: c_int = 2;
/// The username hash format has something that the Director does not know, or that this
/// library does not support.
pub const MAILAFFINITY_ERROR_USERNAME_HASH: c_int = 3;
/// The list of mail servers cannot be read, or a name in it does not resolve.
pub const MAILAFFINITY_ERROR_MAIL_SERVERS: c_int = 4;
/// The configuration cannot be read, or says something impossible.
pub const MAILAFFINITY_ERROR_CONFIG: c_int = 5;
/// The node state exists but cannot be read.
pub const MAILAFFINITY_ERROR_NODE_STATE: c_int = 6;
/// The nodes make no cluster: there are none, or they have too many vhosts together.
pub const MAILAFFINITY_ERROR_CLUSTER: c_int = 7;
/// No node with the tag is up, or none has it. There is no node for the user then,
/// never one of another tag.
pub const MAILAFFINITY_ERROR_NO_NODE: c_int = 8;
/// The library has a bug. The call had no effect.
pub const MAILAFFINITY_ERROR_PANIC: c_int = 9;

/// What an error number means, such as "invalid configuration"; also for numbers that
/// this library does not know. Never NULL, and valid as long as the library is loaded.
/// The `detail` of a call says more.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_strerror(error: c_int) -> *const c_char {
    ffi::guard(c"", || describe(error)).as_ptr()
}

fn describe(error: c_int) -> &'static CStr {
    match error {
        MAILAFFINITY_OK => c"success",
        MAILAFFINITY_ERROR_NULL => c"a required pointer is NULL",
        MAILAFFINITY_ERROR_INVALID_ARGUMENT => c"invalid argument",
        MAILAFFINITY_ERROR_USERNAME_HASH => c"invalid username hash format",
        MAILAFFINITY_ERROR_MAIL_SERVERS => c"invalid list of mail servers",
        MAILAFFINITY_ERROR_CONFIG => c"invalid configuration",
        MAILAFFINITY_ERROR_NODE_STATE => c"invalid node state",
        MAILAFFINITY_ERROR_CLUSTER => c"the nodes make no cluster",
        MAILAFFINITY_ERROR_NO_NODE => c"no node with the tag is up",
        MAILAFFINITY_ERROR_PANIC => c"internal error in mailaffinity",
        _ => c"unknown error number",
    }
}

#[derive(Debug)]
pub(super) enum Error {
    Null(&'static str),
    InvalidArgument(String),
    UsernameHash(FormatError),
    MailServers(MailServersError),
    Config(ConfigError),
    NodeState(NodeStateError),
    Cluster(ClusterError),
    NoNode,
    Panic,
}

impl Error {
    pub(super) fn number(&self) -> c_int {
        match self {
            Error::Null(_) => MAILAFFINITY_ERROR_NULL,
            Error::InvalidArgument(_) => MAILAFFINITY_ERROR_INVALID_ARGUMENT,
            Error::UsernameHash(_) => MAILAFFINITY_ERROR_USERNAME_HASH,
            Error::MailServers(_) => MAILAFFINITY_ERROR_MAIL_SERVERS,
            Error::Config(_) => MAILAFFINITY_ERROR_CONFIG,
            Error::NodeState(_) => MAILAFFINITY_ERROR_NODE_STATE,
            Error::Cluster(_) => MAILAFFINITY_ERROR_CLUSTER,
            Error::NoNode => MAILAFFINITY_ERROR_NO_NODE,
            Error::Panic => MAILAFFINITY_ERROR_PANIC,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Null(argument) => write!(f, "{argument} is NULL"),
            Error::InvalidArgument(problem) => f.write_str(problem),
            Error::UsernameHash(error) => error.fmt(f),
            Error::MailServers(error) => error.fmt(f),
            Error::Config(error) => error.fmt(f),
            Error::NodeState(error) => error.fmt(f),
            Error::Cluster(error) => error.fmt(f),
            Error::NoNode | Error::Panic => f.write_str(&describe(self.number()).to_string_lossy()),
        }
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Error {
        Error::UsernameHash(error)
    }
}

impl From<MailServersError> for Error {
    fn from(error: MailServersError) -> Error {
        Error::MailServers(error)
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Error {
        Error::Config(error)
    }
}

impl From<NodeStateError> for Error {
    fn from(error: NodeStateError) -> Error {
        Error::NodeState(error)
    }
}

impl From<ClusterError> for Error {
    fn from(error: ClusterError) -> Error {
        Error::Cluster(error)
    }
}
