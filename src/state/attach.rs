//! Connects an engine with its state file: loads it at start, saves every change, and applies what other processes write.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::geo::Network;
use parking_lot::Mutex;

use super::{Loaded, Reader, StateError, StateHealth, StoredStrikes, Writer, WriterEvent};
use crate::client::Client;
use crate::clock::Clock;
use crate::engine::{BanRecord, Change, Engine, Journal, OnPersisted, Persisted, SavedBans};
use crate::log::follow::Position;
use crate::rule::Evidence;
use crate::rule_id::FLEET;
use crate::time::{Span, Time};

/// Number of bans queued at a time when the file has lost them, well below the length of the writer's queue.
const RESEND_BATCH: usize = 4096;

/// Shortest `findtime` whose strikes are saved. Strikes under a shorter one have expired, or nearly, after a restart; among these are the
/// rates of ordinary requests, which every innocent client has.
const MIN_SAVED_FINDTIME: Span = Span::from_secs(120);

/// The state file of one engine.
pub struct StateFile {
    engine: Arc<Engine>,
    writer: Arc<Writer>,
    reader: Mutex<Reader>,
    /// Where reading of each log had stopped when the file was loaded.
    positions: Mutex<Vec<(String, Position)>>,
    /// The rules by which this machine had made the bans in the file.
    own_rules: HashSet<Arc<str>>,
}

/// The engine's reference to the writer.
struct SharedWriter(Arc<Writer>);

impl Journal for SharedWriter {
    fn persist(&self, change: Change, on_persisted: OnPersisted) {
        self.0.persist(change, on_persisted);
    }

    fn flush(&self, on_persisted: OnPersisted) {
        self.0.flush(on_persisted);
    }

    fn has_overflowed(&self) -> bool {
        self.0.has_overflowed()
    }
}

/// Gives the event handler access to the writer: the handler has to exist before the writer does.
type LateWriter = Arc<Mutex<Option<Weak<Writer>>>>;

impl StateFile {
    /// Loads the file at `path` into `engine`, and saves every change there from now on.
    ///
    /// A file that cannot be used is not an error: the engine works without it, [`StateFile::health`] gives the reason, and it is retried.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn open(engine: &Arc<Engine>, clock: Clock, path: &Path) -> std::io::Result<Self> {
        let (mut positions, mut own_rules) = (Vec::new(), HashSet::new());
        let late_writer = LateWriter::default();
        let on_event = {
            let (engine, late_writer) = (Arc::clone(engine), Arc::clone(&late_writer));
            move |event| handle_event(&engine, clock.now(), event, &late_writer)
        };
        let writer = Writer::start(path.to_path_buf(), clock, on_event, &mut |loaded| {
            if let Loaded::Position { path, position } = loaded {
                positions.push((path, position));
            } else {
                let own_rule = own_rule(&loaded).filter(|rule| !own_rules.contains(*rule)).map(Arc::clone);
                own_rules.extend(own_rule);
                load(engine, clock.now(), loaded);
            }
        })?;
        let writer = Arc::new(writer);
        *late_writer.lock() = Some(Arc::downgrade(&writer));
        writer.set_forget(longest_forget(engine));
        engine.set_journal(Box::new(SharedWriter(Arc::clone(&writer))));
        Ok(Self {
            engine: Arc::clone(engine),
            writer,
            reader: Mutex::new(Reader::new(path.to_path_buf())),
            positions: Mutex::new(positions),
            own_rules,
        })
    }

    /// Ends the loaded bans of rules that refuse nobody under the configuration of this start, here and in the file. For a process that shares
    /// the file with none of another configuration.
    pub fn lift_bans(&self, now: Time) {
        self.engine.lift(now, self.own_rules.iter().map(|rule| &**rule), SavedBans::End);
    }

    /// Where reading of each log had stopped when the file was loaded. A second call returns nothing.
    #[must_use]
    pub fn take_positions(&self) -> Vec<(String, Position)> {
        std::mem::take(&mut *self.positions.lock())
    }

    /// Saves where reading of a log stopped, after all bans that its lines led to.
    pub fn save_position(&self, path: String, position: Position) {
        self.writer.save_position(path, position, Box::new(|_| ()));
    }

    /// Saves the strikes, and tells the writer how long earlier bans count under the current rules. To be called periodically.
    pub fn save_strikes(&self, now: Time) {
        self.writer.set_forget(longest_forget(&self.engine));
        let rules = Arc::clone(&self.engine.policy().rules);
        let mut strikes = Vec::new();
        self.engine.strikes().for_each(|id, client, counter| {
            if let Some(rule) = rules.get(id)
                && rule.findtime >= MIN_SAVED_FINDTIME
                && !counter.is_expired(now, rule.findtime)
            {
                strikes.push(StoredStrikes { client, rule: Arc::clone(&rule.name), counter, until: counter.last().after(rule.findtime) });
            }
        });
        self.writer.save_strikes(
            strikes,
            Box::new(|persisted| {
                if let Persisted::No(reason) = persisted {
                    log::warn!("strikes are not saved: {reason}");
                }
            }),
        );
    }

    /// Whether saving works, and how much is unsaved.
    #[must_use]
    pub fn health(&self) -> StateHealth {
        self.writer.health()
    }

    /// The active bans of `client` in the file, with their evidence.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn ban_records(&self, client: Client, now: Time) -> Result<Vec<BanRecord>, StateError> {
        self.reader.lock().find_bans(client, now)
    }

    /// The operator's reason for the ban of a network, as the file has it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn network_ban_reason(&self, network: Network) -> Result<Option<Evidence>, StateError> {
        self.reader.lock().network_ban_reason(network)
    }

    /// Saves the strikes and closes the file; waits for at most `limit`.
    pub fn finish(&self, now: Time, limit: Duration) {
        self.save_strikes(now);
        if !self.writer.finish(limit) {
            log::warn!("the state file is slow: strikes may not be saved");
        }
    }
}

