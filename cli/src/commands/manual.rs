//! `mailaffinity manual`: the manual pages, made of what the commands say of themselves.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::exit::{EXIT_STATUS, Failure, NAME, Status};

/// When what the pages say was last changed.
const DATE: &str = "2026-11-24";

/// Where to read on, in order of sections and names.
const SEE_ALSO: [(&str, &str); 8] = [
    ("doveadm-director", "1"),
    ("hash_user_group", "1"),
    (NAME, "1"),
    ("libmailaffinity", "3"),
    ("map_user_via_sendmail_access", "3"),
    ("mailaffinity.toml", "5"),
    ("makemap", "8"),
    ("sendmail", "8"),
];

/// Write the manual pages into a folder
#[derive(Args)]
#[command(hide = true)]
pub(crate) struct Manual {
    /// The folder
    folder: PathBuf,
}

impl Manual {
    /// Writes the pages of these commands, and of their subcommands.
    pub(crate) fn run(self, commands: [Command; 2]) -> Result<ExitCode, Failure> {
        let failed = |error| Failure::new(Status::IoError, format!("{}: {error}", self.folder.display()));
        fs::create_dir_all(&self.folder).map_err(failed)?;
        for command in commands {
            let mut command = command.disable_help_subcommand(true);
            command.build();
            for subcommand in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                write_page(subcommand.clone(), &self.folder).map_err(failed)?;
            }
            write_page(command, &self.folder).map_err(failed)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the page of a command: clap's sections, and those at the end of its help.
fn write_page(mut command: Command, folder: &Path) -> io::Result<()> {
    // clap_mangen's own synopsis shows no values.
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    // The first paragraph of the description is the name of the page over again.
    let about = command
        .get_long_about()
        .or(command.get_about())
        .map(ToString::to_string)
        .unwrap_or_default();
    let (_, about) = about.split_once("\n\n").unwrap_or(("", &about));
    let more = command
        .get_after_long_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let has_subcommands = command.has_subcommands();
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();

    command = command
        .long_about(about.to_owned())
        .override_usage(usage)
        // The words of an option name them.
        .mut_args(|option| option.hide_possible_values(true));
    let man = Man::new(command)
        .title(name.to_uppercase())
        .date(DATE)
        .source(format!("{NAME} {}", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut page = BufWriter::new(File::create(folder.join(man.get_filename()))?);
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_subcommands {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    if !more.contains(EXIT_STATUS) {
        add_sections(&mut roff, &format!("{EXIT_STATUS}\n  Those of {NAME}(1)."));
    }
    add_sections(&mut roff, &more);
    add_see_also(&mut roff, &name);
    roff.to_writer(&mut page)?;
    page.flush()
}

/// Adds what stands at the end of a help: headings, below them items ("  75  no node is
/// up") or sentences, and command lines, which are indented further.
fn add_sections(roff: &mut Roff, help: &str) {
    let mut in_example = false;
    let mut after_heading = false;
    for line in help.lines().filter(|line| !line.is_empty()) {
        let text = line.trim_start();
        let is_example = line.starts_with("      ");
        if is_example != in_example {
            roff.control(if is_example { "EX" } else { "EE" }, []);
            in_example = is_example;
        }
        if let Some(heading) = line.strip_suffix(':').filter(|_| text == line) {
            roff.control("SH", [heading.to_uppercase().as_str()]);
        } else if is_example {
            roff.text([roman(format!("    {text}"))]);
        } else if let Some((term, meaning)) = text.split_once("  ") {
            roff.control("TP", [])
                .text([bold(term)])
                .text([roman(meaning.trim_start())]);
        } else {
            if !after_heading {
                roff.control("PP", []);
            }
            roff.text([roman(text)]);
        }
        after_heading = text == line;
    }
    if in_example {
        roff.control("EE", []);
    }
}

fn add_see_also(roff: &mut Roff, name: &str) {
    roff.control("SH", ["SEE ALSO"]);
    let mut others = SEE_ALSO.iter().filter(|(page, _)| *page != name).peekable();
    while let Some((page, section)) = others.next() {
        let comma = if others.peek().is_some() { "," } else { "" };
        roff.control("BR", [*page, &format!("({section}){comma}")]);
    }
}
