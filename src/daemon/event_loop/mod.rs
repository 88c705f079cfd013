//! The event loop: the listener, connections, signals, and answers from other threads. It never blocks on anything else, and answers
//! Exim's queries itself.
//!
//! It uses epoll through rustix, level-triggered: a connection is read one chunk at a time, and the kernel queues it again behind the
//! others while it has more. `mio` only offers edge-triggered epoll, where each connection must be drained or kept in a ready list, and
//! cannot watch a connection for its end alone. `polling` is level-triggered on request, but its `Poller::add` is unsafe, which this
//! crate forbids. The waker works as theirs do: an eventfd, watched edge-triggered so that it is never read.

mod delivery;
mod requests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::RandomState;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::admin::worker::{AdminTask, AdminWorker};
use super::conn::connection::PeerConnection;
use super::conn::listener::Listener;
use super::conn::peer::Peer;
use super::conn::replies::{ConnectionId, ReplyQueue};
use super::metrics::counters::Counters;
use super::signals::Signals;
use super::smtp::check::SmtpChecks;
use super::smtp::processes::MAX_PROCESSES;
use super::subscribers::Subscribers;
use super::watchdog::Watchdog;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::logging::ThrottledLog;

/// Maximum number of open connections. Beyond it, a new one replaces the longest idle one of the user who has the most.
const MAX_CONNECTIONS: usize = 4096;
/// File descriptors reserved for everything that is not a connection or a connection process.
const RESERVED_FILES: usize = 64;
/// Maximum number of connections accepted before open ones are served.
const ACCEPT_BATCH: usize = 64;
/// How often timeouts and ended processes are checked, while there are connections or processes.
const TICK: Duration = Duration::from_millis(100);
/// Events taken from epoll at a time.
const EVENT_BATCH: usize = 256;

/// What an epoll event is about. Encoded with the kind in the two lowest bits and the connection's number above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Waker,
    Signals,
    Connection(ConnectionId),
}

impl Token {
    fn data(self) -> epoll::EventData {
        let (kind, number) = match self {
            Self::Listener => (0, 0),
            Self::Waker => (1, 0),
            Self::Signals => (2, 0),
            Self::Connection(ConnectionId(id)) => (3, id),
        };
        epoll::EventData::new_u64(number << 2 | kind)
    }

    fn from_data(data: epoll::EventData) -> Self {
        match data.u64() & 3 {
            0 => Self::Listener,
            1 => Self::Waker,
            2 => Self::Signals,
            _ => Self::Connection(ConnectionId(data.u64() >> 2)),
        }
    }
}

struct AcceptedConnection {
    connection: PeerConnection,
    /// The events that epoll watches for. `None` until the first answer: most connections end with it and are never registered.
    interest: Option<epoll::EventFlags>,
}

pub struct EventLoop {
    epoll: OwnedFd,
    listener: Listener,
    /// Set while no connection can be accepted: no file descriptor is left, and no connection is idle that could be closed for it.
    accept_paused_until: Option<Instant>,
    queue: Arc<ReplyQueue>,
    signals: Signals,
    connections: HashMap<ConnectionId, AcceptedConnection, RandomState>,
    /// Connections whose input holds further lines that can be handled now.
    ready: Vec<ConnectionId>,
    next_id: u64,
    max_connections: usize,
    smtp: SmtpChecks,
    subscribers: Subscribers,
    worker: AdminWorker,
    counters: Arc<Counters>,
    /// Requests that were not understood, and what helpers report.
    not_understood: ThrottledLog,
    engine: Arc<Engine>,
    clock: Clock,
}

impl EventLoop {
    /// Creates the loop, which must run on the thread that created `queue`.
    ///
    /// # Errors
    /// epoll failed, or no file descriptor is left.
    pub fn new(
        listener: Listener,
        signals: Signals,
        queue: Arc<ReplyQueue>,
        worker: AdminWorker,
        counters: Arc<Counters>,
        engine: Arc<Engine>,
        clock: Clock,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, Token::Listener.data(), epoll::EventFlags::IN)?;
        epoll::add(&epoll, queue.waker(), Token::Waker.data(), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        epoll::add(&epoll, signals.as_fd(), Token::Signals.data(), epoll::EventFlags::IN)?;
        // Half of the file descriptors for connections, half for connection processes.
        let half = raise_file_limit().saturating_sub(RESERVED_FILES) / 2;
        let subscribers = Subscribers::new(&engine, &queue, clock);
        Ok(Self {
            epoll,
            listener,
            accept_paused_until: None,
            queue,
            signals,
            connections: HashMap::default(),
            ready: Vec::new(),
            next_id: 0,
            max_connections: MAX_CONNECTIONS.min(half).max(1),
            smtp: SmtpChecks::new(Arc::clone(&engine), MAX_PROCESSES.min(half))?,
            subscribers,
            worker,
            counters,
            not_understood: ThrottledLog::default(),
            engine,
            clock,
        })
    }

    /// Serves until SIGTERM or SIGINT, and then handles what subscribers have sent.
    ///
    /// # Errors
    /// epoll failed.
    pub fn run(&mut self) -> io::Result<()> {
        let ended = self.serve_until_end();
        self.close_subscribers(Instant::now());
        ended
    }

