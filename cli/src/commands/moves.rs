//! `mailaffinity move`: users to other nodes than the mapping's, by hand, and back.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use jiff::{Span, Timestamp, ZonedDateTime};
use serde_json::json;

use crate::exit::{Failure, NAME, Status, say};
use crate::last_good;
use crate::names;
use crate::node_state;
use crate::nodes::find_node;
use mailaffinity::config::{Config, NodeConfig};
use mailaffinity::mapping::Cluster;
use mailaffinity::node_state::NodeState;

/// How many names are shown of users who move too.
const SHOWN: usize = 20;

/// Move users to another node than the mapping's, for good or for a time, and back
///
/// As "doveadm director move" does: at once for C and Lua, and with the next update for the
/// access map, and so for sendmail and PHP. While that node is down, they are where the mapping
/// has them, as all others. The node state has the hashes of those who were moved: others with
/// the same hash move too, which is told. Who is moved to the node that is right if all are up
/// is back.
///
/// With --list, each line of output has the user, the node, until when, and the hash, with
/// tabs between them. A hash of nobody whom [users] of the configuration lists shows "-".
///
/// Where [checks] asks a Director, its moves count, and this command changes nothing.
#[derive(Args)]
#[command(
    override_usage = "mailaffinity move [OPTIONS] [USER]... NODE\n       \
                      mailaffinity move --back [OPTIONS] [USER]...\n       \
                      mailaffinity move --list [--json]",
    after_long_help = "\
Examples:
  A user with a large mailbox to the node with the fast disks:
      mailaffinity move anna node2
  For an hour, and from the node where the user is at work:
      mailaffinity move --for 1h anna node2
      mailaffinity kick anna
  Everybody back:
      mailaffinity move --back --all"
)]
pub(crate) struct Move {
    /// Back to the node that the mapping gives
    #[arg(long)]
    back: bool,

    /// With --back: all users who were moved
    #[arg(long, requires = "back", conflicts_with_all = ["words", "tag"])]
    all: bool,

    /// For so long, as 30m, 2h or 7d [default: until they are moved back]
    #[arg(long = "for", value_name = "TIME", conflicts_with = "back")]
    time: Option<Span>,

    /// The node that lookups with this tag give [default: the tag of the configuration]
    #[arg(long, short)]
    tag: Option<String>,

    /// Print who would move, from where and to where, and move nobody
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// List those who were moved
    #[arg(long, conflicts_with_all = ["back", "all", "time", "tag", "dry_run", "words"])]
    list: bool,

    /// Print a JSON object a line
    #[arg(long, requires = "list")]
    json: bool,

    /// Users, and after them the node; without users, one on each line of standard input
    #[arg(value_name = "USER")]
    words: Vec<OsString>,
}

