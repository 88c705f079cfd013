//! A rule that is switched off or put into shadow mode refuses nobody any more: its bans end with the reload.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Change, Completion, Engine, Reach};
use crate::client::Client;
use crate::event::Scope;
use crate::list::BannedNetwork;
use crate::policy::Policy;
use crate::rule::Standing;
use crate::rule_id::{RESERVED, RuleId};
use crate::table::Ban;
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

/// What becomes of lifted bans in the state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavedBans {
    /// They end there as well: the file belongs to this process.
    End,
    /// They stay: another process that has the rule may share the file.
    Stay,
}

impl Engine {
    /// Puts `policy` in force, and lifts the bans of the rules that refuse nobody under it: those in shadow mode, those switched off, and those
    /// that the policy before had and this one has not.
    pub fn reload(self: &Arc<Self>, now: Time, policy: Policy, saved: SavedBans) -> Vec<LiftedBans> {
        let before = self.policy();
        self.set_policy(policy);
        self.lift(now, before.rules.rules().iter().map(|rule| &*rule.name), saved)
    }

    /// Lifts the bans of all rules that refuse nobody under the policy in force. A rule that is not in the configuration is one of these if
    /// this machine has made bans by it, so that it is among `own`; otherwise its bans are those of another machine, and stay.
    ///
    /// Later bans by these rules are refused where they are made: see [`Engine::ban_if`].
    pub fn lift<'a>(self: &Arc<Self>, now: Time, own: impl Iterator<Item = &'a str>, saved: SavedBans) -> Vec<LiftedBans> {
        let own: HashSet<RuleId> = own.filter(|name| !RESERVED.contains(name)).filter_map(|name| self.names.find(name)).collect();
        let policy = self.policy();
        let standing = |rule: RuleId| policy.rules.standing(Some(rule), &self.names.name(rule));
        let is_lifted = |rule: &RuleId| match standing(*rule) {
            Standing::Enforced => false,
            Standing::Shadow | Standing::Off => true,
            Standing::Unknown => own.contains(rule),
        };
        let rules: HashSet<RuleId> = self.names.all().into_iter().filter(is_lifted).collect();
        // What a rule would have banned in shadow mode says nothing once it is in another mode.
        self.shadow_bans.unban_rules(|rule| standing(rule) != Standing::Shadow);
        for network in self.shadow_networks().iter().filter(|network| standing(network.rule) != Standing::Shadow) {
            self.shadow_networks.lock().remove(network.network);
        }
        let mut lifted: HashMap<RuleId, usize> = HashMap::new();
        {
            // Bans that were made under the policy before reach the journal first, or they would stay there after they are lifted. A later ban
            // of one of these clients, by another rule, reaches it afterwards, or the unban would be taken for one of the later ban.
            let _locks = self.client_locks.lock_all();
            for (rule, clients) in self.bans.unban_rules(|rule| rules.contains(&rule)) {
                lifted.insert(rule, clients.len());
                if saved == SavedBans::End {
                    let change = Change::RuleLifted { rule: self.names.name(rule), clients: clients.into(), at: now };
                    self.persist_and_complete(change, true, Completion::ignored());
                }
            }
        }
        for network in policy.lists.banned.iter() {
            if rules.contains(&network.rule) {
                *lifted.entry(network.rule).or_default() += 1;
                match saved {
                    // The other machines of a fleet keep theirs, each by its own configuration.
                    SavedBans::End => {
                        let is_lifted = |ban: &BannedNetwork| rules.contains(&ban.rule);
                        self.release_network(now, network.network, is_lifted, Reach::Here, Completion::ignored());
                    }
                    SavedBans::Stay => self.change_lists(|lists| _ = lists.banned.remove(network.network)),
                }
            }
        }
        let mut lifted: Vec<LiftedBans> =
            lifted.into_iter().map(|(rule, bans)| LiftedBans { rule: self.names.name(rule), standing: standing(rule), bans }).collect();
        lifted.sort_by(|one, other| other.bans.cmp(&one.bans).then_with(|| one.rule.cmp(&other.rule)));
        for LiftedBans { rule, standing, bans } in &lifted {
            log::info!("{bans} bans of rule {rule} ended: it is {standing}");
        }
        lifted
    }

    /// Puts a ban into the table if `refuses` says so of what the policy in force says of its rule. `None` if it does not; otherwise whether
    /// the ban changed anything.
    ///
    /// The policy stays as it is until the ban is in the table. So a reload, which changes the policy before it lifts bans, misses none.
    pub(super) fn ban_if(&self, client: Client, scope: Scope, ban: Ban, now: Time, refuses: impl Fn(Standing) -> bool) -> Option<bool> {
        let policy = self.policy.read();
        let is_refusing = refuses(policy.rules.standing(Some(ban.rule), &self.names.name(ban.rule)));
        is_refusing.then(|| self.bans.ban(client, scope, ban, now))
    }
}

/// Whether the ban of a rule that another process or machine applied refuses here: also if only that one has the rule.
pub(super) fn refuses_here(standing: Standing) -> bool {
    matches!(standing, Standing::Enforced | Standing::Unknown)
}
