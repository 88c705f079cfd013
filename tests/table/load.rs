//! A botnet: hundreds of offences in flight at each helper, of a new client each, while the daemon or a helper is slow, stops, or is killed.

use std::collections::HashSet;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::harness::{Daemon, SquidHelper, Stage, long, median, wait_until};

/// The `concurrency` of `conf-examples`.
const IN_FLIGHT: usize = 500;

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
}

#[test]
fn kill_9_of_the_daemon_under_load_loses_no_answered_ban_and_every_query_is_answered_once() {
    let stage = Stage::new();
    let mut daemon = Daemon::start_on(&stage, "", "");
    let mut helpers = [SquidHelper::attach(&stage), SquidHelper::attach(&stage)];
    let each = long(8000, 80_000);
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
            wait_until("the attack goes on", || progress.load(Ordering::Relaxed) >= part * each / 3);
            daemon.kill();
            daemon = Daemon::start_again(&stage);
            let back = wait_until("both helpers are back", || daemon.number("subscribers") == 2);
            eprintln!("both helpers were back {back:?} after the daemon's return");
        }
        floods.into_iter().flat_map(|flood| flood.join().unwrap()).collect::<Vec<String>>()
    });
    let listed: HashSet<String> = daemon.objects("list").iter().filter_map(|ban| ban["client"].as_str().map(str::to_owned)).collect();
    let lost: Vec<&String> = banned.iter().filter(|client| !listed.contains(*client)).collect();
    eprintln!("{} of {} answers named a ban, {} clients are banned", banned.len(), 2 * each, listed.len());
    assert!(!banned.is_empty());
    assert!(lost.is_empty(), "{} bans are lost, the first one is that of {}", lost.len(), lost[0]);
    assert!(helpers.iter().all(|helper| helper.breaks() > 0));
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
fn exim_is_answered_in_time_over_thousands_of_connections_while_the_web_makes_bans() {
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", "");
    let mut helper = SquidHelper::attach(&stage);
    let connections: Vec<UnixStream> = (0..3000).map(|_| UnixStream::connect(stage.socket()).unwrap()).collect();
    let queries: Vec<String> = (0..long(6000, 60_000)).map(offence).collect();
    let progress = AtomicUsize::new(0);
    let mut spans = Vec::new();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| ask_all(&mut helper, &queries, &progress));
        wait_until("the attack has begun", || progress.load(Ordering::Relaxed) > 0);
        while !flood.is_finished() || spans.is_empty() {
            let (answer, took) = stage.exim_helper(&["check", "192.0.2.1", "port=465"]);
            assert_eq!(answer, "accept");
            spans.push(took);
        }
        assert!(flood.join().unwrap().iter().all(|answer| answer.starts_with("OK ")), "an offence was served");
    });
    wait_until("all are banned", || bans(&daemon) == queries.len());
    let (count, longest) = (spans.len(), spans.iter().max().copied());
    let median = median(spans);
    eprintln!("{count} checks beside {} bans took {median:?} (median), {longest:?} at most", queries.len());
    assert!(median < Duration::from_millis(200), "{median:?}");
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
    // The fastest of several counts, because the machine may be busy.
    let took = (0..5).map(|_| other.timed(&offence(8000)).1).min().unwrap();
    assert!(took < Duration::from_millis(200), "{took:?}");
    assert!(daemon.memory() - before < 32 << 20, "{} bytes more", daemon.memory() - before);
    assert_eq!(bans(&daemon), 8001);
    stopped.signal(Signal::CONT);
    wait_until("it has the bans", || stopped.refuses(&client(8000)));
}
