//! Whose word each ban is that another node said, so that all of it can be dropped; and what this node itself lifted lately.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use ipnet::IpNet;
use lru::LruCache;

use crate::event::{Scope, Surface};
use crate::time::{Span, Time};

/// So many nodes are kept apart at most.
pub const MOST_NODES: usize = 4096;
/// So many lifts are remembered, and so many changes may be on their way through the engine of this process.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// And so many nodes whose word was dropped.
const FORGOTTEN: NonZeroUsize = NonZeroUsize::new(MOST_NODES).unwrap();
/// So well are the clocks of two nodes known to each other on a busy machine.
const DOUBT: Span = Span::from_millis(100);

/// Whose word is what.
#[derive(Debug)]
pub struct Provenance {
    /// Nodes by number; a number is given to another only when no ban has it.
    nodes: Vec<Named>,
    numbers: HashMap<Arc<str>, u16, ahash::RandomState>,
    has_been_full: bool,
    said: HashMap<IpNet, Authors, ahash::RandomState>,
    /// When this node lifted what by itself.
    lifted: LruCache<(IpNet, Surface), Time, ahash::RandomState>,
    /// When what nodes had said was dropped.
    forgotten: LruCache<Arc<str>, Time, ahash::RandomState>,
    /// Changes that this node makes because it heard of them: they are not said again.
    echoes: LruCache<(IpNet, Option<Scope>, Time), (), ahash::RandomState>,
}

/// A node.
#[derive(Debug)]
struct Named {
    name: Arc<str>,
    /// How many bans are its word.
    bans: usize,
}

/// Whose word the bans of one client or network are: a node's number, or [`NOBODY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Authors {
    web: u16,
    mail: u16,
}

/// No other node: this one, or there is no ban.
const NOBODY: u16 = u16::MAX;

impl Authors {
    fn on(self, surface: Surface) -> u16 {
        match surface {
            Surface::Web => self.web,
            Surface::Mail => self.mail,
        }
    }

    fn on_mut(&mut self, surface: Surface) -> &mut u16 {
        match surface {
            Surface::Web => &mut self.web,
            Surface::Mail => &mut self.mail,
        }
    }
}

/// Changes how many bans are the word of the node with this number, if one has it.
fn count(nodes: &mut [Named], number: u16, change: impl FnOnce(usize) -> usize) {
    if let Some(named) = nodes.get_mut(usize::from(number)) {
        named.bans = change(named.bans);
    }
}

/// The scope that is these surfaces, in their order.
#[must_use]
pub fn scope_of(surfaces: &[Surface]) -> Option<Scope> {
    match surfaces {
        [] => None,
        [surface] => Some(surface.alone()),
        _ => Some(Scope::All),
    }
}

impl Default for Provenance {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            numbers: HashMap::default(),
            has_been_full: false,
            said: HashMap::default(),
            lifted: LruCache::with_hasher(REMEMBERED, ahash::RandomState::new()),
            forgotten: LruCache::with_hasher(FORGOTTEN, ahash::RandomState::new()),
            echoes: LruCache::with_hasher(REMEMBERED, ahash::RandomState::new()),
        }
    }
}

impl Provenance {
    /// Notes that the ban of `target` on the surfaces of `scope` is the word of `node`. False if there are too many nodes.
    pub fn note(&mut self, target: IpNet, scope: Scope, node: &str) -> bool {
        let Some(number) = self.numbers.get(node).copied().or_else(|| self.number_for(node)) else { return false };
        let authors = self.said.entry(target).or_insert(Authors { web: NOBODY, mail: NOBODY });
        for surface in scope.surfaces() {
            let before = std::mem::replace(authors.on_mut(*surface), number);
            count(&mut self.nodes, before, |bans| bans.saturating_sub(1));
            count(&mut self.nodes, number, |bans| bans.saturating_add(1));
        }
        true
    }

    /// A number for a node that has none: a new one, or that of a node which has no ban any more. Names are their own word: made-up ones must
    /// not keep others out for ever.
    fn number_for(&mut self, node: &str) -> Option<u16> {
        let name: Arc<str> = Arc::from(node);
        let named = Named { name: Arc::clone(&name), bans: 0 };
        let at = if self.nodes.len() < MOST_NODES {
            self.nodes.push(named);
            self.nodes.len() - 1
        } else {
            if !std::mem::replace(&mut self.has_been_full, true) {
                log::warn!("{MOST_NODES} names of nodes have been heard: those that no ban has give way to new ones");
            }
            let at = self.nodes.iter().position(|named| named.bans == 0)?;
            let before = std::mem::replace(self.nodes.get_mut(at)?, named);
            self.numbers.remove(&before.name);
            at
        };
        let number = u16::try_from(at).ok()?;
        self.numbers.insert(name, number);
        Some(number)
    }

    /// Whether another name than these would not be taken.
    #[must_use]
    pub fn is_full_for(&self, node: &str) -> bool {
        self.nodes.len() >= MOST_NODES && !self.numbers.contains_key(node) && self.nodes.iter().all(|named| named.bans > 0)
    }

    /// Whose word the ban of `target` on `surface` is, if it is another node's.
    #[must_use]
    pub fn of(&self, target: IpNet, surface: Surface) -> Option<Arc<str>> {
        self.nodes.get(usize::from(self.said.get(&target)?.on(surface))).map(|named| Arc::clone(&named.name))
    }

    /// The ban of `target` on the surfaces of `scope` is no other node's word from now on.
    pub fn own(&mut self, target: IpNet, scope: Scope) {
        let Some(authors) = self.said.get_mut(&target) else { return };
        for surface in scope.surfaces() {
            let before = std::mem::replace(authors.on_mut(*surface), NOBODY);
            count(&mut self.nodes, before, |bans| bans.saturating_sub(1));
        }
        if authors.web == NOBODY && authors.mail == NOBODY {
            self.said.remove(&target);
        }
    }

