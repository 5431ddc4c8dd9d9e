//! The exit codes: a contract with scripts, documented in every command's help and in docs/cli.md.

use std::process::ExitCode;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was promised was verified at its destination.
    Verified,
    /// Something failed; what is missing was named.
    Failed,
    /// The arguments, or a list, mapper or configuration file that they name, cannot be used.
    Usage,
    /// It finished, but something was left out, as the user allowed.
    LeftOut,
    /// Stopped by a signal.
    Interrupted,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Verified => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::LeftOut => 3,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// The end of each command's long help.
pub const HELP: &str = "\
Exit codes:
  0    everything was verified at its destination
  1    something failed; standard error says what, and what to do next
  2    the arguments, or a file they name (list, mapper, configuration), cannot be used
  3    finished, but something is missing, as you allowed (--allow-missing, --continue-on-error)
  130  interrupted (Ctrl-C or SIGTERM)";
