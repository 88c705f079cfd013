//! A map from clients to counters that knows the order of their use, in two pieces of memory: so many small allocations would take twice
//! the room, and a strike of a new client in a full table three more cache misses.

use ahash::RandomState;
use hashbrown::HashTable;

use super::counter::Counter;
use crate::client::Client;

/// No node: the end of a chain.
const NONE: u32 = u32::MAX;

/// Counters by client, in the order of their use. Who calls hashes the client: [`Recent::hash`] must give the same hash.
pub(super) struct Recent {
    /// All nodes ever needed at once. They are chained from the newest to the oldest; free ones are chained by `older` alone.
    nodes: Vec<Node>,
    /// Where each client's node is.
    index: HashTable<u32>,
    newest: u32,
    oldest: u32,
    free: u32,
}

struct Node {
    client: Client,
    counter: Counter,
    newer: u32,
    older: u32,
}

impl Recent {
    /// The hash that `client` must be looked for with.
    pub(super) fn hash(hasher: &RandomState, client: Client) -> u64 {
        hasher.hash_one(client)
    }

    /// The counter of `client`, which becomes the most recently used one.
    pub(super) fn use_mut(&mut self, hash: u64, client: Client) -> Option<&mut Counter> {
        let at = self.find(hash, client)?;
        if at != self.newest {
            self.unchain(at);
            self.chain(at);
        }
        Some(&mut self.node_mut(at)?.counter)
    }

    /// The counter of `client`. The order stays.
    pub(super) fn peek(&self, hash: u64, client: Client) -> Option<Counter> {
        Some(self.node(self.find(hash, client)?)?.counter)
    }

    /// Adds the counter of a client that has none, as the most recently used one.
    pub(super) fn insert(&mut self, hash: u64, client: Client, counter: Counter, hasher: &RandomState) {
        let node = Node { client, counter, newer: NONE, older: NONE };
        let at = if let Some(free) = self.nodes.get_mut(self.free as usize) {
            let at = self.free;
            self.free = free.older;
            *free = node;
            at
        } else {
            // The capacity is 100,000,000 at most.
            let at = u32::try_from(self.nodes.len()).unwrap_or(NONE);
            self.nodes.push(node);
            at
        };
        self.chain(at);
        let nodes = &self.nodes;
        self.index.insert_unique(hash, at, |at| nodes.get(*at as usize).map_or(0, |node| Self::hash(hasher, node.client)));
    }

    /// Forgets the counter of `client`.
    pub(super) fn remove(&mut self, hash: u64, client: Client) -> Option<Counter> {
        let nodes = &self.nodes;
        let is_it = |at: &u32| nodes.get(*at as usize).is_some_and(|node| node.client == client);
        let (at, _) = self.index.find_entry(hash, is_it).ok()?.remove();
        self.unchain(at);
        let free = self.free;
        let node = self.node_mut(at)?;
        node.older = free;
        let counter = node.counter;
        self.free = at;
        Some(counter)
    }

    /// The least recently used one.
    pub(super) fn oldest(&self) -> Option<(Client, Counter)> {
        self.node(self.oldest).map(|node| (node.client, node.counter))
    }

    /// Forgets the least recently used one, and says whose it was.
    pub(super) fn remove_oldest(&mut self, hasher: &RandomState) -> Option<Client> {
        let (client, _) = self.oldest()?;
        self.remove(Self::hash(hasher, client), client);
        Some(client)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// All of them, from the most recently used one on.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Client, Counter)> {
        let mut at = self.newest;
        std::iter::from_fn(move || {
            let node = self.node(at)?;
            at = node.older;
            Some((node.client, node.counter))
        })
    }

    fn find(&self, hash: u64, client: Client) -> Option<u32> {
        self.index.find(hash, |at| self.node(*at).is_some_and(|node| node.client == client)).copied()
    }

    fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)
    }

    fn node_mut(&mut self, at: u32) -> Option<&mut Node> {
        self.nodes.get_mut(at as usize)
    }

    /// Takes a node out of the order.
    fn unchain(&mut self, at: u32) {
        let Some(&Node { newer, older, .. }) = self.node(at) else { return };
        match self.node_mut(newer) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
        match self.node_mut(older) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
    }

    /// Puts a node that is out of the order at its beginning.
    fn chain(&mut self, at: u32) {
        let second = std::mem::replace(&mut self.newest, at);
        match self.node_mut(second) {
            Some(node) => node.newer = at,
            None => self.oldest = at,
        }
        if let Some(node) = self.node_mut(at) {
            node.newer = NONE;
            node.older = second;
        }
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self { nodes: Vec::new(), index: HashTable::new(), newest: NONE, oldest: NONE, free: NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;
    use lru::LruCache;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    #[derive(Debug, Clone)]
    enum Step {
        Use(u32),
        Peek(u32),
        Remove(u32),
        RemoveOldest,
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = 0_u32..12;
        prop_oneof![
            4 => number.clone().prop_map(Step::Use),
            1 => number.clone().prop_map(Step::Peek),
            2 => number.prop_map(Step::Remove),
            1 => Just(Step::RemoveOldest),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_and_orders_what_the_crate_lru_does(steps in proptest::collection::vec(step(), 1..200)) {
            let hasher = RandomState::new();
            let mut recent = Recent::default();
            let mut twin: LruCache<Client, Counter> = LruCache::unbounded();
            for (number, step) in steps.into_iter().enumerate() {
                let counter = Counter::new(Time::from_secs(1_800_000_000), number as u32);
                let of = |number: u32| {
                    let client = Client::from(Ipv4Addr::from(number));
                    (Recent::hash(&hasher, client), client)
                };
                match step {
                    Step::Use(number) => {
                        let (hash, client) = of(number);
                        prop_assert_eq!(recent.use_mut(hash, client).copied(), twin.get(&client).copied());
                        if let Some(found) = recent.use_mut(hash, client) {
                            *found = counter;
                        } else {
                            recent.insert(hash, client, counter, &hasher);
                        }
                        twin.put(client, counter);
                    }
                    Step::Peek(number) => {
                        let (hash, client) = of(number);
                        prop_assert_eq!(recent.peek(hash, client), twin.peek(&client).copied());
                    }
                    Step::Remove(number) => {
                        let (hash, client) = of(number);
                        prop_assert_eq!(recent.remove(hash, client), twin.pop(&client));
                    }
                    Step::RemoveOldest => prop_assert_eq!(recent.remove_oldest(&hasher), twin.pop_lru().map(|(client, _)| client)),
                }
                prop_assert_eq!(recent.len(), twin.len());
                prop_assert_eq!(recent.oldest(), twin.peek_lru().map(|(client, counter)| (*client, *counter)));
                let all: Vec<_> = recent.iter().collect();
                prop_assert_eq!(all, twin.iter().map(|(client, counter)| (*client, *counter)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn freed_room_is_used_again() {
        let hasher = RandomState::new();
        let mut recent = Recent::default();
        for number in 0..10_000_u32 {
            if recent.len() == 100 {
                recent.remove_oldest(&hasher);
            }
            let client = Client::from(Ipv4Addr::from(number));
            recent.insert(Recent::hash(&hasher, client), client, Counter::new(Time::from_secs(1_800_000_000), 1), &hasher);
        }
        assert_eq!(recent.nodes.len(), 100);
    }

    #[test]
    fn a_node_takes_forty_bytes() {
        assert_eq!(size_of::<Node>(), 40);
    }
}
