//! Who is at the other end of a connection, as the kernel says, and what they may do.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use lru::LruCache;
use nix::sys::socket::{getsockopt, sockopt};

/// Users of another user namespace all look like this one: it is nobody in particular, so it is never privileged.
pub const OVERFLOW_USER: u32 = 65534;

/// The process that connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process; `None` if it is in a PID namespace that is not ours.
    pub pid: Option<u32>,
    /// Its user when it connected.
    pub user: u32,
}

impl Peer {
    /// Asks the kernel who connected.
    ///
    /// # Errors
    /// It is no connected Unix socket.
    pub fn of(socket: &impl AsFd) -> std::io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        Ok(Self { pid: u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0), user: credentials.uid() })
    }

    /// Whether it may ban, unban and reload: root, and the user `own` that this process runs as.
    #[must_use]
    pub fn is_privileged(&self, own: u32) -> bool {
        (self.user == 0 || self.user == own) && self.user != OVERFLOW_USER
    }
}

/// How many strikes each user may report: so many at once, and so many a second on the average.
#[derive(Debug)]
pub struct StrikeRates(LruCache<u32, Bucket>);

#[derive(Debug)]
struct Bucket {
    /// Thousandths of a strike that are left.
    left: u64,
    filled: Instant,
}

impl StrikeRates {
    /// So many at once.
    pub const BURST: u64 = 1000;
    /// So many a second on the average.
    pub const PER_SECOND: u64 = 200;
    /// Users remembered; a user who is forgotten starts with a full burst.
    const USERS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

    /// Whether `user` may report a strike `now`. Who asks too often is refused, and gains nothing by asking on.
    pub fn allow(&mut self, user: u32, now: Instant) -> bool {
        let bucket = self.0.get_or_insert_mut(user, || Bucket { left: Self::BURST * 1000, filled: now });
        let since = now.saturating_duration_since(bucket.filled).min(Duration::from_secs(3600));
        let gained = u64::try_from(since.as_millis()).unwrap_or(0) * Self::PER_SECOND;
        if gained > 0 {
            bucket.left = (bucket.left + gained).min(Self::BURST * 1000);
            bucket.filled = now;
        }
        match bucket.left.checked_sub(1000) {
            Some(left) => {
                bucket.left = left;
                true
            }
            None => false,
        }
    }
}

impl Default for StrikeRates {
    fn default() -> Self {
        Self(LruCache::new(Self::USERS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_connected() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer, Peer { pid: Some(std::process::id()), user: rustix::process::getuid().as_raw() });
    }

    #[test]
    fn root_and_the_own_user_are_privileged_and_nobody_else() {
        let peer = |user| Peer { pid: Some(1), user };
        assert!(peer(0).is_privileged(1000) && peer(1000).is_privileged(1000));
        assert!(!peer(1001).is_privileged(1000));
        assert!(!peer(OVERFLOW_USER).is_privileged(OVERFLOW_USER), "nobody in particular");
    }

    #[test]
    fn each_users_strikes_are_limited_for_themselves() {
        let mut rates = StrikeRates::default();
        let start = Instant::now();
        let allowed = (0..5000).filter(|_| rates.allow(33, start)).count();
        assert_eq!(allowed, 1000);
        assert!(rates.allow(34, start));
        let later = start + Duration::from_millis(500);
        assert_eq!((0..5000).filter(|_| rates.allow(33, later)).count(), 100);
    }
}
