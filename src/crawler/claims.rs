//! Who says that it is a crawler, and what came of looking that up. The time is an argument; another thread asks the name server.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ahash::RandomState;
use lru::LruCache;
use parking_lot::Mutex;

use super::{Crawler, Crawlers};
use crate::client::{Client, Ipv6Prefix};
use crate::time::{Span, Time};

/// Maximum number of addresses that are remembered, and of clients; the one that was seen least recently is forgotten.
const MAX_CLAIMS: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();
/// How long the ordinary behaviour of a client does not count while its first lookup has no answer.
const PATIENCE: Span = Span::from_secs(10);
/// How long after it was verified an address is looked up again.
const VERIFIED: Span = Span::from_secs(23 * 3600);
/// How long an address counts as verified. It is longer, so that a crawler that comes often is verified again before the end, and stays
/// exempt while a name server is away.
const TRUSTED: Span = Span::from_secs(25 * 3600);
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

/// What became of a question.
#[derive(Debug, Clone)]
pub enum Asked {
    /// It waits for its lookup.
    Queued,
    /// It waits in place of another one, which gets no answer.
    InPlaceOf(Question),
    /// Too many wait.
    Full,
}

/// Takes a question without blocking.
type Asker = Box<dyn Fn(Question) -> Asked + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The crawler's networks decide.
    Listed,
    Asked {
        /// Until when its ordinary behaviour does not count meanwhile.
        spared_until: Time,
        /// Until when an earlier lookup verifies it.
        verified_until: Option<Time>,
    },
    Found {
        finding: Finding,
        /// Until when it holds, if it verifies the address.
        until: Time,
        /// From when on the address is looked up again.
        ask_from: Time,
    },
}

impl State {
    fn found(finding: Finding, now: Time) -> Self {
        let (until, ask_after) = match finding {
            Finding::Verified => (now.after(TRUSTED), VERIFIED),
            Finding::Refuted => (now, REFUTED),
            Finding::Unknown => (now, UNKNOWN),
        };
        Self::Found { finding, until, ask_from: now.after(ask_after) }
    }

