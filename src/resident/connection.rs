//! One connection: lines in, answers out in the order of the lines, and limits on everything a peer can make us wait for or keep.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::mailbox::{Answer, Pieces};
use super::peer::Peer;
use crate::socket::request::LONGEST_LINE;

/// Half a line may wait so long for its other half.
pub const HALF_LINE: Duration = Duration::from_secs(1);
/// A connection may say nothing for so long.
pub const IDLE: Duration = Duration::from_secs(30);
/// A peer may leave what it was sent unread for so long.
pub const UNREAD: Duration = Duration::from_secs(5);
/// A follower that takes longer to read its snapshot is cut off: its copy of the bans is one of few, and others wait for one.
const SNAPSHOT: Duration = Duration::from_secs(60);

/// So many requests of one connection are worked on at a time; the next ones wait in the kernel.
const MOST_PENDING: usize = 64;
/// So many bytes of answers wait for the peer; then no more requests are read, and no more of a long answer is made.
const ENOUGH_OUTPUT: usize = 64 * 1024;
/// A follower that has so many bytes of changes waiting is cut off: it comes back and gets everything anew. A configuration does not
/// count: it is made as it is read.
const MOST_OUTPUT: usize = 8 * 1024 * 1024;
/// So much is read at a time, and about so much written, so that one peer holds up nobody.
const CHUNK: usize = 16 * 1024;
const MOST_WRITTEN: usize = 128 * 1024;

/// What the peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line without its newline.
    Whole(Vec<u8>),
    /// More bytes than a line may have.
    TooLong,
}

/// One connection. Its stream is non-blocking.
pub struct Connection {
    stream: UnixStream,
    /// Who connected.
    pub peer: Peer,
    input: Vec<u8>,
    half_since: Option<Instant>,
    /// When something was last read or written.
    active: Instant,
    /// The number that the next request gets.
    next: u64,
    /// The answers to the latest requests, in their order; the last one is to request `next - 1`.
    answers: VecDeque<Option<Answer>>,
    /// The rest of the answer that is being written.
    pieces: Option<Pieces>,
    output: VecDeque<u8>,
    /// The peer sends nothing more.
    read_closed: bool,
    /// After a fault nothing more is read; what was asked before is answered.
    closing: bool,
    /// The peer cannot read any more, or kept us waiting.
    broken: bool,
    /// It has turned into a follower: nothing is answered in order, and being idle is its job.
    follows: bool,
    /// What a follower is sent after its snapshot, of which pieces are left.
    later: Vec<u8>,
    /// The configuration that a follower is being sent after its snapshot, and the one that is in force by now.
    configs: VecDeque<Pieces>,
    /// Since when the peer has taken nothing of what waits for it, and since when a follower reads its snapshot.
    unread_since: Option<Instant>,
    reading_since: Option<Instant>,
}

impl Connection {
    /// A new connection; `stream` must be non-blocking.
    #[must_use]
    pub fn new(stream: UnixStream, peer: Peer, now: Instant) -> Self {
        Self {
            stream,
            peer,
            input: Vec::new(),
            half_since: None,
            active: now,
            next: 0,
            answers: VecDeque::new(),
            pieces: None,
            output: VecDeque::new(),
            read_closed: false,
            closing: false,
            broken: false,
            follows: false,
            later: Vec::new(),
            configs: VecDeque::new(),
            unread_since: None,
            reading_since: None,
        }
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// When something was last read or written.
    #[must_use]
    pub fn active(&self) -> Instant {
        self.active
    }

    /// Reads what is there, a chunk at most, if it is wanted. Says whether there was anything.
    pub fn read(&mut self, now: Instant) -> bool {
        if !self.wants_read() {
            return false;
        }
        let mut chunk = [MaybeUninit::uninit(); CHUNK];
        loop {
            match rustix::io::read(&self.stream, &mut chunk) {
                Ok(([], _)) => {
                    self.read_closed = true;
                    return true;
                }
                Ok((read, _)) => {
                    self.input.extend_from_slice(read);
                    self.active = now;
                    return true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => {
                    self.read_closed = true;
                    self.broken = true;
                    return false;
                }
            }
        }
    }

    /// The next line that came in, with the number of its request. A last line may lack its newline.
    pub fn next_line(&mut self, now: Instant) -> Option<(u64, Line)> {
        if self.closing || self.is_full() {
            return None;
        }
        let line = match memchr::memchr(b'\n', &self.input) {
            Some(end) if end <= LONGEST_LINE => {
                let mut line: Vec<u8> = self.input.drain(..=end).collect();
                line.pop();
                Line::Whole(line)
            }
            None if self.input.len() <= LONGEST_LINE => {
                if !self.read_closed || self.input.is_empty() {
                    self.time_half_line(now);
                    return None;
                }
                Line::Whole(std::mem::take(&mut self.input))
            }
            _ => Line::TooLong,
        };
        self.half_since = None;
        let number = self.next;
        self.next += 1;
        if !self.follows {
            self.answers.push_back(None);
        }
        Some((number, line))
    }

    /// Half a line waits for its other half from when it is first seen, and not while nothing is read.
    fn time_half_line(&mut self, now: Instant) {
        let waits = !self.closing && !self.is_full() && !self.input.is_empty() && !self.has_line();
        self.half_since = waits.then(|| self.half_since.unwrap_or(now));
    }

    /// Whether [`Connection::next_line`] has something to give.
    #[must_use]
    pub fn has_line(&self) -> bool {
        let is_line = || {
            self.input.len() > LONGEST_LINE || (self.read_closed && !self.input.is_empty()) || memchr::memchr(b'\n', &self.input).is_some()
        };
        !self.closing && !self.is_full() && is_line()
    }

    /// Answers request `number`. An answer to a request that was answered already is dropped.
    pub fn answer(&mut self, number: u64, answer: Answer) {
        let first = self.next - u64::try_from(self.answers.len()).unwrap_or(0);
        let slot = number.checked_sub(first).and_then(|index| usize::try_from(index).ok()).and_then(|index| self.answers.get_mut(index));
        if let Some(slot) = slot.filter(|slot| slot.is_none()) {
            *slot = Some(answer);
        }
    }

    /// Sends bytes of the stream that a follower gets, after its snapshot. One that does not keep up is cut off.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.output.len() + self.later.len() + bytes.len() > MOST_OUTPUT {
            self.broken = true;
        } else if self.pieces.is_some() {
            self.later.extend_from_slice(bytes);
        } else {
            self.output.extend(bytes);
        }
    }

