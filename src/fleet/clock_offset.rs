//! Measures how far Redis's clock is ahead of this machine's.

use redis::RedisResult;

use super::resp_connection::RespConnection;
use crate::clock::Clock;
use crate::time::{Span, Time};

/// An answer still updates the offset if it took at most this many milliseconds longer than the quickest one.
const TOLERANCE: u64 = 2;
/// Milliseconds by which two measurements may differ because times are rounded down to whole milliseconds.
const ROUNDING: u64 = 5;

/// The offset as the quickest answer shows it. An answer is wrong by at most half of its round trip.
#[derive(Debug, Clone, Copy)]
pub struct ClockOffset {
    /// Redis's clock minus this machine's, in milliseconds.
    pub millis: i64,
    round_trip: Span,
}

impl Default for ClockOffset {
    fn default() -> Self {
        Self { millis: 0, round_trip: Span::from_millis(u64::MAX) }
    }
}

impl ClockOffset {
    /// Asks Redis for its time, which also shows that it answers.
    pub fn measure(&mut self, clock: Clock, connection: &mut RespConnection) -> RedisResult<()> {
        let asked = clock.now();
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(connection)?;
        let redis = Time::from_millis(seconds.saturating_mul(1000).saturating_add(micros / 1000));
        self.update(asked, redis, clock.now());
        Ok(())
    }

    /// Adopts a measurement that is nearly as quick as the quickest one, because clocks drift, or one that proves that a clock was set: it
    /// differs from the offset by more than the errors of both allow.
    fn update(&mut self, asked: Time, redis: Time, answered: Time) {
        let trip = answered.since(asked);
        let middle = asked.after(Span::from_millis(trip.millis() / 2));
        let ahead = i64::try_from(redis.since(middle).millis()).unwrap_or(i64::MAX);
        let behind = i64::try_from(middle.since(redis).millis()).unwrap_or(i64::MAX);
        let measured = ahead.saturating_sub(behind);
        let max_error = (trip.millis() / 2).saturating_add(self.round_trip.millis() / 2).saturating_add(ROUNDING);
        if measured.abs_diff(self.millis) > max_error {
            (self.millis, self.round_trip) = (measured, trip);
        } else if trip.millis() <= self.round_trip.millis().saturating_add(TOLERANCE) {
            (self.millis, self.round_trip) = (measured, trip.min(self.round_trip));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_quickest_answer_gives_the_offset_and_a_nearly_as_quick_one_its_drift() {
        let (mut offset, at) = (ClockOffset::default(), Time::from_millis);
        offset.update(at(1_000_000), at(1_030_040), at(1_000_400));
        assert_eq!(offset.millis, 29_840, "half of the round trip before it was received");
        offset.update(at(1_001_000), at(1_031_001), at(1_001_002));
        assert_eq!(offset.millis, 30_000);
        offset.update(at(1_002_000), at(1_032_400), at(1_002_400));
        assert_eq!(offset.millis, 30_000, "a slow answer is less exact");
        offset.update(at(1_003_000), at(1_033_011), at(1_003_002));
        assert_eq!(offset.millis, 30_010);
        offset.update(at(2_000_000), at(1_000_000), at(2_000_000));
        assert_eq!(offset.millis, -1_000_000);
    }

    #[test]
    fn a_set_clock_is_noticed_over_a_link_that_has_become_slow() {
        let (mut offset, at) = (ClockOffset::default(), Time::from_millis);
        offset.update(at(1_000_000), at(1_000_001), at(1_000_002));
        offset.update(at(2_000_000), at(2_000_030), at(2_000_060));
        assert_eq!((offset.millis, offset.round_trip), (0, Span::from_millis(2)), "slow, and within its error");
        offset.update(at(3_000_000), at(3_000_000 + 3_600_020), at(3_000_060));
        assert_eq!(offset.millis, 3_599_990, "exact to half of the round trip");
        offset.update(at(4_000_000), at(4_000_000 + 3_600_031), at(4_000_060));
        assert_eq!(offset.millis, 3_600_001, "from there on as before");
        offset.update(at(5_000_000), at(5_000_030), at(5_000_060));
        assert_eq!(offset.millis, 0, "and back");
    }

    proptest! {
        #[test]
        fn slow_answers_do_not_make_the_offset_worse(
            offset in -100_000_000_i64..100_000_000,
            trips in prop::collection::vec((0_u64..3_000_000, 0_u64..3_000_000, 0_u64..1000), 1..30),
        ) {
            // In microseconds; measurements see milliseconds.
            let mut measured = ClockOffset::default();
            let (mut now, mut quickest) = (1_800_000_000_000_000_u64, u64::MAX);
            for (there, back, pause) in trips {
                now += pause;
                let seen = |micros: u64| Time::from_millis(micros / 1000);
                measured.update(seen(now), seen((now + there).saturating_add_signed(offset)), seen(now + there + back));
                quickest = quickest.min((there + back) / 1000);
                now += there + back;
                prop_assert!(measured.millis.abs_diff(offset / 1000) <= (quickest + TOLERANCE) / 2 + 4, "{} of {}", measured.millis, offset / 1000);
            }
        }

        #[test]
        fn an_answer_is_wrong_by_half_its_round_trip_at_most(offset in -100_000_i64..100_000, there in 0_u64..3000, back in 0_u64..3000) {
            let asked = Time::from_secs(1_800_000_000);
            let mut measured = ClockOffset::default();
            measured.update(asked, asked.after(Span::from_millis(there)).shifted(offset), asked.after(Span::from_millis(there + back)));
            prop_assert!(measured.millis.abs_diff(offset) <= (there + back) / 2 + 1);
        }
    }
}
