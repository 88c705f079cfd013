//! The strike counter of one client under one rule: fail2ban's own, so that the same log gives the same bans.

use crate::time::{Span, Time};

/// First strike, last strike and their number, scaled as fail2ban's `FailTicket.adjustTime` does (server/ticket.py, 1.0.2).
///
/// It is no plain window: when a strike comes more than `findtime` after the first one, the count is scaled down to what the known
/// rate would have given in one `findtime`, and the first strike moves up to the window's start. After `findtime` of silence the
/// count starts anew (fail2ban's `FailManager.cleanup`).
///
/// Twelve bytes: milliseconds of the last strike (40 bits, from 2020 to 2054), how long before it the first one
/// was (32 bits: `findtime` is 49 days at most), and the count (24 bits, saturating).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    last_low: u32,
    span: u32,
    last_high: u8,
    count: [u8; 3],
}

/// The longest `findtime` that a [`Counter`] can hold: 49 days.
pub const MAX_FINDTIME: Span = Span::from_secs(49 * 86_400);

/// Counters keep their time from 2020-01-01 on, so that 40 bits last until 2054. An older strike is kept as of that day.
const EPOCH: u64 = 1_577_836_800_000;
const COUNT_MAX: u32 = (1 << 24) - 1;

impl Counter {
    /// The first `strikes` of a client, at `now`.
    #[must_use]
    pub fn new(now: Time, strikes: u32) -> Self {
        Self::pack(now.millis(), 0, strikes)
    }

    /// Counts `strikes` more at `now`, and returns how many there are in the window.
    ///
    /// A time before the last strike's (log lines out of order) counts, and moves nothing, as in fail2ban.
    pub fn add(&mut self, now: Time, findtime: Span, strikes: u32) -> u32 {
        let (mut first, mut last, mut count) = (self.first().millis(), self.last().millis(), self.count());
        let now = now.millis().max(EPOCH);
        let findtime = findtime.millis().min(MAX_FINDTIME.millis());
        if self.is_over(Time::from_millis(now), Span::from_millis(findtime)) {
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

    /// Whether `findtime` of silence has passed since the last strike: the counter may be dropped.
    #[must_use]
    pub fn is_over(&self, now: Time, findtime: Span) -> bool {
        self.last().after(findtime) <= now
    }

    /// When the first strike that still counts was.
    #[must_use]
    pub fn first(&self) -> Time {
        self.last().before(Span::from_millis(u64::from(self.span)))
    }

    /// When the last strike was.
    #[must_use]
    pub fn last(&self) -> Time {
        Time::from_millis(EPOCH + ((u64::from(self.last_high) << 32) | u64::from(self.last_low)))
    }

    /// How many strikes count.
    #[must_use]
    pub fn count(&self) -> u32 {
        let [high, middle, low] = self.count;
        u32::from_be_bytes([0, high, middle, low])
    }

    /// The counter with these values, as a state file kept them. Values outside what it can hold are clamped.
    #[must_use]
    pub fn restore(first: Time, last: Time, count: u32) -> Self {
        Self::pack(last.millis(), last.since(first).millis(), count)
    }

    #[expect(clippy::cast_possible_truncation, reason = "every part is clamped to its width first")]
    fn pack(last: u64, span: u64, count: u32) -> Self {
        let last = last.saturating_sub(EPOCH).min((1 << 40) - 1);
        let [_, high, middle, low] = count.min(COUNT_MAX).to_be_bytes();
        Self {
            last_low: last as u32,
            span: span.min(u64::from(u32::MAX)) as u32,
            last_high: (last >> 32) as u8,
            count: [high, middle, low],
        }
    }
}

/// `count` strikes over `elapsed` milliseconds, as if at the same rate over `findtime`; halves go to the even number, as in Python.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "49 days in milliseconds are exact in an f64, and the result is below the count"
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
    fn a_slow_row_of_strikes_is_scaled_to_its_rate_and_not_forgotten() {
        // fail2ban: 4 strikes in 900 s are a rate of round(4 / 900 * 600) = 3 in 600 s, and this one makes 4.
        let mut counter = Counter::new(at(0), 1);
        for seconds in [300, 500, 600] {
            counter.add(at(seconds), TEN_MINUTES, 1);
        }
        assert_eq!(counter.add(at(900), TEN_MINUTES, 1), 4);
        assert_eq!(counter.first(), at(300));
    }

    #[test]
    fn findtime_of_silence_starts_anew() {
        let mut counter = Counter::new(at(0), 5);
        assert!(!counter.is_over(at(599), TEN_MINUTES));
        assert!(counter.is_over(at(600), TEN_MINUTES));
        assert_eq!(counter.add(at(600), TEN_MINUTES, 1), 1);
    }

    #[test]
    fn an_earlier_time_counts_and_moves_nothing() {
        let mut counter = Counter::new(at(100), 1);
        assert_eq!(counter.add(at(50), TEN_MINUTES, 1), 2);
        assert_eq!((counter.first(), counter.last()), (at(100), at(100)));
    }

    #[test]
    fn a_restored_counter_goes_on_where_it_was() {
        let mut counter = Counter::new(at(0), 2);
        counter.add(at(123), TEN_MINUTES, 3);
        assert_eq!(Counter::restore(counter.first(), counter.last(), counter.count()), counter);
    }

    /// `FailTicket.adjustTime` and `inc`, line by line, in Python's own units: seconds as floats.
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
        fn counts_are_those_of_fail2ban(findtime in 1_u64..100_000, gaps in proptest::collection::vec(0_u64..50_000, 1..60)) {
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
        fn no_time_and_no_count_makes_a_counter_panic(times in proptest::collection::vec((any::<u64>(), any::<u32>()), 1..20), findtime in any::<u64>()) {
            let mut counter = Counter::new(Time::from_millis(0), 0);
            for (time, strikes) in times {
                counter.add(Time::from_millis(time), Span::from_millis(findtime), strikes);
            }
        }
    }
}
