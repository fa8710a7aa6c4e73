//! The whole mapping: nodes, their tags and vhosts, a strategy, and users who were moved.

use std::fmt;
use std::ops::Range;

use super::address::ring_label;
use super::md5::md5_start;
use super::modulo::Modulo;
use super::node::Node;
use super::ring::{Ring, Vhost};
use super::username_hash::UsernameHash;

/// The most vhosts that the nodes of a cluster may have together.
pub const MAX_VHOSTS: u32 = 1 << 20;

/// How the nodes share out the users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// `director_consistent_hashing = yes`, and all that Dovecot 2.3 has: each
    /// node has `vhost_count` vhosts on a ring, and a user belongs to the first
    /// vhost at or after the user's hash. A node that comes or goes moves only
    /// the users it gets or had.
    #[default]
    Ring,
    /// `director_consistent_hashing = no` of Dovecot 2.2: the hash modulo the
    /// number of vhosts. A node that comes or goes moves nearly everybody.
    Modulo,
}

impl fmt::Display for Strategy {
    /// As the configuration writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Strategy::Ring => "ring",
            Strategy::Modulo => "modulo",
        })
    }
}

/// Nodes, a strategy and a username hash: the whole input of the mapping.
///
/// Immutable once built; any number of threads may look up at once. A lookup with
/// the default username hash allocates nothing.
#[derive(Clone, Debug)]
pub struct Cluster {
    username_hash: UsernameHash,
    strategy: Strategy,
    nodes: Vec<Node>,
    /// By tag.
    pools: Vec<Pool>,
    /// The username hashes of users who were moved, each with a node, in order of the
    /// hashes. There may be millions.
    moved: Vec<(u32, usize)>,
}

/// The nodes of one tag.
#[derive(Clone, Debug)]
struct Pool {
    tag: String,
    mapping: Mapping,
}

#[derive(Clone, Debug)]
enum Mapping {
    Ring(Ring),
    Modulo(Modulo),
}

/// Why a cluster cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// There are no nodes.
    #[error("a cluster needs at least one node")]
    NoNodes,
    /// The nodes have more than [`MAX_VHOSTS`] vhosts together.
    #[error("the nodes have more than {MAX_VHOSTS} vhosts together; lower their vhost counts")]
    TooManyVhosts,
}

impl Cluster {
    /// Builds the mapping. Nodes may be given in any order, and an address more
    /// than once, as in the Director.
    ///
    /// # Errors
    /// Without nodes, and with too many vhosts.
    #[expect(clippy::indexing_slicing, reason = "no chunk is empty")]
    pub fn new(
        strategy: Strategy,
        username_hash: UsernameHash,
        nodes: Vec<Node>,
    ) -> Result<Cluster, ClusterError> {
        Cluster::check(&nodes)?;
        let mut hosts: Vec<(u32, &Node)> = (0..).zip(&nodes).collect();
        // Within a tag the Director's order: IPv4 before IPv6, then by bytes, which is
        // how `IpAddr` compares.
        hosts.sort_by_key(|(_, node)| (node.tag.as_str(), node.address));
        let pools = hosts
            .chunk_by(|(_, a), (_, b)| a.tag == b.tag)
            .map(|hosts| Pool {
                tag: hosts[0].1.tag.clone(),
                mapping: Mapping::new(strategy, hosts),
            })
            .collect();
        Ok(Cluster {
            username_hash,
            strategy,
            nodes,
            pools,
            moved: Vec::new(),
        })
    }

    /// The same cluster with users whom the Director has on another node than the
    /// mapping gives, as after `doveadm director move`: pairs of a username hash and a
    /// place in [`nodes`](Cluster::nodes).
    ///
    /// Such a user stays on that node, in lookups with the node's tag, even if it is
    /// down or has no vhosts: so the Director has it as long as the user is in its table.
    pub fn with_moved(mut self, moved: impl IntoIterator<Item = (u32, usize)>) -> Cluster {
        self.moved.extend(moved);
        // Of several nodes with one tag the first that was given counts.
        self.moved.sort_by_key(|(hash, _)| *hash);
        self
    }

