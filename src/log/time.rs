//! Parses the timestamps of Exim, Squid and web servers without allocating. The date detector of fail2ban filters knows all other forms.

use crate::time::Time;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// The time zone of a log's local times. Caches the UTC offset of the quarter of an hour that was last looked up.
///
/// A quarter, because no zone has ever changed its offset within one since daylight saving time exists.
#[derive(Debug, Clone)]
pub struct Zone {
    rules: TimeZone,
    /// A quarter of an hour, counted in local time since the epoch, and its seconds east of UTC.
    cached: Option<(i64, i64)>,
    /// A moment that no line is much later than, which gives times without a year their year.
    latest: Option<Time>,
    /// Whether a time was converted since [`Zone::take_is_used`].
    is_used: bool,
    /// The date that was last read, `2026-11-23`, and its days since 1970: nearly every line is of the same day as the one before.
    date: ([u8; 10], i64),
}

impl Zone {
    fn of(rules: TimeZone) -> Self {
        Self { rules, cached: None, latest: None, is_used: false, date: (*b"1970-01-01", 0) }
    }

    /// The zone that is always `seconds` east of UTC; none for more than 26 hours.
    #[must_use]
    pub fn fixed(seconds: i32) -> Option<Self> {
        let offset = jiff::tz::Offset::from_seconds(seconds).ok()?;
        Some(Self::of(TimeZone::fixed(offset)))
    }

    /// UTC.
    #[must_use]
    pub fn utc() -> Self {
        Self::of(TimeZone::UTC)
    }

    /// The machine's own zone (`TZ`, else `/etc/localtime`), or UTC if it has none. Reads files.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::of(TimeZone::system())
    }

    /// The zone called `name` (`Europe/Berlin`) in the machine's time zone database. Reads files.
    ///
    /// # Errors
    /// A message if the database has no such zone.
    pub fn named(name: &str) -> Result<Self, String> {
        match TimeZone::get(name) {
            Ok(rules) => Ok(Self::of(rules)),
            Err(error) => Err(format!("found time zone {name:?}, expected one in the time zone database: {error}")),
        }
    }

    /// The zone called `text`: a name in the machine's time zone database (`Europe/Berlin`), or an offset (`+05:30`, `-0800`). Reads files.
    ///
    /// # Errors
    /// A message if it is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fault =
            || format!("found time zone {text:?}, expected a name such as \"Europe/Berlin\" or \"UTC\", or an offset such as \"+05:30\"");
        let east = match text.as_bytes() {
            [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] | [sign @ (b'+' | b'-'), h1, h2, m1, m2] => {
                offset(*sign, &[*h1, *h2], &[*m1, *m2])
            }
            _ => return Self::named(text).map_err(|_| fault()),
        };
        east.and_then(|east| Self::fixed(i32::try_from(east).ok()?)).ok_or_else(fault)
    }

    /// The zone's offset at a moment, in seconds east of UTC.
    #[must_use]
    pub fn seconds_east(&self, time: Time) -> i64 {
        timestamp(time).map_or(0, |moment| self.rules.to_offset(moment).seconds().into())
    }

    /// Whether the local time at this moment occurs twice, because clocks are put back.
    #[must_use]
    pub fn is_repeated(&self, time: Time) -> bool {
        let local = timestamp(time).map(|moment| self.rules.to_offset(moment).to_datetime(moment));
        local.is_some_and(|local| matches!(self.rules.to_ambiguous_timestamp(local).offset(), AmbiguousOffset::Fold { .. }))
    }

    /// The zone's rules, for the date detector of fail2ban filters.
    #[must_use]
    pub fn rules(&self) -> &TimeZone {
        &self.rules
    }

    /// Tells what time it is, so that times without a year can be read: their year is the last one that does not put them into the future.
    pub fn set_latest(&mut self, now: Time) {
        self.latest = Some(now);
    }

    /// Converts the time of a day in a year that `days_of_year` turns into days since 1970, given the time of day in seconds.
    pub(super) fn time_without_year(&mut self, seconds_of_day: i64, days_of_year: impl Fn(i64) -> Option<i64>) -> Option<Time> {
        const DAY: i64 = 86_400;
        let latest = i64::try_from(self.latest?.secs()).ok()?;
        let this_year = jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::from_second(latest).ok()?).year();
        // Up to eight years apart, 29 February exists.
        let latest_local = (i64::from(this_year) - 8..=i64::from(this_year) + 1)
            .rev()
            .filter_map(|year| Some(days_of_year(year)? * DAY + seconds_of_day))
            .find(|local| *local <= latest + DAY)?;
        self.utc_time(latest_local, 0)
    }

    /// Days from 1970-01-01 to a date such as `2026-11-23`.
    fn days_of(&mut self, date: &[u8; 10]) -> Option<i64> {
        if self.date.0 != *date {
            let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *date else { return None };
            self.date = (*date, days(number(&[y1, y2, y3, y4])?, number(&[m1, m2])?, number(&[d1, d2])?)?);
        }
        Some(self.date.1)
    }

    /// Whether a time without an offset was converted since this was last asked.
    pub fn take_is_used(&mut self) -> bool {
        std::mem::take(&mut self.is_used)
    }

    /// Converts a local time, given as if it were UTC.
    ///
    /// A local time that occurs twice is the first one, and one that is skipped is read with the offset before the gap: RFC 5545, 3.3.5.
    pub(super) fn utc_time(&mut self, local_seconds: i64, millis: u64) -> Option<Time> {
        self.is_used = true;
        let quarter = local_seconds.div_euclid(900);
        let offset = match self.cached {
            Some((cached, offset)) if cached == quarter => offset,
            _ => {
                let local = jiff::Timestamp::from_second(local_seconds).ok()?;
                let civil: DateTime = jiff::tz::Offset::UTC.to_datetime(local);
                let moment = self.rules.to_timestamp(civil).ok()?;
                let offset = local_seconds - moment.as_second();
                self.cached = Some((quarter, offset));
                offset
            }
        };
        from_unix(local_seconds - offset, millis)
    }
}

