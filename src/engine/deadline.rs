//! The time limit of answers that wait for the disk or the daemon, and the thread that keeps it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::reply::Reply;
use crate::verdict::Verdict;

/// Time limit of an answer that waits for the disk.
pub const DISK_LIMIT: Duration = Duration::from_millis(150);
/// Time limit of an answer that waits for the daemon: longer, since the daemon may be waiting for its disk.
pub const DAEMON_LIMIT: Duration = Duration::from_millis(190);

/// Replies that are due within this time of each other are answered together: under load, a wake-up for each would cost more than its answer.
const GRANULARITY: Duration = Duration::from_millis(2);

/// A reply or a completion that waits for the disk or the daemon, for a limited time.
pub struct Held<T>(Arc<Mutex<Option<T>>>);

/// A reply that waits for the disk or the daemon.
pub type HeldReply = Held<Reply>;

impl<T> Held<T> {
    /// Takes the value; `None` if it was taken already or the time limit has passed.
    pub fn take(&self) -> Option<T> {
        self.0.lock().take()
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl HeldReply {
    /// Answers the query, unless the time limit has done so. Returns whether this was in time.
    pub fn settle(&self, verdict: Verdict) -> bool {
        match self.take() {
            Some(reply) => {
                reply.send(verdict);
                true
            }
            None => false,
        }
    }
}

/// The thread that answers held replies and completions when their time limit has passed, in the order in which they were held.
#[derive(Clone)]
pub struct Deadlines {
    limit: Duration,
    due: Sender<Due>,
}

struct Due {
    at: Instant,
    expire: Box<dyn FnOnce() + Send>,
}

impl Deadlines {
    /// Starts the thread, for values that are held for at most `limit`. It ends when the last clone is dropped and nothing is held.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(limit: Duration) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        std::thread::Builder::new().name("deadlines".into()).spawn(move || expire_held(&receiver))?;
        Ok(Self { limit, due: sender })
    }

    /// Holds `value` until it is taken; if it is not within the time limit, `late` gets it.
    pub fn hold<T: Send + 'static>(&self, value: T, late: impl FnOnce(T) + Send + 'static) -> Held<T> {
        let held = Held(Arc::new(Mutex::new(Some(value))));
        let waiting = held.clone();
        let expire = move || {
            if let Some(value) = waiting.take() {
                late(value);
            }
        };
        // If the thread has ended, the value still answers when its last holder drops it.
        let _ = self.due.send(Due { at: Instant::now() + self.limit, expire: Box::new(expire) });
        held
    }
}

/// Sleeps until each value expires in turn: the time limit is the same for all, so they expire in the order in which they came.
fn expire_held(receiver: &Receiver<Due>) {
    while let Ok(due) = receiver.recv() {
        let left = due.at.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::sleep(left.max(GRANULARITY));
        }
        // A panic in one answer must not end the thread, or the others would lose their time limit.
        let _ = catch_unwind(AssertUnwindSafe(due.expire));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::AllowReason;

    const NOTHING: Verdict = Verdict::Allow(AllowReason::NothingFound);
    const FAILURE: Verdict = Verdict::Allow(AllowReason::Failure);

    fn reply() -> (Reply, Receiver<Verdict>) {
        let (sender, receiver) = channel();
        (Reply::new(move |verdict| sender.send(verdict).unwrap()), receiver)
    }

    #[test]
    fn a_held_reply_is_answered_once_by_its_holder_or_by_the_time_limit() {
        let deadlines = Deadlines::start(DISK_LIMIT).unwrap();
        let (early, early_answers) = reply();
        let held = deadlines.hold(early, |reply| reply.send(FAILURE));
        assert!(held.settle(NOTHING));
        assert!(!held.settle(FAILURE));
        let (late, late_answers) = reply();
        let begin = Instant::now();
        let held = deadlines.hold(late, |reply| reply.send(FAILURE));
        assert_eq!(late_answers.recv(), Ok(FAILURE), "answered by the time limit");
        assert!(begin.elapsed() >= DISK_LIMIT);
        assert!(!held.settle(NOTHING));
        drop(held);
        assert_eq!(early_answers.iter().collect::<Vec<_>>(), [NOTHING]);
        assert_eq!(late_answers.iter().count(), 0);
    }
}
