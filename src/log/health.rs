//! What speaks against a followed log: lines in a format that nobody understands, and times that do not fit.

use super::time::Zone;
use crate::time::Time;

/// Number of lines after which older ones count half.
const HALVED_AT: u64 = 1000;
/// One line in so many that is not understood is a fault.
const FAULT_SHARE: u64 = 10;
/// Maximum number of bytes of the example, before they are escaped.
const MAX_EXAMPLE: usize = 160;
/// Every zone's offset is a multiple of a quarter of an hour, at most 26 hours from another one.
const QUARTER: i64 = 15 * 60 * 1000;
const MAX_QUARTERS: i64 = 26 * 4;
/// How long after its time a line may be written, or be ahead of the clock.
const TOLERANCE: i64 = 60 * 1000;

/// The lines of one log, as far as their formats and times are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogHealth {
    /// Number of lines lately that should be understood, and how many of them were not.
    pub lines: u64,
    pub not_understood: u64,
    /// The first of the latter, cut and escaped.
    pub example: Option<String>,
    /// How far the local times in the log are behind the clock, and the zone that would fit.
    zone: Option<(Quarters, String)>,
}

/// A number of quarters of an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarters(i64);

impl Quarters {
    /// How far `time` is behind `now`, if that is a number of quarters up to a minute: zero if it fits.
    #[must_use]
    pub fn behind(time: Time, now: Time) -> Option<Self> {
        let millis = i64::try_from(now.millis()).ok()?.checked_sub(i64::try_from(time.millis()).ok()?)?;
        let quarters = (millis + QUARTER / 2).div_euclid(QUARTER);
        (quarters.abs() <= MAX_QUARTERS && (millis - quarters * QUARTER).abs() <= TOLERANCE).then_some(Self(quarters))
    }

    #[must_use]
    pub fn millis(self) -> i64 {
        self.0 * QUARTER
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// One hour: by how much the second of two equal hours is taken for the first when summer time ends.
    #[must_use]
    pub fn is_one_hour(self) -> bool {
        self.0 == 4
    }
}

impl LogHealth {
    /// Notes a line and whether its format was understood.
    pub fn line(&mut self, line: &[u8], is_understood: bool) {
        self.lines += 1;
        if !is_understood {
            self.not_understood += 1;
            self.example.get_or_insert_with(|| example(line));
        }
        if self.lines >= HALVED_AT {
            self.lines /= 2;
            self.not_understood /= 2;
            if self.not_understood == 0 {
                self.example = None;
            }
        }
    }

    /// Notes how far the time of a line that has just been written is behind the clock, by local time in `zone`.
    pub fn time(&mut self, time: Time, behind: Quarters, zone: &Zone) {
        if behind.is_zero() {
            self.zone = None;
        } else if self.zone.as_ref().is_none_or(|(known, _)| *known != behind) {
            let east = zone.seconds_east(time) - behind.millis() / 1000;
            self.zone = Some((behind, zone_name(east)));
        }
    }

    /// By how many milliseconds the log's local times are to be corrected.
    #[must_use]
    pub fn correction(&self) -> i64 {
        self.zone.as_ref().map_or(0, |(behind, _)| behind.millis())
    }

    /// What is wrong with the log, and the remedy.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let unread = self.format_fault();
        let zone = self.zone.as_ref().map(|(behind, zone)| {
            let minutes = behind.millis().abs() / 60_000;
            let side = if behind.millis() > 0 { "behind" } else { "ahead of" };
            format!(
                "its times are {} h {:02} min {side} the clock, so its lines count as of now; expected zone = \"{zone}\" in this [[log]]",
                minutes / 60,
                minutes % 60
            )
        });
        match (unread, zone) {
            (Some(unread), Some(zone)) => Some(format!("{unread}; {zone}")),
            (unread, zone) => unread.or(zone),
        }
    }

    /// How many of the lines are not understood, with the example; none if all are.
    #[must_use]
    pub fn not_understood(&self) -> Option<String> {
        let example = self.example.as_ref()?;
        let percent = (self.not_understood * 100).div_ceil(self.lines.max(1));
        Some(format!("{percent} % of its last {} lines are not understood, such as \"{example}\"", self.lines))
    }

    fn format_fault(&self) -> Option<String> {
        let text = self.not_understood().filter(|_| self.not_understood * FAULT_SHARE >= self.lines)?;
        Some(format!("{text}; expected a format that its rules can read (docs/logs.md), or rules with failregex for it"))
    }
}

fn example(line: &[u8]) -> String {
    let text = line.get(..MAX_EXAMPLE).unwrap_or(line).escape_ascii().to_string();
    if line.len() > MAX_EXAMPLE { text + "..." } else { text }
}

