//! The log lines of bans. Usually each ban has a line of its own. Beyond a rate they are counted, with the first ones of each interval as
//! examples: a botnet must not fill the disk or slow the table down by its log. Every ban stays in `list` and `why`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rule_id::{RuleId, RuleNames};

/// Maximum number of lines in an interval.
const MAX_LINES: u32 = 100;
const INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of rules that a summary names, those with the most bans.
const MAX_RULES: usize = 5;

/// Lines of one kind. The time is an argument.
#[derive(Default)]
pub(super) struct BanLog {
    /// When the first line of the current interval was logged.
    since: Option<Instant>,
    lines: u32,
    /// How many lines were left out, by rule.
    left_out: HashMap<RuleId, u64>,
}

impl BanLog {
    /// Whether a line about `rule` may be logged. If not, it is counted for [`BanLog::summary`].
    pub(super) fn has_room(&mut self, now: Instant, rule: RuleId) -> bool {
        // An interval with lines left out lasts until its summary.
        if self.left_out.is_empty() && self.since.is_none_or(|since| now.saturating_duration_since(since) >= INTERVAL) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines < MAX_LINES {
            self.lines += 1;
            return true;
        }
        *self.left_out.entry(rule).or_default() += 1;
        false
    }

    /// Describes the lines that were left out, once their interval has ended: `48321 more in 10 s: w00tw00t 48000, admin 321`. To be called
    /// about once a second.
    pub(super) fn summary(&mut self, now: Instant, names: &RuleNames) -> Option<String> {
        let since = self.since.filter(|since| !self.left_out.is_empty() && now.saturating_duration_since(*since) >= INTERVAL)?;
        let mut by_rule: Vec<(u64, Arc<str>)> = self.left_out.drain().map(|(rule, count)| (count, names.name(rule))).collect();
        self.since = None;
        by_rule.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        let sum: u64 = by_rule.iter().map(|(count, _)| count).sum();
        let mut rules: Vec<String> = by_rule.iter().take(MAX_RULES).map(|(count, rule)| format!("{rule} {count}")).collect();
        if by_rule.len() > MAX_RULES {
            rules.push(format!("{} other rules", by_rule.len() - MAX_RULES));
        }
        Some(format!("{sum} more in {} s: {}", now.saturating_duration_since(since).as_secs(), rules.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_a_hundred_bans_in_ten_seconds_have_a_line_each_and_the_others_are_counted_by_rule() {
        let (mut log, names, start) = (BanLog::default(), RuleNames::default(), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let [a, b] = ["a", "b"].map(|name| names.intern(name));
        assert_eq!((0..150).filter(|number| log.has_room(after(0), if number % 5 == 0 { a } else { b })).count(), 100);
        assert_eq!(log.summary(after(9), &names), None, "the interval has not ended");
        assert!(!log.has_room(after(11), a), "nor has its summary been logged");
        assert_eq!(log.summary(after(12), &names).as_deref(), Some("51 more in 12 s: b 40, a 11"));
        assert_eq!(log.summary(after(100), &names), None, "once");
        assert_eq!((0..150).filter(|_| log.has_room(after(13), a)).count(), 100, "a new interval");
    }

    #[test]
    fn a_quiet_log_leaves_nothing_out() {
        let (mut log, names, start) = (BanLog::default(), RuleNames::default(), Instant::now());
        for number in 0..1000 {
            let now = start + Duration::from_millis(100 * number);
            assert!(log.has_room(now, RuleId::MANUAL));
            assert_eq!(log.summary(now, &names), None);
        }
    }

    #[test]
    fn a_summary_names_the_five_rules_with_the_most_bans() {
        let (mut log, names, start) = (BanLog::default(), RuleNames::default(), Instant::now());
        for number in 0..8_u32 {
            let rule = names.intern(&format!("rule-{number}"));
            (0..100 + number).for_each(|_| _ = log.has_room(start, rule));
        }
        let text = log.summary(start + INTERVAL, &names).unwrap();
        assert!(text.starts_with("728 more in 10 s: rule-7 107, rule-6 106, ") && text.ends_with(", 2 other rules"), "{text}");
    }
}
