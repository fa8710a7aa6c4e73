use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};

use super::super::exit::{Failure, Status};
use super::super::hash_user_group;

/// Write the manual pages into a folder
#[derive(Args)]
#[command(hide = true)]
pub(super) struct Manual {
    /// The folder
    folder: PathBuf,
}

impl Manual {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let failed = |error| Failure::new(Status::IoError, format!("{}: {error}", self.folder.display()));
        fs::create_dir_all(&self.folder).map_err(failed)?;
        for command in [super::Arguments::command(), hash_user_group::command()] {
            clap_mangen::generate_to(command, &self.folder).map_err(failed)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
