//! The fleet: many residents, one memory of offenders, kept by a Valkey or Redis server.
//!
//! Verdicts never wait for the network: the local table decides, and is told what others found. Each node says its bans and lifts
//! ([`outbox`]) and hears those of others ([`inbox`]); strikes of rules with `fleet = true` are counted in the engine by its own clock.
//! Times travel as milliseconds left and as ages, so nodes' clocks need not agree.
//!
//! In the engine a client is one hash, which ends when the last thing in it does: until when it is banned on each surface, with the
//! story, and when a ban was lifted. A lift is remembered as long as the ban would have lasted: who comes back from a partition with
//! the old ban is told that it was lifted. See `ban.lua`, `lift.lua` and `strike.lua`.

pub mod config;
#[cfg(feature = "fleet")]
pub mod inbox;
#[cfg(feature = "fleet")]
pub mod link;
pub mod message;
#[cfg(feature = "fleet")]
pub mod outbox;

#[cfg(feature = "fleet")]
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

pub use config::FleetConfig;

#[cfg(feature = "fleet")]
use crate::client::Client;

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
    /// Changes of others taken over.
    heard: AtomicU64,
    /// Bans of others that were not believed: too many in a minute, or of a client that is never banned.
    refused: AtomicU64,
    error: Mutex<Option<String>>,
    /// Which clients are banned because a node said so.
    #[cfg(feature = "fleet")]
    said_by: Mutex<HashMap<String, std::collections::HashSet<Client, ahash::RandomState>, ahash::RandomState>>,
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
            ("fleet_dropped_total", of(&self.dropped)),
            ("fleet_heard_total", of(&self.heard)),
            ("fleet_refused_total", of(&self.refused)),
        ]
    }

    /// Why the fleet is cut off, if it is.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let connected = self.hears.load(Ordering::Relaxed) && self.says.load(Ordering::Relaxed);
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|_| !connected)
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
    /// Joins the fleet, now or as soon as the engine can be reached.
    ///
    /// # Errors
    /// The password file cannot be read, or a thread cannot be started.
    pub fn join(config: FleetConfig, engine: &std::sync::Arc<crate::engine::Engine>, clock: crate::clock::Clock) -> std::io::Result<Self> {
        let health = std::sync::Arc::new(Health::default());
        let link = std::sync::Arc::new(link::Link::new(&config)?);
        let sender = outbox::start(std::sync::Arc::clone(&link), engine, clock, std::sync::Arc::clone(&health))?;
        inbox::start(link, engine, clock, std::sync::Arc::clone(&health))?;
        Ok(Self { health, sender, config })
    }

    /// This machine's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.config.node
    }

    /// Drops all that `node` said: here at once, in the engine and on the other machines as soon as they hear of it.
    pub fn forget(&self, node: &str) {
        self.sender.forget(node);
    }
}
