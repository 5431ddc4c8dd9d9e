//! Whether asking a registry for things before they are sent is worth a request.
//!
//! Invariant: a wrong guess costs requests, or the bytes of small blobs, and never a missing object.

use std::sync::Mutex;

use tokio::sync::Notify;

use super::lock;

/// Misses in a row before only a sample is asked for.
const PATIENCE: u32 = 12;
/// Of so many, one is asked for then.
const SAMPLE: u32 = 32;

/// Learns whether a registry has anything of what a run brings: after a streak of misses only a sample is asked
/// for, until something is found. New repositories so cost hardly more than the two requests of each upload. Where a
/// run goes on that was broken off, everything is asked for: what arrived then is found.
#[derive(Default)]
pub struct Luck {
    always: bool,
    state: Mutex<State>,
    answered: Notify,
}

#[derive(Default)]
struct State {
    /// The last answer was a yes.
    found: bool,
    /// Misses since the last yes.
    misses: u32,
    /// Questions without an answer yet.
    open: u32,
    skipped: u32,
}

/// A question that is to be asked.
pub struct Question<'a>(&'a Luck);

impl Luck {
    /// `always`: every question is worth it.
    pub fn new(always: bool) -> Self {
        Luck { always, ..Luck::default() }
    }

    /// Leave to ask; `None` where that is hardly worth it. Many at once wait for the answers to the first.
    pub async fn ask(&self) -> Option<Question<'_>> {
        loop {
            let mut answered = std::pin::pin!(self.answered.notified());
            answered.as_mut().enable();
            {
                let mut state = lock(&self.state);
                let hopeless = state.misses >= PATIENCE && !self.always;
                if hopeless {
                    state.skipped += 1;
                    if !state.skipped.is_multiple_of(SAMPLE) {
                        return None;
                    }
                }
                if hopeless || self.always || state.found || state.misses + state.open < PATIENCE {
                    state.open += 1;
                    return Some(Question(self));
                }
            }
            answered.await;
        }
    }
}

impl Question<'_> {
    pub fn answered(self, found: bool) {
        let mut state = lock(&self.0.state);
        state.found = found;
        state.misses = if found { 0 } else { state.misses + 1 };
    }
}

/// Answered or given up: those who wait may look again.
impl Drop for Question<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).open -= 1;
        self.0.answered.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn miss(luck: &Luck) {
        luck.ask().await.unwrap().answered(false);
    }

    #[tokio::test]
    async fn asks_a_sample_after_many_misses_and_everything_after_a_hit() {
        let luck = Luck::default();
        for _ in 0..PATIENCE {
            miss(&luck).await;
        }
        let mut asked = 0;
        for _ in 0..SAMPLE * 10 {
            asked += usize::from(luck.ask().await.is_some());
        }
        assert_eq!(asked, 10);
        loop {
            if let Some(question) = luck.ask().await {
                question.answered(true);
                break;
            }
        }
        for _ in 0..100 {
            assert!(luck.ask().await.is_some());
        }
    }

    #[tokio::test]
    async fn asks_for_everything_where_a_run_goes_on() {
        let luck = Luck::new(true);
        for _ in 0..PATIENCE * 3 {
            miss(&luck).await;
        }
    }

    #[tokio::test]
    async fn many_at_once_wait_for_the_first_answers() {
        let luck = Luck::default();
        let mut first = Vec::new();
        for _ in 0..PATIENCE {
            first.push(luck.ask().await.unwrap());
        }
        let next = luck.ask();
        let mut next = std::pin::pin!(next);
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        for question in first {
            question.answered(false);
        }
        assert!(next.await.is_none());
    }

    #[tokio::test]
    async fn a_question_that_was_given_up_makes_room() {
        let luck = Luck::default();
        let first: Vec<_> = futures_util::future::join_all((0..PATIENCE).map(|_| luck.ask())).await;
        drop(first);
        assert!(luck.ask().await.is_some());
    }
}
