//! The daemon's metrics in Prometheus' text format.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::counters::{BUCKETS, Counters, Question};
use super::process::ProcessNumbers;
use crate::clock::Clock;
use crate::control::status::RuleCounts;
use crate::crawler::ClaimCounts;
use crate::daemon::crowdsec::Crowdsec;
use crate::daemon::hook::Hook;
use crate::daemon::logs::Logs;
use crate::daemon::logs::thread::LogStatus;
use crate::engine::Engine;
use crate::event::Service;
use crate::fleet::FleetHealth;
use crate::geo::watch::GeoWatch;
use crate::list::ListSource;
use crate::resolver::hosts::{HostState, HostWatch};
use crate::rule_id::RuleId;
use crate::state::attach::StateFile;
use crate::time::{Span, Time};

/// Everything that metrics are read from.
pub struct MetricsReport {
    pub engine: Arc<Engine>,
    pub counters: Arc<Counters>,
    pub logs: Arc<Mutex<Logs>>,
    /// The databases that say where clients belong.
    pub geo: Arc<GeoWatch>,
    /// The state file, if one is configured.
    pub state: Option<Arc<StateFile>>,
    pub hook: Arc<Hook>,
    pub crowdsec: Arc<Crowdsec>,
    /// The host names in `ignoreip`.
    pub hosts: Arc<HostWatch>,
    /// The connection to the fleet, if one is configured.
    pub fleet: Option<Arc<FleetHealth>>,
    pub clock: Clock,
    pub started: Time,
}

impl MetricsReport {
    /// The counts of each rule that is in force or has counted something, by name.
    #[must_use]
    pub fn by_rule(&self) -> BTreeMap<Arc<str>, RuleCounts> {
        let now = self.clock.now();
        let policy = self.engine.policy();
        let mut rules: BTreeMap<Arc<str>, RuleCounts> = BTreeMap::new();
        for rule in policy.rules.rules() {
            rules.entry(Arc::clone(&rule.name)).or_default().strikes = count(self.engine.strikes().count(rule.id));
        }
        for (bans, shadow) in [(self.engine.bans(), false), (self.engine.shadow_bans(), true)] {
            let mut counts: BTreeMap<RuleId, u64> = BTreeMap::new();
            // Both services of a client are visited one after the other: a client that one rule bans on both counts once.
            let mut last = None;
            bans.for_each(now, |client, _, ban| {
                if last.replace((client, ban.rule)) != Some((client, ban.rule)) {
                    *counts.entry(ban.rule).or_default() += 1;
                }
            });
            for (rule, count) in counts {
                let counts = rules.entry(self.engine.names().name(rule)).or_default();
                *(if shadow { &mut counts.shadow_bans } else { &mut counts.bans }) = count;
            }
        }
        for network in policy.lists.banned.iter().filter(|network| network.is_active(now)) {
            rules.entry(self.engine.names().name(network.rule)).or_default().bans += 1;
        }
        for (rule, bans) in self.counters.bans() {
            rules.entry(rule).or_default().bans_made = bans.number;
        }
        for (refusal, times) in self.counters.refusals() {
            rules.entry(self.engine.names().name(refusal.rule)).or_default().refused += times;
        }
        rules
    }

