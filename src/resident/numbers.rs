//! The resident's numbers as text: lines of `status`, and Prometheus' exposition format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::hook::Hook;
use super::logs::Logs;
use super::meters::{BUCKETS, Meters, Question};
use crate::clock::Clock;
use crate::engine::Engine;
use crate::engine::durable::StateFile;
use crate::event::Surface;
use crate::fleet::Health;
use crate::log::thread::Status;
use crate::rule::{Mode, RuleId};
use crate::time::Time;

/// Everything that has numbers to tell.
pub struct Numbers {
    /// The table.
    pub engine: Arc<Engine>,
    /// What the loop counts.
    pub meters: Arc<Meters>,
    /// The logs that are followed.
    pub logs: Arc<Mutex<Logs>>,
    /// The state file, if one is configured.
    pub state: Option<Arc<StateFile>>,
    /// The program that is told of bans, if one is configured.
    pub hook: Arc<Hook>,
    /// How the fleet does, if the machine is part of one.
    pub fleet: Option<Arc<Health>>,
    /// The time.
    pub clock: Clock,
    /// When the resident started.
    pub started: Time,
}

/// What is counted of one rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleNumbers {
    /// Clients that it bans now.
    pub bans: u64,
    /// Clients that it would ban now, were it not in shadow mode.
    pub shadow_bans: u64,
    /// Clients with strikes below its threshold.
    pub strikes: u64,
    /// Bans that it made since the start.
    pub bans_made: u64,
    /// Answers that refused by it since the start.
    pub refused: u64,
}

impl Numbers {
    /// What is counted of each rule that is in force or has numbers, by name.
    #[must_use]
    pub fn by_rule(&self) -> BTreeMap<Arc<str>, RuleNumbers> {
        let now = self.clock.now();
        let in_force = self.engine.in_force();
        let mut rules: BTreeMap<Arc<str>, RuleNumbers> = BTreeMap::new();
        for rule in in_force.rules.rules() {
            rules.entry(Arc::clone(&rule.name)).or_default().strikes = count(self.engine.strikes().count(rule.id));
        }
        for (bans, shadow) in [(self.engine.bans(), false), (self.engine.shadows(), true)] {
            let mut counts: BTreeMap<RuleId, u64> = BTreeMap::new();
            // A client comes with both its surfaces one after the other: banned on both by one rule it counts once.
            let mut last = None;
            bans.for_each(now, |client, _, ban| {
                if last.replace((client, ban.rule)) != Some((client, ban.rule)) {
                    *counts.entry(ban.rule).or_default() += 1;
                }
            });
            for (rule, count) in counts {
                let numbers = rules.entry(self.engine.names().name(rule)).or_default();
                *(if shadow { &mut numbers.shadow_bans } else { &mut numbers.bans }) = count;
            }
        }
        for network in in_force.lists.banned.iter().filter(|network| network.stands(now)) {
            rules.entry(Arc::clone(&network.rule)).or_default().bans += 1;
        }
        for (rule, made) in self.meters.bans() {
            rules.entry(rule).or_default().bans_made = made;
        }
        for (refused, times) in self.meters.refused() {
            rules.entry(self.engine.names().name(refused.rule)).or_default().refused += times;
        }
        rules
    }

    /// The lines that `status` ends with: what is counted of the resident itself, of the hook and of each rule.
    #[must_use]
    pub fn status_lines(&self) -> Vec<String> {
        let meters = &self.meters;
        let mut lines = vec![
            format!("memory={}", resident_memory()),
            format!("followers={}", meters.followers.load(Ordering::Relaxed)),
            format!("answers_by_helpers={}", meters.by_helpers()),
            format!("shadow_bans={}", self.engine.shadows().len()),
            format!("answers_failed_open={}", meters.failed_open.load(Ordering::Relaxed)),
            format!("reloads={}", meters.reloads.load(Ordering::Relaxed)),
            format!("reloads_refused={}", meters.refused_reloads.load(Ordering::Relaxed)),
        ];
        lines.extend(Question::ALL.map(|question| {
            let (counts, _) = meters.histogram(question);
            format!("answers_to_{}={}", question.as_str(), counts.last().copied().unwrap_or_default())
        }));
        if let Some(hook) = self.hook.numbers() {
            lines.push(format!(
                "hook=waiting={} running={} done={} failed={} killed={} dropped={}",
                hook.waiting, hook.running, hook.done, hook.failed, hook.killed, hook.dropped
            ));
        }
        let in_force = self.engine.in_force();
        for (name, numbers) in self.by_rule() {
            let about = in_force.rules.by_name(&name).map_or_else(
                || "mode=- scope=-".to_owned(),
                |rule| format!("mode={} scope={}", if rule.mode == Mode::Shadow { "shadow" } else { "enforce" }, rule.scope.as_str()),
            );
            let RuleNumbers { bans, shadow_bans, strikes, bans_made, refused } = numbers;
            lines.push(format!(
                "rule={name} {about} bans={bans} shadow_bans={shadow_bans} strikes={strikes} bans_made={bans_made} refused={refused}"
            ));
        }
        lines
    }

