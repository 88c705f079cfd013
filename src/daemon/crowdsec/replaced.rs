//! Bans of others, which may have replaced one of CrowdSec's: when they end or are taken back, the decision counts again.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use crate::client::Ipv6Prefix;
use crate::engine::Change;
use crate::geo::Network;
use crate::rule_id::{CROWDSEC, is_of};

/// Maximum number of targets that are remembered between two questions. After more, all decisions are looked at.
const MOST: usize = 65_536;

/// Whom others have banned since the last question.
#[derive(Debug, Default)]
pub struct Replaced(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// Whether decisions are taken at all.
    is_wanted: bool,
    targets: BTreeSet<Network>,
    are_too_many: bool,
}

/// Who may be concerned.
#[derive(Debug, PartialEq, Eq)]
pub enum Concerned {
    Only(BTreeSet<Network>),
    All,
}

impl Replaced {
    /// Notes a change of the bans.
    pub fn note(&self, change: &Change, prefix: Ipv6Prefix) {
        let (rule, target) = match change {
            Change::Banned(record) => (&record.rule, record.client.network(prefix).into()),
            Change::NetworkBanned(record) => (&record.rule, record.network),
            _ => return,
        };
        if is_of(CROWDSEC, rule) {
            return;
        }
        let mut noted = self.0.lock();
        if noted.is_wanted && !noted.are_too_many {
            noted.targets.insert(target);
            if noted.targets.len() > MOST {
                *noted = Noted { is_wanted: true, are_too_many: true, targets: BTreeSet::new() };
            }
        }
    }

    /// Begins or ends to note the bans of others.
    pub fn set_wanted(&self, is_wanted: bool) {
        *self.0.lock() = Noted { is_wanted, ..Noted::default() };
    }

    /// Whom others have banned since the last call.
    pub fn take(&self) -> Concerned {
        let mut noted = self.0.lock();
        let is_wanted = noted.is_wanted;
        let noted = std::mem::replace(&mut *noted, Noted { is_wanted, ..Noted::default() });
        if noted.are_too_many { Concerned::All } else { Concerned::Only(noted.targets) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::engine::BanRecord;
    use crate::engine::fixtures::record;
    use crate::time::Time;

    fn banned(number: u32, rule: &str) -> Change {
        let client = Client::from(std::net::Ipv4Addr::from(0x0a00_0000 + number));
        Change::Banned(BanRecord { rule: rule.into(), ..record(client, Time::from_secs(1_800_000_000)) })
    }

    #[test]
    fn bans_of_others_are_noted_while_decisions_are_taken_and_not_without_limit() {
        let replaced = Replaced::default();
        let prefix = Ipv6Prefix::default();
        replaced.note(&banned(1, "manual"), prefix);
        assert_eq!(replaced.take(), Concerned::Only(BTreeSet::new()), "no decisions are taken");
        replaced.set_wanted(true);
        replaced.note(&banned(1, "manual"), prefix);
        replaced.note(&banned(2, "crowdsec-ssh-bf"), prefix);
        assert_eq!(replaced.take(), Concerned::Only(BTreeSet::from(["10.0.0.1/32".parse().unwrap()])));
        (0..100_000).for_each(|number| replaced.note(&banned(number, "manual"), prefix));
        assert!(replaced.0.lock().targets.len() <= MOST);
        assert_eq!(replaced.take(), Concerned::All);
        assert_eq!(replaced.take(), Concerned::Only(BTreeSet::new()));
    }
}
