//! The log lines of bans. Usually each ban has a line of its own. Beyond a rate they are counted, with the first ones of each interval as
//! examples: a botnet must not fill the disk or slow the table down by its log. Every ban stays in `list` and `why`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::rule_id::{RuleId, RuleNames};
use crate::time::{Span, Time};

/// Maximum number of lines in an interval.
const MAX_LINES: u32 = 100;
const INTERVAL: Span = Span::from_secs(10);
/// Maximum number of rules that a summary names, those with the most bans.
const MAX_RULES: usize = 5;

/// Lines of one kind. Intervals begin and end by [`BanLog::summary`] alone: the time of an offence may be that of an old line in a log.
#[derive(Default)]
pub(super) struct BanLog {
    /// When the current interval began; none before the first call of [`BanLog::summary`].
    since: Option<Time>,
    lines: u32,
    /// How many lines were left out, by rule.
    left_out: HashMap<RuleId, u64>,
}

impl BanLog {
    /// Whether a line about `rule` may be logged. If not, it is counted for [`BanLog::summary`].
    pub(super) fn has_room(&mut self, rule: RuleId) -> bool {
        if self.lines < MAX_LINES {
            self.lines += 1;
            return true;
        }
        *self.left_out.entry(rule).or_default() += 1;
        false
    }

    /// Begins a new interval if the current one has lasted long enough, and describes the lines that were left out of that, if any:
    /// `48321 more in 10 s: w00tw00t 48000, admin 321`. To be called about once a second.
    pub(super) fn summary(&mut self, now: Time, names: &RuleNames) -> Option<String> {
        let length = now.since(*self.since.get_or_insert(now));
        if length < INTERVAL {
            return None;
        }
        (self.since, self.lines) = (Some(now), 0);
        self.take_left_out(names).map(|(sum, rules)| format!("{sum} more in {} s: {rules}", length.secs()))
    }

    /// Describes the lines that were left out so far, because the process ends.
    pub(super) fn rest(&mut self, names: &RuleNames) -> Option<String> {
        self.take_left_out(names).map(|(sum, rules)| format!("{sum} more: {rules}"))
    }

    /// How many lines were left out, and of which rules.
    fn take_left_out(&mut self, names: &RuleNames) -> Option<(u64, String)> {
        let mut by_rule: Vec<(u64, Arc<str>)> = self.left_out.drain().map(|(rule, count)| (count, names.name(rule))).collect();
        by_rule.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        let sum: u64 = by_rule.iter().map(|(count, _)| count).sum();
        let mut rules: Vec<String> = by_rule.iter().take(MAX_RULES).map(|(count, rule)| format!("{rule} {count}")).collect();
        if by_rule.len() > MAX_RULES {
            rules.push(format!("{} other rules", by_rule.len() - MAX_RULES));
        }
        (sum > 0).then(|| (sum, rules.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log whose first interval has just begun.
    fn new() -> (BanLog, RuleNames) {
        let (mut log, names) = (BanLog::default(), RuleNames::default());
        assert_eq!(log.summary(after(0), &names), None);
        (log, names)
    }

    fn after(seconds: u64) -> Time {
        Time::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn up_to_a_hundred_bans_in_ten_seconds_have_a_line_each_and_the_others_are_counted_by_rule() {
        let (mut log, names) = new();
        let [a, b] = ["a", "b"].map(|name| names.intern(name));
        assert_eq!((0..150).filter(|number| log.has_room(if number % 5 == 0 { a } else { b })).count(), 100);
        assert_eq!(log.summary(after(9), &names), None, "the interval has not ended");
        assert!(!log.has_room(a), "nor has its summary been logged");
        assert_eq!(log.summary(after(12), &names).as_deref(), Some("51 more in 12 s: b 40, a 11"));
        assert_eq!(log.summary(after(100), &names), None, "once");
        assert_eq!((0..150).filter(|_| log.has_room(a)).count(), 100, "a new interval");
    }

    #[test]
    fn a_quiet_log_leaves_nothing_out() {
        let (mut log, names) = new();
        for second in 0..1000 {
            assert!((0..9).all(|_| log.has_room(RuleId::MANUAL)));
            assert_eq!(log.summary(after(second), &names), None);
        }
    }

    #[test]
    fn what_was_left_out_is_told_when_the_process_ends() {
        let (mut log, names) = (BanLog::default(), RuleNames::default());
        let rule = names.intern("a");
        assert_eq!(log.rest(&names), None);
        (0..103).for_each(|_| _ = log.has_room(rule));
        assert_eq!(log.rest(&names).as_deref(), Some("3 more: a 3"));
        assert_eq!(log.rest(&names), None, "once");
    }

    #[test]
    fn a_summary_names_the_five_rules_with_the_most_bans() {
        let (mut log, names) = new();
        for number in 0..8_u32 {
            let rule = names.intern(&format!("rule-{number}"));
            (0..100 + number).for_each(|_| _ = log.has_room(rule));
        }
        let text = log.summary(after(10), &names).unwrap();
        assert!(text.starts_with("728 more in 10 s: rule-7 107, rule-6 106, ") && text.ends_with(", 2 other rules"), "{text}");
    }
}
