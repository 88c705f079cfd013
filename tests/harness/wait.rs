//! Waiting for a condition, with a deadline: no test sleeps just to let time pass.

use std::time::{Duration, Instant};

/// After this time a test counts as hung: far longer than anything takes, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Calls `look` until it returns something. At the deadline, fails with `what` in the message.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `is_true` returns true, and returns how long that took.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    wait_for(what, || is_true().then(|| start.elapsed()))
}

pub(crate) fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans[spans.len() / 2]
}
