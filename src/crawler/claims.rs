//! Who says that it is a crawler, and what came of looking that up. The time is an argument; another thread asks the name server.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ahash::RandomState;
use lru::LruCache;
use parking_lot::Mutex;

use super::{Crawler, Crawlers};
use crate::time::{Span, Time};

/// Maximum number of addresses that are remembered; the one that was seen least recently is forgotten.
const MAX_CLAIMS: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();
/// How long the ordinary behaviour of an address does not count while its first lookup has no answer.
const PATIENCE: Span = Span::from_secs(10);
/// How long an address counts as verified.
const VERIFIED: Span = Span::from_secs(24 * 3600);
/// How long an address that is not the crawler's is not looked up again.
const REFUTED: Span = Span::from_secs(3600);
/// How long an address is not looked up again after a lookup without an answer.
const UNKNOWN: Span = Span::from_secs(300);

/// What a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The name of the address is in a domain of the crawler, and has that address.
    Verified,
    /// There is no such name, or it does not have that address.
    Refuted,
    /// The name server cannot be asked now.
    Unknown,
}

/// An address to be looked up.
#[derive(Debug, Clone)]
pub struct Question {
    pub address: IpAddr,
    pub crawler: Arc<Crawler>,
}

/// Takes a question without blocking, or returns false because too many wait.
type Asker = Box<dyn Fn(Question) -> bool + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The crawler's networks decide.
    Listed,
    Asked {
        since: Time,
        /// Whether nothing was known before. Otherwise an address could be spared again and again while the name server is slow.
        is_first: bool,
    },
    Found {
        finding: Finding,
        until: Time,
    },
}

#[derive(Debug)]
struct Claim {
    crawler: Arc<str>,
    state: State,
}

/// How many addresses that name themselves after a crawler are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClaimCounts {
    /// Also those in a published network.
    pub verified: usize,
    pub refuted: usize,
    pub unknown: usize,
    pub asked: usize,
}

/// All claims.
pub struct Claims {
    /// False as long as nobody has claimed anything: then nothing is looked for.
    any: AtomicBool,
    known: Mutex<LruCache<IpAddr, Claim, RandomState>>,
    asker: OnceLock<Asker>,
}

impl Default for Claims {
    fn default() -> Self {
        let known = Mutex::new(LruCache::unbounded_with_hasher(RandomState::new()));
        Self { any: AtomicBool::new(false), known, asker: OnceLock::new() }
    }
}

impl Claims {
    /// Has addresses looked up by `asker` from now on. Without one, only published networks verify an address. Only the first call has an effect.
    pub fn ask_by(&self, asker: impl Fn(Question) -> bool + Send + Sync + 'static) {
        let _ = self.asker.set(Box::new(asker));
    }

    /// Notes that `address` says it is `crawler`, and has that looked up unless it is known.
    pub fn note(&self, now: Time, address: IpAddr, crawler: &Arc<Crawler>) {
        self.any.store(true, Ordering::Relaxed);
        let mut known = self.known.lock();
        let is_first = match known.get(&address).map(|claim| claim.state) {
            None => true,
            Some(State::Listed) => !crawler.lists(address),
            Some(State::Found { until, .. }) if until <= now => false,
            Some(State::Found { .. } | State::Asked { .. }) => return,
        };
        let state = if crawler.lists(address) {
            State::Listed
        } else if crawler.domains.is_empty() {
            State::Found { finding: Finding::Refuted, until: now.after(REFUTED) }
        } else {
            // Under the lock, so that the answer cannot come first.
            let is_asked = self.asker.get().is_some_and(|ask| ask(Question { address, crawler: Arc::clone(crawler) }));
            if !is_asked {
                return;
            }
            State::Asked { since: now, is_first }
        };
        known.put(address, Claim { crawler: Arc::clone(&crawler.name), state });
        if known.len() > MAX_CLAIMS.get() {
            known.pop_lru();
        }
    }

    /// Takes the answer to a question.
    pub fn answer(&self, now: Time, question: &Question, finding: Finding) {
        let span = match finding {
            Finding::Verified => VERIFIED,
            Finding::Refuted => REFUTED,
            Finding::Unknown => UNKNOWN,
        };
        if let Some(claim) = self.known.lock().peek_mut(&question.address)
            && claim.crawler == question.crawler.name
        {
            claim.state = State::Found { finding, until: now.after(span) };
        }
    }

    /// Whether the ordinary behaviour of `address` does not count at `now`: it is a crawler's, or may be and is being looked up.
    #[must_use]
    pub fn exempts(&self, now: Time, address: IpAddr, crawlers: &Crawlers) -> bool {
        if crawlers.is_empty() || !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let known = self.known.lock();
        let Some(claim) = known.peek(&address) else { return false };
        let Some(crawler) = crawlers.by_name(&claim.crawler) else { return false };
        crawler.lists(address)
            || match claim.state {
                State::Listed => false,
                State::Asked { since, is_first } => is_first && now.since(since) < PATIENCE,
                State::Found { finding, until } => finding == Finding::Verified && now < until,
            }
    }

