//! The command `mailaffinity`.

mod agreement;
mod c_library;
mod diff;
mod drain;
mod from_director;
mod manual;
mod map;
mod moves;
mod nodes;
mod queue_groups;
mod sessions;
mod update;
mod watch;
mod what_if;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::exit::{self, Failure, NAME, Status};
use crate::hash_user_group;
use crate::node_state::ChangeError;
use crate::undo;
use crate::update::UpdateError;
use mailaffinity::config::{self, Config};

/// User/node affinity for mail clusters
///
/// Gives sendmail, webmail and scripts the answer of Dovecot's Director to the question
/// which node serves a user, and keeps sendmail's access map true to the nodes that are
/// up.
///
/// Quiet on success. Exit statuses are those of sysexits.h.
#[derive(Parser)]
#[command(name = NAME, version, after_long_help = after_help())]
struct Arguments {
    /// Configuration file
    #[arg(long, short, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,

    #[command(subcommand)]
    command: Command,
}

fn after_help() -> String {
    use Status::{Config, DataErr, IoError, TempFail, Unavailable, Usage};
    format!(
        "\
{}  diff and agreement end with 1 where there is something to tell.

Files:
  /etc/mailaffinity.toml              the configuration
  /var/lib/mailaffinity/nodes.toml    which nodes are down
  *.last-good                         beside these two: copies that lookups go on with when they break
  /var/lib/mailaffinity/status.json   how the last update and drain went and how the watcher does, for monitoring
  /etc/mail/access                    the access source; a block in it is written by updates
  /etc/mail/access.db                 the access map

Examples:
  See whether the configuration is good, and which nodes are up:
      mailaffinity nodes
  Take a node out of service, having looked what that does:
      mailaffinity what-if --down node2
      mailaffinity down node2 --reason 'new disks'
      mailaffinity update
  And back:
      mailaffinity auto node2
      mailaffinity update",
        Status::help(&[Usage, DataErr, Unavailable, IoError, TempFail, Config])
    )
}

#[derive(Subcommand)]
enum Command {
    Map(map::Map),
    Nodes(nodes::Nodes),
    Down(nodes::Down),
    Up(nodes::Up),
    Auto(nodes::Auto),
    Move(moves::Move),
    Update(update::Update),
    Watch(watch::Watch),
    Diff(diff::Diff),
    Drain(drain::Drain),
    Sessions(sessions::Sessions),
    Kick(sessions::Kick),
    WhatIf(what_if::WhatIf),
    Agreement(agreement::Agreement),
    QueueGroups(queue_groups::QueueGroups),
    FromDirector(from_director::FromDirector),
    CLibrary(c_library::CLibrary),
    Manual(manual::Manual),
}

/// The command `mailaffinity`.
pub fn mailaffinity() -> ExitCode {
    undo::before_signals();
    exit::run(|Arguments { config, command }: Arguments| match command {
        Command::Map(map) => map.run(&load(&config)?),
        Command::Nodes(nodes) => nodes.run(&load(&config)?),
        Command::Down(down) => down.run(&config, &load(&config)?),
        Command::Up(up) => up.run(&config, &load(&config)?),
        Command::Auto(auto) => auto.run(&config, &load(&config)?),
        Command::Move(moves) => moves.run(&config, &load(&config)?),
        Command::Update(update) => update.run(&config, &load(&config)?),
        Command::Watch(watch) => watch.run(&config, load(&config)?),
        Command::Diff(diff) => diff.run(&load(&config)?),
        Command::Drain(drain) => drain.run(&load(&config)?),
        Command::Sessions(sessions) => sessions.run(&load(&config)?),
        Command::Kick(kick) => kick.run(&load(&config)?),
        Command::WhatIf(what_if) => what_if.run(&load(&config)?),
        Command::QueueGroups(queue_groups) => queue_groups.run(&load(&config)?),
        Command::Agreement(agreement) => agreement.run(&config, &load(&config)?),
        Command::FromDirector(from_director) => from_director.run(),
        Command::CLibrary(library) => library.run(&config),
        Command::Manual(manual) => manual.run([Arguments::command(), hash_user_group::command()]),
    })
}

fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(Failure::config)
}

impl From<UpdateError> for Failure {
    fn from(error: UpdateError) -> Failure {
        use crate::access_source::rebuild::RebuildError;
        let status = match &error {
            UpdateError::Change(error) => status_of(error),
            UpdateError::Users(error) => error.status(),
            UpdateError::State(_)
            | UpdateError::Cluster { .. }
            | UpdateError::TextMap(_)
            | UpdateError::PublishedElsewhere { .. } => Status::Config,
            UpdateError::EmptySource(_)
            | UpdateError::NoUsers { .. }
            | UpdateError::TooFewUsers { .. }
            | UpdateError::Rebuild(RebuildError::Block { .. }) => Status::DataErr,
            UpdateError::Rebuild(RebuildError::Makemap(_)) => Status::Unavailable,
            UpdateError::Rebuild(
                RebuildError::Io { .. } | RebuildError::NoSource(_) | RebuildError::Changed { .. },
            ) => Status::IoError,
            UpdateError::Locked(error) if error.kind() != ErrorKind::WouldBlock => Status::IoError,
            _ => Status::TempFail,
        };
        Failure::new(status, error)
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Failure {
        Failure::new(status_of(&error), error)
    }
}

fn status_of(error: &ChangeError) -> Status {
    match error {
        ChangeError::Locked(error) if error.kind() == ErrorKind::WouldBlock => Status::TempFail,
        ChangeError::Locked(_) | ChangeError::Write { .. } => Status::IoError,
        ChangeError::Read(_) => Status::Config,
    }
}
