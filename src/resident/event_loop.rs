//! The event loop: listener, connections, signals, and answers that other threads have ready. It never waits for anything else, and
//! Exim's questions are answered right here.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::RandomState;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::clerk::{Clerk, Errand};
use super::connection::{Connection, Line};
use super::followers::{self, Followers};
use super::listener::Listener;
use super::mail::Mail;
use super::mailbox::{Addressee, ConnectionId, Mailbox, Post};
use super::meters::{Meters, Question};
use super::peer::Peer;
use super::processes::MOST_PROCESSES;
use super::signals::Signals;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::reply::Reply;
use crate::socket::request::{Request, parse};
use crate::socket::{answer, follow};
use crate::verdict::{Innocence, Verdict};

/// So many connections are open at most; then the longest idle one of the user who has the most makes room.
pub const MOST_CONNECTIONS: usize = 4096;
/// File descriptors for everything that is no connection.
const OTHER_FILES: usize = 64;
/// So many clients are let in at most before those who are in get their turn.
const ACCEPTS: usize = 64;
/// How often limits of time and ended processes are looked after, while there are any.
const TICK: Duration = Duration::from_millis(100);
/// How many events are taken at a time.
const EVENTS: usize = 256;

/// What a file descriptor is, as epoll carries it: the kind in the lowest bits, its number above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Bell,
    Signals,
    Connection(ConnectionId),
}

impl Token {
    fn data(self) -> epoll::EventData {
        let (kind, number) = match self {
            Self::Listener => (0, 0),
            Self::Bell => (1, 0),
            Self::Signals => (2, 0),
            Self::Connection(ConnectionId(id)) => (3, id),
        };
        epoll::EventData::new_u64(number << 2 | kind)
    }

    fn of(data: epoll::EventData) -> Self {
        match data.u64() & 3 {
            0 => Self::Listener,
            1 => Self::Bell,
            2 => Self::Signals,
            _ => Self::Connection(ConnectionId(data.u64() >> 2)),
        }
    }
}

/// A connection, and what epoll waits for on it: nothing as long as it may end with its first answer.
struct Guest {
    connection: Connection,
    interest: Option<epoll::EventFlags>,
}

/// The loop.
pub struct EventLoop {
    epoll: OwnedFd,
    listener: Listener,
    /// No file descriptor was left: nobody is let in before then.
    closed_until: Option<Instant>,
    mailbox: Arc<Mailbox>,
    signals: Signals,
    guests: HashMap<ConnectionId, Guest, RandomState>,
    /// Connections that have room again for lines which they sent before.
    again: Vec<ConnectionId>,
    next: u64,
    most: usize,
    mail: Mail,
    followers: Followers,
    clerk: Clerk,
    meters: Arc<Meters>,
    engine: Arc<Engine>,
    clock: Clock,
}

