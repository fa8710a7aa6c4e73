use std::io::Write as _;
use std::net::UdpSocket;
use std::process::ExitCode;

use clap::Args;

use super::nodes::unknown_node;
use crate::exit::Failure;
use crate::names;
use crate::queue_group;
use mailaffinity::config::{Config, NodeConfig};

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

/// Which node this is.
#[derive(Args)]
pub(crate) struct ThisNode {
    /// The node that this machine is [default: the one whose address it has]
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
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

impl ThisNode {
    /// By name or, as a Director finds itself among `director_servers`, by address.
    pub(crate) fn of<'c>(&self, config: &'c Config) -> Result<&'c NodeConfig, Failure> {
        if let Some(name) = &self.node {
            return config
                .nodes
                .iter()
                .find(|node| node.node.name == *name)
                .ok_or_else(|| unknown_node(config, name));
        }
        let is_ours = |node: &&NodeConfig| UdpSocket::bind((node.node.address, 0)).is_ok();
        let mut ours = config.nodes.iter().filter(is_ours);
        match (ours.next(), ours.next()) {
            (Some(node), None) => Ok(node),
            (None, _) => Err(Failure::config(
                "this machine has no node's address; say by --node which node it is",
            )),
            (Some(_), Some(_)) => Err(Failure::config(
                "this machine has several nodes' addresses, or net.ipv4.ip_nonlocal_bind is set; say by --node which node it is",
            )),
        }
    }
}
