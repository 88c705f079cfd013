//! The daemon's answers as text: verdicts in words for Exim, JSON for the operator's program. Text from clients is already escaped and
//! truncated.

use serde::Serialize;

use crate::rule_id::RuleNames;
use crate::verdict::Verdict;

/// The answer to a request that refuses nobody, without its newline.
pub const ACCEPT: &str = "accept";

/// The answer to `check` and `strike`.
#[must_use]
pub fn verdict(verdict: &Verdict, names: &RuleNames) -> String {
    match verdict {
        Verdict::Allow(_) => format!("{ACCEPT}\n"),
        Verdict::Defer(refusal) => format!("defer rule={} until={}\n", names.name(refusal.rule), refusal.until),
        Verdict::Deny(refusal) => format!("deny rule={} until={}\n", names.name(refusal.rule), refusal.until),
    }
}

/// The answer to a request that failed.
#[must_use]
pub fn error(fault: &str) -> String {
    format!("error {}\n", one_line(fault))
}

/// The line that ends an answer to the operator's program.
pub const END: &str = ".\n";

/// An answer of one object, with [`END`].
#[must_use]
pub fn object(value: &impl Serialize) -> String {
    match serde_json::to_string(value) {
        Ok(json) => format!("{json}\n{END}"),
        Err(fault) => error(&format!("internal fault: {fault}")),
    }
}

/// One line of a list.
#[must_use]
pub fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).map_or_else(|_| String::new(), |json| json + "\n")
}

/// Replaces line ends and other control characters by spaces.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Until;
    use crate::time::Time;
    use crate::verdict::{AllowReason, DenyReason, Refusal};

    #[test]
    fn a_refusal_is_one_line_with_rule_and_end() {
        let names = RuleNames::default();
        let rule = names.intern("exim-rate");
        let refusal = |until| Refusal { rule, until, reason: DenyReason::Banned };
        let until = Until::at(Time::from_secs(1_800_000_000));
        assert_eq!(verdict(&Verdict::Allow(AllowReason::NothingFound), &names), "accept\n");
        assert_eq!(verdict(&Verdict::Defer(refusal(until)), &names), "defer rule=exim-rate until=1800000000\n");
        assert_eq!(verdict(&Verdict::Deny(refusal(Until::NEVER)), &names), "deny rule=exim-rate until=-1\n");
    }

    #[test]
    fn no_text_can_end_an_answer_early_or_add_a_line() {
        assert_eq!(error("a\nb\r"), "error a b \n");
        assert_eq!(object(&"x\n.\ny\r"), "\"x\\n.\\ny\\r\"\n.\n");
        assert_eq!(line(&"."), "\".\"\n");
    }
}
