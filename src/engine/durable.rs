//! An engine's state file: loaded at start, written as changes come, shared with other processes on the same file.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;

use super::{BanRecord, Change, Engine, Keeper, Kept};
use crate::client::Client;
use crate::clock::Clock;
use crate::log::follow::Position;
use crate::rule::Evidence;
use crate::state::{Failure, Health, Known, News, Reader, Strike, Writer};
use crate::time::{Span, Time};

/// How many bans are handed over again at a time when the file has lost them.
const RESEND: usize = 4096;

/// Counts over a shorter time than this are not written: they are over, or nearly, when somebody starts again. Among them is the rate of
/// ordinary requests, which every innocent client has.
const WORTH_KEEPING: Span = Span::from_secs(120);

/// The state file of one engine.
pub struct StateFile {
    engine: Arc<Engine>,
    writer: Arc<Writer>,
    reader: Mutex<Reader>,
    /// How far the logs had been read when the file was loaded.
    positions: Mutex<Vec<(String, Position)>>,
}

/// The engine's keeper is a share of the writer.
struct Shared(Arc<Writer>);

impl Keeper for Shared {
    fn keep(&self, change: Change, done: super::Done) {
        self.0.keep(change, done);
    }

    fn flush(&self, done: super::Done) {
        self.0.flush(done);
    }

    fn has_overflowed(&self) -> bool {
        self.0.has_overflowed()
    }
}

impl StateFile {
    /// Loads the file at `path` into `engine`, and keeps every change there from now on.
    ///
    /// A file that cannot be used is no error: the engine goes on, [`StateFile::health`] says why, and it is tried again.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn open(engine: &Arc<Engine>, clock: Clock, path: &Path) -> std::io::Result<Self> {
        let mut positions = Vec::new();
        let resend = Arc::new(Mutex::new(None));
        let listener = {
            let (engine, resend) = (Arc::clone(engine), Arc::clone(&resend));
            move |news| hear(&engine, clock.now(), news, &resend)
        };
        let writer = Writer::start(path.to_path_buf(), move || clock.now(), listener, &mut |known| {
            if let Known::Position { path, position } = known {
                positions.push((path, position));
            } else {
                take(engine, clock.now(), known);
            }
        })?;
        let writer = Arc::new(writer);
        *resend.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(&writer));
        writer.set_forget(longest_forget(engine));
        engine.keep_with(Box::new(Shared(Arc::clone(&writer))));
        Ok(Self {
            engine: Arc::clone(engine),
            writer,
            reader: Mutex::new(Reader::new(path.to_path_buf())),
            positions: Mutex::new(positions),
        })
    }

    /// How far each log had been read when the file was loaded. Given once.
    #[must_use]
    pub fn take_positions(&self) -> Vec<(String, Position)> {
        std::mem::take(&mut *self.positions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes down how far a log has been read, after everything that its lines led to.
    pub fn keep_position(&self, path: String, position: Position) {
        self.writer.keep_position(path, position, Box::new(|_| ()));
    }

    /// Writes the strikes below their thresholds, and tells the writer how long earlier bans count now. To be called from time to time.
    pub fn keep_strikes(&self, now: Time) {
        self.writer.set_forget(longest_forget(&self.engine));
        let rules = Arc::clone(&self.engine.in_force().rules);
        let mut strikes = Vec::new();
        self.engine.strikes().for_each(|id, client, counter| {
            if let Some(rule) = rules.get(id)
                && rule.findtime >= WORTH_KEEPING
                && !counter.is_over(now, rule.findtime)
            {
                strikes.push(Strike { client, rule: Arc::clone(&rule.name), counter, until: counter.last().after(rule.findtime) });
            }
        });
        self.writer.keep_strikes(
            strikes,
            Box::new(|kept| {
                if let Kept::No(reason) = kept {
                    log::warn!("strikes below their thresholds are not saved: {reason}");
                }
            }),
        );
    }

    /// How the file does.
    #[must_use]
    pub fn health(&self) -> Health {
        self.writer.health()
    }

    /// The stories of the bans of `client`, as the file has them.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn stories(&self, client: Client, now: Time) -> Result<Vec<BanRecord>, Failure> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).find(client, now)
    }

    /// The reason of the ban of a network, as the file has it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn reason(&self, network: IpNet) -> Result<Option<Evidence>, Failure> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).reason(network)
    }

    /// Saves the strikes and closes the file; waits for at most `limit`.
    pub fn finish(&self, now: Time, limit: Duration) {
        self.keep_strikes(now);
        if !self.writer.finish(limit) {
            log::warn!("the state file is slow: strikes may not be saved");
        }
    }
}

