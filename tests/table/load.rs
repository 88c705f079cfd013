//! A botnet: hundreds of offences in flight at each helper, of a new client each, while the daemon or a helper is slow, stops, or is killed.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::harness::{Daemon, SquidHelper, Stage, long, median, skip, wait_until};

/// The `concurrency` of `conf-examples`.
const IN_FLIGHT: usize = 500;
/// Helpers under attack while the daemon is killed or ends.
const HELPERS: usize = 4;

fn client(number: usize) -> String {
    format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255)
}

fn offence(number: usize) -> String {
    format!("{} GET http://example.test/w00tw00t Mozilla/5.0 none -", client(number))
}

/// Asks everything in `queries`, with [`IN_FLIGHT`] queries unanswered, and returns the answers in the same order. Adds to `progress` what is
/// answered. Fails if a query is answered twice.
#[track_caller]
fn ask_all(helper: &mut SquidHelper, queries: &[String], progress: &AtomicUsize) -> Vec<String> {
    let mut answers = vec![String::new(); queries.len()];
    let (mut sent, mut answered) = (0, 0);
    while answered < queries.len() {
        let end = queries.len().min(answered + IN_FLIGHT);
        if sent < end {
            let lines: String = (sent..end).map(|number| format!("{number} {}\n", queries[number])).collect();
            helper.send(lines.as_bytes());
            sent = end;
        }
        for line in String::from_utf8(helper.next_write()).unwrap().lines() {
            let (number, answer) = line.split_once(' ').unwrap();
            let slot = &mut answers[number.parse::<usize>().unwrap()];
            assert!(slot.is_empty(), "answered twice: {line}");
            answer.clone_into(slot);
            answered += 1;
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }
    answers
}

fn bans(daemon: &Daemon) -> usize {
    usize::try_from(daemon.number("bans")).unwrap()
}

#[test]
fn every_offender_of_a_botnet_is_banned_and_no_helper_gives_the_daemon_up() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", "");
    let mut helpers = [SquidHelper::attach(&stage), SquidHelper::attach(&stage), SquidHelper::attach(&stage)];
    let each = long(4000, 40_000);
    let progress = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (number, helper) in helpers.iter_mut().enumerate() {
            let queries: Vec<String> = (number * each..(number + 1) * each).map(offence).collect();
            let progress = &progress;
            scope.spawn(move || {
                let answers = ask_all(helper, &queries, progress);
                assert!(answers.iter().all(|answer| answer.starts_with("OK ")), "an offence was served");
            });
        }
    });
    wait_until("all are banned", || bans(&daemon) == 3 * each);
    for helper in &mut helpers {
        wait_until("each helper has the bans of the others", || (1..=3).all(|share| helper.refuses(&client(share * each - 1))));
        assert_eq!(helper.breaks(), 0, "{}", helper.log());
    }
    assert_eq!((daemon.number("offences_dropped"), daemon.number("answers_failed_open")), (0, 0));
}

#[test]
fn a_daemon_that_stops_for_a_moment_is_not_given_up_and_counts_everything_once() {
    let stage = Stage::new();
    // A page's requests are refused and counted without an answer from the daemon, so they come as fast as Squid asks.
    let daemon = Daemon::start_on(&stage, "", "[[rule]]\nname = 'page-probes'\nmaxretry = 2\n");
    let mut helper = SquidHelper::attach(&stage);
    assert!(!helper.refuses("192.0.2.1"));
    daemon.signal(Signal::STOP);
    let start = Instant::now();
    // Three offences of each client exceed the queue, and two of them ban.
    let clients = 2000;
    let path = "x".repeat(150);
    let probes: Vec<String> = (0..3 * clients)
        .map(|number| format!("{} GET http://example.test/w00tw00t{path} - cross-site -", client(number % clients)))
        .collect();
    let answers = ask_all(&mut helper, &probes, &AtomicUsize::new(0));
    assert!(answers.iter().all(|answer| answer.starts_with("OK ")), "each is refused by itself");
    // Offences that wait for the daemon are answered in time.
    let offences: Vec<String> = (clients..clients + IN_FLIGHT).map(offence).collect();
    let asked = Instant::now();
    let answers = ask_all(&mut helper, &offences, &AtomicUsize::new(0));
    assert!(answers.iter().all(|answer| answer.starts_with("OK ")), "a one-strike offence is refused without the daemon");
    eprintln!("{IN_FLIGHT} offences were answered after {:?}; the daemon stopped for {:?}", asked.elapsed(), start.elapsed());
    assert!(!helper.refuses("192.0.2.1"), "an innocent client is served");
    daemon.signal(Signal::CONT);
    wait_until("all are banned", || bans(&daemon) == clients + IN_FLIGHT);
    wait_until("what waited is shown", || daemon.number("offences_deferred") > 0);
    assert_eq!((helper.breaks(), daemon.number("offences_dropped")), (0, 0), "{}", helper.log());
}

