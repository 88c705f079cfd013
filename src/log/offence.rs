//! Offences that lines of logs record, and when they were read.

use super::health::Quarters;
use crate::event::Service;
use crate::rule::Offence;
use crate::time::{Span, Time};

/// How far ahead of the reader's clock a line's time may be: a wrong clock or zone must not put strikes into the future.
const MAX_AHEAD: Span = Span::from_secs(60);

/// When a line was read.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// The time of a line that has none of its own.
    pub at: Time,
    /// A line with a later time counts as of this one.
    latest: Time,
    /// Whether the line was written just before `at`.
    is_live: bool,
    /// Milliseconds to add to the line's own time.
    correction: i64,
}

impl Received {
    /// A line that was read as it was written.
    #[must_use]
    pub fn live(now: Time) -> Self {
        Self { is_live: true, ..Self::late(now) }
    }

    /// A line that may have been written long before it was read.
    #[must_use]
    pub fn late(now: Time) -> Self {
        Self { at: now, latest: now.after(MAX_AHEAD), is_live: false, correction: 0 }
    }

    /// A line of an old log, whose own time is trusted. `at` is the time of the line before it.
    #[must_use]
    pub fn replayed(at: Time) -> Self {
        Self { at, latest: Time::from_millis(u64::MAX), is_live: false, correction: 0 }
    }

    #[must_use]
    pub fn corrected_by(self, millis: i64) -> Self {
        Self { correction: millis, ..self }
    }

    /// How far the time of a line that was read as it was written is behind the clock, if that can be due to another time zone.
    #[must_use]
    pub fn behind(&self, time: Time) -> Option<Quarters> {
        if self.is_live { Quarters::behind(time, self.at) } else { None }
    }

    /// When a line with this time counts.
    #[must_use]
    pub fn counted_at(&self, time: Time) -> Time {
        time.shifted(self.correction).min(self.latest)
    }
}

/// An offence that a line records.
#[derive(Debug)]
pub struct LogOffence {
    /// When the line counts: at its own time, unless that is in another time zone.
    pub time: Time,
    /// How far an expression's time is behind the clock, if that can be due to another time zone.
    pub behind: Option<Quarters>,
    /// Where the client was met.
    pub service: Service,
    /// Which part of the line is the offence.
    pub kind: OffenceKind,
    /// The client, the rules and the evidence.
    pub offence: Offence,
}

/// Which part of a line is an offence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffenceKind {
    /// The request itself.
    Request,
    /// The status of the response.
    Response,
    /// A line of Exim's.
    Mail,
    /// An ordinary request or connection, which counts towards a rate.
    Rate,
    /// Text that an expression in fail2ban's language matches.
    Text,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(1_800_000_000);

    #[test]
    fn only_the_time_of_a_live_line_tells_another_zone() {
        let hour_ago = NOW.before(Span::from_secs(3600));
        assert_eq!(Received::live(NOW).behind(hour_ago).map(Quarters::millis), Some(3_600_000));
        assert_eq!(Received::late(NOW).behind(hour_ago), None);
        assert_eq!(Received::replayed(NOW).behind(hour_ago), None);
    }

    #[test]
    fn a_line_counts_at_its_corrected_time_but_no_later_than_a_minute_ahead_of_the_clock() {
        let at = |seconds: i64| NOW.shifted(seconds * 1000);
        for received in [Received::live(NOW), Received::late(NOW)] {
            assert_eq!([-3600, 60, 61].map(|seconds| received.counted_at(at(seconds))), [at(-3600), at(60), at(60)]);
            let corrected = received.corrected_by(3_600_000);
            assert_eq!([-3600, -3540, -3539].map(|seconds| corrected.counted_at(at(seconds))), [at(0), at(60), at(60)]);
        }
        assert_eq!(Received::replayed(NOW).counted_at(at(3600)), at(3600), "the clock of an old log is trusted");
    }
}