/// The longest time for which a rule remembers earlier bans.
fn longest_forget(engine: &Engine) -> Span {
    let in_force = engine.in_force();
    in_force
        .rules
        .rules()
        .iter()
        .filter_map(|rule| rule.bantime.increment.as_ref())
        .map(|increment| increment.forget)
        .max()
        .unwrap_or(Span::ZERO)
}

/// Puts in place what the file, or another process on it, knows.
fn take(engine: &Engine, now: Time, known: Known) {
    match known {
        Known::Change(change) => engine.take(&change, now),
        Known::Strike(strike) => {
            // Strikes under a rule that is gone count for nothing.
            if let Some(rule) = engine.names().find(&strike.rule) {
                engine.strikes().restore(rule, strike.client, strike.counter);
            }
        }
        Known::History { client, rule, earlier } => engine.restore_history(client, &rule, earlier),
        Known::Position { .. } => {}
    }
}

type Resend = Arc<Mutex<Option<std::sync::Weak<Writer>>>>;

fn hear(engine: &Arc<Engine>, now: Time, news: News, writer: &Resend) {
    match news {
        News::Notice(text) => log::warn!("{text}"),
        News::Degraded(reason) => log::error!("bans are in memory only until this is mended: {reason}"),
        News::Healed => log::info!("the state file works again: all bans are saved"),
        News::Known(known) => {
            for known in known {
                take(engine, now, known);
            }
        }
        News::Resend { all } => {
            let writer = writer.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(std::sync::Weak::upgrade);
            let Some(writer) = writer else { return };
            let engine = Arc::clone(engine);
            // The listener runs on the writer's own thread, which must go on taking what is handed over.
            let spawned = std::thread::Builder::new().name("resend".into()).spawn(move || resend(&engine, &writer, now, all));
            if let Err(error) = spawned {
                log::error!("bans that the state file lost cannot be saved again: {error}");
            }
        }
    }
}

/// Hands the bans that stand in memory over again, a few thousand at a time.
fn resend(engine: &Arc<Engine>, writer: &Writer, now: Time, all: bool) {
    let mut bans = Vec::new();
    engine.bans().for_each(now, |client, surface, ban| {
        if all || !ban.saved {
            bans.push((client, surface, ban));
        }
    });
    for few in bans.chunks(RESEND) {
        for (client, surface, ban) in few {
            let _turn = engine.order.of(client);
            // It may have been lifted meanwhile.
            if engine.bans().get(*client, *surface, now).is_none_or(|standing| standing.until != ban.until) {
                continue;
            }
            // Its story may tell of both surfaces, of which one may be free again.
            let record = BanRecord { scope: surface.alone(), ..engine.record_of(*client, *surface, *ban, now) };
            let (engine, client, until) = (Arc::clone(engine), *client, ban.until);
            writer.keep(
                Change::Banned(record),
                Box::new(move |kept| {
                    if kept == Kept::Yes {
                        engine.bans().mark_saved(client, until);
                    }
                }),
            );
        }
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        writer.flush(Box::new(move |_| drop(sender)));
        let _ = receiver.recv();
    }
    for network in engine.in_force().lists.banned.iter() {
        let change = Change::NetworkBanned {
            network: network.network,
            since: network.since,
            until: network.until.map_or(crate::table::Until::NEVER, crate::table::Until::at),
            reason: crate::rule::Evidence::new(&[]),
        };
        writer.keep(change, Box::new(|_| ()));
    }
}
