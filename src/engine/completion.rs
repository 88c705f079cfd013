//! Completions: the outcome of a change by an operator or another machine, reported exactly once.

use super::change::Persisted;

/// A change of the table that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whether it made a difference: a ban that ends no later than the active one makes none, nor does an unban of a client that is not banned.
    pub changed: bool,
    /// Whether the change survives a restart. Without a state file there is nothing to survive in, and this is [`Persisted::Yes`].
    pub persisted: Persisted,
}

/// A change that was dropped before it was completed: its outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abandoned;

type Report = Box<dyn FnOnce(Result<Applied, Abandoned>) + Send>;

/// Reports the outcome of one change.
///
/// Unlike a [`super::reply::Reply`], which accepts when it is dropped, a dropped completion reports [`Abandoned`], also under a panic: no
/// error path may read as success.
pub struct Completion(Option<Report>);

impl Completion {
    /// A completion that reports by calling `report`.
    pub fn new(report: impl FnOnce(Result<Applied, Abandoned>) + Send + 'static) -> Self {
        Self(Some(Box::new(report)))
    }

    /// For a change whose result nobody waits for.
    #[must_use]
    pub fn ignored() -> Self {
        Self(None)
    }

    /// Reports that the change was carried out.
    pub fn complete(mut self, applied: Applied) {
        if let Some(report) = self.0.take() {
            report(Ok(applied));
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(report) = self.0.take() {
            report(Err(Abandoned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn completion() -> (Completion, Receiver<Result<Applied, Abandoned>>) {
        let (sender, reports) = channel();
        (Completion::new(move |report| sender.send(report).unwrap()), reports)
    }

    #[test]
    fn a_completed_change_is_reported_once() {
        let (completion, reports) = completion();
        let applied = Applied { changed: true, persisted: Persisted::Yes };
        completion.complete(applied.clone());
        assert_eq!(reports.iter().collect::<Vec<_>>(), [Ok(applied)]);
    }

    #[test]
    fn a_dropped_completion_reports_failure_also_under_a_panic() {
        let (dropped, reports) = completion();
        drop(dropped);
        assert_eq!(reports.iter().collect::<Vec<_>>(), [Err(Abandoned)]);
        let (panicked, reports) = completion();
        let _ = std::thread::spawn(move || {
            let _completion = panicked;
            std::panic::resume_unwind(Box::new("a fault"));
        })
        .join();
        assert_eq!(reports.iter().collect::<Vec<_>>(), [Err(Abandoned)]);
    }
}
