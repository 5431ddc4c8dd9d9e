//! An upload brought to its end, whatever happens on the way: what broke goes on from the offset that the registry names,
//! or begins again. Invariant: every kind of failure has a budget of its own, which only progress renews.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Push;
use super::request::{LARGEST_CHUNK, Sending};
use super::session::{Session, Standing};
use crate::store::registry::answer::{Verdict, verdict};
use crate::store::registry::exchange::REFUSALS;
use crate::store::registry::retry::{Budget, TRIES};
use crate::store::{Error, Result};

/// Times a source is read that turns out wrong, and that a registry gets a blob which it says is wrong.
const WRONG: u32 = 3;
/// Size of a chunk, in bytes, for a registry that takes no blob in one piece and names no larger minimum.
const CHUNK: u64 = 8 << 20;
/// Times a token may die while one blob is sent.
const CHALLENGES: u32 = 50;

impl Push<'_> {
    /// Sends the bytes after the first `offset`, whatever happens on the way.
    pub(super) async fn send(&mut self, mut session: Session, mut offset: u64) -> Result<()> {
        let size = self.descriptor.size;
        let mut budget = Budget::new(TRIES + 2);
        let (mut wrong_source, mut wrong_there) = (Budget::new(WRONG), Budget::new(WRONG));
        let (mut challenges, mut refusals) = (0, 0);
        let mut furthest = offset;
        // All of it may be there, though the registry did not say so.
        let mut complete_once = false;
        loop {
            let chunk = self.repository.habits.chunk.load(Relaxed);
            let sending = if chunk > 0 && offset < size {
                self.send_chunks(&mut session, &mut offset, chunk).await
            } else {
                self.send_rest(&mut session, &mut offset, budget.failures()).await
            };
            let (reason, wait) = match sending {
                Sending::Final(error) => return Err(error),
                Sending::Source(error) if error.is_corruption() => {
                    let Some(wait) = wrong_source.fail() else { return Err(error) };
                    tokio::time::sleep(wait).await;
                    (session, offset) = (self.begin_again().await?, 0);
                    continue;
                }
                Sending::Source(error) => return Err(error),
                Sending::Broken { trouble, complete } => {
                    complete_once |= complete;
                    let what = format!("upload {}", self.what);
                    (Error::Transport { place: self.repository.place(), what, trouble }, budget.fail())
                }
                Sending::Answered(answer) => {
                    let status = answer.status();
                    match status {
                        200 if answer.is_page() => return Err(answer.into_page_error(&self.what).await),
                        200..=204 => return Ok(()),
                        401 if challenges < CHALLENGES => {
                            // The token died: the session goes on with a new one.
                            challenges += 1;
                            (answer.into_error(&format!("PUT {}", self.what)).await, Some(Duration::ZERO))
                        }
                        404 => {
                            drop(answer);
                            let Some(wait) = budget.fail() else {
                                return Err(self.protocol("the registry forgets the upload again and again"));
                            };
                            tokio::time::sleep(wait).await;
                            if complete_once && self.repository.blob_exists(self.descriptor).await.unwrap_or(false) {
                                return Ok(());
                            }
                            (session, offset) = (self.begin_again().await?, 0);
                            continue;
                        }
                        400 | 405 | 411 | 413 | 416 | 501 => {
                            let error = answer.into_error(&format!("PUT {}", self.what)).await;
                            let mistaken = error.to_string().contains("DIGEST_INVALID") || status == 416 || offset > 0;
                            if !mistaken && chunk == 0 && size > 0 {
                                let chunk = session.smallest_chunk.max(CHUNK);
                                if chunk > LARGEST_CHUNK {
                                    return Err(self.protocol(format!("the registry wants chunks of {chunk} bytes")));
                                }
                                self.repository.habits.chunk.store(chunk, Relaxed);
                            } else {
                                let Some(wait) = wrong_there.fail() else { return Err(error) };
                                tokio::time::sleep(wait).await;
                            }
                            (session, offset) = (self.begin_again().await?, 0);
                            continue;
                        }
                        _ => match verdict(&answer) {
                            Verdict::Final if !(300..400).contains(&status) => {
                                return Err(answer.into_error(&format!("PUT {}", self.what)).await);
                            }
                            Verdict::Refused => {
                                refusals += 1;
                                let wait = (refusals < REFUSALS).then_some(Duration::ZERO);
                                (answer.into_error(&format!("PUT {}", self.what)).await, wait)
                            }
                            _ => (answer.into_error(&format!("PUT {}", self.what)).await, budget.fail()),
                        },
                    }
                }
            };
            let Some(wait) = wait else { return Err(reason) };
            tokio::time::sleep(wait).await;
            match self.standing(&mut session).await? {
                Standing::At(at) if at <= size => {
                    if at > furthest {
                        furthest = at;
                        budget.progressed();
                    }
                    offset = at;
                }
                Standing::At(_) => (session, offset) = (self.begin_again().await?, 0),
                Standing::Gone => {
                    if complete_once && self.repository.blob_exists(self.descriptor).await.unwrap_or(false) {
                        return Ok(());
                    }
                    (session, offset) = (self.begin_again().await?, 0);
                }
            }
        }
    }
}
