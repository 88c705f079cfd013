//! Counts of the answers that a helper gave without asking the daemon, for the daemon's metrics.

use std::collections::BTreeMap;

use crate::rule_id::RuleId;
use crate::verdict::{AllowReason, Verdict};

/// Numbers of answers by kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HelperStats {
    /// Queries answered `ERR`, except for those below.
    pub served: u64,
    /// Queries answered `ERR` because there was no verdict.
    pub failed_open: u64,
    pub refused: BTreeMap<RuleId, u64>,
    /// Offences, also among the answers above, that the daemon could not take at once, and has taken later.
    pub deferred: u64,
    /// Offences, also among the answers above, that are never counted.
    pub dropped: u64,
}

impl HelperStats {
    pub fn record(&mut self, verdict: &Verdict) {
        match (verdict.refusal(), verdict) {
            (Some(refusal), _) => *self.refused.entry(refusal.rule).or_default() += 1,
            (None, Verdict::Allow(AllowReason::Failure)) => self.failed_open += 1,
            (None, _) => self.served += 1,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the counts of `other` and resets them.
    pub fn take(&mut self, other: &mut Self) {
        self.served += std::mem::take(&mut other.served);
        self.failed_open += std::mem::take(&mut other.failed_open);
        self.deferred += std::mem::take(&mut other.deferred);
        self.dropped += std::mem::take(&mut other.dropped);
        while let Some((rule, count)) = other.refused.pop_first() {
            *self.refused.entry(rule).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Until;
    use crate::verdict::{DenyReason, Refusal};

    #[test]
    fn answers_are_counted_by_kind_and_taken_once() {
        let refusal = Refusal { rule: RuleId::MANUAL, until: Until::NEVER, reason: DenyReason::Banned };
        let (mut stats, mut sum) = (HelperStats::default(), HelperStats::default());
        for verdict in [Verdict::Allow(AllowReason::NothingFound), Verdict::Allow(AllowReason::Failure), refusal.on_web(), refusal.on_web()]
        {
            stats.record(&verdict);
        }
        (stats.deferred, stats.dropped) = (5, 7);
        sum.take(&mut stats.clone());
        sum.take(&mut stats);
        assert!(stats.is_empty());
        let refused = BTreeMap::from([(RuleId::MANUAL, 4)]);
        assert_eq!(sum, HelperStats { served: 2, failed_open: 2, refused, deferred: 10, dropped: 14 });
    }
}