impl EventLoop {
    /// A loop on the current thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(
        listener: Listener,
        signals: Signals,
        mailbox: Arc<Mailbox>,
        clerk: Clerk,
        meters: Arc<Meters>,
        engine: Arc<Engine>,
        clock: Clock,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, Token::Listener.data(), epoll::EventFlags::IN)?;
        epoll::add(&epoll, mailbox.bell(), Token::Bell.data(), epoll::EventFlags::IN)?;
        epoll::add(&epoll, signals.as_fd(), Token::Signals.data(), epoll::EventFlags::IN)?;
        let files = raise_file_limit().saturating_sub(OTHER_FILES);
        let followers = Followers::new(&engine, &mailbox, clock);
        Ok(Self {
            epoll,
            listener,
            closed_until: None,
            mailbox,
            signals,
            guests: HashMap::default(),
            again: Vec::new(),
            next: 0,
            // Half of the file descriptors for connections, half for connection processes.
            most: MOST_CONNECTIONS.min(files / 2).max(1),
            mail: Mail::new(Arc::clone(&engine), MOST_PROCESSES.min(files / 2))?,
            followers,
            clerk,
            meters,
            engine,
            clock,
        })
    }

    /// Serves until a signal ends it.
    ///
    /// # Errors
    /// The kernel's, where the loop cannot go on.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        let mut ticked = Instant::now();
        loop {
            events.clear();
            let ticks = !self.guests.is_empty() || !self.mail.processes().is_empty() || self.closed_until.is_some();
            let timeout = ticks.then(|| timespec(TICK));
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            for event in &events {
                let flags = event.flags;
                match Token::of(event.data) {
                    // A try in vain costs more than hearing of the next one.
                    Token::Listener => self.let_in(if events.len() == 1 { 1 } else { ACCEPTS }, now),
                    Token::Bell => self.mailbox.hush(),
                    Token::Signals => {
                        let told = self.signals.take();
                        if told.reload && !self.clerk.send(Errand::Reload) {
                            log::warn!("too much is asked for a reload now: send SIGHUP again");
                        }
                        if told.end {
                            return Ok(());
                        }
                    }
                    Token::Connection(id) => self.serve(id, flags, now),
                }
            }
            self.deliver(now);
            if now.saturating_duration_since(ticked) >= TICK {
                ticked = now;
                self.tick(now);
            }
            // After the tick: the next turn may come only when somebody asks.
            self.tell_sizes();
        }
    }

    /// How many connections are open, how many connection processes are watched, and how many follow.
    fn tell_sizes(&mut self) {
        self.meters.connections.store(self.guests.len(), Ordering::Relaxed);
        self.meters.processes.store(self.mail.processes().len(), Ordering::Relaxed);
        self.meters.followers.store(self.followers.number(), Ordering::Relaxed);
    }

    /// Lets in who waits, `most` at a time.
    fn let_in(&mut self, most: usize, now: Instant) {
        for _ in 0..most {
            let room = if self.guests.len() < self.most { Some(None) } else { self.longest_idle().map(Some) };
            let Some(leaves) = room else { return self.close_for_a_while(now, None) };
            match self.listener.accept() {
                Ok(Some(stream)) => {
                    if let Some(id) = leaves {
                        self.guests.remove(&id);
                    }
                    self.welcome(stream, now);
                }
                Ok(None) => return,
                // No file descriptor is left: the next try has one if somebody leaves.
                Err(error) => match self.longest_idle() {
                    Some(id) => {
                        self.guests.remove(&id);
                        return;
                    }
                    None => return self.close_for_a_while(now, Some(&error)),
                },
            }
        }
    }

    /// Takes a new connection in, and looks at what it asks, which is usually there already.
    fn welcome(&mut self, stream: UnixStream, now: Instant) {
        let Ok(peer) = Peer::of(&stream) else { return };
        let id = ConnectionId(self.next);
        self.next += 1;
        self.guests.insert(id, Guest { connection: Connection::new(stream, peer, now), interest: None });
        self.serve(id, epoll::EventFlags::IN, now);
    }

    /// The connection that is idle for the longest time, of the user who has the most connections. None if nobody is idle.
    fn longest_idle(&self) -> Option<ConnectionId> {
        let mut counts: HashMap<u32, usize, RandomState> = HashMap::default();
        for guest in self.guests.values() {
            *counts.entry(guest.connection.peer.user).or_default() += 1;
        }
        let idle = self.guests.iter().filter(|(_, guest)| guest.connection.is_idle());
        let key = |id: &ConnectionId, connection: &Connection| (counts.get(&connection.peer.user), Reverse((connection.active(), *id)));
        idle.max_by_key(|(id, guest)| key(id, &guest.connection)).map(|(id, _)| *id)
    }

    /// Without a file descriptor left, accepting again at once would only fail again.
    fn close_for_a_while(&mut self, now: Instant, error: Option<&io::Error>) {
        if self.closed_until.is_none() {
            if let Some(error) = error {
                log::warn!("nobody can be let in for a moment: {error}");
            }
            let _ = epoll::delete(&self.epoll, &self.listener);
        }
        self.closed_until = Some(now + TICK);
    }

    /// Reads, works on and answers what one connection sent.
    fn serve(&mut self, id: ConnectionId, flags: epoll::EventFlags, now: Instant) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        guest.connection.read(now);
        self.work(id, now);
        self.deliver(now);
        self.settle(id, now);
        self.deliver(now);
        // A peer that has gone altogether reads no answer.
        if flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            self.guests.remove(&id);
        }
    }

    /// Works on the lines of a connection that are there.
    fn work(&mut self, id: ConnectionId, now: Instant) {
        while let Some(guest) = self.guests.get_mut(&id) {
            let Some((number, line)) = guest.connection.next_line(now) else { break };
            let to = Addressee::new(Arc::clone(&self.mailbox), id, number);
            match line {
                Line::Whole(line) => {
                    let asked = catch_unwind(AssertUnwindSafe(|| self.ask(id, number, &line, &to, now)));
                    if asked.is_err() {
                        log::error!("a fault of ours while a request was worked on");
                        // Its reply accepted when it was dropped; this is for requests that had none.
                        to.answer(answer::error("internal fault"));
                    }
                }
                Line::TooLong => self.refuse(
                    id,
                    &to,
                    &format!("found a line of more than {} bytes, expected less", crate::socket::request::LONGEST_LINE),
                ),
            }
        }
    }

    /// Asks whoever knows the answer.
    fn ask(&mut self, id: ConnectionId, number: u64, line: &[u8], to: &Addressee, now: Instant) {
        if self.guests.get(&id).is_some_and(|guest| guest.connection.follows()) {
            return self.hear(id, line, to);
        }
        let request = match parse(line) {
            Ok(request) => request,
            Err(fault) => return self.refuse(id, to, &fault.to_string()),
        };
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let peer = guest.connection.peer;
        match request {
            Request::Follow(follow::VERSION) if self.followers.number() >= followers::MOST => {
                self.refuse(id, to, &format!("{} helpers follow already, and no more can", followers::MOST));
            }
            Request::Follow(follow::VERSION) => match self.followers.begin(&self.engine, self.clock) {
                Some(snapshot) => guest.connection.follow(snapshot),
                None => self.refuse(id, to, "others have not read their snapshots yet, try again"),
            },
            Request::Follow(version) => {
                let fault = format!(
                    "found version {version} of the follow protocol, expected {}: upgrade helper and resident together",
                    follow::VERSION
                );
                self.refuse(id, to, &fault);
            }
            Request::Check(check) => {
                let reply = counted(&self.meters, Question::Check, now, to.reply());
                self.mail.check(self.clock.now(), (id, number), &check, &peer, guest.connection.stream(), reply);
            }
            Request::Strike { address, rule } => {
                let reply = counted(&self.meters, Question::Strike, now, to.reply());
                if let Err((fault, reply)) = self.mail.strike(self.clock.now(), address, rule, &peer, now, reply) {
                    to.answer(answer::error(&fault));
                    reply.send(Verdict::Allow(Innocence::NotAQuestion));
                }
            }
            _ => {
                self.mail.processes().forget_ended();
                self.tell_sizes();
                let errand = Errand::Request { line: line.to_vec(), peer, to: to.clone() };
                if !self.clerk.send(errand) {
                    to.answer(answer::error("too many requests of operators are waiting, try again"));
                }
            }
        }
    }

    /// Works on a line of a follower.
    fn hear(&mut self, id: ConnectionId, line: &[u8], to: &Addressee) {
        let send = to.clone();
        let line = String::from_utf8_lossy(line);
        let heard = followers::hear(&self.engine, self.clock.now(), &line, &self.meters, move |answer| send.push(answer.into_bytes()));
        if let Err(fault) = heard {
            log::warn!("a follower is cut off: {fault}");
            if let Some(guest) = self.guests.get_mut(&id) {
                guest.connection.push(answer::error(&fault).as_bytes());
                guest.connection.close_after_answers();
            }
        }
    }

    /// Hands every follower what all of them are sent. Returns those.
    fn push_to_followers(&mut self, text: &str) -> Vec<ConnectionId> {
        self.followers.changed();
        let mut ids = Vec::new();
        for (id, guest) in &mut self.guests {
            if guest.connection.follows() {
                guest.connection.push(text.as_bytes());
                ids.push(*id);
            }
        }
        self.followers.count(ids.len());
        ids
    }

    /// Begins to send every follower the configuration, if it is another one than they have.
    fn reconfigure_followers(&mut self, now: Instant) {
        let Some(in_force) = self.followers.changed_config(&self.engine) else { return };
        let mut ids = Vec::new();
        for (id, guest) in self.guests.iter_mut().filter(|(_, guest)| guest.connection.follows()) {
            guest.connection.reconfigure(Box::new(followers::config(Arc::clone(&in_force))));
            ids.push(*id);
        }
        ids.into_iter().for_each(|id| self.settle(id, now));
    }

    /// Answers a request that cannot be read, and ends the connection after it.
    fn refuse(&mut self, id: ConnectionId, to: &Addressee, fault: &str) {
        let error = answer::error(fault);
        if let Some(guest) = self.guests.get_mut(&id) {
            if guest.connection.follows() {
                guest.connection.push(error.as_bytes());
            } else {
                to.answer(error);
            }
            guest.connection.close_after_answers();
        }
    }

    /// Takes what was posted to the connections that it is for. Returns those.
    fn collect(&mut self) -> Vec<ConnectionId> {
        let mut touched = Vec::new();
        for post in self.mailbox.take() {
            let id = match post {
                Post::Verdict(id, number, verdict) => {
                    self.mail.decided((id, number), &verdict);
                    if let Some(guest) = self.guests.get_mut(&id) {
                        guest.connection.answer(number, answer::verdict(&verdict, self.engine.names()).into());
                    }
                    id
                }
                Post::Answer(id, number, answer) => {
                    if let Some(guest) = self.guests.get_mut(&id) {
                        guest.connection.answer(number, answer);
                    }
                    id
                }
                Post::Change(text) => {
                    touched.extend(self.push_to_followers(&text));
                    continue;
                }
                Post::Push(id, bytes) => {
                    if let Some(guest) = self.guests.get_mut(&id) {
                        guest.connection.push(&bytes);
                    }
                    id
                }
            };
            if touched.last() != Some(&id) {
                touched.push(id);
            }
        }
        touched
    }

    /// Hands out what was posted, until nothing is.
    fn deliver(&mut self, now: Instant) {
        loop {
            let mut touched = self.collect();
            touched.append(&mut self.again);
            if touched.is_empty() {
                return;
            }
            for id in touched {
                self.work(id, now);
                self.settle(id, now);
            }
        }
    }

    /// Writes what is ready, and waits for what is left; ends the connection if nothing is.
    fn settle(&mut self, id: ConnectionId, now: Instant) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let is_new = guest.interest.is_none();
        // Exim asks one question and says with it that there will be no other: that is seen here once, without waiting for it.
        let has_more = guest.connection.write(now) && is_new && guest.connection.read(now);
        if guest.connection.is_done() {
            self.guests.remove(&id);
            return;
        }
        // An answer that left makes room for the next request.
        if has_more || guest.connection.has_line() {
            self.again.push(id);
            if !is_new {
                return;
            }
        }
        let mut interest = epoll::EventFlags::empty();
        if guest.connection.wants_read() {
            interest |= epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        }
        if guest.connection.wants_write() {
            interest |= epoll::EventFlags::OUT;
        }
        if guest.interest == Some(interest) {
            return;
        }
        let (stream, data) = (guest.connection.stream(), Token::Connection(id).data());
        let told = match guest.interest.replace(interest) {
            Some(_) => epoll::modify(&self.epoll, stream, data, interest),
            None => epoll::add(&self.epoll, stream, data, interest),
        };
        if let Err(error) = told {
            log::warn!("a connection cannot be watched: {error}");
            self.guests.remove(&id);
        }
    }

    /// Looks after limits of time and processes that have ended, and whether followers need a new configuration.
    fn tick(&mut self, now: Instant) {
        self.mail.processes().forget_ended();
        self.reconfigure_followers(now);
        self.guests.retain(|_, guest| !guest.connection.is_overdue(now));
        self.followers.count(self.guests.values().filter(|guest| guest.connection.follows()).count());
        if self.closed_until.is_some_and(|until| until <= now) {
            self.closed_until = None;
            if let Err(error) = epoll::add(&self.epoll, &self.listener, Token::Listener.data(), epoll::EventFlags::IN) {
                log::error!("the socket cannot be watched: {error}");
                self.closed_until = Some(now + TICK);
            }
        }
    }
}

/// A reply to `question`, which came at `since`, that is counted when it is sent.
fn counted(meters: &Arc<Meters>, question: Question, since: Instant, reply: Reply) -> Reply {
    let meters = Arc::clone(meters);
    Reply::new(move |verdict| {
        meters.answered(question, since.elapsed(), &verdict);
        reply.send(verdict);
    })
}

fn timespec(span: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX), tv_nsec: span.subsec_nanos().into() }
}

/// Takes as many file descriptors as this process may have, and says how many that are.
fn raise_file_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_err() {
        log::debug!("the limit of open files stays at {:?}", limit.current);
    }
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}
