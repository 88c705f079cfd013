//! Offences of groups of clients, and the bans of networks that follow from them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::publish::Publication;
use super::records::next_times;
use super::reply::Reply;
use super::{Applied, Completion, Engine, NetworkRecord, Persisted};
use crate::client::{Client, Ipv6Prefix};
use crate::clock::timestamp;
use crate::event::{Scope, Service};
use crate::geo::Network;
use crate::list::{BannedNetwork, BannedNetworks, Room, Saved};
use crate::policy::Policy;
use crate::rule::{CountBy, Evidence, Mode, NetworkSize, Rule, Standing};
use crate::rule_id::RuleId;
use crate::table::{Counter, CrowdCount, CrowdLimit, Until};
use crate::time::Time;
use crate::verdict::Verdict;

/// Maximum number of networks that rules may have banned for another to take no one's place: each new one copies the list.
const MAX_NETWORKS: usize = 16_384;

/// The result of counting an offence under a rule that counts groups.
pub(super) enum CrowdStrike {
    Counted(Counter),
    /// The ban that the network gets, or would get.
    Reached(NetworkRecord),
}

impl Engine {
    /// Counts strikes of a member of a group. `None` if they do not count: a rule in shadow mode does not count while its shadow ban lasts.
    pub(super) fn strike_crowd(
        &self,
        now: Time,
        rule: &Rule,
        client: Client,
        policy: &Policy,
        strikes: u32,
        evidence: impl FnOnce() -> Evidence,
    ) -> Option<CrowdStrike> {
        let network = network_of(rule, client, policy)?;
        if self.is_shadow_banned(now, rule, network) {
            return None;
        }
        self.stats.offences.fetch_add(1, Ordering::Relaxed);
        let limit =
            CrowdLimit { rule: rule.id, findtime: rule.findtime, maxretry: rule.maxretry, members: rule.members, starts_again: true };
        let count = self.crowds.add(limit, network, subscriber(rule, client, policy.prefix), now, strikes);
        if count.is_reached {
            let times = next_times(&self.earlier_networks, now, rule, network);
            Some(CrowdStrike::Reached(NetworkRecord {
                network,
                scope: rule.scope,
                rule: Arc::clone(&rule.name),
                since: now,
                until: rule.bantime.of(times - 1).map_or(Until::NEVER, |span| Until::at(now.after(span))),
                members: count.members,
                reason: reason(&count, subscriber_prefix(rule, policy.prefix), &evidence()),
            }))
        } else {
            Some(CrowdStrike::Counted(count.counter))
        }
    }

    /// Takes the client of a success, and with it its subscriber, out of its network's count.
    pub(super) fn leave_crowd(&self, rule: &Rule, client: Client, policy: &Policy) {
        let member = subscriber(rule, client, policy.prefix);
        // Nearly always false, and then nobody needs to know the client's network.
        if self.crowds.may_be_member(member)
            && let Some(network) = network_of(rule, client, policy)
        {
            self.crowds.leave(rule.id, network, member);
        }
    }

    fn is_shadow_banned(&self, now: Time, rule: &Rule, network: Network) -> bool {
        rule.mode == Mode::Shadow && self.shadow_networks.lock().get(network).is_some_and(|ban| ban.is_active(now) && ban.rule == rule.id)
    }

    /// Bans a network as a rule says, in memory, and logs it. Returns the ban in force; `None` if an earlier one covers it. The caller holds the
    /// network's lock.
    fn insert_network(&self, now: Time, rule: &Rule, mut record: NetworkRecord) -> Option<(NetworkRecord, Saved)> {
        let saved = Saved::new(self.journal.get().is_none());
        {
            // The policy stays as it is until the ban stands in it, so a reload that takes the rule out of force misses none: see `ban_if`.
            let mut policy = self.policy.write();
            if policy.rules.standing(Some(rule.id), &rule.name) != Standing::Enforced {
                return None;
            }
            let lists = &mut Arc::make_mut(&mut policy).lists;
            if let Some(earlier) = lists.banned.get(record.network).filter(|ban| ban.is_active(now)) {
                let until = earlier.until.map_or(Until::NEVER, Until::at);
                if (earlier.scope == Scope::All || earlier.scope == record.scope) && until >= record.until {
                    return None;
                }
                if earlier.scope != record.scope {
                    record.scope = Scope::All;
                }
                record.until = record.until.max(until);
            }
            lists.banned.insert(banned_network(rule.id, &record, saved.clone()));
        }
        self.network_reasons.lock().put((record.network, rule.id), record.reason.clone());
        self.stats.bans.fetch_add(1, Ordering::Relaxed);
        if self.logs.made.lock().has_room(rule.id) {
            log::info!("banned {}", text(rule, &record));
        }
        Some((record, saved))
    }