/// The rule by which this machine made a ban of the file; `None` for a ban by hand or by a rule that another machine alone has.
fn own_rule(loaded: &Loaded) -> Option<&Arc<str>> {
    match loaded {
        Loaded::Change(Change::Banned(record)) if record.node.is_empty() => Some(&record.rule),
        // The file does not say which machine banned a network: it is under a name of this one's rules, or under that of the fleet.
        Loaded::Change(Change::NetworkBanned(record)) if record.is_by_count() && &*record.rule != FLEET => Some(&record.rule),
        _ => None,
    }
}

/// The longest time for which a rule remembers earlier bans.
fn longest_forget(engine: &Engine) -> Span {
    let policy = engine.policy();
    policy
        .rules
        .rules()
        .iter()
        .filter_map(|rule| rule.bantime.increment.as_ref())
        .map(|increment| increment.forget)
        .max()
        .unwrap_or(Span::ZERO)
}

/// Applies a record of the file, which another process has just written.
fn apply(engine: &Engine, now: Time, loaded: Loaded) {
    match loaded {
        Loaded::Change(change) => engine.apply(&change, now),
        other => load(engine, now, other),
    }
}

/// Puts a record of the file into an engine that has just started.
fn load(engine: &Engine, now: Time, loaded: Loaded) {
    match loaded {
        Loaded::Change(change) => engine.load(&change, now),
        Loaded::Strikes(strikes) => {
            // Strikes under a rule that no longer exists are dropped.
            if let Some(rule) = engine.names().find(&strikes.rule) {
                engine.strikes().restore(rule, strikes.client, strikes.counter);
            }
        }
        Loaded::EarlierBans { client, rule, earlier } => engine.restore_earlier_bans(client, &rule, earlier),
        Loaded::Position { .. } => {}
    }
}

fn handle_event(engine: &Arc<Engine>, now: Time, event: WriterEvent, writer: &LateWriter) {
    match event {
        WriterEvent::Notice(text) => log::warn!("{text}"),
        WriterEvent::Degraded(reason) => log::error!("bans are in memory only until this is fixed: {reason}"),
        WriterEvent::Recovered => log::info!("the state file works again: all bans are saved"),
        WriterEvent::Changed(records) => records.into_iter().for_each(|record| apply(engine, now, record)),
        WriterEvent::Resend { all } => {
            let writer = writer.lock().as_ref().and_then(Weak::upgrade);
            let Some(writer) = writer else { return };
            let engine = Arc::clone(engine);
            // This runs on the writer's thread, which must go on taking requests.
            let spawned = std::thread::Builder::new().name("resend".into()).spawn(move || resend(&engine, &writer, now, all));
            if let Err(error) = spawned {
                log::error!("bans that the state file lost cannot be saved again: {error}");
            }
        }
    }
}

/// Queues the bans in memory for saving again, a few thousand at a time: all of them for a new file, otherwise those that are not saved.
fn resend(engine: &Arc<Engine>, writer: &Writer, now: Time, all: bool) {
    let mut bans = Vec::new();
    engine.bans().for_each(now, |client, service, ban| {
        if all || !ban.saved {
            bans.push((client, service, ban));
        }
    });
    for batch in bans.chunks(RESEND_BATCH) {
        for (client, service, ban) in batch {
            engine.with_record_if_active(now, *client, *service, *ban, |record| {
                let (engine, client, until) = (Arc::clone(engine), *client, ban.until);
                writer.persist(
                    Change::Banned(record),
                    Box::new(move |persisted| {
                        if persisted == Persisted::Yes {
                            engine.bans().mark_saved(client, until);
                        }
                    }),
                );
            });
        }
        wait_for_all(writer);
    }
    let policy = engine.policy();
    let networks: Vec<Network> = policy.lists.banned.iter().filter(|ban| all || !ban.saved.get()).map(|ban| ban.network).collect();
    if all && let Some(pause) = policy.active_pause(now) {
        writer.persist(Change::Paused(pause.clone()), Box::new(|_| ()));
    }
    drop(policy);
    for batch in networks.chunks(RESEND_BATCH) {
        for network in batch {
            engine.with_network_if_active(now, *network, |record, saved| {
                let on_persisted = move |persisted| {
                    if persisted == Persisted::Yes {
                        saved.set();
                    }
                };
                writer.persist(Change::NetworkBanned(record), Box::new(on_persisted));
            });
        }
        wait_for_all(writer);
    }
}

/// Waits until everything that was queued before is saved, or has failed.
fn wait_for_all(writer: &Writer) {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    writer.flush(Box::new(move |_| drop(sender)));
    let _ = receiver.recv();
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
