//! The body of an upload on its way: how much of it was handed over, whose turn it is, and what its source died of.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::store::registry::pace::locked;
use crate::store::{BlobReader, Error};

/// What is known of a body on its way.
#[derive(Default)]
pub struct Tap {
    progress: Mutex<(u64, bool)>,
    pub error: Mutex<Option<Error>>,
}

impl Tap {
    /// Bytes handed over.
    pub fn sent(&self) -> u64 {
        locked(&self.progress).0
    }

    pub fn waits_for_source(&self) -> bool {
        locked(&self.progress).1
    }
}

/// The rest of a source as a request's body.
pub struct Tapped {
    pub reader: BlobReader,
    pub tap: Arc<Tap>,
}

impl Stream for Tapped {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.reader.poll_next_unpin(cx);
        let mut progress = locked(&self.tap.progress);
        progress.1 = polled.is_pending();
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(chunk))) => {
                progress.0 += chunk.len() as u64;
                Poll::Ready(Some(Ok(chunk)))
            }
            Poll::Ready(Some(Err(e))) => {
                *locked(&self.tap.error) = Some(e);
                Poll::Ready(Some(Err(std::io::Error::other("the source failed"))))
            }
        }
    }
}
