//! Diagnostics on stderr, above the progress bar and never through it. `-v` raises the level,
//! `MIRROR_LOG` sets it exactly.

use std::io::{self, Write};

use indicatif::ProgressBar;
use tracing_subscriber::EnvFilter;

use super::Failure;
use super::session::Global;

/// Variable with tracing directives, as in `debug` or `airgap_mirror::store=trace`.
const VARIABLE: &str = "MIRROR_LOG";

/// Starts the diagnostics. `bar` is what must be moved out of the way for a line.
pub fn start(global: &Global, bar: &ProgressBar) -> Result<(), Failure> {
    let directives = match std::env::var(VARIABLE) {
        Ok(directives) if !directives.trim().is_empty() => directives,
        _ if global.quiet => "error".to_owned(),
        _ => match global.verbose {
            0 => "warn",
            1 => "warn,airgap_mirror=info",
            2 => "info,airgap_mirror=debug",
            _ => "debug,airgap_mirror=trace",
        }
        .to_owned(),
    };
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| Failure::usage(anyhow::Error::new(error).context(format!("{VARIABLE}={directives:?}"))))?;
    let bar = bar.clone();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || AboveBar(bar.clone()))
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(global.verbose > 1)
        .init();
    Ok(())
}

/// Standard error, with the bar out of the way.
struct AboveBar(ProgressBar);

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
