//! `mirror man [DIR]`: the manual pages, from the same definition as the help.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{Exit, Failure, Session};

/// Write the manual pages
///
/// With DIR, writes one page for mirror and one for each command (mirror.1, mirror-gather.1, …) into that
/// directory, which is created if it is missing. Without it, prints mirror.1 on standard output.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror man ~/.local/share/man/man1
  mirror man | man -l -")]
pub struct Args {
    /// Directory for the pages
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: Option<PathBuf>,
}

pub fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(super::definition()).render(&mut page).context("rendering mirror.1")?;
        session.raw(&page)?;
        return Ok(Exit::Verified);
    };
    let place = directory.display();
    std::fs::create_dir_all(directory).with_context(|| format!("{place}: cannot create the directory"))?;
    clap_mangen::generate_to(super::definition(), directory)
        .with_context(|| format!("{place}: cannot write the pages"))?;
    session.note(&format!("wrote the manual pages into {place}"));
    Ok(Exit::Verified)
}