    /// Of how many clients and networks a ban is another's word.
    #[must_use]
    pub fn len(&self) -> usize {
        self.said.len()
    }

    /// Whether nothing is another's word.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// The clients and networks of which a ban is another's word.
    #[must_use]
    pub fn targets(&self) -> Vec<IpNet> {
        self.said.keys().copied().collect()
    }

    /// All that `node` said, and where.
    #[must_use]
    pub fn said_by(&self, node: &str) -> Vec<(IpNet, Scope)> {
        let Some(number) = self.numbers.get(node).copied() else { return Vec::new() };
        let its = |authors: &Authors| match (authors.web == number, authors.mail == number) {
            (true, true) => Some(Scope::All),
            (true, false) => Some(Scope::Web),
            (false, true) => Some(Scope::Mail),
            (false, false) => None,
        };
        self.said.iter().filter_map(|(target, authors)| Some((*target, its(authors)?))).collect()
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

    /// All that `node` had said was dropped at `at`.
    pub fn forgot(&mut self, node: &str, at: Time) {
        let at = self.forgotten_at(node).map_or(at, |before| before.max(at));
        self.forgotten.put(Arc::from(node), at);
    }

    /// When all that `node` had said was last dropped, if it was.
    #[must_use]
    pub fn forgotten_at(&self, node: &str) -> Option<Time> {
        self.forgotten.peek(node).copied()
    }

    /// Whose word was dropped, and when.
    #[must_use]
    pub fn forgets(&self) -> Vec<(Arc<str>, Time)> {
        self.forgotten.iter().map(|(node, at)| (Arc::clone(node), *at)).collect()
    }

    /// Where in `scope` a ban that began at `since` may stand: not where this node lifted it by itself.
    ///
    /// In doubt it stands: the engine hears of both, and tells of the lift if that is the later one.
    #[must_use]
    pub fn not_lifted(&self, target: IpNet, scope: Scope, since: Time) -> Option<Scope> {
        let stands = |surface: &&Surface| self.lifted.peek(&(target, **surface)).is_none_or(|at| since.after(DOUBT) > *at);
        let standing: Vec<Surface> = scope.surfaces().iter().filter(stands).copied().collect();
        scope_of(&standing)
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
    fn what_one_node_said_is_known_from_what_others_said() {
        let mut provenance = Provenance::default();
        assert!(provenance.note(target("203.0.113.1/32"), Scope::All, "mx1"));
        assert!(provenance.note(target("198.51.100.0/24"), Scope::All, "mx1"));
        assert!(provenance.note(target("203.0.113.2/32"), Scope::All, "mx2"));
        let mut said = provenance.said_by("mx1");
        said.sort_by_key(|(target, _)| *target);
        assert_eq!(said, [(target("198.51.100.0/24"), Scope::All), (target("203.0.113.1/32"), Scope::All)]);
        assert_eq!(provenance.of(target("203.0.113.2/32"), Surface::Web).as_deref(), Some("mx2"));
        provenance.own(target("203.0.113.1/32"), Scope::All);
        assert_eq!((provenance.of(target("203.0.113.1/32"), Surface::Mail), provenance.said_by("mx3")), (None, Vec::new()));
        assert_eq!(provenance.targets().len(), 2);
    }

    #[test]
    fn each_surface_has_its_author() {
        let (mut provenance, client) = (Provenance::default(), target("203.0.113.1/32"));
        provenance.note(client, Scope::All, "mx1");
        provenance.note(client, Scope::Mail, "mx2");
        assert_eq!(provenance.of(client, Surface::Web).as_deref(), Some("mx1"));
        assert_eq!((provenance.said_by("mx1"), provenance.len()), (vec![(client, Scope::Web)], 1));
        assert_eq!(provenance.of(client, Surface::Mail).as_deref(), Some("mx2"));
        provenance.own(client, Scope::All);
        assert!(provenance.is_empty());
    }

    #[test]
    fn more_names_than_a_fleet_has_nodes_are_not_taken_until_one_has_no_ban_any_more() {
        let mut provenance = Provenance::default();
        let client = |number: usize| IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(number).unwrap())));
        assert!((0..MOST_NODES).all(|number| provenance.note(client(number), Scope::All, &format!("node{number}"))));
        assert!(!provenance.note(client(1), Scope::All, "one-more") && provenance.is_full_for("one-more"));
        assert!(provenance.note(client(8), Scope::Web, "node7") && !provenance.is_full_for("node7"));
        provenance.own(client(8), Scope::Mail);
        assert!(provenance.note(client(8), Scope::Mail, "one-more"), "node8 has no ban any more");
        assert_eq!(provenance.of(client(8), Surface::Mail).as_deref(), Some("one-more"));
        assert!(!provenance.note(client(1), Scope::All, "node8") && provenance.said_by("node8").is_empty());
        provenance.own(client(9), Scope::All);
        assert!(provenance.note(client(9), Scope::All, "node8"), "node9 has none either");
        assert_eq!((provenance.len(), provenance.said_by("one-more")), (MOST_NODES, vec![(client(8), Scope::Mail)]));
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
        let stands = |scope, since| provenance.not_lifted(target("203.0.113.1/32"), scope, Time::from_millis(since));
        assert_eq!((stands(Scope::Web, 8900), stands(Scope::All, 8900)), (None, Some(Scope::Mail)));
        assert_eq!((stands(Scope::Web, 8950), stands(Scope::All, 9010)), (Some(Scope::Web), Some(Scope::All)), "the engine decides");
    }
}
