//! The engine: rules, lists, table and keeper of one process, joined. It turns offences into strikes, strikes into bans, and answers.

pub mod change;
pub mod durable;
mod order;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use lru::LruCache;

use crate::budget::Budget;
use crate::client::{Client, Ipv6Prefix};
use crate::conduct::Deed;
use crate::config::{Config, OnFailure};
use crate::detector::Detector;
use crate::event::{Scope, Surface};
use crate::list::Lists;
use crate::reply::{Deadlines, Reply};
use crate::rule::{Evidence, Mode, Names, Offence, Rule, RuleId, RuleSet, Trigger};
use crate::table::{Ban, Bans, Counter, Rate, Strikes, Tallied, Until};
use crate::time::Time;
use crate::verdict::{Grounds, Innocence, Refusal, Verdict};
pub use change::{BanRecord, Change, Done, Keeper, Kept};
use order::Order;

/// What is in force: swapped whole on a reload, held for one read's worth of events.
#[derive(Debug)]
pub struct InForce {
    /// The rules.
    pub rules: Arc<RuleSet>,
    /// The never-ban and deny lists.
    pub lists: Lists,
    /// How IPv6 addresses are cut.
    pub prefix: Ipv6Prefix,
    /// What is answered when the table cannot be asked.
    pub on_failure: OnFailure,
    /// A rule of whose bans a greater share hits clients that look good is warned about.
    pub false_ban_share: f64,
}

impl InForce {
    /// A detector that looks at these rules and lists, and at `bans`.
    #[must_use]
    pub fn detector<'a>(&'a self, bans: &'a Bans) -> Detector<'a> {
        Detector { rules: &self.rules, lists: &self.lists, bans, prefix: self.prefix }
    }
}

impl From<Config> for InForce {
    fn from(config: Config) -> Self {
        Self {
            rules: Arc::new(config.rules),
            lists: config.lists,
            prefix: config.table.ipv6_prefix,
            on_failure: config.table.on_failure,
            false_ban_share: config.false_ban_share,
        }
    }
}

/// How many bans of rules in shadow mode are remembered, and how many stories when no state file keeps them.
const SHADOWS: usize = 100_000;
const STORIES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Somebody who is told of changes.
type Observer = Box<dyn Fn(&Change) + Send + Sync>;

/// One process's table with everything that belongs to it.
pub struct Engine {
    names: Arc<Names>,
    in_force: RwLock<Arc<InForce>>,
    bans: Bans,
    /// Held from a change of the bans until keeper or observers have it.
    order: Order,
    strikes: Strikes,
    /// Bans that rules in shadow mode would have made.
    shadows: Bans,
    /// How often a client was banned under a rule whose bantime grows.
    history: Mutex<LruCache<(Client, RuleId), Earlier, ahash::RandomState>>,
    /// The stories of the latest bans.
    stories: Mutex<LruCache<Client, BanRecord, ahash::RandomState>>,
    keeper: OnceLock<Box<dyn Keeper>>,
    deadlines: Deadlines,
    observers: RwLock<Vec<Observer>>,
    strike_observer: OnceLock<StrikeObserver>,
    tallies: Tallies,
    budget: Budget,
}

/// Somebody who is told of strikes under rules that count over a fleet.
type StrikeObserver = Box<dyn Fn(&Offence, &Arc<Rule>, u32, Time) + Send + Sync>;

/// Bans of one client under one rule so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    /// How many.
    pub times: u32,
    /// When the last one began.
    pub last: Time,
}

/// Numbers for `status` and metrics.
#[derive(Debug, Default)]
pub struct Tallies {
    /// Offences counted.
    pub offences: AtomicU64,
    /// Bans made.
    pub bans: AtomicU64,
    /// Bans that rules in shadow mode would have made.
    pub shadow_bans: AtomicU64,
    /// Answers that left before their ban was saved.
    pub unsaved_answers: AtomicU64,
}

/// What counting an offence came to.
#[derive(Debug)]
pub struct Outcome {
    /// The answer to the offending event itself.
    pub verdict: Verdict,
    /// The bans that it made.
    pub banned: Vec<BanRecord>,
    /// The bans that rules in shadow mode would have made.
    pub shadowed: Vec<BanRecord>,
}

