//! `strikeout serve`: the daemon, which holds the table for a machine and answers everybody else over a Unix socket.
//!
//! | module | job |
//! |---|---|
//! | `event_loop` | waits for everything at once; answers Exim |
//! | `conn` | the socket: its listener, its connections and their peers, replies from other threads |
//! | `smtp` | `check` and `strike`, and which connection processes of Exim are alive |
//! | `subscribers` | what Squid helpers are sent, and the offences they send |
//! | `admin` | operators' requests, on a thread of their own |
//! | `crowdsec` | decisions of CrowdSec's local API |
//! | `logs` | the logs that are followed |
//! | `metrics` | counters, their text, and the HTTP listener for Prometheus |
//! | `hook`, `hook_program`, `hook_event` | the program called at bans and unbans, one run of it, and what it is told |
//! | `housekeeping` | periodic work |
//! | `traffic` | who makes most of the traffic, and when each server asked last |
//! | `signals` | SIGTERM and SIGINT end the daemon, SIGHUP reloads |
//! | `watchdog` | the heartbeat for systemd |

mod admin;
mod conn;
mod crowdsec;
mod event_loop;
mod hook;
mod hook_event;
mod hook_program;
mod housekeeping;
mod logs;
mod metrics;
mod signals;
mod smtp;
mod subscribers;
mod traffic;
mod watchdog;

use parking_lot::Mutex;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::clock::Clock;
use crate::config::fleet::FleetConfig;
use crate::config::{Config, ConfigError};
use crate::engine::Engine;
use crate::fleet::Fleet;
use crate::geo::watch::GeoWatch;
use crate::list::own::OwnAddressWatch;
use crate::list::{ListHistory, OwnAddresses};
use crate::policy::Policy;
use crate::resolver::hosts::HostWatch;
use crate::resolver::saved_hosts::SavedHosts;
use crate::resolver::{crawlers, system};
use crate::rule_id::RuleNames;
use crate::state::attach::StateFile;
use admin::context::AdminContext;
use admin::worker::AdminWorker;
use conn::listener::Listener;
use conn::replies::ReplyQueue;
use crowdsec::Crowdsec;
use event_loop::EventLoop;
use hook::Hook;
use housekeeping::{Housekeeping, Persistence};
use logs::Logs;
use metrics::counters::Counters;
use metrics::http::MetricsServer;
use metrics::report::MetricsReport;
use signals::Signals;

/// Why the daemon could not start, or had to stop.
#[derive(Debug)]
pub enum ServeError {
    Config(ConfigError),
    /// A failed system call, with what it was for.
    System(String),
}

impl From<ConfigError> for ServeError {
    fn from(fault: ConfigError) -> Self {
        Self::Config(fault)
    }
}

/// How long the last save may take when the daemon ends.
const LAST_SAVE: Duration = Duration::from_secs(5);

