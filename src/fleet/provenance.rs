//! Whose word each ban is that another node said, so that all of it can be dropped; and what this node itself lifted lately.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use ipnet::IpNet;
use lru::LruCache;

use crate::event::{Scope, Surface};
use crate::time::Time;

/// So many nodes are kept apart at most.
pub const MOST_NODES: usize = 4096;
/// So many lifts are remembered, and so many changes may be on their way through the engine of this process.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Whose word is what.
#[derive(Debug)]
pub struct Provenance {
    /// Nodes by number; a number is never given to another.
    nodes: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u16, ahash::RandomState>,
    said: HashMap<IpNet, u16, ahash::RandomState>,
    /// When this node lifted what by itself.
    lifted: LruCache<(IpNet, Surface), Time, ahash::RandomState>,
    /// Changes that this node makes because it heard of them: they are not said again.
    echoes: LruCache<(IpNet, Option<Scope>, Time), (), ahash::RandomState>,
}

impl Default for Provenance {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            numbers: HashMap::default(),
            said: HashMap::default(),
            lifted: LruCache::with_hasher(REMEMBERED, ahash::RandomState::new()),
            echoes: LruCache::with_hasher(REMEMBERED, ahash::RandomState::new()),
        }
    }
}

impl Provenance {
    /// Notes that the ban of `target` is the word of `node`. False if there are too many nodes.
    pub fn note(&mut self, target: IpNet, node: &str) -> bool {
        let number = match self.numbers.get(node) {
            Some(number) => *number,
            None if self.nodes.len() >= MOST_NODES => return false,
            None => {
                let (name, number) = (Arc::from(node), u16::try_from(self.nodes.len()).unwrap_or(u16::MAX));
                self.nodes.push(Arc::clone(&name));
                self.numbers.insert(name, number);
                number
            }
        };
        self.said.insert(target, number);
        true
    }

    /// Whose word the ban of `target` is, if it is another node's.
    #[must_use]
    pub fn of(&self, target: IpNet) -> Option<Arc<str>> {
        self.nodes.get(usize::from(*self.said.get(&target)?)).cloned()
    }

    /// The ban of `target` is this node's own word from now on.
    pub fn own(&mut self, target: IpNet) {
        self.said.remove(&target);
    }

    /// How many bans are others' word.
    #[must_use]
    pub fn len(&self) -> usize {
        self.said.len()
    }

    /// Whether nothing is another's word.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// Drops what does not stand any more.
    pub fn retain(&mut self, mut stands: impl FnMut(IpNet) -> bool) {
        self.said.retain(|target, _| stands(*target));
    }

    /// All that `node` said, which is forgotten here.
    pub fn take(&mut self, node: &str) -> Vec<IpNet> {
        let Some(number) = self.numbers.get(node).copied() else { return Vec::new() };
        let taken: Vec<IpNet> = self.said.iter().filter(|(_, said)| **said == number).map(|(target, _)| *target).collect();
        for target in &taken {
            self.said.remove(target);
        }
        taken
    }

    /// This node lifted the ban of `target` by itself.
    pub fn lifted(&mut self, target: IpNet, scope: Scope, at: Time) {
        for surface in scope.surfaces() {
            self.lifted.put((target, *surface), at);
        }
    }

    /// All that this node lifted by itself lately.
    #[must_use]
    pub fn lifts(&self) -> Vec<(IpNet, Surface, Time)> {
        self.lifted.iter().map(|((target, surface), at)| (*target, *surface, *at)).collect()
    }

    /// Where in `scope` a ban that began at `since` may stand: not where this node lifted it by itself.
    #[must_use]
    pub fn not_lifted(&self, target: IpNet, scope: Scope, since: Time) -> Option<Scope> {
        let stands = |surface: &&Surface| self.lifted.peek(&(target, **surface)).is_none_or(|at| since > *at);
        let standing: Vec<Surface> = scope.surfaces().iter().filter(stands).copied().collect();
        match standing.as_slice() {
            [] => None,
            [Surface::Web] => Some(Scope::Web),
            [Surface::Mail] => Some(Scope::Mail),
            _ => Some(Scope::All),
        }
    }

    /// A change is about to be made that was heard of: a lift on `scope`, or (none) a network's ban.
    pub fn expect_echo(&mut self, target: IpNet, scope: Option<Scope>, at: Time) {
        self.echoes.put((target, scope, at), ());
    }

    /// Whether a change that was made had been heard of.
    pub fn is_echo(&mut self, target: IpNet, scope: Option<Scope>, at: Time) -> bool {
        self.echoes.pop(&(target, scope, at)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_one_node_said_is_taken_and_what_others_said_stays() {
        let mut provenance = Provenance::default();
        assert!(provenance.note(target("203.0.113.1/32"), "mx1") && provenance.note(target("198.51.100.0/24"), "mx1"));
        assert!(provenance.note(target("203.0.113.2/32"), "mx2"));
        let mut taken = provenance.take("mx1");
        taken.sort();
        assert_eq!(taken, [target("198.51.100.0/24"), target("203.0.113.1/32")]);
        assert_eq!(provenance.of(target("203.0.113.2/32")).as_deref(), Some("mx2"));
        assert_eq!((provenance.of(target("203.0.113.1/32")), provenance.take("mx3")), (None, Vec::new()));
    }

    #[test]
    fn more_names_than_a_fleet_has_nodes_are_not_taken() {
        let mut provenance = Provenance::default();
        assert!((0..MOST_NODES).all(|number| provenance.note(target("203.0.113.1/32"), &format!("node{number}"))));
        assert!(!provenance.note(target("203.0.113.1/32"), "one-more"));
        assert!(provenance.note(target("203.0.113.1/32"), "node7"));
        assert_eq!(provenance.len(), 1);
    }

    #[test]
    fn a_change_that_was_heard_of_is_an_echo_once() {
        let (mut provenance, at) = (Provenance::default(), Time::from_secs(9));
        provenance.expect_echo(target("203.0.113.1/32"), Some(Scope::All), at);
        assert!(!provenance.is_echo(target("203.0.113.1/32"), Some(Scope::Web), at));
        assert!(provenance.is_echo(target("203.0.113.1/32"), Some(Scope::All), at));
        assert!(!provenance.is_echo(target("203.0.113.1/32"), Some(Scope::All), at));
    }

    #[test]
    fn a_lift_holds_against_what_was_banned_before_it() {
        let mut provenance = Provenance::default();
        provenance.lifted(target("203.0.113.1/32"), Scope::Web, Time::from_secs(9));
        let stands = |scope, since| provenance.not_lifted(target("203.0.113.1/32"), scope, Time::from_secs(since));
        assert_eq!((stands(Scope::Web, 9), stands(Scope::All, 9)), (None, Some(Scope::Mail)));
        assert_eq!((stands(Scope::Web, 10), stands(Scope::All, 10)), (Some(Scope::Web), Some(Scope::All)));
    }
}
