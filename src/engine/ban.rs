//! Bans and unbans by an operator or another machine, and changes that another process made.

use std::sync::Arc;

use super::crowds::banned_network;
use super::lift::refuses_here;
use super::publish::Publication;
use super::{Applied, BanRecord, Change, Completion, Engine, NetworkRecord, Persisted, Reach};
use crate::client::Client;
use crate::event::{Scope, Service};
use crate::geo::Network;
use crate::list::{BannedNetwork, Saved};
use crate::rule::Standing;
use crate::table::{Ban, Until};
use crate::time::Time;

/// Why a change is not saved when its time limit has passed: it still may be.
pub const SLOW: &str = "the state file is slow";

impl Engine {
    /// Calls `then` when everything that was changed before is saved, or has failed, however long that takes.
    pub fn when_all_saved(&self, then: impl FnOnce(Persisted) + Send + 'static) {
        match self.journal.get() {
            Some(journal) => journal.flush(Box::new(then)),
            None => then(Persisted::Yes),
        }
    }

    /// Bans a client. The caller has checked that the client may be banned. A rule that refuses nobody here bans nobody.
    pub fn ban(self: &Arc<Self>, record: BanRecord, completion: Completion) {
        let rule = self.names.intern(&record.rule);
        let ban = Ban { until: record.until, rule, saved: self.journal.get().is_none() };
        let _lock = self.client_locks.lock(&record.client);
        let Some(changed) = self.ban_if(record.client, record.scope, ban, record.since, refuses_here) else {
            return completion.complete(Applied { changed: false, persisted: Persisted::Yes });
        };
        self.records.lock().put(record.client, record.clone());
        self.persist_and_complete(Change::Banned(record), changed, completion);
    }

    /// Unbans `client` on the services of `scope`, and forgets its earlier bans there, so that its next ban is as long as a first one.
    ///
    /// Persisted and published even if there is no ban here: another process or machine may know of one.
    pub fn unban(self: &Arc<Self>, now: Time, client: Client, scope: Scope, completion: Completion) {
        let _lock = self.client_locks.lock(&client);
        let changed = scope.services().iter().any(|service| self.bans.get(client, *service, now).is_some());
        self.bans.unban(client, scope);
        let kept = self.forget_earlier_bans(client, scope);
        let reach = Reach::Everywhere;
        self.persist_and_complete(Change::Unbanned { client, scope, at: now, kept, reach }, changed, completion);
    }

    /// Unbans `client` on those services of `scope` where `is_own` says so of the active ban. Bans of others stay, and so do the earlier bans
    /// that make the next ones longer.
    pub fn release(
        self: &Arc<Self>,
        now: Time,
        client: Client,
        scope: Scope,
        is_own: impl Fn(&Ban) -> bool,
        reach: Reach,
        completion: Completion,
    ) {
        let _lock = self.client_locks.lock(&client);
        let is_own = |service| scope.services().contains(&service) && self.bans.get(client, service, now).is_some_and(|ban| is_own(&ban));
        let scope = match (is_own(Service::Web), is_own(Service::Mail)) {
            (true, true) => Scope::All,
            (true, false) => Scope::Web,
            (false, true) => Scope::Mail,
            (false, false) => return completion.complete(Applied { changed: false, persisted: Persisted::Yes }),
        };
        self.bans.unban(client, scope);
        // Nothing was wrong with the bans by our own rules: the next ones go on growing.
        let policy = self.policy();
        let growing = policy.rules.rules().iter().filter(|rule| rule.bantime.increment.is_some());
        let kept = growing.map(|rule| Arc::clone(&rule.name)).collect();
        self.persist_and_complete(Change::Unbanned { client, scope, at: now, kept, reach }, true, completion);
    }

    /// Unbans exactly this network, and forgets its earlier bans. Like [`Engine::unban`], persisted and published even if there is none.
    pub fn unban_network(self: &Arc<Self>, now: Time, network: Network, completion: Completion) {
        let _lock = self.client_locks.lock(&network);
        let mut removed = None;
        self.change_lists(|lists| removed = lists.banned.remove(network));
        self.forget_earlier_bans_of_network(network);
        let changed = removed.is_some_and(|ban| ban.is_active(now));
        let change = Change::NetworkUnbanned { network, at: now, forgets: true, reach: Reach::Everywhere };
        self.persist_and_complete(change, changed, completion);
    }

