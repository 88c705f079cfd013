//! Durations as Go writes them (`time.Duration.String`): `3h59m49.264032632s`, `-13.2s`, `1.5ms`.

use crate::time::Span;

/// A decision that lasts longer than this is taken for so long: ten years. CrowdSec knows no ban without an end, and people write large
/// numbers of hours instead.
pub const LONGEST: Span = Span::from_secs(10 * 365 * 86_400);

/// The duration, at most [`LONGEST`]; zero if it is negative. `None` if the text is no duration.
pub fn parse(text: &str) -> Option<Span> {
    let (is_negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(Span::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut milliseconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let scale = match unit {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1000.0,
            "ms" => 1.0,
            "us" | "µs" | "μs" => 1e-3,
            "ns" => 1e-6,
            _ => return None,
        };
        milliseconds += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    // A cast from a float saturates, also from infinity.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not negative, and the cast saturates")]
    let span = Span::from_millis(milliseconds.ceil() as u64).min(LONGEST);
    Some(if is_negative { Span::ZERO } else { span })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_of_go_are_read() {
        for (text, milliseconds) in [
            ("3h59m49.264032632s", 14_389_265),
            ("4h0m0s", 14_400_000),
            ("59m58.5s", 3_598_500),
            ("1.5ms", 2),
            ("300ms", 300),
            ("7µs", 1),
            ("12ns", 1),
            ("0s", 0),
            ("0", 0),
            ("-13.2s", 0),
            ("-1h0m0.1s", 0),
            ("+2s", 2000),
        ] {
            assert_eq!(parse(text), Some(Span::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn a_huge_duration_is_taken_for_ten_years() {
        for text in ["99999999h", "2562047h47m16.854775807s", &format!("{}h", "9".repeat(400)), "87601h"] {
            assert_eq!(parse(text), Some(LONGEST), "{text}");
        }
    }

    #[test]
    fn other_text_is_no_duration() {
        for text in ["", "-", "+", "s", "4", "4x", "h4", "4h3", "1e9s", "nan", "infs", "1..2s", "--4s", "4h-3m", " 4h", "4 h", "-0x1s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "[-+0-9.hmsnuµ]{0,30}") {
            prop_assert!(parse(&text).is_none_or(|span| span <= LONGEST));
        }
    }
}
