//! `mailaffinity shared-node-state`: what other commands start, and leave behind where storage
//! hangs.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::exit::{Failure, Status};
use crate::names;
use crate::shared_node_state;

/// Read or replace a node state that machines share
#[derive(Args)]
#[command(hide = true)]
pub(crate) struct SharedNodeState {
    /// The file
    file: PathBuf,
}

impl SharedNodeState {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let mut input = Vec::new();
        std::io::stdin().read_to_end(&mut input)?;
        let text = shared_node_state::serve(&self.file, &input)
            .map_err(|error| Failure::new(Status::IoError, error))?;
        names::print(|out| {
            serde_json::to_writer(&mut *out, &text)?;
            writeln!(out)
        })
    }
}
