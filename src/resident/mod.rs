//! `strikeout serve`: the process that holds the table, and that everybody else asks over a Unix socket.
//!
//! | file | its job |
//! |---|---|
//! | [`event_loop`] | waits for everything at once; answers Exim |
//! | [`listener`] | the socket: directory, mode, group; one resident at a time |
//! | [`connection`] | one peer: lines in, answers out, limits |
//! | [`peer`] | who that is, and what they may do |
//! | [`mail`] | `check` and `strike` |
//! | [`processes`] | which connection processes of Exim live |
//! | [`mailbox`] | what other threads have for the loop |
//! | [`clerk`] | what operators ask, on a thread of its own |
//! | [`logs`] | the logs that are followed |
//! | [`ticker`] | what comes once a second |
//! | [`signals`] | the end, and the reload |

pub mod clerk;
pub mod connection;
pub mod event_loop;
pub mod listener;
pub mod logs;
pub mod mail;
pub mod mailbox;
pub mod peer;
pub mod processes;
pub mod signals;
pub mod ticker;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::engine::{Engine, InForce};
use crate::list::OwnAddresses;
use crate::list::own::Watch;
use crate::reply::Reply;
use crate::rule::Names;
use crate::verdict::{Innocence, Verdict};
use clerk::{Clerk, Desk};
use event_loop::EventLoop;
use listener::Listener;
use logs::Logs;
use mailbox::Mailbox;
use signals::Signals;
use ticker::Ticker;

/// Why the resident could not start, or could not go on.
#[derive(Debug)]
pub enum Fault {
    /// The configuration cannot be used.
    Config(ConfigError),
    /// A sentence on what the system refused.
    System(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(fault) => fault.fmt(f),
            Self::System(fault) => f.write_str(fault),
        }
    }
}

impl std::error::Error for Fault {}

impl From<ConfigError> for Fault {
    fn from(fault: ConfigError) -> Self {
        Self::Config(fault)
    }
}

/// At the end, what is not saved yet may be saved for so long.
const LAST_FLUSH: Duration = Duration::from_secs(5);

/// Serves with the configuration in `config` (none: the usual file, or the defaults) until SIGTERM or SIGINT.
///
/// # Errors
/// [`Fault`]: it could not start, or could not go on.
pub fn serve(config: Option<&Path>) -> Result<(), Fault> {
    let system = |what: &'static str| move |error: std::io::Error| Fault::System(format!("{what}: {error}"));
    let names = Arc::new(Names::default());
    let loaded = Config::load(config, &names)?;
    let (table, log_files) = (loaded.table.clone(), loaded.logs.clone());
    let own = OwnAddresses::read().unwrap_or_else(|error| {
        log::warn!("own addresses cannot be read: {error}");
        OwnAddresses::default()
    });
    let mut in_force = InForce::from(loaded);
    in_force.lists.set_own(own.clone());
    // Signals first: one that comes while the table is loaded ends it cleanly.
    let signals = Signals::take_over().map_err(system("signals cannot be taken over"))?;
    let listener = Listener::bind(&table.socket, table.mode.0, &table.group).map_err(Fault::System)?;
    let engine = Engine::new(names, in_force, table.clients.get(), table.bans.get()).map_err(system("a thread cannot be started"))?;
    let (engine, clock) = (Arc::new(engine), Clock::start());
    let mailbox = Arc::new(Mailbox::new().map_err(system("the event loop cannot be made"))?);
    let mut logs = Logs::new(Arc::clone(&engine), clock, HashMap::new());
    logs.follow(&log_files);
    let socket = table.socket.clone();
    let desk = Desk { engine: Arc::clone(&engine), clock, config: config.map(Into::into), table, logs, started: clock.now() };
    let clerk = Clerk::start(desk).map_err(system("a thread cannot be started"))?;
    let ticker = Ticker::start(Arc::clone(&engine), clock, Watch::new(own)).map_err(system("a thread cannot be started"))?;
    let event_loop = EventLoop::new(listener, signals, mailbox, clerk, Arc::clone(&engine), clock);
    let mut event_loop = event_loop.map_err(system("the event loop cannot be made"))?;
    log::info!("serving on {} with {} rules", socket.display(), engine.in_force().rules.rules().len());
    let ended = event_loop.run().map_err(system("the event loop cannot go on"));
    // The socket goes first: whoever asks from now on is told at once that nobody is there.
    drop(event_loop);
    drop(ticker);
    flush(&engine);
    log::info!("ended");
    ended
}

/// Waits until what was decided is saved.
fn flush(engine: &Arc<Engine>) {
    let (sender, flushed) = std::sync::mpsc::channel();
    engine.when_kept(
        Verdict::Allow(Innocence::NotAQuestion),
        Reply::new(move |_| {
            let _ = sender.send(());
        }),
    );
    if flushed.recv_timeout(LAST_FLUSH).is_err() {
        log::error!("not everything could be saved before the end");
    }
}
