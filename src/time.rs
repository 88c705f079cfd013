//! Table time and spans: plain numbers that are handed in. Nothing here asks a clock.

use std::fmt;

/// A moment of table time: milliseconds since the Unix epoch, as the boot clock counts on from an offset taken at start.
///
/// So it never jumps when somebody sets the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The moment `milliseconds` after the Unix epoch.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// The moment `seconds` after the Unix epoch.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// The moment `span` later.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The moment `span` earlier, not before the epoch.
    #[must_use]
    pub const fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }

    /// The moment so many milliseconds later, or earlier if the number is negative.
    #[must_use]
    pub const fn shifted(self, milliseconds: i64) -> Self {
        Self(self.0.saturating_add_signed(milliseconds))
    }

    /// How much later than `earlier` this is; nothing if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(u64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of `milliseconds`.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// A span of `seconds`.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// The length in milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The length in whole seconds, rounded down.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// The length in whole seconds, rounded up: "remaining" is never said to be nothing while something remains.
    #[must_use]
    pub const fn secs_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// Reads a span as fail2ban writes it: seconds (`600`), or numbers with units, added up (`10m`, `1d 12h`, `1.5h`).
    ///
    /// Units: s sec second, m min minute, h hour, d day (also da), w week, mo month (30.4375 d), y year (365.25 d), plural or not:
    /// fail2ban's `MyTime.str2seconds`.
    ///
    /// # Errors
    /// A sentence that says what was found and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("found {text:?}, expected a length of time such as \"600\", \"10m\" or \"1d 12h\"");
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(expected());
        }
        let mut seconds = 0.0_f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let number: f64 = number.parse().map_err(|_| expected())?;
            let after = after.trim_start();
            let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, next) = after.split_at(letters);
            let factor = match unit {
                "" | "s" | "ss" | "sec" | "secs" | "second" | "seconds" => 1.0,
                "m" | "mm" | "mi" | "min" | "mins" | "minute" | "minutes" => 60.0,
                "h" | "hh" | "ho" | "hour" | "hours" => 3600.0,
                "d" | "dd" | "da" | "day" | "days" => 86_400.0,
                "w" | "ww" | "we" | "week" | "weeks" => 7.0 * 86_400.0,
                "mo" | "mon" | "month" | "months" => 30.4375 * 86_400.0,
                "y" | "yy" | "ye" | "year" | "years" => 365.25 * 86_400.0,
                _ => return Err(expected()),
            };
            seconds += number * factor;
            rest = next.trim_start();
        }
        // A hundred years: far beyond any use, far below any overflow.
        if !(0.0..=3_155_760_000.0).contains(&seconds) {
            return Err(expected());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked on the line above")]
        Ok(Self((seconds * 1000.0).round() as u64))
    }
}

impl fmt::Display for Span {
    /// The largest whole unit that says it exactly: `1h`, `90s`, `1500ms`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_fail2ban_reads_them() {
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
        ] {
            assert_eq!(Span::parse(text), Ok(Span::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn a_span_that_cannot_be_read_says_what_was_expected() {
        for text in ["", " ", "h", "10x", "-1", "1..2h", "1e99", "99999999999y"] {
            let error = Span::parse(text).unwrap_err();
            assert!(error.contains("expected a length of time"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_span_is_shown_in_its_largest_whole_unit() {
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
