//! Bans: who is refused, on which surface, until when, under which rule. One lookup answers a query.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ahash::RandomState;
use dashmap::{DashMap, Entry};

use super::sieve::Sieve;
use crate::client::Client;
use crate::event::{Scope, Surface};
use crate::rule::RuleId;
use crate::time::{Span, Time};

/// When a ban ends: a second of table time, or never.
///
/// The later end is the greater one, and "never" the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Until(u32);

impl Until {
    /// A permanent ban.
    pub const NEVER: Self = Self(u32::MAX);

    /// The whole second at or after `time`: a ban lasts at least as long as its `bantime`.
    #[must_use]
    pub fn at(time: Time) -> Self {
        Self(u32::try_from(time.millis().div_ceil(1000)).unwrap_or(u32::MAX - 1).min(u32::MAX - 1))
    }

    /// The second since the Unix epoch, or `None` for never.
    #[must_use]
    pub fn time(self) -> Option<Time> {
        (self != Self::NEVER).then(|| Time::from_secs(u64::from(self.0)))
    }

    /// Whether the end has come.
    #[must_use]
    pub fn is_over(self, now: Time) -> bool {
        self.time().is_some_and(|end| end <= now)
    }

    /// How long the ban still lasts, or `None` for ever.
    #[must_use]
    pub fn remaining(self, now: Time) -> Option<Span> {
        self.time().map(|end| end.since(now))
    }
}

impl fmt::Display for Until {
    /// The epoch second; `-1` for a permanent ban, as fail2ban writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.time() {
            Some(time) => write!(f, "{}", time.secs()),
            None => f.write_str("-1"),
        }
    }
}

/// One client's ban on one surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// When it ends.
    pub until: Until,
    /// The rule that it was made under.
    pub rule: RuleId,
    /// Whether the state file has it (true where there is no state file).
    pub saved: bool,
}

/// A client's bans on both surfaces: sixteen bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sentence {
    web: Slot,
    mail: Slot,
}

/// A ban packed: the top bit of `rule` says unsaved; `until` 0 is no ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Slot {
    until: u32,
    rule: u32,
}

const UNSAVED: u32 = 1 << 31;

impl Slot {
    fn new(ban: Ban) -> Self {
        Self { until: ban.until.0, rule: ban.rule.number() | if ban.saved { 0 } else { UNSAVED } }
    }

    fn ban(self) -> Option<Ban> {
        (self.until != 0).then(|| Ban {
            until: Until(self.until),
            rule: RuleId::from_number(self.rule & !UNSAVED),
            saved: self.rule & UNSAVED == 0,
        })
    }

    fn standing(self, now: Time) -> Option<Ban> {
        self.ban().filter(|ban| !ban.until.is_over(now))
    }

    /// Whether capacity may push it out: neither made by hand nor permanent.
    fn can_fall(self) -> bool {
        self.until != u32::MAX && self.ban().is_none_or(|ban| ban.rule != RuleId::MANUAL)
    }
}

impl Sentence {
    fn slot(&self, surface: Surface) -> Slot {
        match surface {
            Surface::Web => self.web,
            Surface::Mail => self.mail,
        }
    }

    fn slot_mut(&mut self, surface: Surface) -> &mut Slot {
        match surface {
            Surface::Web => &mut self.web,
            Surface::Mail => &mut self.mail,
        }
    }

    /// The second at which the last of its bans ends; `None` if it must not fall.
    fn falls_at(&self) -> Option<u32> {
        (self.web.can_fall() && self.mail.can_fall()).then_some(self.web.until.max(self.mail.until))
    }
}

/// The bans in force: one concurrent map from client to bans.
pub struct Bans {
    map: DashMap<Client, Sentence, RandomState>,
    /// Who is certainly not in the map.
    sieve: Sieve,
    /// How many clients are in the map: asking the map itself locks each of its shards.
    len: AtomicUsize,
    capacity: usize,
    /// The bans that end soonest, found by one scan and used up one by one while the map stays full. A hint: the map decides.
    soonest: Mutex<Soonest>,
    evicted: AtomicU64,
    /// When [`Bans::sweep`] last looked through the map, in milliseconds.
    swept: AtomicU64,
}

/// Up to so many bans the part of the sieve that is always in the innermost cache decides nearly everything, if there were no more ever.
const SIEVED_NEAR: usize = 10_000;

/// A scan locks one shard after the other: with a million bans each for a tenth of a millisecond, which is what a lookup may have to wait.
const SHARDS: usize = 256;

