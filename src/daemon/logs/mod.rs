//! The logs that the daemon follows: their lines are judged on the thread that reads them, and the engine counts the offences.

pub mod thread;
mod watch;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::LogConfig;
use crate::daemon::traffic::Traffic;
use crate::detector::Detector;
use crate::engine::Engine;
use crate::engine::reply::Reply;
use crate::event::Service;
use crate::event::behaviour::Outcome;
use crate::log::follow::{Follower, Position};
use crate::log::health::LogHealth;
use crate::log::judge::LogJudge;
use crate::log::offence::{LogOffence, OffenceKind, Received};
use crate::log::time::Zone;
use crate::policy::Policy;
use crate::time::Time;
use thread::{LineSink, LogStatus, LogThread};

/// The thread that follows the logs, if there are any, and the positions to save.
pub struct Logs {
    engine: Arc<Engine>,
    traffic: Arc<Traffic>,
    clock: Clock,
    /// Where reading stopped in each log that was ever followed.
    positions: HashMap<PathBuf, Position>,
    /// Logs whose position has changed since it was last saved.
    unsaved: HashSet<PathBuf>,
    thread: Option<LogThread>,
}

/// All followed logs, on the thread that reads them.
struct FollowedLogs {
    logs: Vec<FollowedLog>,
    engine: Arc<Engine>,
    traffic: Arc<Traffic>,
    clock: Clock,
}

impl LineSink for FollowedLogs {
    fn line(&mut self, number: usize, line: &[u8], is_live: bool) {
        if let Some(log) = self.logs.get_mut(number) {
            log.line(&self.engine, &self.traffic, self.clock.now(), self.clock.wall_drift(), line, is_live);
        }
    }

    fn health(&self, number: usize) -> LogHealth {
        self.logs.get(number).and_then(|log| log.judge.as_ref()).map(|(_, judge)| judge.health().clone()).unwrap_or_default()
    }
}

/// One followed log: its rules, compiled from the policy that was in force then.
struct FollowedLog {
    /// The names of the rules; none for all rules over requests and responses.
    rules: Option<Vec<String>>,
    inline: bool,
    zone: Zone,
    judge: Option<(Arc<Policy>, LogJudge)>,
}

impl Logs {
    /// Follows no log yet. `positions` says where reading stopped before the last shutdown.
    #[must_use]
    pub fn new(engine: Arc<Engine>, traffic: Arc<Traffic>, clock: Clock, positions: HashMap<PathBuf, Position>) -> Self {
        Self { engine, traffic, clock, positions, unsaved: HashSet::new(), thread: None }
    }

    /// Follows these logs and stops following others. Logs that were followed before continue where reading stopped.
    pub fn follow(&mut self, logs: &[LogConfig]) {
        self.stop();
        if logs.is_empty() {
            return;
        }
        let follower = |log: &LogConfig| {
            let follower = Follower::new(&log.path, self.positions.get(&log.path).cloned());
            if log.optional { follower } else { follower.required() }
        };
        let followers = logs.iter().map(follower).collect();
        let followed: Vec<FollowedLog> = logs.iter().map(FollowedLog::new).collect();
        let (engine, traffic, clock) = (Arc::clone(&self.engine), Arc::clone(&self.traffic), self.clock);
        let lines = FollowedLogs { logs: followed, engine, traffic, clock };
        match LogThread::start(followers, lines) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => log::error!("cannot follow any log: starting the thread failed: {error}"),
        }
    }

    #[must_use]
    pub fn status(&self) -> Vec<LogStatus> {
        self.thread.as_ref().map(LogThread::status).unwrap_or_default()
    }

    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let status = thread.stop();
            self.update_positions(status);
        }
    }

    /// Passes the positions that have changed to `save`. The bans made by the lines before a position went to the journal earlier.
    pub fn save(&mut self, save: impl Fn(String, Position)) {
        let status = self.status();
        self.update_positions(status);
        for path in std::mem::take(&mut self.unsaved) {
            if let (Some(text), Some(position)) = (path.to_str(), self.positions.get(&path)) {
                save(text.to_owned(), position.clone());
            }
        }
    }

    fn update_positions(&mut self, status: Vec<LogStatus>) {
        for LogStatus { path, position, .. } in status {
            if let Some(position) = position
                && self.positions.get(&path) != Some(&position)
            {
                self.positions.insert(path.clone(), position);
                self.unsaved.insert(path);
            }
        }
    }
}

impl FollowedLog {
    fn new(config: &LogConfig) -> Self {
        Self { rules: config.rules.clone(), inline: config.inline, zone: config.zone(), judge: None }
    }

