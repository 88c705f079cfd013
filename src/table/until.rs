//! The end of a ban.

use std::fmt;

use crate::time::{Span, Time};

/// The end of a ban: a second of table time, or never. Ordered by time, with "never" last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Until(pub(super) u32);

impl Until {
    pub const NEVER: Self = Self(u32::MAX);

    /// Rounds `time` up to a whole second, so that a ban lasts at least its `bantime`.
    #[must_use]
    pub fn at(time: Time) -> Self {
        Self(u32::try_from(time.millis().div_ceil(1000)).unwrap_or(u32::MAX).min(u32::MAX - 1))
    }

    /// The end, or `None` for a permanent ban.
    #[must_use]
    pub fn time(self) -> Option<Time> {
        (self != Self::NEVER).then(|| Time::from_secs(u64::from(self.0)))
    }

    #[must_use]
    pub fn is_expired(self, now: Time) -> bool {
        self.time().is_some_and(|end| end <= now)
    }

    /// The time left at `now`, or `None` for a permanent ban.
    #[must_use]
    pub fn remaining(self, now: Time) -> Option<Span> {
        self.time().map(|end| end.since(now))
    }
}

impl fmt::Display for Until {
    /// Seconds since the epoch, or `-1` for a permanent ban, as fail2ban writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.time() {
            Some(time) => write!(f, "{}", time.secs()),
            None => f.write_str("-1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_rounded_up_to_a_whole_second() {
        for (millis, end) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(Until::at(Time::from_millis(millis)).time(), Some(Time::from_secs(end)), "{millis}");
        }
    }

    #[test]
    fn a_time_beyond_the_last_second_that_fits_is_not_never() {
        for time in [u64::from(u32::MAX) - 1, u64::from(u32::MAX), u64::MAX].map(Time::from_secs) {
            assert_eq!(Until::at(time).time(), Some(Time::from_secs(u64::from(u32::MAX) - 1)), "{time:?}");
            assert!(Until::at(time) < Until::NEVER);
        }
    }

    #[test]
    fn the_remaining_time_is_zero_after_the_end_and_unknown_for_a_permanent_ban() {
        let until = Until::at(Time::from_secs(100));
        assert_eq!(until.remaining(Time::from_millis(98_500)), Some(Span::from_millis(1500)));
        assert_eq!(until.remaining(Time::from_secs(101)), Some(Span::ZERO));
        assert_eq!(Until::NEVER.remaining(Time::from_secs(101)), None);
    }
}