#[test]
fn a_daemon_that_takes_nothing_for_five_seconds_is_given_up_and_gets_what_waited_when_it_is_back() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", "[[rule]]\nname = 'page-probes'\nmaxretry = 2\n");
    let mut helper = SquidHelper::attach(&stage);
    assert!(!helper.refuses("192.0.2.1"));
    daemon.signal(Signal::STOP);
    let path = "x".repeat(150);
    let probes: Vec<String> =
        (0..4000).map(|number| format!("{} GET http://example.test/w00tw00t{path} - cross-site -", client(number % 2000))).collect();
    ask_all(&mut helper, &probes, &AtomicUsize::new(0));
    helper.logs("it has read nothing for 5 s");
    let asked = Instant::now();
    assert!(helper.get("10.9.9.9", "/w00tw00t").starts_with("OK "));
    eprintln!("a daemon that was given up delays an offence by {:?}", asked.elapsed());
    daemon.signal(Signal::CONT);
    wait_until("all are banned", || bans(&daemon) == 2001);
    wait_until("the helper has them", || helper.refuses(&client(1999)));
    wait_until("what waited is shown", || daemon.number("offences_deferred") > 0);
    assert!(daemon.number("offences_deferred") <= 4001, "each is counted at most once");
    assert_eq!(daemon.number("offences_dropped"), 0);
}

#[test]
fn kill_9_of_the_daemon_under_load_loses_no_answered_ban_and_every_query_is_answered_once() {
    let stage = Stage::new();
    let mut daemon = Daemon::start_on(&stage, "", "");
    let mut helpers = [(); HELPERS].map(|()| SquidHelper::attach(&stage));
    let each = long(4000, 100_000);
    let progress = AtomicUsize::new(0);
    let banned = std::thread::scope(|scope| {
        let floods: Vec<_> = helpers
            .iter_mut()
            .enumerate()
            .map(|(number, helper)| {
                let (start, progress) = (number * each, &progress);
                scope.spawn(move || {
                    let queries: Vec<String> = (start..start + each).map(offence).collect();
                    let answers = ask_all(helper, &queries, progress);
                    assert!(answers.iter().all(|answer| answer.starts_with("OK ")), "an offence was served");
                    let is_ban = |answer: &String| answer.contains("message=\"refused until");
                    (start..).zip(answers).filter(|(_, answer)| is_ban(answer)).map(|(number, _)| client(number)).collect::<Vec<_>>()
                })
            })
            .collect();
        for part in 1..=3 {
            wait_until("the attack goes on", || progress.load(Ordering::Relaxed) >= part * HELPERS * each / 4);
            daemon.kill();
            let killed = Instant::now();
            daemon = Daemon::start_again(&stage);
            let away = killed.elapsed();
            let back = wait_until("all helpers are back", || daemon.number("subscribers") == HELPERS as u64);
            eprintln!("the daemon was away for {away:?}; all helpers were back {back:?} later");
        }
        floods.into_iter().flat_map(|flood| flood.join().unwrap()).collect::<Vec<String>>()
    });
    let listed: HashSet<String> = daemon.objects("list").iter().filter_map(|ban| ban["client"].as_str().map(str::to_owned)).collect();
    let lost: Vec<&String> = banned.iter().filter(|client| !listed.contains(*client)).collect();
    eprintln!("{} of {} answers named a ban, {} clients are banned", banned.len(), HELPERS * each, listed.len());
    assert!(!banned.is_empty());
    assert!(lost.is_empty(), "{} bans are lost, the first one is that of {}", lost.len(), lost[0]);
    assert!(helpers.iter().all(|helper| helper.breaks() > 0));
}

