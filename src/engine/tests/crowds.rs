//! Tests of rules that count networks, and of rules that count bans.

use super::*;
use crate::list::BannedNetwork;
use crate::rule::Evidence;

const NEAR: &str = "[[rule]]\nname = 'near'\npath = '^/x'\nmaxretry = 6\ncount_by = 'network'\nmembers = 3\nfindtime = '10m'\nrefuse = 'ban'\nscope = 'web'\n";

/// Which networks are banned, by which rule and with how many members.
fn networks(engine: &Engine) -> Vec<(String, String, u32)> {
    let policy = engine.policy();
    let mut networks: Vec<_> =
        policy.lists.banned.iter().map(|ban| (ban.network.to_string(), engine.names().name(ban.rule).to_string(), ban.members)).collect();
    networks.sort();
    networks
}

fn banned(engine: &Engine) -> Vec<String> {
    networks(engine).into_iter().map(|(network, _, _)| network).collect()
}

/// Asks once for each of `addresses`.
fn ask_all(engine: &Arc<Engine>, now: u64, addresses: &[&str]) -> Vec<Option<DenyReason>> {
    addresses.iter().map(|address| reason(&ask(engine, at(now), address, &get("/x")))).collect()
}

const THREE: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

#[test]
fn a_network_is_banned_for_enough_offences_of_enough_clients() {
    let engine = engine(NEAR);
    let changes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&changes);
    engine.observe(move |change| seen.lock().push(change.clone()));
    assert_eq!(ask_all(&engine, 0, &THREE), [None; 3]);
    assert_eq!(ask_all(&engine, 1, &THREE), [None, None, Some(DenyReason::Struck)]);
    assert_eq!(networks(&engine), [("192.0.2.0/24".to_owned(), "near".to_owned(), 3)]);
    let refused = ask(&engine, at(2), "192.0.2.200", &get("/"));
    assert_eq!((reason(&refused), refused.refusal().map(|refusal| refusal.rule)), (Some(DenyReason::Banned), engine.names().find("near")));
    assert_eq!(ask(&engine, at(2), "192.0.2.200", &Event::Lookup(Service::Mail)), Verdict::Allow(AllowReason::NothingFound), "web alone");
    assert_eq!(ask(&engine, at(2), "192.0.3.1", &get("/")), Verdict::Allow(AllowReason::NothingFound));
    let Some(Change::NetworkBanned(record)) = changes.lock().pop() else { panic!("{changes:?}") };
    assert_eq!((&*record.rule, record.scope, record.members), ("near", Scope::Web, 3));
    let evidence = "6 offences of 3 clients or more, such as 192.0.2.1, 192.0.2.2, 192.0.2.3; last: GET /x ";
    assert_eq!(record.reason, Evidence::restore(evidence));
    engine.unban_network(at(3), record.network, Completion::ignored());
    assert_eq!(ask_all(&engine, 4, &THREE), [None; 3], "an unban starts the count again");
}

#[test]
fn a_network_that_offends_again_after_its_ban_is_banned_for_longer_until_an_unban_or_a_quiet_time() {
    let growing = format!("{NEAR}bantime = {{ initial = '10m', increment = true, maxtime = '30m', forget = '1d' }}\n");
    let engine = engine(&growing);
    let network = "192.0.2.0/24".parse().unwrap();
    // Offends at `second`, and returns for how many minutes that banned.
    let offend = |second| {
        ask_all(&engine, second, &THREE);
        ask_all(&engine, second, &THREE);
        let ban = engine.policy().lists.banned.get(network).cloned().unwrap();
        ban.until.unwrap().since(ban.since).millis() / 60_000
    };
    assert_eq!([offend(0), offend(2000), offend(6000), offend(10_000)], [10, 20, 30, 30]);
    engine.unban_network(at(10_001), network, Completion::ignored());
    assert_eq!([offend(10_002), offend(20_000)], [10, 20]);
    engine.unban_network(at(20_001), "198.51.100.0/24".parse().unwrap(), Completion::ignored());
    let rule = engine.names().find("near");
    engine.forget_all_earlier_bans(rule, "203.0.113.0/24".parse().ok(), Scope::All, Completion::ignored());
    assert_eq!(offend(30_000), 30, "of other networks");
    engine.forget_all_earlier_bans(rule, None, Scope::All, Completion::ignored());
    assert_eq!(offend(40_000), 10);
    assert_eq!(offend(40_000 + 90_000), 10, "a day without a ban");
}

