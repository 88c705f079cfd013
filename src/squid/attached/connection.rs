//! The connection to the daemon: any thread queues lines, and they are written in batches, as fast as the daemon takes them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::send_queue::{STALL_LIMIT, SendQueue, Unsent};
use crate::control::client;

/// How long connecting may take. A daemon that is stopped still has a queue of connections, which may be full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

pub struct DaemonConnection {
    stream: UnixStream,
    /// Locked while lines are queued or written, so that lines of two threads never mix.
    queue: Mutex<SendQueue>,
    /// Set while `queue` is locked: afterwards nothing is queued any more.
    lost: AtomicBool,
    /// Wakes [`DaemonConnection::wait`] when the queue begins to wait for room.
    waker: OwnedFd,
}

impl DaemonConnection {
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = client::connect(socket, Instant::now() + CONNECT_TIMEOUT)?;
        let waker = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { stream, queue: Mutex::default(), lost: AtomicBool::new(false), waker })
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether the connection has been given up.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// The queue, to append lines to; `None` if the connection has been given up.
    pub fn queue(&self) -> Option<MutexGuard<'_, SendQueue>> {
        let queue = self.queue.lock();
        (!self.is_lost()).then_some(queue)
    }

    /// Writes what waits, without blocking. What does not fit is written by [`DaemonConnection::wait`], as soon as there is room.
    pub fn flush(&self) {
        let Some(mut queue) = self.queue() else { return };
        let sent = queue.write(Instant::now(), |bytes| rustix::net::send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL));
        match sent {
            Ok(false) => {}
            // Fails only once 2^64 wake-ups have been counted.
            Ok(true) => drop(rustix::io::write(&self.waker, &1_u64.to_ne_bytes())),
            // The end of the stream follows, with everything that the daemon has sent before.
            Err(error) => log::debug!("the daemon's socket cannot be written: {error}"),
        }
    }

    /// Waits up to `limit`, which must be below a second, and meanwhile writes what waits as there is room. Returns early, with true, if there
    /// are bytes to read.
    ///
    /// # Errors
    /// The daemon has taken nothing for [`STALL_LIMIT`].
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let now = Instant::now();
            let (waits, is_stalled) = {
                let queue = self.queue.lock();
                (!queue.is_empty(), queue.is_stalled(now))
            };
            if is_stalled {
                let text = format!("it has read nothing for {} s", STALL_LIMIT.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            let left = deadline.saturating_duration_since(now);
            let left = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            let interest = if waits { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let mut fds = [PollFd::new(&self.stream, interest), PollFd::new(&self.waker, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            let [stream, waker] = fds.map(|fd| fd.revents());
            if waker.contains(PollFlags::IN) {
                let _ = rustix::io::read(&self.waker, &mut [0_u8; 8]);
            }
            if stream.contains(PollFlags::OUT) {
                self.flush();
            }
            if stream.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                return Ok(true);
            }
        }
    }

    /// Writes what waits, within `limit`, which must be below a second.
    pub fn flush_within(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.flush();
        while self.queue().is_some_and(|queue| !queue.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.stream, PollFlags::OUT)], Some(&left)) {
                Ok(_) => self.flush(),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Queues and writes nothing more. Returns the lines that the daemon certainly has not handled, and how many deferred offences it has taken
    /// since [`SendQueue::take_deferred`].
    pub fn stop(&self) -> (Vec<Unsent>, u64) {
        let mut queue = self.queue.lock();
        self.lost.store(true, Ordering::Relaxed);
        (queue.take_unsent(), queue.take_deferred())
    }

    /// Does the same as [`DaemonConnection::stop`], and hangs up.
    pub fn lose(&self) -> (Vec<Unsent>, u64) {
        let unsent = self.stop();
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        unsent
    }
}