    /// Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let (engine, counters) = (&self.engine, &self.counters);
        let stats = engine.stats();
        let mut page = Page::default();
        page.header("build_info", "gauge", "Always 1; the label is the version.");
        page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.process(&mut page);
        self.configuration(&mut page);
        page.single("rules", "gauge", "Rules in force.", count(engine.policy().rules.rules().len()));
        page.single("bans", "gauge", "Banned clients.", count(engine.bans().len()));
        page.single("banned_networks", "gauge", "Banned networks.", count(engine.policy().lists.banned.len()));
        page.single("shadow_bans", "gauge", "Clients that rules in shadow mode would ban.", count(engine.shadow_bans().len()));
        page.single("strikes", "gauge", "Live strike counters.", count(engine.strikes().len()));
        page.single("offences_total", "counter", "Offences counted.", stats.offences.load(Ordering::Relaxed));
        page.single("bans_total", "counter", "Bans that rules made.", stats.bans.load(Ordering::Relaxed));
        let shadow_bans = stats.shadow_bans.load(Ordering::Relaxed);
        page.single("shadow_bans_total", "counter", "Bans that rules in shadow mode would have made.", shadow_bans);
        page.single("bans_evicted_total", "counter", "Bans dropped early because the table was full.", engine.bans().evicted());
        page.single("strikes_evicted_total", "counter", "Strike counters dropped because the table was full.", engine.strikes().evicted());
        page.single("crowds_evicted_total", "counter", "Counts of networks dropped because the table was full.", engine.crowds().evicted());
        let (evicted, refused) = (stats.evicted_networks.load(Ordering::Relaxed), stats.refused_networks.load(Ordering::Relaxed));
        page.single("networks_evicted_total", "counter", "Bans of networks by rules that ended early to make room.", evicted);
        page.single("networks_refused_total", "counter", "Bans of networks by rules that found no room.", refused);
        let unsaved = stats.unsaved_answers.load(Ordering::Relaxed);
        page.single("unsaved_answers_total", "counter", "Refusals sent before their ban was saved.", unsaved);
        let failed_open = counters.failed_open.load(Ordering::Relaxed);
        page.single("failed_open_total", "counter", "Answers that accepted because of a fault.", failed_open);
        for (name, help, counter) in [
            (
                "offences_deferred_total",
                "Offences that the daemon could not take at once and that a Squid helper reported later.",
                &counters.offences_deferred,
            ),
            (
                "offences_dropped_total",
                "Offences that a Squid helper could not report in time and that were never counted.",
                &counters.offences_dropped,
            ),
        ] {
            page.single(name, "counter", help, counter.load(Ordering::Relaxed));
        }
        page.single(
            "requests_total",
            "counter",
            "Ordinary requests reported by Squid's helpers, where a rule limits their rate.",
            counters.requests.load(Ordering::Relaxed),
        );
        let is_paused = engine.policy().active_pause(self.clock.now()).is_some();
        page.single("paused", "gauge", "1 while a pause serves everybody.", is_paused.into());
        self.answers(&mut page);
        self.rules(&mut page);
        page.single("subscribers", "gauge", "Attached Squid helpers.", count(counters.subscribers.load(Ordering::Relaxed)));
        let stale = counters.prefilters.stale(engine.policy().rules.rules()).iter().filter(|status| status.stale.is_some()).count();
        page.single("prefilters_stale", "gauge", "Squid helpers whose Squid may not ask about what newer rules match.", count(stale));
        page.single("connections", "gauge", "Connections to the socket.", count(counters.connections.load(Ordering::Relaxed)));
        page.single(
            "mail_connections",
            "gauge",
            "Open SMTP connections whose processes are watched.",
            count(counters.processes.load(Ordering::Relaxed)),
        );
        page.single("reloads_total", "counter", "Configurations put in force by a reload.", counters.reloads.load(Ordering::Relaxed));
        page.single(
            "reloads_refused_total",
            "counter",
            "Configurations refused by a reload.",
            counters.refused_reloads.load(Ordering::Relaxed),
        );
        self.dependencies(&mut page);
        page.0
    }

    /// Metrics of the process, under the names that all programs share.
    fn process(&self, page: &mut Page) {
        let process = ProcessNumbers::read();
        page.shared(
            "process_start_time_seconds",
            "gauge",
            "When the daemon started, in seconds since 1970.",
            &self.started.secs().to_string(),
        );
        let cpu = seconds(process.cpu_millis * 1000);
        page.shared("process_cpu_seconds_total", "counter", "User and system time that the daemon used.", &cpu);
        for (name, help, number) in [
            ("process_resident_memory_bytes", "Memory that the daemon occupies (RSS).", Some(process.resident_bytes)),
            ("process_virtual_memory_bytes", "Address space of the daemon.", Some(process.virtual_bytes)),
            ("process_threads", "Threads of the daemon.", Some(process.threads)),
            ("process_open_fds", "Open file descriptors.", Some(process.open_fds)),
            ("process_max_fds", "Maximum number of open file descriptors.", process.max_fds),
        ] {
            if let Some(number) = number {
                page.shared(name, "gauge", help, &number.to_string());
            }
        }
    }

    /// Metrics of what is in force.
    fn configuration(&self, page: &mut Page) {
        let policy = self.engine.policy();
        let read = self.counters.config_read.load(Ordering::Relaxed);
        page.single("config_last_reload_success_timestamp_seconds", "gauge", "When the configuration in force was read.", read);
        let is_refused = self.counters.config_refused.load(Ordering::Relaxed);
        page.single("config_last_reload_successful", "gauge", "0 while the last configuration is refused.", u64::from(!is_refused));
        page.header("list_networks", "gauge", "Addresses and networks in a list.");
        let size = |sources: &[ListSource]| sources.iter().map(|source| count(source.networks().len())).sum();
        let lists = &policy.lists;
        let own = count(lists.own().addresses().len() + lists.own().gateways().len());
        for (list, number) in [
            ("ignoreip", size(lists.ignoreip())),
            ("trusted_proxies", size(lists.trusted_proxies())),
            ("deny", size(lists.deny())),
            ("own", own),
        ] {
            page.sample("list_networks", &[("list", list)], number);
        }
        let databases = self.geo.states();
        if !databases.is_empty() {
            page.header("geo_networks", "gauge", "Networks in a database of [geo].");
            databases.iter().for_each(|state| page.sample("geo_networks", &[("database", state.kind.as_str())], count(state.entries)));
            page.header("geo_usable", "gauge", "0 while the file of a database, as it is now, cannot be used.");
            databases
                .iter()
                .for_each(|state| page.sample("geo_usable", &[("database", state.kind.as_str())], u64::from(state.fault.is_none())));
        }
        self.crawlers(page);
        self.hosts(page);
        self.crowdsec(page);
        page.header("last_query_timestamp_seconds", "gauge", "When a server asked last.");
        for service in Service::ALL {
            if let Some(ago) = self.counters.traffic.last_asked(service) {
                let at = self.clock.now().before(Span::from_secs(ago));
                page.sample("last_query_timestamp_seconds", &[("service", service.as_str())], at.secs());
            }
        }
    }

    /// Metrics of the crawlers of `verified_crawlers`.
    fn crawlers(&self, page: &mut Page) {
        let policy = self.engine.policy();
        if policy.crawlers.is_empty() {
            return;
        }
        page.header("crawler_clients", "gauge", "Addresses that say they are a crawler, by what was found.");
        for crawler in policy.crawlers.iter() {
            let ClaimCounts { verified, refuted, unknown, asked } = self.engine.claims().counts(crawler);
            for (found, number) in [("verified", verified), ("refuted", refuted), ("unknown", unknown), ("asked", asked)] {
                page.sample("crawler_clients", &[("crawler", &crawler.name), ("found", found)], count(number));
            }
        }
    }

    /// Metrics of CrowdSec's local API, if one is asked.
    fn crowdsec(&self, page: &mut Page) {
        let Some(status) = self.crowdsec.status() else { return };
        page.header("crowdsec_fault", "gauge", "1 while CrowdSec's local API does not answer as it should.");
        page.sample("crowdsec_fault", &[], u64::from(status.fault.is_some()));
        page.header("crowdsec_decisions", "gauge", "Decisions of CrowdSec that are known and in force.");
        page.sample("crowdsec_decisions", &[], count(status.decisions));
        page.header("crowdsec_skipped", "gauge", "Decisions of CrowdSec that were not taken since the last whole list, by reason.");
        status.skipped.iter().for_each(|(reason, number)| page.sample("crowdsec_skipped", &[("reason", reason)], *number));
        if let Some(ago) = status.answered_ago {
            page.header("crowdsec_last_answer_timestamp_seconds", "gauge", "When CrowdSec's local API was last answered.");
            page.sample("crowdsec_last_answer_timestamp_seconds", &[], self.clock.now().before(Span::from_secs(ago)).secs());
        }
    }

    /// Metrics of the host names in `ignoreip`.
    fn hosts(&self, page: &mut Page) {
        let hosts = self.hosts.states();
        let columns: [Column<HostState>; 3] = [
            ("host_addresses", "gauge", "Addresses of a host name that are never banned.", |host| {
                host.answer.as_ref().map_or(0, |answer| count(answer.addresses.addresses.len()))
            }),
            ("host_fault", "gauge", "1 while a host name cannot be looked up, or has too many addresses.", |host| {
                u64::from(host.fault.is_some())
            }),
            ("host_last_answer_timestamp_seconds", "gauge", "When the addresses of a host name were last answered.", |host| {
                host.answer.as_ref().map_or(0, |answer| answer.at.secs())
            }),
        ];
        for (name, kind, help, number) in columns {
            page.header(name, kind, help);
            for host in &hosts {
                page.sample(name, &[("host", host.name.as_str())], number(host));
            }
        }
    }

    /// Metrics of questions and verdicts. A question, a service or a rule has none before its first answer.
    fn answers(&self, page: &mut Page) {
        page.header(
            "queries_total",
            "counter",
            "Questions that the daemon answered, and queries that Squid's helpers answered without asking it.",
        );
        let by_helpers = ("query", self.counters.answered_by_helpers());
        let asked = || Question::ALL.into_iter().filter(|question| self.counters.answers(*question) > 0);
        let answers = asked().map(|question| (question.as_str(), self.counters.answers(question)));
        for (question, number) in answers.chain([by_helpers]).filter(|(_, number)| *number > 0) {
            page.sample("queries_total", &[("question", question)], number);
        }
        page.header("verdicts_total", "counter", "Answers by service, verdict and the rule that refused.");
        for service in Service::ALL {
            let accepted = self.counters.accepted(service);
            if accepted == 0 {
                continue;
            }
            page.sample("verdicts_total", &[("service", service.as_str()), ("verdict", "accept"), ("rule", "")], accepted);
        }
        for (refusal, count) in self.counters.refusals() {
            let rule = self.engine.names().name(refusal.rule);
            let service = if refusal.web { "web" } else { "mail" };
            let verdict = if refusal.deny { "deny" } else { "defer" };
            page.sample("verdicts_total", &[("service", service), ("verdict", verdict), ("rule", &rule)], count);
        }
        page.header("answer_seconds", "histogram", "Time from reading a question to its answer, including the wait for the disk.");
        for question in asked() {
            let (counts, micros) = self.counters.histogram(question);
            let ends = BUCKETS.iter().map(|micros| seconds(*micros)).chain(["+Inf".to_owned()]);
            for (end, count) in ends.zip(&counts) {
                page.sample("answer_seconds_bucket", &[("question", question.as_str()), ("le", &end)], *count);
            }
            page.text_sample("answer_seconds_sum", &[("question", question.as_str())], &seconds(micros));
            page.sample("answer_seconds_count", &[("question", question.as_str())], counts.last().copied().unwrap_or_default());
        }
    }

    /// Metrics of each rule that has counted something.
    fn rules(&self, page: &mut Page) {
        let mut rules = self.by_rule();
        rules.retain(|_, counts| *counts != RuleCounts::default());
        let columns: [Column<RuleCounts>; 4] = [
            ("rule_bans", "gauge", "Clients and networks that a rule bans.", |rule| rule.bans),
            ("rule_shadow_bans", "gauge", "Clients that a rule in shadow mode would ban.", |rule| rule.shadow_bans),
            ("rule_strikes", "gauge", "Clients with strikes below a rule's threshold.", |rule| rule.strikes),
            ("rule_bans_total", "counter", "Bans made by a rule, or by hand.", |rule| rule.bans_made),
        ];
        for (name, kind, help, number) in columns {
            page.header(name, kind, help);
            for (rule, counts) in &rules {
                page.sample(name, &[("rule", rule)], number(counts));
            }
        }
        page.header("rule_last_ban_timestamp_seconds", "gauge", "When a rule, or an operator, banned last.");
        for (rule, bans) in self.counters.bans() {
            page.sample("rule_last_ban_timestamp_seconds", &[("rule", &rule)], bans.last.secs());
        }
    }

    /// Metrics of logs, state file, hook and fleet.
    fn dependencies(&self, page: &mut Page) {
        let logs = self.logs.lock().status();
        let columns: [Column<LogStatus>; 3] = [
            ("log_lag_bytes", "gauge", "Bytes of a log that are not read yet.", |log| log.lag),
            ("log_lines_total", "counter", "Lines read from a log.", |log| log.lines),
            ("log_fault", "gauge", "1 while a log cannot be read, or its lines or times are not understood.", |log| {
                u64::from(log.any_fault().is_some())
            }),
        ];
        for (name, kind, help, number) in columns {
            page.header(name, kind, help);
            for log in &logs {
                page.sample(name, &[("log", &log.path.display().to_string())], number(log));
            }
        }
        if let Some(health) = self.state.as_ref().map(|state| state.health()) {
            page.single("state_degraded", "gauge", "1 while bans are in memory only.", u64::from(health.degraded.is_some()));
            page.single("state_unsaved", "gauge", "Changes that wait for another attempt to save them.", count(health.unsaved));
            page.single("state_saved_total", "counter", "Changes saved at the first attempt.", health.saved);
            page.single("state_failed_total", "counter", "Changes that could not be saved at the first attempt.", health.failed);
        }
        if let Some(hook) = self.hook.stats() {
            page.header("hook_runs_total", "counter", "Runs of the hook by result.");
            for (result, number) in [("done", hook.done), ("failed", hook.failed), ("killed", hook.killed)] {
                page.sample("hook_runs_total", &[("result", result)], number);
            }
            page.single("hook_dropped_total", "counter", "Bans and unbans that the hook was not run for.", hook.dropped);
            page.single("hook_waiting", "gauge", "Bans and unbans that wait for the hook.", hook.waiting);
        }
        if let Some(fleet) = self.fleet.as_ref().map(|health| health.counts()) {
            page.single("fleet_receiving", "gauge", "1 while changes made by other machines are received.", fleet.receiving);
            page.single("fleet_publishing", "gauge", "1 while own changes are published to other machines.", fleet.publishing);
            page.single("fleet_published_total", "counter", "Own changes published to other machines.", fleet.published);
            page.single("fleet_received_total", "counter", "Changes made by other machines that were applied here.", fleet.received);
            page.single("fleet_dropped_total", "counter", "Own changes that were never published.", fleet.dropped);
            page.single(
                "fleet_refused_total",
                "counter",
                "Bans made by other machines that were refused, and own bans beyond bans_per_minute.",
                fleet.refused,
            );
        }
    }
}

