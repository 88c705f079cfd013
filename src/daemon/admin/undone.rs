//! The latest unbans by operators, for `why`: who undid a ban, and when. They are in memory only; the journal has all.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;

use ahash::RandomState;
use ipnet::IpNet;
use lru::LruCache;

use crate::control::admin::UnbanTarget;
use crate::engine::BanRecord;
use crate::time::Time;

/// Number of clients and networks remembered that were unbanned by name.
const MAX_NAMED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Number of unbans of many that are remembered.
const MAX_MANY: usize = 64;

/// An unban by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    pub at: Time,
    /// Who did it, in words.
    pub by: Arc<str>,
    pub what: UnbanTarget,
}

pub struct UndoneBans {
    named: LruCache<IpNet, Undone, RandomState>,
    many: VecDeque<Undone>,
}

impl Default for UndoneBans {
    fn default() -> Self {
        Self { named: LruCache::with_hasher(MAX_NAMED, RandomState::new()), many: VecDeque::new() }
    }
}

impl UndoneBans {
    /// Remembers an unban; if it was of one client or network, that is `named`, as a network.
    pub fn remember(&mut self, undone: Undone, named: Option<IpNet>) {
        match named {
            Some(network) => _ = self.named.put(network, undone),
            None => {
                self.many.truncate(MAX_MANY - 1);
                self.many.push_front(undone);
            }
        }
    }

    /// The latest unban that concerns the client or network `target`, whose last ban was `record`: one of it by name, or one of many that ended
    /// that ban.
    pub fn of(&self, target: IpNet, record: Option<&BanRecord>) -> Option<&Undone> {
        let ended = |undone: &&Undone| match (&undone.what, record) {
            (UnbanTarget::One(_), _) | (_, None) => false,
            (UnbanTarget::Rule(name), Some(record)) => *record.rule == **name && record.since <= undone.at,
            (UnbanTarget::Inside(network), Some(record)) => network.contains(&target) && record.since <= undone.at,
            (UnbanTarget::All, Some(record)) => record.since <= undone.at,
        };
        self.named.peek(&target).into_iter().chain(self.many.iter().find(ended)).max_by_key(|undone| undone.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::engine::fixtures::record;

    fn at(seconds: u64) -> Time {
        Time::from_secs(1_800_000_000 + seconds)
    }

    fn undone(what: UnbanTarget, seconds: u64) -> Undone {
        Undone { at: at(seconds), by: "user root (uid 0)".into(), what }
    }

    #[test]
    fn an_unban_is_found_by_name_and_one_of_many_only_if_it_ended_the_last_ban() {
        let client: IpNet = "192.0.2.1/32".parse().unwrap();
        let banned = |seconds| record(Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1)), at(seconds));
        let when = |many: UnbanTarget, record: Option<BanRecord>| {
            let mut bans = UndoneBans::default();
            bans.remember(undone(many, 10), None);
            bans.of(client, record.as_ref()).map(|undone| undone.at)
        };
        let inside = |network: &str| UnbanTarget::Inside(network.parse().unwrap());
        for what in [UnbanTarget::All, UnbanTarget::Rule("w00tw00t".into()), inside("192.0.2.0/24")] {
            assert_eq!(when(what.clone(), Some(banned(5))), Some(at(10)), "{what:?}");
            assert_eq!((when(what.clone(), Some(banned(11))), when(what.clone(), None)), (None, None), "{what:?}");
        }
        for what in [UnbanTarget::Rule("helo".into()), inside("198.51.100.0/24")] {
            assert_eq!(when(what, Some(banned(5))), None);
        }
        let mut bans = UndoneBans::default();
        bans.remember(undone(UnbanTarget::One(client.into()), 20), Some(client));
        bans.remember(undone(UnbanTarget::All, 10), None);
        assert_eq!(bans.of(client, Some(&banned(5))).unwrap().at, at(20), "the latest");
        (0..10_000).for_each(|seconds| bans.remember(undone(UnbanTarget::All, seconds), None));
        assert_eq!(bans.many.len(), MAX_MANY);
    }
}
