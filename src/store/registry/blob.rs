//! Blobs on their way in. A reader that loses its connection asks for the rest by Range and goes on; whoever
//! reads notices nothing, and the hash goes on with it.
//!
//! Invariants: no byte is given out twice or left out; answers of another length than the blob's are not used; a
//! connection that brings less than a kilobyte in a second is given up, a few times, if much is missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::stream;
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, HeaderValue, RANGE};

use super::Repository;
use super::answer::Answer;
use super::elsewhere::Elsewhere;
use super::rate::Rate;
use super::retry::{Budget, TRIES};
use crate::image::Descriptor;
use crate::store::error::Trouble;
use crate::store::reader::read_all;
use crate::store::{BlobReader, Error, Prefix, Result, VerifyingReader};

/// Blobs up to this size (bytes) are verified before the first byte is given out, and fetched again if wrong.
const SMALL: u64 = 256 << 10;
/// Fetches of a small blob that is always wrong, and answers of a wrong length, before that is an error.
const WRONG: u32 = 3;
/// Slower than this, in bytes a second, is too slow for a blob with more than a minute to go.
const SLOW: f64 = 1024.0;
const SLOW_RETRIES: u32 = 3;
/// Wait for the end of a body whose bytes are all there.
const END: Duration = Duration::from_secs(1);

impl Repository {
    /// Whether the registry says that it has the blob.
    pub(super) async fn blob_exists(&self, descriptor: &Descriptor) -> Result<bool> {
        let path = format!("blobs/{}", descriptor.digest);
        let ask = self.asking(Method::HEAD, &path, &format!("blob {}", descriptor.digest));
        let answer = self.ask(&ask).await?;
        match answer.status() {
            200 => Ok(answer.length().is_none_or(|l| l == descriptor.size)),
            // What cannot be asked for is sent: that is safe.
            400 | 404 | 405 | 501 => Ok(false),
            _ => Err(answer.into_error(&ask.what).await),
        }
    }

    /// A verifying reader.
    pub(super) async fn fetch_blob(&self, descriptor: &Descriptor) -> Result<BlobReader> {
        if descriptor.size > SMALL {
            return Ok(self.verified(self.connected(descriptor, 0).await?));
        }
        let mut budget = Budget::new(WRONG);
        loop {
            let reader = self.verified(self.connected(descriptor, 0).await?);
            match read_all(reader, descriptor.size, SMALL).await {
                Ok(bytes) => return Ok(Box::pin(stream::iter([Ok(bytes)]))),
                Err(e) if e.is_corruption() => match budget.fail() {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(e),
                },
                Err(e) => return Err(e),
            }
        }
    }

    /// A verifying reader of what comes after `known`, asked for by Range.
    pub(super) async fn fetch_rest(&self, descriptor: &Descriptor, known: Prefix) -> Result<BlobReader> {
        let fetch = self.connected(descriptor, known.length).await?;
        Ok(VerifyingReader::after(known, descriptor, self.place(), chunks(fetch)).into_reader())
    }

    /// What comes after `offset` bytes, asked for by Range; its length is verified.
    pub(super) async fn fetch_from(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader> {
        Ok(chunks(self.connected(descriptor, offset).await?))
    }

    fn verified(&self, fetch: Fetch) -> BlobReader {
        let descriptor = fetch.descriptor.clone();
        VerifyingReader::new(&descriptor, self.place(), chunks(fetch)).into_reader()
    }

    /// Connected at `position`, in bytes from the start.
    async fn connected(&self, descriptor: &Descriptor, position: u64) -> Result<Fetch> {
        let mut fetch = Fetch {
            repository: self.clone(),
            descriptor: descriptor.clone(),
            position,
            skip: 0,
            answer: None,
            elsewhere: Elsewhere::of(descriptor),
            rate: None,
            budget: Budget::new(TRIES),
            wrong: Budget::new(WRONG),
            interruptions: 0,
            slow_retries: 0,
            waited: Duration::ZERO,
            arrived: 0,
        };
        fetch.connect().await?;
        Ok(fetch)
    }
}

/// The bytes of a fetch, as they come.
fn chunks(fetch: Fetch) -> BlobReader {
    Box::pin(stream::unfold(Some(fetch), |fetch| async {
        let mut fetch = fetch?;
        match fetch.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(fetch))),
            Ok(None) => None,
            Err(e) => Some((Err(e), None)),
        }
    }))
}

/// A blob that is being fetched.
struct Fetch {
    repository: Repository,
    descriptor: Descriptor,
    /// Bytes given out so far.
    position: u64,
    /// Bytes at the start of this answer that were given out before.
    skip: u64,
    answer: Option<Answer>,
    elsewhere: Elsewhere,
    /// How fast the configuration lets it come.
    rate: Option<Arc<Rate>>,
    budget: Budget,
    wrong: Budget,
    interruptions: u64,
    slow_retries: u32,
    /// Time spent waiting for the network, and what came in that time, since it was last looked at.
    waited: Duration,
    arrived: u64,
}

impl Fetch {
    fn what(&self) -> String {
        format!("GET blob {}", self.descriptor.digest)
    }

    /// Asks for the blob from `position` on; a foreign layer that the registry lacks, at its own addresses.
    async fn connect(&mut self) -> Result<()> {
        loop {
            match self.try_connect().await {
                Err(error) if error.is_missing() || self.elsewhere.is_used() => self.elsewhere.go_on(error)?,
                other => return other,
            }
        }
    }

