//! What an update would change, as lines for people or programs.

use std::cell::OnceCell;
use std::io::{self, Write};

use serde::{Serialize, Serializer};

use crate::exit::Failure;
use crate::names::{self, json_name, write_user};
use crate::update::{self, MapPlan, NodeChanges, Plan, UpdateError};
use crate::users::OutsideUids;
use mailaffinity::access_map::key;
use mailaffinity::config::Config;
use mailaffinity::node_state::NodeState;

/// A line of what an update would change, or would leave out.
#[derive(Serialize)]
#[serde(untagged)]
enum Difference<'a> {
    Node {
        node: &'a str,
        before: &'static str,
        after: &'static str,
        reason: String,
    },
    /// Something else that the Director has otherwise than before.
    Director {
        director: String,
        before: String,
        after: String,
    },
    Entry {
        #[serde(serialize_with = "bytes")]
        user: &'a [u8],
        #[serde(serialize_with = "some_bytes")]
        before: Option<&'a [u8]>,
        #[serde(serialize_with = "some_bytes")]
        after: Option<&'a [u8]>,
        /// The line of the administrator's entry to which it gives way.
        #[serde(skip_serializing_if = "Option::is_none")]
        by_hand: Option<u64>,
    },
    /// Another name that sendmail asks for.
    OtherName {
        #[serde(serialize_with = "bytes")]
        other_name: &'a [u8],
        #[serde(serialize_with = "some_bytes")]
        before: Option<&'a [u8]>,
        #[serde(serialize_with = "some_bytes")]
        after: Option<&'a [u8]>,
    },
    LeftOut {
        #[serde(serialize_with = "bytes")]
        user: &'a [u8],
        left_out: String,
    },
    /// Accounts that are no users, by their uids.
    OutsideUids { outside_uids: OutsideUids },
    /// A service that may have users and lists none.
    SilentService { silent_service: &'a str },
    /// What is wrong with the alias files, or could not be found out of them.
    Aliases { aliases: &'a str },
    /// The map is not the one of the source, which stays as it is.
    Rebuild { rebuild: String },
    /// What is published is not of the map, which stays as it is.
    Publish { publish: String },
}

fn bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&json_name(bytes))
}

fn some_bytes<S: Serializer>(bytes: &Option<&[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.map(json_name).serialize(serializer)
}

impl Difference<'_> {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Difference::Node {
                node,
                before,
                after,
                reason,
            } => writeln!(out, "{node}\t{before} -> {after}\t{}", reason.escape_debug()),
            Difference::Director {
                director,
                before,
                after,
            } => writeln!(out, "{director}\t{before} -> {after}"),
            Difference::Entry {
                user,
                before,
                after,
                by_hand,
            } => {
                write_change(out, user, *before, *after)?;
                match by_hand {
                    Some(line) => writeln!(out, " (by hand, line {line})"),
                    None => writeln!(out),
                }
            }
            Difference::OtherName {
                other_name,
                before,
                after,
            } => {
                write_change(out, other_name, *before, *after)?;
                writeln!(out, " (other name)")
            }
            Difference::LeftOut { user, left_out } => {
                write_user(out, user)?;
                writeln!(out, "\tleft out: {left_out}")
            }
            Difference::OutsideUids {
                outside_uids: OutsideUids { below, above },
            } => writeln!(
                out,
                "accounts\tleft out: {below} below uid_min, {above} above uid_max"
            ),
            Difference::SilentService { silent_service } => {
                writeln!(out, "accounts\tleft out: {silent_service}")
            }
            Difference::Aliases { aliases } => writeln!(out, "aliases\tleft out: {aliases}"),
            Difference::Rebuild { rebuild } => {
                writeln!(out, "{rebuild}\tthe map is not the one of this source")
            }
            Difference::Publish { publish } => {
                writeln!(out, "{publish}\tthe published answers are not those of the map")
            }
        }
    }
}

fn write_change(
    out: &mut impl Write,
    name: &[u8],
    before: Option<&[u8]>,
    after: Option<&[u8]>,
) -> io::Result<()> {
    let group = |group: Option<&[u8]>| group.unwrap_or(b"-").escape_ascii().to_string();
    write_user(out, name)?;
    write!(out, "\t{} -> {}", group(before), group(after))
}

