//! Tests of offences that repeat earlier ones, of successes that clear strikes, and of addresses that one rule ignores.

use super::*;
use crate::event::Header;

/// The number of offences that it takes to be refused; none if `urls` end before.
fn banned_after<'a>(engine: &Arc<Engine>, urls: impl IntoIterator<Item = &'a str>) -> Option<usize> {
    urls.into_iter().position(|url| reason(&ask(engine, at(0), "192.0.2.1", &get(url))).is_some()).map(|at| at + 1)
}

/// Counts a response, and clears what it clears.
fn respond(engine: &Arc<Engine>, now: Time, request: Request<'_>, status: u16) {
    let (address, policy) = ("192.0.2.1".parse().unwrap(), engine.policy());
    let cleared = Detector::new(&policy, engine.bans()).cleared(status, &request, &mut Scratch::default());
    let _ = ask(engine, now, "192.0.2.1", &Event::Response { request, status });
    if let Some(cleared) = cleared {
        engine.clear(Client::of(address, policy.prefix), &cleared);
    }
}

fn is_refused(engine: &Arc<Engine>, now: Time, address: &str) -> bool {
    reason(&ask(engine, now, address, &get("/"))).is_some()
}

#[test]
fn a_path_counts_once_however_often_it_is_asked_for_and_again_after_findtime() {
    let engine = engine("[[rule]]\nname = 'x'\npath = '/x'\ndistinct = 'path'\nmaxretry = 3\nfindtime = '1m'");
    assert_eq!(banned_after(&engine, ["/x1", "/x1?a", "/x1", "/x2", "/x2", "/x1", "/x3", "/x4"]), Some(7));
    let count = |second: u64, address: &str| reason(&ask(&engine, at(second), address, &get("/x1"))).is_some();
    assert!((0..100).all(|poll| !count(poll * 59, "192.0.2.2")), "a client that polls");
    assert!((0..100).all(|poll| !count(poll * 60, "192.0.2.3")), "its strikes expire");
}

#[test]
fn a_query_counts_once_by_the_parameters_that_match() {
    let engine = engine("[[rule]]\nname = 'x'\nquery = 'bad'\nnot_query = '^sql='\ndistinct = 'query'\nmaxretry = 2\nrefuse = 'ban'");
    assert_eq!(banned_after(&engine, ["/?q=bad&t=1", "/?q=bad&t=2", "/a?t=3&q=b%61d", "/?sql=bad1", "/?sql=bad2&x=1"]), None);
    assert_eq!(banned_after(&engine, ["/?q=bad2"]), Some(1));
}

#[test]
fn a_ban_forgets_what_was_counted_once() {
    let engine = engine("[[rule]]\nname = 'x'\npath = '/x'\ndistinct = 'path'\nmaxretry = 2\nfindtime = '1d'\nbantime = '1m'");
    assert_eq!(banned_after(&engine, ["/x1", "/x2"]), Some(2));
    let refused = |url| reason(&ask(&engine, at(60), "192.0.2.1", &get(url)));
    assert_eq!((refused("/x1"), refused("/x2")), (None, Some(DenyReason::Struck)), "both are new again");
}

#[test]
fn a_success_on_the_rules_path_clears_its_strikes() {
    let engine = engine("[[rule]]\nname = 'login'\nstatus = 200\nmethod = 'POST'\npath = '^/login'\ncleared_by_status = 302\nmaxretry = 3");
    let post = |url| Request { method: b"POST", ..request(url) };
    for _ in 0..10 {
        respond(&engine, at(0), post("/login"), 200);
        respond(&engine, at(0), post("/login?again"), 200);
        respond(&engine, at(0), post("/login2"), 302);
    }
    assert!(!is_refused(&engine, at(0), "192.0.2.1"));
    for request in [request("/login"), post("/other"), Request { method: b"OPTIONS", ..post("/login") }] {
        respond(&engine, at(1), post("/login"), 200);
        respond(&engine, at(1), request, 302);
    }
    assert!(is_refused(&engine, at(1), "192.0.2.1"), "no success of a login");
}

