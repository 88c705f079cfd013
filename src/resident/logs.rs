//! The logs that the resident follows: their lines are judged by the rules that each log names, on the thread that reads them.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::client::Client;
use crate::clock::Clock;
use crate::config::LogConfig;
use crate::engine::{Engine, InForce};
use crate::log::follow::{Follower, Position};
use crate::log::rules::{LogRules, Seen};
use crate::log::thread::{LogThread, Status};
use crate::log::time::Zone;
use crate::reply::Reply;
use crate::rule::Rule;
use crate::time::Time;

/// The thread that follows the logs, if there are any.
pub struct Logs {
    engine: Arc<Engine>,
    clock: Clock,
    /// Where reading stopped in each log that was ever followed.
    positions: HashMap<PathBuf, Position>,
    /// Logs whose position was not handed to the keeper yet.
    unsaved: HashSet<PathBuf>,
    thread: Option<LogThread>,
}

/// One log's rules, compiled from what was in force then.
struct Judge {
    names: Vec<String>,
    inline: bool,
    compiled: Option<(Arc<InForce>, LogRules)>,
}

impl Logs {
    /// Follows nothing yet. `positions`: where reading stopped in an earlier life.
    #[must_use]
    pub fn new(engine: Arc<Engine>, clock: Clock, positions: HashMap<PathBuf, Position>) -> Self {
        Self { engine, clock, positions, unsaved: HashSet::new(), thread: None }
    }

    /// Follows these logs, and no others any more. Those that were followed go on where reading stopped.
    pub fn follow(&mut self, logs: &[LogConfig]) {
        self.stop();
        if logs.is_empty() {
            return;
        }
        let followers = logs.iter().map(|log| Follower::new(&log.path, self.positions.get(&log.path).cloned())).collect();
        let judges = logs.iter().map(|log| Judge { names: log.rules.clone(), inline: log.inline, compiled: None });
        let mut judges: Vec<Judge> = judges.collect();
        let (engine, clock) = (Arc::clone(&self.engine), self.clock);
        let sink = move |number: usize, line: &[u8]| {
            if let Some(judge) = judges.get_mut(number) {
                judge.look(&engine, clock.now(), clock.wall_drift(), line);
            }
        };
        match LogThread::start(followers, sink) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => log::error!("no log is followed: its thread could not be started: {error}"),
        }
    }

    /// How each log stands.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        self.thread.as_ref().map(LogThread::status).unwrap_or_default()
    }

    /// Follows nothing any more.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let status = thread.stop();
            self.note(status);
        }
    }

    /// Notes where reading stands, and hands what has changed to `keep`: what the lines before led to was handed to the keeper earlier.
    pub fn save(&mut self, keep: impl Fn(String, Position)) {
        let status = self.status();
        self.note(status);
        for path in std::mem::take(&mut self.unsaved) {
            if let (Some(text), Some(position)) = (path.to_str(), self.positions.get(&path)) {
                keep(text.to_owned(), position.clone());
            }
        }
    }

    fn note(&mut self, status: Vec<Status>) {
        for Status { path, position, .. } in status {
            if let Some(position) = position
                && self.positions.get(&path) != Some(&position)
            {
                self.positions.insert(path.clone(), position);
                self.unsaved.insert(path);
            }
        }
    }
}

impl Judge {
    /// Counts the offences that `line`, read `now`, tells of.
    ///
    /// Lines have the wall clock's time, which is `drift` milliseconds ahead of the table's: somebody may have set it since the start.
    fn look(&mut self, engine: &Arc<Engine>, now: Time, drift: i64, line: &[u8]) {
        let in_force = engine.in_force();
        let Some(rules) = self.rules(&in_force) else { return };
        if let Some((address, deed, authenticated)) = rules.conduct(line) {
            engine.budget().note(Client::of(address, in_force.prefix), deed, authenticated);
        }
        let mut found = Vec::new();
        rules.look(line, now.shifted(drift), &in_force.detector(engine.bans()), &mut |seen| found.push(seen));
        for Seen { time, surface, offence } in found {
            engine.offend(time.shifted(drift.saturating_neg()), &offence, surface, Reply::new(|_| ()));
        }
    }