/// So many bans are looked at in a millisecond of time that passes, on average: about half a percent of one core.
const SWEPT_PER_MILLISECOND: usize = 100;

/// A map in which nothing may fall is not looked through again for so long.
const NONE_FALLS: Span = Span::from_millis(1000);

/// How many candidates one scan of a full map collects: a scan of a million costs little when it serves this many evictions.
const CANDIDATES: usize = 4096;

impl Bans {
    /// Room for `capacity` clients (at least one) that rules banned; bans by hand and permanent ones never fall.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            map: DashMap::with_hasher_and_shard_amount(RandomState::new(), SHARDS),
            sieve: Sieve::new(capacity),
            len: AtomicUsize::new(0),
            capacity: capacity.max(1),
            soonest: Mutex::default(),
            evicted: AtomicU64::new(0),
            swept: AtomicU64::new(0),
        }
    }

    /// The ban of `client` that stands on `surface` at `now`.
    #[must_use]
    pub fn get(&self, client: Client, surface: Surface, now: Time) -> Option<Ban> {
        if self.is_empty() || !self.sieve.may_hold(self.map.hasher().hash_one(client)) {
            return None;
        }
        self.map.get(&client)?.slot(surface).standing(now)
    }

    /// Looks at what asking about each of `clients` will look at first. Of what is found nothing is used: it is in the caches then.
    ///
    /// Among many bans each question is a wait for memory. These waits are over together, those of one question after the other are not.
    pub fn look_ahead(&self, clients: impl Iterator<Item = Client>) {
        if self.len() > SIEVED_NEAR {
            let hashes: Vec<u64> = clients.map(|client| self.map.hasher().hash_one(client)).collect();
            black_box(hashes.into_iter().filter(|hash| self.sieve.may_hold(*hash)).count());
        }
    }

    /// Bans `client` on every surface of `scope`, and says whether that changed anything: a ban that ends later stays as it is.
    pub fn ban(&self, client: Client, scope: Scope, ban: Ban, now: Time) -> bool {
        let mut changed = false;
        // Before it is in the map: nobody must find it there and not here.
        self.sieve.add(self.map.hasher().hash_one(client));
        let is_too_many = match self.map.entry(client) {
            Entry::Occupied(mut entry) => {
                for surface in scope.surfaces() {
                    let slot = entry.get_mut().slot_mut(*surface);
                    if slot.standing(now).is_none_or(|standing| standing.until < ban.until) {
                        *slot = Slot::new(ban);
                        changed = true;
                    }
                }
                false
            }
            Entry::Vacant(entry) => {
                let mut sentence = Sentence { web: Slot::default(), mail: Slot::default() };
                for surface in scope.surfaces() {
                    *sentence.slot_mut(*surface) = Slot::new(ban);
                    changed = true;
                }
                // Counted before anybody can remove it.
                let others = self.len.fetch_add(1, Ordering::Relaxed);
                entry.insert(sentence);
                others >= self.capacity
            }
        };
        if is_too_many {
            self.evict(now, client, ban);
        }
        changed
    }

    /// Notes that the state file has the bans of `client`.
    pub fn mark_saved(&self, client: Client, until: Until) {
        if let Some(mut sentence) = self.map.get_mut(&client) {
            let sentence = sentence.value_mut();
            for slot in [&mut sentence.web, &mut sentence.mail] {
                if slot.until == until.0 {
                    slot.rule &= !UNSAVED;
                }
            }
        }
    }

    /// Notes that the state file has no bans of `client` on the surfaces of `scope`, because it was just told to forget them: one that
    /// stands here is newer, although its end may be that of one which was saved.
    pub fn mark_unsaved(&self, client: Client, scope: Scope) {
        if let Some(mut sentence) = self.map.get_mut(&client) {
            for surface in scope.surfaces() {
                sentence.value_mut().slot_mut(*surface).rule |= UNSAVED;
            }
        }
    }

    /// Lifts the bans of `client` on every surface of `scope`, and says whether there was one.
    pub fn unban(&self, client: Client, scope: Scope) -> bool {
        let mut found = false;
        if let Entry::Occupied(mut entry) = self.map.entry(client) {
            for surface in scope.surfaces() {
                let slot = entry.get_mut().slot_mut(*surface);
                found |= slot.until != 0;
                *slot = Slot::default();
            }
            if entry.get().web.until == 0 && entry.get().mail.until == 0 {
                entry.remove();
                self.len.fetch_sub(1, Ordering::Relaxed);
            }
        }
        found
    }

    /// [`Bans::expire`], but not so often that looking through a large table costs anything to speak of: a million bans once in ten
    /// seconds, a hundred thousand each second. No ban stands longer for it: only its end is told later.
    pub fn sweep(&self, now: Time, ended: impl FnMut(Client, RuleId)) {
        let last = Time::from_millis(self.swept.load(Ordering::Relaxed));
        let pause = Span::from_millis((self.len() / SWEPT_PER_MILLISECOND) as u64);
        if last > now || last.after(pause) <= now {
            self.swept.store(now.millis(), Ordering::Relaxed);
            self.expire(now, ended);
        }
    }

    /// Drops the bans that have ended and calls `ended` with each client that is free again.
    pub fn expire(&self, now: Time, mut ended: impl FnMut(Client, RuleId)) {
        self.map.retain(|client, sentence| {
            let last = if sentence.web.until >= sentence.mail.until { sentence.web } else { sentence.mail };
            let stands = sentence.web.standing(now).is_some() || sentence.mail.standing(now).is_some();
            if !stands && let Some(ban) = last.ban() {
                ended(*client, ban.rule);
            }
            if !stands {
                self.len.fetch_sub(1, Ordering::Relaxed);
            }
            stands
        });
    }

    /// Calls `visit` with every standing ban, each surface for itself. `visit` must not touch this table.
    pub fn for_each(&self, now: Time, mut visit: impl FnMut(Client, Surface, Ban)) {
        for entry in &self.map {
            for surface in Surface::ALL {
                if let Some(ban) = entry.value().slot(surface).standing(now) {
                    visit(*entry.key(), surface, ban);
                }
            }
        }
    }

    /// How many clients are in the map, those whose ban has just ended included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether nobody is banned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bans fell before their end because the map was full.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Makes room for the newcomer: the ban that ends soonest falls, which may be the newcomer's own. Where none may fall, the newcomer's
    /// does, unless it was made by hand: a rule that bans for ever must not make the table grow for ever.
    fn evict(&self, now: Time, newcomer: Client, ban: Ban) {
        let mut soonest = self.soonest.lock().unwrap_or_else(PoisonError::into_inner);
        if ban.until.0 <= soonest.horizon {
            soonest.heap.push(Reverse((ban.until.0, newcomer)));
        }
        let scanned = soonest.none_before.is_some_and(|again| now < again && again.since(now) <= NONE_FALLS);
        for fresh in [false, true] {
            if fresh && scanned {
                break;
            }
            if fresh {
                *soonest = self.scan();
            }
            while let Some(Reverse((until, client))) = soonest.heap.pop() {
                // What changed since the scan is no candidate any more.
                if self.map.remove_if(&client, |_, sentence| sentence.falls_at() == Some(until)).is_some() {
                    self.len.fetch_sub(1, Ordering::Relaxed);
                    if !Until(until).is_over(now) {
                        self.evicted.fetch_add(1, Ordering::Relaxed);
                    }
                    return;
                }
            }
            soonest.horizon = 0;
        }
        if !scanned {
            soonest.none_before = Some(now.after(NONE_FALLS));
        }
        drop(soonest);
        if ban.rule != RuleId::MANUAL && self.map.remove(&newcomer).is_some() {
            self.len.fetch_sub(1, Ordering::Relaxed);
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The [`CANDIDATES`] bans that end soonest.
    fn scan(&self) -> Soonest {
        let mut latest_first = BinaryHeap::with_capacity(CANDIDATES + 1);
        for entry in &self.map {
            if let Some(until) = entry.value().falls_at() {
                latest_first.push((until, *entry.key()));
                if latest_first.len() > CANDIDATES {
                    latest_first.pop();
                }
            }
        }
        let horizon = latest_first.peek().map_or(0, |(until, _)| *until);
        Soonest { horizon, heap: latest_first.into_iter().map(Reverse).collect(), none_before: None }
    }
}

/// The bans that end soonest, as one scan found them. Every ban that ends before `horizon` is in it.
#[derive(Default)]
struct Soonest {
    horizon: u32,
    heap: BinaryHeap<Reverse<(u32, Client)>>,
    /// The last scan found nothing that may fall: until then the next one is not worth its time.
    none_before: Option<Time>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Names;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn client(number: u32) -> Client {
        Client::from(Ipv4Addr::from(number))
    }

    fn at(seconds: u64) -> Time {
        Time::from_secs(1_800_000_000 + seconds)
    }

    fn ban(seconds: u64) -> Ban {
        Ban { until: Until::at(at(seconds)), rule: Names::default().intern("rule"), saved: true }
    }

    #[test]
    fn a_ban_stands_until_its_end_and_no_longer() {
        let bans = Bans::new(10);
        bans.ban(client(1), Scope::All, ban(60), at(0));
        assert!(bans.get(client(1), Surface::Web, at(59)).is_some());
        assert!(bans.get(client(1), Surface::Web, at(60)).is_none());
    }

    #[test]
    fn a_ban_refuses_only_on_the_surfaces_of_its_scope() {
        let bans = Bans::new(10);
        bans.ban(client(1), Scope::Web, ban(60), at(0));
        bans.ban(client(2), Scope::Mail, ban(60), at(0));
        assert!(bans.get(client(1), Surface::Web, at(1)).is_some() && bans.get(client(1), Surface::Mail, at(1)).is_none());
        assert!(bans.get(client(2), Surface::Web, at(1)).is_none() && bans.get(client(2), Surface::Mail, at(1)).is_some());
    }

    #[test]
    fn a_shorter_ban_never_replaces_a_longer_one() {
        let bans = Bans::new(10);
        assert!(bans.ban(client(1), Scope::Web, ban(600), at(0)));
        assert!(!bans.ban(client(1), Scope::Web, ban(60), at(1)));
        assert!(bans.ban(client(1), Scope::All, ban(60), at(1)), "mail was free");
        assert_eq!(bans.get(client(1), Surface::Web, at(2)).map(|ban| ban.until), Some(Until::at(at(600))));
        assert_eq!(bans.get(client(1), Surface::Mail, at(2)).map(|ban| ban.until), Some(Until::at(at(60))));
    }

    #[test]
    fn a_permanent_ban_never_ends() {
        let bans = Bans::new(10);
        bans.ban(client(1), Scope::All, Ban { until: Until::NEVER, ..ban(0) }, at(0));
        assert!(bans.get(client(1), Surface::Web, Time::from_millis(u64::MAX)).is_some());
        assert_eq!(Until::NEVER.to_string(), "-1");
    }

    #[test]
    fn an_unban_lifts_what_its_scope_names() {
        let bans = Bans::new(10);
        bans.ban(client(1), Scope::All, ban(60), at(0));
        assert!(bans.unban(client(1), Scope::Web));
        assert!(bans.get(client(1), Surface::Mail, at(1)).is_some());
        assert!(bans.unban(client(1), Scope::All));
        assert!(!bans.unban(client(1), Scope::All));
        assert!(bans.is_empty());
    }

    #[test]
    fn when_full_the_ban_that_ends_soonest_falls_and_never_one_by_hand_or_for_ever() {
        let bans = Bans::new(4);
        bans.ban(client(1), Scope::All, Ban { until: Until::NEVER, ..ban(0) }, at(0));
        bans.ban(client(2), Scope::All, Ban { rule: RuleId::MANUAL, ..ban(1) }, at(0));
        for (number, end) in [(3, 300), (4, 100), (5, 200), (6, 400)] {
            bans.ban(client(number), Scope::All, ban(end), at(0));
        }
        let standing: Vec<bool> = (1..=6).map(|number| bans.get(client(number), Surface::Web, at(0)).is_some()).collect();
        assert_eq!(standing, [true, true, true, false, false, true]);
        assert_eq!((bans.len(), bans.evicted()), (4, 2));
    }

    #[test]
    fn a_flood_of_bans_never_exceeds_the_capacity() {
        let bans = Bans::new(100);
        for number in 0..20_000_u32 {
            bans.ban(client(number), Scope::All, ban(u64::from(number * 7919 % 1000) + 1), at(0));
            assert!(bans.len() <= 100);
        }
    }

    #[test]
    fn a_rule_that_bans_for_ever_never_exceeds_the_capacity_and_a_ban_by_hand_always_finds_room() {
        let bans = Bans::new(100);
        let for_ever = Ban { until: Until::NEVER, ..ban(0) };
        for number in 0..1000 {
            bans.ban(client(number), Scope::All, for_ever, at(u64::from(number / 100)));
            assert!(bans.len() <= 100);
        }
        assert!((0..100).all(|number| bans.get(client(number), Surface::Web, at(10)).is_some()));
        assert_eq!(bans.evicted(), 900);
        bans.ban(client(2000), Scope::All, Ban { rule: RuleId::MANUAL, ..for_ever }, at(10));
        bans.ban(client(2001), Scope::All, ban(60), at(10));
        let stands = |number| bans.get(client(number), Surface::Web, at(10)).is_some();
        assert!(stands(2000) && !stands(2001));
        bans.unban(client(0), Scope::All);
        bans.unban(client(1), Scope::All);
        bans.ban(client(2002), Scope::All, ban(60), at(10));
        bans.ban(client(2003), Scope::All, ban(90), at(12));
        assert!(bans.get(client(2003), Surface::Web, at(12)).is_some(), "what may fall is found again");
        assert_eq!(bans.len(), 100);
    }

    #[test]
    fn ended_bans_are_dropped_and_told() {
        let bans = Bans::new(10);
        bans.ban(client(1), Scope::Web, ban(10), at(0));
        bans.ban(client(2), Scope::All, ban(90), at(0));
        let mut ended = Vec::new();
        bans.expire(at(10), |client, _| ended.push(client));
        assert_eq!(ended, [client(1)]);
        assert_eq!(bans.len(), 1);
    }

    #[test]
    fn a_large_table_is_swept_seldom_and_its_bans_end_in_time_all_the_same() {
        let bans = Bans::new(10_000);
        for number in 0..1000 {
            bans.ban(client(number), Scope::All, ban(u64::from(number / 500)), at(0));
        }
        let millis = |millis| Time::from_millis(at(0).millis() + millis);
        let mut ended = 0;
        bans.sweep(millis(0), |_, _| ended += 1);
        assert_eq!((ended, bans.len()), (500, 500), "those of no length at all");
        bans.sweep(millis(4), |_, _| ended += 1);
        bans.sweep(millis(1001), |_, _| ended += 1);
        assert_eq!((ended, bans.len()), (1000, 0));
        for number in 0..1000 {
            bans.ban(client(number), Scope::All, ban(2), millis(1001));
        }
        bans.sweep(millis(1999), |_, _| ended += 1);
        bans.sweep(millis(2001), |_, _| ended += 1);
        assert!(bans.get(client(7), Surface::Web, millis(2001)).is_none());
        assert_eq!(ended, 1000, "a thousand bans are looked at again after ten milliseconds");
        bans.sweep(millis(2009), |_, _| ended += 1);
        assert_eq!(ended, 2000);
    }

    proptest! {
        #[test]
        fn the_number_of_bans_is_that_of_the_map(
            steps in proptest::collection::vec((0_u32..12, 0_u8..4, 1_u64..30, 0_u64..10), 1..150),
        ) {
            let bans = Bans::new(6);
            let mut now = 0;
            for (number, action, length, gap) in steps {
                now += gap;
                match action {
                    0 | 1 => {
                        bans.ban(client(number), Scope::All, ban(now + length), at(now));
                    }
                    2 => {
                        bans.unban(client(number), if length % 2 == 0 { Scope::Web } else { Scope::All });
                    }
                    _ => bans.expire(at(now), |_, _| ()),
                }
                prop_assert_eq!(bans.len(), bans.map.len());
                for number in 0..12 {
                    let in_map = bans.map.get(&client(number)).and_then(|sentence| sentence.slot(Surface::Web).standing(at(now)));
                    prop_assert_eq!(bans.get(client(number), Surface::Web, at(now)), in_map);
                }
                prop_assert!(bans.len() <= 6);
            }
        }
    }

    #[test]
    fn an_unsaved_ban_is_marked_when_it_is_saved() {
        let bans = Bans::new(10);
        bans.ban(client(1), Scope::All, Ban { saved: false, ..ban(60) }, at(0));
        assert_eq!(bans.get(client(1), Surface::Web, at(1)).map(|ban| ban.saved), Some(false));
        bans.mark_saved(client(1), Until::at(at(60)));
        assert_eq!(bans.get(client(1), Surface::Mail, at(1)).map(|ban| ban.saved), Some(true));
    }

    #[test]
    fn a_ban_is_unsaved_again_when_the_file_was_told_to_forget_its_client() {
        let bans = Bans::new(10);
        bans.ban(client(1), Scope::All, ban(60), at(0));
        bans.mark_unsaved(client(1), Scope::Mail);
        assert_eq!(bans.get(client(1), Surface::Mail, at(1)).map(|ban| ban.saved), Some(false));
        assert_eq!(bans.get(client(1), Surface::Web, at(1)).map(|ban| ban.saved), Some(true));
        bans.mark_unsaved(client(2), Scope::All);
        assert_eq!(bans.len(), 1);
    }
}
