//! Tests of [`Engine`]: events in, verdicts out, with the time as an argument and a journal that the test controls.

mod accounts;
mod crowds;
mod repeats;
mod upkeep;

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use super::fixtures::{TestObserver, record};
use super::reply::Reply;
use super::*;
use crate::client::Ipv6Prefix;
use crate::detector::{Detector, Judgement};
use crate::event::{Connection, Event, Request, Scope};
use crate::rule::set::Scratch;
use crate::table::{RequestTally, Until};
use crate::verdict::{AllowReason, DenyReason, Refusal, Verdict};

fn engine_with(text: &str, journal: Option<Box<dyn Journal>>) -> Arc<Engine> {
    let names = Arc::new(RuleNames::default());
    let policy = Policy::for_tests(text, &names);
    let engine = Engine::new(names, policy, 1000, 1000).unwrap();
    if let Some(journal) = journal {
        engine.set_journal(journal);
    }
    Arc::new(engine)
}

fn engine(text: &str) -> Arc<Engine> {
    engine_with(text, None)
}

fn at(seconds: u64) -> Time {
    Time::from_secs(1_800_000_000 + seconds)
}

/// The answer to `event` of `address`, after counting it.
fn ask(engine: &Arc<Engine>, now: Time, address: &str, event: &Event<'_>) -> Verdict {
    let policy = engine.policy();
    match Detector::new(&policy, engine.bans()).judge(now, address.parse().unwrap(), event, &mut Scratch::default()) {
        Judgement::Settled { verdict, .. } => verdict,
        Judgement::Ask { .. } => panic!("the engine knows where clients belong"),
        Judgement::Unsaved(verdict) => answer(|reply| engine.when_persisted(verdict, reply)),
        Judgement::Offence(offence) => {
            let service = if matches!(event, Event::Connection(_)) { Service::Mail } else { Service::Web };
            answer(|reply| engine.record_offence(now, &offence, service, reply))
        }
    }
}

fn answer(ask: impl FnOnce(Reply)) -> Verdict {
    let (sender, receiver) = channel();
    ask(Reply::new(move |verdict| sender.send(verdict).unwrap()));
    receiver.recv().unwrap()
}

fn request(url: &str) -> Request<'_> {
    Request { method: b"GET", url: url.as_bytes(), ..Request::default() }
}

fn get(url: &str) -> Event<'_> {
    Event::Request(request(url))
}

fn reason(verdict: &Verdict) -> Option<DenyReason> {
    verdict.refusal().map(|refusal| refusal.reason)
}

#[test]
fn the_offending_request_and_everything_after_it_is_denied_until_the_ban_ends() {
    let engine = engine("");
    assert_eq!(reason(&ask(&engine, at(0), "192.0.2.1", &get("/w00tw00t"))), Some(DenyReason::Struck));
    assert_eq!(reason(&ask(&engine, at(1), "192.0.2.1", &get("/"))), Some(DenyReason::Banned));
    assert_eq!(
        reason(&ask(&engine, at(3599), "192.0.2.1", &get("/w00tw00t"))),
        Some(DenyReason::Banned),
        "an offence during the ban does not extend it"
    );
    assert_eq!(reason(&ask(&engine, at(3600), "192.0.2.1", &get("/"))), None);
    assert_eq!(reason(&ask(&engine, at(1), "192.0.2.2", &get("/"))), None);
}

#[test]
fn maxretry_offences_within_findtime_ban_and_the_count_restarts_after_the_ban() {
    let engine = engine("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 3\nbantime = '1m'");
    for round in [0, 100] {
        assert!(matches!(ask(&engine, at(round), "192.0.2.1", &get("/admin")), Verdict::Allow(AllowReason::Counted { count: 1, .. })));
        assert!(matches!(ask(&engine, at(round + 1), "192.0.2.1", &get("/admin")), Verdict::Allow(AllowReason::Counted { count: 2, .. })));
        assert_eq!(reason(&ask(&engine, at(round + 2), "192.0.2.1", &get("/admin"))), Some(DenyReason::Struck));
    }
}