    /// Judges a line that was read `now`, and if it is live was written just before, and counts its offences.
    ///
    /// The times in lines are wall clock times, which are `drift` milliseconds ahead of table time if the clock was set since the start.
    fn line(&mut self, engine: &Arc<Engine>, traffic: &Traffic, now: Time, drift: i64, line: &[u8], is_live: bool) {
        let policy = engine.policy();
        let Some(judge) = self.judge(&policy) else { return };
        let mut counted = false;
        let mut count = |LogOffence { time, service, kind, offence, .. }: &LogOffence| {
            counted |= !matches!(kind, OffenceKind::Rate | OffenceKind::Text);
            engine.record_offence(time.shifted(drift.saturating_neg()), offence, *service, Reply::new(|_| ()));
        };
        let detector = Detector::new(&policy, engine.bans());
        let wall = now.shifted(drift);
        let received = if is_live { Received::live(wall) } else { Received::late(wall) };
        let Some(judgement) = judge.judge(line, received, &detector, &mut count) else { return };
        // Squid goes on logging what a banned client sends to a bare address: that would make every scanner a load balancer. The connections
        // of Exim's log were asked about.
        if judgement.service == Service::Web && judgement.banned_by.is_none() {
            traffic.record(Service::Web, judgement.client, 1);
        }
        if let Some((address, crawler)) = &judgement.claimed {
            engine.claims().note(now, *address, crawler);
        }
        if let Some(cleared) = &judgement.cleared {
            engine.clear(judgement.client, cleared);
        }
        // The engine has already recorded a counted offence. If the request was served all the same, it must not count against the client, so
        // a success is recorded to balance it.
        let outcome = match judgement.outcome {
            Outcome::ServedOffence if counted => Outcome::Success,
            Outcome::Offence if counted => Outcome::Neutral,
            outcome => outcome,
        };
        engine.false_positives().record(judgement.client, outcome, judgement.authenticated);
    }

    /// The judge, compiled again when the rules in force have changed.
    fn judge(&mut self, policy: &Arc<Policy>) -> Option<&mut LogJudge> {
        let is_current = self.judge.as_ref().is_some_and(|(then, _)| Arc::ptr_eq(&then.rules, &policy.rules));
        if !is_current {
            let health = self.judge.take().map(|(_, judge)| judge.health().clone()).unwrap_or_default();
            let judge = LogJudge::of_log(&policy.rules, self.rules.as_deref(), &self.zone, self.inline).or_else(|error| {
                log::error!("cannot use the rules of a log, judging none of its lines: {error}");
                LogJudge::new(&[], &self.zone, self.inline)
            });
            let judge = judge.map(|judge| judge.with_health(health));
            self.judge = judge.ok().map(|judge| (Arc::clone(policy), judge));
        }
        self.judge.as_mut().map(|(_, judge)| judge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::clock::timestamp;
    use crate::config::Config;
    use crate::rule_id::RuleNames;
    use std::path::Path;

    const NOW: Time = Time::from_secs(1_800_000_000);
    const DAY: i64 = 86_400_000;

    /// Whether a client is banned now after Exim refused it twice, at times that the log gives in wall time.
    fn is_banned_after(seconds_ago: [u64; 2], drift: i64) -> bool {
        let names = Arc::new(RuleNames::default());
        let text = b"[[rule]]\nname = 'exim-per-host'\nmaxretry = 2\nfindtime = '10m'\nbantime = '1h'";
        let config = Config::parse(text, Path::new("test.toml"), &names).unwrap();
        let engine = Arc::new(Engine::new(names, config.into(), 100, 100).unwrap());
        let mut log = FollowedLog { rules: Some(vec!["exim-per-host".into()]), inline: false, zone: Zone::utc(), judge: None };
        for ago in seconds_ago {
            let wall = timestamp(Time::from_secs(NOW.secs() - ago).shifted(drift));
            let stamp = wall.replace('T', " ").replace('Z', " +0000");
            let line = format!("{stamp} Connection from [203.0.113.7] refused: too many connections from that IP address");
            log.line(&engine, &Traffic::default(), NOW, drift, line.as_bytes(), true);
        }
        let client = Client::from(std::net::Ipv4Addr::new(203, 0, 113, 7));
        engine.bans().get(client, Service::Mail, NOW).is_some()
    }

    #[test]
    fn lines_count_at_their_own_time() {
        assert!(is_banned_after([5, 0], 0));
        assert!(is_banned_after([1805, 1800], 0), "the ban of half an hour ago is active");
        assert!(!is_banned_after([7205, 7200], 0), "the ban of two hours ago is over");
        assert!(!is_banned_after([7200, 0], 0), "too far apart");
    }

    #[test]
    fn a_rule_that_bans_a_client_whose_messages_are_accepted_exceeds_the_false_positive_limit() {
        let names = Arc::new(RuleNames::default());
        let config = Config::parse(b"", Path::new("test.toml"), &names).unwrap();
        let engine = Arc::new(Engine::new(Arc::clone(&names), config.into(), 100, 100).unwrap());
        let mut log = FollowedLog { rules: Some(vec!["exim-per-host".into()]), inline: false, zone: Zone::utc(), judge: None };
        let stamp = timestamp(NOW).replace('T', " ").replace('Z', " +0000");
        let mut line = |text: &str| log.line(&engine, &Traffic::default(), NOW, 0, format!("{stamp} {text}").as_bytes(), true);
        for client in ["203.0.113.7", "203.0.113.8"] {
            line(&format!("Connection from [{client}] refused: too many connections from that IP address"));
        }
        assert!(engine.false_positives().exceeding(0.01).is_empty());
        for _ in 0..4 {
            line("1qHd2z-0003Xb-1A <= a@b.example H=(x) [203.0.113.7] P=esmtp S=123");
        }
        let exceeding = engine.false_positives().exceeding(0.01);
        assert_eq!(
            exceeding.iter().map(|rule| (names.name(rule.rule).to_string(), rule.clients, rule.legitimate)).collect::<Vec<_>>(),
            [("exim-per-host".to_owned(), 2, 1)]
        );
    }

    #[test]
    fn setting_the_wall_clock_by_a_day_changes_nothing() {
        for drift in [DAY, -DAY] {
            assert!(is_banned_after([5, 0], drift), "{drift}");
            assert!(!is_banned_after([7200, 0], drift), "{drift}");
        }
    }
}
