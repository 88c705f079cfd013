//! Replies: a query's answer as a value that answers exactly once, whatever happens to whoever holds it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::verdict::{Innocence, Verdict};

/// How long an answer may wait for the disk or for the resident.
pub const LIMIT: Duration = Duration::from_millis(150);

/// The right, and the duty, to answer one query.
///
/// A dropped reply allows, under a panic too: a fault of ours never refuses anybody.
pub struct Reply(Option<Box<dyn FnOnce(Verdict) + Send>>);

impl Reply {
    /// A reply that answers by calling `answer`.
    pub fn new(answer: impl FnOnce(Verdict) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    /// Answers.
    pub fn send(mut self, verdict: Verdict) {
        if let Some(answer) = self.0.take() {
            answer(verdict);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer(Verdict::Allow(Innocence::Failure));
        }
    }
}

/// A reply that somebody is working on, and that the time limit answers if they are too slow.
#[derive(Clone)]
pub struct Held(Arc<Mutex<Option<Reply>>>);

impl Held {
    /// Answers, unless the time limit already did; says whether it was in time.
    pub fn settle(&self, verdict: Verdict) -> bool {
        let reply = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match reply {
            Some(reply) => {
                reply.send(verdict);
                true
            }
            None => false,
        }
    }
}

/// Answers held replies when [`LIMIT`] has passed, on a thread of its own.
#[derive(Clone)]
pub struct Deadlines(Sender<Due>);

struct Due {
    at: Instant,
    held: Held,
    late: Box<dyn FnOnce() -> Verdict + Send>,
}

impl Deadlines {
    /// Starts the thread. It ends when the last clone is dropped and nothing is held any more.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start() -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        std::thread::Builder::new().name("deadlines".into()).spawn(move || answer_late(&receiver))?;
        Ok(Self(sender))
    }

    /// Holds `reply`: whoever settles it within [`LIMIT`] answers; after that, `late` says what is answered.
    pub fn hold(&self, reply: Reply, late: impl FnOnce() -> Verdict + Send + 'static) -> Held {
        let held = Held(Arc::new(Mutex::new(Some(reply))));
        // Were the thread gone, the reply would still be answered when the last holder drops it.
        let _ = self.0.send(Due { at: Instant::now() + LIMIT, held: held.clone(), late: Box::new(late) });
        held
    }
}

/// All replies are held equally long: the first held is the first due.
fn answer_late(receiver: &Receiver<Due>) {
    while let Ok(due) = receiver.recv() {
        std::thread::sleep(due.at.saturating_duration_since(Instant::now()));
        let reply = due.held.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reply) = reply {
            // A fault in one answer must not take the time limit away from all others.
            let _ = catch_unwind(AssertUnwindSafe(|| reply.send((due.late)())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> (Reply, Receiver<Verdict>) {
        let (sender, receiver) = channel();
        (Reply::new(move |verdict| sender.send(verdict).unwrap()), receiver)
    }

    const NOTHING: Verdict = Verdict::Allow(Innocence::NothingFound);
    const FAILURE: Verdict = Verdict::Allow(Innocence::Failure);

    #[test]
    fn a_reply_answers_once() {
        let (reply, answers) = reply();
        reply.send(NOTHING);
        assert_eq!(answers.iter().collect::<Vec<_>>(), [NOTHING]);
    }

    #[test]
    fn a_dropped_reply_allows_also_under_a_panic() {
        let (dropped, answers) = reply();
        drop(dropped);
        assert_eq!(answers.iter().collect::<Vec<_>>(), [FAILURE]);
        let (panicked, answers) = reply();
        let _ = std::thread::spawn(move || {
            let _reply = panicked;
            std::panic::resume_unwind(Box::new("a fault"));
        })
        .join();
        assert_eq!(answers.iter().collect::<Vec<_>>(), [FAILURE]);
    }

    #[test]
    fn a_held_reply_is_answered_by_whoever_comes_first_and_only_by_them() {
        let deadlines = Deadlines::start().unwrap();
        let (early, early_answers) = reply();
        let held = deadlines.hold(early, || FAILURE);
        assert!(held.settle(NOTHING));
        assert!(!held.settle(FAILURE));
        let (late, late_answers) = reply();
        let held = deadlines.hold(late, || FAILURE);
        assert_eq!(late_answers.recv(), Ok(FAILURE), "the limit answered");
        assert!(!held.settle(NOTHING));
        drop(held);
        assert_eq!(early_answers.iter().collect::<Vec<_>>(), [NOTHING]);
        assert_eq!(late_answers.iter().count(), 0);
    }
}
