//! Tests of the schedule, which takes the time and the answers as arguments.

use super::*;
use crate::list::ListSource;

const NOW: Time = Time::from_secs(1_000_000);

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn after(seconds: u64) -> Time {
    NOW.after(Span::from_secs(seconds))
}

fn found(addresses: &[&str]) -> Result<Vec<IpAddr>, String> {
    Ok(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

fn failed() -> Result<Vec<IpAddr>, String> {
    Err("Temporary failure in name resolution".into())
}

fn schedule(names: &[&str]) -> Schedule {
    let mut schedule = Schedule::default();
    schedule.follow(names.iter().copied().map(name).collect::<Vec<_>>().iter(), NOW);
    schedule
}

fn addresses(schedule: &Schedule, host: &str) -> Vec<String> {
    let answer = schedule.hosts[&name(host)].answer.as_ref();
    answer.map(|answer| answer.addresses.addresses.iter().map(IpAddr::to_string).collect()).unwrap_or_default()
}

#[test]
fn a_name_is_looked_up_at_once_then_each_minute_and_sooner_until_the_first_answer() {
    let mut schedule = schedule(&["a.example"]);
    assert_eq!(schedule.start(NOW), [name("a.example")]);
    assert!(schedule.start(after(1)).is_empty(), "it is being looked up");
    schedule.finish(&name("a.example"), failed(), after(2));
    assert!(schedule.start(after(11)).is_empty());
    assert_eq!(schedule.start(after(12)).len(), 1);
    schedule.finish(&name("a.example"), found(&["192.0.2.7"]), after(12));
    assert!(schedule.start(after(71)).is_empty());
    assert_eq!(schedule.start(after(72)).len(), 1);
    schedule.finish(&name("a.example"), failed(), after(72));
    assert!(schedule.start(after(131)).is_empty(), "with an answer there is no hurry");
    schedule.hurry(after(80));
    assert_eq!(schedule.start(after(80)).len(), 1, "except at a reload");
    schedule.hurry(after(81));
    assert!(schedule.start(after(81)).is_empty(), "never twice at a time");
}

#[test]
fn the_last_good_answer_stays_with_its_age_whatever_a_lookup_says() {
    let mut schedule = schedule(&["a.example"]);
    schedule.finish(&name("a.example"), found(&["192.0.2.7", "2001:db8::7"]), NOW);
    assert_eq!(schedule.states(NOW)[0].fault, None);
    let bad = [failed(), found(&[]), found(&["0.0.0.0", "::", "224.0.0.9"])];
    for (bad, text) in bad.into_iter().zip(["Temporary failure in name resolution", "found no address", "found no address"]) {
        schedule.finish(&name("a.example"), bad, after(60));
        let state = &schedule.states(after(61))[0];
        assert!(state.fault.as_ref().is_some_and(|fault| fault.starts_with(text)), "{state:?}");
        assert_eq!((addresses(&schedule, "a.example").len(), state.answer.as_ref().unwrap().at), (2, NOW));
    }
    schedule.finish(&name("a.example"), found(&["192.0.2.8"]), after(1000));
    assert_eq!((addresses(&schedule, "a.example"), schedule.states(after(1000))[0].fault.clone()), (vec!["192.0.2.8".to_owned()], None));
}

#[test]
fn what_was_answered_before_a_restart_is_in_force_until_the_next_answer_and_shown_with_its_age() {
    let mut before = schedule(&["a.example", "b.example"]);
    before.finish(&name("a.example"), found(&["192.0.2.7"]), NOW);
    let mut schedule = Schedule { remembered: before.answers(), ..Schedule::default() };
    schedule.follow([name("a.example"), name("c.example")].iter(), after(3600));
    assert_eq!(
        (addresses(&schedule, "a.example"), schedule.states(after(3600))[0].answer.as_ref().unwrap().at),
        (vec!["192.0.2.7".into()], NOW)
    );
    assert_eq!(schedule.start(after(3600)).len(), 2, "it is looked up at once all the same");
    schedule.finish(&name("a.example"), failed(), after(3601));
    assert_eq!(addresses(&schedule, "a.example"), ["192.0.2.7"]);
    schedule.finish(&name("a.example"), found(&["192.0.2.8"]), after(3602));
    assert_eq!(addresses(&schedule, "a.example"), ["192.0.2.8"]);
}

#[test]
fn a_lookup_that_takes_long_is_a_fault_and_holds_up_only_a_few_others() {
    let names: Vec<String> = (0..9).map(|number| format!("h{number}.example")).collect();
    let mut schedule = schedule(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(schedule.start(NOW).len(), MAX_RUNNING);
    assert!(schedule.states(after(9)).iter().all(|state| state.fault.is_none()));
    let faults = schedule.states(after(30)).into_iter().filter_map(|state| state.fault).collect::<Vec<_>>();
    assert_eq!(faults, vec!["no answer for 30s"; MAX_RUNNING]);
    assert!(schedule.start(after(30)).is_empty());
    schedule.finish(&name("h0.example"), failed(), after(30));
    assert_eq!(schedule.start(after(31)), [name("h4.example")], "those that wait longest come first");
}

#[test]
fn names_come_and_go_with_the_configuration_and_a_late_answer_to_one_that_is_gone_is_dropped() {
    let mut schedule = schedule(&["a.example", "b.example"]);
    schedule.start(NOW);
    schedule.finish(&name("a.example"), found(&["192.0.2.7"]), NOW);
    schedule.follow([name("a.example"), name("c.example")].iter(), after(1));
    schedule.finish(&name("b.example"), found(&["192.0.2.8"]), after(2));
    assert_eq!(schedule.states(after(2)).iter().map(|state| state.name.as_str()).collect::<Vec<_>>(), ["a.example", "c.example"]);
    assert_eq!(addresses(&schedule, "a.example"), ["192.0.2.7"]);
    assert_eq!(schedule.start(after(2)), [name("c.example")]);
}

#[test]
fn the_lists_differ_until_they_have_the_known_addresses() {
    let mut lists = Lists::default();
    lists.set_ignoreip(["a.example", "b.example"].map(|text| ListSource::of_host(name(text), "x")).into());
    let mut schedule = schedule(&["a.example", "b.example"]);
    assert!(schedule.differing_from(&lists).is_empty());
    schedule.finish(&name("a.example"), found(&["192.0.2.7"]), NOW);
    let differing = schedule.differing_from(&lists);
    assert_eq!(differing.iter().map(|(host, _)| host.as_str()).collect::<Vec<_>>(), ["a.example"]);
    lists.set_host_addresses(&differing);
    assert!(schedule.differing_from(&lists).is_empty() && lists.never_banned("192.0.2.7".parse().unwrap()).is_some());
}

#[test]
fn a_name_with_too_many_addresses_says_how_many_it_protects() {
    let mut schedule = schedule(&["a.example"]);
    let many = (0..40_u32).map(|number| IpAddr::V4((0xc633_6400 + number).into())).collect();
    schedule.finish(&name("a.example"), Ok(many), NOW);
    let state = &schedule.states(NOW)[0];
    assert_eq!(state.fault.as_deref(), Some("found 40 addresses, expected 16 at most: the first 16 are never banned"));
    assert_eq!(addresses(&schedule, "a.example").len(), 16);
}
