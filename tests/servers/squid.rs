//! What Squid's clients see: who scans is refused, everybody else is served.

use super::harness::{Origin, Resident, Squid, Stage, get, request, until};

/// One probe in each of the four spellings, and one percent-encoded.
const PROBES: &[&str] =
    &["/w00tw00t.at.ISC.SANS.DFind:)", "/wootwoot.at.ISC.SANS.DFind:)", "/WootWoot", "/WooTWooT/x?y=z", "/%770%30tw0%30t"];

fn a_scanner_is_refused_at_once_and_afterwards(squid: &Squid, origin: &Origin) {
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

fn scan_with_the_resident(example: &str) {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _resident = Resident::start(&stage, "");
    let squid = Squid::start(&stage, &origin, &stage.squid_example(example));
    a_scanner_is_refused_at_once_and_afterwards(&squid, &origin);
}

fn scan_with_squid_alone(example: &str) {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let squid = Squid::start(&stage, &origin, &stage.squid_example_alone(example));
    a_scanner_is_refused_at_once_and_afterwards(&squid, &origin);
}

#[test]
fn failopen_conf_refuses_every_spelling_of_w00tw00t() {
    scan_with_the_resident("squid-failopen.conf");
}

#[test]
fn squid_conf_refuses_every_spelling_of_w00tw00t() {
    scan_with_the_resident("squid.conf");
}

#[test]
fn failopen_conf_without_a_resident_refuses_every_spelling_of_w00tw00t() {
    scan_with_squid_alone("squid-failopen.conf");
}

#[test]
fn squid_conf_without_a_resident_refuses_every_spelling_of_w00tw00t() {
    scan_with_squid_alone("squid.conf");
}

#[test]
fn a_visitor_whom_another_page_sent_is_refused_but_not_banned() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _resident = Resident::start(&stage, "");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    let sent = request(squid.port(), "198.51.100.1", "GET", "/w00tw00t", "Sec-Fetch-Site: cross-site\r\n").unwrap();
    assert_eq!(sent.status, 429);
    assert_eq!(get(squid.port(), "198.51.100.1", "/"), 200);
}

#[test]
fn whatever_innocents_send_is_served() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _resident = Resident::start(&stage, "");
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
fn scanners_that_come_by_ipv6_are_one_client_for_each_64_bit_network() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _resident = Resident::start(&stage, "");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    assert_eq!(get(squid.port(), "2001:db8:1:1::1", "/w00tw00t"), 429);
    assert_eq!(get(squid.port(), "2001:db8:1:1:2:3:4:5", "/"), 429);
    assert_eq!(get(squid.port(), "2001:db8:1:2::1", "/"), 200);
}

#[test]
fn a_flood_from_a_banned_client_stays_off_the_helper() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _resident = Resident::start(&stage, "");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t"), 429);
    // That the address is not banned was cached a moment ago; it is asked again within two seconds.
    let quiet = |squid: &Squid| {
        let before = squid.helper_requests();
        for _ in 0..50 {
            assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429);
        }
        // The page that tells the numbers is a request as well, and asks twice.
        squid.helper_requests() - before
    };
    until("50 requests cost the helper next to none", || (quiet(&squid) <= 6).then_some(()));
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
        until("new helpers have taken over", || {
            // startup=0: only a request starts the new ones. (Reconfiguring, Squid closes its port for a moment.)
            request(squid.port(), "203.0.113.9", "GET", "/", "").ok()?;
            let now = squid.helpers();
            (!now.is_empty() && now.iter().all(|pid| !old.contains(pid))).then_some(())
        });
        assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429, "after {what}");
        assert_eq!(get(squid.port(), "203.0.113.9", "/"), 200, "after {what}");
    }
}

#[test]
fn response_codes_reach_the_rules_and_the_response_itself_is_never_refused() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let rule = "[[rule]]\nname = \"many-404\"\nstatus = 404\nmaxretry = 3\nmode = \"enforce\"\n";
    let _resident = Resident::start(&stage, rule);
    // The part of the example that is there to be uncommented.
    let uncomment = |line: &str| {
        line.replacen("#acl status", "acl status", 1).replacen("#acl strikeout_4", "acl strikeout_4", 1).replacen(
            "#http_reply",
            "http_reply",
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
