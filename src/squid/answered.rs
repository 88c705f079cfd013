//! What a helper answered by itself, for the resident's metrics: all but the offences, which the resident answers and counts.

use std::collections::BTreeMap;

use crate::rule::RuleId;
use crate::verdict::{Innocence, Verdict};

/// Answers by what they said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answered {
    /// Queries answered `ERR`: the client is served.
    pub served: u64,
    /// Those answered `ERR` for a fault: nobody could be asked.
    pub failed_open: u64,
    /// Refusals, by rule.
    pub refused: BTreeMap<RuleId, u64>,
}

impl Answered {
    /// Counts an answer.
    pub fn note(&mut self, verdict: &Verdict) {
        match (verdict.refusal(), verdict) {
            (Some(refusal), _) => *self.refused.entry(refusal.rule).or_default() += 1,
            (None, Verdict::Allow(Innocence::Failure)) => self.failed_open += 1,
            (None, _) => self.served += 1,
        }
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.served == 0 && self.failed_open == 0 && self.refused.is_empty()
    }

    /// Adds what `other` has counted, and leaves it empty.
    pub fn take(&mut self, other: &mut Self) {
        self.served += std::mem::take(&mut other.served);
        self.failed_open += std::mem::take(&mut other.failed_open);
        while let Some((rule, count)) = other.refused.pop_first() {
            *self.refused.entry(rule).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Until;
    use crate::verdict::{Grounds, Refusal};

    #[test]
    fn answers_are_counted_by_what_they_said_and_handed_on_once() {
        let refusal = Refusal { rule: RuleId::MANUAL, until: Until::NEVER, grounds: Grounds::Banned };
        let (mut answered, mut sum) = (Answered::default(), Answered::default());
        for verdict in [Verdict::Allow(Innocence::NothingFound), Verdict::Allow(Innocence::Failure), refusal.on_web(), refusal.on_web()] {
            answered.note(&verdict);
        }
        sum.take(&mut answered.clone());
        sum.take(&mut answered);
        assert!(answered.is_empty());
        assert_eq!(sum, Answered { served: 2, failed_open: 2, refused: BTreeMap::from([(RuleId::MANUAL, 4)]) });
    }
}
