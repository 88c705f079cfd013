//! How answers are printed: colour on a terminal only and never with `NO_COLOR`, aligned columns, times in local time.

use std::io::IsTerminal;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Whether text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colours(bool);

impl Colours {
    /// No colour at all.
    #[cfg(test)]
    pub const NONE: Self = Self(false);

    /// Colour, if the standard output is a terminal that can show it (see no-color.org).
    #[must_use]
    pub fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        Self(std::io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb"))
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Red, for faults.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Green, for what is in order.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Bold.
    #[must_use]
    pub fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Dimmed.
    #[must_use]
    pub fn weak(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows as aligned columns under a heading. A left-aligned last column is not padded.
#[must_use]
pub fn columns(heading: &[(&str, Align)], rows: &[Vec<String>], colours: Colours) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(heading.get(column).map(|(title, _)| title.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for (((cell, (_, align)), width), number) in cells.iter().zip(heading).zip(&widths).zip(1..) {
            let padding = " ".repeat(width - cell.chars().count().min(*width));
            match align {
                Align::Right => line.extend([padding.as_str(), cell]),
                Align::Left if number < heading.len() => line.extend([cell, padding.as_str()]),
                Align::Left => line.push_str(cell),
            }
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    };
    let titles: Vec<String> = heading.iter().map(|(title, _)| (*title).to_owned()).collect();
    let mut text = colours.weak(&line(&titles)) + "\n";
    for row in rows {
        text.push_str(&line(row));
        text.push('\n');
    }
    text
}

/// A length of time in its two largest units.
#[must_use]
pub fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let first = UNITS.iter().position(|(length, _)| seconds >= *length).unwrap_or(UNITS.len() - 1);
    let mut rest = seconds;
    let parts = UNITS.iter().skip(first).take(2).map(|(length, unit)| {
        let number = rest / length;
        rest %= length;
        (number, unit)
    });
    let parts: Vec<String> = parts
        .enumerate()
        .filter(|(place, (number, _))| *place == 0 || *number > 0)
        .map(|(_, (number, unit))| format!("{number} {unit}"))
        .collect();
    parts.join(" ")
}

/// The current time in seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    Timestamp::now().as_second()
}

/// A moment in local time: `2026-11-23 04:05:06`.
#[must_use]
pub fn moment(epoch: i64, zone: &TimeZone) -> String {
    Timestamp::from_second(epoch)
        .map_or_else(|_| format!("@{epoch}"), |moment| moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// A size in bytes, KiB or MiB.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{}.{} MiB", bytes / 1_048_576, bytes % 1_048_576 * 10 / 1_048_576),
    }
}

/// `1 ban`, `2 bans`.
#[must_use]
pub fn counted(number: impl TryInto<u64>, what: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["198.51.100.7".to_owned(), "7".into(), "x".into()], vec!["::1".into(), "1000".into(), "long".into()]];
        let text = columns(&[("WHO", Align::Left), ("N", Align::Right), ("Z", Align::Left)], &rows, Colours::NONE);
        assert_eq!(text, "WHO              N  Z\n198.51.100.7     7  x\n::1           1000  long\n");
    }

    #[test]
    fn a_span_is_shown_in_its_two_largest_units() {
        let spans =
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min 59 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h"), (86_401, "1 d")];
        for (seconds, text) in spans {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn a_moment_is_shown_in_the_given_zone() {
        assert_eq!(moment(1_800_000_000, &TimeZone::UTC), "2027-01-15 08:00:00");
        assert_eq!(moment(1_800_000_000, &TimeZone::fixed(jiff::tz::offset(2))), "2027-01-15 10:00:00");
    }

    #[test]
    fn sizes_and_numbers_read_well() {
        assert_eq!([bytes(999), bytes(2048), bytes(44_145_049)], ["999 B", "2 KiB", "42.0 MiB"]);
        assert_eq!([counted(1, "ban"), counted(2, "ban")], ["1 ban", "2 bans"]);
    }

    #[test]
    fn without_colour_text_is_unchanged() {
        assert_eq!(Colours::NONE.bad("x"), "x");
        assert_eq!(Colours(true).bad("x"), "\x1b[31mx\x1b[0m");
    }
}
