//! A rule that is switched off or put into shadow mode refuses nobody any more: its bans end with the reload.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Change, Completion, Engine};
use crate::policy::Policy;
use crate::rule::Standing;
use crate::rule_id::{RESERVED, RuleId};
use crate::time::Time;

/// The bans of one rule that ended because the rule refuses nobody any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiftedBans {
    pub rule: Arc<str>,
    /// What the configuration says of the rule now.
    pub standing: Standing,
    /// How many clients and networks they were of.
    pub bans: usize,
}

impl Engine {
    /// Puts `policy` in force, and lifts the bans of the rules that refuse nobody under it: those in shadow mode, those switched off, and those
    /// that the policy before had and this one has not.
    pub fn reload(self: &Arc<Self>, now: Time, policy: Policy) -> Vec<LiftedBans> {
        let before = self.policy();
        self.set_policy(policy);
        self.lift(now, before.rules.rules().iter().map(|rule| &*rule.name))
    }

    /// Lifts the bans of all rules that refuse nobody under the policy in force. A rule that is not in the configuration is one of these if
    /// this machine has made bans by it, so that it is among `own`; otherwise its bans are those of another machine, and stay.
    pub fn lift<'a>(self: &Arc<Self>, now: Time, own: impl Iterator<Item = &'a str>) -> Vec<LiftedBans> {
        let own: HashSet<RuleId> = own.filter(|name| !RESERVED.contains(name)).filter_map(|name| self.names.find(name)).collect();
        let lifted = self.lift_rules(now, |rule, standing| match standing {
            Standing::Enforced => false,
            Standing::Shadow | Standing::Off => true,
            Standing::Unknown => own.contains(&rule),
        });
        for LiftedBans { rule, standing, bans } in &lifted {
            log::info!("{bans} bans of rule {rule} ended: it is {standing}");
        }
        lifted
    }

    /// Lifts bans by rules of the last reload that were made after it: an event that was being judged then was judged by the rules before.
    pub(super) fn lift_again(self: &Arc<Self>, now: Time) {
        let rules = std::mem::take(&mut *self.lifted.lock());
        if !rules.is_empty() {
            self.lift_rules(now, |rule, standing| standing != Standing::Enforced && rules.contains(&rule));
        }
    }

    fn lift_rules(self: &Arc<Self>, now: Time, is_lifted: impl Fn(RuleId, Standing) -> bool) -> Vec<LiftedBans> {
        let policy = self.policy();
        let standing = |rule: RuleId| policy.rules.standing(Some(rule), &self.names.name(rule));
        let all = self.names.all();
        let rules: HashSet<RuleId> = all.into_iter().filter(|rule| is_lifted(*rule, standing(*rule))).collect();
        // What a rule would have banned in shadow mode says nothing once it is in another mode.
        self.shadow_bans.unban_rules(|rule| standing(rule) != Standing::Shadow);
        let mut lifted = self.bans.unban_rules(|rule| rules.contains(&rule));
        for rule in lifted.keys() {
            self.persist_and_complete(Change::RuleLifted(self.names.name(*rule)), true, Completion::ignored());
        }
        for network in policy.lists.banned.iter() {
            if let Some(rule) = self.names.find(&network.rule).filter(|rule| rules.contains(rule)) {
                *lifted.entry(rule).or_default() += 1;
                self.unban_network(now, network.network, Completion::ignored());
            }
        }
        self.lifted.lock().extend(rules);
        let mut lifted: Vec<LiftedBans> =
            lifted.into_iter().map(|(rule, bans)| LiftedBans { rule: self.names.name(rule), standing: standing(rule), bans }).collect();
        lifted.sort_by(|one, other| other.bans.cmp(&one.bans).then_with(|| one.rule.cmp(&other.rule)));
        lifted
    }
}
