//! The process at the other end of a connection, as the kernel reports it (SO_PEERCRED), and what it may do.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use lru::LruCache;
use nix::sys::socket::{getsockopt, sockopt};

/// The user ID that the kernel reports for every user that this user namespace does not map (user_namespaces(7),
/// `/proc/sys/kernel/overflowuid`). It may be anybody, so it is never privileged.
pub const OVERFLOW_USER: u32 = 65534;

/// The process that connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// `None` if the process is in another PID namespace.
    pub pid: Option<u32>,
    /// The effective user at the time it connected.
    pub user: u32,
}

impl Peer {
    /// Asks the kernel who is at the other end of `socket`.
    ///
    /// # Errors
    /// `socket` is not a connected Unix socket.
    pub fn of(socket: &impl AsFd) -> std::io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        Ok(Self { pid: u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0), user: credentials.uid() })
    }

    /// Whether the peer may ban, unban and reload: root, and `own`, the daemon's user, may.
    #[must_use]
    pub fn is_privileged(&self, own: u32) -> bool {
        (self.user == 0 || self.user == own) && self.user != OVERFLOW_USER
    }
}

/// Limits the strikes that each user may report: a token bucket per user.
#[derive(Debug)]
pub struct StrikeRates(LruCache<u32, Bucket>);

#[derive(Debug)]
struct Bucket {
    /// Tokens left, in thousandths of a strike.
    left: u64,
    refilled: Instant,
}

impl StrikeRates {
    /// Strikes allowed at once.
    pub const BURST: u64 = 1000;
    /// Strikes allowed per second on average.
    pub const PER_SECOND: u64 = 200;
    /// Maximum number of buckets; a user whose bucket was dropped starts with a full burst.
    const USERS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

    /// Whether `user` may report a strike `now`. A refused strike costs no token.
    pub fn allow(&mut self, user: u32, now: Instant) -> bool {
        let bucket = self.0.get_or_insert_mut(user, || Bucket { left: Self::BURST * 1000, refilled: now });
        let since = now.saturating_duration_since(bucket.refilled).min(Duration::from_secs(3600));
        let gained = u64::try_from(since.as_millis()).unwrap_or(0) * Self::PER_SECOND;
        if gained > 0 {
            bucket.left = (bucket.left + gained).min(Self::BURST * 1000);
            bucket.refilled = now;
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
    fn the_peer_is_the_process_that_connected() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer, Peer { pid: Some(std::process::id()), user: rustix::process::getuid().as_raw() });
    }

    #[test]
    fn only_root_and_the_daemons_own_user_are_privileged() {
        let peer = |user| Peer { pid: Some(1), user };
        assert!(peer(0).is_privileged(1000) && peer(1000).is_privileged(1000));
        assert!(!peer(1001).is_privileged(1000));
        assert!(!peer(OVERFLOW_USER).is_privileged(OVERFLOW_USER), "it may be anybody");
    }

    #[test]
    fn each_user_has_a_strike_limit_of_its_own() {
        let mut rates = StrikeRates::default();
        let start = Instant::now();
        let allowed = (0..5000).filter(|_| rates.allow(33, start)).count();
        assert_eq!(allowed, 1000);
        assert!(rates.allow(34, start));
        let later = start + Duration::from_millis(500);
        assert_eq!((0..5000).filter(|_| rates.allow(33, later)).count(), 100);
    }
}
