//! `status`: the state of the daemon and of what it depends on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use super::context::AdminContext;
use crate::control::bans::seconds;
use crate::control::pause::PauseStatus;
use crate::control::status::{
    CrawlerStatus, DaemonStatus, FalseBans, FleetStatus, FollowedLog, GeoStatus, HeavyClient, HostStatus, LastAsked, ListStatus,
    PrefilterStatus, RuleStatus, StateStatus,
};
use crate::crawler::ClaimCounts;
use crate::daemon::metrics::counters::Question;
use crate::daemon::metrics::process::ProcessNumbers;
use crate::daemon::traffic::Heaviest;
use crate::event::Service;
use crate::rule::Mode;

impl AdminContext {
    pub(super) fn status(&self) -> DaemonStatus {
        let (engine, now) = (&self.engine, self.clock.now());
        let (policy, stats, counters) = (engine.policy(), engine.stats(), &self.metrics.counters);
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let gauge = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let state = self.state.as_ref().map(|state| state.health());
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: now.since(self.started).secs(),
            memory: ProcessNumbers::read().resident_bytes,
            socket: self.table.socket.display().to_string(),
            config: self.config_status(),
            paused: policy.active_pause(now).map(|pause| PauseStatus::of(pause, now)),
            rules: policy.rules.rules().len(),
            bans: engine.bans().len(),
            banned_networks: policy.lists.banned.len(),
            shadow_bans: engine.shadow_bans().len(),
            strikes: engine.strikes().len(),
            offences_counted: total(&stats.offences),
            bans_made: total(&stats.bans),
            shadow_bans_made: total(&stats.shadow_bans),
            bans_evicted: engine.bans().evicted(),
            strikes_evicted: engine.strikes().evicted(),
            crowds_evicted: engine.crowds().evicted(),
            networks_evicted: total(&stats.evicted_networks),
            networks_refused: total(&stats.refused_networks),
            answers_before_saved: total(&stats.unsaved_answers),
            answers_failed_open: total(&counters.failed_open),
            offences_deferred: total(&counters.offences_deferred),
            offences_dropped: total(&counters.offences_dropped),
            answers_by_helpers: counters.answered_by_helpers(),
            answers_to_check: counters.answers(Question::Check),
            answers_to_strike: counters.answers(Question::Strike),
            answers_to_offence: counters.answers(Question::Offence),
            connections: gauge(&counters.connections),
            mail_connections_watched: gauge(&counters.processes),
            subscribers: gauge(&counters.subscribers),
            prefilters: self.prefilters(),
            reloads: total(&counters.reloads),
            reloads_refused: total(&counters.refused_reloads),
            wall_clock_drift_ms: self.clock.wall_drift(),
            state_unsaved: state.as_ref().map_or(0, |health| health.unsaved),
            state: match state.map(|health| health.degraded) {
                None => StateStatus::None,
                Some(None) => StateStatus::Ok,
                Some(Some(reason)) => StateStatus::Degraded(reason.to_string()),
            },
            fleet: self.fleet.as_ref().map(|fleet| fleet.health.error().map_or(FleetStatus::Ok, FleetStatus::CutOff)),
            fleet_counts: self.fleet.as_ref().map(|fleet| fleet.health.counts()).unwrap_or_default(),
            false_bans: self.false_bans(),
            lists: self.list_statuses(),
            geo: self.geo_statuses(),
            crawlers: self.crawler_statuses(),
            hosts: self.host_statuses(),
            crowdsec: self.metrics.crowdsec.status(),
            logs: self.followed_logs(),
            by_rule: self.rule_statuses(),
            hook: self.metrics.hook.stats(),
            asked: LastAsked { squid: counters.traffic.last_asked(Service::Web), exim: counters.traffic.last_asked(Service::Mail) },
            heaviest: self.heaviest(),
        }
    }

    /// The clients that make most of the traffic.
    pub(super) fn heaviest(&self) -> Vec<HeavyClient> {
        let (policy, now) = (self.engine.policy(), self.clock.now());
        let heaviest = self.metrics.counters.traffic.heaviest().into_iter();
        let heaviest = heaviest.map(|Heaviest { service, client, percent, events }| HeavyClient {
            service: service.as_str().to_owned(),
            client: client.display(policy.prefix).to_string(),
            percent,
            events,
            never_banned: policy.lists.never_banned(client.address()).map(|reason| reason.to_string()),
            is_banned: self.engine.bans().get(client, service, now).is_some(),
        });
        heaviest.collect()
    }

    /// The prefilters of Squids, each once however many helpers have reported it.
    pub(super) fn prefilters(&self) -> Vec<PrefilterStatus> {
        let mut prefilters = self.metrics.counters.prefilters.stale(self.engine.policy().rules.rules());
        prefilters.sort_unstable();
        prefilters.dedup();
        prefilters
    }

    fn false_bans(&self) -> Vec<FalseBans> {
        let (engine, policy) = (&self.engine, self.engine.policy());
        let exceeding = engine.false_positives().exceeding(policy.false_ban_share).into_iter();
        let report = exceeding.map(|rule| FalseBans {
            rule: engine.names().name(rule.rule).to_string(),
            clients: rule.clients,
            legitimate: rule.legitimate,
            // A rule that is gone from the configuration is as harmless as one in shadow mode.
            shadow: policy.rules.get(rule.rule).is_none_or(|rule| rule.mode == Mode::Shadow),
        });
        report.collect()
    }

    fn list_statuses(&self) -> Vec<ListStatus> {
        let lists = &self.engine.policy().lists;
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = seconds(SystemTime::now());
        let status = lists.sources().filter(|(_, source)| source.host().is_none()).map(|(kind, source)| {
            let modified = source.modified().map(seconds);
            ListStatus {
                option: kind.as_str().into(),
                origin: source.origin().to_string(),
                entries: source.entries(),
                modified: modified.map(|modified| i64::try_from(modified).unwrap_or(i64::MAX)),
                modified_ago: modified.map(|modified| now.saturating_sub(modified)),
                shrunk_from: self.list_history.shrunk_from(kind, source),
            }
        });
        status.collect()
    }

    fn geo_statuses(&self) -> Vec<GeoStatus> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let status = self.metrics.geo.states().into_iter().map(|state| GeoStatus {
            kind: state.kind.as_str().into(),
            file: state.file.display().to_string(),
            networks: state.entries,
            built: state.built.map(|built| i64::try_from(built).unwrap_or(i64::MAX)),
            built_ago: state.built.map(|built| now.saturating_sub(built)),
            fault: state.fault,
        });
        status.collect()
    }

    fn crawler_statuses(&self) -> Vec<CrawlerStatus> {
        let policy = self.engine.policy();
        let status = policy.crawlers.iter().map(|crawler| {
            let ClaimCounts { verified, refuted, unknown, asked } = self.engine.claims().counts(crawler);
            CrawlerStatus { name: crawler.name.to_string(), networks: crawler.networks.len(), verified, refuted, unknown, asked }
        });
        status.collect()
    }

    fn host_statuses(&self) -> Vec<HostStatus> {
        let now = self.clock.now();
        let status = self.metrics.hosts.states().into_iter().map(|host| {
            let addresses = host.answer.iter().flat_map(|answer| &answer.addresses.addresses);
            let answered = host.answer.as_ref().map(|answer| answer.at);
            HostStatus {
                name: host.name.to_string(),
                addresses: addresses.map(ToString::to_string).collect(),
                answered: answered.map(seconds),
                answered_ago: answered.map(|at| now.since(at).secs()),
                fault: host.fault,
            }
        });
        status.collect()
    }

    fn followed_logs(&self) -> Vec<FollowedLog> {
        let logs = self.logs.lock().status().into_iter();
        let status = logs.map(|log| FollowedLog {
            path: log.path.display().to_string(),
            lines: log.lines,
            lag: log.lag,
            fault: log.any_fault(),
            missing: log.is_missing,
            not_understood: log.health.not_understood(),
        });
        status.collect()
    }

    fn rule_statuses(&self) -> Vec<RuleStatus> {
        let policy = self.engine.policy();
        let rules = self.metrics.by_rule().into_iter().map(|(name, counts)| {
            let rule = policy.rules.by_name(&name);
            RuleStatus { name: name.to_string(), mode: rule.map(|rule| rule.mode), scope: rule.map(|rule| rule.scope), counts }
        });
        rules.collect()
    }
}