    /// Whether the nodes make a cluster, without the work of building it.
    ///
    /// # Errors
    /// Those of [`new`](Cluster::new).
    pub fn check<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Result<(), ClusterError> {
        let vhosts = nodes
            .into_iter()
            .map(|node| u64::from(node.vhost_count))
            .reduce(u64::saturating_add);
        match vhosts {
            None => Err(ClusterError::NoNodes),
            Some(vhosts) if vhosts > u64::from(MAX_VHOSTS) => Err(ClusterError::TooManyVhosts),
            Some(_) => Ok(()),
        }
    }

    /// The node of a user among those with this tag that are up.
    ///
    /// `None` when there is none, or no node has the tag: the Director then gives
    /// no host either, never one of another tag. `None` also for a user who has no hash.
    pub fn node_of(&self, user: &[u8], tag: &str) -> Option<&Node> {
        self.nodes.get(self.index_of(user, tag)?)
    }

    /// As [`node_of`](Cluster::node_of), but the node's place in
    /// [`nodes`](Cluster::nodes).
    pub fn index_of(&self, user: &[u8], tag: &str) -> Option<usize> {
        self.index_of_hash(self.username_hash.hash(user).ok()?, tag)
    }

    /// As [`index_of`](Cluster::index_of), for a hash in place of a name.
    pub fn index_of_hash(&self, hash: u32, tag: &str) -> Option<usize> {
        if self.moved.is_empty() {
            return self.computed(hash, tag);
        }
        self.moved_to(hash, tag).or_else(|| self.computed(hash, tag))
    }

    #[cold]
    fn moved_to(&self, hash: u32, tag: &str) -> Option<usize> {
        let has_tag = |index: &usize| self.nodes.get(*index).is_some_and(|node| node.tag == tag);
        let first = self.moved.partition_point(|(moved, _)| *moved < hash);
        let those = self
            .moved
            .iter()
            .skip(first)
            .take_while(|(moved, _)| *moved == hash);
        those.map(|(_, index)| *index).find(has_tag)
    }

    fn computed(&self, hash: u32, tag: &str) -> Option<usize> {
        // No two empty tags are compared: memcmp, which does that, takes as long as an MD5
        // where it loads by AVX-512 from the address that Rust gives them.
        let pool = if tag.is_empty() {
            self.pools.first().filter(|first| first.tag.is_empty())?
        } else {
            let by_tag = |pool: &Pool| pool.tag.bytes().cmp(tag.bytes());
            self.pools.get(self.pools.binary_search_by(by_tag).ok()?)?
        };
        pool.mapping.owner(hash).map(|owner| owner as usize)
    }

    /// How many of the 2^32 beginnings of an MD5 the mapping gives to each of
    /// [`nodes`](Cluster::nodes), in lookups with its tag: exactly its share of the users
    /// to expect. Users who were moved count where the mapping has them.
    pub fn hash_counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.nodes.len()];
        for pool in &self.pools {
            // 0 becomes 1, which therefore counts twice.
            pool.mapping.count(1..1 << 32, &mut counts);
            pool.mapping.count(1..2, &mut counts);
        }
        counts
    }

    /// The nodes, in the order they were given.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How usernames are hashed.
    pub fn username_hash(&self) -> &UsernameHash {
        &self.username_hash
    }

    /// The strategy.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }
}

impl Mapping {
    /// Of hosts in the Director's order, each with its place among the nodes.
    fn new(strategy: Strategy, hosts: &[(u32, &Node)]) -> Mapping {
        let hosts = hosts.iter().copied();
        match strategy {
            Strategy::Ring => Mapping::Ring(Ring::new(hosts.flat_map(vhosts).collect())),
            Strategy::Modulo => Mapping::Modulo(Modulo::new(
                hosts.map(|(owner, node)| (node.usable_vhosts(), owner)),
            )),
        }
    }