#[test]
fn a_rule_over_the_query_refuses_each_offence_and_bans_at_maxretry() {
    let engine = engine("[[rule]]\nname = 'sql'\nquery = 'union select'\nmaxretry = 2");
    assert_eq!(reason(&ask(&engine, at(0), "192.0.2.1", &get("/?q=1%20union%20select"))), Some(DenyReason::Offence));
    assert_eq!(reason(&ask(&engine, at(1), "192.0.2.1", &get("/"))), None);
    assert_eq!(reason(&ask(&engine, at(2), "192.0.2.1", &get("/?q=1%20union%20select"))), Some(DenyReason::Struck));
    assert_eq!(reason(&ask(&engine, at(3), "192.0.2.1", &get("/"))), Some(DenyReason::Banned));
}

#[test]
fn a_rule_in_shadow_mode_counts_and_never_refuses() {
    let engine = engine("[[rule]]\nname = 'w00tw00t'\nmode = 'shadow'");
    for seconds in 0..5 {
        assert_eq!(reason(&ask(&engine, at(seconds), "192.0.2.1", &get("/w00tw00t"))), None);
    }
    assert_eq!(engine.stats().shadow_bans.load(Ordering::Relaxed), 1);
    assert!(engine.shadow_ban("192.0.2.1".parse::<std::net::Ipv4Addr>().unwrap().into(), Service::Web, at(5)).is_some());
    assert!(engine.bans().is_empty());
}

#[test]
fn the_hundredth_connection_in_a_minute_is_deferred() {
    let engine = engine("");
    let connection = Event::Connection(Connection { port: Some(25), open: 1 });
    for number in 1..100 {
        assert_eq!(reason(&ask(&engine, at(number / 2), "192.0.2.1", &connection)), None, "{number}");
    }
    assert!(matches!(ask(&engine, at(50), "192.0.2.1", &connection), Verdict::Defer(Refusal { reason: DenyReason::Struck, .. })));
    assert_eq!(reason(&ask(&engine, at(51), "192.0.2.1", &get("/"))), None, "its scope is mail");
}

#[test]
fn the_eleventh_connection_at_once_is_deferred_and_ten_such_refusals_ban() {
    let engine = engine("");
    let open = |open| Event::Connection(Connection { port: Some(25), open });
    assert_eq!(reason(&ask(&engine, at(0), "192.0.2.1", &open(10))), None);
    for number in 1..10 {
        assert_eq!(reason(&ask(&engine, at(number), "192.0.2.1", &open(11))), Some(DenyReason::Offence), "{number}");
    }
    assert_eq!(reason(&ask(&engine, at(10), "192.0.2.1", &open(11))), Some(DenyReason::Struck));
    assert_eq!(reason(&ask(&engine, at(11), "192.0.2.1", &open(1))), Some(DenyReason::Banned));
}

#[test]
fn a_rate_of_requests_bans_with_the_read_that_reaches_it() {
    let engine = engine("[[rule]]\nname = 'rate'\nevent = 'request'\nmaxretry = 50\nfindtime = '1m'");
    let address = "192.0.2.1".parse().unwrap();
    let client = Client::of(address, Ipv6Prefix::default());
    engine.count_requests(at(0), &mut vec![RequestTally::new(address, client, 20), RequestTally::new(address, client, 29)]);
    assert_eq!(reason(&ask(&engine, at(1), "192.0.2.1", &get("/"))), None);
    engine.count_requests(at(1), &mut vec![RequestTally::new(address, client, 1)]);
    assert_eq!(reason(&ask(&engine, at(2), "192.0.2.1", &get("/"))), Some(DenyReason::Banned));
}

#[test]
fn every_rate_reached_in_one_read_bans_and_requests_of_banned_clients_do_not_count() {
    let engine = engine(
        "[[rule]]\nname = 'short'\nevent = 'request'\nmaxretry = 10\nfindtime = '1m'\nbantime = '1m'\n\
         [[rule]]\nname = 'long'\nevent = 'request'\nmaxretry = 20\nfindtime = '1h'\nbantime = '1d'",
    );
    let address = "192.0.2.1".parse().unwrap();
    let client = Client::of(address, Ipv6Prefix::default());
    let until = |now| engine.bans().get(client, Service::Web, at(now)).map(|ban| ban.until.remaining(at(now)).unwrap().secs());
    engine.count_requests(at(0), &mut vec![RequestTally::new(address, client, 10)]);
    assert_eq!(until(0), Some(60));
    engine.count_requests(at(1), &mut vec![RequestTally::new(address, client, 10)]);
    assert_eq!(until(1), Some(59), "requests of a banned client do not count");
    engine.count_requests(at(100), &mut vec![RequestTally::new(address, client, 10)]);
    assert_eq!(until(100), Some(86_400), "both rates are reached, and the longer ban stays");
}

