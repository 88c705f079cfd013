//! Turns the fields of a date into a time, and guesses missing ones as fail2ban does.

use super::zone::offset_minutes;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// The time, in seconds since 1970, of fields named as in `strptime`; none if there is no such date. fail2ban's `reGroupDictStrptime`.
///
/// A date without a zone is in `default_offset` (minutes) if given, else in `local`. A date without a year is in this year, or in the last
/// one if it would be more than a day ahead of `now`; a time without a day is of today, or of yesterday if it would be ahead. Fractions of
/// a second are dropped.
pub fn moment<'f>(
    fields: impl Iterator<Item = (&'f str, &'f str)> + Clone,
    now: f64,
    local: &TimeZone,
    default_offset: Option<i32>,
) -> Option<f64> {
    let mut year: Option<i32> = None;
    let mut month: Option<i32> = None;
    let mut day: Option<i32> = None;
    let mut weekday: Option<i32> = None;
    let mut yearday: Option<i32> = None;
    let mut week: Option<(i32, bool)> = None;
    let mut offset: Option<i32> = None;
    let (mut hour, mut minute, mut second) = (0, 0, 0);
    for (name, text) in fields.clone() {
        let number = || text.trim_start().parse::<i32>().ok();
        let among = |list: &[&str]| {
            let lower = text.to_lowercase();
            list.iter().position(|known| lower.starts_with(known)).and_then(|place| i32::try_from(place).ok())
        };
        match name {
            "y" => year = Some(number()? + 2000),
            "Y" => year = Some(number()?),
            "m" => month = Some(number()?),
            "b" | "B" => month = Some(among(&MONTHS)? + 1),
            "d" => day = Some(number()?),
            "H" => hour = number()?,
            "I" => {
                let afternoon = fields.clone().any(|(name, text)| name == "p" && text.eq_ignore_ascii_case("pm"));
                hour = number()? % 12 + if afternoon { 12 } else { 0 };
            }
            "M" => minute = number()?,
            "S" => second = number()?,
            "a" | "A" => weekday = Some(among(&WEEKDAYS)?),
            "w" => weekday = Some((number()? + 6) % 7),
            "j" => yearday = Some(number()?),
            "U" => week = Some((number()?, false)),
            "W" => week = Some((number()?, true)),
            "z" | "Z" => offset = Some(offset_minutes(text)?),
            _ => {}
        }
    }

    let today = civil(now, local)?;
    let is_without_year = year.is_none();
    let mut year = year.unwrap_or_else(|| i32::from(today.year()));
    if month.is_none() || day.is_none() {
        if let (None, Some((week, monday_first)), Some(weekday)) = (yearday, week, weekday) {
            yearday = Some(yearday_of_week(year, week, weekday, monday_first)?);
        }
        if let Some(yearday) = yearday {
            let date = date(year, 1, 1)?.checked_add(Span::new().try_days(i64::from(yearday) - 1).ok()?).ok()?;
            year = i32::from(date.year());
            month = Some(i32::from(date.month()));
            day = Some(i32::from(date.day()));
        }
    }
    let is_without_day = month.is_none() && day.is_none();
    if is_without_day {
        month = Some(i32::from(today.month()));
        day = Some(i32::from(today.day()));
    }
    let (month, day) = (month?, day?);
    let narrow = |value: i32| i8::try_from(value).ok();
    if second > 59 {
        return None;
    }
    let time = jiff::civil::Time::new(narrow(hour)?, narrow(minute)?, narrow(second)?, 0).ok()?;
    let mut moment = date(year, month, day)?.to_datetime(time);
    let offset = offset.or(default_offset);
    if let Some(minutes) = offset {
        moment = moment.checked_sub(Span::new().try_minutes(minutes).ok()?).ok()?;
    }
    // fail2ban compares with the local time, whatever the date's zone.
    if is_without_day && moment > today {
        moment = moment.checked_sub(Span::new().try_days(1).ok()?).ok()?;
    }
    if is_without_year && moment > today.checked_add(Span::new().try_days(1).ok()?).ok()? {
        moment = date(year - 1, month, day)?.to_datetime(moment.time());
    }
    let zone = if offset.is_some() { &TimeZone::UTC } else { local };
    let seconds = zone.to_timestamp(moment).ok()?.as_second();
    #[expect(clippy::cast_precision_loss, reason = "the years that a date can have are far inside what a double counts exactly")]
    Some(seconds as f64)
}