impl Move {
    pub(crate) fn run(mut self, path: &Path, config: &Config) -> Result<ExitCode, Failure> {
        let before = NodeState::load(&config.node_state).map_err(Failure::config)?;
        if self.list {
            return list(config, &before, self.json);
        }
        if node_state::asks_director(config) {
            let message = "the Director says who is where ([checks] in the configuration): move users by \"doveadm \
                           director move\", which the next update follows";
            return Err(Failure::new(Status::Usage, message));
        }
        let node = match self.back {
            true => None,
            false => Some(node(config, self.words.pop())?),
        };
        let tag = self.tag.as_deref().unwrap_or(&config.tag);
        let now = config.cluster(&before).map_err(Failure::config)?;
        let has_tag = |name: &str| {
            let node = now.nodes().iter().find(|node| node.name == name);
            node.is_none_or(|node| node.tag == tag)
        };
        if let Some(node) = node.filter(|node| !has_tag(&node.node.name)) {
            let message = format!(
                "{} does not have the tag \"{}\", and so no lookup with that gives it; --tag says another one",
                node.node.name,
                tag.escape_debug()
            );
            return Err(Failure::new(Status::Usage, message));
        }
        let until = self.time.map(end).transpose()?;
        let (users, hashes) = if self.all {
            let hashes = moved(&before);
            (named(config, &hashes).collect(), hashes)
        } else {
            let users = read(config, self.words)?;
            let hashes = users.iter().map(|(_, hash)| *hash).collect();
            (users, hashes)
        };
        let home = home(config, &before)?;
        let leaves_home = |hash: &u32, to: &NodeConfig| {
            home.index_of_hash(*hash, tag) != config.nodes.index_of(&to.node.name)
        };
        let change = |state: &mut NodeState| {
            state.move_back(&hashes, |name| self.all || has_tag(name));
            if let Some(to) = node {
                let hashes = hashes
                    .iter()
                    .filter(|hash| leaves_home(hash, to))
                    .copied()
                    .collect();
                state.move_users(&hashes, &to.node.name, until);
            }
        };
        if self.dry_run {
            let mut after = before.clone();
            change(&mut after);
            let then = config.cluster(&after).map_err(Failure::config)?;
            return print(config, &users, tag, [&now, &then]);
        }
        let after = node_state::change(config, change)?;
        for problem in last_good::keep(path, config) {
            say(NAME, problem);
        }
        if let Some(node) = node.filter(|node| after.is_down(&node.node.name)) {
            say(
                NAME,
                format!(
                    "{} is down: until it is up, they are where the mapping has them",
                    node.node.name
                ),
            );
        }
        if !self.all {
            tell_others(config, &users, &hashes);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The node of a command line.
fn node(config: &Config, word: Option<OsString>) -> Result<&NodeConfig, Failure> {
    let word = word.ok_or_else(|| Failure::new(Status::Usage, "which NODE? \"--help\" says more"))?;
    find_node(config, &word.to_string_lossy())
}

/// When a time is over that begins now, in whole seconds.
fn end(time: Span) -> Result<Timestamp, Failure> {
    let now = ZonedDateTime::now();
    let then = now.checked_add(time).ok().filter(|then| *then > now);
    let then = then.and_then(|then| Timestamp::from_second(then.timestamp().as_second()).ok());
    then.ok_or_else(|| Failure::new(Status::Usage, format!("nobody can be moved for {time:#}")))
}

/// The mapping if all nodes are up and nobody was moved.
fn home(config: &Config, state: &NodeState) -> Result<Cluster, Failure> {
    let state = state.without_marks().without_moved();
    config.cluster(&state).map_err(Failure::config)
}

/// A user, and the hash.
type User = (Vec<u8>, u32);

/// Those of a command line, in its order.
///
/// # Errors
/// Also where one of them has no hash.
fn read(config: &Config, words: Vec<OsString>) -> Result<Vec<User>, Failure> {
    let mut users = Vec::new();
    names::given(words).try_for_each(|user| {
        let hash = config.hash_of(user).map_err(|error| {
            let problem = format!("the username \"{}\": {error}", user.escape_ascii());
            io::Error::new(io::ErrorKind::InvalidData, problem)
        })?;
        users.push((user.to_owned(), hash));
        Ok(())
    })?;
    Ok(users)
}

/// The hashes of all who were moved.
fn moved(state: &NodeState) -> BTreeSet<u32> {
    state
        .nodes
        .values()
        .flat_map(|entry| entry.moved.iter())
        .collect()
}

/// Who of the configuration's users has one of these hashes. Where nobody lists them, that is
/// told.
fn named(config: &Config, hashes: &BTreeSet<u32>) -> impl Iterator<Item = User> + use<> {
    let mut users = Vec::new();
    let listed = names::all(config).and_then(|all| {
        let listed = all.try_for_each(|user| {
            let hash = config.hash_of(user).ok().filter(|hash| hashes.contains(hash));
            users.extend(hash.map(|hash| (user.to_owned(), hash)));
            Ok(())
        });
        Ok(listed?)
    });
    if let Err(failure) = listed {
        say(
            NAME,
            format!("whose hashes these are too is not known: {failure}"),
        );
    }
    users.into_iter()
}

/// Who is where by two mappings.
fn print(config: &Config, users: &[User], tag: &str, mappings: [&Cluster; 2]) -> Result<ExitCode, Failure> {
    let name = |mapping: &Cluster, hash: u32| {
        let node = mapping
            .index_of_hash(hash, tag)
            .and_then(|index| config.nodes.get(index));
        node.map_or("-", |node| node.node.name.as_str())
    };
    names::print(|out| {
        users.iter().try_for_each(|(user, hash)| {
            names::write_line(out, user, &mappings.map(|mapping| name(mapping, *hash)))
        })
    })
}

/// Tells which other users of the configuration have the same hashes.
fn tell_others(config: &Config, users: &[User], hashes: &BTreeSet<u32>) {
    let authenticated = |user: &[u8]| {
        config
            .authenticated(user)
            .map(Cow::into_owned)
            .unwrap_or_default()
    };
    let given: BTreeSet<Vec<u8>> = users.iter().map(|(user, _)| authenticated(user)).collect();
    let others = named(config, hashes).filter(|(user, _)| !given.contains(&authenticated(user)));
    let others: BTreeSet<String> = others.map(|(user, _)| user.escape_ascii().to_string()).collect();
    let shown: Vec<&str> = others.iter().take(SHOWN).map(String::as_str).collect();
    let more = match others.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    if !shown.is_empty() {
        let shown = shown.join(", ");
        say(
            NAME,
            format!("others have the same hashes, and move too: {shown}{more}"),
        );
    }
}

fn list(config: &Config, state: &NodeState, json: bool) -> Result<ExitCode, Failure> {
    let moved = moved(state);
    let mut users: BTreeMap<u32, Vec<Option<Vec<u8>>>> = BTreeMap::new();
    if !moved.is_empty() {
        for (user, hash) in named(config, &moved) {
            users.entry(hash).or_default().push(Some(user));
        }
    }
    let moves = state.nodes.iter().flat_map(|(node, entry)| {
        let moves = entry.moved.iter().map(|hash| (hash, entry.moved.until(hash)));
        moves.map(move |(hash, until)| (node.as_str(), hash, until))
    });
    names::print(|out| {
        for (node, hash, until) in moves {
            let (hex, until) = (format!("{hash:08x}"), until.map(|until| until.to_string()));
            for user in users.entry(hash).or_insert_with(|| vec![None]) {
                if json {
                    let user = user.as_deref().map(names::json_name);
                    let row = json!({"user": user, "node": node, "until": until, "hash": hex});
                    writeln!(out, "{row}")?;
                    continue;
                }
                let user = user.as_deref().unwrap_or(b"-");
                names::write_line(out, user, &[node, until.as_deref().unwrap_or("-"), &hex])?;
            }
        }
        Ok(())
    })
}
