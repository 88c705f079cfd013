//! The heartbeat for systemd's watchdog (`WatchdogSec=` in the unit): it comes from the event loop itself, so systemd restarts a daemon whose
//! loop hangs, and not only one that has ended.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::notify_service_manager;

/// Heartbeats for each time limit of systemd's: a late one must not be the last.
const BEATS_PER_LIMIT: u32 = 3;

/// When the next heartbeat is due; none if systemd expects none.
pub struct Watchdog(Option<Beat>);

struct Beat {
    interval: Duration,
    due: Instant,
}

impl Watchdog {
    /// As the environment says that systemd expects it: `WATCHDOG_USEC`, and `WATCHDOG_PID` if it is meant for this process.
    #[must_use]
    pub fn of_environment(now: Instant) -> Self {
        Self::new(sd_notify::watchdog_enabled(), now)
    }

    fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self(limit.filter(|limit| !limit.is_zero()).map(|limit| Beat { interval: limit / BEATS_PER_LIMIT, due: now }))
    }

    /// How long the loop may sleep until the next heartbeat.
    #[must_use]
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        self.0.as_ref().map(|beat| beat.due.saturating_duration_since(now))
    }

    /// Sends the heartbeat if it is due.
    pub fn tick(&mut self, now: Instant) {
        if self.is_due(now) {
            notify_service_manager(NotifyState::Watchdog);
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let Some(beat) = self.0.as_mut().filter(|beat| beat.due <= now) else { return false };
        beat.due = now + beat.interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_due_three_times_in_the_limit_and_never_without_one() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(30)), start);
        let beats = (0..30).filter(|second| watchdog.is_due(start + Duration::from_secs(*second))).count();
        assert_eq!(beats, 3);
        assert_eq!(watchdog.timeout(start + Duration::from_secs(28)), Some(Duration::from_secs(2)));
        for limit in [None, Some(Duration::ZERO)] {
            let mut none = Watchdog::new(limit, start);
            assert!(none.timeout(start).is_none() && !none.is_due(start));
        }
    }
}
