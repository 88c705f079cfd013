//! What each client did lately under rules that count different things once, or whose strikes a success clears.

use std::num::NonZeroUsize;

use ahash::RandomState;
use lru::LruCache;
use parking_lot::Mutex;

use crate::client::Client;
use crate::rule_id::RuleId;
use crate::time::{Span, Time};

/// Maximum number of clients and rules. With a hundred marks each they take some 60 MB; rules count at most that many, and mostly far fewer.
const MAX_CLIENTS: NonZeroUsize = NonZeroUsize::new(32_768).unwrap();
/// Expired entries dropped by one sweep at most, which holds the lock.
const SWEEP_BATCH: usize = 4096;

/// The marks of one client under one rule, each with the time when it was last seen. There are few, so they are searched one by one.
type Marks = Vec<(u32, Time)>;

/// The marks of the offences of each client, by rule. Bounded: the client that has not offended for longest is forgotten first, and then its
/// repeats count as new.
pub struct SeenMarks(Mutex<LruCache<(RuleId, Client), Marks, RandomState>>);

impl Default for SeenMarks {
    fn default() -> Self {
        Self::new(MAX_CLIENTS)
    }
}

impl SeenMarks {
    fn new(clients: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::with_hasher(clients, RandomState::new())))
    }

    /// Notes an offence, and returns whether its mark is new: not seen within the `findtime` before `now`. Of each client the `most` latest
    /// marks are kept.
    pub fn is_new(&self, rule: RuleId, client: Client, mark: u32, now: Time, findtime: Span, most: usize) -> bool {
        let mut clients = self.0.lock();
        let marks = clients.get_or_insert_mut((rule, client), Marks::new);
        if let Some((_, seen)) = marks.iter_mut().find(|(known, _)| *known == mark) {
            let is_new = seen.after(findtime) <= now;
            // Lines of a log may come late.
            *seen = now.max(*seen);
            return is_new;
        }
        marks.retain(|(_, seen)| seen.after(findtime) > now);
        if marks.len() >= most.max(1)
            && let Some(oldest) = marks.iter().enumerate().min_by_key(|(_, (_, seen))| *seen).map(|(at, _)| at)
        {
            marks.swap_remove(oldest);
        }
        marks.push((mark, now));
        true
    }

    /// Whether `mark` was seen.
    #[must_use]
    pub fn contains(&self, rule: RuleId, client: Client, mark: u32) -> bool {
        self.0.lock().peek(&(rule, client)).is_some_and(|marks| marks.iter().any(|(known, _)| *known == mark))
    }

    /// Forgets what `client` did under `rule`.
    pub fn forget(&self, rule: RuleId, client: Client) {
        self.0.lock().pop(&(rule, client));
    }

    /// Drops what no longer matters, least recently used first. `findtime` is that of a rule, if it is in force.
    pub fn sweep(&self, now: Time, findtime: impl Fn(RuleId) -> Option<Span>) {
        let mut clients = self.0.lock();
        for _ in 0..SWEEP_BATCH {
            let is_expired = clients.peek_lru().is_some_and(|((rule, _), marks)| {
                findtime(*rule).is_none_or(|findtime| marks.iter().all(|(_, seen)| seen.after(findtime) <= now))
            });
            if !is_expired {
                return;
            }
            clients.pop_lru();
        }
    }

    /// Number of clients and rules.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::strikes::fixtures::{FINDTIME, at, client, rules};
    use super::*;

    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_repeat_is_new_again_after_findtime_without_it() {
        let (one, two) = rules();
        let seen = SeenMarks::default();
        let is_new = |rule, mark, second| seen.is_new(rule, client(1), mark, at(second), FINDTIME, 3);
        assert_eq!([is_new(one, 7, 0), is_new(one, 7, 599), is_new(one, 7, 1198), is_new(one, 7, 1798)], [true, false, false, true]);
        assert!(is_new(two, 7, 1798) && is_new(one, 8, 1798), "another rule or another mark");
    }

    #[test]
    fn the_oldest_mark_and_the_oldest_client_make_room() {
        let (one, _) = rules();
        let seen = SeenMarks::new(NonZeroUsize::new(2).unwrap());
        let is_new = |number, mark| seen.is_new(one, client(number), mark, at(u64::from(mark)), FINDTIME, 2);
        assert!(is_new(1, 1) && is_new(1, 2) && is_new(1, 3));
        assert_eq!([1, 2, 3].map(|mark| seen.contains(one, client(1), mark)), [false, true, true]);
        assert!(is_new(2, 1) && is_new(3, 1));
        assert_eq!((seen.len(), seen.contains(one, client(1), 3)), (2, false));
    }

    #[test]
    fn what_is_forgotten_or_expired_is_gone() {
        let (one, two) = rules();
        let seen = SeenMarks::default();
        for (rule, number) in [(one, 1), (two, 2), (one, 3)] {
            seen.is_new(rule, client(number), 7, at(0), FINDTIME, 3);
        }
        seen.forget(one, client(1));
        assert!(!seen.contains(one, client(1), 7));
        let findtime = |rule| (rule == one).then_some(FINDTIME);
        seen.sweep(at(599), findtime);
        assert_eq!(seen.len(), 1, "a rule that is no longer in force");
        seen.sweep(at(600), findtime);
        assert_eq!(seen.len(), 0);
    }

    proptest! {
        /// The twin remembers everything.
        #[test]
        fn marks_are_new_exactly_if_they_were_not_seen_within_findtime(events in proptest::collection::vec((0_u32..3, 0_u32..12, 0_u64..200), 1..200)) {
            let (one, _) = rules();
            let seen = SeenMarks::default();
            let mut twin: HashMap<(u32, u32), u64> = HashMap::new();
            let mut now = 0;
            for (number, mark, gap) in events {
                now += gap;
                let expected = twin.insert((number, mark), now).is_none_or(|last| last + 600 <= now);
                prop_assert_eq!(seen.is_new(one, client(number), mark, at(now), FINDTIME, 12), expected);
            }
        }

        /// A client that never has more than `most` marks within findtime is judged as by the twin; whoever has more is judged with no more memory.
        #[test]
        fn memory_stays_bounded(marks in proptest::collection::vec(any::<u32>(), 1..300), most in 1_usize..20) {
            let (one, _) = rules();
            let seen = SeenMarks::default();
            for (second, mark) in marks.iter().enumerate() {
                seen.is_new(one, client(1), *mark, at(second as u64), FINDTIME, most);
                prop_assert!(seen.0.lock().iter().all(|(_, marks)| marks.len() <= most));
            }
        }
    }
}