    /// Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let (engine, meters) = (&self.engine, &self.meters);
        let tallies = engine.tallies();
        let mut page = Page::default();
        page.about("build_info", "gauge", "Always 1; the label is the version.");
        page.value("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.alone("uptime_seconds", "gauge", "Seconds since the start.", self.clock.now().since(self.started).secs());
        page.alone("memory_bytes", "gauge", "Memory that the resident holds (resident set).", resident_memory());
        page.alone("rules", "gauge", "Rules in force.", count(engine.in_force().rules.rules().len()));
        page.alone("bans", "gauge", "Clients that are banned.", count(engine.bans().len()));
        page.alone("banned_networks", "gauge", "Networks that are banned.", count(engine.in_force().lists.banned.len()));
        page.alone("shadow_bans", "gauge", "Clients that rules in shadow mode would ban.", count(engine.shadows().len()));
        page.alone("strikes", "gauge", "Counters of strikes that are live.", count(engine.strikes().len()));
        page.alone("offences_total", "counter", "Offences counted.", tallies.offences.load(Ordering::Relaxed));
        page.alone("bans_total", "counter", "Bans that rules made.", tallies.bans.load(Ordering::Relaxed));
        let shadow_bans = tallies.shadow_bans.load(Ordering::Relaxed);
        page.alone("shadow_bans_total", "counter", "Bans that rules in shadow mode would have made.", shadow_bans);
        page.alone("bans_evicted_total", "counter", "Bans that fell because the table was full.", engine.bans().evicted());
        page.alone("strikes_evicted_total", "counter", "Strikes that fell because the table was full.", engine.strikes().evicted());
        let unsaved = tallies.unsaved_answers.load(Ordering::Relaxed);
        page.alone("unsaved_answers_total", "counter", "Refusals that left before their ban was saved.", unsaved);
        let failed_open = meters.failed_open.load(Ordering::Relaxed);
        page.alone("failed_open_total", "counter", "Answers that accept because of a fault of the resident's.", failed_open);
        page.alone(
            "requests_total",
            "counter",
            "Ordinary requests that Squid's helpers reported, where a rule counts them.",
            meters.requests.load(Ordering::Relaxed),
        );
        self.answers(&mut page);
        self.rules(&mut page);
        page.alone("followers", "gauge", "Squid helpers that are attached.", count(meters.followers.load(Ordering::Relaxed)));
        page.alone("connections", "gauge", "Connections to the socket.", count(meters.connections.load(Ordering::Relaxed)));
        page.alone(
            "mail_connections",
            "gauge",
            "SMTP connections that are open, as far as they can be watched.",
            count(meters.processes.load(Ordering::Relaxed)),
        );
        page.alone("reloads_total", "counter", "Configurations taken over.", meters.reloads.load(Ordering::Relaxed));
        page.alone(
            "reloads_refused_total",
            "counter",
            "Configurations refused for a fault.",
            meters.refused_reloads.load(Ordering::Relaxed),
        );
        self.outside(&mut page);
        page.0
    }

    /// Questions, verdicts and how long they took.
    fn answers(&self, page: &mut Page) {
        page.about(
            "queries_total",
            "counter",
            "Questions that the resident answered, and queries that Squid's helpers answered by themselves.",
        );
        page.value("queries_total", &[("question", "query")], self.meters.by_helpers());
        for question in Question::ALL {
            let (counts, _) = self.meters.histogram(question);
            page.value("queries_total", &[("question", question.as_str())], counts.last().copied().unwrap_or_default());
        }
        page.about("verdicts_total", "counter", "Answers by surface, verdict and the rule that refused.");
        for surface in Surface::ALL {
            let accepted = self.meters.accepted(surface);
            page.value("verdicts_total", &[("surface", surface.as_str()), ("verdict", "accept"), ("rule", "")], accepted);
        }
        for (refused, count) in self.meters.refused() {
            let rule = self.engine.names().name(refused.rule);
            let surface = if refused.web { "web" } else { "mail" };
            let verdict = if refused.deny { "deny" } else { "defer" };
            page.value("verdicts_total", &[("surface", surface), ("verdict", verdict), ("rule", &rule)], count);
        }
        page.about("answer_seconds", "histogram", "Time from reading a question to its answer, waiting for the disk included.");
        for question in Question::ALL {
            let (counts, micros) = self.meters.histogram(question);
            let ends = BUCKETS.iter().map(|micros| seconds(*micros)).chain(["+Inf".to_owned()]);
            for (end, count) in ends.zip(&counts) {
                page.value("answer_seconds_bucket", &[("question", question.as_str()), ("le", &end)], *count);
            }
            page.line("answer_seconds_sum", &[("question", question.as_str())], &seconds(micros));
            page.value("answer_seconds_count", &[("question", question.as_str())], counts.last().copied().unwrap_or_default());
        }
    }