#[test]
fn a_daemon_that_ends_under_load_counts_everything_that_it_has_taken() {
    let stage = Stage::new();
    let mut daemon = Daemon::start_on(&stage, "", "");
    let mut helpers = [(); HELPERS].map(|()| SquidHelper::attach(&stage));
    let each = long(4000, 100_000);
    let progress = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (number, helper) in helpers.iter_mut().enumerate() {
            let queries: Vec<String> = (number * each..(number + 1) * each).map(offence).collect();
            let progress = &progress;
            scope.spawn(move || {
                let answers = ask_all(helper, &queries, progress);
                assert!(answers.iter().all(|answer| answer.starts_with("OK ")), "an offence was served");
            });
        }
        for part in 1..=3 {
            wait_until("the attack goes on", || progress.load(Ordering::Relaxed) >= part * HELPERS * each / 4);
            // While it does not run, the helpers fill its socket.
            daemon.signal(Signal::STOP);
            let enough = (HELPERS * each).min(progress.load(Ordering::Relaxed) + HELPERS * IN_FLIGHT);
            wait_until("offences are answered without the daemon", || progress.load(Ordering::Relaxed) >= enough);
            // When it goes on, it finds SIGTERM and a full socket at once.
            daemon.signal(Signal::TERM);
            daemon.signal(Signal::CONT);
            let status = daemon.wait();
            assert!(status.success(), "{status}");
            daemon = Daemon::start_again(&stage);
            let back = wait_until("all helpers are back", || daemon.number("subscribers") == HELPERS as u64);
            eprintln!("all helpers were back {back:?} after the daemon's return");
        }
    });
    // The helpers send nothing again that the ending daemons have taken.
    wait_until("all are banned", || bans(&daemon) == HELPERS * each);
    assert_eq!(daemon.number("offences_dropped"), 0);
    assert!(helpers.iter().all(|helper| helper.breaks() > 0));
}

#[test]
fn a_helper_asks_for_a_daemon_that_hangs_up_more_and_more_rarely() {
    let stage = Stage::new();
    stage.open();
    let daemon = UnixListener::bind(stage.socket()).unwrap();
    let helper = SquidHelper::attach(&stage);
    drop(daemon.accept().unwrap());
    let start = Instant::now();
    (0..9).for_each(|_| drop(daemon.accept().unwrap()));
    // At least half of 20, 40, 80, 160, 320 and then each time 500 ms.
    assert!(start.elapsed() >= Duration::from_millis(10 + 20 + 40 + 80 + 160 + 4 * 250), "ten attempts within {:?}", start.elapsed());
    drop(helper);
}

#[test]
fn offences_of_the_time_without_a_daemon_are_counted_when_it_is_back() {
    let stage = Stage::new();
    let mut daemon = Daemon::start_on(&stage, "", "");
    let mut helper = SquidHelper::attach(&stage);
    assert!(!helper.refuses("192.0.2.1"));
    daemon.kill();
    helper.logs("cannot be reached");
    let queries: Vec<String> = (0..IN_FLIGHT).map(offence).collect();
    let answers = ask_all(&mut helper, &queries, &AtomicUsize::new(0));
    assert!(answers.iter().all(|answer| answer.starts_with("OK ")), "a one-strike offence is refused without the daemon");
    daemon = Daemon::start_again(&stage);
    wait_until("all are banned", || bans(&daemon) == IN_FLIGHT);
}

#[test]
fn a_helper_that_ends_says_how_many_offences_the_daemon_has_not_taken() {
    // Nothing else counts.
    let rules = "[[rule]]\nname = 'page-probes'\nmaxretry = 1000\n[[rule]]\nname = 'web-rate'\nenabled = false\n";
    for goes_on in [false, true] {
        let stage = Stage::new();
        let daemon = Daemon::start_on(&stage, "", rules);
        let mut helper = SquidHelper::attach(&stage);
        assert!(!helper.refuses("192.0.2.1"));
        daemon.signal(Signal::STOP);
        // Refused and counted without an answer from the daemon; they exceed the queue.
        let probes = 8000;
        let path = "x".repeat(150);
        let queries: Vec<String> =
            (0..probes).map(|number| format!("{} GET http://example.test/w00tw00t{path} - cross-site -", client(number))).collect();
        ask_all(&mut helper, &queries, &AtomicUsize::new(0));
        if goes_on {
            daemon.signal(Signal::CONT);
        }
        let (status, log) = helper.close();
        assert!(status.success(), "{log}");
        let said = log.lines().find_map(|line| line.split_once("this helper ends, and ")?.1.split(' ').next()?.parse::<u64>().ok());
        assert!(goes_on || said.is_some(), "the daemon cannot have taken all: {log}");
        daemon.signal(Signal::CONT);
        let all = u64::try_from(probes).unwrap();
        wait_until("each offence is counted by the daemon or named by the helper", || {
            daemon.number("offences_counted") + said.unwrap_or(0) == all
        });
        eprintln!(
            "{} of {probes} offences were not counted by a daemon that {}",
            said.unwrap_or(0),
            if goes_on { "goes on" } else { "does not" }
        );
    }
}

