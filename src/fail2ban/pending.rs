//! Failures spread over several lines of one connection (`<F-MLFID>`): fail2ban's `Filter._mergeFailure` and `mlfidCache`.

use super::expression::Groups;
use lru::LruCache;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;

/// Maximum number of remembered connections; then the oldest is forgotten. The `maxCount` of fail2ban's cache.
const MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(100).unwrap();

/// How long a connection is remembered, in seconds. The `maxTime` of fail2ban's cache.
const LIFETIME: f64 = 300.0;

/// What the lines of a connection have said of its failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergedFailure {
    /// The groups of all lines; a later line overrides an earlier one.
    pub groups: Groups,
    /// User names that were tried, two at most: only "more than one" matters.
    users: BTreeSet<String>,
    /// Whether a line was a failure but no line has named an address yet.
    pub pending: bool,
}

impl MergedFailure {
    /// Whether a group took part and is not empty.
    #[must_use]
    pub fn has(&self, group: &str) -> bool {
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
    /// Looked up with `peek` only, so that the least recently used one is the oldest.
    known: LruCache<String, (MergedFailure, f64)>,
}

impl Default for Connections {
    fn default() -> Self {
        // `remember` bounds it, after expired entries are gone.
        Self { known: LruCache::unbounded() }
    }
}

impl Connections {
    /// Merges the groups of a line into those of its connection and passes the result to `judge`, whose changes are remembered.
    pub fn merge<R>(&mut self, id: &str, groups: Groups, now: f64, judge: impl FnOnce(&mut MergedFailure) -> R) -> R {
        let mut line = MergedFailure { groups, ..MergedFailure::default() };
        if line.has("mlfgained") && !line.has("nofail") {
            let gained = line.groups.get("mlfgained").cloned().unwrap_or_default();
            line.groups.insert("nofail".to_owned(), gained);
        }
        let gained = line.has("mlfgained");
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

    fn remember(&mut self, id: &str, failure: MergedFailure, now: f64) {
        if self.known.len() >= MAX_CONNECTIONS.get() {
            while let Some((_, (_, until))) = self.known.pop_lru() {
                if until > now && self.known.len() < MAX_CONNECTIONS.get() {
                    break;
                }
            }
        }
        self.known.put(id.to_owned(), (failure, now + LIFETIME));
    }
}

impl MergedFailure {
    /// Makes the line a failure, whatever it would be alone, if a failure was pending or a second user name was tried.
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
    fn a_later_line_knows_the_address_of_an_earlier_one() {
        let mut connections = Connections::default();
        connections
            .merge("c1", groups(&[("nofail", "Connection from"), ("ip4", "192.0.2.1")]), 0.0, |failure| assert!(failure.has("nofail")));
        connections.merge("c1", groups(&[("user", "root")]), 1.0, |failure| {
            assert!(!failure.has("nofail"));
            assert_eq!(failure.groups["ip4"], "192.0.2.1");
        });
        connections.merge("c2", groups(&[("user", "root")]), 1.0, |failure| assert!(!failure.has("ip4")));
    }

    #[test]
    fn a_failure_without_an_address_waits_for_one() {
        let mut connections = Connections::default();
        connections.merge("c", groups(&[]), 0.0, |failure| failure.pending = true);
        connections.merge("c", groups(&[("nofail", "x"), ("ip4", "192.0.2.1")]), 1.0, |failure| {
            assert!(!failure.has("nofail"), "it is a failure now")
        });
        connections.merge("c", groups(&[("nofail", "x")]), 2.0, |failure| assert!(failure.has("nofail"), "only once"));
    }

    #[test]
    fn a_closed_or_expired_connection_is_forgotten() {
        let mut connections = Connections::default();
        connections.merge("c", groups(&[("ip4", "192.0.2.1")]), 0.0, |_| ());
        connections.merge("c", groups(&[("mlfforget", "closed")]), 1.0, |failure| assert!(failure.has("ip4")));
        connections.merge("c", groups(&[]), 2.0, |failure| assert!(!failure.has("ip4")));
        let mut connections = Connections::default();
        connections.merge("c", groups(&[("ip4", "192.0.2.1")]), 0.0, |_| ());
        connections.merge("c", groups(&[]), 300.0, |failure| assert!(!failure.has("ip4"), "after five minutes too"));
    }

    #[test]
    fn a_second_user_name_is_a_failure() {
        let mut connections = Connections::default();
        connections.merge("c", groups(&[("nofail", "x"), ("user", "a")]), 0.0, |failure| assert!(failure.has("nofail")));
        connections.merge("c", groups(&[("nofail", "x"), ("user", "b")]), 1.0, |failure| assert!(!failure.has("nofail")));
    }

    #[test]
    fn the_number_of_remembered_connections_is_bounded() {
        let mut connections = Connections::default();
        for number in 0..10_000 {
            connections.merge(&number.to_string(), groups(&[("ip4", "192.0.2.1")]), 0.0, |_| ());
        }
        assert!(connections.known.len() <= MAX_CONNECTIONS.get());
        connections.merge("9999", Groups::new(), 0.0, |failure| assert!(failure.has("ip4"), "the newest stay"));
    }
}
