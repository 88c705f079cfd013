//! Waiting for a condition, with a deadline: no test sleeps just to let time pass.

use std::time::{Duration, Instant};

/// Looks every few milliseconds until `look` finds something, and fails naming `what` when 20
/// seconds have passed without.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "20 s have passed without: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
