//! The three forms of time that Exim, Squid and web servers write, read without allocation. Other forms belong to the date detector of filters.

use crate::time::Time;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The zone that a log's local times are in. It remembers the offset of the quarter of an hour it was last asked about.
///
/// A quarter, because no zone has ever changed its offset at another moment since daylight saving exists.
#[derive(Debug, Clone)]
pub struct Zone {
    rules: TimeZone,
    /// Which quarter of an hour, counted in local time since the epoch, and the seconds east of UTC then.
    remembered: Option<(i64, i64)>,
}

impl Zone {
    /// The zone that is always `seconds` east of UTC, or `None` beyond a day and two hours.
    #[must_use]
    pub fn fixed(seconds: i32) -> Option<Self> {
        let offset = jiff::tz::Offset::from_seconds(seconds).ok()?;
        Some(Self { rules: TimeZone::fixed(offset), remembered: None })
    }

    /// Coordinated universal time.
    #[must_use]
    pub fn utc() -> Self {
        Self { rules: TimeZone::UTC, remembered: None }
    }

    /// The machine's own zone (`TZ`, else `/etc/localtime`); UTC if it has none. This one reads files: it is for the edge.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self { rules: TimeZone::system(), remembered: None }
    }

    /// The zone called `name` (`Europe/Berlin`) in the machine's time zone database. It reads files.
    ///
    /// # Errors
    /// A sentence if the database has no such zone.
    pub fn named(name: &str) -> Result<Self, String> {
        match TimeZone::get(name) {
            Ok(rules) => Ok(Self { rules, remembered: None }),
            Err(error) => Err(format!("found time zone {name:?}, expected one of the time zone database: {error}")),
        }
    }

    /// The zone's rules, for the date detector of filters.
    #[must_use]
    pub fn rules(&self) -> &TimeZone {
        &self.rules
    }

    /// The moment at which clocks of this zone show a local time, given as if it were UTC.
    ///
    /// A time that comes twice (the clock is put back) is taken as the first one; a time that never is (put forward), as the later one:
    /// RFC 5545's rule.
    fn moment(&mut self, local_seconds: i64, millis: u64) -> Option<Time> {
        let quarter = local_seconds.div_euclid(900);
        let offset = match self.remembered {
            Some((known, offset)) if known == quarter => offset,
            _ => {
                let local = jiff::Timestamp::from_second(local_seconds).ok()?;
                let civil: DateTime = jiff::tz::Offset::UTC.to_datetime(local);
                let moment = self.rules.to_timestamp(civil).ok()?;
                let offset = local_seconds - moment.as_second();
                self.remembered = Some((quarter, offset));
                offset
            }
        };
        from_unix(local_seconds - offset, millis)
    }
}

fn from_unix(seconds: i64, millis: u64) -> Option<Time> {
    Some(Time::from_millis(u64::try_from(seconds).ok()?.checked_mul(1000)?.checked_add(millis)?))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, which is `None` for a day that no calendar has.
///
/// Howard Hinnant's `days_from_civil` (<https://howardhinnant.github.io/date_algorithms.html>).
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let length = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// The number that exactly these digits write: 18 at most.
fn number(digits: &[u8]) -> Option<i64> {
    let (mut sum, mut all_digits) = (0_i64, true);
    // Without a way out in the middle, which would cost more than it saves.
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        all_digits &= digit <= 9;
        sum = sum * 10 + i64::from(digit);
    }
    all_digits.then_some(sum)
}

/// Seconds of `HH:MM:SS` since midnight; a leap second is the second before it.
fn clock(hour: &[u8], minute: &[u8], second: &[u8]) -> Option<i64> {
    let (hour, minute, second) = (number(hour)?, number(minute)?, number(second)?);
    (hour < 24 && minute < 60 && second <= 60).then(|| hour * 3600 + minute * 60 + second.min(59))
}