/// How many connections Exim may have open at once.
const EXIM_CONNECTIONS: usize = 3000;

/// Raises the soft limit of open files, if need be, as far as `needed`, and says whether there are so many. It is never lowered, so the other
/// tests of this process have as many as before.
fn can_open(needed: usize) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::try_from(needed).unwrap();
    if limit.current.is_none_or(|files| files >= needed) {
        return true;
    }
    if limit.maximum.is_some_and(|files| files < needed) {
        skip(&format!("only {limit:?} files may be open, expected {needed} (ulimit -Hn)"));
        return false;
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum }).unwrap();
    true
}

#[test]
fn exim_refuses_a_banned_client_over_thousands_of_connections_while_the_web_makes_bans() {
    if !can_open(EXIM_CONNECTIONS + 1024) {
        return;
    }
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", "");
    let mut helper = SquidHelper::attach(&stage);
    // Asked as `${readsocket}` does: Exim's helper would accept by itself after 180 ms, which a busy machine may take.
    assert_eq!(daemon.object("ban 198.51.100.7 1h")["banned"], "198.51.100.7");
    let connections: Vec<UnixStream> = (0..EXIM_CONNECTIONS).map(|_| daemon.connect()).collect();
    let queries: Vec<String> = (0..long(6000, 60_000)).map(offence).collect();
    let progress = AtomicUsize::new(0);
    let mut spans = Vec::new();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| ask_all(&mut helper, &queries, &progress));
        wait_until("the attack has begun", || progress.load(Ordering::Relaxed) > 0);
        let asked = Instant::now();
        connections.iter().for_each(|mut connection| connection.write_all(b"check 198.51.100.7 port=25\n").unwrap());
        for connection in &connections {
            let mut answer = String::new();
            BufReader::new(connection).read_line(&mut answer).unwrap();
            assert!(answer.starts_with("defer rule=manual until="), "{answer}");
        }
        eprintln!("{EXIM_CONNECTIONS} checks at once took {:?}", asked.elapsed());
        while !flood.is_finished() || spans.len() < long(1, 100_000) {
            let asked = Instant::now();
            let answer = daemon.ask("check 198.51.100.7 port=25\n");
            spans.push(asked.elapsed());
            assert!(answer.starts_with("defer rule=manual until="), "{answer}");
        }
        assert!(flood.join().unwrap().iter().all(|answer| answer.starts_with("OK ")), "an offence was served");
    });
    wait_until("all are banned", || bans(&daemon) == queries.len() + 1);
    let (count, longest) = (spans.len(), spans.iter().max().copied());
    let late = spans.iter().filter(|span| **span > Duration::from_millis(200)).count();
    eprintln!(
        "{count} checks beside {} bans took {:?} (median), {longest:?} at most, {late} more than 200 ms",
        queries.len(),
        median(spans)
    );
    assert_eq!(helper.breaks(), 0);
    drop(connections);
}

#[test]
fn a_helper_that_stops_delays_nobody_else_and_catches_up() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", "");
    let (mut stopped, mut other) = (SquidHelper::attach(&stage), SquidHelper::attach(&stage));
    assert!(!stopped.refuses("192.0.2.1") && !other.refuses("192.0.2.1"));
    stopped.signal(Signal::STOP);
    let queries: Vec<String> = (0..8000).map(offence).collect();
    let before = daemon.memory();
    ask_all(&mut other, &queries, &AtomicUsize::new(0));
    // Answered with the ban, which only the daemon makes; without its answer in time, the offence would be refused for itself.
    wait_until("the daemon answers the other helper in time", || {
        let answer = other.ask(&offence(8000));
        assert!(answer.starts_with("OK "), "{answer}");
        answer.contains("message=\"refused until")
    });
    let more = daemon.memory().saturating_sub(before);
    assert!(more < 32 << 20, "{more} bytes more");
    wait_until("all are banned", || bans(&daemon) == 8001);
    stopped.signal(Signal::CONT);
    wait_until("it has the bans", || stopped.refuses(&client(8000)));
}
