//! The fleet: daemons on several machines that share bans and strikes through a Valkey or Redis server.
//!
//! Verdicts never wait for the network: the machine's own table decides. A publisher thread sends its bans and unbans, and the strikes of
//! rules with `fleet = true`, which Redis counts; a receiver thread makes the bans of others here, within the limits of [`admission`].
//! Redis stores one hash for each client, described in `client.lua`, which a node reads when it joins or returns. An unban is remembered as long
//! as the ban would have lasted, and works on bans older than itself, so that a node which was cut off brings no removed ban back.
//!
//! Machines' clocks may differ: everything that is sent or stored is in Redis's time, to which each node knows its [`clock_offset`].
//! Redis is trusted no more than another node: [`resp_connection`] limits how much it can send and how long it can take, [`load`] how much a
//! node reads from it.

#[cfg(feature = "fleet")]
mod admission;
#[cfg(feature = "fleet")]
pub mod client;
#[cfg(feature = "fleet")]
mod clock_offset;
#[cfg(feature = "fleet")]
mod load;
#[cfg(feature = "fleet")]
mod local;
pub mod message;
#[cfg(feature = "fleet")]
mod origin;
#[cfg(feature = "fleet")]
mod primary;
#[cfg(feature = "fleet")]
mod publish;
#[cfg(feature = "fleet")]
mod queue;
#[cfg(feature = "fleet")]
mod receive;
#[cfg(feature = "fleet")]
mod republish;
#[cfg(feature = "fleet")]
pub mod resp_connection;
#[cfg(feature = "fleet")]
mod tls;

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[cfg(feature = "fleet")]
use crate::config::fleet::FleetConfig;
use crate::control::status::FleetCounts;

/// The state and counters of the fleet, for `status` and metrics.
#[derive(Debug, Default)]
pub struct FleetHealth {
    /// Whether everything is loaded, and changes of other nodes are received.
    receiving: AtomicBool,
    /// Whether own changes are published.
    publishing: AtomicBool,
    published: AtomicU64,
    /// Own changes that were dropped because the queue was full or Redis was away.
    dropped: AtomicU64,
    /// Own changes that Redis refused; the next attempt would be refused as well.
    rejected: AtomicU64,
    /// Changes of other nodes that were made here.
    received: AtomicU64,
    /// Bans of other nodes that were not admitted, and own ones beyond `bans_per_minute`.
    refused: AtomicU64,
    error: Mutex<Option<String>>,
}

impl FleetHealth {
    /// The counts of exchanged changes.
    #[must_use]
    pub fn counts(&self) -> FleetCounts {
        let flag = |flag: &AtomicBool| u64::from(flag.load(Ordering::Relaxed));
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        FleetCounts {
            receiving: flag(&self.receiving),
            publishing: flag(&self.publishing),
            published: count(&self.published),
            received: count(&self.received),
            dropped: count(&self.dropped).saturating_add(count(&self.rejected)),
            refused: count(&self.refused),
        }
    }

    /// Why the fleet is cut off, if it is.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let is_connected = self.receiving.load(Ordering::Relaxed) && self.publishing.load(Ordering::Relaxed);
        let last = || self.error.lock().clone();
        (!is_connected).then(|| last().unwrap_or_else(|| "not joined yet".to_owned()))
    }

    #[cfg(feature = "fleet")]
    fn fail(&self, flag: &AtomicBool, error: &str) {
        let mut last = self.error.lock();
        if flag.swap(false, Ordering::Relaxed) || last.as_deref() != Some(error) {
            log::warn!("cut off from the fleet, continuing alone: {error}");
        }
        *last = Some(error.to_owned());
    }
}

/// This machine's membership in a fleet.
pub struct Fleet {
    pub health: std::sync::Arc<FleetHealth>,
    #[cfg(feature = "fleet")]
    local: std::sync::Arc<local::Local>,
    #[cfg(feature = "fleet")]
    queue: std::sync::Arc<queue::Queue>,
}

#[cfg(feature = "fleet")]
impl Fleet {
    /// Joins the fleet, now or as soon as Redis can be reached. `state` has the records of older bans; at most `bans` clients are banned on
    /// this machine.
    ///
    /// # Errors
    /// A file cannot be read or used, or a thread cannot be started.
    pub fn join(
        config: FleetConfig,
        engine: &std::sync::Arc<crate::engine::Engine>,
        state: Option<std::sync::Arc<crate::state::attach::StateFile>>,
        clock: crate::clock::Clock,
        bans: usize,
    ) -> std::io::Result<Self> {
        use std::sync::Arc;

        let health = Arc::<FleetHealth>::default();
        let queue = Arc::new(queue::Queue::new(Arc::clone(&health)));
        let local = Arc::new(local::Local {
            client: client::RedisClient::new(config)?,
            engine: Arc::downgrade(engine),
            state,
            clock,
            health: Arc::clone(&health),
            origins: Arc::default(),
            offset: std::sync::atomic::AtomicI64::new(0),
        });
        publish::start(Arc::clone(&local), engine, Arc::clone(&queue))?;
        receive::start(Arc::clone(&local), bans)?;
        Ok(Self { health, local, queue })
    }

    /// This machine's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.local.client.node
    }

    /// The node that banned `network`, if it is another one.
    #[must_use]
    pub fn origin_of(&self, network: ipnet::IpNet) -> Option<std::sync::Arc<str>> {
        let origins = self.local.origins.lock();
        origins.of(network, crate::event::Service::Web).filter(|node| ***node != *self.node()).cloned()
    }

    /// Drops everything that `node` has published: here, in Redis and on the other machines, once Redis can be reached.
    ///
    /// # Errors
    /// Too many changes are waiting for Redis.
    pub fn forget(&self, node: &str) -> Result<(), String> {
        let is_queued =
            self.queue.push(queue::Outgoing::Forget { node: std::sync::Arc::from(node), at: queue::SentTime::new(self.local.clock.now()) });
        is_queued.then_some(()).ok_or_else(|| "too many changes are waiting for Redis; expected a Redis that can be reached".to_owned())
    }
}