#[test]
fn later_bans_last_longer_until_earlier_ones_are_forgotten() {
    let engine = engine("[[rule]]\nname = 'w00tw00t'\nbantime = { initial = '1m', increment = true, forget = '1h' }");
    let length = |now| match ask(&engine, at(now), "192.0.2.1", &get("/w00tw00t")) {
        Verdict::Deny(refusal) => refusal.until.remaining(at(now)).unwrap().secs(),
        verdict => panic!("{verdict:?}"),
    };
    assert_eq!([length(0), length(100), length(300), length(300 + 3600)], [60, 120, 240, 60]);
}

/// A journal whose callbacks the test calls.
#[derive(Default, Clone)]
struct ManualJournal(Arc<Mutex<Vec<OnPersisted>>>);

impl Journal for ManualJournal {
    fn persist(&self, _: Change, on_persisted: OnPersisted) {
        self.0.lock().push(on_persisted);
    }

    fn flush(&self, on_persisted: OnPersisted) {
        self.0.lock().push(on_persisted);
    }
}

#[test]
fn an_answer_waits_until_its_ban_is_saved_and_observers_are_notified_before_it() {
    let journal = ManualJournal::default();
    let engine = engine_with("", Some(Box::new(journal.clone())));
    let (sender, events) = channel();
    let observed = sender.clone();
    engine.observe(move |change| observed.send(format!("{change:?}").split_once('(').unwrap().0.to_owned()).unwrap());
    let offence = match Detector::new(&engine.policy(), engine.bans()).judge(
        at(0),
        "192.0.2.1".parse().unwrap(),
        &get("/w00tw00t"),
        &mut Scratch::default(),
    ) {
        Judgement::Offence(offence) => offence,
        other => panic!("{other:?}"),
    };
    let answered = sender.clone();
    engine.record_offence(
        at(0),
        &offence,
        Service::Web,
        Reply::new(move |verdict| answered.send(format!("{:?}", reason(&verdict))).unwrap()),
    );
    assert!(events.try_recv().is_err());
    let on_persisted = journal.0.lock().remove(0);
    on_persisted(Persisted::Yes);
    assert_eq!([events.recv().unwrap(), events.recv().unwrap()], ["Banned", "Some(Struck)"]);
    assert_eq!(reason(&ask(&engine, at(1), "192.0.2.1", &get("/"))), Some(DenyReason::Banned));
}

#[test]
fn a_slow_journal_does_not_hold_back_the_refusal_beyond_the_time_limit() {
    let journal = ManualJournal::default();
    let engine = engine_with("", Some(Box::new(journal.clone())));
    assert_eq!(reason(&ask(&engine, at(0), "192.0.2.1", &get("/w00tw00t"))), Some(DenyReason::Struck));
    assert_eq!(engine.stats().unsaved_answers.load(Ordering::Relaxed), 1);
    assert_eq!(reason(&ask(&engine, at(1), "192.0.2.1", &get("/"))), Some(DenyReason::Banned));
}

#[test]
fn while_the_disk_stalls_the_queries_of_a_client_that_was_refused_do_not_wait() {
    let journal = ManualJournal::default();
    let engine = engine_with("", Some(Box::new(journal.clone())));
    let waits = || {
        let before = journal.0.lock().len();
        assert_eq!(reason(&ask(&engine, at(1), "192.0.2.1", &get("/"))), Some(DenyReason::Banned));
        journal.0.lock().len() > before
    };
    for client in ["192.0.2.2", "192.0.2.1"] {
        assert_eq!(reason(&ask(&engine, at(0), client, &get("/w00tw00t"))), Some(DenyReason::Struck));
    }
    assert!(!waits(), "its ban was answered unsaved");
    let on_persisted = journal.0.lock().remove(0);
    on_persisted(Persisted::Yes);
    assert!(waits(), "the disk has saved another ban meanwhile");
}