#[test]
fn releasing_a_network_ends_only_the_ban_that_is_meant_and_its_next_one_is_still_longer() {
    let growing = format!("{NEAR}bantime = {{ initial = '10m', increment = true, maxtime = '30m', forget = '1d' }}\n");
    let engine = engine(&growing);
    let (network, near) = ("192.0.2.0/24".parse().unwrap(), engine.names().find("near"));
    let release = |second, is_meant: bool| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let completion = Completion::new(move |applied| sender.send(applied).unwrap());
        let is_own = |ban: &BannedNetwork| (Some(ban.rule) == near) == is_meant;
        engine.release_network(at(second), network, is_own, crate::engine::Reach::Here, completion);
        receiver.recv().unwrap().unwrap().changed
    };
    ask_all(&engine, 0, &THREE);
    ask_all(&engine, 0, &THREE);
    assert!(!release(1, false) && banned(&engine) == ["192.0.2.0/24"], "a ban of others");
    assert!(release(2, true) && banned(&engine).is_empty());
    assert!(!release(3, true), "there is none");
    ask_all(&engine, 10, &THREE);
    ask_all(&engine, 10, &THREE);
    assert_eq!(engine.policy().lists.banned.get(network).unwrap().until, Some(at(10 + 1200)), "twice as long as the first");
    // A ban that must stay is not replaced either.
    let record = NetworkRecord { rule: "crowdsec-x".into(), ..NetworkRecord::manual(network, at(11), Until::NEVER, Evidence::new(&[])) };
    engine.ban_network_unless(record.clone(), |ban| Some(ban.rule) == near, Completion::ignored());
    assert_eq!(networks(&engine)[0].1, "near");
    engine.ban_network_unless(record, |ban| Some(ban.rule) != near, Completion::ignored());
    assert_eq!(networks(&engine)[0].1, "crowdsec-x");
}

#[test]
fn one_busy_client_does_not_ban_its_network() {
    let engine = engine(NEAR);
    for second in 0..100 {
        assert_eq!(ask_all(&engine, second, &["192.0.2.1", "192.0.2.2"]), [None; 2]);
    }
    assert!(banned(&engine).is_empty());
}

#[test]
fn clients_in_a_banned_network_are_not_counted_any_more() {
    let engine = engine(&format!("{NEAR}[[rule]]\nname = 'own'\npath = '^/y'\nmaxretry = 2"));
    ask_all(&engine, 0, &THREE);
    ask_all(&engine, 0, &THREE);
    for second in 1..9 {
        assert_eq!(reason(&ask(&engine, at(second), "192.0.2.9", &get("/y"))), Some(DenyReason::Banned));
    }
    assert!(engine.bans().is_empty() && engine.crowds().len() == 0 && engine.strikes().is_empty());
}

#[test]
fn never_banned_and_ignored_addresses_are_served_in_a_banned_network() {
    let ignoring = NEAR.replace("scope = 'web'", "scope = 'web'\nignoreip = ['192.0.2.64/26']");
    let engine = engine(&format!("[defaults]\nignoreip = ['192.0.2.7']\n{ignoring}"));
    ask_all(&engine, 0, &THREE);
    ask_all(&engine, 0, &THREE);
    assert_eq!(banned(&engine), ["192.0.2.0/24"]);
    assert!(matches!(ask(&engine, at(1), "192.0.2.7", &get("/")), Verdict::Allow(AllowReason::NeverBanned(_))));
    assert_eq!(ask(&engine, at(1), "192.0.2.70", &get("/x")), Verdict::Allow(AllowReason::NothingFound));
    assert_eq!(reason(&ask(&engine, at(1), "192.0.2.8", &get("/"))), Some(DenyReason::Banned));
}

#[test]
fn clients_of_enough_ipv6_subscribers_ban_their_network() {
    let engine = engine(NEAR);
    let addresses = ["2001:db8:1:100::1", "2001:db8:1:200::1", "2001:db8:1:300::1"];
    ask_all(&engine, 0, &addresses);
    assert_eq!(ask_all(&engine, 1, &addresses), [None, None, Some(DenyReason::Struck)]);
    assert_eq!(reason(&ask(&engine, at(2), "2001:db8:1:ffff::1", &get("/"))), Some(DenyReason::Banned));
    assert_eq!(reason(&ask(&engine, at(2), "2001:db8:2::1", &get("/"))), None);
}

#[test]
fn the_clients_of_one_ipv6_subscriber_are_one_member() {
    let result = |length: u8, addresses: [&str; 3]| {
        let engine = engine(&format!("{NEAR}network = {{ ipv6 = {length} }}"));
        ask_all(&engine, 0, &addresses);
        ask_all(&engine, 1, &addresses);
        banned(&engine)
    };
    let of_one_56 = ["2001:db8:1:1::1", "2001:db8:1:2::1", "2001:db8:1:ff::1"];
    let of_one_48 = ["2001:db8:1:100::1", "2001:db8:1:200::1", "2001:db8:1:300::1"];
    let of_three_48 = ["2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1"];
    assert_eq!(result(48, of_one_56), [""; 0]);
    assert_eq!(result(55, of_one_56), [""; 0]);
    assert_eq!(result(56, of_one_56), ["2001:db8:1::/56"]);
    assert_eq!(result(48, of_one_48), ["2001:db8:1::/48"]);
    assert_eq!(result(47, of_one_48), [""; 0]);
    assert_eq!(result(32, of_three_48), ["2001:db8::/32"]);
}

