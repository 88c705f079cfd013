//! `strikeout serve`: the process that holds the table, and that everybody else asks over a Unix socket.
//!
//! | file | its job |
//! |---|---|
//! | [`event_loop`] | waits for everything at once; answers Exim |
//! | [`listener`] | the socket: directory, mode, group; one resident at a time |
//! | [`connection`] | one peer: lines in, answers out, limits |
//! | [`peer`] | who that is, and what they may do |
//! | [`followers`] | what Squid helpers are sent, and their offences |
//! | [`mail`] | `check` and `strike` |
//! | [`processes`] | which connection processes of Exim live |
//! | [`mailbox`] | what other threads have for the loop |
//! | [`clerk`] | what operators ask, on a thread of its own |
//! | [`logs`] | the logs that are followed |
//! | [`why`] | everything that is known of one client |
//! | [`meters`], [`numbers`] | what is counted, and its text |
//! | [`scrape`] | the HTTP listener for Prometheus |
//! | [`hook`] | the program that is told of bans |
//! | [`ticker`] | what comes once a second |
//! | [`signals`] | the end, and the reload |

pub mod clerk;
pub mod connection;
pub mod event_loop;
pub mod followers;
pub mod hook;
pub mod listener;
pub mod logs;
pub mod mail;
pub mod mailbox;
pub mod meters;
pub mod numbers;
pub mod peer;
pub mod processes;
pub mod scrape;
pub mod signals;
pub mod ticker;
pub mod why;

use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::engine::durable::StateFile;
use crate::engine::{Engine, InForce};
use crate::fleet::{Fleet, FleetConfig};
use crate::list::OwnAddresses;
use crate::list::own::Watch;
use crate::rule::Names;
use clerk::{Clerk, Desk};
use event_loop::EventLoop;
use hook::Hook;
use listener::Listener;
use logs::Logs;
use mailbox::Mailbox;
use meters::Meters;
use numbers::Numbers;
use scrape::Scrape;
use signals::Signals;
use ticker::{Saving, Ticker};

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
const LAST_SAVE: Duration = Duration::from_secs(5);

/// Serves with the configuration in `config` (none: the usual file, or the defaults) until SIGTERM or SIGINT.
///
/// # Errors
/// [`Fault`]: it could not start, or could not go on.
pub fn serve(config: Option<&Path>) -> Result<(), Fault> {
    let system = |what: &'static str| move |error: std::io::Error| Fault::System(format!("{what}: {error}"));
    let names = Arc::new(Names::default());
    let loaded = Config::load(config, &names)?;
    let (table, log_files, fleet_config) = (loaded.table.clone(), loaded.logs.clone(), loaded.fleet.clone());
    let (metrics, hook_config) = (loaded.metrics, loaded.hook.clone());
    let own = OwnAddresses::read().unwrap_or_else(|error| {
        log::warn!("own addresses cannot be read: {error}");
        OwnAddresses::default()
    });
    let mut in_force = InForce::from(loaded);
    in_force.lists.set_own(own.clone());
    // Signals first: one that comes while the table is loaded ends it cleanly.
    let signals = Signals::take_over().map_err(system("signals cannot be taken over"))?;
    let engine = Engine::new(names, in_force, table.clients.get(), table.bans.get()).map_err(system("a thread cannot be started"))?;
    let (engine, clock) = (Arc::new(engine), Clock::start());
    let started = clock.now();
    // The table is loaded before anybody can ask: who asks meanwhile is told at once that nobody is there, and need not wait.
    let state = open_state(&engine, clock, &table.state).map_err(system("a thread cannot be started"))?;
    let listener = Listener::bind(&table.socket, table.mode.0, &table.group).map_err(Fault::System)?;
    let fleet = join(fleet_config.clone(), &engine, state.clone(), clock, table.bans.get());
    let positions = state.iter().flat_map(|state| state.take_positions()).map(|(path, position)| (path.into(), position)).collect();
    let mailbox = Arc::new(Mailbox::new().map_err(system("the event loop cannot be made"))?);
    let logs = Arc::new(Mutex::new(Logs::new(Arc::clone(&engine), clock, positions)));
    logs.lock().unwrap_or_else(PoisonError::into_inner).follow(&log_files);
    let saving = || state.as_ref().map(|state| Saving { state: Arc::clone(state), logs: Arc::clone(&logs) });
    let ticker = Ticker::start(Arc::clone(&engine), clock, Watch::new(own), saving()).map_err(system("a thread cannot be started"))?;
    let (meters, hook) = (Arc::new(Meters::default()), Arc::new(Hook::default()));
    hook.configure(hook_config.as_ref()).map_err(system("a thread cannot be started"))?;
    observe(&engine, &meters, &hook);
    let numbers = Arc::new(Numbers {
        engine: Arc::clone(&engine),
        meters: Arc::clone(&meters),
        logs: Arc::clone(&logs),
        state: state.clone(),
        hook: Arc::clone(&hook),
        fleet: fleet.as_ref().map(|fleet| Arc::clone(&fleet.health)),
        clock,
        started,
    });
    let scrape = metrics.listen.and_then(|address| listen(address.0, &numbers));
    let socket = table.socket.clone();
    let (desk_logs, desk_state) = (Arc::clone(&logs), state.clone());
    let desk = Desk {
        engine: Arc::clone(&engine),
        clock,
        config: config.map(Into::into),
        table,
        metrics,
        numbers,
        logs: desk_logs,
        state: desk_state,
        fleet_config,
        fleet,
        started,
        lists: Arc::default(),
    };
    let clerk = Clerk::start(desk).map_err(system("a thread cannot be started"))?;
    let event_loop = EventLoop::new(listener, signals, mailbox, clerk, meters, Arc::clone(&engine), clock);
    let mut event_loop = event_loop.map_err(system("the event loop cannot be made"))?;
    log::info!("serving on {} with {} rules", socket.display(), engine.in_force().rules.rules().len());
    tell_the_service_manager(NotifyState::Ready);
    let ended = event_loop.run().map_err(system("the event loop cannot go on"));
    tell_the_service_manager(NotifyState::Stopping);
    // The socket goes first: whoever asks from now on is told at once that nobody is there.
    drop(event_loop);
    drop(scrape);
    drop(ticker);
    hook.end();
    logs.lock().unwrap_or_else(PoisonError::into_inner).stop();
    if let Some(saving) = saving() {
        saving.positions();
        saving.state.finish(clock.now(), LAST_SAVE);
    }
    log::info!("ended");
    ended
}

