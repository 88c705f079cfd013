//! A rule in the subscribe stream.

use serde::{Deserialize, Serialize};

use crate::event::{Scope, Service};
use crate::geo::OriginCondition;
use crate::list::file::parse_network;
use crate::rule::{Bantime, CountBy, Distinct, Mode, Rule, SmtpRefusal, Trigger};
use crate::rule_id::RuleNames;
use crate::time::Span;

/// What a subscriber needs of a rule in order to find offences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleLine {
    pub(super) name: String,
    pub(super) trigger: Trigger,
    pub(super) maxretry: u32,
    pub(super) scope: Scope,
    pub(super) mode: Mode,
    pub(super) smtp: SmtpRefusal,
    pub(super) refuses_offence: bool,
    pub(super) distinct: Option<Distinct>,
    /// Addresses that the rule never concerns.
    pub(super) ignoreip: Vec<String>,
    /// Which clients it concerns. Only the daemon knows where a client belongs.
    #[serde(default, skip_serializing_if = "OriginCondition::is_empty")]
    pub(super) origin: OriginCondition,
}

impl RuleLine {
    /// `None` for a rule that no event of a Squid helper can offend, unless its bans refuse on the web and spare some addresses: a helper must
    /// know these.
    #[must_use]
    pub fn of(rule: &Rule) -> Option<Self> {
        let is_about_requests = rule.trigger.is_about_requests();
        let spares = || rule.scope.services().contains(&Service::Web) && rule.ignoreip.iter().next().is_some();
        (is_about_requests || spares()).then(|| Self {
            name: rule.name.to_string(),
            // A helper has no use for the patterns of lines: no event there is an incident.
            trigger: if is_about_requests { rule.trigger.clone() } else { Trigger::Incident },
            maxretry: rule.maxretry,
            scope: rule.scope,
            mode: rule.mode,
            smtp: rule.smtp,
            refuses_offence: rule.refuses_offence,
            distinct: rule.distinct,
            ignoreip: rule.ignoreip.iter().map(|network| network.to_string()).collect(),
            origin: rule.origin.clone(),
        })
    }

    /// The rule, without `findtime` and `bantime`: the daemon counts and bans.
    #[must_use]
    pub fn into_rule(self, names: &RuleNames) -> Rule {
        Rule {
            id: names.intern(&self.name),
            name: self.name.into(),
            description: "".into(),
            trigger: self.trigger,
            maxretry: self.maxretry,
            findtime: Span::ZERO,
            bantime: Bantime { initial: None, increment: None },
            scope: self.scope,
            mode: self.mode,
            smtp: self.smtp,
            refuses_offence: self.refuses_offence,
            fleet: false,
            distinct: self.distinct,
            ignoreip: self.ignoreip.iter().filter_map(|network| parse_network(network).ok()).collect(),
            origin: self.origin,
            // Only the daemon counts.
            count_by: CountBy::Client,
            members: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn a_helper_learns_which_addresses_a_rule_spares_whose_bans_refuse_on_the_web() {
        let names = RuleNames::default();
        let text = |ignoreip: &str| format!("[[rule]]\nname = 'banned-network'\nmode = 'enforce'\n{ignoreip}");
        let line = |text: &str| RuleLine::of(Policy::for_tests(text, &names).rules.by_name("banned-network").unwrap());
        assert_eq!(line(&text("")), None, "it spares nobody");
        assert_eq!(line(&text("ignoreip = ['192.0.2.7']\nscope = 'mail'")), None, "it refuses nobody on the web");
        let sent = line(&text("ignoreip = ['192.0.2.7']")).unwrap().into_rule(&names);
        assert_eq!(sent.trigger, Trigger::Incident, "no request offends it");
        assert!(sent.ignoreip.contains("192.0.2.7".parse().unwrap()) && !sent.ignoreip.contains("192.0.2.8".parse().unwrap()));
    }
}
