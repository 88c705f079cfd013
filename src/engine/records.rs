//! Ban records: what is known of a client's bans besides the service and the end, which the table holds.

use super::{BanRecord, Engine};
use crate::client::Client;
use crate::event::Service;
use crate::rule::Evidence;
use crate::table::Ban;
use crate::time::Time;

/// The bans of one client under one rule so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlierBans {
    /// Their number.
    pub times: u32,
    /// When the last one began.
    pub last: Time,
}

impl Engine {
    /// The record of the latest ban of `client`, if it is still in memory.
    #[must_use]
    pub fn ban_record(&self, client: Client) -> Option<BanRecord> {
        self.records.lock().peek(&client).cloned()
    }

    /// The record of `ban` if it is still in memory; otherwise one with what the table itself knows.
    #[must_use]
    pub fn record_of(&self, client: Client, service: Service, ban: Ban, now: Time) -> BanRecord {
        let rule = self.names.name(ban.rule);
        if let Some(record) = self.ban_record(client).filter(|record| record.until == ban.until && record.rule == rule) {
            return record;
        }
        BanRecord {
            client,
            scope: service.scope(),
            rule,
            first: now,
            since: now,
            until: ban.until,
            count: 0,
            times: 1,
            evidence: Evidence::new(&[]),
            node: "".into(),
        }
    }

    /// Calls `then` with the record of `ban`, unless it was removed or replaced. No ban of `client` is made or removed until `then` returns.
    pub fn with_record_if_active(&self, now: Time, client: Client, service: Service, ban: Ban, then: impl FnOnce(BanRecord)) {
        let _lock = self.client_locks.lock(&client);
        if self.bans.get(client, service, now).is_some_and(|active| active.until == ban.until) {
            // The record may name both services although the client was unbanned on one of them since.
            then(BanRecord { scope: service.scope(), ..self.record_of(client, service, ban, now) });
        }
    }

    /// The record of the latest ban of `client` that a rule in shadow mode would have made, if it is still in memory.
    #[must_use]
    pub fn shadow_record(&self, client: Client) -> Option<BanRecord> {
        self.shadow_records.lock().peek(&client).cloned()
    }

    /// Forgets the bans of `client` that would make its next one longer.
    pub(super) fn forget_earlier_bans(&self, client: Client) {
        let policy = self.policy();
        let growing = policy.rules.rules().iter().filter(|rule| rule.bantime.increment.is_some());
        let mut earlier_bans = self.earlier_bans.lock();
        growing.for_each(|rule| _ = earlier_bans.pop(&(client, rule.id)));
    }

    /// Restores the earlier bans of a client under a rule, as a state file has them.
    pub fn restore_earlier_bans(&self, client: Client, rule: &str, earlier: EarlierBans) {
        let rule = self.names.intern(rule);
        self.earlier_bans.lock().put((client, rule), earlier);
    }
}