    /// Bans a network as a rule says, saves and publishes the ban, and then answers the offence that led to it.
    pub(super) fn ban_network_by_rule(self: &Arc<Self>, now: Time, rule: &Rule, record: NetworkRecord, verdict: Verdict, reply: Reply) {
        let room = self.policy().lists.banned.room_for(record.network, MAX_NETWORKS);
        match room {
            Room::Free => {}
            Room::InPlaceOf(evicted) => {
                log::warn!("the ban of {evicted} ends early, because rules have banned {MAX_NETWORKS} networks");
                self.evict_network(now, evicted);
            }
            Room::Full => {
                self.refuse_network(&record);
                return reply.send(verdict);
            }
        }
        let _lock = self.client_locks.lock(&record.network);
        let Some((record, saved)) = self.insert_network(now, rule, record) else { return reply.send(verdict) };
        let publication = Publication::new(super::Change::NetworkBanned(record));
        let held = {
            let (engine, publication) = (Arc::clone(self), Arc::clone(&publication));
            let answer = self.answer_unsaved(verdict.clone());
            self.deadlines.hold(reply, move |reply| {
                publication.publish(&engine);
                answer(reply);
            })
        };
        self.persist(&publication, move |persisted| {
            if persisted == Persisted::Yes {
                saved.set();
            }
            held.settle(verdict);
        });
    }

    /// Ends the ban of a network here, to make room. On other machines it stays.
    fn evict_network(self: &Arc<Self>, now: Time, network: Network) {
        self.stats.evicted_networks.fetch_add(1, Ordering::Relaxed);
        let _lock = self.client_locks.lock(&network);
        self.change_lists(|lists| _ = lists.banned.remove(network));
        self.persist_and_complete(super::Change::NetworkEvicted { network, at: now }, true, Completion::ignored());
    }

    /// Counts a network that a rule cannot ban, and logs the first.
    fn refuse_network(&self, record: &NetworkRecord) {
        if self.stats.refused_networks.fetch_add(1, Ordering::Relaxed) == 0 {
            let NetworkRecord { network, rule, .. } = record;
            log::warn!("{network} is not banned by rule {rule}, nor are others: rules have banned {MAX_NETWORKS} networks for ever");
        }
    }

    /// Bans a network in memory alone, for a replay.
    pub(super) fn replay_network(&self, now: Time, rule: &Rule, record: &NetworkRecord) {
        let _lock = self.client_locks.lock(&record.network);
        self.insert_network(now, rule, record.clone());
    }

    /// Notes what a rule in shadow mode would have banned.
    pub(super) fn shadow_network(&self, rule: &Rule, record: &NetworkRecord) {
        let mut networks = self.shadow_networks.lock();
        match networks.room_for(record.network, MAX_NETWORKS) {
            Room::Free => {}
            Room::InPlaceOf(evicted) => _ = networks.remove(evicted),
            Room::Full => return self.refuse_network(record),
        }
        networks.insert(banned_network(rule.id, record, Saved::default()));
        drop(networks);
        self.network_reasons.lock().put((record.network, rule.id), record.reason.clone());
        self.stats.shadow_bans.fetch_add(1, Ordering::Relaxed);
        if self.logs.shadow.lock().has_room(rule.id) {
            log::info!("shadow: would ban {}", text(rule, record));
        }
    }

    /// The network around `address` whose ban by a rule in shadow mode would refuse it on `service`, and that rule.
    #[must_use]
    pub fn shadow_network_ban(&self, address: std::net::IpAddr, service: Service, now: Time) -> Option<(RuleId, Network)> {
        let networks = self.shadow_networks.lock();
        let is_meant = |ban: &BannedNetwork| ban.scope.services().contains(&service);
        let origin = || {
            let policy = self.policy();
            policy.geo.origin(Client::of(address, policy.prefix))
        };
        let ban = networks.lookup(address, now, is_meant).or_else(|| networks.lookup_origin(origin, now, is_meant))?;
        Some((ban.rule, ban.network))
    }

    /// The networks that rules in shadow mode would have banned, those that have ended included.
    #[must_use]
    pub fn shadow_networks(&self) -> BannedNetworks {
        self.shadow_networks.lock().clone()
    }

    /// Members and last offence of a network that a rule banned lately, or would have.
    #[must_use]
    pub fn network_reason(&self, network: Network, rule: RuleId) -> Option<Evidence> {
        self.network_reasons.lock().peek(&(network, rule)).cloned()
    }

    /// Bans a network, on the services of its record, in place of an earlier ban of the same network. A ban by a rule joins one on other
    /// services, as it does where the rule makes it: the network is banned on both until the later end.
    pub fn ban_network(self: &Arc<Self>, record: NetworkRecord, completion: Completion) {
        self.ban_network_unless(record, |_| false, completion);
    }

