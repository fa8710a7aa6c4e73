//! Nodes as command lines and the node state name them.

use std::net::UdpSocket;

use clap::Args;
use jiff::Timestamp;

use crate::exit::{Failure, Status};
use mailaffinity::config::{Config, NodeConfig};
use mailaffinity::node_state::{Mark, NodeEntry, NodeState};

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
/// have, and users who were moved to them, and marks from the future, as of a clock that was wrong.
pub(crate) fn doubts(config: &Config, state: &NodeState) -> Vec<String> {
    let now = Timestamp::now();
    let of_mark = |is_known: bool, mark: &Mark| match mark.since {
        _ if !is_known => Some(
            "is marked but not in the configuration; correct its name, or run \"mailaffinity auto\"".into(),
        ),
        Some(since) if since > now => Some(format!(
            "is marked since {since}, which is still to come, and counts as marked for long; correct the time, there \
             or on this machine"
        )),
        _ => None,
    };
    let of_entry = |(name, entry): (&String, &NodeEntry)| {
        let is_known = config.nodes.index_of(name).is_some();
        let of_mark = entry.mark.as_ref().and_then(|mark| of_mark(is_known, mark));
        let of_moved = (!is_known && !entry.moved.is_empty()).then(|| format!(
            "is not in the configuration, but users were moved to it ({}); correct its name, or move them back",
            entry.moved.len()
        ));
        let (file, name) = (config.node_state.display(), name.escape_debug());
        let doubts = of_mark.into_iter().chain(of_moved);
        doubts
            .map(|doubt| format!("{file}: node \"{name}\" {doubt}"))
            .collect::<Vec<_>>()
    };
    state.nodes.iter().flat_map(of_entry).collect()
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
