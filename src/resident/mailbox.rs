//! What other threads have for the event loop: answers that are ready, and bytes for followers. A bell wakes the loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

use rustix::event::{EventfdFlags, eventfd};

use crate::reply::Reply;
use crate::verdict::Verdict;

/// One connection of this process's life; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Text that is made piece by piece, as fast as the peer reads.
pub type Pieces = Box<dyn Iterator<Item = String> + Send>;

/// An answer's text: at once, or piece by piece as fast as the peer reads.
pub enum Answer {
    /// All of it.
    Text(String),
    /// Pieces of it.
    Pieces(Pieces),
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Something for the loop.
pub enum Post {
    /// The verdict on request `number` of a connection.
    Verdict(ConnectionId, u64, Verdict),
    /// The answer to request `number` of a connection.
    Answer(ConnectionId, u64, Answer),
    /// A line about a change of the table, for everybody who follows.
    Change(String),
    /// Bytes for a connection that follows, in the order of their posting.
    Push(ConnectionId, Vec<u8>),
}

/// The loop's letter box. Anybody may post; only the loop takes.
pub struct Mailbox {
    posts: Mutex<Vec<Post>>,
    bell: OwnedFd,
    /// The loop's own thread looks into the box before it sleeps: for it no bell need ring.
    home: ThreadId,
}

impl Mailbox {
    /// A letter box of the current thread.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { posts: Mutex::default(), bell, home: std::thread::current().id() })
    }

    /// Posts, from any thread.
    pub fn post(&self, post: Post) {
        let mut posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = posts.is_empty();
        posts.push(post);
        drop(posts);
        if was_empty && std::thread::current().id() != self.home {
            self.ring();
        }
    }

    /// Wakes the loop.
    pub fn ring(&self) {
        // It fails only if the counter is full: then the bell rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Everything that was posted, oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<Post> {
        std::mem::take(&mut *self.posts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Silences the bell.
    pub fn hush(&self) {
        // It fails only if the bell does not ring.
        let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
    }

    /// What to wait for: readable while the bell rings.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// Where the answer to one request goes.
#[derive(Clone)]
pub struct Addressee {
    mailbox: Arc<Mailbox>,
    connection: ConnectionId,
    number: u64,
}

impl Addressee {
    /// Request `number` of `connection`.
    #[must_use]
    pub fn new(mailbox: Arc<Mailbox>, connection: ConnectionId, number: u64) -> Self {
        Self { mailbox, connection, number }
    }

    /// A reply that posts its verdict; dropped, it accepts.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let to = self.clone();
        Reply::new(move |verdict| to.mailbox.post(Post::Verdict(to.connection, to.number, verdict)))
    }

    /// Posts an answer.
    pub fn answer(&self, answer: impl Into<Answer>) {
        self.mailbox.post(Post::Answer(self.connection, self.number, answer.into()));
    }

    /// Posts bytes for a connection that follows.
    pub fn push(&self, bytes: Vec<u8>) {
        self.mailbox.post(Post::Push(self.connection, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Innocence;
    use rustix::event::{PollFd, PollFlags, poll};

    fn rings(mailbox: &Mailbox) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(mailbox.bell(), PollFlags::IN)];
        poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn the_bell_rings_for_other_threads_only_and_until_it_is_hushed() {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let to = Addressee::new(Arc::clone(&mailbox), ConnectionId(1), 1);
        to.answer("own\n".to_owned());
        assert!(!rings(&mailbox));
        assert_eq!(mailbox.take().len(), 1);
        std::thread::spawn(move || to.answer("other\n".to_owned())).join().unwrap();
        assert!(rings(&mailbox));
        mailbox.hush();
        assert!(!rings(&mailbox));
        assert_eq!(mailbox.take().len(), 1);
    }

    #[test]
    fn a_dropped_reply_posts_that_the_client_is_accepted() {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        drop(Addressee::new(Arc::clone(&mailbox), ConnectionId(7), 3).reply());
        assert!(matches!(mailbox.take()[..], [Post::Verdict(ConnectionId(7), 3, Verdict::Allow(Innocence::Failure))]));
    }
}
