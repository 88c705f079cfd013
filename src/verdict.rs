//! Verdicts: allow, deny or defer, with the reason. Text is made of them at the edge.

use crate::list::NeverReason;
use crate::rule::{RuleId, SmtpRefusal};
use crate::table::Until;

/// The answer to one query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Serve the client.
    Allow(Innocence),
    /// Refuse it: a 429 in Squid, a 554 in Exim.
    Deny(Refusal),
    /// Refuse it for now: a 421. For SMTP only.
    Defer(Refusal),
}

/// Why a client is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Innocence {
    /// It is on the never-ban list.
    NeverBanned(NeverReason),
    /// No ban, and no rule was offended.
    NothingFound,
    /// An offence was counted, and does not make a ban yet.
    Counted {
        /// The strictest rule offended.
        rule: RuleId,
        /// The strikes that it counts now.
        count: u32,
    },
    /// Only rules in shadow mode were offended.
    Shadow(RuleId),
    /// The query asked nothing that could be answered.
    NotAQuestion,
    /// The table could not be asked in time, and `on_failure = "allow"`.
    Failure,
}

/// Why, under which rule and until when a client is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The rule.
    pub rule: RuleId,
    /// The end of the ban; where only this event is refused, the time of the event.
    pub until: Until,
    /// What led to it.
    pub grounds: Grounds,
}

/// What led to a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grounds {
    /// A ban that stood already.
    Banned,
    /// This event made the ban.
    Struck,
    /// This event alone is refused: it offends, and does not ban (yet).
    Offence,
    /// The address is on a deny list.
    DenyList,
    /// The table could not be asked in time, and `on_failure = "deny"`.
    Failure,
}

impl Refusal {
    /// The verdict for a web client.
    #[must_use]
    pub fn on_web(self) -> Verdict {
        Verdict::Deny(self)
    }

    /// The verdict for a mail client. A failure never refuses for good.
    #[must_use]
    pub fn on_mail(self, smtp: SmtpRefusal) -> Verdict {
        match smtp {
            SmtpRefusal::Deny if self.grounds != Grounds::Failure => Verdict::Deny(self),
            SmtpRefusal::Deny | SmtpRefusal::Defer => Verdict::Defer(self),
        }
    }
}

impl Verdict {
    /// The refusal, if it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Allow(_) => None,
            Self::Deny(refusal) | Self::Defer(refusal) => Some(refusal),
        }
    }
}