impl Engine {
    /// An engine with an empty table.
    ///
    /// # Errors
    /// The thread that answers late replies could not be started.
    pub fn new(names: Arc<Names>, in_force: InForce, clients: usize, bans: usize) -> std::io::Result<Self> {
        Ok(Self {
            names,
            in_force: RwLock::new(Arc::new(in_force)),
            bans: Bans::new(bans),
            order: Order::default(),
            strikes: Strikes::new(clients),
            shadows: Bans::new(SHADOWS),
            history: Mutex::new(LruCache::with_hasher(NonZeroUsize::new(bans).unwrap_or(NonZeroUsize::MIN), ahash::RandomState::new())),
            stories: Mutex::new(LruCache::with_hasher(STORIES, ahash::RandomState::new())),
            keeper: OnceLock::new(),
            deadlines: Deadlines::start()?,
            observers: RwLock::default(),
            strike_observer: OnceLock::new(),
            tallies: Tallies::default(),
            budget: Budget::default(),
        })
    }

    /// The names of all rules.
    #[must_use]
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// What is in force now.
    #[must_use]
    pub fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is in force. Strikes and bans stay, and so do the lists that no configuration holds: own addresses, banned networks.
    pub fn put_in_force(&self, mut in_force: InForce) {
        let mut current = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        in_force.lists.set_own(current.lists.own().clone());
        in_force.lists.banned = current.lists.banned.clone();
        *current = Arc::new(in_force);
    }

    /// The bans.
    #[must_use]
    pub fn bans(&self) -> &Bans {
        &self.bans
    }

    /// The bans that rules in shadow mode would have made.
    #[must_use]
    pub fn shadows(&self) -> &Bans {
        &self.shadows
    }

    /// The strikes.
    #[must_use]
    pub fn strikes(&self) -> &Strikes {
        &self.strikes
    }

    /// The numbers so far.
    #[must_use]
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// From now on `keeper` keeps every change. The first one stays.
    pub fn keep_with(&self, keeper: Box<dyn Keeper>) {
        let _ = self.keeper.set(keeper);
    }

