//! The command `mailaffinity`.

mod agreement;
mod c_library;
mod diff;
mod drain;
mod manual;
mod map;
mod nodes;
mod queue_groups;
mod report;
mod update;
mod what_if;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::exit::{self, Failure, Status};
use crate::config::{self, Config};
use crate::update::UpdateError;

const NAME: &str = "mailaffinity";

/// User/node affinity for mail clusters.
///
/// Gives sendmail, webmail and scripts the answer of Dovecot's Director to the question
/// which node serves a user, and keeps sendmail's access map true to the nodes that are
/// up.
///
/// Quiet on success. Exit statuses are those of sysexits.h: 64 for a wrong command line,
/// 65 for an access source or list of users that makes no sense, 69 for a failed
/// program, 74 for a failure to read or write, 75 for what may be better later, 78 for a
/// broken configuration or node state.
#[derive(Parser)]
#[command(name = NAME, version)]
struct Arguments {
    /// Configuration file
    #[arg(long, short, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Map(map::Map),
    Nodes(nodes::Nodes),
    Down(nodes::Down),
    Up(nodes::Up),
    Auto(nodes::Auto),
    Update(update::Update),
    Diff(diff::Diff),
    Drain(drain::Drain),
    WhatIf(what_if::WhatIf),
    Agreement(agreement::Agreement),
    QueueGroups(queue_groups::QueueGroups),
    CLibrary(c_library::CLibrary),
    Manual(manual::Manual),
}

/// The command `mailaffinity`.
pub fn mailaffinity() -> ExitCode {
    exit::run(|Arguments { config, command }: Arguments| match command {
        Command::Map(map) => map.run(&load(&config)?),
        Command::Nodes(nodes) => nodes.run(&load(&config)?),
        Command::Down(down) => down.run(&load(&config)?),
        Command::Up(up) => up.run(&load(&config)?),
        Command::Auto(auto) => auto.run(&load(&config)?),
        Command::Update(update) => update.run(&load(&config)?),
        Command::Diff(diff) => diff.run(&load(&config)?),
        Command::Drain(drain) => drain.run(&load(&config)?),
        Command::WhatIf(what_if) => what_if.run(&load(&config)?),
        Command::QueueGroups(queue_groups) => queue_groups.run(&load(&config)?),
        Command::Agreement(agreement) => agreement.run(&config, &load(&config)?),
        Command::CLibrary(library) => library.run(&config),
        Command::Manual(manual) => manual.run(),
    })
}

fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(Failure::config)
}

impl From<UpdateError> for Failure {
    fn from(error: UpdateError) -> Failure {
        use crate::access_map::rebuild::RebuildError;
        let status = match &error {
            UpdateError::State(_) | UpdateError::Cluster(..) => Status::Config,
            UpdateError::EmptySource(_)
            | UpdateError::NoUsers { .. }
            | UpdateError::TooFewUsers { .. }
            | UpdateError::Block(..) => Status::DataErr,
            UpdateError::Rebuild(RebuildError::Makemap(_)) => Status::Unavailable,
            UpdateError::Rebuild(RebuildError::Io { .. } | RebuildError::NoSource(_)) => Status::IoError,
            UpdateError::Locked(error) if error.kind() != ErrorKind::WouldBlock => Status::IoError,
            _ => Status::TempFail,
        };
        Failure::new(status, error)
    }
}
