//! Accounts that somebody tried to log in to. Their names are kept only as keyed hashes.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use crate::client::Client;
use crate::time::{Span, Time};

/// How long a client that logged in to an account is known to be its owner's.
const KNOWN: Span = Span::from_secs(30 * 24 * 3600);

/// An account: the keyed hash of its name. It is shown nowhere, because whoever knew the key could try names.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Account(u64);

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account(_)")
    }
}

/// Names the accounts, and remembers which clients logged in to each.
///
/// The key is this process's own, as the counts of accounts are, and leaves it nowhere. Bounded: the client that has not logged in for longest
/// is forgotten first.
pub struct Accounts {
    /// SipHash with a random key: nobody without the key can find a name with the same hash as another.
    key: RandomState,
    known: Mutex<LruCache<(Account, Client), Time, ahash::RandomState>>,
}

impl Accounts {
    /// Remembers at most `logins` pairs of an account and a client.
    #[must_use]
    pub fn new(logins: usize) -> Self {
        let mut known = LruCache::unbounded_with_hasher(ahash::RandomState::new());
        known.resize(NonZeroUsize::new(logins).unwrap_or(NonZeroUsize::MIN));
        Self { key: RandomState::new(), known: Mutex::new(known) }
    }

    /// The account of this name; `None` if it is empty. Case (of ASCII) and blanks around it make no difference: a server that ignores them
    /// would let a guesser spread over as many accounts as it has spellings.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Account> {
        let name = name.trim().to_ascii_lowercase();
        (!name.is_empty()).then(|| Account(self.key.hash_one(name)))
    }

    /// Notes that `client` logged in to `account`.
    pub fn note_login(&self, account: Account, client: Client, now: Time) {
        self.known.lock().put((account, client), now);
    }

    /// Whether `client` logged in to `account` within the last 30 days.
    #[must_use]
    pub fn is_known(&self, account: Account, client: Client, now: Time) -> bool {
        self.known.lock().peek(&(account, client)).is_some_and(|login| login.after(KNOWN) > now)
    }
}

#[cfg(test)]
mod tests {
    use super::super::strikes::fixtures::{at, client};
    use super::*;

    #[test]
    fn case_and_blanks_around_a_name_make_no_other_account() {
        let accounts = Accounts::new(10);
        let named = |name| accounts.named(name);
        assert_eq!(named("alice@example.org"), named(" Alice@EXAMPLE.org\t"));
        assert_eq!((named(""), named(" \r")), (None, None));
        for other in ["alice", "alice@example.com", "alice@ example.org", "alice@example.org\0"] {
            assert_ne!(named("alice@example.org"), named(other), "{other:?}");
        }
    }

    #[test]
    fn the_same_name_is_another_hash_in_each_process_and_is_not_shown() {
        let account = |accounts: &Accounts| accounts.named("alice").unwrap();
        assert_ne!(account(&Accounts::new(1)), account(&Accounts::new(1)));
        assert_eq!(format!("{:?}", account(&Accounts::new(1))), "Account(_)");
    }

    #[test]
    fn a_client_is_known_for_thirty_days_after_a_login_to_this_account() {
        let accounts = Accounts::new(10);
        let [alice, bob] = ["alice", "bob"].map(|name| accounts.named(name).unwrap());
        accounts.note_login(alice, client(1), at(0));
        let day = 24 * 3600;
        assert!(accounts.is_known(alice, client(1), at(30 * day - 1)));
        for (account, number, second) in [(alice, 1, 30 * day), (alice, 2, 1), (bob, 1, 1)] {
            assert!(!accounts.is_known(account, client(number), at(second)));
        }
    }

    #[test]
    fn the_login_longest_ago_makes_room() {
        let accounts = Accounts::new(2);
        let account = accounts.named("alice").unwrap();
        for number in [1, 2, 1, 3] {
            accounts.note_login(account, client(number), at(0));
        }
        assert_eq!([1, 2, 3].map(|number| accounts.is_known(account, client(number), at(1))), [true, false, true]);
    }
}
