//! What this node says: its bans, its lifts, and the strikes that count over all nodes. Nobody waits for it.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use redis::{Pipeline, RedisError, RedisResult, Value};

use super::Health;
use super::complaint::Complaint;
use super::link::{Link, is_of_one_item};
use super::message::{Story, letters, scope_of, target_of, target_text};
use super::provenance;
use super::standing::{is_still, known_by_others, lift, story_of, until_of};
use super::sync::Sync;
use super::walk::{FEW, Walk, look_up, said};
use super::wire::{SILENCE, Wire};
use crate::client::Client;
use crate::clock::Clock;
use crate::engine::durable::StateFile;
use crate::engine::{BanRecord, Change, Engine};
use crate::event::{Scope, Surface};
use crate::list::BannedNetwork;
use crate::rule::{Evidence, Offence, Rule};
use crate::table::{Ban, Until};
use crate::time::{Span, Time};

/// So many changes may wait; what comes beyond is dropped and counted, and all bans are said again later.
const QUEUE: usize = 16_384;
/// So many go to the engine together.
const BATCH: usize = 256;
/// And of what it probably knows so many, unless it answers at once: the nodes of a large fleet come back at the same moment.
const SMALL_BATCH: usize = 64;
/// At once.
const QUICK: Duration = Duration::from_millis(25);
/// At least so long lies between two of those, and twice as long as the last one took: the engine is left time for others.
const PAUSE: Duration = Duration::from_millis(20);
/// All bans are said again at the earliest so long after that was done last,
const SAY_AGAIN: Duration = Duration::from_secs(3);
/// or, where too many were new in a minute, when it is over.
const MINUTE: Duration = Duration::from_secs(60);
/// No two clocks of one moment differ by so much.
const MUCH: Span = Span::from_secs(5);
/// So often the engine is asked for its time at the beginning.
const SAMPLES: usize = 3;
/// How long to wait after the engine was lost; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// So long the lift of a ban is remembered that the engine does not know.
const REMEMBERED: Span = Span::from_secs(90 * 86_400);

/// Something to be said.
enum Item {
    /// A ban; made just now, or one that stands.
    Ban {
        target: IpNet,
        scope: Scope,
        since: Time,
        until: Until,
        story: Story,
        is_new: bool,
    },
    Lift {
        target: IpNet,
        scope: Scope,
        at: Time,
    },
    Strike {
        offence: Offence,
        rule: Arc<Rule>,
        strikes: u32,
        at: Time,
    },
    /// All that a node said is dropped; again, if it is known when that was.
    Forget {
        node: Arc<str>,
        at: Option<Time>,
    },
}

impl Item {
    /// Whether it must be said, however late: nothing else would ever say it.
    fn must_be_said(&self) -> bool {
        matches!(self, Self::Lift { .. } | Self::Forget { .. })
    }
}

/// Hands items to the thread.
#[derive(Clone)]
pub struct Sender {
    queue: SyncSender<Item>,
    /// What must be said and found the queue full.
    late: Arc<Mutex<VecDeque<Item>>>,
    health: Arc<Health>,
}

impl Sender {
    /// Drops all that `node` said.
    pub fn forget(&self, node: &str) {
        self.post(Item::Forget { node: Arc::from(node), at: None });
    }

