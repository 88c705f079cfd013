//! Periodic work on a thread of its own. Each second it drops what has expired, updates the machine's own addresses, reads databases that have
//! changed, starts the lookups of host names that are due, and saves how far the logs were read; each minute it saves the strikes.

use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::logs::Logs;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::geo::watch::GeoWatch;
use crate::list::own::OwnAddressWatch;
use crate::resolver::hosts::HostWatch;
use crate::state::attach::StateFile;

const TICK: Duration = Duration::from_secs(1);
/// Ticks between two saves of the strikes: each save writes all of them.
const STRIKE_TICKS: u64 = 60;

/// The state file, and the logs whose positions go into it.
pub struct Persistence {
    pub state: Arc<StateFile>,
    pub logs: Arc<Mutex<Logs>>,
}

impl Persistence {
    /// Saves how far each log was read.
    pub fn save_positions(&self) {
        self.logs.lock().save(|path, position| self.state.save_position(path, position));
    }
}

/// The housekeeping thread, which runs until this is dropped.
#[derive(Debug)]
pub struct Housekeeping {
    /// Dropping it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeping {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        engine: Arc<Engine>,
        clock: Clock,
        mut own: OwnAddressWatch,
        geo: Arc<GeoWatch>,
        hosts: Arc<HostWatch>,
        persistence: Option<Persistence>,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("housekeeping".into()).spawn(move || {
            let mut failed = false;
            let mut ticks = 0_u64;
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                ticks += 1;
                engine.sweep(clock.now());
                failed = update_own_addresses(&engine, &mut own, failed);
                geo.refresh(|geo| engine.set_geo(geo));
                hosts.tick();
                if let Some(persistence) = &persistence {
                    persistence.save_positions();
                    if ticks.is_multiple_of(STRIKE_TICKS) {
                        persistence.state.save_strikes(clock.now());
                    }
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

/// Takes over own addresses that have changed. Returns whether they could not be read, which is logged the first time.
fn update_own_addresses(engine: &Engine, own: &mut OwnAddressWatch, failed_before: bool) -> bool {
    match own.refresh() {
        Ok(Some(addresses)) => {
            log::info!("own addresses: {:?}, gateways: {:?}", addresses.addresses(), addresses.gateways());
            engine.change_lists(|lists| lists.set_own(addresses.clone()));
            false
        }
        Ok(None) => false,
        Err(error) => {
            if !failed_before {
                log::warn!("own addresses cannot be read, the known ones stay: {error}");
            }
            true
        }
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // The panic hook has already reported a panic of the thread.
            let _ = thread.join();
        }
    }
}
