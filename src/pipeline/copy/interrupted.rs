//! Whether an earlier run that put things into a registry came to its end: if not, much of what this one brings may
//! be there, and every question is worth asking.
//!
//! Invariant: a mark is in the user's directory for state from the first work on a registry on; it goes away when all
//! work that was begun has ended well.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::config::OwnFile;
use crate::image::Digest;

/// The work of this run on one registry.
#[derive(Debug, Default)]
pub struct Works {
    /// `None`: no mark can be made, or another run at work has it.
    mark: Option<OwnFile>,
    broken: AtomicBool,
    goes_on: bool,
}

/// One thing that is being put in place. Given up without [`Work::done`], the run has not come to its end.
pub struct Work<'a>(&'a Works);

impl Works {
    /// Work on `site` begins; `state` is the directory for what runs leave.
    pub fn begin(state: Option<&Path>, site: &str) -> Self {
        let Some(state) = state.filter(|_| !site.is_empty()) else { return Works::default() };
        let directory = state.join("runs");
        let name = Digest::sha256(site.as_bytes()).hex();
        let goes_on = directory.join(&name).exists();
        match OwnFile::hold(&directory, &name) {
            Ok(mark) => Works { goes_on: goes_on && mark.is_some(), mark, broken: AtomicBool::new(false) },
            Err(e) => {
                tracing::debug!("{}: no mark of this run can be made: {e}", directory.display());
                Works::default()
            }
        }
    }

    /// Whether the run before did not come to its end.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    pub fn work(&self) -> Work<'_> {
        Work(self)
    }
}

impl Work<'_> {
    pub fn done(self) {
        std::mem::forget(self);
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.broken.store(true, Relaxed);
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        if let Some(mark) = self.mark.take_if(|_| !self.broken.load(Relaxed)) {
            mark.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_broken_off_is_known_to_the_next() {
        let home = tempfile::tempdir().unwrap();
        let begin = || Works::begin(Some(home.path()), "reg.low:5000");
        let first = begin();
        assert!(!first.goes_on());
        assert!(!begin().goes_on(), "the other one is still at work");
        first.work().done();
        drop(first.work());
        drop(first);
        let second = begin();
        assert!(second.goes_on());
        second.work().done();
        drop(second);
        assert!(!begin().goes_on());
        assert!(!Works::begin(None, "reg.low:5000").goes_on());
    }
}
