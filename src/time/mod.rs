//! Points in time and durations, as plain numbers. Nothing here reads a clock: the time is always an argument.

mod duration;

use std::fmt;

pub use duration::parse_seconds;

/// A point in table time, in milliseconds since the Unix epoch.
///
/// Table time comes from [`Clock`](crate::clock::Clock), which does not jump when the wall clock is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// The time `span` later, or the last time that can be represented.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The time `span` earlier, but not before the epoch.
    #[must_use]
    pub const fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }

    /// The time `milliseconds` later; earlier if negative.
    #[must_use]
    pub const fn shifted(self, milliseconds: i64) -> Self {
        Self(self.0.saturating_add_signed(milliseconds))
    }

    /// The time that passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(u64);

impl Span {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// Whole seconds, rounded up, so that a remaining time of less than a second is not shown as zero.
    #[must_use]
    pub const fn secs_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// Parses a duration in fail2ban's notation: `600`, `10m`, `1d 12h`, `1.5h`, `60*60*24`; see [`parse_seconds`].
    ///
    /// # Errors
    /// The text is not a duration, or the duration is negative or longer than a hundred years.
    pub fn parse(text: &str) -> Result<Self, String> {
        let seconds = parse_seconds(text)?;
        // A hundred years: longer than anybody needs, and far from any overflow.
        if !(0.0..=3_155_760_000.0).contains(&seconds) {
            return Err(duration::error(text));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked on the line above")]
        Ok(Self((seconds * 1000.0).round() as u64))
    }
}

impl fmt::Display for Span {
    /// Formats the span in the largest unit that divides it: `1h`, `90s`, `1500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 5] = [(604_800_000, "w"), (86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
        for (length, unit) in UNITS {
            if self.0 >= length && self.0.is_multiple_of(length) {
                return write!(f, "{}{unit}", self.0 / length);
            }
        }
        if self.0 == 0 { f.write_str("0s") } else { write!(f, "{}ms", self.0) }
    }
}

impl<'de> serde::Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl serde::de::Visitor<'_> for SpanVisitor {
            type Value = Span;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration: seconds, or text such as \"10m\" or \"1d 12h\"")
            }

            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Span, E> {
                Span::parse(&seconds.to_string()).map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(SpanVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_parsed_in_fail2bans_notation() {
        for (text, seconds) in [
            ("600", 600),
            ("10m", 600),
            ("1h", 3600),
            ("1d 12h", 129_600),
            ("1d12h", 129_600),
            ("1w", 604_800),
            ("1.5h", 5400),
            ("1mo", 2_629_800),
            ("2 days", 172_800),
            ("90 secs", 90),
            ("5mins", 300),
            ("60*60", 3600),
        ] {
            assert_eq!(Span::parse(text), Ok(Span::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn an_invalid_span_is_an_error_that_says_what_was_expected() {
        for text in ["", " ", "h", "10x", "-1", "1..2h", "1e99", "99999999999y"] {
            let error = Span::parse(text).unwrap_err();
            assert!(error.contains("expected a duration"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_span_is_formatted_in_its_largest_whole_unit() {
        for (seconds, text) in [(0, "0s"), (90, "90s"), (600, "10m"), (3600, "1h"), (86_400, "1d"), (1_209_600, "2w")] {
            assert_eq!(Span::from_secs(seconds).to_string(), text);
        }
        assert_eq!(Span::from_millis(1500).to_string(), "1500ms");
    }

    #[test]
    fn time_does_not_wrap_at_either_end() {
        assert_eq!(Time::from_secs(5).before(Span::from_secs(9)), Time::from_secs(0));
        assert_eq!(Time::from_secs(5).since(Time::from_secs(9)), Span::ZERO);
        assert_eq!(Time::from_millis(u64::MAX).after(Span::from_secs(1)), Time::from_millis(u64::MAX));
    }
}
