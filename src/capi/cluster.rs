//! Clusters: loaded, or made of a list of mail servers.

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

use super::error::Error;
use super::{ffi, username_hash};
use crate::config::Config;
use crate::mapping::{self, Node, Strategy, UsernameHash, parse_mail_servers, resolve_nodes, ring_label};
use crate::site::{InForce, Site};

/// director_consistent_hashing = yes
pub const MAILAFFINITY_RING: c_int = 0;
/// director_consistent_hashing = no
pub const MAILAFFINITY_MODULO: c_int = 1;

/// Nodes, a strategy and a username hash: all that says which node a user belongs to.
/// It never changes.
pub struct Cluster(Arc<Shared>);

/// What all have in common that a site gave of one state, until the last of them is freed.
struct Shared {
    source: Source,
    nodes: Vec<NodeStrings>,
}

enum Source {
    Site(Arc<InForce>),
    Nodes(mapping::Cluster),
}

/// What C reads of a node, in the order of the mapping's nodes.
pub(super) struct NodeStrings {
    pub(super) name: CString,
    pub(super) address: CString,
    pub(super) tag: CString,
    pub(super) host: CString,
    pub(super) queue_group: Option<CString>,
}

/// Threads may share a cluster, as the header says.
const _: fn(&Cluster) -> &(dyn Send + Sync) = |cluster| cluster;

/// Reads a configuration, and the node state it names, and makes a cluster of what
/// they say now; later changes of the files do not change it.
///
/// Where one of them is broken, its last good copy takes its place, if the commands have
/// kept one. Then `detail` says so on success.
///
/// `config_path` NULL stands for "/etc/mailaffinity.toml". On success the cluster is in
/// `*cluster_out`; free it with `mailaffinity_cluster_free`. Its nodes are in the order
/// of the configuration. The access map plays no part.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_cluster_load(
    config_path: *const c_char,
    cluster_out: Option<&mut MaybeUninit<Box<Cluster>>>,
    detail: *mut c_char,
    detail_size: usize,
) -> c_int {
    let body = || {
        let cluster_out = ffi::required("cluster_out", cluster_out)?;
        // SAFETY: the string is as the header's rules have it.
        let config_path = unsafe { ffi::string(config_path) };
        let (in_force, notices) = Site::once(ffi::config_path(config_path))?;
        cluster_out.write(Box::new(Cluster::of_site(&in_force)?));
        Ok(notices.join("; "))
    };
    // SAFETY: `detail` is as the header's rules have it.
    unsafe { ffi::status_with_notice(detail, detail_size, body) }
}

/// Makes a cluster of a director_mail_servers string, such as
/// "10.0.0.1-10.0.0.3 imap.example.org@east": all nodes up, with 100 vhosts each.
///
/// Names are resolved through the system, which can block; one node comes of each
/// address. `strategy` is `MAILAFFINITY_RING` or `MAILAFFINITY_MODULO`; `username_hash`
/// a director_username_hash, NULL for "%Lu". On success the cluster is in
/// `*cluster_out`; free it with `mailaffinity_cluster_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_cluster_from_mail_servers(
    mail_servers: *const c_char,
    strategy: c_int,
    username_hash: *const c_char,
    cluster_out: Option<&mut MaybeUninit<Box<Cluster>>>,
    detail: *mut c_char,
    detail_size: usize,
) -> c_int {
    let body = || {
        let cluster_out = ffi::required("cluster_out", cluster_out)?;
        // SAFETY: strings are as the header's rules have them.
        let (mail_servers, username_hash) =
            unsafe { (ffi::string(mail_servers), ffi::string(username_hash)) };
        let mail_servers = ffi::utf8("mail_servers", ffi::required("mail_servers", mail_servers)?)?;
        let strategy = parse_strategy(strategy)?;
        let username_hash = username_hash::parse(username_hash)?;
        let nodes = resolve_nodes(&parse_mail_servers(mail_servers)?, resolve)?;
        cluster_out.write(Box::new(Cluster::of_nodes(strategy, username_hash, nodes)?));
        Ok(())
    };
    // SAFETY: `detail` is as the header's rules have it.
    unsafe { ffi::status_with_detail(detail, detail_size, body) }
}

/// Frees a cluster and all strings borrowed from it. NULL is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_cluster_free(cluster: Option<Box<Cluster>>) {
    ffi::guard((), || drop(cluster));
}

impl Cluster {
    /// The cluster of what is in force at a site.
    pub(super) fn of_site(in_force: &Arc<InForce>) -> Result<Cluster, Error> {
        let nodes = in_force.config.nodes.iter();
        let nodes = nodes.map(|node| NodeStrings::new(&node.node, &node.host, node.queue_group.as_deref()));
        Ok(Cluster(Arc::new(Shared {
            nodes: nodes.collect::<Result<_, _>>()?,
            source: Source::Site(Arc::clone(in_force)),
        })))
    }

    /// A cluster without a configuration.
    pub(super) fn of_nodes(
        strategy: Strategy,
        username_hash: UsernameHash,
        nodes: Vec<Node>,
    ) -> Result<Cluster, Error> {
        let strings = nodes
            .iter()
            .map(|node| NodeStrings::new(node, &ring_label(node.address), None));
        Ok(Cluster(Arc::new(Shared {
            nodes: strings.collect::<Result<_, _>>()?,
            source: Source::Nodes(mapping::Cluster::new(strategy, username_hash, nodes)?),
        })))
    }

    /// The same once more, for another to free.
    pub(super) fn share(&self) -> Cluster {
        Cluster(Arc::clone(&self.0))
    }

    pub(super) fn nodes(&self) -> &[NodeStrings] {
        &self.0.nodes
    }

    pub(super) fn mapping(&self) -> &mapping::Cluster {
        match &self.0.source {
            Source::Site(in_force) => &in_force.cluster,
            Source::Nodes(mapping) => mapping,
        }
    }

    /// What it was loaded from.
    pub(super) fn in_force(&self) -> Option<&Arc<InForce>> {
        match &self.0.source {
            Source::Site(in_force) => Some(in_force),
            Source::Nodes(_) => None,
        }
    }

    pub(super) fn config(&self) -> Option<&Config> {
        self.in_force().map(|in_force| &in_force.config)
    }
}

impl NodeStrings {
    fn new(node: &Node, host: &str, queue_group: Option<&str>) -> Result<NodeStrings, Error> {
        Ok(NodeStrings {
            name: c_string(&node.name)?,
            address: c_string(&ring_label(node.address))?,
            tag: c_string(&node.tag)?,
            host: c_string(host)?,
            queue_group: queue_group.map(c_string).transpose()?,
        })
    }
}

/// No text of a node has a NUL: configurations and lists with one are refused before.
fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::InvalidArgument("a node has a NUL in a text".into()))
}

/// A strategy as a caller gives it.
pub(super) fn parse_strategy(number: c_int) -> Result<Strategy, Error> {
    match number {
        MAILAFFINITY_RING => Ok(Strategy::Ring),
        MAILAFFINITY_MODULO => Ok(Strategy::Modulo),
        _ => Err(Error::InvalidArgument(format!("{number} is not a strategy"))),
    }
}

fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    let addresses = (name, 0).to_socket_addrs()?;
    Ok(addresses.map(|address| address.ip()).collect())
}