    /// The same, unless `stays` says so of the active ban of this network.
    pub fn ban_network_unless(self: &Arc<Self>, mut record: NetworkRecord, stays: impl Fn(&BannedNetwork) -> bool, completion: Completion) {
        // To a ban by hand, the answers to others do not wait for the disk, only that to the operator.
        let saved = Saved::new(!record.is_by_count() || self.journal.get().is_none());
        let rule = self.names.intern(&record.rule);
        let _lock = self.client_locks.lock(&record.network);
        if self.policy().lists.banned.get(record.network).is_some_and(|ban| ban.is_active(record.since) && stays(ban)) {
            return completion.complete(Applied { changed: false, persisted: Persisted::Yes });
        }
        if record.is_by_count() {
            self.network_reasons.lock().put((record.network, rule), record.reason.clone());
        }
        self.change_lists(|lists| {
            let earlier = lists.banned.get(record.network).filter(|ban| ban.is_active(record.since) && rule != RuleId::MANUAL);
            if let Some(earlier) = earlier.filter(|earlier| earlier.scope != record.scope) {
                record.scope = Scope::All;
                record.until = record.until.max(earlier.until.map_or(Until::NEVER, Until::at));
            }
            lists.banned.insert(banned_network(rule, &record, saved.clone()));
        });
        self.persist_and_complete_then(super::Change::NetworkBanned(record), true, completion, move |persisted| {
            if *persisted == Persisted::Yes {
                saved.set();
            }
        });
    }

    /// Calls `then` with the record of the ban of exactly this network, if it is active, and with its mark for when it is saved. Until it returns,
    /// nobody else bans or unbans the network.
    pub fn with_network_if_active(&self, now: Time, network: Network, then: impl FnOnce(NetworkRecord, Saved)) {
        let _lock = self.client_locks.lock(&network);
        let policy = self.policy();
        let ban = policy.lists.banned.get(network).filter(|ban| ban.is_active(now)).cloned();
        drop(policy);
        if let Some(ban) = ban {
            then(self.network_record_of(&ban), ban.saved);
        }
    }

    /// The record of a ban, with its reason if that is still in memory.
    pub(super) fn network_record_of(&self, ban: &BannedNetwork) -> NetworkRecord {
        let reason = self.network_reason(ban.network, ban.rule).unwrap_or_else(|| Evidence::new(&[]));
        let record = NetworkRecord::manual(ban.network, ban.since, ban.until.map_or(Until::NEVER, Until::at), reason);
        NetworkRecord { rule: self.names.name(ban.rule), scope: ban.scope, members: ban.members, ..record }
    }
}

/// The network that a rule counts `client` in; `None` if it is not known, or the rule counts none.
fn network_of(rule: &Rule, client: Client, policy: &Policy) -> Option<Network> {
    match rule.count_by {
        CountBy::Network(size) => {
            // An IPv6 client may be larger than the network: all of it offended.
            let size = NetworkSize { ipv6: size.ipv6.min(policy.prefix.bits()), ..size };
            Some(size.network_of(client.address()).into())
        }
        CountBy::Asn => Some(policy.geo.asn(client)?.into()),
        CountBy::Client | CountBy::Account => None,
    }
}

/// The member that `client` is of the groups of `rule`: itself or, with IPv6, its subscriber.
fn subscriber(rule: &Rule, client: Client, prefix: Ipv6Prefix) -> Client {
    if client.is_ipv4() { client } else { Client::of(client.address(), subscriber_prefix(rule, prefix)) }
}

/// How many bits of an IPv6 address tell the members of a network apart that `rule` counts, where a client has `prefix`. One subscriber has a
/// /56 or a /48 with as many clients as it likes, so that these must not count as many members.
fn subscriber_prefix(rule: &Rule, prefix: Ipv6Prefix) -> Ipv6Prefix {
    let bits = match rule.count_by {
        CountBy::Asn => 48,
        CountBy::Network(size) if size.ipv6.min(prefix.bits()) < 48 => 48,
        CountBy::Network(size) if size.ipv6.min(prefix.bits()) < 56 => 56,
        _ => return prefix,
    };
    Ipv6Prefix::new(bits).map_or(prefix, |subscriber| subscriber.min(prefix))
}

/// The ban that the record is of.
pub(super) fn banned_network(rule: RuleId, record: &NetworkRecord, saved: Saved) -> BannedNetwork {
    let NetworkRecord { network, scope, since, until, members, .. } = record;
    BannedNetwork { network: *network, rule, scope: *scope, since: *since, until: until.time(), members: *members, saved }
}

/// Why a network is banned: its count, some of its members, and the last offence.
fn reason(count: &CrowdCount, subscriber: Ipv6Prefix, last: &Evidence) -> Evidence {
    let examples: Vec<String> = count.examples.iter().map(|member| member.display(subscriber).to_string()).collect();
    let members = format!("{} offences of {} clients or more, such as {};", count.counter.count(), count.members, examples.join(", "));
    Evidence::new(&[members.as_bytes(), b"last:", last.as_str().as_bytes()])
}

fn text(rule: &Rule, record: &NetworkRecord) -> String {
    let until = record.until.time().map_or_else(|| "forever".into(), |until| format!("until {}", timestamp(until)));
    format!("{} {until} by rule {} in {}: {}", record.network, rule.name, rule.findtime, record.reason.as_str())
}