    /// Ends the ban of exactly this network if it is active and `is_own` says so of it. Bans of others stay, and so do the earlier bans that
    /// make the next ones longer.
    pub fn release_network(
        self: &Arc<Self>,
        now: Time,
        network: Network,
        is_own: impl Fn(&BannedNetwork) -> bool,
        reach: Reach,
        completion: Completion,
    ) {
        let _lock = self.client_locks.lock(&network);
        let mut removed = None;
        self.change_lists(|lists| {
            if lists.banned.get(network).is_some_and(|ban| ban.is_active(now) && is_own(ban)) {
                removed = lists.banned.remove(network);
            }
        });
        if removed.is_none() {
            return completion.complete(Applied { changed: false, persisted: Persisted::Yes });
        }
        self.persist_and_complete(Change::NetworkUnbanned { network, at: now, forgets: false, reach }, true, completion);
    }

    /// Persists a change and completes it when it is saved, has failed, or the disk is too slow.
    pub(super) fn persist_and_complete(self: &Arc<Self>, change: Change, changed: bool, completion: Completion) {
        self.persist_and_complete_then(change, changed, completion, |_| ());
    }

    /// As [`Engine::persist_and_complete`], and calls `then` when the change is saved or has failed, however long that takes.
    pub(super) fn persist_and_complete_then(
        self: &Arc<Self>,
        change: Change,
        changed: bool,
        completion: Completion,
        then: impl FnOnce(&Persisted) + Send + 'static,
    ) {
        let publication = Publication::new(change);
        let (engine, unsaved) = (Arc::clone(self), Arc::clone(&publication));
        let held = self.deadlines.hold(completion, move |completion: Completion| {
            unsaved.publish(&engine);
            engine.count_unsaved_answer();
            completion.complete(Applied { changed, persisted: Persisted::No(SLOW.into()) });
        });
        self.persist(&publication, move |persisted| {
            then(&persisted);
            if let Some(completion) = held.take() {
                completion.complete(Applied { changed, persisted });
            }
        });
    }

    /// Applies a change that another process made and saved: only observers are notified. A ban by a rule that refuses nobody here is none.
    pub fn apply(&self, change: &Change, now: Time) {
        self.take_over(change, now, refuses_here);
    }

    /// Applies a change that was saved before this process started. The caller then lifts the bans of rules that refuse nobody any more.
    pub fn load(&self, change: &Change, now: Time) {
        self.take_over(change, now, |_| true);
    }

    fn take_over(&self, change: &Change, now: Time, refuses: impl Fn(Standing) -> bool) {
        let _lock = match change {
            Change::Banned(BanRecord { client, .. }) | Change::Unbanned { client, .. } => Some(self.client_locks.lock(client)),
            Change::NetworkBanned(NetworkRecord { network, .. })
            | Change::NetworkUnbanned { network, .. }
            | Change::NetworkEvicted { network, .. } => Some(self.client_locks.lock(network)),
            Change::Forgotten(_) | Change::RuleLifted { .. } | Change::Paused(_) | Change::Resumed => None,
        };
        match change {
            Change::Banned(record) => {
                if !self.restore(record, now, refuses) {
                    return;
                }
            }
            Change::Unbanned { client, scope, .. } => {
                self.bans.unban(*client, *scope);
                self.forget_earlier_bans(*client, *scope);
            }
            Change::Forgotten(forgotten) => self.drop_earlier_bans(forgotten),
            Change::NetworkBanned(record) => {
                let rule = self.names.intern(&record.rule);
                if !refuses(self.policy().rules.standing(Some(rule), &record.rule)) {
                    return;
                }
                let ban = banned_network(rule, record, Saved::default());
                if ban.is_active(now) {
                    self.change_lists(|lists| {
                        lists.banned.insert(ban);
                    });
                }
            }
            Change::NetworkUnbanned { network, .. } | Change::NetworkEvicted { network, .. } => {
                self.change_lists(|lists| _ = lists.banned.remove(*network));
                if matches!(change, Change::NetworkUnbanned { forgets: true, .. }) {
                    self.forget_earlier_bans_of_network(*network);
                }
            }
            Change::RuleLifted { rule: name, .. } => {
                let rule = self.names.find(name);
                self.bans.unban_rules(|of| Some(of) == rule);
            }
            Change::Paused(pause) => self.restore_pause(pause.clone(), now),
            Change::Resumed => self.set_pause(None),
        }
        self.notify_observers(change);
    }

    /// Puts a saved ban into the table, unless it is over. False if its rule refuses nobody.
    ///
    /// From now on it lasts at most its original length: a clock that was ahead when the ban was made must not prolong it.
    fn restore(&self, record: &BanRecord, now: Time, refuses: impl Fn(Standing) -> bool) -> bool {
        let until = record.until.time().map_or(Until::NEVER, |until| Until::at(until.min(now.after(until.since(record.since)))));
        if until.is_expired(now) {
            return true;
        }
        let rule = self.names.intern(&record.rule);
        self.ban_if(record.client, record.scope, Ban { until, rule, saved: true }, now, refuses).is_some()
    }
}
