//! `list`: the bans that match a filter, generated piece by piece as fast as the operator's program reads them.

use std::collections::HashMap;
use std::sync::Arc;

use super::context::AdminContext;
use crate::client::Client;
use crate::control::admin::BanFilter;
use crate::control::answer::{END, error, line};
use crate::control::bans::{ListedBan, epoch, remaining, seconds};
use crate::daemon::conn::replies::ReplyText;
use crate::event::{Scope, Service};
use crate::list::BannedNetwork;
use crate::rule::Evidence;
use crate::rule_id::{RuleId, did_you_mean, is_origin};
use crate::table::{Ban, Until};
use crate::time::Time;

/// Maximum number of lists being read at a time: each holds a copy of all bans until it is read.
const MAX_LISTS: usize = 4;
/// Number of bans in one piece of a list.
const PIECE: usize = 256;
/// Maximum number of bans per list whose record is looked up in the state file.
const MAX_LOOKUPS: usize = 10_000;

/// A ban of a client on one service.
type ServiceBan = (Client, Service, Ban);

impl AdminContext {
    pub(super) fn list(&self, filter: &BanFilter) -> ReplyText {
        if Arc::strong_count(&self.lists) > MAX_LISTS {
            return error(&format!("{MAX_LISTS} lists are being read already, try again")).into();
        }
        let reading = Arc::clone(&self.lists);
        let now = self.clock.now();
        let bans = match self.client_bans(filter, now) {
            Ok(bans) => bans,
            Err(fault) => return error(&fault).into(),
        };
        let networks = self.network_bans(filter, now);
        let from_file = if filter.shadow { HashMap::new() } else { self.records_from_file(&bans, now) };
        let (engine, prefix, scope) = (Arc::clone(&self.engine), self.engine.policy().prefix, filter.scope);
        let (with_evidence, in_shadow) = (filter.evidence, filter.shadow);
        let listed = move |(client, scope, ban): (Client, Scope, Ban)| {
            let in_memory = if in_shadow { engine.shadow_record(client) } else { engine.ban_record(client) };
            let in_memory = in_memory.filter(|record| record.until == ban.until).map(|record| (record.since, record.evidence));
            let record = from_file.get(&client).cloned().or(in_memory);
            ListedBan {
                client: client.display(prefix).to_string(),
                scope,
                rule: engine.names().name(ban.rule).to_string(),
                until: epoch(ban.until),
                remaining: remaining(ban.until, now),
                since: record.as_ref().map(|(since, _)| seconds(*since)),
                evidence: record.filter(|_| with_evidence).map(|(_, evidence)| evidence.as_str().to_owned()),
            }
        };
        let matches = move |found: Scope| scope.is_none_or(|wanted| found == Scope::All || found == wanted);
        let is_wanted = move |found: Scope| matches(found) && (scope != Some(Scope::All) || found == Scope::All);
        let mut lines = merge_services(bans.into_iter()).filter(move |(_, scope, _)| is_wanted(*scope)).map(move |ban| line(&listed(ban)));
        let pieces = std::iter::from_fn(move || {
            // Held until the last piece is made.
            let _reading = &reading;
            let piece: String = lines.by_ref().take(PIECE).collect();
            (!piece.is_empty()).then_some(piece)
        });
        ReplyText::Pieces(Box::new(networks.into_iter().map(|network| line(&network)).chain(pieces).chain([END.to_owned()])))
    }

    /// The bans of clients that match `filter`, except for its scope, sorted by client. Clients that are never banned, because a list protects
    /// them by now, are left out: their bans refuse nobody.
    ///
    /// # Errors
    /// The filter names an unknown rule.
    pub(super) fn client_bans(&self, filter: &BanFilter, now: Time) -> Result<Vec<ServiceBan>, String> {
        let rule = match filter.rule.as_deref() {
            None => None,
            Some(name) => Some(self.find_rule(name)?),
        };
        let policy = self.engine.policy();
        let mut bans = Vec::new();
        let table = if filter.shadow { self.engine.shadow_bans() } else { self.engine.bans() };
        table.for_each(now, |client, service, ban| {
            let network_of = client.network(policy.prefix);
            let is_wanted = rule.is_none_or(|rule| rule == ban.rule)
                && filter.network.is_none_or(|network| network.contains(&network_of) || network_of.contains(&network))
                && !policy.lists.protects_all_of(network_of);
            if is_wanted {
                bans.push((client, service, ban));
            }
        });
        bans.sort_unstable_by_key(|(client, service, _)| (*client, *service == Service::Mail));
        Ok(bans)
    }