fn date(year: i32, month: i32, day: i32) -> Option<Date> {
    Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

/// The local date and time at `now`.
fn civil(now: f64, local: &TimeZone) -> Option<DateTime> {
    if !now.is_finite() || now.abs() > 2e11 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked on the line above")]
    let microseconds = (now * 1e6) as i64;
    Some(local.to_datetime(Timestamp::from_microsecond(microseconds).ok()?))
}

/// The day of the year of a weekday (Monday is 0) in a numbered week: Python's `_strptime._calc_julian_from_U_or_W`.
fn yearday_of_week(year: i32, week: i32, weekday: i32, monday_first: bool) -> Option<i32> {
    let mut first = i32::from(date(year, 1, 1)?.weekday().to_monday_zero_offset());
    let mut weekday = weekday;
    if !monday_first {
        first = (first + 1) % 7;
        weekday = (weekday + 1) % 7;
    }
    let zeroth = (7 - first) % 7;
    Some(if week == 0 { 1 + weekday - first } else { 1 + zeroth + 7 * (week - 1) + weekday })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2005-08-14 12:00:00 UTC.
    const NOW: f64 = 1_124_020_800.0;

    fn read(fields: &[(&str, &str)]) -> Option<f64> {
        moment(fields.iter().copied(), NOW, &TimeZone::UTC, None)
    }

    #[test]
    fn a_full_date_needs_no_guess() {
        let all = [("Y", "2013"), ("m", "05"), ("d", "21"), ("H", "01"), ("M", "01"), ("S", "52")];
        assert_eq!(read(&all), Some(1_369_098_112.0));
        let zoned: Vec<_> = all.iter().copied().chain([("z", "+0200")]).collect();
        assert_eq!(read(&zoned), Some(1_369_098_112.0 - 7200.0));
    }

    #[test]
    fn a_date_without_a_year_is_in_this_year_or_the_last() {
        assert_eq!(read(&[("b", "Aug"), ("d", "14"), ("H", "11")]), Some(NOW - 3600.0));
        assert_eq!(read(&[("b", "Aug"), ("d", "15"), ("H", "11")]), Some(NOW + 23.0 * 3600.0), "up to a day ahead may be another zone");
        assert_eq!(read(&[("b", "Aug"), ("d", "15"), ("H", "13")]), Some(NOW + 25.0 * 3600.0 - 365.0 * 86_400.0));
    }

    #[test]
    fn a_time_without_a_day_is_today_or_yesterday() {
        assert_eq!(read(&[("H", "11")]), Some(NOW - 3600.0));
        assert_eq!(read(&[("H", "13")]), Some(NOW - 23.0 * 3600.0));
    }

    #[test]
    fn twelve_o_clock_is_noon_or_midnight() {
        let at = |hour, half| read(&[("d", "14"), ("m", "8"), ("Y", "2005"), ("I", hour), ("p", half)]);
        assert_eq!(at("12", "PM"), Some(NOW));
        assert_eq!(at("12", "am"), Some(NOW - 43_200.0));
    }

    #[test]
    fn an_impossible_date_is_none() {
        assert_eq!(read(&[("Y", "2005"), ("m", "02"), ("d", "30")]), None);
        assert_eq!(read(&[("Y", "2005"), ("m", "02"), ("d", "3"), ("S", "60")]), None);
        assert_eq!(read(&[("Y", "2005"), ("m", "02")]), None);
        assert_eq!(read(&[("Y", "99999999999")]), None);
        assert_eq!(read(&[("z", "QQQ"), ("H", "3")]), None);
    }

    #[test]
    fn a_day_of_the_year_or_of_a_week_makes_a_date() {
        assert_eq!(read(&[("Y", "2005"), ("j", "226"), ("H", "12")]), Some(NOW));
        // Python: time.strptime("2005 32 6", "%Y %W %w") is 2005-08-13.
        assert_eq!(read(&[("Y", "2005"), ("W", "32"), ("w", "6"), ("H", "12")]), Some(NOW - 86_400.0));
    }
}
