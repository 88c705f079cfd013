//! The strike counter of one client under one rule. It counts as fail2ban does, so that the same log leads to the same bans.

use crate::time::{Span, Time};

/// The first strike, the last strike and their number, scaled as fail2ban's `FailTicket.adjustTime` does (server/ticket.py, 1.0.2).
///
/// This is not a sliding window: when a strike comes more than `findtime` after the first one, the count is scaled down to the observed
/// rate times `findtime`, and the first strike moves up to the start of the window. After `findtime` without a strike, the count
/// restarts (fail2ban's `FailManager.cleanup`).
///
/// Packed into 12 bytes, because there may be millions: the time of the last strike in milliseconds (40 bits, from 2020 to 2054), its
/// distance from the first one (32 bits, hence a `findtime` of 49 days at most), and the count (24 bits, saturating).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    last_low: u32,
    span: u32,
    last_high: u8,
    count: [u8; 3],
}

/// Maximum `findtime` that a [`Counter`] can represent: 2^32 ms, rounded down to days.
pub const MAX_FINDTIME: Span = Span::from_secs(49 * 86_400);

/// Start of a counter's time, 2020-01-01, in milliseconds since the Unix epoch. An older strike is stored as of that day.
const EPOCH: u64 = 1_577_836_800_000;

const MAX_COUNT: u32 = (1 << 24) - 1;

impl Counter {
    /// A counter that starts with `strikes` at `now`.
    #[must_use]
    pub fn new(now: Time, strikes: u32) -> Self {
        Self::pack(now.millis(), 0, strikes)
    }

    /// Adds `strikes` at `now` and returns the new count.
    ///
    /// A strike before the last one (log lines out of order) counts, but moves neither end of the window, as in fail2ban.
    pub fn add(&mut self, now: Time, findtime: Span, strikes: u32) -> u32 {
        let (mut first, mut last, mut count) = (self.first().millis(), self.last().millis(), self.count());
        let now = now.millis().max(EPOCH);
        let findtime = findtime.millis().min(MAX_FINDTIME.millis());
        if self.is_expired(Time::from_millis(now), Span::from_millis(findtime)) {
            *self = Self::new(Time::from_millis(now), strikes);
            return self.count();
        }
        if now > last {
            let window = now.saturating_sub(findtime);
            if first < window {
                count = scale(count, now - first, findtime);
                first = window;
            }
            last = now;
        }
        count = count.saturating_add(strikes);
        *self = Self::pack(last, last.saturating_sub(first), count);
        self.count()
    }

    /// Whether `findtime` has passed since the last strike, so that the counter may be dropped.
    #[must_use]
    pub fn is_expired(&self, now: Time, findtime: Span) -> bool {
        self.last().after(findtime) <= now
    }

    /// The time of the first strike, or the start of the window that it was scaled to.
    #[must_use]
    pub fn first(&self) -> Time {
        self.last().before(Span::from_millis(u64::from(self.span)))
    }

    #[must_use]
    pub fn last(&self) -> Time {
        Time::from_millis(EPOCH + ((u64::from(self.last_high) << 32) | u64::from(self.last_low)))
    }

    /// The number of strikes, scaled to `findtime`.
    #[must_use]
    pub fn count(&self) -> u32 {
        let [high, middle, low] = self.count;
        u32::from_be_bytes([0, high, middle, low])
    }

    /// A counter from a state file. Values that it cannot represent are clamped.
    #[must_use]
    pub fn restore(first: Time, last: Time, count: u32) -> Self {
        Self::pack(last.millis(), last.since(first).millis(), count)
    }

    #[expect(clippy::cast_possible_truncation, reason = "every part is clamped to its width first")]
    fn pack(last: u64, span: u64, count: u32) -> Self {
        let last = last.saturating_sub(EPOCH).min((1 << 40) - 1);
        let [_, high, middle, low] = count.min(MAX_COUNT).to_be_bytes();
        Self {
            last_low: last as u32,
            span: span.min(u64::from(u32::MAX)) as u32,
            last_high: (last >> 32) as u8,
            count: [high, middle, low],
        }
    }
}