#[test]
fn a_panic_in_one_observer_keeps_a_ban_neither_from_the_others_nor_from_its_answer() {
    let engine = engine("");
    let (sender, observed) = channel();
    engine.observe(|_| panic!("a fault of the hook"));
    engine.observe(move |_| sender.send(()).unwrap());
    assert_eq!(reason(&ask(&engine, at(0), "192.0.2.1", &get("/w00tw00t"))), Some(DenyReason::Struck));
    assert_eq!(observed.try_iter().count(), 1);
}

#[test]
fn what_a_slow_journal_cannot_save_in_time_is_published_once_in_order_and_before_the_answer() {
    let journal = ManualJournal::default();
    let engine = engine_with("", Some(Box::new(journal.clone())));
    let (sender, events) = channel();
    let observed = sender.clone();
    engine.observe(move |change| {
        let name = if matches!(change, Change::Banned(_)) { "banned" } else { "unbanned" };
        observed.send(name).unwrap();
    });
    let completion = |name| {
        let sender = sender.clone();
        Completion::new(move |_| sender.send(name).unwrap())
    };
    let client = Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    engine.ban(record(client, at(0)), completion("ban answered"));
    engine.unban(at(1), client, Scope::All, completion("unban answered"));
    let told = || events.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    assert_eq!([told(), told(), told(), told()], ["banned", "ban answered", "unbanned", "unban answered"]);
    std::mem::take(&mut *journal.0.lock()).into_iter().for_each(|on_persisted| on_persisted(Persisted::Yes));
    assert_eq!(events.try_recv().ok(), None, "told twice");
}

#[test]
fn a_ban_applied_from_another_clock_lasts_no_longer_than_its_length_from_now() {
    let engine = engine("");
    let client = Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    let ahead = 1_000_000;
    let change = Change::Banned(BanRecord { until: Until::at(at(ahead + 3600)), ..record(client, at(ahead)) });
    engine.apply(&change, at(0));
    assert_eq!(engine.bans().get(client, Service::Web, at(1)).map(|ban| ban.until), Some(Until::at(at(3600))));
    engine.apply(&change, at(2 * ahead));
    assert_eq!(engine.bans().len(), 1, "an ended ban is not applied");
}

#[test]
fn neither_a_query_nor_an_offence_below_maxretry_waits_for_the_client_lock() {
    let engine = engine("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 2");
    let _ = ask(&engine, at(0), "192.0.2.1", &get("/w00tw00t"));
    for (address, events, answers) in [
        ("192.0.2.1", vec![get("/")], vec![Some(DenyReason::Banned)]),
        ("192.0.2.2", vec![get("/"), Event::Connection(Connection { port: Some(25), open: 1 }), get("/admin")], vec![None; 3]),
    ] {
        let _lock = engine.client_locks.lock(&Client::of(address.parse().unwrap(), Ipv6Prefix::default()));
        let (sender, received) = channel();
        let asking = Arc::clone(&engine);
        std::thread::spawn(move || events.iter().for_each(|event| sender.send(reason(&ask(&asking, at(1), address, event))).unwrap()));
        for answer in answers {
            assert_eq!(received.recv_timeout(std::time::Duration::from_secs(20)), Ok(answer), "{address} waits");
        }
    }
}

/// A [`ManualJournal`] whose queue is full for bans when the test says so.
#[derive(Default, Clone)]
struct FullJournal {
    waiting: ManualJournal,
    is_full: Arc<std::sync::atomic::AtomicBool>,
}

impl Journal for FullJournal {
    fn persist(&self, change: Change, on_persisted: OnPersisted) {
        if self.has_overflowed() && matches!(change, Change::Banned(_)) {
            on_persisted(Persisted::No("full".into()))
        } else {
            self.waiting.persist(change, on_persisted)
        }
    }

    fn flush(&self, on_persisted: OnPersisted) {
        self.waiting.flush(on_persisted);
    }