    fn owner(&self, hash: u32) -> Option<u32> {
        match self {
            Mapping::Ring(ring) => ring.owner(hash),
            Mapping::Modulo(modulo) => modulo.owner(hash),
        }
    }

    fn count(&self, hashes: Range<u64>, counts: &mut [u64]) {
        match self {
            Mapping::Ring(ring) => ring.count(hashes, counts),
            Mapping::Modulo(modulo) => modulo.count(hashes, counts),
        }
    }
}

/// The vhosts of a node: MD5 of its address, `-`, and a number from 0.
fn vhosts((owner, node): (u32, &Node)) -> impl Iterator<Item = Vhost> {
    let label = ring_label(node.address);
    (0..node.usable_vhosts()).map(move |vhost| Vhost {
        hash: md5_start(format!("{label}-{vhost}").as_bytes()),
        owner,
    })
}

#[cfg(test)]
mod tests {
    use super::Strategy;
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::Strategy as _;

    fn node(address: &str) -> Node {
        Node::new(address, address.parse().unwrap())
    }

    fn cluster(strategy: Strategy, nodes: Vec<Node>) -> Cluster {
        Cluster::new(strategy, UsernameHash::default(), nodes).unwrap()
    }

    #[test]
    fn tags_are_apart_and_case_sensitive() {
        let east = Node {
            tag: "east".into(),
            ..node("10.0.0.2")
        };
        let cluster = cluster(Strategy::Ring, vec![node("10.0.0.1"), east]);
        assert_eq!(cluster.index_of(b"user1", ""), Some(0));
        assert_eq!(cluster.index_of(b"user1", "east"), Some(1));
        assert_eq!(cluster.index_of(b"user1", "East"), None);
    }

    #[test]
    fn nobody_up_nobody_chosen() {
        for strategy in [Strategy::Ring, Strategy::Modulo] {
            let down = Node {
                up: false,
                ..node("10.0.0.1")
            };
            let idle = Node {
                vhost_count: 0,
                ..node("10.0.0.2")
            };
            assert_eq!(cluster(strategy, vec![down, idle]).node_of(b"user1", ""), None);
        }
    }

