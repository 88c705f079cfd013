//! Parses times that people can read, as servers write them at the start of a line when they are told to: Squid's `%tl` and its relatives,
//! ISO 8601, and the dates of syslog and C.

use super::time::{Zone, clock, days, from_unix, month_number, number, offset};
use crate::time::Time;

/// A time at the start of a line, alone or in brackets, and the rest of the line from the space behind it.
///
/// - `25-Jul-2016 11:32:47`, `25/Jul/2016:11:32:47 +0200`;
/// - `2016-07-25T11:32:47.123456+02:00`, `2016/07/25 11:32:47`;
/// - `Jul 25 11:32:47`, `Mon Jul 25 11:32:47 2016`.
///
/// A time without an offset is local time in `zone`.
#[must_use]
pub(super) fn parse<'a>(line: &'a [u8], zone: &mut Zone) -> Option<(Time, &'a [u8])> {
    let inside = line.strip_prefix(b"[").unwrap_or(line);
    let (time, rest) = match inside.first()? {
        b'0'..=b'9' => day_first(inside, zone).or_else(|| year_first(inside, zone))?,
        b'A'..=b'Z' => month_first(inside, zone)?,
        _ => return None,
    };
    let rest = if inside.len() < line.len() { rest.strip_prefix(b"]")? } else { rest };
    matches!(rest.first(), None | Some(b' ' | b'\t')).then_some((time, rest))
}

/// `25-Jul-2016 11:32:47`, then a fraction and an offset.
fn day_first<'a>(text: &'a [u8], zone: &mut Zone) -> Option<(Time, &'a [u8])> {
    let (date, rest) = text.split_first_chunk::<20>()?;
    let [d1, d2, b'-' | b'/', a, b, c, b'-' | b'/', y1, y2, y3, y4, b' ' | b':', h1, h2, b':', i1, i2, b':', s1, s2] = date else {
        return None;
    };
    let days = days(number(&[*y1, *y2, *y3, *y4])?, month_number(&[*a, *b, *c])?, number(&[*d1, *d2])?)?;
    let local = days * 86_400 + clock(&[*h1, *h2], &[*i1, *i2], &[*s1, *s2])?;
    fraction_and_offset(local, rest, zone)
}

/// `2016-07-25 11:32:47` or with a `T`, then a fraction and an offset.
fn year_first<'a>(text: &'a [u8], zone: &mut Zone) -> Option<(Time, &'a [u8])> {
    let (date, rest) = text.split_first_chunk::<19>()?;
    let [y1, y2, y3, y4, b'-' | b'/', m1, m2, b'-' | b'/', d1, d2, b' ' | b'T', h1, h2, b':', i1, i2, b':', s1, s2] = date else {
        return None;
    };
    let days = days(number(&[*y1, *y2, *y3, *y4])?, number(&[*m1, *m2])?, number(&[*d1, *d2])?)?;
    let local = days * 86_400 + clock(&[*h1, *h2], &[*i1, *i2], &[*s1, *s2])?;
    fraction_and_offset(local, rest, zone)
}

/// `Jul 25 11:32:47` with or without the day of the week before it and the year behind it.
fn month_first<'a>(text: &'a [u8], zone: &mut Zone) -> Option<(Time, &'a [u8])> {
    let text = match text {
        [b'M' | b'T' | b'W' | b'F' | b'S', a, b, b' ', rest @ ..] if is_weekday(*a, *b) => rest,
        _ => text,
    };
    let ([a, b, c, b' ', d1, d2, b' ', h1, h2, b':', i1, i2, b':', s1, s2], rest) = text.split_first_chunk::<15>()? else { return None };
    let month = month_number(&[*a, *b, *c])?;
    let day = if *d1 == b' ' { number(&[*d2])? } else { number(&[*d1, *d2])? };
    let seconds = clock(&[*h1, *h2], &[*i1, *i2], &[*s1, *s2])?;
    if let [b' ', y1 @ b'1'..=b'2', y2, y3, y4, rest @ ..] = rest
        && matches!(rest.first(), None | Some(b' ' | b']'))
        && let Some(year) = number(&[*y1, *y2, *y3, *y4])
    {
        return Some((zone.utc_time(days(year, month, day)? * 86_400 + seconds, 0)?, rest));
    }
    Some((zone.time_without_year(seconds, |year| days(year, month, day))?, rest))
}

fn is_weekday(second: u8, third: u8) -> bool {
    [b"on", b"ue", b"ed", b"hu", b"ri", b"at", b"un"].contains(&&[second, third])
}

