//! `mailaffinity watch`: an update that never ends.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::exit::Failure;
use crate::watch::{self, Drains};
use mailaffinity::config::Config;

/// Check the nodes all the time, and follow each change at once
///
/// Does all the time what "mailaffinity update" and "mailaffinity drain" do once, and takes the
/// place of their timers: it asks each node twice a second, writes the node state when one goes
/// down or comes back, ends sessions of users who belong elsewhere, brings the access map up to
/// date, starts the programs of on_change, and, when a node was down for long, has its queue
/// run. It does so too when the configuration, the node state, the users, the aliases or the
/// access source are edited.
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
  For systemd, in place of the timers:
      systemctl disable --now mailaffinity-update.timer mailaffinity-drain.timer
      systemctl enable --now mailaffinity-watch.service
  See what is wrong:
      systemctl status mailaffinity-watch.service")]
pub(crate) struct Watch {
    #[command(flatten)]
    drains: Drains,
}

impl Watch {
    pub(crate) fn run(self, path: &Path, config: Config) -> Result<ExitCode, Failure> {
        watch::run(path, config, self.drains).map(|never| match never {})
    }
}