    // 2^32 hashes modulo 3 are 1431655765 threes and a 0, which becomes 1.
    #[test]
    fn hashes_are_counted_as_users_get_them() {
        let nodes = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|address| Node {
            vhost_count: 1,
            ..node(address)
        });
        assert_eq!(
            cluster(Strategy::Modulo, nodes.to_vec()).hash_counts(),
            [1_431_655_765, 1_431_655_766, 1_431_655_765]
        );
        // printf %s 10.0.0.1-0 | md5sum, and so on.
        let [first, second, third] = [0x3c78_9421, 0x3a46_e3a2, 0xf6ca_714a];
        assert_eq!(
            cluster(Strategy::Ring, nodes.to_vec()).hash_counts(),
            [first - second, (1 << 32) - third + second, third - first]
        );
    }

    #[test]
    fn moved_users_stay_where_they_are() {
        let nodes = |up| {
            let east = Node {
                tag: "east".into(),
                ..node("10.0.0.3")
            };
            vec![
                node("10.0.0.1"),
                Node {
                    up,
                    ..node("10.0.0.2")
                },
                east,
            ]
        };
        let hash = 0x24c9_e15e;
        let ring = |up| cluster(Strategy::Ring, nodes(up));
        assert_eq!(ring(true).index_of(b"user1", ""), Some(1));
        let moved = ring(true).with_moved([(hash, 0), (hash, 2)]);
        assert_eq!(moved.index_of(b"user1", ""), Some(0));
        assert_eq!(moved.index_of(b"user1", "east"), Some(2));
        assert_eq!(moved.index_of(b"user1", "west"), None);
        assert_eq!(moved.index_of_hash(hash + 1, ""), Some(1));
        assert_eq!(ring(false).index_of(b"user1", ""), Some(0));
        let moved = ring(false).with_moved([(hash, 9), (hash, 1)]);
        assert_eq!(moved.index_of(b"user1", ""), Some(1), "so the Director has it");
    }

    #[test]
    fn impossible_clusters() {
        let hash = UsernameHash::default;
        assert_eq!(
            Cluster::new(Strategy::Ring, hash(), vec![]).unwrap_err(),
            ClusterError::NoNodes
        );
        let huge = Node {
            vhost_count: u32::MAX,
            ..node("10.0.0.1")
        };
        assert_eq!(
            Cluster::new(Strategy::Ring, hash(), vec![huge.clone(), huge]).unwrap_err(),
            ClusterError::TooManyVhosts
        );
    }

    fn nodes() -> impl proptest::strategy::Strategy<Value = Vec<Node>> {
        prop::collection::btree_map(any::<u32>(), (0u32..150, prop::bool::weighted(0.8)), 2..8).prop_map(
            |hosts| {
                hosts
                    .into_iter()
                    .map(|(ip, (vhost_count, up))| Node {
                        vhost_count,
                        up,
                        ..Node::new(ip.to_string(), std::net::Ipv4Addr::from(ip).into())
                    })
                    .collect()
            },
        )
    }

    proptest! {
        #[test]
        fn only_usable_nodes_are_chosen(nodes in nodes(), hash: u32) {
            for strategy in [Strategy::Ring, Strategy::Modulo] {
                let usable = nodes.iter().any(|node| node.usable_vhosts() > 0);
                let chosen = cluster(strategy, nodes.clone()).index_of_hash(hash, "");
                prop_assert_eq!(chosen.is_some(), usable);
                prop_assert!(chosen.is_none_or(|index| nodes[index].usable_vhosts() > 0));
            }
        }

        #[test]
        fn all_hashes_are_counted(mut nodes in nodes()) {
            nodes[0].tag = "east".into();
            for strategy in [Strategy::Ring, Strategy::Modulo] {
                let counts = cluster(strategy, nodes.clone()).hash_counts();
                for tag in ["", "east"] {
                    let tagged = || nodes.iter().zip(&counts).filter(|(node, _)| node.tag == tag);
                    let counted: u64 = tagged().map(|(_, count)| count).sum();
                    let usable = tagged().any(|(node, _)| node.usable_vhosts() > 0);
                    prop_assert_eq!(counted, if usable { 1 << 32 } else { 0 });
                }
            }
        }

        #[test]
        fn order_of_nodes_does_not_matter(nodes in nodes(), hash: u32) {
            let mut reversed = nodes.clone();
            reversed.reverse();
            for strategy in [Strategy::Ring, Strategy::Modulo] {
                let name = |nodes: &Vec<Node>| {
                    let cluster = cluster(strategy, nodes.clone());
                    cluster.index_of_hash(hash, "").map(|index| nodes[index].name.clone())
                };
                prop_assert_eq!(name(&nodes), name(&reversed));
            }
        }

        #[test]
        fn ring_moves_only_the_users_of_the_node_that_dies(
            nodes in nodes(), dying: prop::sample::Index, hashes in prop::collection::vec(any::<u32>(), 50),
        ) {
            let dying = dying.index(nodes.len());
            let mut survivors = nodes.clone();
            survivors[dying].up = false;
            let (before, after) = (cluster(Strategy::Ring, nodes), cluster(Strategy::Ring, survivors));
            for hash in hashes {
                let was = before.index_of_hash(hash, "");
                if was != Some(dying) {
                    prop_assert_eq!(after.index_of_hash(hash, ""), was);
                }
            }
        }
    }
}
