//! Answers and stream bytes on their way from other threads to the event loop, and the waker that makes it look.

use parking_lot::Mutex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::ThreadId;

use rustix::event::{EventfdFlags, eventfd};

use crate::engine::reply::Reply;
use crate::verdict::Verdict;

/// A connection's number; never reused while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Text made piece by piece, as fast as the peer reads.
pub type Pieces = Box<dyn Iterator<Item = String> + Send>;

pub enum ReplyText {
    Whole(String),
    Pieces(Pieces),
}

impl From<String> for ReplyText {
    fn from(text: String) -> Self {
        Self::Whole(text)
    }
}

/// Work for the event loop.
pub enum QueueItem {
    /// The verdict on a request, given by its connection and number.
    Verdict(ConnectionId, u64, Verdict),
    /// The answer to a request, given by its connection and number.
    Answer(ConnectionId, u64, ReplyText),
    /// A change of the table, as a line for every subscriber.
    Change(String),
    /// Bytes for one subscriber, sent in the order in which they are pushed.
    Push(ConnectionId, Vec<u8>),
    /// A copy of the bans is complete, for which subscribers wait.
    BansCopied,
}

/// The event loop's inbox: any thread pushes, only the loop takes.
pub struct ReplyQueue {
    items: Mutex<Vec<QueueItem>>,
    waker: OwnedFd,
    /// The loop's own thread, which empties the queue before it sleeps and needs no waking.
    owner: ThreadId,
}

impl ReplyQueue {
    /// Creates the queue of the current thread.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        let waker = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { items: Mutex::default(), waker, owner: std::thread::current().id() })
    }

    /// Queues `item`, and wakes the loop if this is the first one.
    pub fn push(&self, item: QueueItem) {
        let mut items = self.items.lock();
        let was_empty = items.is_empty();
        items.push(item);
        drop(items);
        if was_empty && std::thread::current().id() != self.owner {
            // Fails only once 2^64 wake-ups have been counted.
            let _ = rustix::io::write(&self.waker, &1_u64.to_ne_bytes());
        }
    }

    /// Takes everything queued, oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<QueueItem> {
        std::mem::take(&mut *self.items.lock())
    }

    /// The file descriptor to watch *edge-triggered*: it is never read, and each wake-up is a new edge.
    #[must_use]
    pub fn waker(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

/// Where the answer to one request goes.
#[derive(Clone)]
pub struct ReplyHandle {
    queue: Arc<ReplyQueue>,
    connection: ConnectionId,
    number: u64,
}

impl ReplyHandle {
    /// The handle of request `number` on `connection`.
    #[must_use]
    pub fn new(queue: Arc<ReplyQueue>, connection: ConnectionId, number: u64) -> Self {
        Self { queue, connection, number }
    }

    /// A [`Reply`] that queues its verdict, and queues an accept when it is dropped.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let to = self.clone();
        Reply::new(move |verdict| to.queue.push(QueueItem::Verdict(to.connection, to.number, verdict)))
    }

    pub fn answer(&self, answer: impl Into<ReplyText>) {
        self.queue.push(QueueItem::Answer(self.connection, self.number, answer.into()));
    }

    /// Queues bytes for the subscriber on this connection.
    pub fn push(&self, bytes: Vec<u8>) {
        self.queue.push(QueueItem::Push(self.connection, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::AllowReason;
    use rustix::event::{Timespec, epoll};
    use std::mem::MaybeUninit;

    #[test]
    fn only_other_threads_wake_the_loop_and_each_wake_up_is_one_event() {
        let queue = Arc::new(ReplyQueue::new().unwrap());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&epoll, queue.waker(), epoll::EventData::new_u64(0), epoll::EventFlags::IN | epoll::EventFlags::ET).unwrap();
        let is_woken = || {
            let no_wait = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut events = [MaybeUninit::uninit(); 4];
            epoll::wait(&epoll, &mut events, Some(&no_wait)).unwrap().0.len() == 1
        };
        let to = ReplyHandle::new(Arc::clone(&queue), ConnectionId(1), 1);
        to.answer("own\n".to_owned());
        assert!(!is_woken());
        assert_eq!(queue.take().len(), 1);
        for _ in 0..3 {
            let to = to.clone();
            std::thread::spawn(move || to.answer("other\n".to_owned())).join().unwrap();
            assert!(is_woken());
            assert!(!is_woken());
            assert_eq!(queue.take().len(), 1);
        }
    }

    #[test]
    fn a_dropped_reply_accepts() {
        let queue = Arc::new(ReplyQueue::new().unwrap());
        drop(ReplyHandle::new(Arc::clone(&queue), ConnectionId(7), 3).reply());
        assert!(matches!(queue.take()[..], [QueueItem::Verdict(ConnectionId(7), 3, Verdict::Allow(AllowReason::Failure))]));
    }
}
