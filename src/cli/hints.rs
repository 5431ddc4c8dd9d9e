//! The next step for what went wrong, as a sentence under the error: the innermost room that knows one says it.

use crate::config;
use crate::config::error::io_hint;
use crate::pipeline;
use crate::store;

/// What to do about an error, if there is something to do.
pub fn for_error(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<super::login::NotAccepted>() {
            Some(error.hint())
        } else if let Some(error) = cause.downcast_ref::<pipeline::Error>() {
            error.hint()
        } else if let Some(error) = cause.downcast_ref::<store::Error>() {
            error.hint()
        } else if let Some(error) = cause.downcast_ref::<config::Error>() {
            error.hint()
        } else {
            cause.downcast_ref::<std::io::Error>().and_then(io_hint)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn sees_through_contexts() {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        let error = anyhow::Error::new(pipeline::Error::Io { path: "a.tar".into(), source: full }).context("outer");
        assert!(for_error(&error).unwrap().contains("disk is full"));
    }
}
