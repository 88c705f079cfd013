//! The ticker: once a second it drops what time has ended, looks whether the machine's own addresses are others, and saves how far the
//! logs were read; once a minute it saves strikes.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::logs::Logs;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::engine::durable::StateFile;
use crate::list::own::Watch;

const SECOND: Duration = Duration::from_secs(1);
/// Strikes are saved once in so many ticks: all of them, so not often.
const STRIKES: u64 = 60;

/// What is saved from time to time.
pub struct Saving {
    /// The state file.
    pub state: Arc<StateFile>,
    /// The logs that are followed.
    pub logs: Arc<Mutex<Logs>>,
}

impl Saving {
    /// Saves how far the logs were read.
    pub fn positions(&self) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.save(|path, position| self.state.keep_position(path, position));
    }
}

/// A thread that ticks until this is dropped.
#[derive(Debug)]
pub struct Ticker {
    /// Hung up to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts ticking.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(engine: Arc<Engine>, clock: Clock, mut own: Watch, saving: Option<Saving>) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("ticker".into()).spawn(move || {
            let mut failed = false;
            let mut ticks = 0_u64;
            while stopped.recv_timeout(SECOND) == Err(RecvTimeoutError::Timeout) {
                ticks += 1;
                engine.sweep(clock.now());
                failed = look(&engine, &mut own, failed);
                if let Some(saving) = &saving {
                    saving.positions();
                    if ticks.is_multiple_of(STRIKES) {
                        saving.state.keep_strikes(clock.now());
                    }
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

/// Takes over own addresses that have changed. Says whether they could not be read; that is logged once.
fn look(engine: &Engine, own: &mut Watch, failed: bool) -> bool {
    match own.look() {
        Ok(Some(addresses)) => {
            log::info!("own addresses: {:?}, gateways: {:?}", addresses.addresses(), addresses.gateways());
            engine.change_lists(|lists| lists.set_own(addresses.clone()));
            false
        }
        Ok(None) => false,
        Err(error) => {
            if !failed {
                log::warn!("own addresses cannot be read, those known stay: {error}");
            }
            true
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}
