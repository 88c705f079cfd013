//! The ticker: once a second it drops what time has ended, and looks whether the machine's own addresses are others.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::engine::Engine;
use crate::list::own::Watch;

const SECOND: Duration = Duration::from_secs(1);

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
    pub fn start(engine: Arc<Engine>, clock: Clock, mut own: Watch) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("ticker".into()).spawn(move || {
            let mut failed = false;
            while stopped.recv_timeout(SECOND) == Err(RecvTimeoutError::Timeout) {
                engine.sweep(clock.now());
                failed = look(&engine, &mut own, failed);
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
