//! What Squid's clients see: scanners are refused, everybody else is served.

use crate::harness::{Stage, wait_for, wait_until};
use crate::rig::{Origin, Squid, get, request};

/// One probe in each of the four spellings, and one percent-encoded.
const PROBES: &[&str] =
    &["/w00tw00t.at.ISC.SANS.DFind:)", "/wootwoot.at.ISC.SANS.DFind:)", "/WootWoot", "/WooTWooT/x?y=z", "/%770%30tw0%30t"];

fn assert_that_scanners_are_refused(squid: &Squid, origin: &Origin) {
    for (number, probe) in PROBES.iter().enumerate() {
        let scanner = format!("198.51.100.{}", number + 1);
        assert_eq!(get(squid.port(), &scanner, "/"), 200, "before {probe}");
        let served = origin.served();
        assert_eq!(get(squid.port(), &scanner, probe), 429, "{probe}");
        assert_eq!(get(squid.port(), &scanner, "/"), 429, "after {probe}");
        assert_eq!(origin.served(), served, "a refused request reached the origin");
        assert_eq!(get(squid.port(), "203.0.113.9", "/"), 200, "another client after {probe}");
    }
    squid.assert_clean_log();
}

/// Starts Squid and waits for its helper. One that takes more than five seconds to compile its rules serves everybody meanwhile, and an
/// unoptimised one may on a busy machine.
fn start_judging(stage: &Stage, origin: &Origin, fragment: &str) -> Squid {
    let squid = Squid::start(stage, origin, fragment);
    wait_until("the helper judges", || get(squid.port(), "198.51.100.250", "/w00tw00t") == 429);
    squid
}

fn scan_with_the_daemon(example: &str) {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _daemon = stage.daemon("");
    let squid = start_judging(&stage, &origin, &stage.squid_example(example));
    assert_that_scanners_are_refused(&squid, &origin);
}

fn scan_with_squid_alone(example: &str) {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let squid = start_judging(&stage, &origin, &stage.squid_example_alone(example));
    assert_that_scanners_are_refused(&squid, &origin);
}

#[test]
fn failopen_conf_refuses_every_spelling_of_w00tw00t() {
    scan_with_the_daemon("squid-failopen.conf");
}

#[test]
fn squid_conf_refuses_every_spelling_of_w00tw00t() {
    scan_with_the_daemon("squid.conf");
}

#[test]
fn failopen_conf_without_a_daemon_refuses_every_spelling_of_w00tw00t() {
    scan_with_squid_alone("squid-failopen.conf");
}

#[test]
fn squid_conf_without_a_daemon_refuses_every_spelling_of_w00tw00t() {
    scan_with_squid_alone("squid.conf");
}

#[test]
fn a_visitor_sent_by_another_page_is_refused_but_not_banned() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _daemon = stage.daemon("");
    let squid = start_judging(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    let sent = request(squid.port(), "198.51.100.1", "GET", "/w00tw00t", "Sec-Fetch-Site: cross-site\r\n").unwrap();
    assert_eq!(sent.status, 429);
    assert_eq!(get(squid.port(), "198.51.100.1", "/"), 200);
}

/// A scanner that sends Sec-Fetch-Site with each probe, and the visitor of a page with hundreds of planted pictures, in turn.
#[test]
fn probes_in_the_name_of_a_page_ban_beyond_what_a_page_holds() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let daemon = stage.daemon("[[rule]]\nname = 'page-probes'\nfindtime = '1h'\n");
    for (example, offset) in [("squid-failopen.conf", 0), ("squid.conf", 2)] {
        let squid = Squid::start(&stage, &origin, &stage.squid_example(example));
        let [visitor, scanner] = [1, 2].map(|last| format!("198.51.100.{}", last + offset));
        let probe = |client: &str, number: usize| {
            let header = if number.is_multiple_of(2) { "Sec-Fetch-Site: cross-site\r\n" } else { "sec-fetch-site: same-origin\r\n" };
            let paths = ["/.env", "/w00tw00t", "/.git/config", "/./.env", "/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php"];
            let path = format!("{}?{number}", paths[number % paths.len()]);
            assert_eq!(request(squid.port(), client, "GET", &path, header).unwrap().status, 429, "{client}: {path}");
        };
        (0..281).for_each(|number| probe(&visitor, number));
        (0..299).for_each(|number| probe(&scanner, number));
        let strikes = |client: &str| {
            let why = daemon.json(&["why", client]);
            let strike = why["strikes"].as_array().unwrap().iter().find(|strike| strike["rule"] == "page-probes").cloned();
            strike.map(|strike| strike["count"].clone())
        };
        wait_until("all are counted", || strikes(&scanner) == Some(299.into()));
        assert_eq!(strikes(&visitor), Some(281.into()));
        for client in [&visitor, &scanner] {
            assert_eq!(get(squid.port(), client, "/"), 200, "{example}: {client}");
        }
        probe(&scanner, 300);
        wait_until("the scanner is banned", || get(squid.port(), &scanner, "/") == 429);
        let why = daemon.json(&["why", &scanner]);
        assert_eq!(why["services"]["web"]["rule"], "page-probes", "{why}");
        assert_eq!(get(squid.port(), &visitor, "/"), 200, "{example}");
        squid.assert_clean_log();
    }
    assert_eq!(daemon.number("bans"), 2);
}

