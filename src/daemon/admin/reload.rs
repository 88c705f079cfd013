//! `reload`: puts a changed configuration in force.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::context::AdminContext;
use crate::clock::timestamp;
use crate::config::{Config, DEFAULT_FILE};
use crate::control::bans::seconds;
use crate::control::config::{ConfigStatus, LiftedRule, RefusedConfig, ReloadReport};
use crate::engine::SavedBans;
use crate::policy::Policy;
use crate::rule::Mode;

impl AdminContext {
    /// Reads the configuration again, and says what is in force then.
    ///
    /// # Errors
    /// The error in the configuration, and what stays in force.
    pub(super) fn reload(&mut self) -> Result<ReloadReport, String> {
        let loaded = Config::load(self.config_file.as_deref(), self.engine.names());
        let now = self.clock.now();
        let config = match loaded {
            Ok(config) => config,
            Err(fault) => {
                self.metrics.counters.refused_reloads.fetch_add(1, Ordering::Relaxed);
                self.metrics.counters.config_refused.store(true, Ordering::Relaxed);
                let fault = fault.to_string();
                let text = format!("{fault}; what was read at {} stays in force", timestamp(self.config_since));
                self.refused_config = Some((now, fault));
                return Err(text);
            }
        };
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
        for (list, before, now) in self.list_history.update(&config.lists) {
            notes.push(format!("{list} has lost more than half of its entries: it had {before} and has {now}, which are in force"));
        }
        self.metrics.counters.reloads.fetch_add(1, Ordering::Relaxed);
        let (logs, crowdsec) = (config.logs.clone(), config.crowdsec.clone());
        let pieces = config.files.iter().skip(1).cloned().collect();
        let geo_files = config.geo.clone();
        let reload = |geo| self.engine.reload(now, Policy { geo, ..Policy::from(config) }, SavedBans::End);
        let lifted = self.metrics.geo.configure(&geo_files, reload).into_iter();
        // Its decisions are judged by the policy in force.
        if let Err(error) = self.metrics.crowdsec.configure(crowdsec.as_ref()) {
            notes.push(format!("CrowdSec's decisions are not taken: a thread could not be started: {error}"));
        }
        for note in &notes {
            log::warn!("{note}");
        }
        let lifted =
            lifted.map(|lifted| LiftedRule { rule: lifted.rule.to_string(), because: lifted.standing.to_string(), bans: lifted.bans });
        self.logs.lock().follow(&logs);
        self.metrics.hosts.refresh();
        (self.config_pieces, self.config_since, self.refused_config) = (pieces, now, None);
        self.metrics.counters.config_read.store(now.secs(), Ordering::Relaxed);
        self.metrics.counters.config_refused.store(false, Ordering::Relaxed);
        log::info!("the configuration was read again and is in force");
        notes.extend(self.prefilters().into_iter().filter_map(|prefilter| prefilter.stale));
        Ok(ReloadReport { reloaded: true, notes, lifted: lifted.collect(), config: self.config_status() })
    }

    /// The configuration in force.
    pub(super) fn config_status(&self) -> ConfigStatus {
        let (now, policy) = (self.clock.now(), self.engine.policy());
        let shadow = policy.rules.rules().iter().filter(|rule| rule.mode == Mode::Shadow).count();
        let refused = self.refused_config.as_ref();
        ConfigStatus {
            file: self.config_file.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).display().to_string(),
            pieces: self.config_pieces.iter().map(|piece| piece.display().to_string()).collect(),
            since: seconds(self.config_since),
            since_ago: now.since(self.config_since).secs(),
            enforced: policy.rules.rules().len() - shadow,
            shadow,
            refused: refused.map(|(at, fault)| RefusedConfig { at: seconds(*at), at_ago: now.since(*at).secs(), fault: fault.clone() }),
        }
    }
}
