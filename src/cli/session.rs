//! What a command has at hand besides its own arguments: the global options, and the way out for results
//! (stdout) and remarks (stderr). Results are printed whole, after the work; a reader that went away
//! ends the command quietly.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::{Exit, Failure, size};
use crate::config::Config;
use crate::pipeline::{self, Progress};
use crate::store::Stores;
use crate::store::registry::Client;

/// Options that every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file [default: the first of $MIRROR_CONFIG, ./mirror.yaml,
    /// ~/.config/mirror/config.yaml, /etc/mirror/config.yaml]
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// Objects in flight at once [default: chosen for the work]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,

    /// Memory for content between a source and a medium that takes it in order, as in 64MiB or 1G
    #[arg(long, global = true, value_name = "SIZE", default_value = "64MiB", value_parser = byte_budget)]
    pub byte_budget: u64,

    /// What results look like: text for people, one JSON object for programs
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,

    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more on standard error; twice for every request (finer: MIRROR_LOG, as in mirror=debug)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Progress on standard error; auto is a bar on a terminal and plain lines elsewhere
    #[arg(long, global = true, value_name = "HOW", value_enum, default_value_t)]
    pub progress: ProgressStyle,
}

fn byte_budget(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    if bytes < 1 << 20 { Err("at least 1MiB is needed".into()) } else { Ok(bytes) }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressStyle {
    #[default]
    Auto,
    Bar,
    Plain,
    None,
}

/// Where the result goes: archives written to standard output push it to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

/// One run of the program.
pub struct Session {
    pub global: Global,
    pub progress: Arc<Progress>,
}

impl Session {
    pub fn new(global: Global) -> Self {
        Session { global, progress: Arc::default() }
    }

    /// What the verbs need. Reads the configuration file; one that cannot be used is a usage error.
    pub fn context(&self) -> Result<pipeline::Context, Failure> {
        let config = Arc::new(Config::default());
        Ok(pipeline::Context {
            stores: Stores::new(Client::new(config)),
            progress: self.progress.clone(),
            jobs: self.global.jobs.map(usize::from),
            byte_budget: self.global.byte_budget,
        })
    }

    /// The style that `auto` stands for here.
    pub fn progress_style(&self) -> ProgressStyle {
        match self.global.progress {
            _ if self.global.quiet => ProgressStyle::None,
            ProgressStyle::Auto if std::io::stderr().is_terminal() => ProgressStyle::Bar,
            ProgressStyle::Auto => ProgressStyle::Plain,
            style => style,
        }
    }

    /// Prints the result of a command, as text or as JSON with its schema and exit code.
    pub fn report<R: Serialize>(
        &self,
        schema: &'static str,
        report: &R,
        text: &str,
        exit: Exit,
        channel: Channel,
    ) -> Result<(), Failure> {
        if self.global.output == Format::Json {
            let mut json = serde_json::to_string(&Envelope { schema, report, exit_code: exit.code() })?;
            json.push('\n');
            return self.write(json.as_bytes(), channel);
        }
        // What was left out or failed is said even to those who asked for quiet.
        if self.global.quiet && exit == Exit::Verified {
            return Ok(());
        }
        self.write(text.as_bytes(), channel)
    }

    /// Prints what a command is for: a script, a page.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.write(bytes, Channel::Stdout)
    }

    fn write(&self, bytes: &[u8], channel: Channel) -> Result<(), Failure> {
        let written = match channel {
            Channel::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Channel::Stderr => std::io::stderr().lock().write_all(bytes),
        };
        match written {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::BrokenPipe),
            Err(error) => Err(anyhow::Error::new(error).context("cannot print the result").into()),
        }
    }

    /// A remark for people, on stderr.
    pub fn note(&self, text: &str) {
        if !self.global.quiet {
            // Nobody may be listening to standard error, which is no reason to fail.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// Tells a failure: text on stderr, JSON on stdout (where no archive can be).
    pub fn fail(&self, failure: &Failure) {
        if matches!(failure, Failure::BrokenPipe) {
            return;
        }
        if self.global.output == Format::Json
            && let Ok(json) = failure.json()
        {
            let _ = writeln!(std::io::stdout().lock(), "{json}");
        } else {
            let _ = write!(std::io::stderr().lock(), "{}", failure.text());
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a, R> {
    schema: &'static str,
    #[serde(flatten)]
    report: &'a R,
    exit_code: u8,
}
