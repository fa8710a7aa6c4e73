//! `mailaffinity from-director`: a Director's settings and state, taken over.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use crate::child;
use crate::director;
use crate::director_settings::{self, Live};
use crate::doveconf::Doveconf;
use crate::exit::{Failure, Status};
use crate::names;
use crate::node_state;

/// Prints Dovecot's settings, without the secret ones.
const DOVECONF: [&str; 2] = ["doveconf", "-n"];

/// Dovecot's base_dir, where none is set.
const BASE_DIR: &str = "/run/dovecot";

/// The Director's socket in there.
const SOCKET: &str = "director-admin";

/// How long doveconf may take, and then the Director.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Print the configuration that gives all users the nodes that a Dovecot Director gives them
///
/// Takes over the settings of a Director of Dovecot 2.3 or 2.2: director_mail_servers with
/// tags, director_username_hash, auth_username_format, auth_master_user_separator,
/// auth_default_realm and director_consistent_hashing. The hosts, their vhosts and tags are
/// those that the running Director has, whatever its settings say. Comments at the head of
/// the configuration say what is not taken over, and what to do about it.
///
/// Where a setting has no equal here, and users would have other nodes, nothing is printed.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  On a machine where the Director runs, as root:
      mailaffinity from-director >/etc/mailaffinity.toml
  And which of its hosts are down, and whom it has elsewhere than its ring:
      mailaffinity from-director --node-state >/var/lib/mailaffinity/nodes.toml
  From afar, by its settings alone:
      ssh director1 doveconf -n | mailaffinity from-director -")]
pub(crate) struct FromDirector {
    /// The Director's director-admin socket [default: without FILE, that below base_dir]
    #[arg(long, value_name = "SOCKET")]
    director: Option<PathBuf>,

    /// Print the node state in place of the configuration
    #[arg(long)]
    node_state: bool,

    /// What "doveconf -n" printed on the Director's machine, "-" for standard input [default:
    /// it is run]
    #[arg(value_name = "FILE")]
    settings: Option<PathBuf>,
}

impl FromDirector {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let (source, printed) = settings(self.settings.as_deref())?;
        let wrong =
            |error: &dyn std::fmt::Display| Failure::new(Status::DataErr, format!("{source}: {error}"));
        let settings = Doveconf::parse(&printed).map_err(|error| wrong(&error))?;
        let socket = self.director.or_else(|| {
            let base_dir = settings.top.get("base_dir").unwrap_or(BASE_DIR);
            self.settings.is_none().then(|| Path::new(base_dir).join(SOCKET))
        });
        if self.node_state && socket.is_none() {
            let message =
                "only the Director itself knows the node state; ask it by --director SOCKET, on its machine";
            return Err(Failure::new(Status::Usage, message));
        }
        let snapshot = socket
            .as_deref()
            .map(|socket| director::snapshot(socket, TIMEOUT))
            .transpose()
            .map_err(|error| Failure::new(Status::TempFail, error))?;
        let live = socket
            .as_deref()
            .zip(snapshot.as_ref())
            .map(|(socket, snapshot)| Live {
                socket,
                snapshot,
                now: Timestamp::now(),
            });
        let taken = director_settings::take(&settings, live, resolve).map_err(|error| wrong(&error))?;
        let text = match self.node_state {
            true => node_state::text(&taken.node_state)?,
            false => taken.configuration,
        };
        names::print(|out| out.write_all(text.as_bytes()))
    }
}

/// What doveconf printed, and where that is from.
fn settings(file: Option<&Path>) -> Result<(String, Vec<u8>), Failure> {
    let Some(file) = file else {
        let printed = child::run(&DOVECONF.map(OsString::from), b"", TIMEOUT)
            .and_then(child::Finished::success)
            .map_err(|error| Failure::new(Status::Unavailable, error))?;
        return Ok((DOVECONF.join(" "), printed));
    };
    if file == Path::new("-") {
        let mut printed = Vec::new();
        io::stdin().lock().read_to_end(&mut printed)?;
        return Ok(("standard input".into(), printed));
    }
    let name = file.display().to_string();
    match fs::read(file) {
        Ok(printed) => Ok((name, printed)),
        Err(error) => Err(Failure::new(Status::IoError, format!("{name}: {error}"))),
    }
}

/// All addresses of a name, as the Director has them from the system.
fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    let addresses = (name, 0).to_socket_addrs()?;
    Ok(addresses.map(|address| address.ip()).collect())
}
