//! One connection: request lines in, answers out in the same order, with limits on everything a peer can make the daemon wait for or
//! hold in memory.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::peer::Peer;
use super::replies::{Pieces, ReplyText};
use crate::control::request::MAX_LINE;

/// How long half a line may wait for its other half.
const HALF_LINE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a peer may read nothing while output waits for it.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a subscriber may take to read its snapshot. The number of copies of the bans is limited, and others wait for one.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of requests in progress per connection; further ones wait in the socket's buffer.
const MAX_PENDING: usize = 64;
/// Bytes of unread answers above which no requests are read, and no more of a long answer is made.
const OUTPUT_HIGH_WATER: usize = 64 * 1024;
/// Maximum bytes of changes waiting for a subscriber. One that lags further is cut off: it reconnects and gets a new snapshot. A
/// configuration does not count, because it is made as it is read.
const MAX_SUBSCRIBER_OUTPUT: usize = 8 * 1024 * 1024;
/// Bytes read at a time, and roughly the most written at a time: one peer must not hold up the others.
const READ_CHUNK: usize = 16 * 1024;
const MAX_WRITE: usize = 128 * 1024;

/// A line from the peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A whole line, without its newline.
    Whole(Vec<u8>),
    /// More than [`MAX_LINE`] bytes.
    TooLong,
}

/// A connection, whose stream is non-blocking.
pub struct PeerConnection {
    stream: UnixStream,
    pub peer: Peer,
    input: Vec<u8>,
    half_line_since: Option<Instant>,
    /// When bytes were last read or written.
    last_active: Instant,
    /// The number of the next request.
    next: u64,
    /// The answers to the latest requests, in request order; the last one belongs to request `next - 1`.
    answers: VecDeque<Option<ReplyText>>,
    /// The rest of the answer that is being written.
    pieces: Option<Pieces>,
    output: VecDeque<u8>,
    /// The peer sends nothing more.
    read_closed: bool,
    /// Nothing more is read; earlier requests are still answered.
    closing: bool,
    /// The peer is gone, or lags too far behind.
    broken: bool,
    /// A subscriber's requests are not answered in order, and it may be idle forever.
    is_subscriber: bool,
    /// Bytes to send once the snapshot in `pieces` is sent.
    after_snapshot: Vec<u8>,
    /// The configuration being sent after the snapshot, and the newest one if that has changed meanwhile.
    configs: VecDeque<Pieces>,
    /// Since when the peer has read nothing while output waits for it.
    unread_since: Option<Instant>,
    /// Since when a subscriber has been reading its snapshot.
    snapshot_since: Option<Instant>,
    /// The next piece of the snapshot is not made yet.
    waits_for_piece: bool,
}

impl PeerConnection {
    /// A new connection; `stream` must be non-blocking.
    #[must_use]
    pub fn new(stream: UnixStream, peer: Peer, now: Instant) -> Self {
        Self {
            stream,
            peer,
            input: Vec::new(),
            half_line_since: None,
            last_active: now,
            next: 0,
            answers: VecDeque::new(),
            pieces: None,
            output: VecDeque::new(),
            read_closed: false,
            closing: false,
            broken: false,
            is_subscriber: false,
            after_snapshot: Vec::new(),
            configs: VecDeque::new(),
            unread_since: None,
            snapshot_since: None,
            waits_for_piece: false,
        }
    }

    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// When bytes were last read or written.
    #[must_use]
    pub fn last_active(&self) -> Instant {
        self.last_active
    }