#[test]
fn without_a_path_a_success_clears_the_strikes_of_its_directory() {
    let rule = "[[rule]]\nname = 'basic'\nstatus = 401\ncredentials = true\ncleared_by_status = [200, 404]\nmaxretry = 3";
    let with = |url| Request { credentials: Some(true), ..request(url) };
    for (success, is_cleared) in [
        (with("http://h/dav/bob"), true),
        (with("http://h/open/"), false),
        (with("http://g/dav/bob"), false),
        (request("http://h/dav/bob"), false),
        (Request { credentials: Some(false), ..with("http://h/dav/bob") }, false),
    ] {
        let engine = engine(rule);
        respond(&engine, at(0), with("http://h/dav/alice/1"), 401);
        respond(&engine, at(0), with("http://h/dav/alice/2"), 401);
        respond(&engine, at(0), success, 200);
        respond(&engine, at(0), with("http://h/dav/alice/3"), 401);
        assert_eq!(is_refused(&engine, at(0), "192.0.2.1"), !is_cleared, "{success:?}");
    }
    let engine = engine(rule);
    (0..99).for_each(|_| respond(&engine, at(0), request("/dav/"), 401));
    (0..99).for_each(|_| respond(&engine, at(0), Request { credentials: Some(false), ..request("/dav/") }, 401));
    assert!(!is_refused(&engine, at(0), "192.0.2.1"), "challenges");
}

#[test]
fn a_rule_for_requests_without_a_source_matches_only_if_the_server_says_so() {
    let rule = |wanted| engine(&format!("[[rule]]\nname = 'x'\nstatus = 404\nreferer = {wanted}\nmaxretry = 1"));
    let (none, some) = (Header::plain(b""), Header::plain(b"http://h/"));
    for (request, without, with) in [
        (request("/"), false, false),
        (Request { referer: none, ..request("/") }, true, false),
        (Request { referer: some, ..request("/") }, false, true),
        (Request { referer: none, sec_fetch_site: b"none", ..request("/") }, false, true),
        (Request { sec_fetch_site: b"cross-site", ..request("/") }, false, true),
    ] {
        for (wanted, expected) in [(false, without), (true, with)] {
            let engine = rule(wanted);
            respond(&engine, at(0), request, 404);
            assert_eq!(is_refused(&engine, at(0), "192.0.2.1"), expected, "referer = {wanted}: {request:?}");
        }
    }
}

#[test]
fn a_rule_does_not_concern_its_own_ignoreip_whatever_it_counts() {
    let engine = engine(
        "[[rule]]\nname = 'x'\npath = '/x'\nmaxretry = 1\nignoreip = ['192.0.2.0/24', '2001:db8::7']\n\
         [[rule]]\nname = 'y'\npath = '/y'\nmaxretry = 1",
    );
    let refused = |address: &str, url: &str| reason(&ask(&engine, at(0), address, &get(url))).is_some();
    assert!(!refused("192.0.2.9", "/x") && refused("198.51.100.9", "/x") && refused("192.0.2.9", "/y"));
    assert!(refused("2001:db8::8", "/x") && !refused("2001:db8::7", "/x"), "the ban of its prefix is due to another address");
    let rates = super::engine("[[rule]]\nname = 'rate'\nevent = 'request'\nmaxretry = 2\nignoreip = ['192.0.2.1']");
    for (address, bans) in [("192.0.2.1", 0), ("192.0.2.2", 1)] {
        let address = address.parse().unwrap();
        rates.count_requests(at(0), &mut vec![RequestTally::new(address, Client::of(address, Ipv6Prefix::default()), 9)]);
        assert_eq!(rates.bans().len(), bans, "{address}");
    }
}