#[test]
fn unusual_requests_of_innocent_clients_are_served() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _daemon = stage.daemon("");
    let mut squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    let long_path = format!("/{}", "a".repeat(7_900));
    let long_agent = format!("User-Agent: {}\r\n", "\u{e9}% \\\"".repeat(8_000));
    for (method, path, headers) in [
        ("GET", "/%20%0a%ff%25/x?a=%0a&b=%", ""),
        ("GET", long_path.as_str(), ""),
        ("GET", "/agent", long_agent.as_str()),
        ("GET", "/agents", "User-Agent: a\r\nUser-Agent: OK ban_=yes\r\n"),
        ("GET", "/no-agent", "User-Agent: -\r\n"),
        ("GET", "/status=404", "User-Agent: status=404\r\n"),
        ("POST", "/form", "Content-Length: 0\r\n"),
        ("HEAD", "/head", ""),
        ("PROPFIND", "/dav", ""),
        ("WHAT", "/unknown-method", ""),
    ] {
        let reply = request(squid.port(), "203.0.113.9", method, path, headers).unwrap();
        assert_eq!(reply.status, 200, "{method} {:.60} {headers:.60}: {:.400}", path, reply.text);
    }
    squid.assert_running();
    squid.assert_clean_log();
}

#[test]
fn an_ipv6_client_is_a_64_bit_network() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _daemon = stage.daemon("");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    assert_eq!(get(squid.port(), "2001:db8:1:1::1", "/w00tw00t"), 429);
    assert_eq!(get(squid.port(), "2001:db8:1:1:2:3:4:5", "/"), 429);
    assert_eq!(get(squid.port(), "2001:db8:1:2::1", "/"), 200);
}

#[test]
fn a_flood_from_a_banned_client_does_not_reach_the_helper() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _daemon = stage.daemon("");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t"), 429);
    // Squid has just cached that the address is not banned; it asks again within two seconds.
    let quiet = |squid: &Squid| {
        let before = squid.helper_requests();
        for _ in 0..50 {
            assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429);
        }
        // The page with the counters is a request as well, and asks twice.
        squid.helper_requests() - before
    };
    wait_until("50 requests cost the helper at most 6 queries", || quiet(&squid) <= 6);
}

#[test]
fn a_ban_outlives_rotation_and_reconfiguration() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let squid = Squid::start(&stage, &origin, &stage.squid_example_alone("squid-failopen.conf"));
    assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t"), 429);
    for what in ["rotate", "reconfigure"] {
        let old = squid.helpers();
        squid.control(what);
        wait_for("new helpers have taken over", || {
            // startup=0: only a request starts the new ones. While Squid reconfigures, its port is closed for a moment.
            request(squid.port(), "203.0.113.9", "GET", "/", "").ok()?;
            let now = squid.helpers();
            (!now.is_empty() && now.iter().all(|pid| !old.contains(pid))).then_some(())
        });
        assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429, "after {what}");
        assert_eq!(get(squid.port(), "203.0.113.9", "/"), 200, "after {what}");
    }
}

#[test]
fn a_response_code_counts_and_its_own_response_is_never_refused() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let rule = "[[rule]]\nname = \"many-404\"\nstatus = 404\nmaxretry = 3\nmode = \"enforce\"\n";
    let _daemon = stage.daemon(rule);
    // Uncomments the optional part of the example.
    let uncomment = |line: &str| {
        line.replacen("#acl status", "acl status", 1).replacen("#acl strikeout_4", "acl strikeout_4", 1).replacen(
            "#http_reply_access deny status",
            "http_reply_access deny status",
            1,
        )
    };
    let fragment: Vec<String> = stage.squid_example("squid-failopen.conf").lines().map(uncomment).collect();
    let squid = Squid::start(&stage, &origin, &fragment.join("\n"));
    let answers: Vec<u16> = (0..4).map(|_| get(squid.port(), "198.51.100.1", "/missing")).collect();
    assert_eq!(answers, [404, 404, 404, 429], "the third response makes the ban, and only the next request is refused");
    assert_eq!(get(squid.port(), "203.0.113.9", "/missing"), 404);
    squid.assert_clean_log();
}