#[test]
fn a_success_takes_its_whole_ipv6_subscriber_out_of_the_count() {
    let text =
        "[[rule]]\nname = 'crowd'\nevent = 'request'\nreferer = false\ncount_by = 'network'\nmembers = 2\nmaxretry = 2\nfindtime = '1m'";
    let engine = engine(text);
    for (address, unreferred) in [("2001:db8:1:1::1", 1), ("2001:db8:1:2::1", 0), ("2001:db8:1:100::1", 1)] {
        let address: std::net::IpAddr = address.parse().unwrap();
        let tally = RequestTally::new(address, Client::of(address, Ipv6Prefix::default()), 1).with_unreferred(unreferred);
        engine.count_requests(at(0), &mut vec![tally]);
    }
    assert_eq!(banned(&engine), [""; 0]);
}

#[test]
fn a_network_beyond_the_limit_takes_the_place_of_one_by_a_rule_and_of_none_on_other_machines() {
    const LIMIT: u32 = 16_384;
    let full = |members: u32, until: Option<u64>| {
        let engine = engine(NEAR);
        engine.change_lists(|lists| {
            for number in 0..LIMIT {
                let network = ipnet::IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + (number << 8)).into(), 24).unwrap();
                let until = until.map(|until| at(until + u64::from(number)));
                lists.banned.insert(BannedNetwork { until, members, ..BannedNetwork::manual(network, at(0)) });
            }
        });
        let changes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&changes);
        engine.observe(move |change| seen.lock().push(change.clone()));
        ask_all(&engine, 0, &THREE);
        assert_eq!(ask_all(&engine, 1, &THREE), [None, None, Some(DenyReason::Struck)]);
        let is_banned = engine.policy().lists.banned.get("192.0.2.0/24".parse::<crate::geo::Network>().unwrap()).is_some();
        let evicted =
            changes.lock().iter().any(|change| *change == Change::NetworkEvicted { network: "10.0.0.0/24".parse().unwrap(), at: at(1) });
        let is_unban = |change: &Change| matches!(change, Change::NetworkUnbanned { .. });
        assert!(!changes.lock().iter().any(is_unban));
        let refused = engine.stats().refused_networks.load(Ordering::Relaxed);
        assert_eq!(engine.stats().evicted_networks.load(Ordering::Relaxed), u64::from(evicted));
        (is_banned, evicted, engine.policy().lists.banned.len() as u32 - LIMIT, refused)
    };
    assert_eq!(full(0, Some(60)), (true, false, 1, 0), "bans by hand take no room");
    assert_eq!(full(3, Some(60)), (true, true, 0, 0));
    assert_eq!(full(3, None), (false, false, 0, 1), "permanent bans make no room");
}

#[test]
fn a_rule_in_shadow_mode_bans_no_network_and_says_which_it_would_have() {
    let engine = engine(&NEAR.replace("scope = 'web'", "mode = 'shadow'"));
    for second in 0..9 {
        assert_eq!(ask_all(&engine, second, &THREE), [None; 3]);
    }
    assert!(banned(&engine).is_empty());
    let network = "192.0.2.0/24".parse().unwrap();
    let near = engine.names().find("near").unwrap();
    assert_eq!(engine.shadow_network_ban("192.0.2.77".parse().unwrap(), Service::Mail, at(9)), Some((near, network)));
    assert_eq!(engine.stats().shadow_bans.load(Ordering::Relaxed), 1, "while its ban would last, it counts nothing");
    assert!(engine.network_reason(network, near).unwrap().as_str().contains("192.0.2.3"));
}

#[test]
fn a_ban_by_a_rule_does_not_shorten_one_by_hand_and_joins_that_of_another_service() {
    let by_hand = |scope, until| NetworkRecord {
        scope,
        ..NetworkRecord::manual("192.0.2.0/24".parse::<crate::geo::Network>().unwrap(), at(0), until, Evidence::new(&[]))
    };
    let result = |record| {
        let engine = engine(NEAR);
        engine.ban_network(record, Completion::ignored());
        ask_all(&engine, 0, &THREE);
        ask_all(&engine, 0, &THREE);
        let policy = engine.policy();
        let ban = policy.lists.banned.get("192.0.2.0/24".parse::<crate::geo::Network>().unwrap()).unwrap();
        (ban.scope, ban.until, engine.names().name(ban.rule).to_string())
    };
    assert_eq!(result(by_hand(Scope::All, Until::NEVER)), (Scope::All, None, "manual".to_owned()));
    let joined = result(by_hand(Scope::Mail, Until::at(at(7200))));
    assert_eq!(joined, (Scope::All, Some(at(7200)), "near".to_owned()));
}

