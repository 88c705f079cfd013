//! The table of bans against plain models: services, ends, eviction, and what other threads see.

use super::*;
use crate::rule_id::RuleNames;
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn client(number: u32) -> Client {
    Client::from(Ipv4Addr::from(number))
}

fn at(seconds: u64) -> Time {
    Time::from_secs(1_800_000_000 + seconds)
}

fn ban(seconds: u64) -> Ban {
    Ban { until: Until::at(at(seconds)), rule: RuleNames::default().intern("rule"), saved: true }
}

#[test]
fn a_ban_is_active_until_its_end() {
    let bans = Bans::new(10);
    bans.ban(client(1), Scope::All, ban(60), at(0));
    assert!(bans.get(client(1), Service::Web, at(59)).is_some());
    assert!(bans.get(client(1), Service::Web, at(60)).is_none());
}

#[test]
fn a_ban_refuses_only_on_the_services_of_its_scope() {
    let bans = Bans::new(10);
    bans.ban(client(1), Scope::Web, ban(60), at(0));
    bans.ban(client(2), Scope::Mail, ban(60), at(0));
    assert!(bans.get(client(1), Service::Web, at(1)).is_some() && bans.get(client(1), Service::Mail, at(1)).is_none());
    assert!(bans.get(client(2), Service::Web, at(1)).is_none() && bans.get(client(2), Service::Mail, at(1)).is_some());
}

#[test]
fn a_shorter_ban_never_replaces_a_longer_one() {
    let bans = Bans::new(10);
    assert!(bans.ban(client(1), Scope::Web, ban(600), at(0)));
    assert!(!bans.ban(client(1), Scope::Web, ban(60), at(1)));
    assert!(bans.ban(client(1), Scope::All, ban(60), at(1)), "mail was free");
    assert_eq!(bans.get(client(1), Service::Web, at(2)).map(|ban| ban.until), Some(Until::at(at(600))));
    assert_eq!(bans.get(client(1), Service::Mail, at(2)).map(|ban| ban.until), Some(Until::at(at(60))));
}

#[test]
fn a_longer_ban_replaces_a_shorter_one_and_a_ban_with_the_same_end_changes_nothing() {
    let names = RuleNames::default();
    let [first, second] = ["first", "second"].map(|name| names.intern(name));
    let bans = Bans::new(10);
    assert!(bans.ban(client(1), Scope::Web, Ban { rule: first, ..ban(60) }, at(0)));
    assert!(!bans.ban(client(1), Scope::Web, Ban { rule: second, ..ban(60) }, at(1)));
    assert_eq!(bans.get(client(1), Service::Web, at(2)).map(|ban| ban.rule), Some(first));
    assert!(bans.ban(client(1), Scope::Web, Ban { rule: second, ..ban(61) }, at(2)));
    assert_eq!(bans.get(client(1), Service::Web, at(60)).map(|ban| ban.rule), Some(second));
}

#[test]
fn a_permanent_ban_never_ends() {
    let bans = Bans::new(10);
    bans.ban(client(1), Scope::All, Ban { until: Until::NEVER, ..ban(0) }, at(0));
    assert!(bans.get(client(1), Service::Web, Time::from_millis(u64::MAX)).is_some());
    assert_eq!(Until::NEVER.to_string(), "-1");
}

#[test]
fn an_unban_removes_the_bans_of_its_scope() {
    let bans = Bans::new(10);
    bans.ban(client(1), Scope::All, ban(60), at(0));
    assert!(bans.unban(client(1), Scope::Web));
    assert!(bans.get(client(1), Service::Mail, at(1)).is_some());
    assert!(bans.unban(client(1), Scope::All));
    assert!(!bans.unban(client(1), Scope::All));
    assert!(bans.is_empty());
}

