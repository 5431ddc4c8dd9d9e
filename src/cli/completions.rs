//! `mirror completions SHELL`: a completion script on stdout, from the same definition as the help.

use clap_complete::Shell;

use super::{Exit, Failure, Session};

/// Print a shell completion script
///
/// The script completes commands, options and file names. Write it where your shell looks for completions.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror completions bash > ~/.local/share/bash-completion/completions/mirror
  mirror completions zsh > ~/.zfunc/_mirror
  mirror completions fish > ~/.config/fish/completions/mirror.fish")]
pub struct Args {
    /// The shell to write for
    shell: Shell,
}

pub fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::definition(), "mirror", &mut script);
    session.raw(&script)?;
    Ok(Exit::Verified)
}