    fn post(&self, item: Item) {
        let Err(TrySendError::Full(item) | TrySendError::Disconnected(item)) = self.queue.try_send(item) else { return };
        if item.must_be_said() {
            let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            if late.len() < QUEUE {
                late.push_back(item);
                return;
            }
        }
        self.health.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts saying what happens in `engine`.
///
/// # Errors
/// No thread could be started.
pub fn start(
    link: Arc<Link>,
    engine: &Arc<Engine>,
    state: Option<Arc<StateFile>>,
    clock: Clock,
    health: Arc<Health>,
) -> io::Result<Sender> {
    let (queue, receiver) = sync_channel(QUEUE);
    let sender = Sender { queue, late: Arc::default(), health: Arc::clone(&health) };
    let (post, own, bans) = (sender.clone(), link.node.clone(), Arc::downgrade(engine));
    engine.observe(move |change| {
        let Some(engine) = bans.upgrade() else { return };
        if let Some(item) = item_of(change, &own, &engine, &post.health) {
            post.post(item);
        }
    });
    let post = sender.clone();
    engine.observe_strikes(move |offence, rule, strikes, at| {
        post.post(Item::Strike { offence: offence.clone(), rule: Arc::clone(rule), strikes, at });
    });
    // The engine's observers live as long as the engine: a strong reference here would keep both for ever.
    let mut work = Work {
        link,
        engine: Arc::downgrade(engine),
        state,
        clock,
        health,
        late: Arc::clone(&sender.late),
        sync: Sync::default(),
        waiting: VecDeque::new(),
        dropped: 0,
        again: None,
        saying: None,
        anew: Vec::new(),
        forgetting: VecDeque::new(),
        unsaid: Complaint::default(),
    };
    std::thread::Builder::new().name("fleet-out".into()).spawn(move || work.run(&receiver))?;
    Ok(sender)
}

/// What is to be said of a change; nothing if it was heard of: what another node said is not said again.
fn item_of(change: &Change, own: &str, engine: &Engine, health: &Health) -> Option<Item> {
    let mut provenance = health.provenance();
    match change {
        Change::Banned(record) if !record.node.is_empty() => None,
        Change::Banned(record) => {
            // Where a ban of another node lasts longer, that one stands.
            let stands = |surface: &&Surface| {
                engine.bans().get(record.client, **surface, record.since).is_none_or(|standing| standing.until <= record.until)
            };
            for surface in record.scope.surfaces().iter().filter(stands) {
                provenance.own(target_of(record.client.address()), surface.alone());
            }
            Some(ban_of(record, own, true))
        }
        Change::Unbanned { client, scope, at } => {
            let target = target_of(client.address());
            if provenance.is_echo(target, Some(*scope), *at) {
                return None;
            }
            provenance.lifted(target, *scope, *at);
            Some(Item::Lift { target, scope: *scope, at: *at })
        }
        Change::NetworkBanned { network, since, until, reason } => {
            if provenance.is_echo(*network, None, *since) {
                return None;
            }
            provenance.own(*network, Scope::All);
            Some(network_of(*network, *since, *until, own, reason, true))
        }
        Change::NetworkUnbanned { network, at } => {
            if provenance.is_echo(*network, Some(Scope::All), *at) {
                return None;
            }
            provenance.lifted(*network, Scope::All, *at);
            Some(Item::Lift { target: *network, scope: Scope::All, at: *at })
        }
    }
}

fn ban_of(record: &BanRecord, own: &str, is_new: bool) -> Item {
    let node = if record.node.is_empty() { own } else { &record.node };
    let story = Story {
        node: node.to_owned(),
        rule: record.rule.to_string(),
        count: record.count,
        times: record.times,
        evidence: record.evidence.as_str().to_owned(),
    };
    Item::Ban { target: target_of(record.client.address()), scope: record.scope, since: record.since, until: record.until, story, is_new }
}

fn network_of(target: IpNet, since: Time, until: Until, node: &str, reason: &Evidence, is_new: bool) -> Item {
    let evidence = reason.as_str().to_owned();
    let story = Story { node: node.to_owned(), rule: "manual".into(), count: 1, times: 1, evidence };
    Item::Ban { target, scope: Scope::All, since, until, story, is_new }
}

struct Work {
    link: Arc<Link>,
    engine: Weak<Engine>,
    state: Option<Arc<StateFile>>,
    clock: Clock,
    health: Arc<Health>,
    late: Arc<Mutex<VecDeque<Item>>>,
    /// How the engine's clock goes.
    sync: Sync,
    /// Taken from the queue and not said yet.
    waiting: VecDeque<Item>,
    /// How much had been dropped when all bans were last said.
    dropped: u64,
    /// When all bans are to be said again.
    again: Option<Instant>,
    /// All bans, while they are being said.
    saying: Option<Saying>,
    /// Clients whose ban here was lifted, and that another one bans.
    anew: Vec<IpNet>,
    /// Nodes whose bans are being dropped in the engine, and how far.
    forgetting: VecDeque<(Arc<str>, Walk)>,
    /// What the engine does not take.
    unsaid: Complaint,
}

/// All bans that stood at one moment, said little by little: whatever is new goes first.
struct Saying {
    /// Whose word was dropped, and
    forgets: std::vec::IntoIter<(Arc<str>, Time)>,
    /// what this node lifted lately: an engine that came back empty has forgotten it.
    lifts: std::vec::IntoIter<(IpNet, Surface, Time)>,
    bans: std::vec::IntoIter<(Client, Scope, Ban)>,
    networks: std::vec::IntoIter<BannedNetwork>,
    /// When the next few are said, and how many.
    due: Instant,
    few: usize,
    /// Since when, and how many the engine did not know: half of what a node may say is left to new bans.
    minute: Instant,
    new: u32,
}

impl Work {
    fn run(&mut self, receiver: &Receiver<Item>) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            let ended = catch_unwind(AssertUnwindSafe(|| {
                let mut wire = self.link.connect_to_say()?;
                self.sync = Sync::default();
                for _ in 0..SAMPLES {
                    self.sync.ask(self.clock, &mut wire)?;
                }
                self.say(&mut wire, receiver)
            }));
            let error = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => self.link.describe(&error),
                Err(_) => "internal fault".to_owned(),
            };
            self.health.fail(&self.health.says, &error);
            self.saying = None;
            self.keep_what_matters(receiver);
            if began.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Says everything, until the engine is lost (an error) or nobody hands over anything any more.
    fn say(&mut self, wire: &mut Wire, receiver: &Receiver<Item>) -> RedisResult<()> {
        // Lifts first: a ban that was lifted while the engine was away must not be said by others before.
        self.keep_what_matters(receiver);
        self.say_what_waits(wire)?;
        self.begin_saying_all();
        self.health.says.store(true, Ordering::Relaxed);
        let mut asked = Instant::now();
        loop {
            match receiver.recv_timeout(self.pause()) {
                Ok(item) => self.waiting.push_back(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let (now, waited) = (self.clock.now(), self.waiting.len());
            self.waiting.extend(receiver.try_iter().take(BATCH - 1));
            let is_all = self.waiting.len() < waited + BATCH - 1;
            self.waiting.append(&mut self.late.lock().unwrap_or_else(PoisonError::into_inner));
            // However much there is to say: the engine's clock may be set.
            let asks = asked.elapsed() >= SILENCE / 2;
            if asks {
                self.sync.ask(self.clock, wire)?;
                asked = Instant::now();
            }
            self.say_what_waits(wire)?;
            self.say_a_few(wire)?;
            self.forget_a_few(wire)?;
            self.look_up_anew(wire)?;
            if asks && is_all {
                self.health.said_until.store(now.millis(), Ordering::Relaxed);
            }
            if self.health.dropped.load(Ordering::Relaxed) != self.dropped {
                self.dropped = self.health.dropped.load(Ordering::Relaxed);
                self.again.get_or_insert(Instant::now() + SAY_AGAIN);
            }
            if self.saying.is_none() && self.again.is_some_and(|again| again <= Instant::now()) {
                self.begin_saying_all();
            }
        }
    }

    /// How long nothing has to be done, unless something new comes.
    fn pause(&self) -> Duration {
        let until = |moment: Instant| moment.saturating_duration_since(Instant::now());
        let saying = self.saying.as_ref().map(|saying| until(saying.due));
        let again = self.again.filter(|_| self.saying.is_none()).map(until);
        let forgetting = self.forgetting.front().map(|_| PAUSE);
        [saying, again, forgetting].into_iter().flatten().fold(SILENCE / 4, Duration::min)
    }

    /// Without the engine strikes are lost, and lifts must not be forgotten. Bans that stand are kept while there is room: they will be said
    /// anyway, with all that stand, but these are new.
    fn keep_what_matters(&mut self, receiver: &Receiver<Item>) {
        let mut dropped = 0;
        let (mut must, mut may) = (VecDeque::new(), VecDeque::new());
        // Who changes something waits for this lock: it is let go before anything is looked up.
        let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
        let (engine, now) = (self.engine.upgrade(), self.clock.now());
        // Lifts go first: what they lifted must not come behind them.
        let stands = |target: IpNet, scope: Scope, until: Until| {
            engine
                .as_ref()
                .is_some_and(|engine| scope.surfaces().iter().any(|surface| until_of(engine, target, *surface, now) == Some(until)))
        };
        // The queue may be filled as fast as it is emptied.
        for item in self.waiting.drain(..).chain(late).chain(receiver.try_iter().take(QUEUE)) {
            match item {
                item if item.must_be_said() && must.len() < QUEUE => must.push_back(item),
                Item::Ban { target, scope, until, .. } if !stands(target, scope, until) => {}
                item @ Item::Ban { .. } => {
                    may.push_back(item);
                    if may.len() > QUEUE / 4 {
                        may.pop_front();
                    }
                }
                _ => dropped += 1,
            }
        }
        must.append(&mut may);
        self.waiting = must;
        self.health.dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    /// Says what waits. On an error all that was not answered still waits.
    fn say_what_waits(&mut self, wire: &mut Wire) -> RedisResult<()> {
        while !self.waiting.is_empty() {
            let count = self.waiting.len().min(BATCH);
            let now = self.clock.now();
            let answers = self.exchange(wire, self.waiting.iter().take(count))?;
            let items: Vec<Item> = self.waiting.drain(..count).collect();
            for (item, answer) in items.into_iter().zip(&answers) {
                self.heed(item, answer, now);
            }
        }
        Ok(())
    }

    fn begin_saying_all(&mut self) {
        let Some(engine) = self.engine.upgrade() else { return };
        self.dropped = self.health.dropped.load(Ordering::Relaxed);
        self.again = None;
        let mut bans: Vec<(Client, Scope, Ban)> = Vec::new();
        engine.bans().for_each(self.clock.now(), |client, surface, ban| match bans.last_mut() {
            // Two that differ in nothing but the surface are one.
            Some((last, scope, its)) if *last == client && (its.until, its.rule) == (ban.until, ban.rule) => *scope = Scope::All,
            _ => bans.push((client, surface.alone(), ban)),
        });
        let networks: Vec<BannedNetwork> = engine.in_force().lists.banned.iter().cloned().collect();
        let (forgets, lifts) = {
            let provenance = self.health.provenance();
            (provenance.forgets(), provenance.lifts())
        };
        let now = Instant::now();
        self.saying = Some(Saying {
            forgets: forgets.into_iter(),
            lifts: lifts.into_iter(),
            bans: bans.into_iter(),
            networks: networks.into_iter(),
            due: now,
            few: SMALL_BATCH,
            minute: now,
            new: 0,
        });
    }

    /// Says a few of all bans, if it is time.
    fn say_a_few(&mut self, wire: &mut Wire) -> RedisResult<()> {
        let (Some(engine), Some(mut saying)) = (self.engine.upgrade(), self.saying.take()) else { return Ok(()) };
        let began = Instant::now();
        if began < saying.due {
            self.saying = Some(saying);
            return Ok(());
        }
        let now = self.clock.now();
        let mut items: Vec<Item> = Vec::new();
        for (node, at) in saying.forgets.by_ref().take(saying.few) {
            items.push(Item::Forget { node, at: Some(at) });
        }
        for (target, surface, at) in saying.lifts.by_ref().take(saying.few.saturating_sub(items.len())) {
            items.push(Item::Lift { target, scope: surface.alone(), at });
        }
        for (client, scope, ban) in saying.bans.by_ref().take(saying.few.saturating_sub(items.len())) {
            // What was lifted or replaced meanwhile has been said.
            let stands = |surface: &Surface| engine.bans().get(client, *surface, now).is_some_and(|stands| stands.until == ban.until);
            if scope.surfaces().iter().all(stands) {
                items.push(self.standing(&engine, client, scope, ban, now));
            }
        }
        if saying.bans.as_slice().is_empty() {
            for network in saying.networks.by_ref().take(saying.few.saturating_sub(items.len())) {
                if network.stands(now) && engine.in_force().lists.banned.get(network.network).is_some() {
                    let until = network.until.map_or(Until::NEVER, Until::at);
                    let author = self.health.provenance().of(network.network, Surface::Web);
                    let author = author.as_deref().unwrap_or(&self.link.node);
                    items.push(network_of(network.network, network.since, until, author, &Evidence::new(&[]), false));
                }
            }
        }
        let is_over = saying.forgets.as_slice().is_empty()
            && saying.lifts.as_slice().is_empty()
            && saying.bans.as_slice().is_empty()
            && saying.networks.as_slice().is_empty();
        let answers = self.exchange(wire, items.iter())?;
        if saying.minute.elapsed() >= MINUTE {
            (saying.minute, saying.new) = (Instant::now(), 0);
        }
        for (item, answer) in items.into_iter().zip(&answers) {
            let status = self.heed(item, answer, now);
            saying.new += u32::from(status == Status::New);
        }
        saying.few = if began.elapsed() < QUICK { BATCH } else { SMALL_BATCH };
        saying.due = if saying.new >= (self.link.bans_per_minute / 2).max(1) {
            saying.minute + MINUTE
        } else {
            Instant::now() + PAUSE.max(began.elapsed() * 2)
        };
        if !is_over {
            self.saying = Some(saying);
        }
        Ok(())
    }

    /// A ban that stands, with as much of its story as is known.
    fn standing(&self, engine: &Engine, client: Client, scope: Scope, ban: Ban, now: Time) -> Item {
        let target = target_of(client.address());
        match story_of(engine, self.state.as_deref(), client, ban, now) {
            Some(record) => {
                // After a restart this is where whose word it is comes to light.
                let mut provenance = self.health.provenance();
                for surface in scope.surfaces() {
                    if !record.node.is_empty() && provenance.of(target, *surface).is_none() {
                        provenance.note(target, surface.alone(), &record.node);
                    }
                }
                drop(provenance);
                ban_of(&BanRecord { scope, ..record }, &self.link.node, false)
            }
            None => {
                let author = scope.surfaces().first().and_then(|surface| self.health.provenance().of(target, *surface));
                let since = known_by_others(&self.health, now);
                let rule = engine.names().name(ban.rule).to_string();
                let node = author.as_deref().unwrap_or(&self.link.node).to_owned();
                Item::Ban {
                    target,
                    scope,
                    since,
                    until: ban.until,
                    story: Story { node, rule, count: 0, times: 1, evidence: String::new() },
                    is_new: false,
                }
            }
        }
    }

    /// Looks up the bans that stand in place of those that were lifted.
    fn look_up_anew(&mut self, wire: &mut Wire) -> RedisResult<()> {
        for few in std::mem::take(&mut self.anew).chunks(FEW) {
            let keys: Vec<String> = few.iter().map(|target| self.link.client_key(&target_text(*target))).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let known = look_up(&self.link, wire, &keys)?;
            let mut aside = self.health.aside.lock().unwrap_or_else(PoisonError::into_inner);
            for (target, [web, mail]) in few.iter().zip(known) {
                if aside.len() < QUEUE {
                    aside.extend(said(*target, web, mail));
                }
            }
        }
        Ok(())
    }

    /// Drops in the engine a few of the bans of a node that is to be forgotten.
    fn forget_a_few(&mut self, wire: &mut Wire) -> RedisResult<()> {
        let Some((node, walk)) = self.forgetting.front_mut() else { return Ok(()) };
        let (found, goes_on) = walk.step(&self.link, wire)?;
        for few in found.chunks(FEW) {
            let keys: Vec<&str> = few.iter().map(|(key, _)| key.as_str()).collect();
            let mut forget = redis::cmd("EVALSHA");
            forget.arg(self.link.forget.get_hash()).arg(keys.len() + 1).arg(self.link.forgotten_key()).arg(keys).arg(&**node);
            match forget.exec(wire) {
                Err(error) if is_of_one_item(&error) => {
                    // It would fail again.
                    self.forgetting.pop_front();
                    self.not_taken(&error);
                    return Ok(());
                }
                ended => ended?,
            }
        }
        if !goes_on {
            self.forgetting.pop_front();
        }
        Ok(())
    }

    /// Something was not taken, for itself alone.
    fn not_taken(&mut self, error: &RedisError) {
        self.health.unsaid.fetch_add(1, Ordering::Relaxed);
        self.unsaid.say(|| format!("something could not be said: {}", self.link.describe(error)));
    }

    /// Says items in one round trip. An error that is about one item alone is that item's answer.
    fn exchange<'a>(&self, wire: &mut Wire, items: impl Iterator<Item = &'a Item>) -> RedisResult<Vec<RedisResult<Value>>> {
        let mut pipe = redis::pipe();
        for item in items {
            self.command(item, &mut pipe);
        }
        let mut answers = Vec::with_capacity(pipe.len());
        for answer in wire.ask(&pipe.get_packed_pipeline(), pipe.len())? {
            match answer.extract_error() {
                Err(error) if !is_of_one_item(&error) => return Err(error),
                answer => answers.push(answer),
            }
        }
        self.health.said.fetch_add(u64::try_from(answers.len()).unwrap_or(0), Ordering::Relaxed);
        Ok(answers)
    }

    fn command(&self, item: &Item, pipe: &mut Pipeline) {
        let link = &self.link;
        // Not ages: whatever lies in a queue, on the way or before an engine that hangs does not grow younger by it.
        let by_engine = |time: Time| time.shifted(self.sync.offset).millis();
        match item {
            Item::Ban { target, scope, since, until, story, is_new } => {
                let target = target_text(*target);
                let till = until.time().map_or_else(|| "-1".to_owned(), |time| by_engine(time).to_string());
                let story_text = serde_json::to_string(story).unwrap_or_default();
                pipe.cmd("EVALSHA").arg(link.ban.get_hash()).arg(if *is_new { 4 } else { 3 });
                pipe.arg(link.client_key(&target)).arg(link.rate_key(&link.node)).arg(link.forgotten_key());
                if *is_new {
                    pipe.arg(link.strike_key(&story.rule, &target));
                }
                pipe.arg(letters(*scope)).arg(till).arg(by_engine(*since)).arg(story_text).arg(&link.node);
                pipe.arg(link.bans_per_minute).arg(link.channel()).arg(target).arg(&story.node);
            }
            Item::Lift { target, scope, at } => {
                let target = target_text(*target);
                pipe.cmd("EVALSHA").arg(link.lift.get_hash()).arg(1).arg(link.client_key(&target));
                pipe.arg(letters(*scope)).arg(by_engine(*at)).arg(REMEMBERED.millis());
                pipe.arg(&link.node).arg(link.channel()).arg(target);
            }
            Item::Strike { offence, rule, strikes, .. } => {
                let key = link.strike_key(&rule.name, &target_text(target_of(offence.client.address())));
                pipe.cmd("EVALSHA").arg(link.strike.get_hash()).arg(1).arg(key);
                pipe.arg(*strikes).arg(rule.findtime.millis()).arg(rule.maxretry);
            }
            Item::Forget { node, at } => {
                pipe.cmd("EVALSHA").arg(link.forget.get_hash()).arg(1).arg(link.forgotten_key()).arg(&**node).arg(link.channel());
                if let Some(at) = at {
                    pipe.arg(by_engine(*at));
                }
            }
        }
    }

    /// Does what the engine answers.
    fn heed(&mut self, item: Item, answer: &RedisResult<Value>, now: Time) -> Status {
        let Some(engine) = self.engine.upgrade() else { return Status::Other };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.not_taken(error);
                return Status::Other;
            }
        };
        match item {
            Item::Ban { target, since, until, .. } => {
                let answer: String = redis::from_redis_value_ref(answer).unwrap_or_default();
                let mut words = answer.split(' ');
                let (status, lifted, anew) = (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
                // While we were away somebody lifted it: it, and not what was banned here since.
                let stands = |surface: &Surface| is_still(&engine, self.state.as_deref(), target, *surface, (since, until), now);
                let lifted = scope_of(lifted).map_or(&[][..], Scope::surfaces).iter().copied();
                let lifted: Vec<Surface> = lifted.filter(stands).collect();
                if let Some(scope) = provenance::scope_of(&lifted) {
                    lift(&engine, &self.health, now, target, scope);
                }
                if !anew.is_empty() {
                    self.anew.push(target);
                }
                match status {
                    Some("new") => return Status::New,
                    // Not here: the engine's clock was set, which will have been noticed when all is said again.
                    Some("over") if !until.is_over(now.after(MUCH)) => {
                        self.health.unsaid.fetch_add(1, Ordering::Relaxed);
                        self.unsaid.say(|| format!("the ban of {target} is over by the engine's clock: was that set?"));
                        self.again.get_or_insert(Instant::now() + SAY_AGAIN);
                    }
                    Some("limited") => {
                        self.health.refused.fetch_add(1, Ordering::Relaxed);
                        self.again.get_or_insert(Instant::now() + MINUTE);
                    }
                    _ => {}
                }
            }
            Item::Strike { offence, rule, at, .. } => {
                let count: u32 = redis::from_redis_value_ref(answer).unwrap_or(0);
                if count >= rule.maxretry {
                    engine.ban_by_count(now, at, &rule, &offence, count);
                }
            }
            Item::Forget { node, at } => {
                self.health.provenance().forgot(&node, at.unwrap_or(now));
                if redis::from_redis_value_ref::<u8>(answer).unwrap_or(0) == 1 {
                    self.forgetting.push_back((node, Walk::new(usize::MAX)));
                }
            }
            Item::Lift { .. } => {}
        }
        Status::Other
    }
}

/// What the engine says of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// A ban that it did not know.
    New,
    Other,
}