/// Seconds east of UTC of `+0130`.
fn offset(sign: u8, hours: &[u8], minutes: &[u8]) -> Option<i64> {
    let seconds = number(hours)? * 3600 + number(minutes)? * 60;
    match sign {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

/// What starts every line of Exim's: `2026-11-23 01:02:03`, then `.123` with `+millisec`, then ` +0100` with `log_timezone`.
///
/// Gives the time and the rest of the line behind one space. Without a zone in the line, its time is one of `zone`.
#[must_use]
pub fn exim<'a>(line: &'a [u8], zone: &mut Zone) -> Option<(Time, &'a [u8])> {
    let (date, rest) = line.split_first_chunk::<19>()?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b' ', h1, h2, b':', i1, i2, b':', s1, s2] = *date else { return None };
    let days = days(number(&[y1, y2, y3, y4])?, number(&[m1, m2])?, number(&[d1, d2])?)?;
    let local = days * 86_400 + clock(&[h1, h2], &[i1, i2], &[s1, s2])?;
    let (millis, rest) = match rest {
        [b'.', a, b, c, rest @ ..] => (u64::try_from(number(&[*a, *b, *c])?).ok()?, rest),
        _ => (0, rest),
    };
    if let [b' ', sign @ (b'+' | b'-'), h1, h2, m1, m2, b' ', rest @ ..] = rest
        && let Some(east) = offset(*sign, &[*h1, *h2], &[*m1, *m2])
    {
        return Some((from_unix(local - east, millis)?, rest));
    }
    let rest = rest.strip_prefix(b" ")?;
    Some((zone.moment(local, millis)?, rest))
}

/// What starts a line in Squid's own format: seconds since the epoch with three decimals (`1386543323.000`).
///
/// Gives the time and the rest of the line behind it, white space included.
#[must_use]
pub fn epoch(line: &[u8]) -> Option<(Time, &[u8])> {
    // Ten digits until the year 2286.
    if let Some(([seconds @ .., b'.', a, b, c, b' '], _)) = line.split_first_chunk::<15>() {
        let millis = u64::try_from(number(&[*a, *b, *c])?).ok()?;
        return Some((from_unix(number(seconds)?, millis)?, line.get(14..).unwrap_or_default()));
    }
    let dot = line.iter().take(12).position(|byte| *byte == b'.')?;
    let (seconds, rest) = line.split_at_checked(dot)?;
    if seconds.is_empty() {
        return None;
    }
    let [b'.', a, b, c, rest @ ..] = rest else { return None };
    let millis = u64::try_from(number(&[*a, *b, *c])?).ok()?;
    if !matches!(rest.first(), None | Some(b' ' | b'\t')) {
        return None;
    }
    Some((from_unix(number(seconds)?, millis)?, rest))
}

/// The bytes of a time as the common log format writes it, brackets included.
pub const COMMON_LENGTH: usize = 28;

