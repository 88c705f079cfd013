//! What the resident answers, as text. Nothing of a client's stands in it that was not escaped and cut before.

use std::fmt::Write;

use crate::rule::Names;
use crate::verdict::Verdict;

/// The line, with its newline, that answers `check` and `strike`.
#[must_use]
pub fn verdict(verdict: &Verdict, names: &Names) -> String {
    match verdict {
        Verdict::Allow(_) => "accept\n".into(),
        Verdict::Defer(refusal) => format!("defer rule={} until={}\n", names.name(refusal.rule), refusal.until),
        Verdict::Deny(refusal) => format!("deny rule={} until={}\n", names.name(refusal.rule), refusal.until),
    }
}

/// The line, with its newline, that says what was wrong.
#[must_use]
pub fn error(fault: &str) -> String {
    format!("error {}\n", one_line(fault))
}

/// The line that ends an answer of several lines.
pub const END: &str = ".\n";

/// An answer of several lines that is ended by [`END`].
#[derive(Debug, Default)]
pub struct Lines(String);

impl Lines {
    /// Adds a line.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.push(line);
        self
    }

    /// Adds a line.
    pub fn push(&mut self, line: &str) {
        let line = one_line(line);
        // A line of one dot would end the answer.
        if line == "." {
            self.0.push(' ');
        }
        self.0.push_str(&line);
        self.0.push('\n');
    }

    /// Adds `key=value`.
    #[must_use]
    pub fn field(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        let mut line = String::new();
        // Writing to a string cannot fail.
        let _ = write!(line, "{key}={value}");
        self.push(&line);
        self
    }

    /// The whole answer.
    #[must_use]
    pub fn end(self) -> String {
        self.0 + END
    }
}

/// The text without line ends and other control characters.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Until;
    use crate::time::Time;
    use crate::verdict::{Grounds, Innocence, Refusal};

    #[test]
    fn a_verdict_is_one_line_with_rule_and_end() {
        let names = Names::default();
        let rule = names.intern("exim-rate");
        let refusal = |until| Refusal { rule, until, grounds: Grounds::Banned };
        let until = Until::at(Time::from_secs(1_800_000_000));
        assert_eq!(verdict(&Verdict::Allow(Innocence::NothingFound), &names), "accept\n");
        assert_eq!(verdict(&Verdict::Defer(refusal(until)), &names), "defer rule=exim-rate until=1800000000\n");
        assert_eq!(verdict(&Verdict::Deny(refusal(Until::NEVER)), &names), "deny rule=exim-rate until=-1\n");
    }

    #[test]
    fn no_text_makes_an_answer_end_early_or_grow_a_line() {
        assert_eq!(error("a\nb\r"), "error a b \n");
        assert_eq!(Lines::default().line(".").field("reason", "x\n.\ny").end(), " .\nreason=x . y\n.\n");
    }
}