#[test]
fn requests_without_a_source_count_unless_their_client_also_sends_others() {
    let text =
        "[[rule]]\nname = 'crowd'\nevent = 'request'\nreferer = false\ncount_by = 'network'\nmembers = 3\nmaxretry = 6\nfindtime = '1m'";
    let count = |unreferred: &dyn Fn(u32) -> u32| {
        let engine = engine(text);
        for round in 0..6_u32 {
            let tally = |number: u32| {
                let address = std::net::Ipv4Addr::from(0xc000_0200 + number);
                RequestTally::new(address.into(), Client::from(address), 2).with_unreferred(unreferred(number))
            };
            engine.count_requests(at(round.into()), &mut (0..4).map(tally).collect());
        }
        banned(&engine)
    };
    assert_eq!(count(&|_| 2), ["192.0.2.0/24"]);
    assert!(count(&|number| if number < 2 { 2 } else { 1 }).is_empty(), "two of four are browsers");
    assert!(count(&|_| 0).is_empty());
}

#[test]
fn clients_that_log_in_are_no_members() {
    let text = "[[rule]]\nname = 'logins'\nstatus = 401\npath = '^/login$'\ncleared_by_status = 200\ncount_by = 'network'\nmembers = 3\nmaxretry = 6";
    let login = |engine: &Arc<Engine>, address: &str, status| {
        let request = request("/login");
        ask(engine, at(0), address, &Event::Response { request, status });
        let policy = engine.policy();
        let detector = Detector::new(&policy, engine.bans());
        if let Some(cleared) = detector.cleared(status, &request, &mut Scratch::default()) {
            engine.clear(Client::of(address.parse().unwrap(), Ipv6Prefix::default()), &cleared);
        }
    };
    for (successes, expected) in [(true, 0), (false, 1)] {
        let engine = engine(text);
        for _ in 0..3 {
            for address in THREE {
                login(&engine, address, 401);
                if successes {
                    login(&engine, address, 200);
                }
            }
        }
        assert_eq!(banned(&engine).len(), expected);
    }
}

#[test]
fn five_bans_of_a_client_ban_it_for_longer() {
    let text = "[[rule]]\nname = 'probe'\npath = '^/probe'\nmaxretry = 1\nbantime = '1m'\n\
                [[rule]]\nname = 'again'\nevent = 'ban'\nmaxretry = 3\nfindtime = '1d'\nbantime = '1w'";
    let engine = engine(text);
    let offend = |seconds| ask(&engine, at(seconds), "192.0.2.1", &get("/probe"));
    assert_eq!([0, 100, 200].map(|seconds| reason(&offend(seconds))), [Some(DenyReason::Struck); 3]);
    let refused = ask(&engine, at(300), "192.0.2.1", &get("/"));
    assert_eq!(refused.refusal().map(|refusal| refusal.until), Some(Until::at(at(200 + 7 * 86_400))));
    let record = engine.ban_record(Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1))).unwrap();
    assert_eq!((&*record.rule, record.evidence.as_str()), ("again", "banned by probe for GET /probe "));
}

#[test]
fn enough_banned_clients_ban_their_network_and_bans_by_hand_do_not_count() {
    let text = "[[rule]]\nname = 'probe'\npath = '^/probe'\nmaxretry = 1\n\
                [[rule]]\nname = 'net'\nevent = 'ban'\ncount_by = 'network'\nmembers = 3\nmaxretry = 3\nfindtime = '1h'";
    let engine = engine(text);
    for number in 10..20_u8 {
        let by_hand = BanRecord { rule: "manual".into(), ..record(Client::from(std::net::Ipv4Addr::new(192, 0, 2, number)), at(0)) };
        engine.ban(by_hand, Completion::ignored());
    }
    for address in THREE {
        assert!(banned(&engine).is_empty());
        assert_eq!(reason(&ask(&engine, at(1), address, &get("/probe"))), Some(DenyReason::Struck));
    }
    assert_eq!(networks(&engine), [("192.0.2.0/24".to_owned(), "net".to_owned(), 3)]);
}

#[test]
fn a_rule_that_is_switched_off_releases_its_networks() {
    let engine = engine(NEAR);
    ask_all(&engine, 0, &THREE);
    ask_all(&engine, 0, &THREE);
    let lifted = engine.reload(at(1), Policy::for_tests(&NEAR.replace("scope = 'web'", "mode = 'shadow'"), engine.names()), SavedBans::End);
    assert_eq!(lifted.iter().map(|lifted| (&*lifted.rule, lifted.bans)).collect::<Vec<_>>(), [("near", 1)]);
    assert!(banned(&engine).is_empty());
}