/// Tells systemd how the service is. Started by hand there is nobody to tell.
fn tell_the_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("the service manager cannot be told: {error}");
    }
}

/// Has every change of the table counted, and the hook told of it.
fn observe(engine: &Arc<Engine>, meters: &Arc<Meters>, hook: &Arc<Hook>) {
    let (meters, hook, of) = (Arc::clone(meters), Arc::clone(hook), Arc::downgrade(engine));
    engine.observe(move |change| {
        meters.changed(change);
        if let Some(engine) = of.upgrade() {
            hook.tell(change, engine.in_force().prefix);
        }
    });
}

/// Joins the fleet, if one is configured. A fleet that cannot be joined is no reason not to serve.
#[cfg(feature = "fleet")]
fn join(config: Option<FleetConfig>, engine: &Arc<Engine>, state: Option<Arc<StateFile>>, clock: Clock, bans: usize) -> Option<Fleet> {
    match Fleet::join(config?, engine, state, clock, bans) {
        Ok(fleet) => Some(fleet),
        Err(error) => {
            log::error!("serving without the fleet: {error}");
            None
        }
    }
}

/// Built without the fleet: a configuration that names one was refused.
#[cfg(not(feature = "fleet"))]
fn join(_: Option<FleetConfig>, _: &Arc<Engine>, _: Option<Arc<StateFile>>, _: Clock, _: usize) -> Option<Fleet> {
    None
}

/// Listens for Prometheus. That nobody can ask there is no reason not to serve.
fn listen(address: std::net::SocketAddr, numbers: &Arc<Numbers>) -> Option<Scrape> {
    match Scrape::start(address, Arc::clone(numbers)) {
        Ok(scrape) => {
            log::info!("metrics on http://{}/metrics", scrape.address());
            Some(scrape)
        }
        Err(error) => {
            log::error!("metrics are not served on {address}: {error}");
            None
        }
    }
}

/// Loads the state file at `path`, if one is configured. A file that cannot be used is no reason not to serve.
fn open_state(engine: &Arc<Engine>, clock: Clock, path: &Path) -> std::io::Result<Option<Arc<StateFile>>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.exists())
        && let Err(error) = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(directory)
    {
        log::warn!("{}: cannot be made for the state file: {error}", directory.display());
    }
    let state = StateFile::open(engine, clock, path)?;
    if let Some(reason) = state.health().degraded {
        log::error!("serving without a state file, bans are in memory only: {reason}");
    }
    Ok(Some(Arc::new(state)))
}