    /// Turns the connection into a follower's, which gets `snapshot` as fast as it reads, and then whatever is pushed.
    pub fn follow(&mut self, snapshot: Pieces) {
        self.follows = true;
        self.answers.clear();
        self.pieces = Some(snapshot);
    }

    /// Sends a follower another configuration, as fast as it reads. What is pushed meanwhile goes between its pieces and waits for none of
    /// them. One that is being sent is sent to its end; one that has not begun is left out.
    pub fn reconfigure(&mut self, config: Pieces) {
        self.configs.truncate(1);
        self.configs.push_back(config);
    }

    /// Whether it has turned into a follower's.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.follows
    }

    /// Reads nothing more; what was asked so far is answered, then the connection ends. A follower gets what was pushed, and no more.
    pub fn close_after_answers(&mut self) {
        if self.follows {
            self.pieces = None;
            self.configs.clear();
            self.output.extend(std::mem::take(&mut self.later));
        }
        self.closing = true;
        self.input.clear();
        self.half_since = None;
    }

    /// Writes what can be written, or what is enough for now. Says whether anything was.
    pub fn write(&mut self, now: Instant) -> bool {
        let mut sum = 0;
        while sum < MOST_WRITTEN {
            self.fill();
            let (front, _) = self.output.as_slices();
            if front.is_empty() || self.broken {
                break;
            }
            match (&self.stream).write(front) {
                Ok(written) => {
                    self.output.drain(..written);
                    self.active = now;
                    sum += written;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.broken = true,
            }
        }
        self.time_half_line(now);
        let waits = self.wants_write();
        self.unread_since = self.unread_since.filter(|_| sum == 0).or(Some(now)).filter(|_| waits);
        self.reading_since = self.reading_since.or(Some(now)).filter(|_| self.follows && self.pieces.is_some());
        sum > 0
    }

    /// Moves answers that are ready and next in order to the output, and what a follower is sent.
    fn fill(&mut self) {
        while self.output.len() < ENOUGH_OUTPUT {
            if let Some(pieces) = &mut self.pieces {
                match pieces.next() {
                    Some(piece) => self.output.extend(piece.as_bytes()),
                    None => {
                        self.pieces = None;
                        self.output.extend(std::mem::take(&mut self.later));
                    }
                }
                continue;
            }
            if let Some(config) = self.configs.front_mut() {
                match config.next() {
                    Some(piece) => self.output.extend(piece.as_bytes()),
                    None => drop(self.configs.pop_front()),
                }
                continue;
            }
            match self.answers.front_mut().and_then(Option::take) {
                Some(Answer::Text(text)) => self.output.extend(text.as_bytes()),
                Some(Answer::Pieces(pieces)) => self.pieces = Some(pieces),
                None => return,
            }
            self.answers.pop_front();
        }
    }

    /// Whether the peer is to be asked for more.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        let has_room = self.input.len() <= LONGEST_LINE + CHUNK;
        !self.read_closed && !self.closing && !self.broken && has_room && !self.is_full()
    }

    /// Whether something waits to be written.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        let is_answered = matches!(self.answers.front(), Some(Some(_)));
        !self.output.is_empty() || is_answered || self.pieces.is_some() || !self.configs.is_empty()
    }

    /// Whether so many answers are due, or wait to be read, that no line is worked on before some have left. What came in does not count:
    /// only work on it makes it less.
    fn is_full(&self) -> bool {
        self.answers.len() >= MOST_PENDING || (!self.follows && self.output.len() >= ENOUGH_OUTPUT)
    }

    /// Whether it waits for nothing: neither for an answer nor for its peer to read one.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.answers.is_empty() && !self.wants_write() && !self.follows
    }

    /// Whether nothing is left to be done: all is answered and read, or the peer is gone.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let no_more = (self.read_closed && self.input.is_empty()) || self.closing;
        self.broken || (no_more && self.answers.is_empty() && !self.wants_write())
    }

    /// Whether the peer keeps us waiting too long.
    #[must_use]
    pub fn is_overdue(&self, now: Instant) -> bool {
        let longer = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        self.half_since.is_some_and(|since| longer(since, HALF_LINE))
            || (self.is_idle() && longer(self.active, IDLE))
            || self.unread_since.is_some_and(|since| longer(since, UNREAD))
            || self.reading_since.is_some_and(|since| longer(since, SNAPSHOT))
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
