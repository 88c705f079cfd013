//! Decisions of CrowdSec, taken from its local API as bans: a thread asks for them now and then.
//!
//! | module | job |
//! |---|---|
//! | `client`, `body` | asks, and reads the answer decision by decision |
//! | `decision`, `duration` | which decisions are taken, and as what |
//! | `intake` | judges every decision of an answer: taken, skipped for a reason, or without room |
//! | `known` | the decisions in force |
//! | `replaced` | whose bans were replaced by others' |
//! | `settle` | makes the table agree with them |
//! | `follower` | all of this together |

mod body;
mod client;
mod decision;
mod duration;
mod follower;
mod intake;
mod known;
mod replaced;
mod settle;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::config::crowdsec::CrowdsecConfig;
use crate::control::crowdsec::CrowdsecStatus;
use crate::engine::Engine;
use follower::{Follower, Health};
use replaced::Replaced;

/// The handle of the thread, which ends when this is dropped. It is not waited for, because it may be waiting for the local API.
pub struct Crowdsec {
    engine: Arc<Engine>,
    clock: Clock,
    /// Maximum number of bans in the table.
    bans: usize,
    health: Arc<Mutex<Health>>,
    replaced: Arc<Replaced>,
    configs: Mutex<Option<Sender<Option<CrowdsecConfig>>>>,
}

impl Crowdsec {
    pub fn new(engine: &Arc<Engine>, clock: Clock, bans: usize) -> Self {
        let replaced = Arc::new(Replaced::default());
        let (its_replaced, its_engine) = (Arc::clone(&replaced), Arc::downgrade(engine));
        engine.observe(move |change| {
            if let Some(engine) = its_engine.upgrade() {
                its_replaced.note(change, engine.policy().prefix);
            }
        });
        Self { engine: Arc::clone(engine), clock, bans, health: Arc::default(), replaced, configs: Mutex::default() }
    }

    /// Takes decisions as `config` says from now on, from a whole list on. Without one, all bans that were taken so far end; at the start of
    /// the daemon they stand until their end.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn configure(&self, config: Option<&CrowdsecConfig>) -> io::Result<()> {
        let mut configs = self.configs.lock();
        if configs.is_none() && config.is_some() {
            *configs = Some(self.start()?);
        }
        if let Some(configs) = &*configs {
            // The thread outlives the sender.
            let _ = configs.send(config.cloned());
        }
        Ok(())
    }

    fn start(&self) -> io::Result<Sender<Option<CrowdsecConfig>>> {
        let (sender, configs) = channel();
        let (health, replaced) = (Arc::clone(&self.health), Arc::clone(&self.replaced));
        let mut follower = Follower::new(Arc::clone(&self.engine), self.clock, health, replaced, self.bans);
        std::thread::Builder::new().name("crowdsec".into()).spawn(move || follow(&mut follower, &configs))?;
        Ok(sender)
    }

    /// What is told of the local API; none if none is configured.
    pub fn status(&self) -> Option<CrowdsecStatus> {
        let Health { status, answered } = self.health.lock().clone();
        let answered_ago = answered.map(|at| self.clock.now().since(at).secs());
        status.map(|status| CrowdsecStatus { answered_ago, ..status })
    }
}

fn follow(follower: &mut Follower, configs: &Receiver<Option<CrowdsecConfig>>) {
    let Ok(mut config) = configs.recv() else { return };
    loop {
        if let Some(config) = &config {
            follower.begin(config);
        } else {
            follower.end();
        }
        config = match next(follower, config.as_ref(), configs) {
            Some(config) => config,
            None => return,
        };
    }
}

/// Asks again and again, until there is another configuration; `None` if the daemon ends.
fn next(
    follower: &mut Follower,
    config: Option<&CrowdsecConfig>,
    configs: &Receiver<Option<CrowdsecConfig>>,
) -> Option<Option<CrowdsecConfig>> {
    let Some(config) = config else { return configs.recv().ok() };
    loop {
        let asked = Instant::now();
        // The panic hook has reported it; the next question is asked all the same.
        let _ = catch_unwind(AssertUnwindSafe(|| follower.poll(config)));
        let pause = Duration::from_millis(config.interval.0.millis()).saturating_sub(asked.elapsed());
        match configs.recv_timeout(pause) {
            Ok(config) => return Some(config),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}
