//! What is known of connections whose failure is spread over several lines (`<F-MLFID>`): fail2ban's `_mergeFailure` and its cache.

use super::expression::Groups;
use lru::LruCache;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;

/// Connections that are remembered at most; then the oldest is forgotten.
const MOST: NonZeroUsize = NonZeroUsize::new(100).unwrap();

/// How long a connection is remembered, in seconds.
const KEPT: f64 = 300.0;

/// A failure, perhaps of several lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// The groups of all lines: a later line replaces what an earlier one said.
    pub groups: Groups,
    /// Users that were tried: one or two are kept, as only "more than one" matters.
    users: BTreeSet<String>,
    /// Whether there was a failure that named nobody yet.
    pub pending: bool,
}

impl Failure {
    /// Whether a group took part and holds something.
    #[must_use]
    pub fn says(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|text| !text.is_empty())
    }

    fn take(&mut self, group: &str) -> bool {
        self.groups.remove(group).is_some_and(|text| !text.is_empty())
    }

    fn add_user(&mut self, user: Option<&String>) {
        if let Some(user) = user.filter(|user| !user.is_empty())
            && self.users.len() < 2
        {
            self.users.insert(user.clone());
        }
    }
}

/// The connections of one log.
#[derive(Debug)]
pub struct Connections {
    /// Never touched by a look, so the first to go is the oldest.
    known: LruCache<String, (Failure, f64)>,
}

impl Default for Connections {
    fn default() -> Self {
        // Bounded by hand below.
        Self { known: LruCache::unbounded() }
    }
}

impl Connections {
    /// Merges the groups of a line into what is known of its connection, and hands the result to `judge`; what that changes is remembered.
    pub fn merge<R>(&mut self, id: &str, groups: Groups, now: f64, judge: impl FnOnce(&mut Failure) -> R) -> R {
        let mut line = Failure { groups, ..Failure::default() };
        if line.says("mlfgained") && !line.says("nofail") {
            let gained = line.groups.get("mlfgained").cloned().unwrap_or_default();
            line.groups.insert("nofail".to_owned(), gained);
        }
        let gained = line.says("mlfgained");
        let forget = line.take("mlfforget");
        let user = line.groups.get("user").cloned();

        if self.known.peek(id).is_some_and(|(_, until)| *until <= now) {
            self.known.pop(id);
        }
        if let Some((known, _)) = self.known.peek_mut(id) {
            known.add_user(user.as_ref());
            known.groups.remove("nofail");
            known.groups.remove("mlfgained");
            if gained {
                known.pending = false;
            }
            known.groups.extend(line.groups);
            known.settle(true);
            let result = judge(known);
            if forget {
                self.known.pop(id);
            }
            return result;
        }
        if forget {
            line.settle(false);
            return judge(&mut line);
        }
        line.add_user(user.as_ref());
        line.settle(true);
        let result = judge(&mut line);
        self.remember(id, line, now);
        result
    }

    fn remember(&mut self, id: &str, failure: Failure, now: f64) {
        if self.known.len() >= MOST.get() {
            while let Some((_, (_, until))) = self.known.pop_lru() {
                if until > now && self.known.len() < MOST.get() {
                    break;
                }
            }
        }
        self.known.put(id.to_owned(), (failure, now + KEPT));
    }
}

impl Failure {
    /// A failure that was pending, or an attempt with a second user, is a failure whatever this line alone would be.
    fn settle(&mut self, with_users: bool) {
        if std::mem::take(&mut self.pending) || (with_users && self.users.len() > 1) {
            self.groups.remove("nofail");
            self.groups.remove("mlfgained");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(pairs: &[(&str, &str)]) -> Groups {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_address_from_an_earlier_line_is_known_later() {
        let mut connections = Connections::default();
        connections
            .merge("c1", groups(&[("nofail", "Connection from"), ("ip4", "192.0.2.1")]), 0.0, |failure| assert!(failure.says("nofail")));
        connections.merge("c1", groups(&[("user", "root")]), 1.0, |failure| {
            assert!(!failure.says("nofail"));
            assert_eq!(failure.groups["ip4"], "192.0.2.1");
        });
        connections.merge("c2", groups(&[("user", "root")]), 1.0, |failure| assert!(!failure.says("ip4")));
    }

    #[test]
    fn a_failure_without_address_waits_for_one() {
        let mut connections = Connections::default();
        connections.merge("c", groups(&[]), 0.0, |failure| failure.pending = true);
        connections.merge("c", groups(&[("nofail", "x"), ("ip4", "192.0.2.1")]), 1.0, |failure| {
            assert!(!failure.says("nofail"), "it is a failure now")
        });
        connections.merge("c", groups(&[("nofail", "x")]), 2.0, |failure| assert!(failure.says("nofail"), "only once"));
    }

    #[test]
    fn a_forgotten_connection_is_unknown_afterwards() {
        let mut connections = Connections::default();
        connections.merge("c", groups(&[("ip4", "192.0.2.1")]), 0.0, |_| ());
        connections.merge("c", groups(&[("mlfforget", "closed")]), 1.0, |failure| assert!(failure.says("ip4")));
        connections.merge("c", groups(&[]), 2.0, |failure| assert!(!failure.says("ip4")));
        let mut connections = Connections::default();
        connections.merge("c", groups(&[("ip4", "192.0.2.1")]), 0.0, |_| ());
        connections.merge("c", groups(&[]), 300.0, |failure| assert!(!failure.says("ip4"), "after five minutes too"));
    }

    #[test]
    fn a_second_user_makes_a_failure() {
        let mut connections = Connections::default();
        connections.merge("c", groups(&[("nofail", "x"), ("user", "a")]), 0.0, |failure| assert!(failure.says("nofail")));
        connections.merge("c", groups(&[("nofail", "x"), ("user", "b")]), 1.0, |failure| assert!(!failure.says("nofail")));
    }

    #[test]
    fn only_so_many_connections_are_remembered() {
        let mut connections = Connections::default();
        for number in 0..10_000 {
            connections.merge(&number.to_string(), groups(&[("ip4", "192.0.2.1")]), 0.0, |_| ());
        }
        assert!(connections.known.len() <= MOST.get());
        connections.merge("9999", Groups::new(), 0.0, |failure| assert!(failure.says("ip4"), "the newest stay"));
    }
}
