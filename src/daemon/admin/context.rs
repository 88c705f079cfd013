//! The parts of the daemon that answers to operators read and change.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::undone::UndoneBans;
use crate::clock::Clock;
use crate::config::fleet::FleetConfig;
use crate::config::{MetricsConfig, TableConfig};
use crate::daemon::logs::Logs;
use crate::daemon::metrics::report::MetricsReport;
use crate::engine::Engine;
use crate::fleet::Fleet;
use crate::list::ListHistory;
use crate::state::attach::StateFile;
use crate::time::Time;

/// Everything that the answers to operators need.
pub struct AdminContext {
    pub engine: Arc<Engine>,
    pub clock: Clock,
    /// The configuration file, as it was named on the command line.
    pub config_file: Option<PathBuf>,
    /// The parts of the configuration that only a restart changes.
    pub table: TableConfig,
    pub metrics_config: MetricsConfig,
    pub fleet_config: Option<FleetConfig>,
    pub metrics: Arc<MetricsReport>,
    pub logs: Arc<Mutex<Logs>>,
    /// The state file, if one is configured.
    pub state: Option<Arc<StateFile>>,
    /// The fleet, if this machine is part of one.
    pub fleet: Option<Fleet>,
    pub started: Time,
    /// The pieces of the configuration in force.
    pub config_pieces: Vec<PathBuf>,
    /// When the configuration in force was read.
    pub config_since: Time,
    /// When the last configuration was read, and its error; none if it is in force.
    pub refused_config: Option<(Time, String)>,
    /// How many entries the lists had.
    pub list_history: ListHistory,
    /// Counts the lists that are being read: each holds a clone.
    pub lists: Arc<()>,
    /// Lets one thread at a time undo many bans, and counts those that do or wait: each holds a clone.
    pub unbans: Arc<Mutex<()>>,
    /// The latest unbans by operators.
    pub undone: Arc<Mutex<UndoneBans>>,
}
