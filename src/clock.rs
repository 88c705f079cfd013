//! The clock at the edge: table time is the boot clock plus an offset taken at start, so nobody's `date -s` moves a ban.

use rustix::time::{ClockId, clock_gettime};

use crate::time::Time;

/// Gives table time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Wall time minus boot time when the clock was made, in milliseconds.
    offset: i64,
}

impl Clock {
    /// A clock that agrees with the wall clock now, and does not follow it.
    #[must_use]
    pub fn start() -> Self {
        Self { offset: millis(ClockId::Realtime) - millis(ClockId::Boottime) }
    }

    /// This clock as it is on a machine whose wall clock was ahead by so many milliseconds at the start, or behind.
    #[must_use]
    pub const fn ahead(self, milliseconds: i64) -> Self {
        Self { offset: self.offset + milliseconds }
    }

    /// The table time.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::from_millis(u64::try_from(millis(ClockId::Boottime) + self.offset).unwrap_or(0))
    }

    /// How far the wall clock has been set away from table time since the start, in milliseconds: for `status`, and to read times
    /// that other programs took from the wall clock.
    #[must_use]
    pub fn wall_drift(&self) -> i64 {
        millis(ClockId::Realtime) - millis(ClockId::Boottime) - self.offset
    }
}

fn millis(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

/// A moment for people and logs: `2026-11-23T01:02:03Z`.
#[must_use]
pub fn timestamp(time: Time) -> String {
    let seconds = i64::try_from(time.secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("@{seconds}"), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_time_starts_at_wall_time() {
        let clock = Clock::start();
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(clock.now().secs().abs_diff(wall) <= 1);
        assert!(clock.wall_drift().abs() <= 1000);
    }

    #[test]
    fn a_wall_clock_that_was_set_by_a_day_since_the_start_moves_no_table_time_and_is_told() {
        const DAY: i64 = 86_400_000;
        for set in [DAY, -DAY] {
            // Started when the wall clock stood a day before or after what it is now.
            let clock = Clock { offset: Clock::start().offset - set };
            let began = clock.now();
            assert!((clock.wall_drift() - set).abs() <= 1000, "{}", clock.wall_drift());
            assert!(clock.now().since(began).secs() <= 1 && clock.now() >= began);
        }
    }

    #[test]
    fn a_moment_is_shown_in_utc() {
        assert_eq!(timestamp(Time::from_secs(1_800_000_000)), "2027-01-15T08:00:00Z");
    }
}