    /// What is counted of each rule.
    fn rules(&self, page: &mut Page) {
        let rules = self.by_rule();
        let columns: [Column<RuleNumbers>; 4] = [
            ("rule_bans", "gauge", "Clients and networks that a rule bans.", |rule| rule.bans),
            ("rule_shadow_bans", "gauge", "Clients that a rule in shadow mode would ban.", |rule| rule.shadow_bans),
            ("rule_strikes", "gauge", "Clients with strikes below a rule's threshold.", |rule| rule.strikes),
            ("rule_bans_total", "counter", "Bans made by a rule, or by hand.", |rule| rule.bans_made),
        ];
        for (name, kind, help, number) in columns {
            page.about(name, kind, help);
            for (rule, numbers) in &rules {
                page.value(name, &[("rule", rule)], number(numbers));
            }
        }
    }

    /// Logs, state file, hook and fleet.
    fn outside(&self, page: &mut Page) {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner).status();
        let columns: [Column<Status>; 3] = [
            ("log_lag_bytes", "gauge", "Bytes of a log that are there and not read yet.", |log| log.lag),
            ("log_lines_total", "counter", "Lines read of a log.", |log| log.lines),
            ("log_fault", "gauge", "1 while a log cannot be read.", |log| u64::from(log.fault.is_some())),
        ];
        for (name, kind, help, number) in columns {
            page.about(name, kind, help);
            for log in &logs {
                page.value(name, &[("log", &log.path.display().to_string())], number(log));
            }
        }
        if let Some(health) = self.state.as_ref().map(|state| state.health()) {
            page.alone("state_degraded", "gauge", "1 while bans are in memory only.", u64::from(health.degraded.is_some()));
            page.alone("state_unsaved", "gauge", "Changes that wait to be saved again.", count(health.unsaved));
            page.alone("state_saved_total", "counter", "Changes saved.", health.saved);
            page.alone("state_failed_total", "counter", "Changes that could not be saved at first.", health.failed);
        }
        if let Some(hook) = self.hook.numbers() {
            page.about("hook_calls_total", "counter", "Calls of the hook by what became of them.");
            for (result, number) in [("done", hook.done), ("failed", hook.failed), ("killed", hook.killed), ("dropped", hook.dropped)] {
                page.value("hook_calls_total", &[("result", result)], number);
            }
            page.alone("hook_waiting", "gauge", "Calls of the hook that wait.", hook.waiting);
        }
        for (name, number) in self.fleet.iter().flat_map(|health| health.numbers()) {
            let (kind, help) = match name {
                "fleet_hears" => ("gauge", "1 while changes of other machines are heard."),
                "fleet_says" => ("gauge", "1 while own changes are said to other machines."),
                "fleet_said_total" => ("counter", "Own changes said to other machines."),
                "fleet_dropped_total" => {
                    ("counter", "Own changes that were dropped: too many waited, the engine was away, or it did not take them.")
                }
                "fleet_heard_total" => ("counter", "Changes of other machines that were taken over."),
                "fleet_refused_total" => ("counter", "Bans of other machines that were not believed."),
                _ => ("untyped", "Of the fleet."),
            };
            page.alone(name, kind, help, number);
        }
    }
}

/// A metric's name, kind, help, and its number in what is counted.
type Column<T> = (&'static str, &'static str, &'static str, fn(&T) -> u64);

/// A page of Prometheus' text format.
#[derive(Default)]
struct Page(String);

impl Page {
    /// The two lines that come before a metric's values.
    fn about(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP strikeout_{name} {help}\n# TYPE strikeout_{name} {kind}");
    }

    /// A metric with one value.
    fn alone(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.about(name, kind, help);
        self.value(name, &[], value);
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.line(name, labels, &value.to_string());
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let labels: Vec<String> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "strikeout_{name}{labels} {value}");
    }
}

/// The text of a label: the format knows three escapes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How many bytes of memory this process holds; 0 if the kernel does not say.
fn resident_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
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
        page.value("log_lag_bytes", &[("log", "/a \"b\\\n")], 7);
        assert_eq!(page.0, "strikeout_log_lag_bytes{log=\"/a \\\"b\\\\\\n\"} 7\n");
    }

    #[test]
    fn times_are_written_exactly() {
        assert_eq!([seconds(0), seconds(20), seconds(150_000), seconds(2_000_000)], ["0", "0.00002", "0.15", "2"]);
    }

    #[test]
    fn this_process_holds_some_memory() {
        assert!(resident_memory() > 100_000);
    }
}