#[test]
fn a_full_table_evicts_the_ban_that_ends_soonest_but_no_manual_or_permanent_one() {
    let bans = Bans::new(4);
    bans.ban(client(1), Scope::All, Ban { until: Until::NEVER, ..ban(0) }, at(0));
    bans.ban(client(2), Scope::All, Ban { rule: RuleId::MANUAL, ..ban(1) }, at(0));
    for (number, end) in [(3, 300), (4, 100), (5, 200), (6, 400)] {
        bans.ban(client(number), Scope::All, ban(end), at(0));
    }
    let active: Vec<bool> = (1..=6).map(|number| bans.get(client(number), Service::Web, at(0)).is_some()).collect();
    assert_eq!(active, [true, true, true, false, false, true]);
    assert_eq!((bans.len(), bans.evicted()), (4, 2));
}

#[test]
fn a_client_with_a_manual_ban_on_one_service_is_not_evicted_for_its_other_ban() {
    let bans = Bans::new(1);
    bans.ban(client(1), Scope::Web, Ban { rule: RuleId::MANUAL, ..ban(10) }, at(0));
    bans.ban(client(1), Scope::Mail, ban(10), at(0));
    bans.ban(client(2), Scope::All, ban(600), at(0));
    assert!(bans.get(client(1), Service::Web, at(1)).is_some() && bans.get(client(1), Service::Mail, at(1)).is_some());
    assert!(bans.get(client(2), Service::Web, at(1)).is_none());
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
fn permanent_bans_of_a_rule_never_exceed_the_capacity_and_a_manual_ban_is_always_admitted() {
    let bans = Bans::new(100);
    let permanent = Ban { until: Until::NEVER, ..ban(0) };
    for number in 0..1000 {
        bans.ban(client(number), Scope::All, permanent, at(u64::from(number / 100)));
        assert!(bans.len() <= 100);
    }
    assert!((0..100).all(|number| bans.get(client(number), Service::Web, at(10)).is_some()));
    assert_eq!(bans.evicted(), 900);
    bans.ban(client(2000), Scope::All, Ban { rule: RuleId::MANUAL, ..permanent }, at(10));
    bans.ban(client(2001), Scope::All, ban(60), at(10));
    let is_banned = |number| bans.get(client(number), Service::Web, at(10)).is_some();
    assert!(is_banned(2000) && !is_banned(2001));
    bans.unban(client(0), Scope::All);
    bans.unban(client(1), Scope::All);
    bans.ban(client(2002), Scope::All, ban(60), at(10));
    bans.ban(client(2003), Scope::All, ban(90), at(12));
    assert!(bans.get(client(2003), Service::Web, at(12)).is_some(), "the table is scanned again after the pause");
    assert_eq!(bans.len(), 100);
}

#[test]
fn ended_bans_are_removed_and_reported() {
    let bans = Bans::new(10);
    bans.ban(client(1), Scope::Web, ban(10), at(0));
    bans.ban(client(2), Scope::All, ban(90), at(0));
    let mut ended = Vec::new();
    bans.expire(at(10), |client, _| ended.push(client));
    assert_eq!(ended, [client(1)]);
    assert_eq!(bans.len(), 1);
}

#[test]
fn a_client_stays_while_one_of_its_two_bans_lasts_and_the_rule_of_the_last_one_is_reported() {
    let names = RuleNames::default();
    let [short, long] = ["short", "long"].map(|name| names.intern(name));
    let bans = Bans::new(10);
    for (number, shorter, longer) in [(1, Scope::Web, Scope::Mail), (2, Scope::Mail, Scope::Web)] {
        bans.ban(client(number), shorter, Ban { rule: short, ..ban(10) }, at(0));
        bans.ban(client(number), longer, Ban { rule: long, ..ban(20) }, at(0));
    }
    let mut ended = Vec::new();
    bans.expire(at(10), |client, rule| ended.push((client, rule)));
    assert_eq!((ended.len(), bans.len()), (0, 2));
    bans.expire(at(20), |client, rule| ended.push((client, rule)));
    ended.sort_unstable();
    assert_eq!(ended, [(client(1), long), (client(2), long)]);
}

#[test]
fn a_sweep_waits_until_its_pause_has_passed_unless_the_clock_was_set_back() {
    let bans = Bans::new(10_000);
    for number in 0..1000 {
        bans.ban(client(number), Scope::All, ban(60), at(0));
    }
    let ended_at = |now| {
        let mut ended = 0;
        bans.sweep(now, |_, _| ended += 1);
        ended
    };
    assert_eq!(ended_at(at(100)), 1000);
    for number in 0..1000 {
        bans.ban(client(number), Scope::All, ban(60), at(0));
    }
    assert_eq!(ended_at(at(100)), 0, "a thousand bans are swept every ten milliseconds");
    assert_eq!(ended_at(at(61)), 1000, "the clock was set back");
}

#[test]
fn a_large_table_is_swept_less_often_and_its_bans_still_end_on_time() {
    let bans = Bans::new(10_000);
    for number in 0..1000 {
        bans.ban(client(number), Scope::All, ban(u64::from(number / 500)), at(0));
    }
    let millis = |millis| Time::from_millis(at(0).millis() + millis);
    let mut ended = 0;
    bans.sweep(millis(0), |_, _| ended += 1);
    assert_eq!((ended, bans.len()), (500, 500), "half of the bans have ended");
    bans.sweep(millis(4), |_, _| ended += 1);
    bans.sweep(millis(1001), |_, _| ended += 1);
    assert_eq!((ended, bans.len()), (1000, 0));
    for number in 0..1000 {
        bans.ban(client(number), Scope::All, ban(2), millis(1001));
    }
    bans.sweep(millis(1999), |_, _| ended += 1);
    bans.sweep(millis(2001), |_, _| ended += 1);
    assert!(bans.get(client(7), Service::Web, millis(2001)).is_none());
    assert_eq!(ended, 1000, "a thousand bans are swept every ten milliseconds");
    bans.sweep(millis(2009), |_, _| ended += 1);
    assert_eq!(ended, 2000);
}

fn any_ban() -> impl Strategy<Value = Ban> {
    let until = prop_oneof![9 => (1_u64..40).prop_map(|end| Until::at(at(end))), 1 => Just(Until::NEVER)];
    let rule = prop_oneof![5 => Just(ban(0).rule), 1 => Just(RuleId::MANUAL)];
    (until, rule).prop_map(|(until, rule)| Ban { until, rule, saved: true })
}

/// All active bans, in order.
fn active(bans: &Bans, now: Time) -> Vec<(Client, Service, Ban)> {
    let mut active = Vec::new();
    bans.for_each(now, |client, service, ban| active.push((client, service, ban)));
    active.sort_unstable_by_key(|(client, service, _)| (*client, *service == Service::Mail));
    active
}

proptest! {
    #[test]
    fn below_its_capacity_the_table_agrees_with_a_plain_list(
        steps in proptest::collection::vec((0_u32..8, prop_oneof![Just(Scope::Web), Just(Scope::Mail), Just(Scope::All)], any_ban(), 0_u8..5, 0_u64..6), 1..80),
    ) {
        let bans = Bans::new(8);
        let mut plain: Vec<(Client, Service, Ban)> = Vec::new();
        let mut now = 0;
        for (number, scope, new, action, gap) in steps {
            now += gap;
            let (client, now) = (client(number), at(now));
            let ends_last = |plain: &[(Client, Service, Ban)]| plain.iter().filter(|ban| ban.0 == client).map(|ban| ban.2.until).max();
            match action {
                0..=2 => {
                    let mut changed = false;
                    for service in scope.services() {
                        let earlier = plain.iter().position(|ban| ban.0 == client && ban.1 == *service);
                        if earlier.is_none_or(|index| plain[index].2.until < new.until || plain[index].2.until.is_expired(now)) {
                            earlier.map(|index| plain.swap_remove(index));
                            plain.push((client, *service, new));
                            changed = true;
                        }
                    }
                    prop_assert_eq!(bans.ban(client, scope, new, now), changed);
                }
                3 => {
                    let before = plain.len();
                    plain.retain(|ban| ban.0 != client || !scope.services().contains(&ban.1));
                    prop_assert_eq!(bans.unban(client, scope), plain.len() < before);
                }
                _ => {
                    let mut ended = 0;
                    bans.expire(now, |_, _| ended += 1);
                    let clients = |plain: &[(Client, Service, Ban)]| plain.iter().map(|ban| ban.0).collect::<std::collections::HashSet<_>>();
                    let before = clients(&plain).len();
                    let remain = clients(&plain.iter().filter(|ban| !ban.2.until.is_expired(now)).copied().collect::<Vec<_>>());
                    plain.retain(|ban| remain.contains(&ban.0));
                    prop_assert_eq!(ended, before - remain.len());
                }
            }
            let mut expected: Vec<_> = plain.iter().filter(|ban| !ban.2.until.is_expired(now)).copied().collect();
            expected.sort_unstable_by_key(|(client, service, _)| (*client, *service == Service::Mail));
            prop_assert_eq!(active(&bans, now), expected);
            prop_assert_eq!(ends_last(&plain).is_some(), bans.map.contains_key(&client));
        }
    }

    #[test]
    fn a_full_table_keeps_its_manual_and_permanent_bans_and_of_the_others_those_that_end_last(
        capacity in 1_usize..6,
        newcomers in proptest::collection::vec((any_ban(), 0_u64..700), 1..40),
    ) {
        let bans = Bans::new(capacity);
        let mut plain: Vec<(Until, Client, Ban)> = Vec::new();
        let mut evicted = 0;
        let mut now = at(0);
        for (number, (new, gap)) in (0..).zip(newcomers) {
            now = now.after(Span::from_millis(gap));
            let new = Ban { until: new.until.time().map_or(Until::NEVER, |end| Until::at(now.after(end.since(at(0))))), ..new };
            let is_over_capacity = plain.len() >= capacity;
            plain.push((new.until, client(number), new));
            bans.ban(client(number), Scope::All, new, now);
            if is_over_capacity {
                let is_evictable = |ban: &Ban| ban.until != Until::NEVER && ban.rule != RuleId::MANUAL;
                let soonest = plain.iter().filter(|(_, _, ban)| is_evictable(ban)).map(|(until, client, _)| (*until, *client)).min();
                let newcomer = (new.rule != RuleId::MANUAL).then_some((new.until, client(number)));
                if let Some(out) = soonest.or(newcomer) {
                    plain.retain(|(until, client, _)| (*until, *client) != out);
                    evicted += u64::from(!out.0.is_expired(now));
                }
            }
            let mut expected: Vec<_> = plain.iter().filter(|ban| !ban.0.is_expired(now)).map(|(_, client, ban)| (*client, *ban)).collect();
            expected.sort_unstable_by_key(|(client, _)| *client);
            let on_web: Vec<_> = active(&bans, now).into_iter().filter(|ban| ban.1 == Service::Web).map(|ban| (ban.0, ban.2)).collect();
            prop_assert_eq!(on_web, expected);
            prop_assert_eq!((bans.len(), bans.evicted()), (plain.len(), evicted));
        }
    }

    #[test]
    fn the_count_and_the_lookups_agree_with_the_map(
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
                let in_map = bans.map.get(&client(number)).and_then(|bans_of_client| bans_of_client.slot(Service::Web).active(at(now)));
                prop_assert_eq!(bans.get(client(number), Service::Web, at(now)), in_map);
            }
            prop_assert!(bans.len() <= 6);
        }
    }
}

#[test]
fn mark_saved_marks_the_bans_with_that_end() {
    let bans = Bans::new(10);
    bans.ban(client(1), Scope::All, Ban { saved: false, ..ban(60) }, at(0));
    assert_eq!(bans.get(client(1), Service::Web, at(1)).map(|ban| ban.saved), Some(false));
    bans.mark_saved(client(1), Until::at(at(60)));
    assert_eq!(bans.get(client(1), Service::Mail, at(1)).map(|ban| ban.saved), Some(true));
}

#[test]
fn mark_unsaved_marks_only_the_services_of_its_scope() {
    let bans = Bans::new(10);
    bans.ban(client(1), Scope::All, ban(60), at(0));
    bans.mark_unsaved(client(1), Scope::Mail);
    assert_eq!(bans.get(client(1), Service::Mail, at(1)).map(|ban| ban.saved), Some(false));
    assert_eq!(bans.get(client(1), Service::Web, at(1)).map(|ban| ban.saved), Some(true));
    bans.mark_unsaved(client(2), Scope::All);
    assert_eq!(bans.len(), 1);
}
