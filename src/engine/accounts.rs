//! Wrong passwords for one account by many clients. Once an account is under attack, each further wrong one bans its sender at once.

use std::sync::atomic::Ordering;

use super::Engine;
use crate::client::{Client, Ipv6Prefix};
use crate::rule::{Evidence, Offence, Rule};
use crate::table::{Account, Counter, CrowdLimit};
use crate::time::Time;

/// A wrong password that was counted.
pub(super) struct Guess {
    pub(super) counter: Counter,
    /// Why its sender is to be banned, if the account is under attack.
    pub(super) evidence: Option<Evidence>,
}

impl Engine {
    /// Counts wrong passwords for the account of `offence`. `None` if they do not count: no account is named, or the client logged in to it
    /// lately, so that its user has mistyped.
    pub(super) fn guess(&self, now: Time, rule: &Rule, offence: &Offence, prefix: Ipv6Prefix, strikes: u32) -> Option<Guess> {
        let account = offence.account?;
        if self.accounts.is_known(account, offence.client, now) || !self.counts_under(now, rule, offence.client) {
            return None;
        }
        self.stats.offences.fetch_add(1, Ordering::Relaxed);
        let limit =
            CrowdLimit { rule: rule.id, findtime: rule.findtime, maxretry: rule.maxretry, members: rule.members, starts_again: false };
        let count = self.guesses.add(limit, account, guesser(offence.client, prefix), now, strikes);
        let evidence = || {
            let text = format!("{} wrong passwords for one account by {} clients or more", count.counter.count(), count.members);
            Evidence::new(&[text.as_bytes()])
        };
        Some(Guess { counter: count.counter, evidence: count.is_reached.then(evidence) })
    }

    /// Notes that `client` logged in to `account`: it is not one of those who guess at it, nor will it be.
    pub fn note_login(&self, now: Time, rule: &Rule, account: Account, client: Client) {
        self.accounts.note_login(account, client, now);
        self.guesses.leave(rule.id, account, guesser(client, self.policy().prefix));
    }
}

/// As whom `client` counts among the different clients that guess at an account. All of an IPv6 /48 are one: a single subscriber may have that.
fn guesser(client: Client, prefix: Ipv6Prefix) -> Client {
    Client::of(client.address(), Ipv6Prefix::new(48).map_or(prefix, |subscriber| subscriber.min(prefix)))
}