    async fn try_connect(&mut self) -> Result<()> {
        let mut by_range = self.position > 0;
        let path = format!("blobs/{}", self.descriptor.digest);
        loop {
            let mut ask = self.repository.asking(Method::GET, &path, &format!("blob {}", self.descriptor.digest));
            if by_range && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", self.position)) {
                ask.headers.insert(RANGE, range);
            }
            let what = ask.what.clone();
            let client = &self.repository.client;
            let answer = match self.elsewhere.is_used() {
                true => self.elsewhere.ask(client, ask).await?,
                false => self.repository.ask(&ask).await?,
            };
            let size = self.descriptor.size;
            let start = match answer.status() {
                200 => Some((0, answer.length().unwrap_or(size))),
                206 => answer
                    .header(CONTENT_RANGE)
                    .and_then(content_range)
                    .map(|(start, total)| (start, total.unwrap_or(size))),
                416 if by_range => None,
                404 => {
                    let place = self.repository.place();
                    let said = match answer.into_error(&what).await {
                        Error::Http { message, .. } if !message.is_empty() => format!("HTTP 404: {message}"),
                        _ => "HTTP 404".into(),
                    };
                    let what = format!("blob {}", self.descriptor.digest);
                    return Err(Error::Missing { what, place: format!("{place} ({said})") });
                }
                _ => return Err(answer.into_error(&what).await),
            };
            let wait = match start {
                Some((start, total)) if total == size && start <= self.position && !is_foreign_page(&answer) => {
                    self.skip = self.position - start;
                    (self.waited, self.arrived) = (Duration::ZERO, 0);
                    self.rate.clone_from(&answer.rate);
                    self.answer = Some(answer);
                    return Ok(());
                }
                Some((_, total)) if total != size || is_foreign_page(&answer) => match self.wrong.fail() {
                    Some(wait) => wait,
                    None if answer.is_page() => return Err(answer.into_page_error(&what).await),
                    None => {
                        let what = format!("blob {}", self.descriptor.digest);
                        let place = self.repository.place();
                        return Err(Error::Size { what, place, expected: size, actual: total });
                    }
                },
                _ if by_range => {
                    // It does not understand the range: all of it, then, and what is known is passed over.
                    by_range = false;
                    continue;
                }
                _ => return Err(answer.into_error(&what).await),
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let size = self.descriptor.size;
        loop {
            let Some(answer) = &mut self.answer else {
                self.connect().await?;
                continue;
            };
            let begun = Instant::now();
            let chunk = if self.position == size {
                tokio::time::timeout(END, answer.chunk()).await.unwrap_or(Ok(None))
            } else {
                answer.chunk().await
            };
            self.waited += begun.elapsed();
            let reason = match chunk {
                Ok(Some(mut chunk)) => {
                    self.arrived += chunk.len() as u64;
                    let known = self.skip.min(chunk.len() as u64);
                    self.skip -= known;
                    chunk.advance(known as usize);
                    if !chunk.is_empty() {
                        self.position += chunk.len() as u64;
                        if self.position > size {
                            let what = format!("blob {}", self.descriptor.digest);
                            let place = self.repository.place();
                            return Err(Error::Size { what, place, expected: size, actual: self.position });
                        }
                        self.budget.progressed();
                    }
                    if self.is_too_slow() {
                        self.answer = None;
                    }
                    if let Some(rate) = &self.rate {
                        rate.take(chunk.len() as f64).await;
                    }
                    if !chunk.is_empty() {
                        return Ok(Some(chunk));
                    }
                    continue;
                }
                Ok(None) | Err(_) if self.position == size => return Ok(None),
                Ok(None) => format!("the body ended after {} of {size} bytes", self.position),
                Err(trouble) => format!("{trouble} (after {} of {size} bytes)", self.position),
            };
            self.answer = None;
            self.interruptions += 1;
            let wait = self.budget.fail().filter(|_| self.interruptions < 64 + (size >> 16));
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => {
                    let trouble = Trouble::interrupted(reason);
                    return Err(Error::Transport { place: self.repository.place(), what: self.what(), trouble });
                }
            }
        }
    }

    /// Whether this connection should be given up: looked at once in each span of silence's length that was
    /// spent waiting, so that a slow reader is not taken for a slow network.
    fn is_too_slow(&mut self) -> bool {
        if self.waited < self.repository.client.transport.silence(0) {
            return false;
        }
        let rate = self.arrived as f64 / self.waited.as_secs_f64();
        (self.waited, self.arrived) = (Duration::ZERO, 0);
        let missing = (self.descriptor.size - self.position) as f64;
        let slow = rate < SLOW && missing > rate * 60.0 && self.slow_retries < SLOW_RETRIES;
        self.slow_retries += u32::from(slow);
        slow
    }
}

/// A page without a length, where a blob belongs.
fn is_foreign_page(answer: &Answer) -> bool {
    answer.is_page() && answer.length().is_none()
}

/// First byte and total of `bytes FIRST-LAST/TOTAL`.
fn content_range(header: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = header.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_range() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(content_range("bytes */10"), None);
        assert_eq!(content_range("5-9"), None);
    }
}
