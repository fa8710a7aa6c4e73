//! What systemd is told (sd_notify(3)): a datagram to the socket that it names.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long one that does not read is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// Tells it, if it wants to know.
pub(crate) fn notify(what: &str) {
    if let Some(socket) = env::var_os("NOTIFY_SOCKET") {
        let _ = send(&socket, what);
    }
}

fn send(to: &OsStr, what: &str) -> io::Result<()> {
    let address = match to.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(to)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(what.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@mailaffinity-test-{}", std::process::id());
        let of_name = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        for (to, socket) in [
            (path.as_os_str(), UnixDatagram::bind(&path).unwrap()),
            (name.as_ref(), UnixDatagram::bind_addr(&of_name).unwrap()),
        ] {
            send(to, "READY=1").unwrap();
            let mut message = [0; 100];
            let length = socket.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1");
        }
        send(OsStr::new("/nonexistent/notify"), "READY=1").unwrap_err();
    }

    #[test]
    fn one_that_does_not_read_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        // More than any socket holds.
        assert!((0..100_000).any(|_| send(path.as_os_str(), "WATCHDOG=1").is_err()));
    }
}