    /// Reads at most [`READ_CHUNK`] bytes, if more input is wanted. Returns whether bytes or the end of the stream were read.
    pub fn read(&mut self, now: Instant) -> bool {
        if !self.wants_read() {
            return false;
        }
        let mut chunk = [MaybeUninit::uninit(); READ_CHUNK];
        loop {
            match rustix::io::read(&self.stream, &mut chunk) {
                Ok(([], _)) => {
                    self.read_closed = true;
                    return true;
                }
                Ok((read, _)) => {
                    self.input.extend_from_slice(read);
                    self.last_active = now;
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

    /// Refuses whatever a subscriber sends from now on, so that it knows exactly what has been taken. That can still be read.
    pub fn receive_no_more(&self) {
        if self.is_subscriber {
            // Fails only if the peer is gone, who then sends nothing anyway.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
    }

    /// Reads on from a subscriber that cannot be written to any more. Returns whether bytes were read.
    pub fn read_rest(&mut self, now: Instant) -> bool {
        self.broken = false;
        self.is_subscriber && self.read(now) && !self.read_closed
    }

    /// The next line, with its request number. The last line of a stream may lack its newline; a subscriber's is ignored then, because it may
    /// be cut off in an address or a rule's name, and the helper reports it again over its next connection.
    pub fn next_line(&mut self, now: Instant) -> Option<(u64, Line)> {
        if self.closing || self.is_full() {
            return None;
        }
        let line = match memchr::memchr(b'\n', &self.input) {
            Some(end) if end <= MAX_LINE => {
                let mut line: Vec<u8> = self.input.drain(..=end).collect();
                line.pop();
                Line::Whole(line)
            }
            None if self.input.len() <= MAX_LINE => {
                if self.read_closed && self.is_subscriber {
                    self.input.clear();
                }
                if !self.read_closed || self.input.is_empty() {
                    self.time_half_line(now);
                    return None;
                }
                Line::Whole(std::mem::take(&mut self.input))
            }
            _ => Line::TooLong,
        };
        self.half_line_since = None;
        let number = self.next;
        self.next += 1;
        if !self.is_subscriber {
            self.answers.push_back(None);
        }
        Some((number, line))
    }

    /// Starts the timeout of half a line when it is first seen, and stops it while nothing is read. A helper on a busy machine may well take
    /// its time for the other half.
    fn time_half_line(&mut self, now: Instant) {
        let waits = !self.is_subscriber && !self.closing && !self.is_full() && !self.input.is_empty() && !self.has_line();
        self.half_line_since = waits.then(|| self.half_line_since.unwrap_or(now));
    }

    /// Whether [`PeerConnection::next_line`] would return a line.
    #[must_use]
    pub fn has_line(&self) -> bool {
        let is_last = || self.read_closed && !self.is_subscriber && !self.input.is_empty();
        let is_line = || self.input.len() > MAX_LINE || is_last() || memchr::memchr(b'\n', &self.input).is_some();
        !self.closing && !self.is_full() && is_line()
    }

    /// Answers request `number`. A second answer to the same request is dropped.
    pub fn answer(&mut self, number: u64, answer: ReplyText) {
        let first = self.next - u64::try_from(self.answers.len()).unwrap_or(0);
        let slot = number.checked_sub(first).and_then(|index| usize::try_from(index).ok()).and_then(|index| self.answers.get_mut(index));
        if let Some(slot) = slot.filter(|slot| slot.is_none()) {
            *slot = Some(answer);
        }
    }

    /// Queues bytes for a subscriber, behind its snapshot. One that does not keep up is cut off.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.unread() + bytes.len() > MAX_SUBSCRIBER_OUTPUT {
            self.cut_off();
        } else if self.pieces.is_some() {
            self.after_snapshot.extend_from_slice(bytes);
        } else {
            self.output.extend(bytes);
        }
    }

    /// Number of bytes that wait for a subscriber.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.output.len() + self.after_snapshot.len()
    }

    /// Gives the peer up, because it lags too far behind.
    pub fn cut_off(&mut self) {
        self.broken = true;
    }

    /// Turns the connection into a subscriber's: it gets `snapshot` as fast as it reads, then whatever is pushed. An empty piece of it means
    /// that the next one is not made yet: see [`PeerConnection::resume`].
    pub fn subscribe(&mut self, snapshot: Pieces) {
        self.is_subscriber = true;
        self.answers.clear();
        self.pieces = Some(snapshot);
    }

    /// Goes on with a snapshot whose next piece may be made now.
    pub fn resume(&mut self) {
        self.waits_for_piece = false;
    }

    /// Sends a subscriber a new configuration, as fast as it reads. Bytes pushed meanwhile go between its pieces. A configuration already
    /// being sent is completed; one not yet begun is replaced.
    pub fn queue_config(&mut self, config: Pieces) {
        self.configs.truncate(1);
        self.configs.push_back(config);
    }

    #[must_use]
    pub fn is_subscriber(&self) -> bool {
        self.is_subscriber
    }

    /// Stops reading, and closes the connection once all requests are answered. A subscriber gets what was pushed, but no more of its
    /// snapshot or configuration.
    pub fn close_after_answers(&mut self) {
        if self.is_subscriber {
            self.pieces = None;
            self.waits_for_piece = false;
            self.configs.clear();
            self.output.extend(std::mem::take(&mut self.after_snapshot));
        }
        self.closing = true;
        self.input.clear();
        self.half_line_since = None;
    }

    /// Writes until the socket is full or about [`MAX_WRITE`] bytes are sent. Returns whether anything was written.
    pub fn write(&mut self, now: Instant) -> bool {
        let mut sum = 0;
        while sum < MAX_WRITE {
            self.fill();
            let (front, _) = self.output.as_slices();
            if front.is_empty() || self.broken {
                break;
            }
            match (&self.stream).write(front) {
                Ok(written) => {
                    self.output.drain(..written);
                    self.last_active = now;
                    sum += written;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.broken = true,
            }
        }
        if self.output.is_empty() && self.output.capacity() > 2 * OUTPUT_HIGH_WATER {
            // It held what the peer had not read for a while.
            self.output = VecDeque::new();
        }
        self.time_half_line(now);
        let waits = self.wants_write();
        self.unread_since = self.unread_since.filter(|_| sum == 0).or(Some(now)).filter(|_| waits);
        self.snapshot_since = self.snapshot_since.or(Some(now)).filter(|_| self.is_subscriber && self.pieces.is_some());
        sum > 0
    }

    /// Tops up the output: from the snapshot or long answer being sent, then the configuration, then answers that are next in order.
    fn fill(&mut self) {
        while self.output.len() < OUTPUT_HIGH_WATER && !self.waits_for_piece {
            if let Some(pieces) = &mut self.pieces {
                match pieces.next() {
                    Some(piece) if piece.is_empty() => self.waits_for_piece = self.is_subscriber,
                    Some(piece) => self.output.extend(piece.as_bytes()),
                    None => {
                        self.pieces = None;
                        self.output.extend(std::mem::take(&mut self.after_snapshot));
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
                Some(ReplyText::Whole(text)) => self.output.extend(text.as_bytes()),
                Some(ReplyText::Pieces(pieces)) => self.pieces = Some(pieces),
                None => return,
            }
            self.answers.pop_front();
        }
    }

    /// Whether to read from the peer.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        let has_room = self.input.len() <= MAX_LINE + READ_CHUNK;
        !self.read_closed && !self.closing && !self.broken && has_room && !self.is_full()
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        let is_answered = matches!(self.answers.front(), Some(Some(_)));
        let has_pieces = (self.pieces.is_some() || !self.configs.is_empty()) && !self.waits_for_piece;
        !self.output.is_empty() || is_answered || has_pieces
    }

    /// Whether too many answers are due or unread to handle another line. Input already buffered does not count, because only handling it
    /// makes it less.
    fn is_full(&self) -> bool {
        self.answers.len() >= MAX_PENDING || (!self.is_subscriber && self.output.len() >= OUTPUT_HIGH_WATER)
    }

    /// Whether no answer is due or waiting to be read.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.answers.is_empty() && !self.wants_write() && !self.is_subscriber
    }

    /// Whether the connection can be closed: every request is answered and sent, or the peer is gone.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let no_more = (self.read_closed && self.input.is_empty()) || self.closing;
        self.broken || (no_more && self.answers.is_empty() && !self.wants_write())
    }

    /// Whether one of the connection's timeouts has passed.
    #[must_use]
    pub fn is_overdue(&self, now: Instant) -> bool {
        let longer = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        self.half_line_since.is_some_and(|since| longer(since, HALF_LINE_TIMEOUT))
            || (self.is_idle() && longer(self.last_active, IDLE_TIMEOUT))
            || self.unread_since.is_some_and(|since| longer(since, UNREAD_TIMEOUT))
            || self.snapshot_since.is_some_and(|since| longer(since, SNAPSHOT_TIMEOUT))
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
