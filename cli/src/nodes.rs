//! Nodes as command lines and the node state name them.

use std::net::UdpSocket;

use clap::Args;
use jiff::Timestamp;

use crate::exit::{Failure, Status};
use mailaffinity::config::{Config, NodeConfig};
use mailaffinity::node_state::{Mark, NodeState};

/// The node of a command line.
///
/// # Errors
/// When the configuration does not have it.
pub(crate) fn find_node<'c>(config: &'c Config, name: &str) -> Result<&'c NodeConfig, Failure> {
    let found = config
        .nodes
        .index_of(name)
        .and_then(|index| config.nodes.get(index));
    found.ok_or_else(|| {
        let known: Vec<&str> = config.nodes.iter().map(|node| node.node.name.as_str()).collect();
        let message = format!(
            "there is no node \"{}\"; there are {}",
            name.escape_debug(),
            known.join(", ")
        );
        Failure::new(Status::Usage, message)
    })
}

/// What cannot be right in the node state: marks of nodes that the configuration does not
/// have, and marks from the future, as of a clock that was wrong.
pub(crate) fn doubtful_marks(config: &Config, state: &NodeState) -> Vec<String> {
    let now = Timestamp::now();
    let doubt = |(name, mark): (&str, &Mark)| match mark.since {
        _ if config.nodes.index_of(name).is_none() => {
            Some("marked but not in the configuration; correct its name, or run \"mailaffinity auto\"".into())
        }
        Some(since) if since > now => Some(format!(
            "marked since {since}, which is still to come, and counts as marked for long; correct the time, there or \
             on this machine"
        )),
        _ => None,
    };
    let marks = state.marks();
    marks
        .filter_map(|(name, mark)| {
            let (file, name, doubt) = (
                config.node_state.display(),
                name.escape_debug(),
                doubt((name, mark))?,
            );
            Some(format!("{file}: node \"{name}\" is {doubt}"))
        })
        .collect()
}

/// Whether this machine has a node's address.
pub(crate) fn is_this_machine(node: &NodeConfig) -> bool {
    UdpSocket::bind((node.node.address, 0)).is_ok()
}

/// The node whose address this machine has, if there is one, as a Director finds itself among
/// `director_servers`.
///
/// # Errors
/// When it may be several.
pub(crate) fn this_machine(config: &Config) -> Result<Option<&NodeConfig>, SeveralNodes> {
    let mut ours = config.nodes.iter().filter(|node| is_this_machine(node));
    match (ours.next(), ours.next()) {
        (node, None) => Ok(node),
        (_, Some(_)) => Err(SeveralNodes),
    }
}

/// Why it is not known which node this machine is.
#[derive(Debug, thiserror::Error)]
#[error("this machine has several nodes' addresses, or net.ipv4.ip_nonlocal_bind is set")]
pub(crate) struct SeveralNodes;

/// Which node this is.
#[derive(Args, Clone, Default)]
pub(crate) struct ThisNode {
    /// The node that this machine is [default: the one whose address it has]
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

impl ThisNode {
    /// By name or by address.
    ///
    /// # Errors
    /// When there is no such node, or several.
    pub(crate) fn of<'c>(&self, config: &'c Config) -> Result<&'c NodeConfig, Failure> {
        let none = "this machine has no node's address; say by --node which node it is";
        self.find(config)?.ok_or_else(|| Failure::config(none))
    }

    /// The same, where this machine may be no node.
    ///
    /// # Errors
    /// When it may be several.
    pub(crate) fn find<'c>(&self, config: &'c Config) -> Result<Option<&'c NodeConfig>, Failure> {
        if let Some(name) = &self.node {
            return find_node(config, name).map(Some);
        }
        let say = |several| Failure::config(format!("{several}; say by --node which node it is"));
        this_machine(config).map_err(say)
    }
}
