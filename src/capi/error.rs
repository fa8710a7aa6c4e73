//! What can go wrong, and the numbers that C knows it by.

use std::ffi::{CStr, c_int};

use crate::config::NoHash;
use crate::mapping::{ClusterError, FormatError, MailServersError, NotHashed};
use crate::site::{NoNode, Unusable};

// A number that was once given out keeps its meaning and is never reused. The header has
// each in one line with its comment.

/// All went well.
pub const MAILAFFINITY_OK: c_int = 0;
/// A pointer that must not be NULL is.
pub const MAILAFFINITY_ERROR_NULL: c_int = 1;
/// An argument has no meaning.
pub const MAILAFFINITY_ERROR_INVALID_ARGUMENT: c_int = 2;
/// The username hash format is unknown.
pub const MAILAFFINITY_ERROR_USERNAME_HASH: c_int = 3;
/// Mail servers unreadable or unknown.
pub const MAILAFFINITY_ERROR_MAIL_SERVERS: c_int = 4;
/// The configuration cannot be used.
pub const MAILAFFINITY_ERROR_CONFIG: c_int = 5;
/// The node state cannot be read.
pub const MAILAFFINITY_ERROR_NODE_STATE: c_int = 6;
/// No nodes, or too many vhosts.
pub const MAILAFFINITY_ERROR_CLUSTER: c_int = 7;
/// No node with the tag is up.
pub const MAILAFFINITY_ERROR_NO_NODE: c_int = 8;
/// The library has a bug.
pub const MAILAFFINITY_ERROR_PANIC: c_int = 9;

/// What a number means, also one that this library does not know.
pub(super) fn describe(error: c_int) -> &'static CStr {
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

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0} is NULL")]
    Null(&'static str),
    #[error("{0}")]
    InvalidArgument(String),
    #[error(transparent)]
    UsernameHash(#[from] FormatError),
    #[error(transparent)]
    NoHash(#[from] NoHash),
    #[error(transparent)]
    MailServers(#[from] MailServersError),
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    NodeState(String),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("{}", describe(MAILAFFINITY_ERROR_NO_NODE).to_string_lossy())]
    NoNode,
    /// At a site, with all that there is to say.
    #[error("{1}")]
    NoNodeOf(NoNode, String),
    #[error("{}", describe(MAILAFFINITY_ERROR_PANIC).to_string_lossy())]
    Panic,
}

impl From<NotHashed> for Error {
    fn from(problem: NotHashed) -> Error {
        Error::NoHash(problem.into())
    }
}

impl From<Unusable> for Error {
    fn from(unusable: Unusable) -> Error {
        match unusable {
            Unusable::Config(problem) => Error::Config(problem),
            Unusable::State(problem) => Error::NodeState(problem),
        }
    }
}

impl Error {
    pub(super) fn number(&self) -> c_int {
        match self {
            Error::Null(_) => MAILAFFINITY_ERROR_NULL,
            Error::InvalidArgument(_) | Error::NoHash(_) | Error::NoNodeOf(NoNode::NoHash(_), _) => {
                MAILAFFINITY_ERROR_INVALID_ARGUMENT
            }
            Error::UsernameHash(_) => MAILAFFINITY_ERROR_USERNAME_HASH,
            Error::MailServers(_) => MAILAFFINITY_ERROR_MAIL_SERVERS,
            Error::Config(_) => MAILAFFINITY_ERROR_CONFIG,
            Error::NodeState(_) => MAILAFFINITY_ERROR_NODE_STATE,
            Error::Cluster(_) => MAILAFFINITY_ERROR_CLUSTER,
            Error::NoNode | Error::NoNodeOf(NoNode::NoNodeUp(_), _) => MAILAFFINITY_ERROR_NO_NODE,
            Error::Panic => MAILAFFINITY_ERROR_PANIC,
        }
    }
}
