//! Which node made each ban that came from another machine, so that all bans of a node can be dropped.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use ipnet::IpNet;
use lru::LruCache;

use crate::event::{Scope, Service};
use crate::time::Time;

/// Maximum number of nodes that are told apart.
pub const MAX_NODES: usize = 4096;
/// Number of changes from other nodes that may be on their way through the engine.
const IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// In place of a node's number: the ban is this node's own, or there is none.
const LOCAL: u16 = u16::MAX;

/// The nodes of all bans that others made.
#[derive(Debug)]
pub struct Origins {
    /// Names by number. A number without bans is reused for another name: anybody can make up names, and these must not fill the list
    /// permanently.
    nodes: Vec<Option<Arc<str>>>,
    bans: HashMap<IpNet, NodeNumbers, ahash::RandomState>,
    /// Changes that came from other nodes: when the engine reports them they must not be published again.
    applied: LruCache<(IpNet, Time), u32, ahash::RandomState>,
}

/// The numbers of the nodes that made the bans of one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NodeNumbers {
    web: u16,
    mail: u16,
}

impl NodeNumbers {
    fn on(&mut self, service: Service) -> &mut u16 {
        match service {
            Service::Web => &mut self.web,
            Service::Mail => &mut self.mail,
        }
    }
}

/// The scope of these services; `None` if there are none.
pub fn scope_of(mut services: impl Iterator<Item = Service>) -> Option<Scope> {
    let first = services.next()?;
    Some(if services.next().is_some() { Scope::All } else { first.scope() })
}

impl Default for Origins {
    fn default() -> Self {
        let applied = LruCache::with_hasher(IN_FLIGHT, ahash::RandomState::new());
        Self { nodes: Vec::new(), bans: HashMap::default(), applied }
    }
}

impl Origins {
    /// Records that `node` made the ban of `target` on the services of `scope`. False if there are too many nodes.
    pub fn record(&mut self, target: IpNet, scope: Scope, node: &str) -> bool {
        let Some(number) = self.number_of(node).or_else(|| self.new_number(node)) else { return false };
        let numbers = self.bans.entry(target).or_insert(NodeNumbers { web: LOCAL, mail: LOCAL });
        for service in scope.services() {
            *numbers.on(*service) = number;
        }
        true
    }

    /// Records that the ban of `target` on the services of `scope` is this node's own, or over.
    pub fn clear(&mut self, target: IpNet, scope: Scope) {
        let Some(numbers) = self.bans.get_mut(&target) else { return };
        for service in scope.services() {
            *numbers.on(*service) = LOCAL;
        }
        if *numbers == (NodeNumbers { web: LOCAL, mail: LOCAL }) {
            self.bans.remove(&target);
        }
    }

    /// The node that made the ban of `target` on `service`; `None` for this node's own.
    pub fn of(&self, target: IpNet, service: Service) -> Option<&Arc<str>> {
        let mut numbers = *self.bans.get(&target)?;
        self.nodes.get(usize::from(*numbers.on(service)))?.as_ref()
    }

    /// All clients and networks that `node` banned, and where.
    pub fn bans_of(&self, node: &str) -> Vec<(IpNet, Scope)> {
        let Some(number) = self.number_of(node) else { return Vec::new() };
        let banned = |(target, numbers): (&IpNet, &NodeNumbers)| {
            let mut numbers = *numbers;
            let scope = scope_of(Service::ALL.into_iter().filter(|service| *numbers.on(*service) == number))?;
            Some((*target, scope))
        };
        self.bans.iter().filter_map(banned).collect()
    }

    /// Number of clients and networks that are banned by others.
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// The clients and networks that are banned by others.
    pub fn targets(&self) -> Vec<IpNet> {
        self.bans.keys().copied().collect()
    }

    /// Frees the numbers of nodes without bans.
    pub fn release_nodes(&mut self) {
        let mut is_used = vec![false; self.nodes.len()];
        for number in self.bans.values().flat_map(|numbers| [numbers.web, numbers.mail]) {
            if let Some(is_used) = is_used.get_mut(usize::from(number)) {
                *is_used = true;
            }
        }
        for (node, is_used) in self.nodes.iter_mut().zip(is_used) {
            if !is_used {
                *node = None;
            }
        }
    }

