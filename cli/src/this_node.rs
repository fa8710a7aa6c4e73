//! Which node a command runs on.

use std::net::UdpSocket;

use clap::Args;

use crate::exit::Failure;
use crate::names::unknown_node;
use mailaffinity::config::{Config, NodeConfig};

/// Which node this is.
#[derive(Args)]
pub(crate) struct ThisNode {
    /// The node that this machine is [default: the one whose address it has]
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
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
