//! Tests of [`Engine`]: events in, verdicts out, with the time handed in and a disk that somebody else moves.

use super::*;
use crate::detector::Judgement;
use crate::event::{Connection, Event, Request};
use crate::rule::set::Scratch;
use std::path::Path;
use std::sync::mpsc::channel;

fn engine_with(text: &str, keeper: Option<Box<dyn Keeper>>) -> Arc<Engine> {
    let names = Arc::new(Names::default());
    let config = Config::parse(text.as_bytes(), Path::new("test.toml"), &names).unwrap();
    let engine = Engine::new(names, config.into(), 1000, 1000).unwrap();
    if let Some(keeper) = keeper {
        engine.keep_with(keeper);
    }
    Arc::new(engine)
}

fn engine(text: &str) -> Arc<Engine> {
    engine_with(text, None)
}

fn at(seconds: u64) -> Time {
    Time::from_secs(1_800_000_000 + seconds)
}

/// What `event` of `address` is answered, whole.
fn ask(engine: &Arc<Engine>, now: Time, address: &str, event: &Event<'_>) -> Verdict {
    let in_force = engine.in_force();
    match in_force.detector(engine.bans()).judge(now, address.parse().unwrap(), event, &mut Scratch::default()) {
        Judgement::Settled { verdict, .. } => verdict,
        Judgement::Unkept(verdict) => answer(|reply| engine.when_kept(verdict, reply)),
        Judgement::Offence(offence) => {
            let surface = if matches!(event, Event::Connection(_)) { Surface::Mail } else { Surface::Web };
            answer(|reply| engine.offend(now, &offence, surface, reply))
        }
    }
}

fn answer(give: impl FnOnce(Reply)) -> Verdict {
    let (sender, receiver) = channel();
    give(Reply::new(move |verdict| sender.send(verdict).unwrap()));
    receiver.recv().unwrap()
}

fn get(url: &str) -> Event<'_> {
    Event::Request(Request { method: b"GET", url: url.as_bytes(), ..Request::default() })
}

fn grounds(verdict: &Verdict) -> Option<Grounds> {
    verdict.refusal().map(|refusal| refusal.grounds)
}

#[test]
fn the_offending_request_itself_is_denied_and_everything_after_it_until_the_ban_ends() {
    let engine = engine("");
    assert_eq!(grounds(&ask(&engine, at(0), "192.0.2.1", &get("/w00tw00t"))), Some(Grounds::Struck));
    assert_eq!(grounds(&ask(&engine, at(1), "192.0.2.1", &get("/"))), Some(Grounds::Banned));
    assert_eq!(grounds(&ask(&engine, at(3599), "192.0.2.1", &get("/w00tw00t"))), Some(Grounds::Banned), "extends nothing");
    assert_eq!(grounds(&ask(&engine, at(3600), "192.0.2.1", &get("/"))), None);
    assert_eq!(grounds(&ask(&engine, at(1), "192.0.2.2", &get("/"))), None);
}

#[test]
fn maxretry_offences_within_findtime_make_a_ban_and_the_count_starts_anew_after_it() {
    let engine = engine("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 3\nbantime = '1m'");
    for round in [0, 100] {
        assert!(matches!(ask(&engine, at(round), "192.0.2.1", &get("/admin")), Verdict::Allow(Innocence::Counted { count: 1, .. })));
        assert!(matches!(ask(&engine, at(round + 1), "192.0.2.1", &get("/admin")), Verdict::Allow(Innocence::Counted { count: 2, .. })));
        assert_eq!(grounds(&ask(&engine, at(round + 2), "192.0.2.1", &get("/admin"))), Some(Grounds::Struck));
    }
}

#[test]
fn a_rule_over_the_query_refuses_each_offence_and_bans_at_maxretry() {
    let engine = engine("[[rule]]\nname = 'sql'\nquery = 'union select'\nmaxretry = 2");
    assert_eq!(grounds(&ask(&engine, at(0), "192.0.2.1", &get("/?q=1%20union%20select"))), Some(Grounds::Offence));
    assert_eq!(grounds(&ask(&engine, at(1), "192.0.2.1", &get("/"))), None);
    assert_eq!(grounds(&ask(&engine, at(2), "192.0.2.1", &get("/?q=1%20union%20select"))), Some(Grounds::Struck));
    assert_eq!(grounds(&ask(&engine, at(3), "192.0.2.1", &get("/"))), Some(Grounds::Banned));
}

#[test]
fn shadow_mode_counts_and_remembers_and_never_refuses() {
    let engine = engine("[[rule]]\nname = 'w00tw00t'\nmode = 'shadow'");
    for seconds in 0..5 {
        assert_eq!(grounds(&ask(&engine, at(seconds), "192.0.2.1", &get("/w00tw00t"))), None);
    }
    assert_eq!(engine.tallies().shadow_bans.load(Ordering::Relaxed), 1);
    assert!(engine.shadow("192.0.2.1".parse::<std::net::Ipv4Addr>().unwrap().into(), Surface::Web, at(5)).is_some());
    assert!(engine.bans().is_empty());
}

