//! `mailaffinity nodes`, `down`, `up` and `auto`: the node state, read and marked by hand.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::exit::{Failure, NAME, say};
use crate::last_good;
use crate::names;
use crate::node_state;
use crate::nodes::{doubtful_marks, find_node};
use mailaffinity::config::Config;
use mailaffinity::mapping::ring_label;
use mailaffinity::node_state::{By, Mark, NodeState, State};

/// List the nodes: which are up, since when, and their shares of the users
///
/// The share is that of all possible users, among the nodes with the same tag.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  The names of the nodes that are down:
      mailaffinity nodes | awk '$2 == \"down\" { print $1 }'")]
pub(crate) struct Nodes {
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

/// Mark nodes down by hand, whatever the checks say
///
/// Their users move to the other nodes: at once for PHP and C, and for sendmail with the
/// next update.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  Take a node out of service at once, for sendmail too:
      mailaffinity down node2 --reason 'new disks'
      mailaffinity update")]
pub(crate) struct Down {
    #[command(flatten)]
    marking: Marking,
}

/// Mark nodes up by hand, whatever the checks say
///
/// They stay up, also if they die, until they are marked otherwise: see "auto".
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  Trust a node that its checks cannot reach:
      mailaffinity up node3 --reason 'its firewall drops the probe'")]
pub(crate) struct Up {
    #[command(flatten)]
    marking: Marking,
}

/// Leave nodes to the checks again
///
/// A node that was marked down is up until a check finds it down.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  Give a node its users back:
      mailaffinity auto node2
      mailaffinity update")]
pub(crate) struct Auto {
    #[command(flatten)]
    chosen: Chosen,
}

#[derive(Args)]
struct Chosen {
    /// Print what would change, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Nodes, by their names in the configuration
    #[arg(required = true)]
    nodes: Vec<String>,
}

#[derive(Args)]
struct Marking {
    /// Why, for those who wonder [default: as before]
    #[arg(long, short)]
    reason: Option<String>,

    #[command(flatten)]
    chosen: Chosen,
}

impl Nodes {
    pub(crate) fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
        for doubt in doubtful_marks(config, &state) {
            say(NAME, doubt);
        }
        let cluster = config.cluster(&state).map_err(Failure::config)?;
        // Of all hashes, among the nodes with the same tag.
        let shares = cluster
            .hash_counts()
            .into_iter()
            .map(|count| count as f64 / 2f64.powi(32));
        let rows = config
            .nodes
            .iter()
            .zip(cluster.nodes())
            .zip(shares)
            .map(|((node, live), share)| (node, live, state.mark_of(&live.name), share));
        if self.json {
            return names::print(|out| {
                for (node, live, mark, share) in rows {
                    let row = json!({
                        "name": live.name,
                        "state": if live.up { "up" } else { "down" },
                        "since": mark.and_then(|mark| mark.since).map(|since| since.to_string()),
                        "by": mark.map(|mark| by(mark.by)),
                        "reason": mark.map(|mark| &mark.reason),
                        "share": share,
                        "vhost_count": live.vhost_count,
                        "tag": live.tag,
                        "address": ring_label(live.address),
                        "host": node.host,
                        "queue_group": node.queue_group,
                    });
                    writeln!(out, "{row}")?;
                }
                Ok(())
            });
        }
        let width = config
            .nodes
            .iter()
            .map(|node| node.node.name.len())
            .max()
            .unwrap_or(0)
            .max(4);
        names::print(|out| {
            writeln!(
                out,
                "{:<width$}  STATE  {:<20}  {:<8}   SHARE  REASON",
                "NODE", "SINCE", "BY"
            )?;
            for (_, live, mark, share) in rows {
                let since = mark
                    .and_then(|mark| mark.since)
                    .map(|since| format!("{since:.0}"));
                let line = format!(
                    "{:<width$}  {:<5}  {:<20}  {:<8}  {:>5.1}%  {}",
                    live.name,
                    if live.up { "up" } else { "down" },
                    since.as_deref().unwrap_or("-"),
                    mark.map_or("-", |mark| by(mark.by)),
                    share * 100.0,
                    mark.map(|mark| mark.reason.escape_debug().to_string())
                        .unwrap_or_default(),
                );
                writeln!(out, "{}", line.trim_end())?;
            }
            Ok(())
        })
    }
}

fn by(by: By) -> &'static str {
    match by {
        By::Hand => "hand",
        By::Checks => "checks",
        By::Director => "director",
    }
}

impl Down {
    pub(crate) fn run(self, path: &Path, config: &Config) -> Result<ExitCode, Failure> {
        self.marking.run(path, config, State::Down)
    }
}

impl Up {
    pub(crate) fn run(self, path: &Path, config: &Config) -> Result<ExitCode, Failure> {
        self.marking.run(path, config, State::Up)
    }
}

impl Auto {
    pub(crate) fn run(self, path: &Path, config: &Config) -> Result<ExitCode, Failure> {
        // Also one that the configuration no longer has.
        let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
        let marked: Vec<&str> = state.marks().map(|(name, _)| name).collect();
        self.chosen.change(path, config, &marked, |state, node| {
            state.set_mark(node, None);
        })
    }
}

impl Marking {
    /// Marks each node. An earlier mark by hand keeps its time, unless that is still to
    /// come, and its reason where no other is given.
    fn run(self, path: &Path, config: &Config, new: State) -> Result<ExitCode, Failure> {
        let now = Timestamp::now();
        self.chosen.change(path, config, &[], |state, node| {
            let known = state
                .mark_of(node)
                .filter(|known| known.state == new && known.is_by_hand())
                .cloned();
            let known = known.unwrap_or_else(|| Mark {
                since: Some(now),
                ..Mark::new(new)
            });
            let mark = Mark {
                reason: self.reason.clone().unwrap_or(known.reason),
                since: known.since.map(|since| since.min(now)),
                by: By::Hand,
                ..known
            };
            state.set_mark(node, Some(mark));
        })
    }
}

impl Chosen {
    /// Changes the state of nodes, which must be those of the configuration or `others`.
    fn change(
        &self,
        path: &Path,
        config: &Config,
        others: &[&str],
        set: impl Fn(&mut NodeState, &str),
    ) -> Result<ExitCode, Failure> {
        let Chosen { dry_run, nodes } = self;
        for node in nodes {
            if !others.contains(&node.as_str()) {
                find_node(config, node)?;
            }
        }
        let set_all = |state: &mut NodeState| nodes.iter().for_each(|node| set(state, node));
        if *dry_run {
            let before = NodeState::load(&config.node_state).map_err(Failure::config)?;
            let mut after = before.clone();
            set_all(&mut after);
            return names::print(|out| {
                for node in nodes {
                    let said = |state: &NodeState| if state.is_down(node) { "down" } else { "up" };
                    writeln!(out, "{node}\t{}\t{}", said(&before), said(&after))?;
                }
                Ok(())
            });
        }
        let after = node_state::change(config, set_all)?;
        for problem in last_good::keep(path, config) {
            say(NAME, problem);
        }
        if config.nodes.iter().all(|node| after.is_down(&node.node.name)) {
            say(NAME, "all nodes are down now: nobody has a node");
        }
        Ok(ExitCode::SUCCESS)
    }
}