fn timestamp(time: Time) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(i64::try_from(time.secs()).ok()?).ok()
}

pub(super) fn from_unix(seconds: i64, millis: u64) -> Option<Time> {
    Some(Time::from_millis(u64::try_from(seconds).ok()?.checked_mul(1000)?.checked_add(millis)?))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar; none if the calendar has no such day.
///
/// Howard Hinnant's `days_from_civil` (<https://howardhinnant.github.io/date_algorithms.html>).
pub(super) fn days(year: i64, month: i64, day: i64) -> Option<i64> {
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

/// Parses up to 18 decimal digits.
pub(super) fn number(digits: &[u8]) -> Option<i64> {
    let (mut sum, mut all_digits) = (0_i64, true);
    // No early exit: the branch would cost more than it saves.
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        all_digits &= digit <= 9;
        sum = sum * 10 + i64::from(digit);
    }
    all_digits.then_some(sum)
}

/// Seconds since midnight of `HH:MM:SS`; a leap second counts as the second before it.
pub(super) fn clock(hour: &[u8], minute: &[u8], second: &[u8]) -> Option<i64> {
    let (hour, minute, second) = (number(hour)?, number(minute)?, number(second)?);
    (hour < 24 && minute < 60 && second <= 60).then(|| hour * 3600 + minute * 60 + second.min(59))
}

/// Seconds east of UTC of an offset such as `+0130`.
pub(super) fn offset(sign: u8, hours: &[u8], minutes: &[u8]) -> Option<i64> {
    let seconds = number(hours)? * 3600 + number(minutes)? * 60;
    match sign {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

/// The start of every line of Exim's: `2026-11-23 01:02:03`, then `.123` with `+millisec`, then ` +0100` with `log_timezone`.
///
/// Returns the time and the rest of the line after a space. A time without an offset is local time in `zone`.
#[must_use]
pub fn exim<'a>(line: &'a [u8], zone: &mut Zone) -> Option<(Time, &'a [u8])> {
    let (date, rest) = line.split_first_chunk::<19>()?;
    let (day, &[b' ', h1, h2, b':', i1, i2, b':', s1, s2]) = date.split_first_chunk()? else { return None };
    let local = zone.days_of(day)? * 86_400 + clock(&[h1, h2], &[i1, i2], &[s1, s2])?;
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
    Some((zone.utc_time(local, millis)?, rest))
}

/// The start of a line in Squid's native format: seconds since the epoch with three decimals (`1386543323.000`).
///
/// Returns the time and the rest of the line, including the space before it.
#[must_use]
pub fn epoch(line: &[u8]) -> Option<(Time, &[u8])> {
    // The fast path for ten digits, which suffice until 2286.
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

/// Length in bytes of a time in the common log format, brackets included.
pub const COMMON_LENGTH: usize = 28;

/// The number of a month, `Jan` to `Dec`.
pub(super) fn month_number(name: &[u8; 3]) -> Option<i64> {
    Some(match name {
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
    })
}

/// A time in the common log format: `[23/Nov/2026:01:02:03 +0000]`.
#[must_use]
pub fn common(text: &[u8; COMMON_LENGTH]) -> Option<Time> {
    let [b'[', d1, d2, b'/', month @ .., b'/', y1, y2, y3, y4, b':', h1, h2, b':', i1, i2, b':', s1, s2, b' ', sign, z1, z2, z3, z4, b']'] =
        text
    else {
        return None;
    };
    let days = days(number(&[*y1, *y2, *y3, *y4])?, month_number(month)?, number(&[*d1, *d2])?)?;
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
    fn exim_times_are_parsed_with_and_without_milliseconds_and_offset() {
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
    fn a_time_without_an_offset_is_local_and_follows_daylight_saving() {
        let mut zone = berlin();
        let mut secs = |text: &str| exim(text.as_bytes(), &mut zone).unwrap().0.secs();
        assert_eq!(secs("2026-01-15 12:00:00 x"), secs("2026-01-15 11:00:00 +0000 x"));
        assert_eq!(secs("2026-07-15 12:00:00 x"), secs("2026-07-15 10:00:00 +0000 x"));
        assert_eq!(secs("2026-10-25 01:59:59 x"), secs("2026-10-24 23:59:59 +0000 x"));
        assert_eq!(secs("2026-10-25 02:30:00 x"), secs("2026-10-25 00:30:00 +0000 x"), "the first of the two");
        assert_eq!(secs("2026-10-25 03:00:00 x"), secs("2026-10-25 02:00:00 +0000 x"));
        assert_eq!(secs("2026-03-29 02:30:00 x"), secs("2026-03-29 01:30:00 +0000 x"), "skipped when daylight saving begins");
    }

    #[test]
    fn a_zone_is_a_name_or_an_offset() {
        let east = |text: &str| Zone::parse(text).map(|zone| zone.seconds_east(Time::from_secs(1_795_395_723)));
        for (text, seconds) in
            [("UTC", 0), ("Europe/Berlin", 3600), ("Asia/Kolkata", 19_800), ("+05:30", 19_800), ("-0800", -28_800), ("+00:00", 0)]
        {
            assert_eq!(east(text), Ok(seconds), "{text}");
        }
        for text in ["", "Berlin/Europe", "+5", "+99:00", "+ab:cd", "05:30", "-"] {
            let error = east(text).unwrap_err();
            assert!(error.starts_with(&format!("found time zone {text:?}, expected a name")), "{error}");
        }
    }

    #[test]
    fn a_time_without_a_year_is_the_last_one_up_to_a_day_ahead() {
        let mut zone = Zone::utc();
        assert_eq!(zone.time_without_year(0, |year| days(year, 1, 1)), None, "nobody said what year it is");
        let mut read = |now: &str, month: i64, day: i64| {
            zone.set_latest(exim(format!("{now} x").as_bytes(), &mut Zone::utc()).unwrap().0);
            zone.time_without_year(900, |year| days(year, month, day)).map(|time| time.secs())
        };
        let at = |year, month, day| u64::try_from(days(year, month, day).unwrap() * 86_400 + 900).ok();
        for (now, month, day, year) in [
            ("2026-11-23 01:02:03", 11, 23, 2026),
            ("2026-11-23 01:02:03", 11, 25, 2025),
            ("2026-12-31 23:30:00", 1, 1, 2027),
            ("2027-01-01 00:00:10", 12, 31, 2026),
            ("2027-01-01 00:00:10", 2, 29, 2024),
            ("2104-01-15 00:00:00", 2, 29, 2096),
            ("2026-11-23 00:15:00", 11, 24, 2026),
            ("2026-11-23 00:14:59", 11, 24, 2025),
        ] {
            assert_eq!(read(now, month, day), at(year, month, day), "{day}.{month}. at {now}");
        }
    }

    #[test]
    fn a_day_has_24_hours_of_60_minutes_and_a_minute_61_seconds_at_most() {
        let secs = |hour: &str, minute: &str, second: &str| clock(hour.as_bytes(), minute.as_bytes(), second.as_bytes());
        assert_eq!([secs("00", "00", "00"), secs("23", "59", "59"), secs("23", "59", "60")], [Some(0), Some(86_399), Some(86_399)]);
        assert_eq!([secs("24", "00", "00"), secs("00", "60", "00"), secs("00", "00", "61"), secs("0x", "00", "00")], [None; 4]);
    }

    #[test]
    fn the_months_are_numbered_in_order() {
        let names = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
        assert_eq!(names.map(month_number), std::array::from_fn(|index| i64::try_from(index + 1).ok()));
        assert_eq!(month_number(b"jan"), None);
    }

    #[test]
    fn only_leap_years_have_a_29_february() {
        let is_leap = |year: i64| days(year, 2, 29).is_some();
        assert_eq!([2023, 2024, 2100, 2000, 1900].map(is_leap), [false, true, false, true, false]);
        assert_eq!(
            [days(2023, 2, 30), days(2023, 4, 31), days(2023, 12, 32), days(2023, 13, 1), days(2023, 0, 1), days(2023, 1, 0)],
            [None; 6]
        );
    }

    #[test]
    fn the_hour_that_occurs_twice_is_known() {
        let secs = |text: &str| exim(format!("{text} +0000 x").as_bytes(), &mut Zone::utc()).unwrap().0;
        for (utc, is_repeated) in [
            ("2026-10-24 23:59:59", false),
            ("2026-10-25 00:00:00", true),
            ("2026-10-25 01:59:59", true),
            ("2026-10-25 02:00:00", false),
            ("2026-03-29 01:30:00", false),
        ] {
            assert_eq!(berlin().is_repeated(secs(utc)), is_repeated, "{utc}");
        }
    }

    #[test]
    fn anything_else_is_no_exim_time() {
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
    fn squids_times_are_seconds_with_three_decimals() {
        assert_eq!(epoch(b"1386543323.007      4 x"), Some((Time::from_millis(1_386_543_323_007), &b"      4 x"[..])));
        for line in ["1386543323 4", "1386543323.0 4", ".000 4", "13865x3323.000 4", "1386543323.0000 4", "99999999999999999999.000 x", ""]
        {
            assert_eq!(epoch(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn common_log_times_have_their_own_offset() {
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
        fn squids_times_are_parsed_at_any_length(seconds in 0_u64..99_999_999_999, millis in 0_u64..1000, rest in "[ -~]{0,10}") {
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
        fn a_cached_offset_agrees_with_a_fresh_lookup(seconds in proptest::collection::vec(1_700_000_000_i64..1_900_000_000, 1..50)) {
            let mut caching = berlin();
            for second in seconds {
                prop_assert_eq!(caching.utc_time(second, 0), berlin().utc_time(second, 0));
            }
        }

        #[test]
        fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = exim(&bytes, &mut Zone::utc());
            let _ = epoch(&bytes);
            let _ = epoch(&[b"1386543323.000 ", &bytes[..]].concat());
            if let Some(text) = bytes.first_chunk() {
                let _ = common(text);
            }
        }
    }
}
