//! The clock behind table time: the boot clock plus an offset taken at start. Setting the wall clock therefore does not move the end of a
//! ban, and the boot clock, unlike CLOCK_MONOTONIC, also runs while the machine is suspended (clock_gettime(2)).

use rustix::time::{ClockId, clock_gettime};

use crate::time::Time;

#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Wall time minus boot time at start, in milliseconds.
    offset: i64,
}

impl Clock {
    /// Starts a clock that agrees with the wall clock now, and does not follow it afterwards.
    #[must_use]
    pub fn start() -> Self {
        Self { offset: millis(ClockId::Realtime) - millis(ClockId::Boottime) }
    }

    /// The clock of a machine whose wall clock was this many milliseconds ahead of this one's at start, or behind it if negative.
    #[must_use]
    pub const fn ahead(self, milliseconds: i64) -> Self {
        Self { offset: self.offset + milliseconds }
    }

    #[must_use]
    pub fn now(&self) -> Time {
        Time::from_millis(u64::try_from(millis(ClockId::Boottime) + self.offset).unwrap_or(0))
    }

    /// The table time of a moment that another program took from the wall clock.
    #[must_use]
    pub fn table_time(&self, wall: Time) -> Time {
        wall.shifted(-self.wall_drift())
    }

    /// How far the wall clock has moved ahead of table time since the start, in milliseconds. Converts times that other programs took from
    /// the wall clock.
    #[must_use]
    pub fn wall_drift(&self) -> i64 {
        millis(ClockId::Realtime) - millis(ClockId::Boottime) - self.offset
    }
}

fn millis(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

/// Formats a time for people and logs: `2026-11-23T01:02:03Z`.
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
    fn setting_the_wall_clock_by_a_day_moves_the_drift_but_not_table_time() {
        const DAY: i64 = 86_400_000;
        for step in [DAY, -DAY] {
            // As if started when the wall clock was a day behind or ahead.
            let clock = Clock { offset: Clock::start().offset - step };
            let began = clock.now();
            assert!((clock.wall_drift() - step).abs() <= 1000, "{}", clock.wall_drift());
            assert!(clock.now().since(began).secs() <= 1 && clock.now() >= began);
            let wall = Time::from_millis(u64::try_from(millis(ClockId::Realtime)).unwrap());
            assert!(clock.table_time(wall).since(began).secs() <= 1 && began.since(clock.table_time(wall)).secs() <= 1);
        }
    }

    #[test]
    fn a_timestamp_is_in_utc() {
        assert_eq!(timestamp(Time::from_secs(1_800_000_000)), "2027-01-15T08:00:00Z");
    }
}