/// Scales `count` strikes in `elapsed` milliseconds to `findtime`. Halves round to even, as Python's `round` does.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "49 days in milliseconds are exact in an f64, and the result is at most the count"
)]
fn scale(count: u32, elapsed: u64, findtime: u64) -> u32 {
    let (elapsed, findtime) = (elapsed as f64 / 1000.0, findtime as f64 / 1000.0);
    (f64::from(count) / elapsed * findtime).round_ties_even() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: u64 = 1_800_000_000;
    const TEN_MINUTES: Span = Span::from_secs(600);

    fn at(seconds: u64) -> Time {
        Time::from_secs(START + seconds)
    }

    #[test]
    fn a_counter_takes_twelve_bytes() {
        assert_eq!(size_of::<Counter>(), 12);
    }

    #[test]
    fn strikes_within_findtime_add_up() {
        let mut counter = Counter::new(at(0), 1);
        assert_eq!(counter.add(at(300), TEN_MINUTES, 1), 2);
        assert_eq!(counter.add(at(599), TEN_MINUTES, 1), 3);
    }

    #[test]
    fn strikes_over_more_than_findtime_are_scaled_to_their_rate() {
        // fail2ban scales 4 strikes in 900 s to round(4 / 900 * 600) = 3 in 600 s, and this strike makes 4.
        let mut counter = Counter::new(at(0), 1);
        for seconds in [300, 500, 600] {
            counter.add(at(seconds), TEN_MINUTES, 1);
        }
        assert_eq!(counter.add(at(900), TEN_MINUTES, 1), 4);
        assert_eq!(counter.first(), at(300));
    }

    #[test]
    fn the_count_restarts_after_findtime_without_a_strike() {
        let mut counter = Counter::new(at(0), 5);
        assert!(!counter.is_expired(at(599), TEN_MINUTES));
        assert!(counter.is_expired(at(600), TEN_MINUTES));
        assert_eq!(counter.add(at(600), TEN_MINUTES, 1), 1);
    }

    #[test]
    fn a_strike_out_of_order_is_counted_and_does_not_move_the_window() {
        let mut counter = Counter::new(at(100), 1);
        assert_eq!(counter.add(at(50), TEN_MINUTES, 1), 2);
        assert_eq!((counter.first(), counter.last()), (at(100), at(100)));
    }

    #[test]
    fn a_strike_in_the_same_instant_as_the_last_one_is_added_unscaled() {
        // `adjustTime` scales only if the time is after the last one's, also when `findtime` has become shorter than the window.
        let mut counter = Counter::restore(at(0), at(900), 4);
        assert_eq!(counter.add(at(900), TEN_MINUTES, 1), 5);
    }

    #[test]
    fn a_count_and_a_time_beyond_their_width_are_stored_as_the_largest_that_fit() {
        let mut counter = Counter::new(Time::from_millis(u64::MAX), u32::MAX);
        assert_eq!((counter.count(), counter.last()), ((1 << 24) - 1, Time::from_millis(EPOCH + (1 << 40) - 1)));
        assert_eq!(counter.add(counter.last(), TEN_MINUTES, 1), (1 << 24) - 1);
    }

    #[test]
    fn a_restored_counter_equals_the_saved_one() {
        let mut counter = Counter::new(at(0), 2);
        counter.add(at(123), TEN_MINUTES, 3);
        assert_eq!(Counter::restore(counter.first(), counter.last(), counter.count()), counter);
    }

    /// A line-by-line port of fail2ban's `FailTicket.adjustTime` and `inc`, in Python's units: seconds as floats.
    struct Ticket {
        first: f64,
        time: f64,
        retry: f64,
    }

    impl Ticket {
        fn add(&mut self, time: f64, max_time: f64) -> f64 {
            if self.time + max_time <= time {
                *self = Self { first: time, time, retry: 1.0 };
                return self.retry;
            }
            if time > self.time {
                if self.first < time - max_time {
                    self.retry = (self.retry / (time - self.first) * max_time).round_ties_even();
                    self.first = time - max_time;
                }
                self.time = time;
            }
            self.retry += 1.0;
            self.retry
        }
    }

    proptest! {
        #[test]
        fn counts_equal_those_of_fail2ban(findtime in 1_u64..100_000, gaps in proptest::collection::vec(0_u64..50_000, 1..60)) {
            let mut ticket = Ticket { first: START as f64, time: START as f64, retry: 1.0 };
            let mut counter = Counter::new(at(0), 1);
            let mut elapsed = 0;
            for gap in gaps {
                elapsed += gap;
                let expected = ticket.add((START + elapsed) as f64, findtime as f64);
                prop_assert_eq!(f64::from(counter.add(at(elapsed), Span::from_secs(findtime), 1)), expected);
            }
        }

        #[test]
        fn a_counter_never_panics(times in proptest::collection::vec((any::<u64>(), any::<u32>()), 1..20), findtime in any::<u64>()) {
            let mut counter = Counter::new(Time::from_millis(0), 0);
            for (time, strikes) in times {
                counter.add(Time::from_millis(time), Span::from_millis(findtime), strikes);
            }
        }
    }
}
