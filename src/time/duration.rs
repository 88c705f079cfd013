//! Parses durations in fail2ban's notation, such as `10m`, `1d 12h` or `60*60`.

/// Parses a duration into seconds, as fail2ban's `MyTime.str2seconds` does. Negative values are allowed; `-1` means forever.
///
/// Numbers with units are added up. `+ - * / ( )` work as in Python, because fail2ban evaluates the text as a Python expression. A number
/// without a unit is in seconds. Units, in upper or lower case: s sec second, m min minute, h hour, d day, w week, mo month (30.4375 days),
/// y year (365.25 days), with their plurals and fail2ban's other abbreviations.
///
/// # Errors
/// What was found and what was expected.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    let mut parser = DurationParser { text, rest: text.trim(), depth: 0 };
    let value = parser.sum()?;
    if parser.rest.is_empty() && value.is_finite() { Ok(value) } else { Err(error(text)) }
}

/// The error for a text that is not a duration.
pub(super) fn error(text: &str) -> String {
    format!("found {text:?}, expected a duration such as \"600\", \"10m\" or \"1d 12h\"")
}

/// A recursive-descent parser.
struct DurationParser<'t> {
    text: &'t str,
    rest: &'t str,
    depth: u32,
}

impl DurationParser<'_> {
    /// Maximum nesting of parentheses and signs. It bounds the recursion, and so the stack that a text can use.
    const MAX_DEPTH: u32 = 100;

    fn error(&self) -> String {
        error(self.text)
    }

    /// Skips `wanted` and the white space after it. Returns false if the rest does not start with it.
    fn take(&mut self, wanted: char) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        loop {
            if self.take('+') {
                value += self.product()?;
            } else if self.take('-') {
                value -= self.product()?;
            } else if self.rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
                // "1d 12h": terms without an operator are added.
                value += self.product()?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.factor()?;
        loop {
            if self.take('*') {
                value *= self.factor()?;
            } else if self.take('/') {
                value /= self.factor()?;
            } else {
                return Ok(value);
            }
        }
    }

    fn factor(&mut self) -> Result<f64, String> {
        self.depth += 1;
        if self.depth > Self::MAX_DEPTH {
            return Err(self.error());
        }
        let value = if self.take('-') {
            -self.factor()?
        } else if self.take('(') {
            let value = self.sum()?;
            if !self.take(')') {
                return Err(self.error());
            }
            value
        } else {
            self.number()?
        };
        self.depth -= 1;
        Ok(value)
    }

    fn number(&mut self) -> Result<f64, String> {
        const YEAR: f64 = 365.25 * 86_400.0;
        let digits = self.rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| self.error())?;
        let rest = rest.trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(letters);
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" | "s" | "ss" | "se" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "mm" | "mi" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hh" | "ho" | "hou" | "hour" | "hours" => 3600.0,
            "d" | "dd" | "da" | "day" | "days" => 86_400.0,
            "w" | "ww" | "we" | "wee" | "week" | "weeks" => 7.0 * 86_400.0,
            "mo" | "mon" | "month" | "months" => YEAR / 12.0,
            "y" | "yy" | "ye" | "yea" | "year" | "years" => YEAR,
            _ => return Err(self.error()),
        };
        self.rest = rest.trim_start();
        Ok(number * factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fail2bans_own_examples_hold() {
        for (text, expected) in [
            ("600", 600.0),
            ("1hour+30min", 5400.0),
            ("0d 1h 30m", 5400.0),
            ("1year-6mo", 15_778_800.0),
            ("6 months", 15_778_800.0),
            ("1d12h", 129_600.0),
            ("60*60 * 24", 86_400.0),
            ("-1", -1.0),
            ("(1h + 5m) / 2", 1950.0),
            ("10M", 600.0),
        ] {
            assert_eq!(parse_seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "1x", "1h)", "(1", "1/0", "1..2", &"(".repeat(100_000), &"-".repeat(100_000)] {
            assert!(parse_seconds(text).is_err(), "{text:.20}");
        }
    }
}
