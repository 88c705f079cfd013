//! Recent bans by rule, and how many of the banned clients look legitimate. This only warns the operator; no rule is switched off.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use ahash::RandomState;
use lru::LruCache;
use parking_lot::Mutex;

use crate::client::Client;
use crate::event::behaviour::{Behaviour, Outcome};
use crate::rule_id::RuleId;

/// Number of clients whose behaviour is kept, the least recently seen ones being dropped: about 10 MB.
const MAX_CLIENTS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
/// Number of banned clients kept for each rule, the latest ones.
const MAX_BANNED: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

/// The behaviour of recent clients, and the clients that each rule banned.
#[derive(Debug)]
pub struct FalsePositives {
    behaviours: Mutex<LruCache<Client, Behaviour, RandomState>>,
    banned: Mutex<HashMap<RuleId, LruCache<Client, (), RandomState>, RandomState>>,
}

/// The false positives of one rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FalsePositiveShare {
    pub rule: RuleId,
    /// Number of clients that it banned, or in shadow mode would have banned; at most the last thousand.
    pub clients: usize,
    /// Number of these clients that look legitimate.
    pub legitimate: usize,
}

impl FalsePositiveShare {
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "at most a thousand")]
    pub fn share(&self) -> f64 {
        if self.clients == 0 { 0.0 } else { self.legitimate as f64 / self.clients as f64 }
    }
}

impl Default for FalsePositives {
    fn default() -> Self {
        Self { behaviours: Mutex::new(LruCache::with_hasher(MAX_CLIENTS, RandomState::new())), banned: Mutex::default() }
    }
}

impl FalsePositives {
    /// Records the outcome of an event of `client`, and whether the client authenticated.
    pub fn record(&self, client: Client, outcome: Outcome, authenticated: bool) {
        if outcome == Outcome::Neutral && !authenticated {
            return;
        }
        let mut behaviours = self.behaviours.lock();
        behaviours.get_or_insert_mut(client, Behaviour::default).note(outcome, authenticated);
    }

    /// Records that `rule` banned `client`, or in shadow mode would have.
    pub fn record_ban(&self, rule: RuleId, client: Client) {
        let mut banned = self.banned.lock();
        banned.entry(rule).or_insert_with(|| LruCache::with_hasher(MAX_BANNED, RandomState::new())).put(client, ());
    }

    /// The rules for which more than `share` of the banned clients look legitimate, judged by their behaviour before and after the ban. The
    /// rule with the most legitimate clients comes first.
    #[must_use]
    pub fn exceeding(&self, share: f64) -> Vec<FalsePositiveShare> {
        let behaviours = self.behaviours.lock();
        let banned = self.banned.lock();
        let looks_legitimate = |client: &Client| behaviours.peek(client).is_some_and(Behaviour::looks_legitimate);
        let mut shares: Vec<FalsePositiveShare> = banned
            .iter()
            .map(|(rule, clients)| FalsePositiveShare {
                rule: *rule,
                clients: clients.len(),
                legitimate: clients.iter().filter(|(client, ())| looks_legitimate(client)).count(),
            })
            .filter(|rule| rule.share() > share)
            .collect();
        shares.sort_by_key(|rule| std::cmp::Reverse(rule.legitimate));
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule_id::RuleNames;
    use std::net::Ipv4Addr;

    fn client(number: u32) -> Client {
        Client::from(Ipv4Addr::from(number))
    }

    #[test]
    fn a_rule_exceeds_the_share_when_too_many_of_its_clients_look_legitimate_before_or_after_the_ban() {
        let names = RuleNames::default();
        let (fair, wide) = (names.intern("fair"), names.intern("wide"));
        let false_positives = FalsePositives::default();
        for number in 0..10 {
            false_positives.record(client(number), Outcome::Offence, false);
            false_positives.record_ban(fair, client(number));
        }
        assert!(false_positives.exceeding(0.01).is_empty());
        false_positives.record_ban(wide, client(99));
        assert!(false_positives.exceeding(0.01).is_empty(), "the client has no behaviour yet");
        for _ in 0..3 {
            false_positives.record(client(99), Outcome::Success, false);
        }
        assert_eq!(false_positives.exceeding(0.01), [FalsePositiveShare { rule: wide, clients: 1, legitimate: 1 }]);
        false_positives.record(client(3), Outcome::Neutral, true);
        assert_eq!(false_positives.exceeding(0.01).len(), 2, "one of the ten clients authenticated");
        assert_eq!(false_positives.exceeding(0.1).len(), 1, "one in ten is not more than a tenth");
    }

    #[test]
    fn a_client_banned_repeatedly_counts_once_and_memory_is_bounded() {
        let false_positives = FalsePositives::default();
        let rule = RuleNames::default().intern("rule");
        for number in 0..5000 {
            false_positives.record(client(number % 2000), Outcome::Success, true);
            false_positives.record_ban(rule, client(number % 2000));
        }
        assert_eq!(false_positives.exceeding(0.5), [FalsePositiveShare { rule, clients: 1000, legitimate: 1000 }]);
    }
}