    fn serve_until_end(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENT_BATCH);
        let mut last_tick = Instant::now();
        let mut watchdog = Watchdog::of_environment(last_tick);
        loop {
            events.clear();
            let has_timeouts = !self.connections.is_empty() || !self.smtp.processes().is_empty() || self.accept_paused_until.is_some();
            let timeouts = has_timeouts.then_some(TICK).into_iter().chain(watchdog.timeout(Instant::now()));
            let timeout = timeouts.min().map(timespec);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            watchdog.tick(now);
            for event in &events {
                let flags = event.flags;
                match Token::from_data(event.data) {
                    // One is enough if there is nothing else to do: an accept that finds no connection costs more than another epoll_wait.
                    Token::Listener => self.accept(if events.len() == 1 { 1 } else { ACCEPT_BATCH }, now),
                    // What was queued is delivered below.
                    Token::Waker => {}
                    Token::Signals => {
                        let received = self.signals.take();
                        if received.reload && !self.worker.send(AdminTask::Reload) {
                            log::warn!("the reload was dropped, because too many requests are waiting: send SIGHUP again");
                        }
                        if received.end {
                            return Ok(());
                        }
                    }
                    Token::Connection(id) => self.serve(id, flags, now),
                }
            }
            if now.saturating_duration_since(last_tick) >= TICK {
                last_tick = now;
                self.tick(now);
            }
            // Last, so that the queue is empty when the loop sleeps: this thread does not wake itself.
            self.deliver(now);
            // In each iteration, because without timeouts the next one may be hours away.
            self.publish_gauges();
        }
    }

    /// Publishes how many connections, connection processes and subscribers there are.
    fn publish_gauges(&mut self) {
        self.counters.connections.store(self.connections.len(), Ordering::Relaxed);
        self.counters.processes.store(self.smtp.processes().len(), Ordering::Relaxed);
        self.counters.subscribers.store(self.subscribers.len(), Ordering::Relaxed);
    }

    /// Accepts at most `limit` connections.
    fn accept(&mut self, limit: usize, now: Instant) {
        for _ in 0..limit {
            let is_full = self.connections.len() >= self.max_connections;
            let replaced = if is_full { self.longest_idle() } else { None };
            if is_full && replaced.is_none() {
                return self.pause_accepting(now, None);
            }
            match self.listener.accept() {
                Ok(Some(stream)) => {
                    if let Some(id) = replaced {
                        self.connections.remove(&id);
                    }
                    self.add_connection(stream, now);
                }
                Ok(None) => return,
                // No file descriptor is left: free one for the next attempt.
                Err(error) => match self.longest_idle() {
                    Some(id) => {
                        self.connections.remove(&id);
                        return;
                    }
                    None => return self.pause_accepting(now, Some(&error)),
                },
            }
        }
    }

    /// Adds a connection and serves it at once: its first request has usually arrived already.
    fn add_connection(&mut self, stream: UnixStream, now: Instant) {
        let Ok(peer) = Peer::of(&stream) else { return };
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.connections.insert(id, AcceptedConnection { connection: PeerConnection::new(stream, peer, now), interest: None });
        self.serve(id, epoll::EventFlags::IN, now);
    }

    /// The longest idle connection of the user who has the most connections.
    fn longest_idle(&self) -> Option<ConnectionId> {
        let mut counts: HashMap<u32, usize, RandomState> = HashMap::default();
        for entry in self.connections.values() {
            *counts.entry(entry.connection.peer.user).or_default() += 1;
        }
        let idle = self.connections.iter().filter(|(_, entry)| entry.connection.is_idle());
        let key =
            |id: &ConnectionId, connection: &PeerConnection| (counts.get(&connection.peer.user), Reverse((connection.last_active(), *id)));
        idle.max_by_key(|(id, entry)| key(id, &entry.connection)).map(|(id, _)| *id)
    }

    /// Stops watching the listener for a tick: an accept would only fail again, and epoll would report the listener again at once.
    fn pause_accepting(&mut self, now: Instant, error: Option<&io::Error>) {
        if self.accept_paused_until.is_none() {
            if let Some(error) = error {
                log::warn!("cannot accept connections, trying again soon: {error}");
            }
            let _ = epoll::delete(&self.epoll, &self.listener);
        }
        self.accept_paused_until = Some(now + TICK);
    }

    /// Handles everything that depends on time: timeouts, ended processes, new configurations for subscribers.
    fn tick(&mut self, now: Instant) {
        self.smtp.processes().forget_ended();
        self.send_new_config(now);
        let overdue = self.connections.iter().filter(|(_, entry)| entry.connection.is_overdue(now));
        let overdue: Vec<ConnectionId> = overdue.map(|(id, _)| *id).collect();
        overdue.into_iter().for_each(|id| self.close(id, now));
        self.subscribers.open(|id| self.connections.contains_key(&id));
        self.counters.prefilters.retain(|id| self.connections.contains_key(&ConnectionId(id)));
        if self.accept_paused_until.is_some_and(|until| until <= now) {
            self.accept_paused_until = None;
            if let Err(error) = epoll::add(&self.epoll, &self.listener, Token::Listener.data(), epoll::EventFlags::IN) {
                log::error!("the socket cannot be watched: {error}");
                self.accept_paused_until = Some(now + TICK);
            }
        }
    }
}

fn timespec(span: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX), tv_nsec: span.subsec_nanos().into() }
}

/// Raises the soft limit of open files to the hard one, and returns it.
fn raise_file_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_err() {
        log::debug!("the limit of open files stays at {:?}", limit.current);
    }
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}
