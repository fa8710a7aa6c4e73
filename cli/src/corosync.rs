//! What corosync says: whether this machine is in the part of a cluster that may act, and
//! which nodes are in it.
//!
//! Two of its own programs are asked: corosync-quorumtool(8), whether this part has a
//! quorum and which members it has, by their ids, and corosync-cmapctl(8), which node has
//! which id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::child::{self, ChildError};
use mailaffinity::config::NodeConfig;
use mailaffinity::deadline::Deadline;
use mailaffinity::mapping::parse_address;

/// `-i` spares it the names of addresses, for which it would ask a name server.
const QUORUMTOOL: [&str; 3] = ["corosync-quorumtool", "-s", "-i"];

/// The nodes as corosync.conf(5) has them, the addresses of those that were seen, and what
/// totem waits for.
const CMAPCTL: [&str; 6] = [
    "corosync-cmapctl",
    "-b",
    "nodelist.",
    "runtime.members.",
    TOKEN,
    CONSENSUS,
];

const TOKEN: &str = "runtime.config.totem.token";
const CONSENSUS: &str = "runtime.config.totem.consensus";

/// How long those who are left take to agree, when a node was missed for long enough.
const AGREEMENT: Duration = Duration::from_secs(1);

/// With which corosync-quorumtool ends where there is no quorum.
const NOT_QUORATE: i32 = 2;

/// What corosync has in its store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmap {
    /// What its nodes are called: their ids, and for each its name and addresses.
    pub nodes: BTreeMap<u32, Vec<String>>,
    /// How long after a node's last word corosync misses it (`token`, `consensus`).
    pub patience: Duration,
}

/// The part of a cluster that this machine is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Whether it has a quorum.
    pub quorate: bool,
    /// The ids of its nodes.
    pub members: BTreeSet<u32>,
}

/// Why corosync's word leaves the nodes as they are.
#[derive(Debug, thiserror::Error)]
pub enum CorosyncError {
    /// It cannot be asked.
    #[error("{0}; who does not hear from corosync may be cut off, and changes nothing")]
    Silent(String),
    /// This part of the cluster must not act.
    #[error("corosync has no quorum here: this machine may be cut off, and changes nothing")]
    NoQuorum,
    /// A node is none of its nodes, or several.
    #[error(
        "corosync has {found} with the name, host or address of node \"{}\": let the node have in its [[node]] the name or \
         an address that it has in corosync.conf's nodelist",
        node.escape_debug()
    )]
    Unmatched {
        /// The name of the node.
        node: String,
        /// How many nodes of corosync's it could be.
        found: &'static str,
    },
}

/// What corosync says of the configured nodes, where there is a quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Which of them are members of the part that this machine is in.
    pub members: Vec<bool>,
    /// How old the news may be that this is based on: a machine that was cut off has a quorum
    /// for so long.
    pub age: Duration,
}

/// Asks corosync about these nodes, within `timeout`.
///
/// # Errors
/// See [`CorosyncError`].
pub fn ask(nodes: &[NodeConfig], timeout: Duration) -> Result<Word, CorosyncError> {
    let deadline = Deadline::after(timeout);
    let run = |command: &[&str]| {
        // They are where cron's PATH does not lead.
        let left = deadline.left().unwrap_or(Duration::ZERO);
        child::run_apart(command, b"", left).map_err(silent)
    };
    let cmap = run(&CMAPCTL)?.success().map_err(silent)?;
    let status = run(&QUORUMTOOL)?;
    let status = match status.status.code() {
        Some(NOT_QUORATE) => status.stdout,
        _ => status.success().map_err(silent)?,
    };
    let makes_no_sense = |command: &[&str]| {
        let message = format!("{} prints what makes no sense", child::name(command));
        CorosyncError::Silent(message)
    };
    let cmap = parse_cmap(&cmap).ok_or_else(|| makes_no_sense(&CMAPCTL))?;
    let membership = parse_status(&status).ok_or_else(|| makes_no_sense(&QUORUMTOOL))?;
    membership.word(nodes, &cmap)
}

fn silent(error: ChildError) -> CorosyncError {
    CorosyncError::Silent(error.to_string())
}

