//! `mailaffinity update`: one run.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::differences::print_differences;
use crate::exit::Failure;
use crate::update_run::UpdateRun;
use crate::watcher_lock;
use mailaffinity::config::Config;

/// Check the nodes and bring the access map up to date
///
/// For cron or a timer: silent unless something fails, or a service of the system's
/// accounts may have users and lists none. What was done goes to the system's log and, for
/// monitoring, into the status file. An update that cannot find out something changes
/// nothing. While "mailaffinity watch" is at work, the checks are left to it.
#[derive(Args)]
#[command(after_long_help = "\
Exit status:
  0   the map is up to date
  75  the checks failed, so that it follows marks by hand alone, or see mailaffinity(1)
  The others are those of mailaffinity(1); nothing has changed then.

Examples:
  For cron, on every node:
      * * * * * root /usr/bin/mailaffinity update
  Look first:
      mailaffinity update --dry-run
  After many users have really left:
      mailaffinity update --accept-loss")]
pub(crate) struct Update {
    /// Print what would change, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Take the list of users even if many are missing from it
    #[arg(long)]
    accept_loss: bool,

    /// Build the map anew even if it seems to be up to date
    #[arg(long)]
    force: bool,

    /// How long to wait for another update to finish
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

impl Update {
    pub(crate) fn run(self, path: &Path, config: &Config) -> Result<ExitCode, Failure> {
        if self.dry_run {
            print_differences(config, self.accept_loss, false)?;
            return Ok(ExitCode::SUCCESS);
        }
        let run = UpdateRun {
            checks: !watcher_lock::is_at_work(config),
            accept_loss: self.accept_loss,
            force: self.force,
            wait: Duration::from_secs(self.wait),
            ..UpdateRun::of(path, config)
        };
        run.run()?;
        Ok(ExitCode::SUCCESS)
    }
}
