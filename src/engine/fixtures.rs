//! Values shared by tests of the engine and of the modules above it.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::{BanRecord, Change, Engine};
use crate::client::Client;
use crate::event::{Scope, Service};
use crate::rule::Evidence;
use crate::table::Until;
use crate::time::Time;

/// A permanent ban of `client` on all services.
pub fn record(client: Client, now: Time) -> BanRecord {
    BanRecord {
        client,
        scope: Scope::All,
        rule: "w00tw00t".into(),
        first: now,
        since: now,
        until: Until::NEVER,
        count: 1,
        times: 1,
        evidence: Evidence::new(&[]),
        node: "".into(),
    }
}

/// When the ban of each client on each service ends.
pub type ActiveBans = BTreeMap<(Client, &'static str), Until>;

/// The bans in the engine's table.
pub fn active_bans(engine: &Engine, now: Time) -> ActiveBans {
    let mut active = ActiveBans::new();
    engine.bans().for_each(now, |client, service, ban| _ = active.insert((client, name(service)), ban.until));
    active
}

/// Like a subscriber, knows only those bans of which an observer is notified.
#[derive(Default)]
pub struct TestObserver(pub Mutex<ActiveBans>);

impl TestObserver {
    pub fn notify(&self, change: &Change) {
        let mut active = self.0.lock();
        match change {
            Change::Banned(record) => record.scope.services().iter().for_each(|service| {
                let until = active.entry((record.client, name(*service))).or_insert(record.until);
                *until = record.until.max(*until);
            }),
            Change::Unbanned { client, scope, .. } => scope.services().iter().for_each(|service| {
                active.remove(&(*client, name(*service)));
            }),
            _ => {}
        }
    }
}

fn name(service: Service) -> &'static str {
    if service == Service::Web { "web" } else { "mail" }
}
