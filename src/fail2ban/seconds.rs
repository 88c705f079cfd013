//! Lengths of time as fail2ban writes them: `600`, `10m`, `1d 12h`, `60*60*24`, `-1` (its `MyTime.str2seconds`).

/// The seconds of an expression: numbers with units, added up where nothing stands between them, and `+ - * / ( )`.
///
/// # Errors
/// What was found and what was expected.
pub fn seconds(text: &str) -> Result<f64, String> {
    let mut reader = Reader { text, rest: text.trim(), depth: 0 };
    let value = reader.sum()?;
    if reader.rest.is_empty() && value.is_finite() { Ok(value) } else { Err(reader.fault()) }
}

struct Reader<'t> {
    text: &'t str,
    rest: &'t str,
    depth: u32,
}

impl Reader<'_> {
    fn fault(&self) -> String {
        format!("found {:?}, expected a length of time such as \"600\", \"10m\" or \"1d 12h\"", self.text)
    }

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
        if self.depth > 100 {
            return Err(self.fault());
        }
        let value = if self.take('-') {
            -self.factor()?
        } else if self.take('(') {
            let value = self.sum()?;
            if !self.take(')') {
                return Err(self.fault());
            }
            value
        } else {
            self.number()?
        };
        self.depth -= 1;
        Ok(value)
    }

    fn number(&mut self) -> Result<f64, String> {
        let digits = self.rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| self.fault())?;
        let rest = rest.trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(letters);
        let year = 365.25 * 86_400.0;
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" | "s" | "ss" | "se" | "sec" | "second" | "seconds" => 1.0,
            "m" | "mm" | "mi" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hh" | "ho" | "hou" | "hour" | "hours" => 3600.0,
            "d" | "dd" | "da" | "day" | "days" => 86_400.0,
            "w" | "ww" | "we" | "wee" | "week" | "weeks" => 7.0 * 86_400.0,
            "mo" | "mon" | "month" | "months" => year / 12.0,
            "y" | "yy" | "ye" | "yea" | "year" | "years" => year,
            _ => return Err(self.fault()),
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
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "1x", "1h)", "(1", "1/0", "1..2", &"(".repeat(100_000), &"-".repeat(100_000)] {
            assert!(seconds(text).is_err(), "{text:.20}");
        }
    }
}