/// `UTC`, or an offset such as `+05:30`.
fn zone_name(seconds_east: i64) -> String {
    let minutes = seconds_east.abs() / 60;
    match seconds_east {
        0 => "UTC".to_owned(),
        east => format!("{}{:02}:{:02}", if east < 0 { '-' } else { '+' }, minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(1_795_395_723);

    fn behind(seconds: i64) -> Option<i64> {
        Quarters::behind(NOW.shifted(-seconds * 1000), NOW).map(|quarters| quarters.millis() / 1000)
    }

    #[test]
    fn only_whole_quarters_of_an_hour_are_a_zone() {
        for (seconds, quarters) in [
            (0, Some(0)),
            (60, Some(0)),
            (-60, Some(0)),
            (61, None),
            (3600, Some(3600)),
            (3600 + 60, Some(3600)),
            (3600 - 60, Some(3600)),
            (3600 + 61, None),
            (-19_800, Some(-19_800)),
            (26 * 3600, Some(26 * 3600)),
            (27 * 3600, None),
            (900_000_000, None),
        ] {
            assert_eq!(behind(seconds), quarters, "{seconds}");
        }
        let is_one_hour = |seconds: i64| Quarters::behind(NOW.shifted(-seconds * 1000), NOW).unwrap().is_one_hour();
        assert_eq!([0, 3600, -3600, 7200].map(is_one_hour), [false, true, false, false]);
    }

    #[test]
    fn the_zone_that_would_fit_is_named() {
        for (name, seconds_behind, fits) in [
            ("UTC", -3600, "+01:00"),
            ("UTC", 19_800, "-05:30"),
            ("Europe/Berlin", 3600, "UTC"),
            ("Asia/Kolkata", 19_800, "UTC"),
            ("Asia/Kolkata", 16_200, "+01:00"),
            ("+02:00", 7200, "UTC"),
        ] {
            let mut health = LogHealth::default();
            let time = NOW.shifted(-seconds_behind * 1000);
            health.time(time, Quarters::behind(time, NOW).unwrap(), &Zone::parse(name).unwrap());
            let fault = health.fault().unwrap();
            assert!(fault.contains(&format!("expected zone = \"{fits}\"")), "{name} {seconds_behind}: {fault}");
            assert_eq!(health.correction(), seconds_behind * 1000);
            health.time(NOW, Quarters::behind(NOW, NOW).unwrap(), &Zone::utc());
            assert_eq!((health.fault(), health.correction()), (None, 0), "the zone was mended");
        }
    }

    #[test]
    fn the_fault_says_how_far_the_latest_times_are_from_the_clock() {
        let mut health = LogHealth::default();
        for (seconds_behind, text) in [
            (3600, "its times are 1 h 00 min behind the clock, so its lines count as of now; expected zone = \"-01:00\""),
            (19_800, "its times are 5 h 30 min behind the clock, so its lines count as of now; expected zone = \"-05:30\""),
            (-2700, "its times are 0 h 45 min ahead of the clock, so its lines count as of now; expected zone = \"+00:45\""),
        ] {
            let time = NOW.shifted(-seconds_behind * 1000);
            health.time(time, Quarters::behind(time, NOW).unwrap(), &Zone::utc());
            assert!(health.fault().unwrap().starts_with(text), "{health:?}");
        }
    }

    #[test]
    fn one_line_in_ten_that_is_not_understood_is_a_fault() {
        for (good, is_fault) in [(9, true), (10, false)] {
            let mut health = LogHealth::default();
            health.line(b"bad", false);
            (0..good).for_each(|_| health.line(b"good", true));
            assert_eq!(health.fault().is_some(), is_fault, "{good}");
        }
    }

    #[test]
    fn old_lines_count_half() {
        let mut health = LogHealth::default();
        (0..HALVED_AT).for_each(|number| health.line(b"a line", number % 4 != 0));
        assert_eq!((health.lines, health.not_understood), (500, 125));
    }

    #[test]
    fn only_an_example_that_is_cut_ends_with_dots() {
        assert_eq!(example(&[b'x'; MAX_EXAMPLE]), "x".repeat(MAX_EXAMPLE));
        assert_eq!(example(&[b'x'; MAX_EXAMPLE + 1]), "x".repeat(MAX_EXAMPLE) + "...");
    }

    #[test]
    fn lines_that_are_not_understood_are_named_with_their_share_and_an_escaped_example() {
        let mut health = LogHealth::default();
        health.line(b"good", true);
        assert_eq!(health.fault(), None);
        health.line(b"bad \x1b[31m\xff\"", false);
        let fault = health.fault().unwrap();
        assert!(fault.starts_with(r#"50 % of its last 2 lines are not understood, such as "bad \x1b[31m\xff\"""#), "{fault}");
        (0..100).for_each(|_| health.line(b"good", true));
        assert!(health.fault().is_none() && health.not_understood().unwrap().starts_with("1 % of its last 102 lines"), "{health:?}");
        (0..2 * HALVED_AT).for_each(|_| health.line(b"good", true));
        assert_eq!(health.not_understood(), None, "long ago");
        let mut long = LogHealth::default();
        long.line(&[b'x'; 70_000], false);
        assert!(long.fault().unwrap().len() < 400);
    }
}