/// `.123456`, then `Z`, `+0200`, ` +0200` or `+02:00`: each may be missing.
fn fraction_and_offset<'a>(local: i64, text: &'a [u8], zone: &mut Zone) -> Option<(Time, &'a [u8])> {
    let (millis, rest) = match text {
        [b'.' | b',', fraction @ ..] => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let millis = (0..3)
                .fold(0, |millis, at| millis * 10 + fraction.get(at).filter(|_| at < digits).map_or(0, |digit| u64::from(digit - b'0')));
            (millis, fraction.get(digits..).filter(|_| digits > 0)?)
        }
        _ => (0, text),
    };
    let (east, rest) = match rest {
        [b'Z', rest @ ..] => (Some(0), rest),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2, rest @ ..]
        | [sign @ (b'+' | b'-'), h1, h2, m1, m2, rest @ ..]
        | [b' ', sign @ (b'+' | b'-'), h1, h2, m1, m2, rest @ ..] => (Some(offset(*sign, &[*h1, *h2], &[*m1, *m2])?), rest),
        _ => (None, rest),
    };
    let time = match east {
        Some(east) => from_unix(local - east, millis)?,
        None => zone.utc_time(local, millis)?,
    };
    Some((time, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::time::exim;
    use proptest::prelude::*;

    fn zone() -> Zone {
        let mut zone = Zone::named("Europe/Berlin").unwrap();
        zone.set_latest(Time::from_secs(1_795_395_723 + 3600));
        zone
    }

    /// Seconds and milliseconds of the time, and the rest.
    fn parsed(line: &str) -> Option<(u64, String)> {
        let (time, rest) = parse(line.as_bytes(), &mut zone())?;
        Some((time.millis(), String::from_utf8(rest.to_vec()).unwrap()))
    }

    #[test]
    fn all_forms_of_one_moment_are_read() {
        for (text, millis) in [
            ("23-Nov-2026 02:02:03", 0),
            ("23/Nov/2026:02:02:03", 0),
            ("23/Nov/2026:02:02:03 +0100", 0),
            ("23/Nov/2026:01:02:03.250 +0000", 250),
            ("[23/Nov/2026:01:02:03 +0000]", 0),
            ("[23-Nov-2026 02:02:03]", 0),
            ("2026-11-23 02:02:03,007", 7),
            ("2026/11/23 02:02:03", 0),
            ("2026-11-23T02:02:03", 0),
            ("2026-11-23T01:02:03Z", 0),
            ("2026-11-23T01:02:03.5Z", 500),
            ("2026-11-22T19:32:03.123456-05:30", 123),
            ("2026-11-22T19:32:03-0530", 0),
            ("Nov 23 02:02:03", 0),
            ("Mon Nov 23 02:02:03 2026", 0),
            ("Nov 23 02:02:03 2026", 0),
        ] {
            assert_eq!(parsed(&format!("{text} rest")), Some((1_795_395_723_000 + millis, " rest".into())), "{text}");
            assert_eq!(parsed(text).map(|(time, _)| time), Some(1_795_395_723_000 + millis), "{text}");
            assert!(text.ends_with("3 2026") || parsed(&format!("{text}x")).is_none(), "{text}");
        }
    }

    #[test]
    fn a_time_without_a_year_lies_in_the_last_one_that_is_not_in_the_future() {
        let year =
            |text: &str| parsed(text).map(|(millis, _)| jiff::Timestamp::from_millisecond(millis.try_into().unwrap()).unwrap().to_string());
        assert_eq!(year("Nov  1 10:00:00").unwrap(), "2026-11-01T09:00:00Z");
        assert_eq!(year("Nov 24 01:00:00").unwrap(), "2026-11-24T00:00:00Z", "another zone may be a day ahead");
        assert_eq!(year("Dec 31 23:59:59").unwrap(), "2025-12-31T22:59:59Z");
        assert_eq!(year("Feb 29 12:00:00").unwrap(), "2024-02-29T11:00:00Z");
        assert_eq!(parse(b"Nov  1 10:00:00 x", &mut Zone::utc()), None, "nobody said what year it is");
    }

    #[test]
    fn only_times_without_an_offset_depend_on_the_zone() {
        for (text, is_local) in [("23-Nov-2026 02:02:03 x", true), ("2026-11-23T01:02:03Z x", false), ("Nov 23 02:02:03 x", true)] {
            let mut zone = zone();
            assert!(parse(text.as_bytes(), &mut zone).is_some());
            assert_eq!((zone.take_is_used(), zone.take_is_used()), (is_local, false), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_time() {
        for line in [
            "",
            "[",
            "23-Nov-2026",
            "31-Nov-2026 02:02:03 x",
            "23-nov-2026 02:02:03 x",
            "2026-11-23 25:02:03 x",
            "[23/Nov/2026:01:02:03 +0000 x",
            "2026-11-23 02:02:03. x",
            "Mon 23 Nov 02:02:03 x",
            "Sep 31 02:02:03 x",
        ] {
            assert_eq!(parsed(line), None, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn what_exim_writes_is_the_same_time_here(seconds in 0_i64..4_000_000_000, millis in proptest::option::of(0_u16..1000), east in proptest::option::of(-720_i32..720)) {
            let offset = jiff::tz::Offset::from_seconds(east.unwrap_or(0) * 60).unwrap();
            let moment = jiff::Timestamp::from_second(seconds).unwrap().to_zoned(jiff::tz::TimeZone::fixed(offset));
            let mut text = moment.strftime("%Y-%m-%d %H:%M:%S").to_string();
            text += &millis.map_or_else(String::new, |millis| format!(".{millis:03}"));
            text += &east.map_or_else(String::new, |_| moment.strftime(" %z").to_string());
            text += " rest";
            let theirs = exim(text.as_bytes(), &mut zone()).map(|(time, _)| time);
            prop_assert_eq!(parse(text.as_bytes(), &mut zone()).map(|(time, _)| time), theirs);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(start in proptest::sample::select(vec!["", "[", "2026-11-23 02:02:03", "Nov 23 ", "23-Nov-2026 02:02:03."]), bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&[start.as_bytes(), &bytes].concat(), &mut zone());
        }
    }
}