impl Membership {
    /// What this says of the configured nodes.
    ///
    /// # Errors
    /// Where there is no quorum, so that nobody here may draw conclusions, or where a node
    /// is not known to corosync, which need not be its own fault.
    pub fn word(&self, nodes: &[NodeConfig], cmap: &Cmap) -> Result<Word, CorosyncError> {
        if !self.quorate {
            return Err(CorosyncError::NoQuorum);
        }
        let is_member = |node: &NodeConfig| {
            let mut ids = cmap
                .nodes
                .iter()
                .filter(|(_, names)| names.iter().any(|name| is_called(node, name)));
            let found = match (ids.next(), ids.next()) {
                (Some((id, _)), None) => return Ok(self.members.contains(id)),
                (None, _) => "no node",
                (Some(_), Some(_)) => "several nodes",
            };
            Err(CorosyncError::Unmatched {
                node: node.node.name.clone(),
                found,
            })
        };
        Ok(Word {
            members: nodes.iter().map(is_member).collect::<Result<_, _>>()?,
            age: cmap.patience,
        })
    }
}

impl Word {
    /// Which of the nodes are out of it.
    pub(crate) fn out(&self) -> Vec<bool> {
        self.members.iter().map(|member| !member).collect()
    }

    /// Whether it may be this machine that was cut off, and corosync has not noticed yet:
    /// no more than half of the members answer. Who wants to change something then asks
    /// once more, after [`age`](Word::age).
    pub fn may_be_old(&self, answers: &[bool]) -> bool {
        let members = self.members.iter().filter(|member| **member).count();
        let heard = self.members.iter().zip(answers);
        let heard = heard.filter(|(member, answers)| **member && **answers).count();
        2 * heard <= members
    }
}

/// Whether a name or address of corosync's is that of a configured node.
fn is_called(node: &NodeConfig, name: &str) -> bool {
    let names = [&*node.node.name, &*node.host];
    names.iter().any(|own| own.eq_ignore_ascii_case(name)) || parse_address(name) == Some(node.node.address)
}

/// Reads what `corosync-quorumtool -s` prints. `None` if it is anything else, or not all
/// of it.
pub fn parse_status(text: &[u8]) -> Option<Membership> {
    let text = str::from_utf8(text).ok()?;
    let (head, list) = text.split_once("\nMembership information\n")?;
    let value = |key: &str| {
        let mut values = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter_map(|(name, value)| (name == key).then_some(value.trim()));
        values.next().filter(|_| values.next().is_none())
    };
    let quorate = match value("Quorate")? {
        "Yes" => true,
        "No" => false,
        _ => return None,
    };
    let mut lines = list.lines().skip(1);
    if lines.next()?.split_whitespace().next() != Some("Nodeid") {
        return None;
    }
    let mut members = BTreeSet::new();
    for line in lines {
        // A device that has a vote is listed as 0.
        let id: u32 = line.split_whitespace().next()?.parse().ok()?;
        if id != 0 && !members.insert(id) {
            return None;
        }
    }
    let own: u32 = value("Node ID")?.parse().ok()?;
    let all: usize = value("Nodes")?.parse().ok()?;
    (all == members.len() && members.contains(&own)).then_some(Membership { quorate, members })
}

