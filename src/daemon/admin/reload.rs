//! `reload`: puts a changed configuration in force.

use std::sync::atomic::Ordering;

use super::context::AdminContext;
use crate::config::Config;
use crate::policy::Policy;

impl AdminContext {
    /// Reads the configuration again. One with an error changes nothing. Returns notes on the changes that are not in force yet.
    pub(super) fn reload(&mut self) -> Result<Vec<String>, String> {
        let counters = &self.metrics.counters;
        let config = Config::load(self.config_file.as_deref(), self.engine.names()).map_err(|fault| {
            counters.refused_reloads.fetch_add(1, Ordering::Relaxed);
            fault.to_string()
        })?;
        let (old, new) = (&self.table, &config.table);
        let needs_restart = (&old.socket, old.mode, &old.group, &old.state, old.clients, old.bans)
            != (&new.socket, new.mode, &new.group, &new.state, new.clients, new.bans);
        let mut notes = Vec::new();
        if needs_restart {
            notes.push("socket, mode, group, state, clients and bans in [table] change only with a restart".to_owned());
        }
        if config.metrics != self.metrics_config {
            notes.push("[metrics] changes only with a restart".to_owned());
        }
        if config.fleet != self.fleet_config {
            notes.push("[fleet] changes only with a restart".to_owned());
        }
        if let Err(error) = self.metrics.hook.configure(config.hook.as_ref()) {
            notes.push(format!("the hook stays as it was: a thread could not be started: {error}"));
        }
        for note in &notes {
            log::warn!("{note}");
        }
        counters.reloads.fetch_add(1, Ordering::Relaxed);
        let logs = config.logs.clone();
        self.engine.set_policy(Policy::from(config));
        self.logs.lock().follow(&logs);
        log::info!("the configuration was read again and is in force");
        Ok(notes)
    }
}