/// A metric's name, kind and help, and how its value is read.
type Column<T> = (&'static str, &'static str, &'static str, fn(&T) -> u64);

/// A page of Prometheus' text format.
#[derive(Default)]
struct Page(String);

impl Page {
    /// The HELP and TYPE lines of a metric.
    fn header(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP strikeout_{name} {help}\n# TYPE strikeout_{name} {kind}");
    }

    /// A metric with one sample, under a name that other programs share.
    fn shared(&mut self, name: &str, kind: &str, help: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }

    /// A metric with one sample.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.header(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.text_sample(name, labels, &value.to_string());
    }

    fn text_sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let labels: Vec<String> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "strikeout_{name}{labels} {value}");
    }
}

/// Escapes a label's value: the format has three escapes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Microseconds as seconds, without rounding.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_can_hold_anything() {
        let mut page = Page::default();
        page.sample("log_lag_bytes", &[("log", "/a \"b\\\n")], 7);
        assert_eq!(page.0, "strikeout_log_lag_bytes{log=\"/a \\\"b\\\\\\n\"} 7\n");
    }

    #[test]
    fn times_are_written_without_rounding() {
        assert_eq!([seconds(0), seconds(20), seconds(150_000), seconds(2_000_000)], ["0", "0.00002", "0.15", "2"]);
    }
}
