//! Replies: values that answer a query exactly once, whatever happens to their holder.

use crate::verdict::{AllowReason, Verdict};

/// Answers one query.
///
/// A reply that is dropped allows, also under a panic: a bug never refuses anybody.
pub struct Reply(Option<Box<dyn FnOnce(Verdict) + Send>>);

impl Reply {
    /// A reply that answers by calling `answer`.
    pub fn new(answer: impl FnOnce(Verdict) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    pub fn send(mut self, verdict: Verdict) {
        if let Some(answer) = self.0.take() {
            answer(verdict);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer(Verdict::Allow(AllowReason::Failure));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn reply() -> (Reply, Receiver<Verdict>) {
        let (sender, receiver) = channel();
        (Reply::new(move |verdict| sender.send(verdict).unwrap()), receiver)
    }

    const NOTHING: Verdict = Verdict::Allow(AllowReason::NothingFound);
    const FAILURE: Verdict = Verdict::Allow(AllowReason::Failure);

    #[test]
    fn a_reply_answers_once() {
        let (reply, answers) = reply();
        reply.send(NOTHING);
        assert_eq!(answers.iter().collect::<Vec<_>>(), [NOTHING]);
    }

    #[test]
    fn a_dropped_reply_allows_even_under_a_panic() {
        let (dropped, answers) = reply();
        drop(dropped);
        assert_eq!(answers.iter().collect::<Vec<_>>(), [FAILURE]);
        let (panicked, answers) = reply();
        let _ = std::thread::spawn(move || {
            let _reply = panicked;
            std::panic::resume_unwind(Box::new("on purpose"));
        })
        .join();
        assert_eq!(answers.iter().collect::<Vec<_>>(), [FAILURE]);
    }
}
