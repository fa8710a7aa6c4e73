//! `mailaffinity sessions` and `kick`: who is where, and who is to come in again.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::child;
use crate::exit::{Failure, NAME, Status, say};
use crate::names;
use crate::nodes::{find_node, this_machine};
use crate::sessions::{self, MOST_SINGLES, Plan, Session, SessionsError};
use mailaffinity::config::{Config, NodeConfig};
use mailaffinity::node_state::NodeState;

/// List the sessions of this machine's Dovecot, and the node that each is on
///
/// Each line of output has the user, the service, the node that the session is on, and the
/// node that the mapping gives to the user, with tabs between them. A proxy has the sessions
/// that it sent on, a node those that are there or were sent on to others. A node that is
/// none of the configuration, and a user for whom no node is up, show "-".
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  How many are on the wrong node:
      mailaffinity sessions --wrong | wc -l
  How many sessions each node has:
      mailaffinity sessions | cut -f3 | sort | uniq -c")]
pub(crate) struct Sessions {
    /// List only those on another node than their user's
    #[arg(long)]
    wrong: bool,

    /// Users belong to nodes with this tag [default: the tag of the configuration]
    #[arg(long, short)]
    tag: Option<String>,

    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

/// End sessions of this machine's Dovecot, so that their users come in again
///
/// On a proxy, or a node that users come in at, they are then sent to the node that the
/// mapping gives them. Many are ended in groups, by doveadm kick -f and -h.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  After a node went down or came back, on each machine where users come in:
      mailaffinity kick --wrong
  Look first:
      mailaffinity kick --wrong --dry-run
  Empty a node:
      mailaffinity down node2 --reason 'new disks'
      mailaffinity kick --node node2")]
pub(crate) struct Kick {
    #[command(flatten)]
    whose: Whose,

    /// Users belong to nodes with this tag [default: the tag of the configuration]
    #[arg(long, short, requires = "wrong")]
    tag: Option<String>,

    /// Print the commands that would end them, and how many each would, and end none
    #[arg(long, short = 'n')]
    dry_run: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// The sessions of these users
    users: Vec<OsString>,

    /// All sessions on this node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,

    /// All sessions on another node than their user's
    #[arg(long)]
    wrong: bool,
}

/// As Dovecot has it, and as it stands if Dovecot would not have it.
fn authenticated(config: &Config, user: Vec<u8>) -> Vec<u8> {
    config.authenticated(&user).map(Cow::into_owned).unwrap_or(user)
}

fn list<'c>(config: &'c Config, tag: Option<&str>) -> Result<Vec<Session<'c>>, Failure> {
    let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
    let cluster = config.cluster(&state).map_err(Failure::config)?;
    let (here, reason) = match this_machine(config) {
        Ok(here) => (here, None),
        Err(several) => (None, Some(several)),
    };
    let sessions = sessions::list(config, &cluster, tag.or(Some(&config.tag)), here)?;
    if let Some(unknown) = reason.and_then(|reason| sessions::unknown(&sessions, reason)) {
        say(NAME, unknown);
    }
    Ok(sessions)
}

impl Sessions {
    pub(crate) fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let mut sessions = list(config, self.tag.as_deref())?;
        if self.wrong {
            sessions.retain(Session::is_wrong);
        }
        let name = |node: Option<&NodeConfig>| node.map(|node| node.node.name.clone());
        names::print(|out| {
            sessions.iter().try_for_each(|session| {
                let (line, node) = (&session.line, name(session.node));
                let right_node = name(session.right_node);
                if self.json {
                    let fields = json!({
                        "user": names::json_name(&line.user),
                        "service": line.service,
                        "ip": line.ip,
                        "node": node,
                        "right_node": right_node,
                        "wrong": session.is_wrong(),
                    });
                    return writeln!(out, "{fields}");
                }
                let shown = |node: Option<String>| node.unwrap_or_else(|| "-".into());
                let service = line.service.escape_debug().to_string();
                names::write_line(out, &line.user, &[service, shown(node), shown(right_node)])
            })
        })
    }
}

impl Kick {
    pub(crate) fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let node = self.whose.node.as_deref();
        let node = node.map(|node| find_node(config, node)).transpose()?;
        let sessions = list(config, self.tag.as_deref())?;
        let users = self.whose.users.into_iter().map(OsString::into_vec);
        let users: BTreeSet<Vec<u8>> = users.map(|user| authenticated(config, user)).collect();
        let is_at = |session: &Session<'_>, node: &NodeConfig| {
            session
                .node
                .is_some_and(|at| at.node.address == node.node.address)
        };
        let is_chosen = |session: &Session<'_>| match node {
            Some(node) => is_at(session, node),
            None if self.whose.wrong => session.is_wrong(),
            None => users.contains(&session.line.user),
        };
        let chosen = sessions.iter().map(|session| (&session.line, is_chosen(session)));
        let plan = Plan::of(chosen, MOST_SINGLES);
        if self.dry_run {
            names::print(|out| {
                plan.kicks.iter().try_for_each(|(kick, count)| {
                    let doveadm = child::name(&config.dovecot.doveadm);
                    writeln!(out, "{count}\t{doveadm} {}", child::name(&kick.arguments()))
                })
            })?;
        } else {
            let ended = plan.carry_out(&config.dovecot, Duration::MAX);
            ended.map_err(|error| Failure::new(Status::Unavailable, error))?;
        }
        match plan.complaint() {
            None => Ok(ExitCode::SUCCESS),
            Some(complaint) => Err(Failure::new(Status::DataErr, complaint)),
        }
    }
}

impl From<SessionsError> for Failure {
    fn from(error: SessionsError) -> Failure {
        Failure::new(Status::Unavailable, error)
    }
}
