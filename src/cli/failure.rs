//! How a command failed, and how that is told: `error:`, `caused by:`, `hint:` on stderr, or one JSON
//! object. Causes that only repeat what was said are left out.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Exit, hints};

/// Why a command ends without a result.
#[derive(Debug)]
pub enum Failure {
    /// Something failed on the way.
    Failed(anyhow::Error),
    /// An argument, or a file that it names, cannot be used; nothing was tried.
    Usage(anyhow::Error),
    /// A signal; says how to go on.
    Interrupted { next: &'static str },
    /// The reader of our standard output went away: nobody is left to tell.
    BrokenPipe,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed(error.into())
    }
}

impl Failure {
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Failure::Usage(error.into())
    }

    pub fn exit(&self) -> Exit {
        match self {
            Failure::Failed(_) => Exit::Failed,
            Failure::Usage(_) => Exit::Usage,
            Failure::Interrupted { .. } => Exit::Interrupted,
            Failure::BrokenPipe => Exit::Verified,
        }
    }

    fn told(&self) -> Told {
        let (error, causes, hint) = match self {
            Failure::Failed(error) | Failure::Usage(error) => {
                let mut messages = vec![error.to_string()];
                for cause in error.chain().skip(1).map(ToString::to_string) {
                    if !messages.iter().any(|said| said.contains(&cause)) {
                        messages.push(cause);
                    }
                }
                (messages.remove(0), messages, hints::for_error(error))
            }
            Failure::Interrupted { next } => ("interrupted".to_owned(), Vec::new(), Some((*next).to_owned())),
            Failure::BrokenPipe => ("the reader of standard output went away".to_owned(), Vec::new(), None),
        };
        Told { schema: "mirror/error/v1", error, causes, hint, exit_code: self.exit().code() }
    }

    /// For people: several lines, each with its newline.
    pub fn text(&self) -> String {
        let told = self.told();
        let mut text = format!("error: {}\n", told.error);
        for cause in &told.causes {
            let _ = writeln!(text, "caused by: {cause}");
        }
        if let Some(hint) = &told.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }

    /// For programs: schema `mirror/error/v1` (docs/json.md).
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.told())
    }
}

/// What is said about a failure.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    schema: &'static str,
    error: String,
    causes: Vec<String>,
    hint: Option<String>,
    exit_code: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let inner = std::io::Error::other("connection reset");
        let repeated = anyhow::Error::new(inner).context("reg.low/a: connection reset").context("cannot gather");
        let text = Failure::Failed(repeated).text();
        assert_eq!(text, "error: cannot gather\ncaused by: reg.low/a: connection reset\n");
    }
}