#[test]
fn too_many_connections_in_a_minute_are_deferred_from_the_hundredth_on() {
    let engine = engine("");
    let connection = Event::Connection(Connection { port: Some(25), open: 1 });
    for number in 1..100 {
        assert_eq!(grounds(&ask(&engine, at(number / 2), "192.0.2.1", &connection)), None, "{number}");
    }
    assert!(matches!(ask(&engine, at(50), "192.0.2.1", &connection), Verdict::Defer(Refusal { grounds: Grounds::Struck, .. })));
    assert_eq!(grounds(&ask(&engine, at(51), "192.0.2.1", &get("/"))), None, "its scope is mail");
}

#[test]
fn the_eleventh_connection_at_once_is_deferred_and_ten_such_refusals_ban() {
    let engine = engine("");
    let open = |open| Event::Connection(Connection { port: Some(25), open });
    assert_eq!(grounds(&ask(&engine, at(0), "192.0.2.1", &open(10))), None);
    for number in 1..10 {
        assert_eq!(grounds(&ask(&engine, at(number), "192.0.2.1", &open(11))), Some(Grounds::Offence), "{number}");
    }
    assert_eq!(grounds(&ask(&engine, at(10), "192.0.2.1", &open(11))), Some(Grounds::Struck));
    assert_eq!(grounds(&ask(&engine, at(11), "192.0.2.1", &open(1))), Some(Grounds::Banned));
}

#[test]
fn a_rate_of_requests_bans_with_the_read_that_reaches_it() {
    let engine = engine("[[rule]]\nname = 'rate'\nevent = 'request'\nmaxretry = 50\nfindtime = '1m'");
    let address = "192.0.2.1".parse().unwrap();
    let client = Client::of(address, Ipv6Prefix::default());
    engine.tally(at(0), &mut vec![Tallied::new(address, client, 20), Tallied::new(address, client, 29)]);
    assert_eq!(grounds(&ask(&engine, at(1), "192.0.2.1", &get("/"))), None);
    engine.tally(at(1), &mut vec![Tallied::new(address, client, 1)]);
    assert_eq!(grounds(&ask(&engine, at(2), "192.0.2.1", &get("/"))), Some(Grounds::Banned));
}

#[test]
fn rates_that_are_reached_together_all_ban_and_who_is_banned_is_not_counted() {
    let engine = engine(
        "[[rule]]\nname = 'short'\nevent = 'request'\nmaxretry = 10\nfindtime = '1m'\nbantime = '1m'\n\
         [[rule]]\nname = 'long'\nevent = 'request'\nmaxretry = 20\nfindtime = '1h'\nbantime = '1d'",
    );
    let address = "192.0.2.1".parse().unwrap();
    let client = Client::of(address, Ipv6Prefix::default());
    let until = |now| engine.bans().get(client, Surface::Web, at(now)).map(|ban| ban.until.remaining(at(now)).unwrap().secs());
    engine.tally(at(0), &mut vec![Tallied::new(address, client, 10)]);
    assert_eq!(until(0), Some(60));
    engine.tally(at(1), &mut vec![Tallied::new(address, client, 10)]);
    assert_eq!(until(1), Some(59), "banned, it counts nothing");
    engine.tally(at(100), &mut vec![Tallied::new(address, client, 10)]);
    assert_eq!(until(100), Some(86_400), "both are reached, and the longer ban stands");
}

#[test]
fn later_bans_last_longer_and_are_forgotten_in_time() {
    let engine = engine("[[rule]]\nname = 'w00tw00t'\nbantime = { initial = '1m', increment = true, forget = '1h' }");
    let length = |now| match ask(&engine, at(now), "192.0.2.1", &get("/w00tw00t")) {
        Verdict::Deny(refusal) => refusal.until.remaining(at(now)).unwrap().secs(),
        verdict => panic!("{verdict:?}"),
    };
    assert_eq!([length(0), length(100), length(300), length(300 + 3600)], [60, 120, 240, 60]);
}

/// A disk that somebody else moves.
#[derive(Default, Clone)]
struct Slow(Arc<Mutex<Vec<Done>>>);

impl Keeper for Slow {
    fn keep(&self, _: Change, done: Done) {
        self.0.lock().unwrap().push(done);
    }

    fn flush(&self, done: Done) {
        self.0.lock().unwrap().push(done);
    }
}

