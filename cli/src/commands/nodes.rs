//! `mailaffinity nodes`, `down`, `up` and `auto`: the node state, read and marked by hand.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::exit::{Failure, NAME, say};
use crate::last_good;
use crate::names;
use crate::node_state;
use crate::nodes::{doubts, find_node};
use crate::report::last_status;
use crate::watch::WATCH;
use mailaffinity::config::{Config, NodeConfig};
use mailaffinity::mapping::{Node, ring_label};
use mailaffinity::node_state::{By, Mark, NodeState, State};

/// What terminals since the VT100 take for orders (ECMA-48): to go to the upper left, and to
/// remove what is there.
const HOME: &str = "\x1b[H";
const CLEAR: &str = "\x1b[2J";
const CLEAR_LINE: &str = "\x1b[K\n";
const CLEAR_BELOW: &str = "\x1b[J";

/// List the nodes: which are up, since when, and their shares of the users
///
/// The share is that of all possible users, among the nodes with the same tag. With --watch,
/// also how often the watcher saw each one fall within the last hour, and what it has found
/// wrong.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  The names of the nodes that are down:
      mailaffinity nodes | awk '$2 == \"down\" { print $1 }'")]
pub(crate) struct Nodes {
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,

    /// Print them each second, over the last time on a terminal, until a signal ends it
    #[arg(long, short, conflicts_with = "json")]
    watch: bool,
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
    pub(crate) fn run(self, path: &Path, config: &Config) -> Result<ExitCode, Failure> {
        if self.watch {
            return watch(path);
        }
        let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
        for doubt in doubts(config, &state) {
            say(NAME, doubt);
        }
        let rows = rows(config, &state)?;
        names::print(|out| {
            if !self.json {
                return write_table(out, &rows, None);
            }
            for Row {
                node,
                live,
                mark,
                share,
            } in &rows
            {
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
        })
    }
}

/// What is known of a node.
struct Row<'r> {
    node: &'r NodeConfig,
    live: Node,
    mark: Option<&'r Mark>,
    share: f64,
}

fn rows<'r>(config: &'r Config, state: &'r NodeState) -> Result<Vec<Row<'r>>, Failure> {
    let cluster = config.cluster(state).map_err(Failure::config)?;
    let nodes = config
        .nodes
        .iter()
        .zip(cluster.nodes())
        .zip(cluster.hash_counts());
    let row = |((node, live), count): ((&'r NodeConfig, &Node), u64)| Row {
        node,
        live: live.clone(),
        mark: state.mark_of(&live.name),
        // Of all hashes, among the nodes with the same tag.
        share: count as f64 / 2f64.powi(32),
    };
    Ok(nodes.map(row).collect())
}

/// With how often each node fell, if that is known.
fn write_table(
    out: &mut impl Write,
    rows: &[Row<'_>],
    falls: Option<&dyn Fn(&str) -> usize>,
) -> io::Result<()> {
    let widths = rows.iter().map(|row| row.live.name.len());
    let width = widths.max().unwrap_or(0).max(4);
    let head = if falls.is_some() { "FALLS  " } else { "" };
    writeln!(
        out,
        "{:<width$}  STATE  {:<20}  {:<8}   SHARE  {head}REASON",
        "NODE", "SINCE", "BY"
    )?;
    for Row {
        live, mark, share, ..
    } in rows
    {
        let since = mark.and_then(|mark| mark.since);
        let falls = falls.map(|falls| format!("{:>5}  ", falls(&live.name)));
        let line = format!(
            "{:<width$}  {:<5}  {:<20}  {:<8}  {:>5.1}%  {}{}",
            live.name,
            if live.up { "up" } else { "down" },
            since.map_or("-".into(), |since| format!("{since:.0}")),
            mark.map_or("-", |mark| by(mark.by)),
            share * 100.0,
            falls.unwrap_or_default(),
            mark.map_or("".into(), |mark| mark.reason.escape_debug().to_string()),
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints the table each second: over itself on a terminal, else one below the other.
fn watch(path: &Path) -> Result<ExitCode, Failure> {
    let is_terminal = io::stdout().is_terminal();
    names::print(|out| {
        if is_terminal {
            write!(out, "{CLEAR}")?;
        }
        loop {
            let text = live(path).unwrap_or_else(|failure| format!("{NAME}: {failure}\n"));
            match is_terminal {
                true => write!(out, "{HOME}{}{CLEAR_BELOW}", text.replace('\n', CLEAR_LINE))?,
                false => writeln!(out, "{text}")?,
            }
            out.flush()?;
            thread::sleep(Duration::from_secs(1));
        }
    })
}

/// What the watcher left in the status file.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Watcher {
    written: Option<Timestamp>,
    falls: BTreeMap<String, Vec<String>>,
    sessions: Option<Sessions>,
    problems: Vec<String>,
}

#[derive(Deserialize)]
struct Sessions {
    wrong: usize,
}

/// The table, and what the watcher knows besides, as it last wrote it.
fn live(path: &Path) -> Result<String, Failure> {
    let config = Config::load(path).map_err(Failure::config)?;
    let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
    let last = last_status(&config, WATCH).map(Value::Object);
    let watcher: Watcher = last
        .and_then(|last| serde_json::from_value(last).ok())
        .unwrap_or_default();
    let falls = |node: &str| watcher.falls.get(node).map_or(0, Vec::len);
    let now = Timestamp::now();
    let mut out = format!("{now:.0}\n").into_bytes();
    write_table(&mut out, &rows(&config, &state)?, Some(&falls))?;
    let moved: usize = state.nodes.values().map(|entry| entry.moved.len()).sum();
    let before = state.before.as_ref().filter(|before| before.is_under_way(now));
    let lines = [
        (moved > 0).then(|| format!("users moved by hand or by the Director: {moved}")),
        before.map(|before| format!("users move, and are let in again at {}", before.until)),
        watcher
            .sessions
            .map(|sessions| format!("sessions on the wrong node: {}", sessions.wrong)),
        watcher.written.map(|written| {
            format!(
                "the watcher wrote its status at {written:.0}, and has problems: {}",
                watcher.problems.len()
            )
        }),
    ];
    let problems = watcher.problems.iter().map(|problem| format!("  {problem}"));
    let is_told = |doubt: &String| watcher.problems.iter().any(|problem| problem.contains(doubt));
    for line in doubts(&config, &state)
        .into_iter()
        .filter(|doubt| !is_told(doubt))
        .chain(lines.into_iter().flatten())
        .chain(problems)
    {
        writeln!(out, "{line}")?;
    }
    // Nothing commands a terminal.
    let text = String::from_utf8_lossy(&out);
    Ok(text.replace(|c: char| c.is_control() && c != '\n', "?"))
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
