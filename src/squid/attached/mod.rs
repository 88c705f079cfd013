//! The shared table: the helper subscribes to the daemon's rules, lists and bans, and sends offences to it. An innocent request costs no
//! round trip.
//!
//! The session queues lines for the daemon, and writes them once per batch of queries. What the daemon's socket does not take at once is
//! written by the thread of this module as soon as there is room. A full queue is no fault: further offences are answered by `on_failure`,
//! wait merged by client, and are reported later. The daemon is given up if it takes nothing for five seconds, hangs up, or breaks the protocol.

mod config_builder;
mod connection;
mod deferred;
mod helper_state;
mod line_reader;
mod replica;
mod request_counts;
mod send_queue;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use ahash::RandomState;

use super::{Backend, BackendSlot};
use crate::logging::FaultLog;
use crate::prefilter::files::LoadedPrefilter;
use config_builder::ConfigBuilder;
use helper_state::HelperState;
use line_reader::LineReader;
use replica::Replica;

/// Longest wait before the second attempt to reach the daemon; doubled with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const MAX_RETRY: Duration = Duration::from_millis(500);
/// How often counts of requests and answers are sent.
const BATCH: Duration = Duration::from_millis(100);
/// How long the daemon may be silent before the first snapshot is complete.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often expired bans are dropped.
const SWEEP: Duration = Duration::from_secs(1);

/// Keeps `slot` in step with the daemon on `socket`, for the life of the process. Sends to `ready` once the first queries can be answered, or
/// the first attempt to reach the daemon has failed.
pub fn run(socket: &Path, prefilter: Option<LoadedPrefilter>, slot: &BackendSlot, ready: &Sender<()>) {
    let state = Arc::new(HelperState::new(prefilter));
    let mut faults = FaultLog::default();
    let mut retry = FIRST_RETRY;
    loop {
        let start = Instant::now();
        let error = follow(socket, &state, slot, ready, &mut faults);
        faults.report(&describe(socket, &error, slot.get().is_some()));
        let _ = ready.send(());
        if start.elapsed() > MAX_RETRY {
            retry = FIRST_RETRY;
        }
        std::thread::sleep(jittered(retry, RandomState::new().hash_one(retry)));
        retry = (retry * 2).min(MAX_RETRY);
    }
}

/// Follows the daemon over one connection, and returns why it ended.
fn follow(socket: &Path, state: &Arc<HelperState>, slot: &BackendSlot, ready: &Sender<()>, faults: &mut FaultLog) -> io::Error {
    let replica = match Replica::connect(socket, state) {
        Ok(replica) => Arc::new(replica),
        Err(error) => return error,
    };
    let mut config = ConfigBuilder::default();
    let mut lines = LineReader::default();
    let mut is_complete = false;
    let (mut last_read, mut last_sent, mut last_sweep) = (Instant::now(), Instant::now(), Instant::now());
    let error = loop {
        let read = replica.connection().wait(BATCH).and_then(|is_readable| Ok(is_readable && lines.read(replica.connection().stream())?));
        match read {
            Ok(true) => last_read = Instant::now(),
            Ok(false) if !is_complete && last_read.elapsed() > SNAPSHOT_TIMEOUT => {
                break io::Error::new(io::ErrorKind::TimedOut, "the daemon does not answer");
            }
            Ok(false) => {}
            Err(error) => break error,
        }
        let applied = loop {
            let Some(line) = lines.next() else { break config.check() };
            match replica.apply(&line, &mut config) {
                Ok(true) if !is_complete => {
                    slot.put(Arc::clone(&replica) as Arc<dyn Backend>);
                    is_complete = true;
                    faults.resolve("attached to the daemon: its rules and bans are in force");
                    let _ = ready.send(());
                }
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = applied {
            break error;
        }
        // By the clock, because `wait` returns early whenever the daemon sends something.
        if last_sent.elapsed() >= BATCH {
            last_sent = Instant::now();
            replica.queue_reports(is_complete);
        }
        if is_complete {
            state.queue_deferred(replica.connection());
        }
        if last_sweep.elapsed() >= SWEEP {
            last_sweep = Instant::now();
            replica.sweep();
        }
    };
    replica.lose();
    error
}

/// A wait of `retry` at most and half of it at least, so that the helpers of a machine do not all come back at once.
fn jittered(retry: Duration, random: u64) -> Duration {
    let percent = 50 + u32::try_from(random % 51).unwrap_or(0);
    retry * percent / 100
}

/// Describes a lost or missing daemon for the log.
fn describe(socket: &Path, error: &io::Error, has_replica: bool) -> String {
    let meanwhile = if has_replica { "rules and bans stay as they were" } else { "every query is answered ERR" };
    if error.kind() == io::ErrorKind::PermissionDenied {
        // The socket's own metadata is hidden if its directory may not be searched.
        let metadata = std::fs::metadata(socket).or_else(|_| std::fs::metadata(socket.parent().unwrap_or(Path::new("/"))));
        let group = metadata.ok().and_then(|metadata| nix::unistd::Group::from_gid(metadata.gid().into()).ok().flatten());
        let group = group.map_or_else(|| "strikeout".to_owned(), |group| group.name);
        return format!(
            "no permission on the daemon's socket {}: the user that Squid runs helpers as must join the group {group}; {meanwhile}",
            socket.display()
        );
    }
    format!("the daemon on {} cannot be reached: {error}; {meanwhile}", socket.display())
}
