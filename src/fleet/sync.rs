//! How the engine's clock goes: nodes' clocks need not agree, and in its time each says what happened when.

use redis::RedisResult;

use super::wire::Wire;
use crate::clock::Clock;
use crate::time::{Span, Time};

/// An answer that took so many milliseconds more than the quickest is nearly as quick.
const NEARLY: u64 = 2;
/// By so many milliseconds two answers can differ besides, as each of their times is cut to whole ones.
const CUT: u64 = 5;

/// How far the engine's clock is ahead of this machine's, as the quickest answer says: no answer knows it better than by half the time
/// that it took.
#[derive(Debug, Clone, Copy)]
pub struct Sync {
    /// In milliseconds.
    pub offset: i64,
    trip: Span,
}

impl Default for Sync {
    fn default() -> Self {
        Self { offset: 0, trip: Span::from_millis(u64::MAX) }
    }
}

impl Sync {
    /// Asks the engine for its time: a sign of life as well.
    ///
    /// # Errors
    /// The engine's.
    pub fn ask(&mut self, clock: Clock, wire: &mut Wire) -> RedisResult<()> {
        let asked = clock.now();
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(wire)?;
        let engine = Time::from_millis(seconds.saturating_mul(1000).saturating_add(micros / 1000));
        self.answered(asked, engine, clock.now());
        Ok(())
    }

    /// Clocks drift: an answer that is nearly as quick as the quickest counts as well, and so does one that proves that a clock was set: no
    /// answer is wrong by more than half its time, and milliseconds are cut off.
    fn answered(&mut self, asked: Time, engine: Time, answered: Time) {
        let trip = answered.since(asked);
        let middle = asked.after(Span::from_millis(trip.millis() / 2));
        let ahead = i64::try_from(engine.since(middle).millis()).unwrap_or(i64::MAX);
        let behind = i64::try_from(middle.since(engine).millis()).unwrap_or(i64::MAX);
        let measured = ahead.saturating_sub(behind);
        let doubt = (trip.millis() / 2).saturating_add(self.trip.millis() / 2).saturating_add(CUT);
        if measured.abs_diff(self.offset) > doubt {
            (self.offset, self.trip) = (measured, trip);
        } else if trip.millis() <= self.trip.millis().saturating_add(NEARLY) {
            (self.offset, self.trip) = (measured, trip.min(self.trip));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_quickest_answer_says_how_the_engines_clock_goes_and_a_nearly_as_quick_one_that_it_drifts() {
        let (mut sync, at) = (Sync::default(), Time::from_millis);
        sync.answered(at(1_000_000), at(1_030_040), at(1_000_400));
        assert_eq!(sync.offset, 29_840, "it was on its way for a while");
        sync.answered(at(1_001_000), at(1_031_001), at(1_001_002));
        assert_eq!(sync.offset, 30_000);
        sync.answered(at(1_002_000), at(1_032_400), at(1_002_400));
        assert_eq!(sync.offset, 30_000, "a slow answer knows less");
        sync.answered(at(1_003_000), at(1_033_011), at(1_003_002));
        assert_eq!(sync.offset, 30_010);
        sync.answered(at(2_000_000), at(1_000_000), at(2_000_000));
        assert_eq!(sync.offset, -1_000_000);
    }

    #[test]
    fn a_clock_that_was_set_is_noticed_also_over_a_way_that_has_become_slow() {
        let (mut sync, at) = (Sync::default(), Time::from_millis);
        sync.answered(at(1_000_000), at(1_000_001), at(1_000_002));
        sync.answered(at(2_000_000), at(2_000_030), at(2_000_060));
        assert_eq!((sync.offset, sync.trip), (0, Span::from_millis(2)), "slow, and nothing new");
        sync.answered(at(3_000_000), at(3_000_000 + 3_600_020), at(3_000_060));
        assert_eq!(sync.offset, 3_599_990, "within half of the way");
        sync.answered(at(4_000_000), at(4_000_000 + 3_600_031), at(4_000_060));
        assert_eq!(sync.offset, 3_600_001, "from there on as before");
        sync.answered(at(5_000_000), at(5_000_030), at(5_000_060));
        assert_eq!(sync.offset, 0, "and back");
    }

    proptest! {
        #[test]
        fn however_slow_answers_are_they_make_nothing_worse(
            offset in -100_000_000_i64..100_000_000,
            trips in prop::collection::vec((0_u64..3_000_000, 0_u64..3_000_000, 0_u64..1000), 1..30),
        ) {
            // In microseconds, of which milliseconds are seen.
            let mut sync = Sync::default();
            let (mut now, mut quickest) = (1_800_000_000_000_000_u64, u64::MAX);
            for (there, back, pause) in trips {
                now += pause;
                let seen = |micros: u64| Time::from_millis(micros / 1000);
                sync.answered(seen(now), seen((now + there).saturating_add_signed(offset)), seen(now + there + back));
                quickest = quickest.min((there + back) / 1000);
                now += there + back;
                prop_assert!(sync.offset.abs_diff(offset / 1000) <= (quickest + NEARLY) / 2 + 4, "{} of {}", sync.offset, offset / 1000);
            }
        }

        #[test]
        fn an_answer_is_wrong_by_no_more_than_half_its_time(offset in -100_000_i64..100_000, there in 0_u64..3000, back in 0_u64..3000) {
            let asked = Time::from_secs(1_800_000_000);
            let mut sync = Sync::default();
            sync.answered(asked, asked.after(Span::from_millis(there)).shifted(offset), asked.after(Span::from_millis(there + back)));
            prop_assert!(sync.offset.abs_diff(offset) <= (there + back) / 2 + 1);
        }
    }
}