/// Serves with the configuration file `config` (`None`: the default file, or the defaults without one) until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration is wrong, or a system call failed that the daemon cannot do without.
pub fn serve(config: Option<&Path>) -> Result<(), ServeError> {
    let system = |what: &'static str| move |error: std::io::Error| ServeError::System(format!("{what}: {error}"));
    let names = Arc::new(RuleNames::default());
    let loaded = Config::load(config, &names)?;
    let (table, log_files, fleet_config) = (loaded.table.clone(), loaded.logs.clone(), loaded.fleet.clone());
    let (metrics, hook_config) = (loaded.metrics, loaded.hook.clone());
    let (geo_files, crowdsec_config) = (loaded.geo.clone(), loaded.crowdsec.clone());
    let own = OwnAddresses::read().unwrap_or_else(|error| {
        log::warn!("own addresses cannot be read: {error}");
        OwnAddresses::default()
    });
    let mut list_history = ListHistory::default();
    list_history.update(&loaded.lists);
    let config_pieces = loaded.files.iter().skip(1).cloned().collect();
    let mut policy = Policy::from(loaded);
    policy.lists.set_own(own.clone());
    let geo = Arc::new(GeoWatch::new(&geo_files));
    policy.geo = geo.geo();
    // Before the table is loaded, so that a signal during loading ends the daemon cleanly.
    let signals = Signals::install().map_err(system("the signal handlers cannot be installed"))?;
    let engine = Engine::new(names, policy, table.clients.get(), table.bans.get()).map_err(system("a thread cannot be started"))?;
    let engine = engine.with_networks(table.networks.get()).with_accounts(table.accounts.get());
    let (engine, clock) = (Arc::new(engine), Clock::start());
    let started = clock.now();
    // Loading comes before listening: meanwhile connections are refused at once instead of waiting for an answer.
    let state = open_state(&engine, clock, &table.state).map_err(system("a thread cannot be started"))?;
    let listener = Listener::bind(&table.socket, table.mode.0, &table.group).map_err(ServeError::System)?;
    let fleet = join(fleet_config.clone(), &engine, state.clone(), clock, table.bans.get());
    let positions = state.iter().flat_map(|state| state.take_positions()).map(|(path, position)| (path.into(), position)).collect();
    let queue = Arc::new(ReplyQueue::new().map_err(system("the event loop cannot be created"))?);
    let (counters, hook) = (Arc::new(Counters::default()), Arc::new(Hook::new().map_err(system("the hook cannot be set up"))?));
    let logs = Arc::new(Mutex::new(Logs::new(Arc::clone(&engine), Arc::clone(&counters.traffic), clock, positions)));
    logs.lock().follow(&log_files);
    let persistence = || state.as_ref().map(|state| Persistence { state: Arc::clone(state), logs: Arc::clone(&logs) });
    let saved_hosts = state.is_some().then(|| SavedHosts::beside(&table.state));
    let hosts = HostWatch::new(&engine, clock, system::addresses, saved_hosts);
    hosts.tick();
    crawlers::start(&engine, clock);
    let housekeeping =
        Housekeeping::start(Arc::clone(&engine), clock, OwnAddressWatch::new(own), Arc::clone(&geo), Arc::clone(&hosts), persistence())
            .map_err(system("a thread cannot be started"))?;
    hook.configure(hook_config.as_ref()).map_err(system("a thread cannot be started"))?;
    let crowdsec = Arc::new(Crowdsec::new(&engine, clock, table.bans.get()));
    observe(&engine, &counters, &hook);
    // Once the hook is told of bans.
    crowdsec.configure(crowdsec_config.as_ref()).map_err(system("a thread cannot be started"))?;
    counters.config_read.store(started.secs(), Ordering::Relaxed);
    let report = Arc::new(MetricsReport {
        engine: Arc::clone(&engine),
        counters: Arc::clone(&counters),
        logs: Arc::clone(&logs),
        geo: Arc::clone(&geo),
        state: state.clone(),
        hook: Arc::clone(&hook),
        crowdsec,
        hosts,
        fleet: fleet.as_ref().map(|fleet| Arc::clone(&fleet.health)),
        clock,
        started,
    });
    let metrics_server = metrics.listen.and_then(|address| serve_metrics(address.0, &report));
    let socket = table.socket.clone();
    let admin = AdminContext {
        engine: Arc::clone(&engine),
        clock,
        config_file: config.map(Into::into),
        table,
        metrics_config: metrics,
        metrics: report,
        logs: Arc::clone(&logs),
        state: state.clone(),
        fleet_config,
        fleet,
        started,
        config_pieces,
        config_since: started,
        refused_config: None,
        list_history,
        lists: Arc::default(),
        unbans: Arc::default(),
        undone: Arc::default(),
    };
    let worker = AdminWorker::start(admin).map_err(system("a thread cannot be started"))?;
    let event_loop = EventLoop::new(listener, signals, queue, worker, counters, Arc::clone(&engine), clock);
    let mut event_loop = event_loop.map_err(system("the event loop cannot be created"))?;
    log::info!("serving on {} with {} rules", socket.display(), engine.policy().rules.rules().len());
    notify_service_manager(NotifyState::Ready);
    let ended = event_loop.run().map_err(system("the event loop failed"));
    notify_service_manager(NotifyState::Stopping);
    // The socket goes first: from now on connections are refused at once.
    drop(event_loop);
    drop(metrics_server);
    drop(housekeeping);
    hook.end();
    logs.lock().stop();
    if let Some(persistence) = persistence() {
        persistence.save_positions();
        persistence.state.finish(clock.now(), LAST_SAVE);
    }
    engine.finish_log();
    log::info!("ended");
    ended
}

/// Notifies systemd; does nothing if the daemon was started by hand.
fn notify_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("the service manager cannot be notified: {error}");
    }
}

/// Counts every change of the table, and notifies the hook of it.
fn observe(engine: &Arc<Engine>, counters: &Arc<Counters>, hook: &Arc<Hook>) {
    let (counters, hook, weak_engine) = (Arc::clone(counters), Arc::clone(hook), Arc::downgrade(engine));
    engine.observe(move |change| {
        counters.record_change(change);
        if let Some(engine) = weak_engine.upgrade() {
            hook.notify(change, engine.policy().prefix);
        }
    });
}

/// Joins the fleet, if one is configured. The daemon serves even if that fails.
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

/// Without the `fleet` feature, a configuration with a fleet was already refused.
#[cfg(not(feature = "fleet"))]
fn join(_: Option<FleetConfig>, _: &Arc<Engine>, _: Option<Arc<StateFile>>, _: Clock, _: usize) -> Option<Fleet> {
    None
}

/// Starts the HTTP listener for Prometheus. The daemon serves even if that fails.
fn serve_metrics(address: std::net::SocketAddr, report: &Arc<MetricsReport>) -> Option<MetricsServer> {
    match MetricsServer::start(address, Arc::clone(report)) {
        Ok(server) => {
            log::info!("metrics on http://{}/metrics", server.address());
            Some(server)
        }
        Err(error) => {
            log::error!("metrics are not served on {address}: {error}");
            None
        }
    }
}

/// Opens the state file at `path` and loads it into the table; an empty path means none. The daemon serves even if the file is unusable.
fn open_state(engine: &Arc<Engine>, clock: Clock, path: &Path) -> std::io::Result<Option<Arc<StateFile>>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.exists())
        && let Err(error) = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(directory)
    {
        log::warn!("{}: the directory of the state file cannot be created: {error}", directory.display());
    }
    let state = StateFile::open(engine, clock, path)?;
    state.lift_bans(clock.now());
    if let Some(reason) = state.health().degraded {
        log::error!("serving without a state file, bans are in memory only: {reason}");
    }
    Ok(Some(Arc::new(state)))
}
