//! One table for all helpers of a machine: every offence counts, every ban is known everywhere at once, and whoever was away catches up.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::processes::{Helper, Resident, Stage, long, median, until};

#[test]
fn three_offences_at_three_helpers_make_the_ban_at_the_third() {
    let stage = Stage::new();
    let _resident = Resident::start(&stage, "", "[[rule]]\nname = 'three'\npath = '^/three'\nmaxretry = 3\n");
    let mut helpers = [Helper::attach(&stage), Helper::attach(&stage), Helper::attach(&stage)];
    for number in 1..=50 {
        let client = format!("203.0.113.{number}");
        let answers: Vec<bool> = helpers.iter_mut().map(|helper| helper.get(&client, "/three").starts_with("OK ")).collect();
        assert_eq!(answers, [false, false, true], "{client}");
    }
}

#[test]
fn a_ban_made_anywhere_is_refused_everywhere_within_50_ms() {
    let stage = Stage::new();
    let resident = Resident::start(&stage, "", "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\n");
    let (mut one, mut two) = (Helper::attach(&stage), Helper::attach(&stage));
    assert!(!one.refuses("192.0.2.1") && !two.refuses("192.0.2.1"), "both have started");
    let mut spans = Vec::new();
    for number in 1..=21 {
        // By a helper, by the mail server, by hand.
        let client = format!("203.0.113.{number}");
        match number % 3 {
            0 => assert!(one.get(&client, "/w00tw00t").starts_with("OK ")),
            1 => assert!(resident.ask(&format!("strike {client} helo")).starts_with("defer rule=helo")),
            _ => assert!(resident.ask(&format!("ban {client}")).starts_with("banned ")),
        }
        let start = Instant::now();
        until("the other helper refuses", || two.refuses(&client).then_some(()));
        spans.push(start.elapsed());
        assert!(resident.ask(&format!("check {client} port=25")).starts_with("defer rule="));
        until("the first helper refuses", || one.refuses(&client).then_some(()));
    }
    eprintln!("a ban was refused elsewhere after {:?} (median), {:?} at most", median(spans.clone()), spans.iter().max().unwrap());
    assert!(median(spans) < Duration::from_millis(50));
}

#[test]
fn kill_9_of_the_resident_again_and_again_loses_no_answered_ban_and_helpers_catch_up_within_a_second() {
    let stage = Stage::new();
    let mut resident = Resident::start(&stage, "", "");
    let mut helper = Helper::attach(&stage);
    let rounds = long(5, 60);
    let (mut spans, mut banned, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        for number in 0..20 {
            let client = format!("10.{round}.0.{number}");
            // An answer may come without the ban: the one that was on its way when the resident was killed.
            assert!(helper.get(&client, "/w00tw00t").starts_with("OK "));
            if resident.ask(&format!("check {client} port=25")).starts_with("defer") {
                banned.push(client);
            }
        }
        resident.end(Signal::KILL);
        assert!(helper.refuses(&banned[0]), "what was known stays");
        assert!(helper.get(&format!("10.{round}.1.1"), "/w00tw00t").starts_with("OK "), "a probe is refused without the resident");
        assert!(!helper.refuses("192.0.2.1"), "an innocent is served");
        resident = Resident::start_again(&stage);
        lost.extend(banned.iter().filter(|client| !resident.ask(&format!("check {client} port=25")).starts_with("defer")).cloned());
        let news = format!("10.{round}.2.1");
        assert!(resident.ask(&format!("ban {news}")).starts_with("banned "));
        let start = Instant::now();
        until("the helper is back", || helper.refuses(&news).then_some(()));
        spans.push(start.elapsed());
    }
    eprintln!(
        "{rounds} times kill -9 of the resident: {} bans answered, {} lost; the helper had caught up {:?} (median) after its return, {:?} at most",
        banned.len(),
        lost.len(),
        median(spans.clone()),
        spans.iter().max().unwrap()
    );
    assert_eq!(lost, Vec::<String>::new());
    assert_eq!(banned.len(), rounds * 20);
    assert!(median(spans) < Duration::from_secs(1));
}

#[test]
fn kill_9_of_helpers_again_and_again_loses_no_answered_ban() {
    let stage = Stage::new();
    let resident = Resident::start(&stage, "", "");
    let rounds = long(5, 60);
    for round in 0..rounds {
        let mut helper = Helper::attach(&stage);
        for number in 0..20 {
            assert!(helper.get(&format!("10.{round}.0.{number}"), "/w00tw00t").starts_with("OK "));
        }
        helper.kill();
    }
    let lost = (0..rounds)
        .flat_map(|round| (0..20).map(move |number| format!("10.{round}.0.{number}")))
        .filter(|client| !resident.ask(&format!("check {client} port=25")).starts_with("defer"))
        .count();
    eprintln!("{rounds} times kill -9 of a helper at the resident: {} bans answered, {lost} lost", rounds * 20);
    assert_eq!(lost, 0);
    // The same with tables of their own on one file, old and new overlapping as on rotation.
    let state = stage.path("helpers.db");
    std::fs::write(stage.path("empty.toml"), "").unwrap();
    let arguments = ["--config", stage.path("empty.toml").to_str().unwrap(), "--state", state.to_str().unwrap()].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut old = Helper::start(&stage, &arguments, false);
    let mut lost = 0;
    for round in 0..rounds {
        for number in 0..20 {
            assert!(old.get(&format!("10.{round}.0.{number}"), "/w00tw00t").starts_with("OK "));
        }
        let mut new = Helper::start(&stage, &arguments, false);
        lost += usize::from(!new.refuses(&format!("10.{round}.0.19")));
        old.kill();
        lost += (0..20).filter(|number| !new.refuses(&format!("10.{round}.0.{number}"))).count();
        old = new;
    }
    eprintln!("{rounds} times kill -9 of a helper with a state file, while the next one had started: {lost} bans lost");
    assert_eq!(lost, 0);
}

#[test]
fn another_version_of_the_protocol_is_refused_by_either_side_and_never_misread() {
    let stage = Stage::new();
    let resident = Resident::start(&stage, "", "");
    let answer = resident.ask("follow 2");
    assert!(answer.contains("found version 2 of the follow protocol, expected 1: upgrade helper and resident together"), "{answer}");
    resident.end(Signal::TERM);
    let listener = UnixListener::bind(stage.socket()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "follow 1\n");
            let _ = stream.write_all(b"strikeout 2\nbegin config 64 allow\nend config\nbegin bans\nban 203.0.113.9 all x 60\nend bans\n");
        }
    });
    let mut helper = Helper::attach(&stage);
    helper.logs("it speaks version 2 of the follow protocol, expected 1: helper and resident must be upgraded together");
    assert!(!helper.refuses("203.0.113.9"), "nothing of it is believed");
}
