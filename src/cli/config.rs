//! `mirror config`: a sample of the configuration file, and what the configuration comes to.
//!
//! Invariant: no secret is printed.

use serde::Serialize;
use serde_json::Value;

use super::{Exit, Failure, Session, summary};
use crate::config::{self, Setting};

/// Show the configuration, or a sample of its file
///
/// With --sample, prints a configuration file in which every setting is explained and commented out.
///
/// show prints what holds now: the configuration file, credentials (masked), and what options and environment variables
/// change, with the place that each value came from.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
#[command(after_long_help = "\
Examples:
  mirror config --sample > mirror.yaml
  mirror config show
  mirror config show --config other.yaml --output json")]
pub struct Args {
    /// Print a commented sample of the configuration file
    #[arg(long)]
    sample: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the effective configuration, and where each value came from
    Show,
}

#[derive(Serialize)]
struct Report {
    settings: Vec<Setting>,
}

pub fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    match args.command {
        Some(Command::Show) => show(session),
        None => {
            session.raw(config::SAMPLE.as_bytes())?;
            Ok(Exit::Verified)
        }
    }
}

fn show(session: &Session) -> Result<Exit, Failure> {
    let config = session.config()?;
    let mut settings = session.settings(&config);
    // What an option overrules does not hold.
    let overruled = |setting: &Setting| session.global.jobs.is_some() && setting.key == "concurrentHTTP";
    settings.extend(config.settings()?.into_iter().filter(|setting| !overruled(setting)));
    let mut text = String::new();
    for setting in &settings {
        let line = format!("{}: {}  # {}", setting.key, plain(&setting.value), setting.origin);
        text.push_str(&summary::printable(&line));
        text.push('\n');
    }
    session.report("mirror/config/v1", &Report { settings }, &text, Exit::Verified)?;
    Ok(Exit::Verified)
}

/// A value as YAML has it on one line.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members: Vec<String> = members.iter().map(|(key, value)| format!("{key}: {}", plain(value))).collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}
