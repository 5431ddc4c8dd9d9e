//! The body of a request as it comes, piece by piece, under a time limit for each.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::StreamExt;

use super::error::{Code, Refusal};

/// What is read of the body of a request that was refused, so that its client gets to read the answer.
const DRAIN_BYTES: usize = 8 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Incoming {
    body: BodyDataStream,
    silence: Duration,
}

impl Incoming {
    /// A client that sends nothing for as long as `silence` is given up.
    pub fn new(body: Body, silence: Duration) -> Self {
        Incoming { body: body.into_data_stream(), silence }
    }

    /// The next piece. `None`: that was all of it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        match tokio::time::timeout(self.silence, self.body.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
            Ok(Some(Err(e))) => Err(Refusal::new(Code::BlobUploadInvalid, format!("the body broke off: {e}"))),
            Err(_) => {
                let message = format!("nothing came for {} s", self.silence.as_secs_f32());
                Err(Refusal::new(Code::BlobUploadInvalid, message).with_status(StatusCode::REQUEST_TIMEOUT))
            }
        }
    }

    /// Reads on for a while, for nothing but the client's sake.
    pub async fn drain(&mut self) {
        let all = async {
            let mut left = DRAIN_BYTES;
            while let Ok(Some(chunk)) = self.next().await
                && left > chunk.len()
            {
                left -= chunk.len();
            }
        };
        // Over time or not: the answer goes out now.
        let _ = tokio::time::timeout(DRAIN_TIME, all).await;
    }
}