    fn has_overflowed(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}

#[test]
fn a_ban_that_overtakes_an_unban_in_a_full_queue_is_published_again() {
    let journal = FullJournal::default();
    let engine = engine_with("", Some(Box::new(journal.clone())));
    let observer = Arc::new(TestObserver::default());
    let notified = Arc::clone(&observer);
    engine.observe(move |change| notified.notify(change));
    let client = Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    engine.ban(record(client, at(0)), Completion::ignored());
    engine.unban(at(1), client, Scope::All, Completion::ignored());
    journal.is_full.store(true, Ordering::Relaxed);
    engine.ban(record(client, at(2)), Completion::ignored());
    let waiting = std::mem::take(&mut *journal.waiting.0.lock());
    assert_eq!(waiting.len(), 2);
    waiting.into_iter().for_each(|on_persisted| on_persisted(Persisted::Yes));
    assert_eq!(observer.0.lock().len(), 2);
    assert!(engine.bans().get(client, Service::Web, at(3)).is_some());
}

#[test]
fn a_ban_that_overtakes_the_end_of_a_lifted_rule_in_a_full_queue_is_published_again() {
    let journal = FullJournal::default();
    let engine = engine_with("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 1", Some(Box::new(journal.clone())));
    let banned = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&banned);
    engine.observe(move |change| {
        told.lock().push(match change {
            Change::Banned(record) => record.rule.to_string(),
            Change::RuleLifted { .. } => "lifted".into(),
            _ => "other".into(),
        });
    });
    let client = Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    engine.ban(BanRecord { rule: "admin".into(), ..record(client, at(0)) }, Completion::ignored());
    let off = "[[rule]]\nname = 'admin'\npath = '/admin'\nenabled = false";
    engine.reload(at(1), Policy::for_tests(off, engine.names()), SavedBans::End);
    journal.is_full.store(true, Ordering::Relaxed);
    engine.ban(BanRecord { rule: "manual".into(), ..record(client, at(2)) }, Completion::ignored());
    let waiting = std::mem::take(&mut *journal.waiting.0.lock());
    waiting.into_iter().for_each(|on_persisted| on_persisted(Persisted::Yes));
    // What the slow journal has not saved in time is published before, so only the end is sure.
    let banned = banned.lock();
    let lifted = banned.iter().position(|change| change == "lifted");
    assert!(lifted.is_some_and(|at| banned[at..].contains(&"manual".to_owned())), "{banned:?}");
}

fn reported(change: impl FnOnce(Completion)) -> Result<Applied, Abandoned> {
    let (sender, reports) = channel();
    change(Completion::new(move |report| sender.send(report).unwrap()));
    reports.recv_timeout(std::time::Duration::from_secs(10)).unwrap()
}

#[test]
fn a_change_reports_whether_it_made_a_difference() {
    let engine = engine("");
    let client = Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    let changed = |change: &dyn Fn(Completion)| reported(change).map(|applied| (applied.changed, applied.persisted));
    let ban = |until, scope| {
        let engine = &engine;
        move |completion| engine.ban(BanRecord { until: Until::at(at(until)), scope, ..record(client, at(0)) }, completion)
    };
    assert_eq!(changed(&ban(600, Scope::Mail)), Ok((true, Persisted::Yes)));
    assert_eq!(changed(&ban(60, Scope::Mail)), Ok((false, Persisted::Yes)), "a longer ban stays");
    assert_eq!(changed(&|completion| engine.unban(at(1), client, Scope::Web, completion)), Ok((false, Persisted::Yes)));
    assert_eq!(changed(&|completion| engine.unban(at(1), client, Scope::All, completion)), Ok((true, Persisted::Yes)));
    let network: ipnet::IpNet = "198.51.100.0/24".parse().unwrap();
    assert_eq!(changed(&|completion| engine.unban_network(at(1), network.into(), completion)), Ok((false, Persisted::Yes)));
}

#[test]
fn an_ordered_change_that_cannot_be_saved_reports_why() {
    let full = FullJournal { waiting: ManualJournal::default(), is_full: Arc::new(true.into()) };
    let engine = engine_with("", Some(Box::new(full)));
    let client = Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    let ban = reported(|completion| engine.ban(record(client, at(0)), completion));
    assert_eq!(ban, Ok(Applied { changed: true, persisted: Persisted::No("full".into()) }));
    let unban = reported(|completion| engine.unban(at(1), client, Scope::All, completion));
    assert_eq!(unban, Ok(Applied { changed: true, persisted: Persisted::No("the state file is slow".into()) }), "the time limit reports");
}
