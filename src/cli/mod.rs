//! Arguments in, outcome out: one file per command, each of which turns its arguments into one call of
//! the [`crate::pipeline`] and prints what came of it. Arguments are validated here, at the border; no
//! other room imports this one.

mod archive;
mod arguments;
mod batch_deserialize;
mod batch_serialize;
mod clone;
mod completions;
mod config;
mod deserialize;
mod diff;
mod docs;
mod exit;
mod failure;
mod gather;
mod groups;
mod hints;
mod inspect;
mod interrupt;
mod logging;
mod login;
mod man;
mod medium;
mod progress;
mod scatter;
mod serialize;
mod serve;
mod session;
mod summary;
mod tape;
mod unarchive;
mod verify;
mod writing;

use std::ffi::OsString;
use std::io::Write as _;

use clap::{CommandFactory, FromArgMatches};

pub use exit::Exit;
use failure::Failure;
use session::{Global, Session};

use crate::image::size;

/// Move OCI content across an air gap, and prove that all of it arrived
///
/// On the low side, gather copies the images of a list into one repository and serialize writes that into
/// one archive. On the high side, deserialize reads the archive into a repository and scatter brings each
/// image to where it belongs. Every byte is verified against its digest on each stretch.
///
/// Wherever a command takes an IMAGE, it may be in a registry (host/repo:tag, host/repo@digest) or in an
/// OCI image layout directory (oci:DIR[:TAG]).
#[derive(Debug, clap::Parser)]
#[command(name = "mirror", version, propagate_version = false, max_term_width = 100)]
#[command(after_long_help = "\
Examples:
  mirror gather sources.list reg.low/gather:sync-45
  mirror serialize reg.low/gather:sync-45 sync-45.tar
  mirror deserialize sync-45.tar reg.high/scatter:sync-45
  mirror scatter reg.high/scatter:sync-45 all-prefix=dest.csv")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Gather(gather::Args),
    Serialize(serialize::Args),
    Deserialize(deserialize::Args),
    Scatter(scatter::Args),
    Clone(clone::Args),
    Tape(tape::Args),
    Inspect(inspect::Args),
    Diff(diff::Args),
    BatchSerialize(batch_serialize::Args),
    BatchDeserialize(batch_deserialize::Args),
    Archive(archive::Args),
    Unarchive(unarchive::Args),
    Verify(verify::Args),
    Serve(serve::Args),
    Login(login::Login),
    Logout(login::Logout),
    Config(config::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(hide = true)]
    Docs(docs::Args),
}

/// The definition that help, completions, manual pages and docs/cli.md are made from.
pub fn definition() -> clap::Command {
    let with_exit_codes = |command: clap::Command| {
        let examples = command.get_after_long_help().map(|s| format!("{s}\n\n")).unwrap_or_default();
        command.after_long_help(format!("{examples}{}", exit::HELP))
    };
    with_exit_codes(Cli::command()).mut_subcommands(with_exit_codes)
}

/// Reads the arguments. `Err`: help, a version or a usage error, to print.
fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut definition = groups::grouped(definition());
    let matches = definition.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut definition))
}

/// Runs the program. Must be called within a tokio runtime.
pub async fn run(arguments: Vec<OsString>) -> Exit {
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &arguments),
    };
    let session = Session::new(cli.global);
    let outcome = match start(&session) {
        Ok(()) => dispatch(&cli.command, &session).await,
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            session.fail(&failure);
            failure.exit()
        }
    }
}

/// What holds for every command.
fn start(session: &Session) -> Result<(), Failure> {
    interrupt::outlive_size_limits()?;
    logging::start(&session.global, &session.bar)
}

/// Prints what clap has to say: help and versions on stdout, usage errors on stderr, or as JSON on stdout
/// if that was asked for.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> Exit {
    if !error.use_stderr() {
        // Printing fails only when nobody reads.
        let _ = error.print();
        return Exit::Verified;
    }
    let wants_json = arguments.iter().any(|a| a == "--output=json")
        || arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
    let text = error.render().to_string();
    let message = text.trim().trim_start_matches("error: ").to_owned();
    match Failure::usage(anyhow::Error::msg(message)).json() {
        Ok(json) if wants_json => {
            let _ = writeln!(std::io::stdout().lock(), "{json}");
        }
        _ => {
            let _ = error.print();
        }
    }
    Exit::Usage
}

async fn dispatch(command: &Command, session: &Session) -> Result<Exit, Failure> {
    match command {
        Command::Gather(args) => gather::run(args, session).await,
        Command::Serialize(args) => serialize::run(args, session).await,
        Command::Deserialize(args) => deserialize::run(args, session).await,
        Command::Scatter(args) => scatter::run(args, session).await,
        Command::Clone(args) => clone::run(args, session).await,
        Command::Tape(args) => tape::run(args, session).await,
        Command::Inspect(args) => inspect::run(args, session).await,
        Command::Diff(args) => diff::run(args, session).await,
        Command::BatchSerialize(args) => batch_serialize::run(args, session).await,
        Command::BatchDeserialize(args) => batch_deserialize::run(args, session).await,
        Command::Archive(args) => archive::run(args, session).await,
        Command::Unarchive(args) => unarchive::run(args, session).await,
        Command::Verify(args) => verify::run(args, session).await,
        Command::Serve(args) => serve::run(args, session).await,
        Command::Login(args) => login::login(args, session).await,
        Command::Logout(args) => login::logout(args, session).await,
        Command::Config(args) => config::run(args, session),
        Command::Completions(args) => completions::run(args, session),
        Command::Man(args) => man::run(args, session),
        Command::Docs(docs::Args {}) => docs::run(session),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definition_is_sound() {
        super::definition().debug_assert();
    }
}
