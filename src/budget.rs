//! The false-ban budget: whom rules banned lately, and how many of these clients look good. It warns, and switches nothing off.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use ahash::RandomState;
use lru::LruCache;

use crate::client::Client;
use crate::conduct::{Conduct, Deed};
use crate::rule::RuleId;

/// So many clients' conduct is remembered, those met last: about 10 MB.
const CLIENTS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
/// So many clients that it banned are remembered of each rule, the last ones.
const BANNED: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

/// Conduct and bans, of late.
#[derive(Debug)]
pub struct Budget {
    conducts: Mutex<LruCache<Client, Conduct, RandomState>>,
    banned: Mutex<HashMap<RuleId, LruCache<Client, (), RandomState>, RandomState>>,
}

/// How one rule stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// The rule.
    pub rule: RuleId,
    /// Clients that it banned, or in shadow mode would have banned; at most the last thousand.
    pub clients: usize,
    /// Of these, the ones that look good.
    pub good: usize,
}

impl Share {
    /// `good` / `clients`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "at most a thousand")]
    pub fn share(&self) -> f64 {
        if self.clients == 0 { 0.0 } else { self.good as f64 / self.clients as f64 }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { conducts: Mutex::new(LruCache::with_hasher(CLIENTS, RandomState::new())), banned: Mutex::default() }
    }
}

impl Budget {
    /// Notes what `client` did, and whether it proved who it is.
    pub fn note(&self, client: Client, deed: Deed, authenticated: bool) {
        if deed == Deed::Neither && !authenticated {
            return;
        }
        let mut conducts = self.conducts.lock().unwrap_or_else(PoisonError::into_inner);
        conducts.get_or_insert_mut(client, Conduct::default).note(deed, authenticated);
    }

    /// Notes that `rule` banned `client`, or would have.
    pub fn banned(&self, rule: RuleId, client: Client) {
        let mut banned = self.banned.lock().unwrap_or_else(PoisonError::into_inner);
        banned.entry(rule).or_insert_with(|| LruCache::with_hasher(BANNED, RandomState::new())).put(client, ());
    }

    /// The rules of whose banned clients more than `share` look good, by what is known of them now: earlier and later.
    #[must_use]
    pub fn beyond(&self, share: f64) -> Vec<Share> {
        let conducts = self.conducts.lock().unwrap_or_else(PoisonError::into_inner);
        let banned = self.banned.lock().unwrap_or_else(PoisonError::into_inner);
        let looks_good = |client: &Client| conducts.peek(client).is_some_and(Conduct::looks_good);
        let mut shares: Vec<Share> = banned
            .iter()
            .map(|(rule, clients)| Share {
                rule: *rule,
                clients: clients.len(),
                good: clients.iter().filter(|(client, ())| looks_good(client)).count(),
            })
            .filter(|rule| rule.share() > share)
            .collect();
        shares.sort_by_key(|rule| std::cmp::Reverse(rule.good));
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Names;
    use std::net::Ipv4Addr;

    fn client(number: u32) -> Client {
        Client::from(Ipv4Addr::from(number))
    }

    #[test]
    fn a_rule_is_beyond_its_budget_when_too_many_of_its_clients_look_good_earlier_or_later() {
        let names = Names::default();
        let (fair, wide) = (names.intern("fair"), names.intern("wide"));
        let budget = Budget::default();
        for number in 0..10 {
            budget.note(client(number), Deed::Offence, false);
            budget.banned(fair, client(number));
        }
        assert!(budget.beyond(0.01).is_empty());
        budget.banned(wide, client(99));
        assert!(budget.beyond(0.01).is_empty(), "nothing is known of it");
        for _ in 0..3 {
            budget.note(client(99), Deed::Success, false);
        }
        assert_eq!(budget.beyond(0.01), [Share { rule: wide, clients: 1, good: 1 }]);
        budget.note(client(3), Deed::Neither, true);
        assert_eq!(budget.beyond(0.01).len(), 2, "one of ten was authenticated");
        assert_eq!(budget.beyond(0.1).len(), 1, "which is within a tenth");
    }

    #[test]
    fn a_client_banned_again_and_again_is_one_client_and_memory_is_bounded() {
        let budget = Budget::default();
        let rule = Names::default().intern("rule");
        for number in 0..5000 {
            budget.note(client(number % 2000), Deed::Success, true);
            budget.banned(rule, client(number % 2000));
        }
        assert_eq!(budget.beyond(0.5), [Share { rule, clients: 1000, good: 1000 }]);
    }
}
