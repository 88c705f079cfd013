//! The fleet: many residents, one memory of offenders, kept by a Valkey or Redis server.
//!
//! Verdicts never wait for the network: the local table decides, and is told what others found. Each node says its bans and lifts
//! ([`outbox`]) and hears those of others ([`inbox`]); strikes of rules with `fleet = true` are counted in the engine by its own clock.
//! Nodes' clocks need not agree: a node knows how far the engine's clock is from its own ([`sync`]), speaks in that clock's time, and hears
//! milliseconds left and ages.
//!
//! In the engine a client is one hash, which ends when the last thing in it does: until when and since when it is banned on each surface,
//! with the story, and when a ban was lifted. A lift is remembered as long as the ban would have lasted, and works on what is older than
//! itself: who comes back from a partition with the old ban is told that it was lifted. See `ban.lua` and `lift.lua`; `load.lua` is what
//! a node asks that joins, `forget.lua` drops all that a node said.
//!
//! The engine is believed no more than a node: [`wire`] bounds what it can make us read and how long it can keep us, [`walk`] what a
//! joining node takes from it.

#[cfg(feature = "fleet")]
pub mod complaint;
pub mod config;
#[cfg(feature = "fleet")]
pub mod inbox;
#[cfg(feature = "fleet")]
pub mod link;
pub mod message;
#[cfg(feature = "fleet")]
pub mod outbox;
#[cfg(feature = "fleet")]
pub mod provenance;
#[cfg(feature = "fleet")]
pub mod standing;
#[cfg(feature = "fleet")]
pub mod sync;
#[cfg(feature = "fleet")]
pub mod walk;
#[cfg(feature = "fleet")]
pub mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

pub use config::FleetConfig;

/// How the fleet does, for `status` and metrics.
#[derive(Debug, Default)]
pub struct Health {
    /// Whether changes of others are heard now.
    hears: AtomicBool,
    /// Whether own changes are said now.
    says: AtomicBool,
    /// Own changes said.
    said: AtomicU64,
    /// Own changes that were dropped because too many waited, or because the engine was away.
    dropped: AtomicU64,
    /// Own changes that the engine refused, each for itself: saying them again would help nobody.
    unsaid: AtomicU64,
    /// Changes of others taken over.
    heard: AtomicU64,
    /// Bans of others that were not believed: too many in a minute, or of a client that is never banned.
    refused: AtomicU64,
    error: Mutex<Option<String>>,
    /// Everything of others was heard that was said until then, in milliseconds of table time: when the last sign of life was asked for.
    #[cfg(feature = "fleet")]
    heard_until: AtomicU64,
    /// Everything of this node was said that happened until then.
    #[cfg(feature = "fleet")]
    said_until: AtomicU64,
    /// Bans that stand in the engine, found while others were said that are over.
    #[cfg(feature = "fleet")]
    aside: Mutex<Vec<message::Said>>,
    /// Whose word which ban is.
    #[cfg(feature = "fleet")]
    provenance: Mutex<provenance::Provenance>,
}

impl Health {
    /// The numbers by name, in a fixed order.
    #[must_use]
    pub fn numbers(&self) -> [(&'static str, u64); 6] {
        let is = |flag: &AtomicBool| u64::from(flag.load(Ordering::Relaxed));
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        [
            ("fleet_hears", is(&self.hears)),
            ("fleet_says", is(&self.says)),
            ("fleet_said_total", of(&self.said)),
            ("fleet_dropped_total", of(&self.dropped).saturating_add(of(&self.unsaid))),
            ("fleet_heard_total", of(&self.heard)),
            ("fleet_refused_total", of(&self.refused)),
        ]
    }

    /// Why the fleet is cut off, if it is.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let connected = self.hears.load(Ordering::Relaxed) && self.says.load(Ordering::Relaxed);
        let last = || self.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (!connected).then(|| last().unwrap_or_else(|| "not joined yet".to_owned()))
    }

    #[cfg(feature = "fleet")]
    fn provenance(&self) -> std::sync::MutexGuard<'_, provenance::Provenance> {
        self.provenance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(feature = "fleet")]
    fn fail(&self, flag: &AtomicBool, error: &str) {
        let mut last = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if flag.swap(false, Ordering::Relaxed) || last.as_deref() != Some(error) {
            log::warn!("cut off from the fleet, going on alone: {error}");
        }
        *last = Some(error.to_owned());
    }
}

/// How the machine takes part in a fleet.
pub struct Fleet {
    /// How it does.
    pub health: std::sync::Arc<Health>,
    #[cfg(feature = "fleet")]
    sender: outbox::Sender,
    #[cfg(feature = "fleet")]
    config: FleetConfig,
}

#[cfg(feature = "fleet")]
impl Fleet {
    /// Joins the fleet, now or as soon as the engine can be reached. `state` has the stories of older bans; at most `bans` clients are
    /// banned here.
    ///
    /// # Errors
    /// A file cannot be read or used, or a thread cannot be started.
    pub fn join(
        config: FleetConfig,
        engine: &std::sync::Arc<crate::engine::Engine>,
        state: Option<std::sync::Arc<crate::engine::durable::StateFile>>,
        clock: crate::clock::Clock,
        bans: usize,
    ) -> std::io::Result<Self> {
        let health = std::sync::Arc::new(Health::default());
        let link = std::sync::Arc::new(link::Link::new(&config)?);
        let sender = outbox::start(std::sync::Arc::clone(&link), engine, state.clone(), clock, std::sync::Arc::clone(&health))?;
        inbox::start(link, engine, state, clock, std::sync::Arc::clone(&health), bans)?;
        Ok(Self { health, sender, config })
    }

    /// This machine's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.config.node
    }

    /// Whose word the ban of `network` is, if it is another machine's.
    #[must_use]
    pub fn author_of(&self, network: ipnet::IpNet) -> Option<std::sync::Arc<str>> {
        self.health.provenance().of(network, crate::event::Surface::Web)
    }

    /// Drops all that `node` said: here, in the engine and on the other machines as soon as they hear of it.
    pub fn forget(&self, node: &str) {
        self.sender.forget(node);
    }
}
