//! `mailaffinity watch`: an update that never ends.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::exit::Failure;
use crate::watch;
use mailaffinity::config::Config;

/// Check the nodes all the time, and follow each change at once
///
/// Does all the time what "mailaffinity update" does once, and takes the place of its timer:
/// it asks each node twice a second, writes the node state when one goes down or comes back,
/// brings the access map up to date, and starts the programs of on_change. It does so too when
/// the configuration, the node state, the users, the aliases or the access source are edited.
///
/// It runs until a signal ends it, which may be at any moment: PHP, C, Lua and sendmail
/// need no more than the files, which then stay as it left them. At SIGHUP it reads
/// everything anew. systemd is told when it is ready, how many nodes are up, and, with
/// WatchdogSec, that it still checks them. What is wrong is told once, in the system's log and on
/// standard error, and is in the status file while it lasts.
#[derive(Args)]
#[command(after_long_help = "\
Exit status:
  75  another watcher is at work on this machine
  The others are those of mailaffinity(1).

Examples:
  For systemd, in place of the timer of updates:
      systemctl disable --now mailaffinity-update.timer
      systemctl enable --now mailaffinity-watch.service
  See what is wrong:
      systemctl status mailaffinity-watch.service")]
pub(crate) struct Watch {}

impl Watch {
    pub(crate) fn run(self, path: &Path, config: Config) -> Result<ExitCode, Failure> {
        watch::run(path, config).map(|never| match never {})
    }
}