    /// How many addresses that say they are `crawler` are in which state.
    #[must_use]
    pub fn counts(&self, crawler: &Crawler) -> ClaimCounts {
        let mut counts = ClaimCounts::default();
        for (_, claim) in self.known.lock().iter().filter(|(_, claim)| claim.crawler == crawler.name) {
            match claim.state {
                State::Listed | State::Found { finding: Finding::Verified, .. } => counts.verified += 1,
                State::Found { finding: Finding::Refuted, .. } => counts.refuted += 1,
                State::Found { finding: Finding::Unknown, .. } => counts.unknown += 1,
                State::Asked { .. } => counts.asked += 1,
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::crawlers;
    use super::*;

    const NOW: Time = Time::from_secs(1_000_000);

    fn after(seconds: u64) -> Time {
        NOW.after(Span::from_secs(seconds))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Claims whose questions are collected, as many as there is room for.
    fn claims(room: usize) -> (Claims, Arc<Mutex<Vec<Question>>>) {
        let (claims, asked) = (Claims::default(), Arc::new(Mutex::new(Vec::<Question>::new())));
        let taken = Arc::clone(&asked);
        claims.ask_by(move |question| {
            let mut taken = taken.lock();
            let has_room = taken.len() < room;
            if has_room {
                taken.push(question);
            }
            has_room
        });
        (claims, asked)
    }

    #[test]
    fn a_claim_is_spared_for_a_moment_and_then_judged_by_what_was_found() {
        let crawlers = crawlers();
        let google = crawlers.by_name("googlebot").unwrap();
        let address = ip("192.0.2.7");
        for (finding, spared, seconds) in
            [(Finding::Verified, true, 24 * 3600), (Finding::Refuted, false, 3600), (Finding::Unknown, false, 300)]
        {
            let (claims, asked) = claims(9);
            assert!(!claims.exempts(NOW, address, &crawlers));
            claims.note(NOW, address, google);
            claims.note(NOW, address, google);
            assert!(claims.exempts(after(9), address, &crawlers) && !claims.exempts(after(10), address, &crawlers));
            assert_eq!(asked.lock().len(), 1, "it is asked once");
            let question = asked.lock()[0].clone();
            claims.answer(NOW, &question, finding);
            assert_eq!(claims.exempts(after(seconds - 1), address, &crawlers), spared, "{finding:?}");
            claims.note(after(seconds - 1), address, google);
            assert_eq!(asked.lock().len(), 1, "{finding:?} is remembered");
            assert!(!claims.exempts(after(seconds), address, &crawlers));
            claims.note(after(seconds), address, google);
            assert_eq!(asked.lock().len(), 2);
            assert!(!claims.exempts(after(seconds), address, &crawlers), "only the first lookup is waited for");
        }
    }

    #[test]
    fn nobody_is_spared_whom_nobody_can_look_up() {
        let crawlers = crawlers();
        let google = crawlers.by_name("googlebot").unwrap();
        let without = Claims::default();
        without.note(NOW, ip("192.0.2.7"), google);
        let (full, _) = claims(0);
        full.note(NOW, ip("192.0.2.7"), google);
        let (no_domain, asked) = claims(9);
        no_domain.note(NOW, ip("192.0.2.7"), crawlers.by_name("otherbot").unwrap());
        assert!([&without, &full, &no_domain].iter().all(|claims| !claims.exempts(NOW, ip("192.0.2.7"), &crawlers)));
        assert!(asked.lock().is_empty());
    }

    #[test]
    fn a_published_network_needs_no_lookup_but_a_claim() {
        let crawlers = crawlers();
        let claims = Claims::default();
        assert!(!claims.exempts(NOW, ip("198.51.100.7"), &crawlers));
        claims.note(NOW, ip("198.51.100.7"), crawlers.by_name("googlebot").unwrap());
        assert!(claims.exempts(after(1_000_000), ip("198.51.100.7"), &crawlers));
        assert!(!claims.exempts(NOW, ip("198.51.100.8"), &crawlers));
        assert!(!claims.exempts(NOW, ip("198.51.100.7"), &Crawlers::default()), "a reload ends it");
        assert_eq!(claims.counts(crawlers.by_name("googlebot").unwrap()).verified, 1);
    }

    #[test]
    fn another_name_gives_an_address_no_second_moment() {
        let crawlers = crawlers();
        let (claims, asked) = claims(9);
        claims.note(NOW, ip("192.0.2.7"), crawlers.by_name("otherbot").unwrap());
        claims.note(NOW, ip("192.0.2.7"), crawlers.by_name("googlebot").unwrap());
        assert!(!claims.exempts(NOW, ip("192.0.2.7"), &crawlers) && asked.lock().is_empty());
    }

    #[test]
    fn liars_without_end_take_bounded_memory() {
        let crawlers = crawlers();
        let google = crawlers.by_name("googlebot").unwrap();
        let (claims, _) = claims(usize::MAX);
        for number in 0..u32::try_from(MAX_CLAIMS.get()).unwrap() + 9 {
            claims.note(NOW, IpAddr::V4(number.into()), google);
        }
        assert_eq!(claims.counts(google), ClaimCounts { asked: MAX_CLAIMS.get(), ..ClaimCounts::default() });
    }
}
