//! Sockets whose use ends with a deadline, however often a byte comes.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use mailaffinity::deadline::Deadline;

#[derive(Clone, Copy)]
pub(crate) struct TimedSocket<S> {
    pub(crate) socket: S,
    pub(crate) deadline: Deadline,
}

impl<S: AsFd> TimedSocket<S> {
    /// Has the next call on the socket take no longer than what is left.
    pub(crate) fn limit(&self, which: Timeout) -> io::Result<()> {
        Ok(set_socket_timeout(
            &self.socket,
            which,
            Some(self.deadline.left()?),
        )?)
    }
}

impl<S: Read + AsFd> Read for TimedSocket<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.limit(Timeout::Recv)?;
        self.socket.read(buffer)
    }
}

impl<S: Write + AsFd> Write for TimedSocket<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit(Timeout::Send)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Connects, also within the time: a socket whose queue is full makes others wait.
pub(crate) fn connect_unix(path: &Path, deadline: Deadline) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let timed = TimedSocket { socket, deadline };
    timed.limit(Timeout::Send)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&timed.socket, &address))?;
    Ok(timed.socket.into())
}

/// Whether an error tells of the end of the time, for which sockets have another word.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}