#[test]
fn answers_that_rest_on_an_unsaved_ban_wait_for_the_disk_and_followers_hear_of_it_first() {
    let disk = Slow::default();
    let engine = engine_with("", Some(Box::new(disk.clone())));
    let (sender, events) = channel();
    let told = sender.clone();
    engine.observe(move |change| told.send(format!("{change:?}").split_once('(').unwrap().0.to_owned()).unwrap());
    let offence = match engine.in_force().detector(engine.bans()).judge(
        at(0),
        "192.0.2.1".parse().unwrap(),
        &get("/w00tw00t"),
        &mut Scratch::default(),
    ) {
        Judgement::Offence(offence) => offence,
        other => panic!("{other:?}"),
    };
    let answered = sender.clone();
    engine.offend(at(0), &offence, Surface::Web, Reply::new(move |verdict| answered.send(format!("{:?}", grounds(&verdict))).unwrap()));
    assert!(events.try_recv().is_err());
    let done = disk.0.lock().unwrap().remove(0);
    done(Kept::Yes);
    assert_eq!([events.recv().unwrap(), events.recv().unwrap()], ["Banned", "Some(Struck)"]);
    assert_eq!(grounds(&ask(&engine, at(1), "192.0.2.1", &get("/"))), Some(Grounds::Banned));
}

#[test]
fn when_the_disk_is_too_slow_the_refusal_leaves_all_the_same_and_is_counted() {
    let disk = Slow::default();
    let engine = engine_with("", Some(Box::new(disk.clone())));
    assert_eq!(grounds(&ask(&engine, at(0), "192.0.2.1", &get("/w00tw00t"))), Some(Grounds::Struck));
    assert_eq!(engine.tallies().unsaved_answers.load(Ordering::Relaxed), 1);
    assert_eq!(grounds(&ask(&engine, at(1), "192.0.2.1", &get("/"))), Some(Grounds::Banned));
}

#[test]
fn a_restored_ban_lasts_no_longer_from_now_than_it_was_meant_to() {
    let engine = engine("");
    let client = Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    let ahead = 1_000_000;
    let record = BanRecord {
        client,
        scope: Scope::All,
        rule: "w00tw00t".into(),
        first: at(ahead),
        since: at(ahead),
        until: Until::at(at(ahead + 3600)),
        count: 1,
        times: 1,
        evidence: Evidence::new(&[]),
        node: "".into(),
    };
    engine.restore(&record, at(0));
    assert_eq!(engine.bans().get(client, Surface::Web, at(1)).map(|ban| ban.until), Some(Until::at(at(3600))));
    engine.restore(&record, at(2 * ahead));
    assert_eq!(engine.bans().len(), 1, "an ended ban is not restored");
}

/// Bans and unbans each client at once, as rules, operators and other machines do: what each thread does is over in a microsecond, so they
/// spin until all are there.
fn race(engine: &Arc<Engine>, clients: &[Client], clock: crate::clock::Clock) {
    use std::sync::atomic::AtomicUsize;
    const THREADS: usize = 3;
    let arrived = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let arrived = &arrived;
            scope.spawn(move || {
                for (round, client) in clients.iter().enumerate() {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while arrived.load(Ordering::SeqCst) < (round + 1) * THREADS {
                        std::thread::yield_now();
                    }
                    let now = clock.now();
                    let scope = [Scope::All, Scope::All, Scope::Web, Scope::Mail][(round / 3 + thread) % 4];
                    if (round + thread) % THREADS == 0 {
                        engine.unban(now, *client, scope, Reply::new(|_| ()));
                    } else {
                        let until = Until::at(now.after(crate::time::Span::from_secs(3600 + thread as u64)));
                        engine.ban(BanRecord { until, scope, ..record(*client, now) }, Reply::new(|_| ()));
                    }
                }
            });
        }
    });
}

fn record(client: Client, now: Time) -> BanRecord {
    BanRecord {
        client,
        scope: Scope::All,
        rule: "w00tw00t".into(),
        first: now,
        since: now,
        until: Until::NEVER,
        count: 1,
        times: 1,
        evidence: Evidence::new(&[]),
        node: "".into(),
    }
}

/// Where a follower that hears every change refuses, until when.
#[derive(Default)]
struct Follower(Mutex<Standing>);

type Standing = std::collections::BTreeMap<(Client, &'static str), Until>;

impl Follower {
    fn hear(&self, change: &Change) {
        let mut standing = self.0.lock().unwrap();
        match change {
            Change::Banned(record) => record.scope.surfaces().iter().for_each(|surface| {
                let until = standing.entry((record.client, name(*surface))).or_insert(record.until);
                *until = record.until.max(*until);
            }),
            Change::Unbanned { client, scope, .. } => scope.surfaces().iter().for_each(|surface| {
                standing.remove(&(*client, name(*surface)));
            }),
            _ => {}
        }
    }
}

fn name(surface: Surface) -> &'static str {
    if surface == Surface::Web { "web" } else { "mail" }
}