    /// Whom rules banned lately, and which of these clients look good.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Calls `observer` with every change from now on, once it is kept. It must neither block nor change the table.
    pub fn observe(&self, observer: impl Fn(&Change) + Send + Sync + 'static) {
        self.observers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(observer));
    }

    /// Calls `observer` with every strike under a rule that counts over a fleet, unless it bans here already. The first one stays.
    pub fn observe_strikes(&self, observer: impl Fn(&Offence, &Arc<Rule>, u32, Time) + Send + Sync + 'static) {
        let _ = self.strike_observer.set(Box::new(observer));
    }

    /// Bans as `rule` says, because the strikes of all machines together are enough: `count` of them, the last one at `at`.
    pub fn ban_by_count(self: &Arc<Self>, now: Time, at: Time, rule: &Arc<Rule>, offence: &Offence, count: u32) {
        let standing = rule.scope.surfaces().iter().all(|surface| self.bans.get(offence.client, *surface, now).is_some());
        if standing || rule.mode == Mode::Shadow || self.in_force().lists.never_banned(offence.address).is_some() {
            return;
        }
        self.strikes.forget(rule.id, offence.client);
        let record = self.sentence(now, rule, offence, Counter::new(at, count));
        let _turn = self.order.of(&offence.client);
        self.bans.ban(offence.client, rule.scope, Ban { until: record.until, rule: rule.id, saved: self.keeper.get().is_none() }, now);
        self.tallies.bans.fetch_add(1, Ordering::Relaxed);
        log::info!(
            "banned {} by rule {} ({count} on all machines in {}): {}",
            offence.client,
            rule.name,
            rule.findtime,
            record.evidence.as_str()
        );
        self.conclude(vec![record], Verdict::Allow(Innocence::NotAQuestion), Reply::new(|_| ()));
    }

    /// The story of the latest ban of `client`, if it is remembered.
    #[must_use]
    pub fn story(&self, client: Client) -> Option<BanRecord> {
        self.stories.lock().unwrap_or_else(PoisonError::into_inner).peek(&client).cloned()
    }

    /// The ban that a rule in shadow mode would have made of `client`.
    #[must_use]
    pub fn shadow(&self, client: Client, surface: Surface, now: Time) -> Option<Ban> {
        self.shadows.get(client, surface, now)
    }

    /// Counts an offence that was met on `surface`, and answers: at once, or when the ban that it made is kept.
    pub fn offend(self: &Arc<Self>, now: Time, offence: &Offence, surface: Surface, reply: Reply) {
        let (outcome, _turn) = self.count_in_turn(now, offence, surface, 1);
        let is_rate = |rule: &Arc<Rule>| matches!(rule.trigger, Trigger::RequestRate | Trigger::ConnectionRate);
        if !offence.rules.iter().all(is_rate) {
            self.budget.note(offence.client, Deed::Offence, false);
        }
        self.conclude(outcome.banned, outcome.verdict, reply);
    }

    /// Adds the ordinary requests of one read to the rates of their clients. A ban that comes of it takes effect with the next read.
    ///
    /// What is left in `tallied` is of no use any more.
    pub fn tally(self: &Arc<Self>, now: Time, tallied: &mut Vec<Tallied>) {
        let in_force = self.in_force();
        let rules = in_force.rules.request_rates();
        if rules.is_empty() {
            return;
        }
        tallied.retain(|one| self.bans.get(one.client, Surface::Web, now).is_none());
        for rule in rules {
            // Nearly every client's requests end here, counted and no more: nothing is put together for the few that do not.
            let mut reached = Vec::new();
            let is_many = |one: &Tallied| one.requests >= rule.maxretry;
            // A client that comes twice in one read is banned once.
            let is_reached = |reached: &[(Tallied, Counter)], one: &Tallied| reached.iter().any(|(known, _)| known.client == one.client);
            let mut counted = 0;
            let counts = |one: &Tallied| !is_many(one) && self.counts_under(now, rule, one.client);
            let rate = Rate { rule: rule.id, findtime: rule.findtime, maxretry: rule.maxretry };
            self.strikes.add_all(rate, now, tallied, counts, |one, counter| {
                counted += 1;
                if counter.count() >= rule.maxretry && !is_reached(&reached, one) {
                    reached.push((*one, counter));
                }
            });
            self.tallies.offences.fetch_add(counted, Ordering::Relaxed);
            for (one, _) in &reached {
                self.strikes.forget(rule.id, one.client);
            }
            for one in tallied.iter().filter(|one| is_many(one)) {
                if !is_reached(&reached, one)
                    && let Some(counter) = self.strike(now, rule, one.client, one.requests)
                {
                    reached.push((*one, counter));
                }
            }
            for (Tallied { address, client, requests, .. }, counter) in reached {
                let evidence = Evidence::new(&[b"requests in one read:", requests.to_string().as_bytes()]);
                let offence = Offence { address, client, rules: vec![Arc::clone(rule)], evidence };
                if rule.mode == Mode::Shadow {
                    self.ban_for(now, rule, &offence, counter, in_force.prefix);
                    continue;
                }
                let _turn = self.order.of(&client);
                let record = self.ban_for(now, rule, &offence, counter, in_force.prefix);
                self.conclude(vec![record], Verdict::Allow(Innocence::NotAQuestion), Reply::new(|_| ()));
            }
        }
    }

    /// Answers with a refusal that rests on a ban which is not kept yet, once it is.
    pub fn when_kept(self: &Arc<Self>, verdict: Verdict, reply: Reply) {
        let Some(keeper) = self.keeper.get() else { return reply.send(verdict) };
        let held = self.deadlines.hold(reply, self.late(verdict.clone()));
        keeper.flush(Box::new(move |_| {
            held.settle(verdict);
        }));
    }

    /// Bans `client` as an operator or another machine says, and answers when that is kept. The caller has asked the never-ban list.
    pub fn ban(self: &Arc<Self>, record: BanRecord, reply: Reply) {
        let rule = self.names.intern(&record.rule);
        let _turn = self.order.of(&record.client);
        self.bans.ban(record.client, record.scope, Ban { until: record.until, rule, saved: self.keeper.get().is_none() }, record.since);
        self.conclude(vec![record], Verdict::Allow(Innocence::NotAQuestion), reply);
    }

    /// Lifts the bans of `client` on the surfaces of `scope`, and answers when that is kept. Says whether there was one.
    pub fn unban(self: &Arc<Self>, now: Time, client: Client, scope: Scope, reply: Reply) -> bool {
        let _turn = self.order.of(&client);
        let found = self.bans.unban(client, scope);
        self.keep(Change::Unbanned { client, scope, at: now }, reply);
        found
    }

    /// Bans a network by hand.
    pub fn ban_network(self: &Arc<Self>, ban: crate::list::BannedNetwork, reason: Evidence, reply: Reply) {
        let until = ban.until.map_or(Until::NEVER, Until::at);
        let change = Change::NetworkBanned { network: ban.network, since: ban.since, until, reason };
        let _turn = self.order.of(&ban.network);
        self.change_lists(|lists| {
            lists.banned.insert(ban);
        });
        self.keep(change, reply);
    }

    /// Lifts the ban of a network. Says whether there was one.
    pub fn unban_network(self: &Arc<Self>, now: Time, network: ipnet::IpNet, reply: Reply) -> bool {
        let mut found = false;
        let _turn = self.order.of(&network);
        self.change_lists(|lists| found = lists.banned.remove(network).is_some());
        self.keep(Change::NetworkUnbanned { network, at: now }, reply);
        found
    }

    /// Changes the lists in force: own addresses that came or went, banned networks.
    pub fn change_lists(&self, change: impl FnOnce(&mut Lists)) {
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        let mut lists = in_force.lists.clone();
        change(&mut lists);
        *in_force = Arc::new(InForce {
            rules: Arc::clone(&in_force.rules),
            lists,
            prefix: in_force.prefix,
            on_failure: in_force.on_failure,
            false_ban_share: in_force.false_ban_share,
        });
    }

    /// Puts a ban in place as a state file or another machine has it: nothing is kept, told or answered.
    ///
    /// It lasts no longer from now than it was meant to last when it was made: a clock that was wrong then must not make it eternal.
    pub fn restore(&self, record: &BanRecord, now: Time) {
        let until = record.until.time().map_or(Until::NEVER, |until| Until::at(until.min(now.after(until.since(record.since)))));
        if until.is_over(now) {
            return;
        }
        let rule = self.names.intern(&record.rule);
        self.bans.ban(record.client, record.scope, Ban { until, rule, saved: true }, now);
    }

    /// Makes a change that another process made, and that is kept already: it is told to observers, and nobody is answered.
    pub fn take(&self, change: &Change, now: Time) {
        let _turn = match change {
            Change::Banned(BanRecord { client, .. }) | Change::Unbanned { client, .. } => self.order.of(client),
            Change::NetworkBanned { network, .. } | Change::NetworkUnbanned { network, .. } => self.order.of(network),
        };
        match change {
            Change::Banned(record) => self.restore(record, now),
            Change::Unbanned { client, scope, .. } => {
                self.bans.unban(*client, *scope);
            }
            Change::NetworkBanned { network, since, until, .. } => {
                let ban = crate::list::BannedNetwork {
                    network: *network,
                    rule: self.names.name(RuleId::MANUAL),
                    since: *since,
                    until: until.time(),
                };
                if ban.stands(now) {
                    self.change_lists(|lists| {
                        lists.banned.insert(ban);
                    });
                }
            }
            Change::NetworkUnbanned { network, .. } => self.change_lists(|lists| {
                lists.banned.remove(*network);
            }),
        }
        self.tell(change);
    }

    /// The story of a ban as far as it is remembered; where it is not, what the table itself knows.
    #[must_use]
    pub fn record_of(&self, client: Client, surface: Surface, ban: Ban, now: Time) -> BanRecord {
        let rule = self.names.name(ban.rule);
        if let Some(story) = self.story(client).filter(|story| story.until == ban.until && story.rule == rule) {
            return story;
        }
        BanRecord {
            client,
            scope: surface.alone(),
            rule,
            first: now,
            since: now,
            until: ban.until,
            count: 0,
            times: 1,
            evidence: Evidence::new(&[]),
            node: "".into(),
        }
    }

    /// Puts the number of earlier bans in place, as a state file has it.
    pub fn restore_history(&self, client: Client, rule: &str, earlier: Earlier) {
        let rule = self.names.intern(rule);
        self.history.lock().unwrap_or_else(PoisonError::into_inner).put((client, rule), earlier);
    }

    /// Drops what time has ended: bans, banned networks, strikes. To be called about once a second.
    pub fn sweep(&self, now: Time) {
        self.bans.sweep(now, |client, rule| log::info!("ban of {client} by rule {} has ended", self.names.name(rule)));
        self.shadows.sweep(now, |_, _| ());
        for rule in self.in_force().rules.rules() {
            if rule.maxretry > 1 {
                self.strikes.sweep(rule.id, now, rule.findtime);
            }
        }
        if self.in_force().lists.banned.iter().any(|network| !network.stands(now)) {
            self.change_lists(|lists| {
                lists.banned.expire(now);
            });
        }
    }

    /// Counts `strikes` strikes under every rule that was offended, and bans where that is enough.
    ///
    /// Nothing is kept, told or answered: that is for replay, and for [`Engine::offend`], which does all of it.
    pub fn count(&self, now: Time, offence: &Offence, surface: Surface, strikes: u32) -> Outcome {
        self.count_in_turn(now, offence, surface, strikes).0
    }

    /// [`Engine::count`], and the client's turn if it is banned now: to be held until its bans are handed over.
    fn count_in_turn(&self, now: Time, offence: &Offence, surface: Surface, strikes: u32) -> (Outcome, Option<MutexGuard<'_, ()>>) {
        let prefix = self.in_force().prefix;
        let mut turn = None;
        let (mut banned, mut shadowed) = (Vec::new(), Vec::new());
        let mut refusal = None;
        let mut innocence = Innocence::NothingFound;
        for rule in &offence.rules {
            let shadow = rule.mode == Mode::Shadow;
            let Some(counter) = self.strike(now, rule, offence.client, strikes) else { continue };
            if rule.fleet
                && !shadow
                && counter.count() < rule.maxretry
                && let Some(observer) = self.strike_observer.get()
            {
                observer(offence, rule, strikes, now);
            }
            if counter.count() >= rule.maxretry {
                if shadow {
                    shadowed.push(self.ban_for(now, rule, offence, counter, prefix));
                } else {
                    turn.get_or_insert_with(|| self.order.of(&offence.client));
                    let record = self.ban_for(now, rule, offence, counter, prefix);
                    if refusal.is_none() && rule.scope.surfaces().contains(&surface) {
                        refusal = Some(Refusal { rule: rule.id, until: record.until, grounds: Grounds::Struck });
                    }
                    banned.push(record);
                }
            } else if innocence == Innocence::NothingFound {
                innocence = if shadow { Innocence::Shadow(rule.id) } else { Innocence::Counted { rule: rule.id, count: counter.count() } };
            }
        }
        let offence_alone = || {
            let rule = offence.rules.iter().find(|rule| rule.mode == Mode::Enforce && rule.refuses_offence)?;
            Some(Refusal { rule: rule.id, until: Until::at(now), grounds: Grounds::Offence })
        };
        let verdict = match refusal.or_else(offence_alone) {
            Some(refusal) => self.in_force().detector(&self.bans).refuse(refusal, surface),
            None => Verdict::Allow(innocence),
        };
        (Outcome { verdict, banned, shadowed }, turn)
    }

    /// Counts under one rule, which may then be at its `maxretry`; a rule for which one strike is enough stores none, and one that bans
    /// starts anew. `None` if there is nothing to count: the ban that a rule in shadow mode would make stands already.
    fn strike(&self, now: Time, rule: &Rule, client: Client, strikes: u32) -> Option<Counter> {
        if !self.counts_under(now, rule, client) {
            return None;
        }
        self.tallies.offences.fetch_add(1, Ordering::Relaxed);
        if strikes >= rule.maxretry {
            self.strikes.forget(rule.id, client);
            return Some(Counter::new(now, strikes));
        }
        let counter = self.strikes.add(rule.id, client, now, rule.findtime, strikes);
        if counter.count() >= rule.maxretry {
            self.strikes.forget(rule.id, client);
        }
        Some(counter)
    }

    /// Whether offences of `client` count under `rule`: not while the ban stands that a rule in shadow mode would have made.
    fn counts_under(&self, now: Time, rule: &Rule, client: Client) -> bool {
        let is_shadowed = |surface: &Surface| self.shadows.get(client, *surface, now).is_some();
        rule.mode == Mode::Enforce || !rule.scope.surfaces().iter().all(is_shadowed)
    }

    /// Bans in memory, or in the shadows, what `rule` bans for `offence`, and logs it.
    fn ban_for(&self, now: Time, rule: &Rule, offence: &Offence, counter: Counter, prefix: Ipv6Prefix) -> BanRecord {
        let record = self.sentence(now, rule, offence, counter);
        let ban = Ban { until: record.until, rule: rule.id, saved: self.keeper.get().is_none() };
        let story = || {
            format!(
                "{} until {} by rule {} ({} in {}): {}",
                offence.client.display(prefix),
                record.until.time().map_or_else(|| "for ever".into(), crate::clock::timestamp),
                rule.name,
                counter.count(),
                rule.findtime,
                record.evidence.as_str()
            )
        };
        self.budget.banned(rule.id, offence.client);
        if rule.mode == Mode::Shadow {
            self.shadows.ban(offence.client, rule.scope, Ban { saved: true, ..ban }, now);
            self.tallies.shadow_bans.fetch_add(1, Ordering::Relaxed);
            log::info!("shadow: would ban {}", story());
        } else {
            self.bans.ban(offence.client, rule.scope, ban, now);
            self.tallies.bans.fetch_add(1, Ordering::Relaxed);
            log::info!("banned {}", story());
        }
        record
    }

    /// How long, and with which story, `rule` bans.
    fn sentence(&self, now: Time, rule: &Rule, offence: &Offence, counter: Counter) -> BanRecord {
        let mut times = 1;
        if let Some(increment) = &rule.bantime.increment {
            let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            let earlier = history
                .get(&(offence.client, rule.id))
                .filter(|earlier| earlier.last.after(increment.forget) > now)
                .map_or(0, |earlier| earlier.times);
            times = earlier.saturating_add(1);
            if rule.mode == Mode::Enforce {
                history.put((offence.client, rule.id), Earlier { times, last: now });
            }
        }
        BanRecord {
            client: offence.client,
            scope: rule.scope,
            rule: Arc::clone(&rule.name),
            first: counter.first(),
            since: now,
            until: rule.bantime.of(times - 1).map_or(Until::NEVER, |span| Until::at(now.after(span))),
            count: counter.count(),
            times,
            evidence: offence.evidence.clone(),
            node: "".into(),
        }
    }

    /// Keeps and tells the bans, then answers. The caller has the client's turn.
    fn conclude(self: &Arc<Self>, banned: Vec<BanRecord>, verdict: Verdict, reply: Reply) {
        let mut banned = banned.into_iter().peekable();
        if banned.peek().is_none() {
            return reply.send(verdict);
        }
        {
            let mut stories = self.stories.lock().unwrap_or_else(PoisonError::into_inner);
            for record in banned.clone() {
                stories.put(record.client, record);
            }
        }
        let Some(last) = banned.next_back() else { return reply.send(verdict) };
        for record in banned {
            self.keep(Change::Banned(record), Reply::new(|_| ()));
        }
        self.keep_then(Change::Banned(last), verdict, reply);
    }

    fn keep(self: &Arc<Self>, change: Change, reply: Reply) {
        self.keep_then(change, Verdict::Allow(Innocence::NotAQuestion), reply);
    }

    /// Disk, mark, subscribers, reply: in that order. The caller has the turn of the client or network.
    fn keep_then(self: &Arc<Self>, change: Change, verdict: Verdict, reply: Reply) {
        let Some(keeper) = self.keeper.get() else {
            self.tell(&change);
            return reply.send(verdict);
        };
        let held = self.deadlines.hold(reply, self.late(verdict.clone()));
        let engine = Arc::clone(self);
        let told = change.clone();
        keeper.keep(
            change,
            Box::new(move |kept| {
                match &told {
                    Change::Banned(record) if kept == Kept::Yes => engine.bans.mark_saved(record.client, record.until),
                    Change::Unbanned { client, scope, .. } => engine.bans.mark_unsaved(*client, *scope),
                    _ => {}
                }
                engine.tell(&told);
                engine.tell_again(&told);
                held.settle(verdict);
            }),
        );
    }

    /// A ban that found the keeper's queue full was told of at once, and so perhaps before an unban that was waiting: after that unban it is
    /// told of again.
    fn tell_again(&self, told: &Change) {
        let Change::Unbanned { client, scope, at } = told else { return };
        if !self.keeper.get().is_some_and(|keeper| keeper.has_overflowed()) {
            return;
        }
        let mut records: Vec<BanRecord> = Vec::new();
        for surface in scope.surfaces() {
            let record = self.bans.get(*client, *surface, *at).map(|ban| self.record_of(*client, *surface, ban, *at));
            records.extend(record.filter(|record| !records.contains(record)));
        }
        records.into_iter().for_each(|record| self.tell(&Change::Banned(record)));
    }

    fn tell(&self, change: &Change) {
        for observer in self.observers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            observer(change);
        }
    }

    /// What is answered when the disk is too slow: the refusal stands, and the log says that it may not survive.
    fn late(self: &Arc<Self>, verdict: Verdict) -> impl FnOnce() -> Verdict + Send + 'static {
        let engine = Arc::clone(self);
        move || {
            if engine.tallies.unsaved_answers.fetch_add(1, Ordering::Relaxed).is_multiple_of(1000) {
                log::warn!("the state file is slow or cannot be written: bans are answered before they are saved");
            }
            verdict
        }
    }
}

#[cfg(test)]
mod tests;