/// Prints what an update would change, and returns whether that is anything.
pub(crate) fn print_differences(config: &Config, accept_loss: bool, json: bool) -> Result<bool, Failure> {
    let nodes = update::check_nodes(config, false)?;
    let plan = match update::plan_unlocked(config, &nodes.after, accept_loss, &OnceCell::new())? {
        Plan::Map(plan) => Some(plan),
        Plan::NoMap | Plan::Unchanged => None,
    };
    let is_in_force = plan.as_ref().is_none_or(|plan| plan.is_in_force());

    let mut differences: Vec<Difference<'_>> = node_differences(config, &nodes);
    differences.extend(director_differences(config, &nodes));
    if let Some(plan) = &plan {
        differences.extend(plan_differences(plan));
    }
    names::print(|out| {
        differences.iter().try_for_each(|difference| match json {
            true => writeln!(out, "{}", serde_json::to_string(difference)?),
            false => difference.write(out),
        })
    })?;
    match nodes.problem {
        Some(problem) => Err(UpdateError::Checks(problem).into()),
        None => Ok(nodes.before != nodes.after || !is_in_force),
    }
}

fn node_differences<'c>(config: &'c Config, nodes: &NodeChanges) -> Vec<Difference<'c>> {
    let changes = nodes.up_or_down(config).into_iter();
    changes
        .map(|(node, after, reason)| Difference::Node {
            node,
            before: if after == "down" { "up" } else { "down" },
            after,
            reason,
        })
        .collect()
}

fn director_differences(config: &Config, nodes: &NodeChanges) -> Vec<Difference<'static>> {
    let (old, new) = (&nodes.before, &nodes.after);
    let mut differences = Vec::new();
    let mut compare = |director: String, of: &dyn Fn(&NodeState) -> String| {
        let (before, after) = (of(old), of(new));
        if before != after {
            differences.push(Difference::Director {
                director,
                before,
                after,
            });
        }
    };
    for node in config.nodes.iter().map(|node| &node.node) {
        let of = |state: &NodeState| state.nodes.get(&node.name).cloned().unwrap_or_default();
        compare(format!("{} vhost_count", node.name), &|state| {
            of(state).vhost_count.unwrap_or(node.vhost_count).to_string()
        });
        compare(format!("{} tag", node.name), &|state| {
            let tag = of(state).tag.unwrap_or_else(|| node.tag.clone());
            format!("\"{}\"", tag.escape_debug())
        });
        compare(format!("users moved to {}", node.name), &|state| {
            of(state).moved.len().to_string()
        });
    }
    differences
}

fn plan_differences<'p>(plan: &'p MapPlan<'_>) -> Vec<Difference<'p>> {
    let mut by_hand = plan.by_hand.iter().peekable();
    let entries = plan.changes().map(|change| {
        let order = |own: &&crate::entries::Override<'_>| key::compare(&own.entry.key, change.key);
        while by_hand.next_if(|own| order(own).is_lt()).is_some() {}
        let own = by_hand.next_if(|own| change.after.is_none() && order(own).is_eq());
        Difference::Entry {
            user: key::name(change.key),
            before: change.before,
            after: own.map(|own| &*own.entry.value).or(change.after),
            by_hand: own.map(|own| own.line),
        }
    });
    let mut differences: Vec<_> = entries.collect();
    differences.extend(plan.other_changes().map(|change| Difference::OtherName {
        other_name: key::name(change.key),
        before: change.before,
        after: change.after,
    }));
    let rebuild = Difference::Rebuild {
        rebuild: plan.source().display().to_string(),
    };
    let rebuild = (differences.is_empty() && !plan.is_map_in_force()).then_some(rebuild);
    let unpublished = plan
        .unpublished()
        .filter(|_| differences.is_empty() && rebuild.is_none());
    differences.extend(plan.left_out.iter().map(|left_out| Difference::LeftOut {
        user: &left_out.user,
        left_out: left_out.reason.to_string(),
    }));
    if plan.outside_uids != OutsideUids::default() {
        differences.push(Difference::OutsideUids {
            outside_uids: plan.outside_uids,
        });
    }
    let silent = plan.silent_services.iter();
    differences.extend(silent.map(|silent_service| Difference::SilentService { silent_service }));
    let aliases = plan.missing_names.iter().chain(&plan.alias_problems);
    differences.extend(aliases.map(|aliases| Difference::Aliases { aliases }));
    differences.extend(rebuild);
    differences.extend(unpublished.map(|path| Difference::Publish {
        publish: path.display().to_string(),
    }));
    differences
}
