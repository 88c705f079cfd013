//! The decisions that are in force at the local API, as far as they are taken. One client or network may have several.

use std::collections::{BTreeSet, HashMap};

use ahash::RandomState;

use super::decision::Decision;
use crate::geo::Network;
use crate::time::Time;

/// Decisions by number, and by target.
#[derive(Debug, Default)]
pub struct Known {
    decisions: HashMap<u64, Decision, RandomState>,
    by_target: BTreeSet<(Network, u64)>,
    /// Number of decisions about more than a single client.
    networks: usize,
}

impl Known {
    /// Adds a decision in place of an earlier one of the same number, whose target is returned.
    pub fn insert(&mut self, id: u64, decision: Decision) -> Option<Network> {
        let earlier = self.remove(id);
        self.networks += usize::from(decision.is_about_network);
        self.decisions.insert(id, decision);
        self.by_target.insert((decision.target, id));
        earlier
    }

    /// Removes the decision of this number, and returns its target.
    pub fn remove(&mut self, id: u64) -> Option<Network> {
        let decision = self.decisions.remove(&id)?;
        self.by_target.remove(&(decision.target, id));
        self.networks -= usize::from(decision.is_about_network);
        Some(decision.target)
    }

    /// Adds all of `others`, each in place of an earlier one of the same number.
    pub fn extend(&mut self, others: Self) {
        others.decisions.into_iter().for_each(|(id, decision)| _ = self.insert(id, decision));
    }

    /// The target of the decision of this number.
    pub fn target(&self, id: u64) -> Option<Network> {
        self.decisions.get(&id).map(|decision| decision.target)
    }

    /// The decision about `target` that ends last, unless it has ended.
    pub fn of(&self, target: Network, now: Time) -> Option<&Decision> {
        let of_target = self.by_target.range((target, 0)..=(target, u64::MAX)).filter_map(|(_, id)| self.decisions.get(id));
        of_target.filter(|decision| !decision.until.is_expired(now)).max_by_key(|decision| decision.until)
    }

    /// Drops the decisions that have ended.
    pub fn expire(&mut self, now: Time) {
        let Self { decisions, by_target, networks } = self;
        decisions.retain(|id, decision| {
            let stays = !decision.until.is_expired(now);
            if !stays {
                by_target.remove(&(decision.target, *id));
                *networks -= usize::from(decision.is_about_network);
            }
            stays
        });
    }

    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.decisions.keys().copied()
    }

    pub fn contains(&self, id: u64) -> bool {
        self.decisions.contains_key(&id)
    }

    /// Number of decisions about more than a single client.
    pub fn networks(&self) -> usize {
        self.networks
    }

    pub fn len(&self) -> usize {
        self.decisions.len()
    }

    /// All targets, each once.
    pub fn targets(&self) -> impl Iterator<Item = Network> {
        let mut last = None;
        self.by_target.iter().map(|(target, _)| *target).filter(move |target| last.replace(*target) != Some(*target))
    }
}

#[cfg(test)]
mod tests {
    use super::super::decision::tests::decision;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_list(steps in prop::collection::vec((0u8..4, 0u64..8, 0u8..4, 1u64..20), 1..80)) {
            let mut known = Known::default();
            let mut plain: Vec<(u64, Decision)> = Vec::new();
            for (action, id, host, seconds) in steps {
                let now = Time::from_secs(10);
                let target: Network = format!("192.0.2.{host}/32").parse().unwrap();
                match action {
                    0 | 1 => {
                        let earlier = plain.iter().find(|(known, _)| *known == id).map(|(_, decision)| decision.target);
                        plain.retain(|(known, _)| *known != id);
                        let new = decision(target, Time::from_secs(seconds));
                        plain.push((id, new));
                        prop_assert_eq!(known.insert(id, new), earlier);
                    }
                    2 => {
                        let removed = plain.iter().find(|(known, _)| *known == id).map(|(_, decision)| decision.target);
                        plain.retain(|(known, _)| *known != id);
                        prop_assert_eq!(known.remove(id), removed);
                    }
                    _ => {
                        plain.retain(|(_, decision)| !decision.until.is_expired(now));
                        known.expire(now);
                    }
                }
                let active = plain.iter().filter(|(_, decision)| decision.target == target && !decision.until.is_expired(now));
                prop_assert_eq!(known.of(target, now).map(|decision| decision.until), active.map(|(_, decision)| decision.until).max());
                let targets: BTreeSet<Network> = plain.iter().map(|(_, decision)| decision.target).collect();
                prop_assert_eq!(known.targets().collect::<Vec<_>>(), targets.into_iter().collect::<Vec<_>>());
                prop_assert_eq!((known.len(), known.contains(id)), (plain.len(), plain.iter().any(|(known, _)| *known == id)));
            }
        }
    }
}
