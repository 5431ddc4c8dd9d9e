//! What a command has at hand besides its own arguments: the global options, and the way out for results
//! (stdout) and remarks (stderr). Results are printed whole, after the work; a reader that went away
//! ends the command quietly.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use super::progress::Shown;
use super::{Exit, Failure, interrupt, size};
use crate::config::{Config, Origin, Setting};
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

    /// Memory for content between a source and a medium that takes it in order, as in 1G [default: 64MiB]
    #[arg(long, global = true, value_name = "SIZE", value_parser = byte_budget)]
    pub byte_budget: Option<u64>,

    /// What results look like: text for people, one JSON object for programs
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,

    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more on standard error; twice for every request (MIRROR_LOG sets it exactly, as in debug)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Progress on standard error; auto is a bar on a terminal and plain lines elsewhere
    #[arg(long, global = true, value_name = "HOW", value_enum, default_value_t)]
    pub progress: ProgressStyle,
}

/// Without `--byte-budget`, in bytes.
const BYTE_BUDGET: u64 = 64 << 20;

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

/// One run of the program.
pub struct Session {
    pub global: Global,
    pub progress: Arc<Progress>,
    /// Hidden until there is progress to show; whoever writes to stderr moves it aside.
    pub bar: ProgressBar,
    /// Standard output carries an archive: results go to stderr.
    archive_on_stdout: AtomicBool,
}

impl Session {
    pub fn new(global: Global) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Session { global, progress: Arc::default(), bar, archive_on_stdout: AtomicBool::new(false) }
    }

    /// Runs a verb: with its progress on the screen, until it ends or a signal stops it. `next` says how to
    /// go on after a signal.
    pub async fn perform<T>(
        &self,
        next: &'static str,
        verb: impl Future<Output = pipeline::Result<T>>,
    ) -> Result<T, Failure> {
        let _shown = Shown::begin(self.progress_style(), &self.progress, &self.bar);
        interrupt::guarded(next, async { Ok(verb.await?) }).await
    }

    /// What the verbs need.
    pub fn context(&self) -> Result<pipeline::Context, Failure> {
        let config = self.config()?;
        let jobs = self.global.jobs.map(usize::from).or(config.jobs());
        Ok(pipeline::Context {
            stores: Stores::new(Client::new(config)),
            progress: self.progress.clone(),
            jobs,
            byte_budget: self.global.byte_budget.unwrap_or(BYTE_BUDGET),
        })
    }

    /// The configuration. What of its file is not done is remarked on.
    pub fn config(&self) -> Result<Arc<Config>, Failure> {
        let config = Config::load(self.global.config.as_deref()).map_err(Failure::usage)?;
        for warning in config.warnings() {
            self.note(&format!("warning: {warning}"));
        }
        Ok(Arc::new(config))
    }

    /// What options decide, unless the configuration does: for `config show`.
    pub fn settings(&self, config: &Config) -> Vec<Setting> {
        let flag = |name| Origin::Flag { name };
        let budget = self.global.byte_budget;
        let mut settings = Vec::new();
        match self.global.jobs {
            Some(jobs) => settings.push(Setting::new("jobs", jobs, flag("--jobs"))),
            None if config.jobs().is_none() => settings.push(Setting::new("jobs", "auto", Origin::Default)),
            // concurrentHTTP of the file says so.
            None => {}
        }
        let origin = budget.map_or(Origin::Default, |_| flag("--byte-budget"));
        settings.push(Setting::new("byteBudget", budget.unwrap_or(BYTE_BUDGET), origin));
        settings
    }

    /// The style that `auto` stands for here.
    fn progress_style(&self) -> ProgressStyle {
        match self.global.progress {
            _ if self.global.quiet => ProgressStyle::None,
            ProgressStyle::Auto if io::stderr().is_terminal() => ProgressStyle::Bar,
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
    ) -> Result<(), Failure> {
        if self.global.output == Format::Json {
            let mut json = serde_json::to_string(&Envelope { schema, report, exit_code: exit.code() })?;
            json.push('\n');
            return self.write(json.as_bytes());
        }
        if self.global.quiet { Ok(()) } else { self.write(text.as_bytes()) }
    }

    /// Prints what a command is for: a script, a page.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.write(bytes)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let written = if self.archive_on_stdout.load(Ordering::Relaxed) {
            io::stderr().lock().write_all(bytes)
        } else {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
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
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Standard output is about to carry an archive: results go to stderr from now on.
    pub fn leave_stdout_to_archive(&self) {
        self.archive_on_stdout.store(true, Ordering::Relaxed);
    }

    /// Lines on what failed in a run that went on; in JSON the report has them.
    pub fn failures(&self, lines: &str) {
        if self.global.output == Format::Text {
            let _ = write!(io::stderr().lock(), "{lines}");
        }
    }

    /// Tells a failure: text on stderr, JSON where the result would have been.
    pub fn fail(&self, failure: &Failure) {
        if matches!(failure, Failure::BrokenPipe) {
            return;
        }
        if self.global.output == Format::Json
            && let Ok(json) = failure.json()
            && self.write(format!("{json}\n").as_bytes()).is_ok()
        {
            return;
        }
        let _ = write!(io::stderr().lock(), "{}", failure.text());
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
