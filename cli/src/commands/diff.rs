//! `mailaffinity diff`: what an update would change.

use std::process::ExitCode;

use clap::Args;

use crate::differences::print_differences;
use crate::exit::Failure;
use mailaffinity::config::Config;

/// Print what an update would change; exit with status 1 if it would change something
///
/// "node1  up -> down" for nodes, "anna  node1group -> node2group" for users; "-" stands
/// for no entry. Users who are left out of the access map are listed too.
#[derive(Args)]
#[command(after_long_help = "\
Exit status:
  0   an update would change nothing
  1   it would change something
  The others are those of mailaffinity(1).

Examples:
  Say so when an update is due:
      mailaffinity diff >/dev/null || echo an update is due")]
pub(crate) struct Diff {
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,

    /// Take the list of users even if many are missing from it
    #[arg(long)]
    accept_loss: bool,
}

impl Diff {
    pub(crate) fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        match print_differences(config, self.accept_loss, self.json)? {
            true => Ok(ExitCode::FAILURE),
            false => Ok(ExitCode::SUCCESS),
        }
    }
}