    /// The rules, compiled anew when others have come into force.
    fn rules(&mut self, in_force: &Arc<InForce>) -> Option<&mut LogRules> {
        let is_current = self.compiled.as_ref().is_some_and(|(then, _)| Arc::ptr_eq(&then.rules, &in_force.rules));
        if !is_current {
            let rules: Vec<Arc<Rule>> = self.names.iter().filter_map(|name| in_force.rules.by_name(name)).map(Arc::clone).collect();
            match LogRules::new(&rules, Zone::of_this_machine(), self.inline) {
                Ok(rules) => self.compiled = Some((Arc::clone(in_force), rules)),
                Err(fault) => {
                    log::error!("a log's rules cannot be used: {fault}");
                    self.compiled = LogRules::new(&[], Zone::utc(), self.inline).ok().map(|none| (Arc::clone(in_force), none));
                }
            }
        }
        self.compiled.as_mut().map(|(_, rules)| rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::timestamp;
    use crate::config::Config;
    use crate::event::Surface;
    use crate::rule::Names;
    use std::path::Path;

    const NOW: Time = Time::from_secs(1_800_000_000);
    const DAY: i64 = 86_400_000;

    /// Whether a client is banned now after Exim refused it twice, at moments that its log gives in wall time.
    fn is_banned_after(seconds_ago: [u64; 2], drift: i64) -> bool {
        let names = Arc::new(Names::default());
        let text = b"[[rule]]\nname = 'exim-per-host'\nmaxretry = 2\nfindtime = '10m'\nbantime = '1h'";
        let config = Config::parse(text, Path::new("test.toml"), &names).unwrap();
        let engine = Arc::new(Engine::new(names, config.into(), 100, 100).unwrap());
        let mut judge = Judge { names: vec!["exim-per-host".into()], inline: false, compiled: None };
        for ago in seconds_ago {
            let wall = timestamp(Time::from_secs(NOW.secs() - ago).shifted(drift));
            let stamp = wall.replace('T', " ").replace('Z', " +0000");
            let line = format!("{stamp} Connection from [203.0.113.7] refused: too many connections from that IP address");
            judge.look(&engine, NOW, drift, line.as_bytes());
        }
        let client = Client::from(std::net::Ipv4Addr::new(203, 0, 113, 7));
        engine.bans().get(client, Surface::Mail, NOW).is_some()
    }

    #[test]
    fn lines_count_at_their_own_time() {
        assert!(is_banned_after([5, 0], 0));
        assert!(is_banned_after([1805, 1800], 0), "the ban of half an hour ago stands");
        assert!(!is_banned_after([7205, 7200], 0), "the ban of two hours ago is over");
        assert!(!is_banned_after([7200, 0], 0), "too far apart");
    }

    #[test]
    fn a_rule_that_bans_a_client_whose_messages_are_taken_is_beyond_its_budget() {
        let names = Arc::new(Names::default());
        let config = Config::parse(b"", Path::new("test.toml"), &names).unwrap();
        let engine = Arc::new(Engine::new(Arc::clone(&names), config.into(), 100, 100).unwrap());
        let mut judge = Judge { names: vec!["exim-per-host".into()], inline: false, compiled: None };
        let stamp = timestamp(NOW).replace('T', " ").replace('Z', " +0000");
        let mut line = |text: &str| judge.look(&engine, NOW, 0, format!("{stamp} {text}").as_bytes());
        for client in ["203.0.113.7", "203.0.113.8"] {
            line(&format!("Connection from [{client}] refused: too many connections from that IP address"));
        }
        assert!(engine.budget().beyond(0.01).is_empty());
        for _ in 0..4 {
            line("1qHd2z-0003Xb-1A <= a@b.example H=(x) [203.0.113.7] P=esmtp S=123");
        }
        let beyond = engine.budget().beyond(0.01);
        assert_eq!(
            beyond.iter().map(|rule| (names.name(rule.rule).to_string(), rule.clients, rule.good)).collect::<Vec<_>>(),
            [("exim-per-host".to_owned(), 2, 1)]
        );
    }

    #[test]
    fn a_wall_clock_that_was_set_by_a_day_changes_nothing() {
        for drift in [DAY, -DAY] {
            assert!(is_banned_after([5, 0], drift), "{drift}");
            assert!(!is_banned_after([7200, 0], drift), "{drift}");
        }
    }
}