#[test]
fn after_bans_and_unbans_of_one_client_that_met_memory_file_and_followers_agree() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let roomy = || {
        let names = Arc::new(Names::default());
        let config = Config::parse(b"", Path::new("test.toml"), &names).unwrap();
        Arc::new(Engine::new(names, config.into(), 1000, 1_000_000).unwrap())
    };
    let (engine, clock, follower) = (roomy(), crate::clock::Clock::start(), Arc::new(Follower::default()));
    let state = durable::StateFile::open(&engine, clock, &path).unwrap();
    let hears = Arc::clone(&follower);
    engine.observe(move |change| hears.hear(change));
    let clients: Vec<Client> = (0..20_000).map(|number| Client::from(std::net::Ipv4Addr::from(0x0a00_0000 + number))).collect();
    // No more at a time than the writer's queue holds.
    for (number, some) in (1..).zip(clients.chunks(4000)) {
        race(&engine, some, clock);
        while state.health().failed == 0 && state.health().saved < number * 3 * 4000 {
            std::thread::yield_now();
        }
    }
    state.finish(clock.now(), std::time::Duration::from_secs(60));
    assert_eq!(state.health().failed, 0);
    let in_memory = |engine: &Engine| {
        let mut standing = Standing::new();
        engine.bans().for_each(clock.now(), |client, surface, ban| _ = standing.insert((client, name(surface)), ban.until));
        standing
    };
    let standing = in_memory(&engine);
    let differences = |other: &Standing| {
        standing.iter().filter(|(key, until)| other.get(key) != Some(until)).count()
            + other.keys().filter(|key| !standing.contains_key(key)).count()
    };
    assert!(standing.len() > 20_000 && standing.len() < 40_000, "{} of 40,000", standing.len());
    assert_eq!(differences(&follower.0.lock().unwrap()), 0, "followers");
    let next = roomy();
    let _state = durable::StateFile::open(&next, clock, &path).unwrap();
    assert_eq!(differences(&in_memory(&next)), 0, "the file");
}

#[test]
fn no_query_waits_for_the_turn_in_which_bans_are_made_nor_does_an_offence_that_bans_nobody() {
    let engine = engine("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 2");
    let _ = ask(&engine, at(0), "192.0.2.1", &get("/w00tw00t"));
    for (address, events, answers) in [
        ("192.0.2.1", vec![get("/")], vec![Some(Grounds::Banned)]),
        ("192.0.2.2", vec![get("/"), Event::Connection(Connection { port: Some(25), open: 1 }), get("/admin")], vec![None; 3]),
    ] {
        // Somebody is at it, and does not come to an end.
        let _turn = engine.order.of(&Client::of(address.parse().unwrap(), Ipv6Prefix::default()));
        let (sender, received) = channel();
        let asking = Arc::clone(&engine);
        std::thread::spawn(move || events.iter().for_each(|event| sender.send(grounds(&ask(&asking, at(1), address, event))).unwrap()));
        for answer in answers {
            assert_eq!(received.recv_timeout(std::time::Duration::from_secs(20)), Ok(answer), "{address} waits");
        }
    }
}

/// A disk that somebody else moves, and that is full for bans when told so.
#[derive(Default, Clone)]
struct Full {
    disk: Slow,
    is_full: Arc<std::sync::atomic::AtomicBool>,
}

impl Keeper for Full {
    fn keep(&self, change: Change, done: Done) {
        if self.has_overflowed() && matches!(change, Change::Banned(_)) {
            done(Kept::No("full".into()))
        } else {
            self.disk.keep(change, done)
        }
    }

    fn flush(&self, done: Done) {
        self.disk.flush(done);
    }

    fn has_overflowed(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}

#[test]
fn a_ban_that_overtakes_an_unban_because_the_queue_is_full_stands_for_followers_too() {
    let keeper = Full::default();
    let engine = engine_with("", Some(Box::new(keeper.clone())));
    let follower = Arc::new(Follower::default());
    let hears = Arc::clone(&follower);
    engine.observe(move |change| hears.hear(change));
    let client = Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    engine.ban(record(client, at(0)), Reply::new(|_| ()));
    engine.unban(at(1), client, Scope::All, Reply::new(|_| ()));
    keeper.is_full.store(true, Ordering::Relaxed);
    engine.ban(record(client, at(2)), Reply::new(|_| ()));
    let waiting = std::mem::take(&mut *keeper.disk.0.lock().unwrap());
    assert_eq!(waiting.len(), 2);
    waiting.into_iter().for_each(|done| done(Kept::Yes));
    assert_eq!(follower.0.lock().unwrap().len(), 2);
    assert!(engine.bans().get(client, Surface::Web, at(3)).is_some());
}