    /// Until when an earlier lookup verifies the address.
    fn verified_until(self) -> Option<Time> {
        match self {
            Self::Found { finding: Finding::Verified, until, .. } => Some(until),
            Self::Asked { verified_until, .. } => verified_until,
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Claim {
    crawler: Arc<str>,
    state: State,
}

/// What is known of all addresses of a client together. Without it, whoever has a /64 would be spared at each address anew.
#[derive(Debug, Clone, Copy)]
struct Claimant {
    /// Until when its addresses are spared that nothing is known of.
    spared_until: Time,
    /// Until when one of its addresses is verified. Then the others are spared as well while they are looked up.
    verified_until: Time,
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
    known: Mutex<Known>,
    asker: OnceLock<Asker>,
}

struct Known {
    addresses: LruCache<IpAddr, Claim, RandomState>,
    clients: LruCache<Client, Claimant, RandomState>,
}

impl Default for Claims {
    fn default() -> Self {
        let hasher = RandomState::new();
        let (addresses, clients) = (LruCache::with_hasher(MAX_CLAIMS, hasher.clone()), LruCache::with_hasher(MAX_CLAIMS, hasher));
        Self { any: AtomicBool::new(false), known: Mutex::new(Known { addresses, clients }), asker: OnceLock::new() }
    }
}

/// Whose patience an address uses up: a /64 is one client here, whatever the configuration says.
fn claimant(address: IpAddr) -> Client {
    Client::of(address, Ipv6Prefix::default())
}

impl Known {
    /// Until when an address that nothing is known of is spared while it is looked up.
    fn spared_until(&mut self, now: Time, address: IpAddr) -> Time {
        let new = || Claimant { spared_until: now.after(PATIENCE), verified_until: Time::default() };
        let claimant = self.clients.get_or_insert(claimant(address), new);
        if now < claimant.verified_until { now.after(PATIENCE) } else { claimant.spared_until }
    }

    fn settle(&mut self, now: Time, question: &Question, finding: Finding) {
        let Some(claim) = self.addresses.peek_mut(&question.address).filter(|claim| claim.crawler == question.crawler.name) else { return };
        let verified_until = claim.state.verified_until().filter(|until| now < *until);
        claim.state = match (finding, verified_until) {
            // A name server that is away disproves nothing.
            (Finding::Unknown, Some(until)) => State::Found { finding: Finding::Verified, until, ask_from: now.after(UNKNOWN) },
            _ => State::found(finding, now),
        };
        if finding == Finding::Verified
            && let Some(claimant) = self.clients.peek_mut(&claimant(question.address))
        {
            claimant.verified_until = now.after(TRUSTED);
        }
    }
}

impl Claims {
    /// Has addresses looked up by `asker` from now on. Without one, only published networks verify an address. Only the first call has an effect.
    pub fn ask_by(&self, asker: impl Fn(Question) -> Asked + Send + Sync + 'static) {
        let _ = self.asker.set(Box::new(asker));
    }

    /// Notes that `address` says it is `crawler`, and has that looked up unless it is known.
    pub fn note(&self, now: Time, address: IpAddr, crawler: &Arc<Crawler>) {
        self.any.store(true, Ordering::Relaxed);
        let mut known = self.known.lock();
        let earlier = known.addresses.get(&address).map(|claim| claim.state);
        let (is_new, verified_until) = match earlier {
            None => (true, None),
            Some(State::Listed) => (!crawler.lists(address), None),
            Some(state @ State::Found { ask_from, .. }) if ask_from <= now => (false, state.verified_until()),
            Some(State::Found { .. } | State::Asked { .. }) => return,
        };
        let state = if crawler.lists(address) {
            State::Listed
        } else if crawler.domains.is_empty() {
            State::found(Finding::Refuted, now)
        } else {
            let Some(ask) = self.asker.get() else { return };
            // Under the lock, so that the answer cannot come first.
            match ask(Question { address, crawler: Arc::clone(crawler) }) {
                Asked::Full => return,
                Asked::Queued => {}
                Asked::InPlaceOf(other) => known.settle(now, &other, Finding::Unknown),
            }
            let spared_until = match verified_until {
                // It was verified once, so it is worth a moment.
                Some(_) => now.after(PATIENCE),
                // Otherwise an address could be spared again and again while the name server is slow.
                None if !is_new => now,
                None => known.spared_until(now, address),
            };
            State::Asked { spared_until, verified_until }
        };
        known.addresses.put(address, Claim { crawler: Arc::clone(&crawler.name), state });
    }

    /// Takes the answer to a question.
    pub fn answer(&self, now: Time, question: &Question, finding: Finding) {
        self.known.lock().settle(now, question, finding);
    }

    /// Whether the ordinary behaviour of `address` does not count at `now`: it is a crawler's, or may be and is being looked up.
    #[must_use]
    pub fn exempts(&self, now: Time, address: IpAddr, crawlers: &Crawlers) -> bool {
        if crawlers.is_empty() || !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let known = self.known.lock();
        let Some(claim) = known.addresses.peek(&address) else { return false };
        let Some(crawler) = crawlers.by_name(&claim.crawler) else { return false };
        let is_spared = matches!(claim.state, State::Asked { spared_until, .. } if now < spared_until);
        crawler.lists(address) || is_spared || claim.state.verified_until().is_some_and(|until| now < until)
    }

    /// How many addresses that say they are `crawler` are in which state.
    #[must_use]
    pub fn counts(&self, crawler: &Crawler) -> ClaimCounts {
        let mut counts = ClaimCounts::default();
        for (_, claim) in self.known.lock().addresses.iter().filter(|(_, claim)| claim.crawler == crawler.name) {
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
            if taken.len() >= room {
                return Asked::Full;
            }
            taken.push(question);
            Asked::Queued
        });
        (claims, asked)
    }

    #[test]
    fn a_claim_is_spared_for_a_moment_and_then_judged_by_what_was_found() {
        let crawlers = crawlers();
        let google = crawlers.by_name("googlebot").unwrap();
        let address = ip("192.0.2.7");
        for (finding, spared, seconds) in
            [(Finding::Verified, true, 23 * 3600), (Finding::Refuted, false, 3600), (Finding::Unknown, false, 300)]
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
            claims.note(after(seconds), address, google);
            assert_eq!(asked.lock().len(), 2);
            assert_eq!(claims.exempts(after(seconds), address, &crawlers), spared, "only the first lookup is waited for");
        }
    }

    #[test]
    fn a_verified_crawler_is_asked_about_again_before_the_end_and_exempt_until_the_answer() {
        let crawlers = crawlers();
        let google = crawlers.by_name("googlebot").unwrap();
        let (claims, asked) = claims(9);
        let address = ip("192.0.2.7");
        claims.note(NOW, address, google);
        let question = asked.lock()[0].clone();
        claims.answer(NOW, &question, Finding::Verified);
        let hour = |hours: u64| after(hours * 3600);
        claims.note(hour(23), address, google);
        assert_eq!(asked.lock().len(), 2);
        assert!(claims.exempts(hour(24), address, &crawlers), "the answer is slow");
        claims.answer(hour(24), &question, Finding::Unknown);
        assert!(claims.exempts(hour(24), address, &crawlers), "a name server that is away disproves nothing");
        claims.note(after(24 * 3600 + 300), address, google);
        assert_eq!(asked.lock().len(), 3, "it is asked again soon");
        assert!(!claims.exempts(hour(25), address, &crawlers), "but not believed for ever");
        claims.answer(hour(25), &question, Finding::Unknown);
        assert!(!claims.exempts(hour(25), address, &crawlers));
        claims.note(hour(26), address, google);
        claims.answer(hour(26), &question, Finding::Verified);
        claims.note(hour(49), address, google);
        claims.answer(hour(49), &question, Finding::Refuted);
        assert!(!claims.exempts(hour(49), address, &crawlers), "a wrong name ends it at once");
    }

    #[test]
    fn a_crawler_that_comes_after_the_end_is_spared_while_it_is_looked_up() {
        let crawlers = crawlers();
        let google = crawlers.by_name("googlebot").unwrap();
        let (claims, asked) = claims(9);
        claims.note(NOW, ip("192.0.2.7"), google);
        let question = asked.lock()[0].clone();
        claims.answer(NOW, &question, Finding::Verified);
        let late = 30 * 3600;
        claims.note(after(late), ip("192.0.2.7"), google);
        assert!(
            claims.exempts(after(late + 9), ip("192.0.2.7"), &crawlers) && !claims.exempts(after(late + 10), ip("192.0.2.7"), &crawlers)
        );
    }

    #[test]
    fn the_addresses_of_one_network_share_the_moment_unless_one_of_them_is_verified() {
        let crawlers = crawlers();
        let google = crawlers.by_name("googlebot").unwrap();
        let (claims, asked) = claims(99);
        claims.note(NOW, ip("2001:db8::1"), google);
        claims.note(after(9), ip("2001:db8::2"), google);
        assert!(claims.exempts(after(9), ip("2001:db8::2"), &crawlers));
        claims.note(after(10), ip("2001:db8::3"), google);
        assert!(!["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(ip).iter().any(|address| claims.exempts(
            after(10),
            *address,
            &crawlers
        )));
        claims.note(after(10), ip("2001:db8:0:1::1"), google);
        assert!(claims.exempts(after(10), ip("2001:db8:0:1::1"), &crawlers), "another client");
        let question = asked.lock()[0].clone();
        claims.answer(after(11), &question, Finding::Verified);
        claims.note(after(100), ip("2001:db8::4"), google);
        assert!(claims.exempts(after(109), ip("2001:db8::4"), &crawlers) && !claims.exempts(after(110), ip("2001:db8::4"), &crawlers));
    }

    #[test]
    fn a_question_that_made_room_for_another_is_asked_again_later() {
        let crawlers = crawlers();
        let google = crawlers.by_name("googlebot").unwrap();
        let claims = Claims::default();
        let last = Mutex::new(None::<Question>);
        claims.ask_by(move |question| last.lock().replace(question).map_or(Asked::Queued, Asked::InPlaceOf));
        claims.note(NOW, ip("192.0.2.7"), google);
        claims.note(NOW, ip("192.0.2.8"), google);
        assert!(!claims.exempts(NOW, ip("192.0.2.7"), &crawlers) && claims.exempts(NOW, ip("192.0.2.8"), &crawlers));
        assert_eq!(claims.counts(google), ClaimCounts { asked: 1, unknown: 1, ..ClaimCounts::default() });
        claims.note(after(300), ip("192.0.2.7"), google);
        assert_eq!(claims.counts(google), ClaimCounts { asked: 1, unknown: 1, ..ClaimCounts::default() });
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