/// A time as the common log format writes it: `[23/Nov/2026:01:02:03 +0000]`.
#[must_use]
pub fn common(text: &[u8; COMMON_LENGTH]) -> Option<Time> {
    let [b'[', d1, d2, b'/', month @ .., b'/', y1, y2, y3, y4, b':', h1, h2, b':', i1, i2, b':', s1, s2, b' ', sign, z1, z2, z3, z4, b']'] =
        text
    else {
        return None;
    };
    let month = match month {
        b"Jan" => 1,
        b"Feb" => 2,
        b"Mar" => 3,
        b"Apr" => 4,
        b"May" => 5,
        b"Jun" => 6,
        b"Jul" => 7,
        b"Aug" => 8,
        b"Sep" => 9,
        b"Oct" => 10,
        b"Nov" => 11,
        b"Dec" => 12,
        _ => return None,
    };
    let days = days(number(&[*y1, *y2, *y3, *y4])?, month, number(&[*d1, *d2])?)?;
    let local = days * 86_400 + clock(&[*h1, *h2], &[*i1, *i2], &[*s1, *s2])?;
    from_unix(local - offset(*sign, &[*z1, *z2], &[*z3, *z4])?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn berlin() -> Zone {
        Zone::named("Europe/Berlin").unwrap()
    }

    #[test]
    fn exim_times_are_read_with_and_without_milliseconds_and_zone() {
        for (line, millis) in [
            ("2026-11-23 01:02:03 rest", 1_795_395_723_000),
            ("2026-11-23 01:02:03.456 rest", 1_795_395_723_456),
            ("2026-11-23 01:02:03 +0000 rest", 1_795_395_723_000),
            ("2026-11-23 02:02:03.456 +0100 rest", 1_795_395_723_456),
            ("2026-11-22 19:32:03 -0530 rest", 1_795_395_723_000),
        ] {
            assert_eq!(exim(line.as_bytes(), &mut Zone::utc()), Some((Time::from_millis(millis), &b"rest"[..])), "{line}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_local_and_follows_daylight_saving() {
        let mut zone = berlin();
        let mut secs = |text: &str| exim(text.as_bytes(), &mut zone).unwrap().0.secs();
        assert_eq!(secs("2026-01-15 12:00:00 x"), secs("2026-01-15 11:00:00 +0000 x"));
        assert_eq!(secs("2026-07-15 12:00:00 x"), secs("2026-07-15 10:00:00 +0000 x"));
        assert_eq!(secs("2026-10-25 01:59:59 x"), secs("2026-10-24 23:59:59 +0000 x"));
        assert_eq!(secs("2026-10-25 02:30:00 x"), secs("2026-10-25 00:30:00 +0000 x"), "the first of the two");
        assert_eq!(secs("2026-10-25 03:00:00 x"), secs("2026-10-25 02:00:00 +0000 x"));
        assert_eq!(secs("2026-03-29 02:30:00 x"), secs("2026-03-29 01:30:00 +0000 x"), "never on a clock there");
    }

    #[test]
    fn what_is_no_exim_time_is_none() {
        for line in [
            "",
            "2026-11-23",
            "2026-11-23 01:02:03",
            "2026-13-23 01:02:03 x",
            "2026-02-29 01:02:03 x",
            "2026-11-23 24:02:03 x",
            "2026-11-23T01:02:03 x",
            "2026-11-23 01:02:03.12 x",
            "1969-12-31 23:59:59 x",
            "+026-11-23 01:02:03 x",
        ] {
            assert_eq!(exim(line.as_bytes(), &mut Zone::utc()), None, "{line:?}");
        }
    }

    #[test]
    fn squids_times_are_seconds_with_milliseconds() {
        assert_eq!(epoch(b"1386543323.007      4 x"), Some((Time::from_millis(1_386_543_323_007), &b"      4 x"[..])));
        for line in ["1386543323 4", "1386543323.0 4", ".000 4", "13865x3323.000 4", "1386543323.0000 4", "99999999999999999999.000 x", ""]
        {
            assert_eq!(epoch(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn common_log_times_are_read_in_their_own_zone() {
        assert_eq!(common(b"[23/Nov/2026:01:02:03 +0000]"), Some(Time::from_secs(1_795_395_723)));
        assert_eq!(common(b"[22/Nov/2026:20:02:03 -0500]"), Some(Time::from_secs(1_795_395_723)));
        assert_eq!(common(b"[31/Dec/2016:23:59:60 +0000]"), Some(Time::from_secs(1_483_228_799)), "a leap second");
        for text in [
            b"[23/nov/2026:01:02:03 +0000]",
            b"[31/Nov/2026:01:02:03 +0000]",
            b"[23/Nov/2026:01:02:03 z0000]",
            b"(23/Nov/2026:01:02:03 +0000]",
        ] {
            assert_eq!(common(text), None);
        }
    }

    proptest! {
        #[test]
        fn squids_times_are_read_at_any_length(seconds in 0_u64..99_999_999_999, millis in 0_u64..1000, rest in "[ -~]{0,10}") {
            let line = format!("{seconds}.{millis:03} {rest}");
            let expected = (Time::from_millis(seconds * 1000 + millis), &line.as_bytes()[line.len() - rest.len() - 1..]);
            prop_assert_eq!(epoch(line.as_bytes()), Some(expected));
        }

        #[test]
        fn days_agree_with_jiff(day in -719_468_i32..2_932_896) {
            let date = jiff::civil::date(1970, 1, 1) + jiff::Span::new().days(day);
            prop_assert_eq!(days(date.year().into(), date.month().into(), date.day().into()), Some(i64::from(day)));
        }

        #[test]
        fn a_zone_that_remembers_agrees_with_one_that_does_not(seconds in proptest::collection::vec(1_700_000_000_i64..1_900_000_000, 1..50)) {
            let mut remembering = berlin();
            for second in seconds {
                prop_assert_eq!(remembering.moment(second, 0), berlin().moment(second, 0));
            }
        }

        #[test]
        fn no_bytes_make_a_reader_of_times_fail(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = exim(&bytes, &mut Zone::utc());
            let _ = epoch(&bytes);
            let _ = epoch(&[b"1386543323.000 ", &bytes[..]].concat());
            if let Some(text) = bytes.first_chunk() {
                let _ = common(text);
            }
        }
    }
}
