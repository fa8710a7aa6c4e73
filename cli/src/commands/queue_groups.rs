//! `mailaffinity queue-groups`: what a node's sendmail.mc should have.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;

use crate::exit::Failure;
use crate::names;
use crate::nodes::ThisNode;
use crate::queue_group;
use mailaffinity::config::Config;

/// Print the QUEUE_GROUP lines for a node's sendmail.mc
///
/// The node's own queue group has queue runners; the others have none there, so that
/// each queue is run by one node.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  What node2's sendmail.mc should have:
      mailaffinity queue-groups --node node2")]
pub(crate) struct QueueGroups {
    #[command(flatten)]
    this_node: ThisNode,
}

impl QueueGroups {
    pub(crate) fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let lines = queue_group::mc_lines(config, self.this_node.of(config)?);
        if lines.is_empty() {
            return Err(Failure::config(
                "no node has a queue_group and a queue_path in the configuration",
            ));
        }
        names::print(|out| out.write_all(lines.as_bytes()))
    }
}
