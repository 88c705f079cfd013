//! Verdicts: allow, deny or defer, each with its reason. The protocol modules turn them into text.

use crate::list::NeverBanReason;
use crate::rule::SmtpRefusal;
use crate::rule_id::RuleId;
use crate::table::Until;

/// The answer to one query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Serve the client.
    Allow(AllowReason),
    /// Refuse the client: a 429 in Squid, a 554 in Exim.
    Deny(Refusal),
    /// Refuse the client temporarily: a 421 in Exim. Squid has no such answer.
    Defer(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowReason {
    /// The address must never be banned.
    NeverBanned(NeverBanReason),
    /// No ban, and no rule matched.
    NothingFound,
    /// The offence was counted, but does not cause a ban yet.
    Counted {
        /// The strictest rule offended.
        rule: RuleId,
        /// The client's strikes under that rule.
        count: u32,
    },
    /// Only rules in shadow mode matched.
    Shadow(RuleId),
    /// The client would be refused, but a pause is in force.
    Paused,
    /// There is no client to judge: the address is empty, or the reply carries no verdict.
    NotApplicable,
    /// The table could not be reached in time, and `on_failure = "allow"`.
    Failure,
}

/// The rule, end and reason of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub rule: RuleId,
    /// The end of the ban, or the time of the event if only this event is refused.
    pub until: Until,
    pub reason: DenyReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyReason {
    /// An earlier ban.
    Banned,
    /// This event caused the ban.
    Struck,
    /// This event is an offence and is refused on its own; there is no ban yet.
    Offence,
    /// The address is on a deny list.
    DenyList,
    /// The table could not be reached in time, and `on_failure = "deny"`.
    Failure,
}

impl Refusal {
    /// The verdict for a web client.
    #[must_use]
    pub fn on_web(self) -> Verdict {
        Verdict::Deny(self)
    }

    /// The verdict for a mail client. A failure of Strikeout itself never causes a permanent (5xx) refusal.
    #[must_use]
    pub fn on_mail(self, smtp: SmtpRefusal) -> Verdict {
        match smtp {
            SmtpRefusal::Deny if self.reason != DenyReason::Failure => Verdict::Deny(self),
            SmtpRefusal::Deny | SmtpRefusal::Defer => Verdict::Defer(self),
        }
    }
}

impl Verdict {
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Allow(_) => None,
            Self::Deny(refusal) | Self::Defer(refusal) => Some(refusal),
        }
    }
}