    fn number_of(&self, node: &str) -> Option<u16> {
        let at = self.nodes.iter().position(|name| name.as_deref() == Some(node))?;
        u16::try_from(at).ok()
    }

    fn new_number(&mut self, node: &str) -> Option<u16> {
        let name = Some(Arc::from(node));
        let at = match self.nodes.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.nodes.len() < MAX_NODES => {
                self.nodes.push(None);
                self.nodes.len() - 1
            }
            None => return None,
        };
        *self.nodes.get_mut(at)? = name;
        u16::try_from(at).ok()
    }

    /// Records that a change of another node is about to be made here: an unban, or the ban of a network.
    pub fn expect_echo(&mut self, target: IpNet, at: Time) {
        *self.applied.get_or_insert_mut((target, at), || 0) += 1;
    }

    /// Whether a change that the engine reports came from another node.
    pub fn is_echo(&mut self, target: IpNet, at: Time) -> bool {
        let Some(expected) = self.applied.get_mut(&(target, at)) else { return false };
        *expected -= 1;
        if *expected == 0 {
            self.applied.pop(&(target, at));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn bans_of_one_node_are_told_from_those_of_others() {
        let mut origins = Origins::default();
        assert!(origins.record(target("203.0.113.1/32"), Scope::Web, "mx1"));
        assert!(origins.record(target("198.51.100.0/24"), Scope::All, "mx1"));
        assert!(origins.record(target("203.0.113.2/32"), Scope::All, "mx2"));
        let mut bans = origins.bans_of("mx1");
        bans.sort_by_key(|(target, _)| *target);
        let network = target("198.51.100.0/24");
        assert_eq!(bans, [(network, Scope::All), (target("203.0.113.1/32"), Scope::Web)]);
        assert_eq!(origins.of(target("203.0.113.2/32"), Service::Web).map(|node| &**node), Some("mx2"));
        origins.clear(target("203.0.113.1/32"), Scope::All);
        assert_eq!((origins.of(target("203.0.113.1/32"), Service::Web), origins.bans_of("mx3")), (None, Vec::new()));
        assert_eq!((origins.targets().len(), origins.len()), (2, 2));
    }

    #[test]
    fn each_service_has_its_own_origin() {
        let (mut origins, client) = (Origins::default(), target("203.0.113.1/32"));
        origins.record(client, Scope::All, "mx1");
        origins.record(client, Scope::Mail, "mx2");
        assert_eq!(origins.of(client, Service::Web).map(|node| &**node), Some("mx1"));
        assert_eq!((origins.bans_of("mx1"), origins.len()), (vec![(client, Scope::Web)], 1));
        assert_eq!(origins.of(client, Service::Mail).map(|node| &**node), Some("mx2"));
        origins.clear(client, Scope::All);
        assert!(origins.targets().is_empty());
    }

    #[test]
    fn a_name_beyond_the_limit_is_refused_until_another_has_no_ban() {
        let mut origins = Origins::default();
        let client = |number: usize| IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(number).unwrap())));
        assert!((0..MAX_NODES).all(|number| origins.record(client(number), Scope::All, &format!("node{number}"))));
        assert!(!origins.record(client(1), Scope::All, "one-more"));
        assert!(origins.record(client(8), Scope::Web, "node7"));
        origins.release_nodes();
        assert!(!origins.record(client(1), Scope::All, "one-more"), "every name still has a ban");
        origins.clear(client(8), Scope::Mail);
        origins.release_nodes();
        assert!(origins.record(client(8), Scope::Mail, "one-more"), "node8 has no ban any more");
        assert_eq!(origins.of(client(8), Service::Mail).map(|node| &**node), Some("one-more"));
        assert!(!origins.record(client(1), Scope::All, "node8") && origins.bans_of("node8").is_empty());
    }

    #[test]
    fn a_change_from_another_node_is_an_echo_as_often_as_it_was_made() {
        let (mut origins, at) = (Origins::default(), Time::from_secs(9));
        origins.expect_echo(target("203.0.113.1/32"), at);
        origins.expect_echo(target("203.0.113.1/32"), at);
        assert!(!origins.is_echo(target("203.0.113.2/32"), at));
        assert_eq!([1, 2, 3].map(|_| origins.is_echo(target("203.0.113.1/32"), at)), [true, true, false]);
    }
}