/// Reads what `corosync-cmapctl` prints: lines `key (type) = value`. `None` if it is
/// anything else, or lacks something. A node of corosync.conf(5) that has no id there gets
/// one when it is first seen, and is not among the nodes before.
pub fn parse_cmap(text: &[u8]) -> Option<Cmap> {
    let text = str::from_utf8(text).ok()?;
    let mut nodes: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut configured: BTreeMap<&str, (Option<u32>, Vec<&str>)> = BTreeMap::new();
    let (mut token, mut consensus) = (None, None);
    let millis = |value: &str| {
        value
            .parse()
            .ok()
            .map(|millis: u32| Duration::from_millis(millis.into()))
    };
    for line in text.lines() {
        let (key, value) = line.split_once(" (")?;
        let (_, value) = value.split_once(") = ")?;
        match key {
            TOKEN => token = Some(millis(value)?),
            CONSENSUS => consensus = Some(millis(value)?),
            _ => {}
        }
        let words: Vec<&str> = key.split('.').collect();
        match words[..] {
            ["nodelist", "node", place, "nodeid"] => {
                configured.entry(place).or_default().0 = Some(value.parse().ok()?);
            }
            ["nodelist", "node", place, word]
                if word == "name" || (word.starts_with("ring") && word.ends_with("_addr")) =>
            {
                configured.entry(place).or_default().1.push(value);
            }
            // As in "r(0) ip(192.0.2.1) r(1) ip(2001:db8::1) ".
            ["runtime", "members", id, "ip"] => {
                let addresses = value
                    .split_whitespace()
                    .filter_map(|word| word.strip_prefix("ip(")?.strip_suffix(')'));
                let names = nodes.entry(id.parse().ok()?).or_default();
                names.extend(addresses.map(String::from));
            }
            _ => {}
        }
    }
    for (id, names) in configured.into_values() {
        if let Some(id) = id {
            let known = nodes.entry(id).or_default();
            known.extend(names.into_iter().map(String::from));
        }
    }
    Some(Cmap {
        nodes,
        patience: token?.saturating_add(consensus?).saturating_add(AGREEMENT),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use mailaffinity::config::Config;
    use proptest::prelude::{any, prop, proptest};

    /// As corosync 3.1.7 prints it on the first of three nodes, one of which is cut off.
    const QUORATE: &str = "\
Quorum information
------------------
Date:             Fri Nov 27 15:57:49 2026
Quorum provider:  corosync_votequorum
Nodes:            2
Node ID:          1
Ring ID:          1.11
Quorate:          Yes

Votequorum information
----------------------
Expected votes:   3
Highest expected: 3
Total votes:      2
Quorum:           2  
Flags:            Quorate 

Membership information
----------------------
    Nodeid      Votes Name
         1          1 10.99.0.1 (local)
         2          1 10.99.0.2
";

    /// The same on the third.
    const ALONE: &str = "\
Quorum information
------------------
Date:             Fri Nov 27 15:57:49 2026
Quorum provider:  corosync_votequorum
Nodes:            1
Node ID:          3
Ring ID:          3.11
Quorate:          No

Votequorum information
----------------------
Expected votes:   3
Highest expected: 3
Total votes:      1
Quorum:           2 Activity blocked
Flags:            

Membership information
----------------------
    Nodeid      Votes Name
         3          1 node3 (local)
";

    /// With a device that has a vote.
    const DEVICE: &str = "
Membership information
----------------------
    Nodeid      Votes    Qdevice Name
         1          1    A,V,NMW 10.99.0.1 (local)
         2          1    A,V,NMW 10.99.0.2
         0          1            Qdevice
";

    /// Of udpu.
    const UDPU: &str = "\
nodelist.local_node_pos (u32) = 0
nodelist.node.0.name (str) = node1
nodelist.node.0.nodeid (u32) = 1
nodelist.node.0.ring0_addr (str) = 10.99.0.1
nodelist.node.1.name (str) = node2
nodelist.node.1.nodeid (u32) = 2
nodelist.node.1.ring0_addr (str) = 10.99.0.2
nodelist.node.2.name (str) = node3
nodelist.node.2.nodeid (u32) = 3
nodelist.node.2.ring0_addr (str) = 10.99.0.3
runtime.members.1.config_version (u64) = 0
runtime.members.1.ip (str) = r(0) ip(10.99.0.1) 
runtime.members.1.join_count (u32) = 1
runtime.members.1.status (str) = joined
runtime.members.3.config_version (u64) = 0
runtime.members.3.ip (str) = r(0) ip(10.99.0.3) 
runtime.members.3.join_count (u32) = 1
runtime.members.3.status (str) = left
";

    /// Of knet with two links, the second one IPv6.
    const KNET: &str = "\
nodelist.local_node_pos (u32) = 0
nodelist.node.0.name (str) = node1
nodelist.node.0.nodeid (u32) = 1
nodelist.node.0.ring0_addr (str) = 10.99.0.1
nodelist.node.0.ring1_addr (str) = fd99::1
nodelist.node.1.name (str) = node2
nodelist.node.1.nodeid (u32) = 2
nodelist.node.1.ring0_addr (str) = 10.99.0.2
nodelist.node.1.ring1_addr (str) = fd99::2
nodelist.node.2.name (str) = node3
nodelist.node.2.nodeid (u32) = 3
nodelist.node.2.ring0_addr (str) = 10.99.0.3
nodelist.node.2.ring1_addr (str) = fd99::3
runtime.members.1.config_version (u64) = 0
runtime.members.1.ip (str) = r(0) ip(10.99.0.1) r(1) ip(fd99::1) 
runtime.members.1.join_count (u32) = 1
runtime.members.1.status (str) = joined
";

    /// Where the addresses are names; the third node was never seen.
    const NAMES: &str = "\
nodelist.local_node_pos (u32) = 0
nodelist.node.0.nodeid (u32) = 1
nodelist.node.0.ring0_addr (str) = host1.example.org
nodelist.node.1.nodeid (u32) = 2
nodelist.node.1.ring0_addr (str) = host2.example.org
nodelist.node.2.nodeid (u32) = 3
nodelist.node.2.ring0_addr (str) = host3.example.org
runtime.members.1.config_version (u64) = 0
runtime.members.1.ip (str) = r(0) ip(10.99.0.1) 
runtime.members.1.join_count (u32) = 1
runtime.members.1.status (str) = joined
runtime.members.2.config_version (u64) = 0
runtime.members.2.ip (str) = r(0) ip(10.99.0.2) 
runtime.members.2.join_count (u32) = 1
runtime.members.2.status (str) = joined
";

    fn membership(quorate: bool, members: impl IntoIterator<Item = u32>) -> Membership {
        let members = members.into_iter().collect();
        Membership { quorate, members }
    }

    /// Nodes with these names and addresses.
    fn nodes(nodes: &[(&str, &str)]) -> Vec<NodeConfig> {
        let table = |(name, address): &(&str, &str)| {
            format!("[[node]]\nname = \"{name}\"\naddress = \"{address}\"\nhost = \"{name}.example.org\"\n")
        };
        let text: String = nodes.iter().map(table).collect();
        Config::parse(&text, Path::new("m.toml")).unwrap().nodes.to_vec()
    }

    const TOTEM: &str = "\
runtime.config.totem.consensus (u32) = 1980
runtime.config.totem.token (u32) = 1650
runtime.config.totem.token_retransmit (u32) = 392
runtime.config.totem.token_retransmits_before_loss_const (u32) = 4
runtime.config.totem.token_warning (u32) = 75
";

    fn cmap(nodes: &str) -> Option<Cmap> {
        parse_cmap([nodes, TOTEM].concat().as_bytes())
    }

    fn told(nodelist: &str, configured: &[(&str, &str)]) -> Result<Vec<bool>, String> {
        membership(true, [1, 2])
            .word(&nodes(configured), &cmap(nodelist).unwrap())
            .map(|word| word.members)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_status_has_the_members_and_whether_they_may_act() {
        assert_eq!(parse_status(QUORATE.as_bytes()), Some(membership(true, [1, 2])));
        assert_eq!(parse_status(ALONE.as_bytes()), Some(membership(false, [3])));
        let (head, _) = QUORATE.split_once("\nMembership").unwrap();
        let with_device = [head, DEVICE].concat();
        assert_eq!(
            parse_status(with_device.as_bytes()),
            Some(membership(true, [1, 2]))
        );
    }

    #[test]
    fn any_other_status_is_none() {
        for (old, new) in [
            ("Quorate:          Yes\n", ""),
            ("Quorate:          Yes\n", "Quorate:          Maybe\n"),
            (
                "Quorate:          Yes\n",
                "Quorate:          Yes\nQuorate:          No\n",
            ),
            ("Nodes:            2", "Nodes:            3"),
            ("Node ID:          1", "Node ID:          3"),
            ("         2          1", "         1          1"),
            ("         2          1", "         x          1"),
            ("    Nodeid", "    Name"),
            ("Membership information", "Membership"),
        ] {
            let text = QUORATE.replacen(old, new, 1);
            assert_ne!(text, QUORATE, "{old}");
            assert_eq!(parse_status(text.as_bytes()), None, "{text}");
        }
        for text in ["", "Cannot initialize CMAP service\n"] {
            assert_eq!(parse_status(text.as_bytes()), None);
        }
    }

    #[test]
    fn nodes_are_found_by_each_of_their_names() {
        let by_name = [
            ("node1", "192.0.2.1"),
            ("NODE2", "192.0.2.2"),
            ("node3", "192.0.2.3"),
        ];
        let by_address = [("a", "10.99.0.1"), ("b", "10.99.0.2"), ("c", "10.99.0.3")];
        let by_ring1 = [("a", "fd99::1"), ("b", "FD99:0::2"), ("c", "fd99::3")];
        let by_host = [
            ("host1", "192.0.2.1"),
            ("host2", "192.0.2.2"),
            ("host3", "192.0.2.3"),
        ];
        let (out, all) = (Ok(vec![true, true, false]), Ok(vec![true, true]));
        assert_eq!(told(UDPU, &by_name), out);
        assert_eq!(told(UDPU, &by_address), out);
        assert_eq!(told(KNET, &by_name), out);
        assert_eq!(told(KNET, &by_ring1), out);
        assert_eq!(told(NAMES, &by_host), out);
        // Their addresses are known once they were seen.
        assert_eq!(told(NAMES, &by_address[..2]), all);
        let unknown = told(NAMES, &by_address).unwrap_err();
        assert!(
            unknown.starts_with("corosync has no node with the name, host or address of node \"c\":"),
            "{unknown}"
        );
        let two = told(UDPU, &[("node1", "10.99.0.2")]).unwrap_err();
        assert!(two.starts_with("corosync has several nodes with"), "{two}");
    }

    #[test]
    fn any_other_store_is_none() {
        let patience = Duration::from_millis(1650 + 1980 + 1000);
        assert_eq!(
            cmap("").unwrap(),
            Cmap {
                patience,
                ..Cmap::default()
            }
        );
        for text in [
            "Failed to initialize the cmap API. Error CS_ERR_LIBRARY\n",
            "nodelist.node.0.nodeid (u32) = one\n",
            "runtime.members.x.ip (str) = r(0) ip(10.99.0.1) \n",
            "runtime.config.totem.token (u32) = -1\n",
            "nodelist.node.0.name\n",
        ] {
            assert_eq!(cmap(text), None, "{text}");
        }
        for line in TOTEM.lines().take(2) {
            assert_eq!(parse_cmap([UDPU, line, "\n"].concat().as_bytes()), None);
        }
        // One without an id, which corosync then makes of its address.
        let text = "nodelist.node.0.ring0_addr (str) = 10.99.0.1\nruntime.members.174260225.ip (str) = r(0) ip(10.99.0.1) \n";
        let nodes = cmap(text).unwrap().nodes;
        assert_eq!(
            nodes,
            BTreeMap::from([(174_260_225, vec!["10.99.0.1".to_owned()])])
        );
    }

    #[test]
    fn half_of_the_members_may_be_cut_off() {
        let may_be_old = |members: &[bool], answers: &[bool]| {
            let word = Word {
                members: members.to_vec(),
                age: Duration::ZERO,
            };
            word.may_be_old(answers)
        };
        let (all, first) = ([true; 3], [true, false, false]);
        assert!(!may_be_old(&all, &[true, true, false]));
        assert!(may_be_old(&all, &first));
        assert!(may_be_old(&all[..2], &first[..2]));
        // What is out need not answer, and does not count if it does.
        assert!(!may_be_old(&first, &first));
        assert!(may_be_old(&first, &[false, true, true]));
    }

    proptest! {
        /// Without a quorum nothing is said of anybody; with one, a node is in it or out.
        #[test]
        fn a_quorum_decides(quorate in any::<bool>(), members in prop::collection::btree_set(0u32..40, 0..40)) {
            let names: Vec<(String, String)> =
                (0..40).map(|id| (format!("node{id}"), format!("10.0.0.{id}"))).collect();
            let names: Vec<(&str, &str)> = names.iter().map(|(name, address)| (&**name, &**address)).collect();
            let cmap = Cmap {
                nodes: (0..40).map(|id| (id, vec![format!("node{id}")])).collect(),
                patience: Duration::ZERO,
            };
            match membership(quorate, members.clone()).word(&nodes(&names), &cmap) {
                Ok(word) => {
                    assert!(quorate);
                    assert!((0u32..).zip(word.members).all(|(id, is_in)| is_in == members.contains(&id)));
                }
                Err(error) => assert!(!quorate && matches!(error, CorosyncError::NoQuorum)),
            }
        }

        /// Of a status that is cut short, nothing is taken for the whole.
        #[test]
        fn no_piece_is_the_whole(end in 0..QUORATE.len()) {
            let piece = &QUORATE.as_bytes()[..end];
            if let Some(read) = parse_status(piece) {
                assert_eq!(read, membership(true, [1, 2]));
            }
        }
    }
}
