//! The nodes of the configuration.

use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::path::PathBuf;

use serde::Deserialize;

use super::values::{Address, Host, NodeName, QueueGroupName, QueuePath, Tag};
use crate::mapping::{DEFAULT_VHOST_COUNT, Node, ring_label};

/// A node as the configuration describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "NodeTable")]
pub struct NodeConfig {
    /// What the mapping knows of it; up, since the node state alone says otherwise.
    pub node: Node,
    /// The sendmail queue group of its users.
    pub queue_group: Option<String>,
    /// The directory of that queue group, as sendmail's `Path=` has it: with a `*` at its
    /// end it stands for all directories whose names begin so.
    pub queue_path: Option<PathBuf>,
    /// The host that webmail connects to: a bare name or address. The node's
    /// address unless it says otherwise.
    pub host: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeTable {
    name: NodeName,
    address: Address,
    vhost_count: Option<u32>,
    tag: Option<Tag>,
    queue_group: Option<QueueGroupName>,
    queue_path: Option<QueuePath>,
    host: Option<Host>,
}

impl From<NodeTable> for NodeConfig {
    fn from(table: NodeTable) -> NodeConfig {
        let address = table.address.into();
        NodeConfig {
            queue_group: table.queue_group.map(String::from),
            queue_path: table.queue_path.map(PathBuf::from),
            host: table.host.map_or_else(|| ring_label(address), String::from),
            node: Node {
                vhost_count: table.vhost_count.unwrap_or(DEFAULT_VHOST_COUNT),
                tag: table.tag.map(String::from).unwrap_or_default(),
                ..Node::new(table.name, address)
            },
        }
    }
}

/// The nodes, in the order of the file, found by name and by queue group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Vec<NodeConfig>")]
pub struct Nodes {
    list: Vec<NodeConfig>,
    by_name: BTreeMap<String, usize>,
    /// In lower case.
    by_queue_group: BTreeMap<Vec<u8>, usize>,
}

impl From<Vec<NodeConfig>> for Nodes {
    fn from(list: Vec<NodeConfig>) -> Nodes {
        // From the last: of two nodes of one name, the first is found.
        let nodes = || list.iter().enumerate().rev();
        let group = |node: &NodeConfig| Some(node.queue_group.as_ref()?.to_ascii_lowercase().into_bytes());
        Nodes {
            by_name: nodes()
                .map(|(index, node)| (node.node.name.clone(), index))
                .collect(),
            by_queue_group: nodes()
                .filter_map(|(index, node)| Some((group(node)?, index)))
                .collect(),
            list,
        }
    }
}

impl Deref for Nodes {
    type Target = [NodeConfig];

    fn deref(&self) -> &[NodeConfig] {
        &self.list
    }
}

impl<'n> IntoIterator for &'n Nodes {
    type Item = &'n NodeConfig;
    type IntoIter = std::slice::Iter<'n, NodeConfig>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl Nodes {
    /// The place of the node with this name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The place of the node that has the queue group which the access map gives. As in
    /// sendmail, neither its case nor blanks around it matter; makemap keeps those at the
    /// end of a line, a carriage return included.
    pub fn index_of_queue_group(&self, queue_group: &[u8]) -> Option<usize> {
        let folded = queue_group.trim_ascii().to_ascii_lowercase();
        self.by_queue_group.get(&folded).copied()
    }

    /// Two nodes of one name could not be told apart, those of one queue group would
    /// share a queue, and the Director has an address once in a tag. Of a node that
    /// shares with an earlier one, the error has the place.
    pub(super) fn check(&self) -> Result<(), (usize, String)> {
        let (mut addresses, mut paths) = (HashSet::new(), HashSet::new());
        for (
            index,
            NodeConfig {
                node,
                queue_group,
                queue_path,
                ..
            },
        ) in self.iter().enumerate()
        {
            let shared = if self.index_of(&node.name) != Some(index) {
                format!("name \"{}\"", node.name)
            } else if !addresses.insert((node.address, &node.tag)) {
                format!("address \"{}\"", ring_label(node.address))
            } else if let Some(group) = queue_group
                && self.index_of_queue_group(group.as_bytes()) != Some(index)
            {
                format!("queue group \"{group}\"")
            } else if let Some(path) = queue_path
                && !paths.insert(path)
            {
                format!("queue_path \"{}\"", path.display())
            } else {
                continue;
            };
            let problem = format!("node \"{}\" has the {shared} of an earlier node", node.name);
            return Err((index, problem));
        }
        Ok(())
    }
}