    /// The banned networks that match `filter`, or with `shadow` those that rules in shadow mode would have banned.
    pub(super) fn network_bans(&self, filter: &BanFilter, now: Time) -> Vec<ListedBan> {
        let banned = if filter.shadow { self.engine.shadow_networks() } else { self.engine.policy().lists.banned.clone() };
        let rule_of = |ban: &BannedNetwork| self.engine.names().name(ban.rule);
        let is_wanted_scope = |found: Scope| match filter.scope {
            None => true,
            Some(wanted) => found == Scope::All || found == wanted,
        };
        let networks = banned.iter().filter(|ban| {
            ban.is_active(now)
                && is_wanted_scope(ban.scope)
                && filter.rule.as_deref().is_none_or(|rule| *rule == *rule_of(ban))
                && filter
                    .network
                    .is_none_or(|wanted| ban.network.block().is_some_and(|block| wanted.contains(&block) || block.contains(&wanted)))
        });
        let listed = networks.map(|ban| {
            let until = ban.until.map_or(Until::NEVER, Until::at);
            ListedBan {
                client: ban.network.to_string(),
                scope: ban.scope,
                rule: rule_of(ban).to_string(),
                until: epoch(until),
                remaining: remaining(until, now),
                since: Some(seconds(ban.since)),
                evidence: if filter.evidence {
                    self.network_ban_reason(ban.network, ban.rule).map(|reason| reason.as_str().to_owned())
                } else {
                    None
                },
            }
        });
        listed.collect()
    }

    /// Start and evidence of each ban whose record is not in memory, for example after a restart: at most [`MAX_LOOKUPS`], from the state file.
    fn records_from_file(&self, bans: &[ServiceBan], now: Time) -> HashMap<Client, (Time, Evidence)> {
        let mut starts = HashMap::new();
        let Some(state) = &self.state else { return starts };
        let mut lookups = 0;
        for (client, _, ban) in bans {
            let in_memory = || self.engine.ban_record(*client).is_some_and(|record| record.until == ban.until);
            if starts.contains_key(client) || in_memory() {
                continue;
            }
            lookups += 1;
            if lookups > MAX_LOOKUPS {
                break;
            }
            let Ok(records) = state.ban_records(*client, now) else { break };
            if let Some(record) = records.into_iter().find(|record| record.until == ban.until) {
                starts.insert(*client, (record.since, record.evidence));
            }
        }
        starts
    }

    /// A ban as `list` shows it, without what only its record says.
    pub(super) fn listed(&self, (client, service, ban): ServiceBan, now: Time) -> ListedBan {
        ListedBan {
            client: client.display(self.engine.policy().prefix).to_string(),
            scope: service.scope(),
            rule: self.engine.names().name(ban.rule).to_string(),
            until: epoch(ban.until),
            remaining: remaining(ban.until, now),
            since: None,
            evidence: None,
        }
    }

    /// The rule with this name.
    ///
    /// # Errors
    /// No rule of this name was ever in force here. Another program has none either until it bans for the first time, which is no error.
    pub(super) fn find_rule(&self, name: &str) -> Result<RuleId, String> {
        let unknown = || if is_origin(name) { Ok(RuleId::NONE) } else { Err(self.unknown_rule(name)) };
        self.engine.names().find(name).map_or_else(unknown, Ok)
    }

    /// The error for an unknown rule, with the name that was probably meant.
    fn unknown_rule(&self, name: &str) -> String {
        let policy = self.engine.policy();
        let hint = did_you_mean(name, policy.rules.rules().iter().map(|rule| &*rule.name).chain(["manual"]));
        format!("found {:?}, expected the name of a rule{hint}", Evidence::new(&[name.as_bytes()]).as_str())
    }
}

/// Merges the two bans of a client that differ only in their service into one of scope `all`. The bans must be sorted by client.
fn merge_services(bans: impl Iterator<Item = ServiceBan>) -> impl Iterator<Item = (Client, Scope, Ban)> {
    let mut bans = bans.peekable();
    std::iter::from_fn(move || {
        let (client, service, ban) = bans.next()?;
        let is_same = |(other, _, other_ban): &ServiceBan| *other == client && (other_ban.until, other_ban.rule) == (ban.until, ban.rule);
        let scope = match (bans.next_if(is_same), service) {
            (Some(_), _) => Scope::All,
            (None, Service::Web) => Scope::Web,
            (None, Service::Mail) => Scope::Mail,
        };
        Some((client, scope, ban))
    })
}
