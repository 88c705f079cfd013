//! What lines of logs are judged to be, by all rules of a configuration.

use super::*;
use crate::client::Ipv6Prefix;
use crate::event::Scope;
use crate::policy::Policy;
use crate::rule_id::RuleNames;
use crate::table::{Ban, Bans, Until};

const NOW: Time = Time::from_secs(1_795_400_000);
/// The time of all lines below that have no other one.
const THEN: u64 = 1_795_395_723;

const PROBE: &str = r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET /w00tw00t.at.ISC HTTP/1.1" 404 12 "-" "-""#;
const REFUSED: &str = "2026-11-23 01:02:03 Connection from [192.0.2.1] refused: too many connections";

struct World {
    policy: Policy,
    bans: Bans,
    names: RuleNames,
}

impl World {
    fn new(text: &str) -> Self {
        let names = RuleNames::default();
        let policy = Policy::for_tests(text, &names);
        Self { policy, bans: Bans::new(10), names }
    }

    fn judge(&self, line: &str, inline: bool, count: &mut dyn FnMut(&LogOffence)) -> Option<LineJudgement> {
        let mut judge = LogJudge::new(self.policy.rules.rules(), &Zone::utc(), inline).unwrap();
        let detector = Detector::new(&self.policy, &self.bans);
        judge.judge(line.as_bytes(), Received::live(NOW), &detector, count)
    }

    /// The rules, client and time of the offences in a line.
    fn offences(&self, line: &str, inline: bool) -> Vec<(String, String, u64)> {
        let mut found = Vec::new();
        self.judge(line, inline, &mut |LogOffence { time, offence, .. }| {
            for rule in &offence.rules {
                found.push((rule.name.to_string(), offence.client.to_string(), time.secs()));
            }
        });
        found
    }

    fn outcome(&self, line: &str, inline: bool) -> Option<(Outcome, bool)> {
        let judgement = self.judge(line, inline, &mut |_| ())?;
        Some((judgement.outcome, judgement.authenticated))
    }

    fn ban(&self, client: &str) -> RuleId {
        let rule = self.names.intern("x");
        let ban = Ban { until: Until::at(NOW), rule, saved: true };
        self.bans.ban(Client::of(client.parse().unwrap(), Ipv6Prefix::default()), Scope::All, ban, Time::from_secs(THEN - 1));
        rule
    }
}

fn offence(rule: &str, client: &str, time: u64) -> Vec<(String, String, u64)> {
    vec![(rule.into(), client.into(), time)]
}

#[test]
fn requests_and_refused_connections_are_offences_at_the_time_of_their_line() {
    let world = World::new("");
    assert_eq!(world.offences(PROBE, false), offence("w00tw00t", "192.0.2.1", THEN));
    let line = "2026-11-23 01:02:03 [7] Connection from [192.0.2.1]:999 I=[10.0.0.1]:25 refused: too many connections";
    assert_eq!(world.offences(line, false), offence("exim-global", "192.0.2.1", THEN));
    assert_eq!(world.offences(&format!("{line} from that IP address"), true), offence("exim-per-host", "192.0.2.1", THEN));
}

#[test]
fn a_line_from_the_future_counts_as_of_now() {
    let world = World::new("");
    let line = REFUSED.replace("2026-11-23", "2027-01-01");
    assert_eq!(world.offences(&line, false), offence("exim-global", "192.0.2.1", NOW.secs() + 60));
}

/// The times at which a log's lines count that are read as they are written, and the fault that it has then.
fn counted_at(zone: &str, lines: &[(&str, Time)]) -> (Vec<u64>, Option<String>) {
    let world = World::new("");
    let mut judge = LogJudge::new(world.policy.rules.rules(), &Zone::parse(zone).unwrap(), false).unwrap();
    let detector = Detector::new(&world.policy, &world.bans);
    let mut times = Vec::new();
    for (stamp, now) in lines {
        let line = format!("{stamp} Connection from [192.0.2.1] refused: too many connections");
        judge.judge(line.as_bytes(), Received::live(*now), &detector, &mut |offence| times.push(offence.time.secs()));
    }
    (times, judge.health().fault())
}

#[test]
fn a_live_line_in_another_zone_counts_as_of_now_and_is_a_fault() {
    let now = Time::from_secs(THEN + 2);
    for zone in ["Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "-08:00"] {
        let (times, fault) = counted_at(zone, &[("2026-11-23 01:02:03", now)]);
        assert_eq!(times, [THEN], "{zone}");
        assert!(fault.unwrap().contains("zone = \"UTC\""), "{zone}");
    }
    let (times, fault) = counted_at("UTC", &[("2026-11-23 01:02:03", now), ("2026-11-23 06:32:04", now)]);
    assert_eq!(times, [THEN, THEN + 1]);
    assert!(fault.unwrap().contains("5 h 30 min ahead of the clock"));
}

#[test]
fn a_line_that_is_late_or_has_an_offset_counts_at_its_own_time() {
    let now = Time::from_secs(THEN + 1800);
    assert_eq!(counted_at("UTC", &[("2026-11-23 01:02:03 +0000", now)]), (vec![THEN], None), "it says what its zone is");
    assert_eq!(counted_at("UTC", &[("2026-11-23 01:02:03", now.after(crate::time::Span::from_secs(120)))]), (vec![THEN], None));
    let world = World::new("");
    let mut judge = LogJudge::new(world.policy.rules.rules(), &Zone::utc(), false).unwrap();
    let detector = Detector::new(&world.policy, &world.bans);
    let mut times = Vec::new();
    judge.judge(REFUSED.as_bytes(), Received::late(now), &detector, &mut |offence| times.push(offence.time.secs()));
    assert_eq!((times, judge.health().fault()), (vec![THEN], None), "it may have been written half an hour ago");
}

#[test]
fn in_the_hour_that_occurs_twice_a_live_line_is_of_now() {
    // 02:30 in Berlin, for the first and for the second time.
    let [first, second] = [1_792_888_200, 1_792_891_800].map(Time::from_secs);
    assert_eq!(counted_at("Europe/Berlin", &[("2026-10-25 02:30:00", first)]), (vec![first.secs()], None));
    assert_eq!(counted_at("Europe/Berlin", &[("2026-10-25 02:30:00", second)]), (vec![second.secs()], None));
}

#[test]
fn in_the_hour_that_occurs_twice_a_line_in_fail2bans_language_is_no_fault_either() {
    let world = World::new("[[rule]]\nname = 'ftp'\nfailregex = 'ftp: bad login from <HOST>$'\nmaxretry = 2");
    let rules = [Arc::clone(world.policy.rules.by_name("ftp").unwrap())];
    let mut judge = LogJudge::new(&rules, &Zone::parse("Europe/Berlin").unwrap(), false).unwrap();
    let detector = Detector::new(&world.policy, &world.bans);
    let (second, mut times) = (Time::from_secs(1_792_891_800), Vec::new());
    let line = b"2026-10-25 02:30:00 ftp: bad login from 192.0.2.1";
    judge.judge(line, Received::live(second), &detector, &mut |offence| times.push(offence.time));
    assert_eq!((times, judge.health().fault()), (vec![second], None));
}

#[test]
fn an_expression_in_fail2bans_language_is_of_now_too_if_the_zone_does_not_fit() {
    let world = World::new("[[rule]]\nname = 'ftp'\nfailregex = 'ftp: bad login from <HOST>$'\nmaxretry = 2");
    let rules = [Arc::clone(world.policy.rules.by_name("ftp").unwrap())];
    let mut judge = LogJudge::new(&rules, &Zone::parse("Asia/Kolkata").unwrap(), false).unwrap();
    let detector = Detector::new(&world.policy, &world.bans);
    let mut times = Vec::new();
    let line = b"2026-11-23 01:02:03 ftp: bad login from 192.0.2.1";
    judge.judge(line, Received::live(Time::from_secs(THEN)), &detector, &mut |offence| times.push(offence.time.secs()));
    assert_eq!(times, [THEN]);
    assert!(judge.health().fault().unwrap().contains("zone = \"UTC\""));
}

#[test]
fn lines_that_no_rule_of_a_log_can_read_are_a_fault() {
    let world = World::new("");
    let fault = |rules: &[&str], lines: &[&str]| {
        let rules: Vec<_> = rules.iter().map(|name| Arc::clone(world.policy.rules.by_name(name).unwrap())).collect();
        let mut judge = LogJudge::new(&rules, &Zone::utc(), false).unwrap();
        let detector = Detector::new(&world.policy, &world.bans);
        for line in lines {
            judge.judge(line.as_bytes(), Received::late(NOW), &detector, &mut |_| ());
        }
        judge.health().fault()
    };
    assert_eq!(fault(&["w00tw00t"], &[PROBE]), None);
    assert_eq!(fault(&["exim-global"], &[REFUSED, "P Received: from x", "\tby y", "-----", REFUSED]), None, "as the reject log has them");
    assert_eq!(fault(&["exim-global"], &["Nov 23 01:02:03 mx1 dovecot: imap-login: ready"]), None, "a log that Exim shares with others");
    for (rules, line) in [
        (&["w00tw00t"], REFUSED),
        (&["w00tw00t"], "client.example - - [23/Nov/2026:01:02:03 +0000] \"GET / HTTP/1.1\" 200 1"),
        (&["w00tw00t"], "Nov 23 01:02:03 web1 nginx: something else"),
        (&["exim-global"], PROBE),
        (&["exim-global"], "P Received: from x"),
        (&["exim-global"], "2026-11-23 25:02:03 Connection from [192.0.2.1] refused: too many connections"),
    ] {
        let fault = fault(rules, &[line]).unwrap_or_else(|| panic!("no fault: {line}"));
        assert!(fault.contains("100 % of its last 1 lines are not understood"), "{fault}");
    }
}

#[test]
fn a_replayed_line_counts_at_its_own_time_whatever_the_clock_says() {
    let world = World::new("");
    let mut judge = LineJudge::new(Arc::new(RuleSet::new(vec![]).unwrap()), false).unwrap();
    let mut parser = LineParser::new(Zone::utc(), true, true);
    let line = parser.parse(REFUSED.as_bytes());
    let detector = Detector::new(&world.policy, &world.bans);
    let judgement = judge.judge(&line, Received::replayed(Time::default()), &detector, &mut |_| ()).unwrap();
    assert_eq!(judgement.time.secs(), THEN);
}

/// Switches built-in rules off.
fn off(rules: &[&str]) -> String {
    rules.iter().map(|rule| format!("[[rule]]\nname = '{rule}'\nenabled = false\n")).collect()
}

#[test]
fn the_log_of_a_server_that_asks_inline_counts_only_responses() {
    let off = off(&["web-not-found", "web-rate", "crowd-requests", "crowd-requests-asn", "crowd-requests-near"]);
    let world = World::new(&format!("{off}[[rule]]\nname = 'missing'\nstatus = 404\n[[rule]]\nname = 'rate'\nevent = 'request'"));
    assert_eq!(world.offences(PROBE, true), offence("missing", "192.0.2.1", THEN));
    assert_eq!(world.offences(PROBE, false), offence("w00tw00t", "192.0.2.1", THEN), "refused: there would have been no 404");
    let both: Vec<_> = ["rate", "missing"].iter().flat_map(|rule| offence(rule, "192.0.2.1", THEN)).collect();
    assert_eq!(world.offences(&PROBE.replace("w00tw00t", "x"), false), both);
}

#[test]
fn our_log_counts_as_requests_only_what_squid_never_asked_about() {
    let off = off(&["web-not-found", "web-rate", "page-probes", "crowd-requests", "crowd-requests-asn", "crowd-requests-near"]);
    let world = World::new(&format!("{off}[[rule]]\nname = 'missing'\nstatus = 404\n[[rule]]\nname = 'rate'\nevent = 'request'"));
    let line = |path: &str, asked: &str| format!("1795395723.000 192.0.2.1 404 TCP_MISS GET http://site{path} {asked} - - -");
    for inline in [true, false] {
        let both: Vec<_> = ["rate", "missing"].iter().flat_map(|rule| offence(rule, "192.0.2.1", THEN)).collect();
        assert_eq!(world.offences(&line("/x", "-"), inline), both);
        assert_eq!(world.offences(&line("/w00tw00t", "-"), inline), offence("w00tw00t", "192.0.2.1", THEN));
        assert_eq!(world.offences(&line("/%2577ootwoot", "-"), inline), offence("w00tw00t", "192.0.2.1", THEN), "/%77ootwoot was sent");
        for path in ["/x", "/w00tw00t"] {
            assert_eq!(world.offences(&line(path, "yes"), inline), offence("missing", "192.0.2.1", THEN), "its status alone");
        }
        assert_eq!(world.offences(&line("/x", "failed"), inline), offence("rate", "192.0.2.1", THEN), "Squid may have made the status");
        let refused = line("/w00tw00t", "yes").replace("404 TCP_MISS", "429 TCP_DENIED");
        assert!(world.offences(&refused, inline).is_empty());
        let from_a_page = line("/w00tw00t", "-").replace("- - - -", "- - - cross-site");
        assert!(world.offences(&from_a_page, inline).is_empty(), "the page is to blame");
    }
}

#[test]
fn a_probe_that_a_page_may_have_sent_is_a_page_probe_unless_squid_asked_about_it() {
    let world = World::new("");
    let line = |asked: &str, site: &str| format!("1795395723.000 192.0.2.1 403 TCP_DENIED GET http://198.51.100.1/.env {asked} - - {site}");
    for site in ["cross-site", "same-origin"] {
        assert_eq!(world.offences(&line("-", site), false), offence("page-probes", "192.0.2.1", THEN));
        assert_eq!(world.offences(&line("-", site), true), offence("page-probes", "192.0.2.1", THEN));
        let asked: Vec<_> = world.offences(&line("yes", site), false).into_iter().map(|(rule, ..)| rule).collect();
        assert_eq!(asked, ["web-forbidden"], "the helper has counted the request");
        assert!(world.offences(&line("-", site).replace("/.env", "/"), false).iter().all(|(rule, ..)| rule != "page-probes"));
    }
    for site in ["none", "-"] {
        assert_eq!(world.offences(&line("-", site), false), offence("env-file", "192.0.2.1", THEN));
    }
}

#[test]
fn a_path_in_a_log_is_judged_in_every_spelling() {
    let world = World::new("");
    for path in
        ["/./.env", "/%2e/.env", "/a/../.env", "//.env", "/;a/.env", "/.env;p=1", "/.env/", "/.env.", "/a\\..\\.env", "/%252eenv", "/.ENV"]
    {
        let escaped = path.replace('\\', "\\\\");
        let combined = format!("192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] \"GET {escaped} HTTP/1.1\" 404 5 \"-\" \"-\"");
        let native =
            format!("1795395723.000 1 192.0.2.1 TCP_MISS/404 5 GET http://user:password@site{} - HIER_NONE/- -", path.replace('\\', "%5C"));
        for line in [&combined, &native] {
            let offences = world.offences(line, false);
            assert!(offences.iter().any(|(rule, client, _)| rule == "env-file" && client == "192.0.2.1"), "{line}: {offences:?}");
        }
    }
}

#[test]
fn the_log_of_a_server_that_asks_inline_counts_what_the_server_refused_by_itself() {
    let world = World::new("");
    for (code, counted) in [
        ("TCP_DENIED/403", true),
        ("NONE_NONE/400", true),
        ("NONE_NONE_ABORTED/000", true),
        ("TCP_DENIED/429", false),
        ("TCP_DENIED_REPLY/403", false),
        ("TCP_MISS/200", false),
    ] {
        let native = format!("1795395723.000 4 192.0.2.1 {code} 4099 GET http://192.0.2.9/w00tw00t - HIER_NONE/- text/html");
        let (result, status) = code.split_once('/').unwrap();
        let combined = format!(
            r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET http://192.0.2.9/w00tw00t HTTP/1.1" {status} 12 "-" "x" {result}:HIER_NONE"#
        );
        for line in [native, combined] {
            let found = world.offences(&line, true);
            assert_eq!(found == offence("w00tw00t", "192.0.2.1", THEN), counted, "{line}: {found:?}");
        }
    }
}

#[test]
fn only_our_format_tells_a_request_that_was_asked_about_before_http_access_denied_it() {
    let world = World::new("");
    let counts = |line: &str| world.offences(line, true).iter().any(|(rule, ..)| rule == "w00tw00t");
    let ours = |asked| format!("1795395723.000 192.0.2.1 403 TCP_DENIED GET http://192.0.2.9/w00tw00t {asked} - - -");
    assert!(!counts(&ours("yes")) && counts(&ours("-")));
    let native = "1795395723.000 4 192.0.2.1 TCP_DENIED/403 4099 GET http://192.0.2.9/w00tw00t - HIER_NONE/- text/html";
    assert!(counts(native), "so docs/logs.md warns of such a log beside the plain squid.conf");
}

#[test]
fn the_evidence_of_a_request_rate_is_its_last_request() {
    let world = World::new("[[rule]]\nname = 'rate'\nevent = 'request'");
    let mut evidence = Vec::new();
    world.judge(&PROBE.replace("w00tw00t", "a\\x1bb?c"), false, &mut |seen| {
        if seen.kind == OffenceKind::Rate {
            evidence.push(seen.offence.evidence.as_str().to_owned());
        }
    });
    assert_eq!(evidence, ["one request of many: GET /a\\x1bb?c.at.ISC"]);
}

#[test]
fn datagrams_idle_connections_and_lines_without_a_real_address_strike_nobody() {
    let world = World::new("[[rule]]\nname = 'rate'\nevent = 'request'");
    for line in [
        "1795395723.000 0 192.0.2.1 UDP_DENIED/000 69 ICP_QUERY http://example.test/w00tw00t - HIER_NONE/- -",
        "1795395723.000 60000 192.0.2.1 NONE_NONE/000 0 - error:transaction-end-before-headers - HIER_NONE/- -",
        "1795395723.000 192.0.2.1 0 NONE_NONE - error:transaction-end-before-headers - - - -",
        "1795395723.000 192.0.2.1 0 UDP_DENIED ICP_QUERY http://example.test/w00tw00t - - - -",
        "1795395723.000 :: 417 NONE_NONE GET http://example.test/w00tw00t - - - -",
        "1795395723.000 0 :: NONE_NONE/417 4099 GET http://example.test/w00tw00t - HIER_NONE/- text/html",
        "1795395723.000 0 0.0.0.0 NONE_NONE/417 4099 GET http://example.test/w00tw00t - HIER_NONE/- text/html",
    ] {
        for inline in [true, false] {
            assert!(world.offences(line, inline).is_empty(), "{line}");
        }
    }
}

#[test]
fn a_line_that_can_only_name_the_balancer_blames_nobody() {
    let world = World::new("[defaults]\ntrusted_proxies = ['192.0.2.1']");
    for line in [
        "1795395723.000 192.0.2.1 400 NONE_NONE GET /w00tw00t - - - -",
        "1795395723.000 192.0.2.1 405 NONE_NONE CONNECT error:method-not-allowed - - - -",
    ] {
        assert!(world.offences(line, true).is_empty(), "{line}");
        assert!(!world.offences(&line.replace("192.0.2.1", "192.0.2.2"), true).is_empty(), "{line}");
    }
}

#[test]
fn connections_count_towards_rates_unless_their_server_asks_inline() {
    let world = World::new("");
    let line = "2026-11-23 01:02:03 SMTP connection from [192.0.2.1]:59801 I=[10.0.0.1]:25 (TCP/IP connection count = 1)";
    assert_eq!(world.offences(line, false), offence("exim-rate", "192.0.2.1", THEN));
    assert!(world.offences(line, true).is_empty());
    assert!(world.offences(&line.replace("]:25", "]:587"), false).is_empty(), "submission ports are exempt");
}

#[test]
fn a_response_to_a_request_that_its_own_offence_banned_does_not_count() {
    let world = World::new("[[rule]]\nname = 'probe'\npath = '^/probe$'\nmaxretry = 2\n[[rule]]\nname = 'missing'\nstatus = 404");
    let line = PROBE.replace("/w00tw00t.at.ISC", "/probe");
    let mut kinds = Vec::new();
    world.judge(&line, false, &mut |offence| kinds.push(offence.kind));
    assert_eq!(kinds.first(), Some(&OffenceKind::Request));
    let responses = kinds.iter().filter(|kind| **kind == OffenceKind::Response).count();
    assert_eq!(responses, 1);
    let mut kinds = Vec::new();
    world.judge(&line, false, &mut |offence| {
        kinds.push(offence.kind);
        world.ban("192.0.2.1");
    });
    assert_eq!(kinds, [OffenceKind::Request]);
}

#[test]
fn our_own_refusals_never_count() {
    let world = World::new("[[rule]]\nname = 'refused'\nstatus = 429\n[[rule]]\nname = 'acl'\nexim = 'rejected-by-acl'");
    for line in [
        "1795395723.000 4 192.0.2.1 TCP_DENIED/429 4099 GET http://site/w00tw00t - HIER_NONE/- text/html",
        r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET http://site/w00tw00t HTTP/1.1" 429 12 "-" "-" TCP_DENIED:HIER_NONE"#,
        "2026-11-23 01:02:03 H=[192.0.2.1] temporarily rejected connection in \"connect\" ACL: strikeout: defer rule=w00tw00t",
    ] {
        assert!(world.offences(line, false).is_empty(), "{line}");
        assert_eq!(world.outcome(line, false), None, "{line}");
    }
    let by_another = "2026-11-23 01:02:03 H=[192.0.2.1] rejected connection in \"connect\" ACL: listed";
    assert_eq!(world.offences(by_another, false), offence("acl", "192.0.2.1", THEN));
}

#[test]
fn never_banned_and_banned_clients_are_not_counted() {
    let world = World::new("[defaults]\nignoreip = ['192.0.2.1']");
    assert!(world.offences(REFUSED, false).is_empty() && world.offences(PROBE, false).is_empty());
    let rule = world.ban("192.0.2.2");
    for (line, offended) in [(REFUSED, "exim-global"), (PROBE, "w00tw00t")] {
        let spared = world.judge(line, false, &mut |_| ()).unwrap().spared;
        assert_eq!(spared.iter().map(|rule| &*rule.name).collect::<Vec<_>>(), [offended], "never banned, and reported as such");
        let of_banned = line.replace("192.0.2.1", "192.0.2.2");
        assert!(world.offences(&of_banned, false).is_empty());
        assert_eq!(world.judge(&of_banned, false, &mut |_| ()).unwrap().banned_by, Some(rule));
        assert_eq!(world.offences(&line.replace("192.0.2.1", "192.0.2.3"), false).len(), 1);
    }
}

#[test]
fn a_line_says_how_its_client_behaved() {
    let world = World::new("");
    let outcome = |line: &str| world.outcome(line, true);
    assert_eq!(outcome(&PROBE.replace("404", "200").replace("- - [", "- anna [")), Some((Outcome::Success, true)));
    assert_eq!(outcome(&PROBE.replace("404", "500")), Some((Outcome::Error, false)));
    assert_eq!(outcome(PROBE), Some((Outcome::Offence, false)), "the status offends a built-in rule");
    let message = "2026-11-23 01:02:03 1qHd2z-0003Xb-1A <= a@b.c H=(x) [192.0.2.1] P=esmtpsa A=plain:anna S=123";
    assert_eq!(outcome(message), Some((Outcome::Success, true)));
    assert_eq!(outcome(&REFUSED.replace("too many connections", "load average = 9")), Some((Outcome::Neutral, false)));
    assert_eq!(outcome("1795395723.000 4 192.0.2.1 TCP_DENIED/429 4099 GET http://site/ - HIER_NONE/- text/html"), None);
    assert_eq!(outcome("what is this?"), None);
}

#[test]
fn an_offence_is_worse_than_an_error_and_one_that_was_served_is_told_apart() {
    let world = World::new("");
    assert_eq!(world.outcome(PROBE, false), Some((Outcome::Offence, false)));
    assert_eq!(world.outcome(&PROBE.replace("404", "200"), false), Some((Outcome::ServedOffence, false)));
    world.ban("192.0.2.1");
    assert_eq!(world.outcome(PROBE, false), Some((Outcome::Offence, false)), "also while its client is banned");
    assert_eq!(world.outcome(&PROBE.replace("w00tw00t", "x"), false), Some((Outcome::Error, false)));
}

#[test]
fn an_unknown_kind_of_line_is_reported_with_the_known_ones() {
    let world = World::new("");
    let mut rule = Rule::clone(world.policy.rules.by_name("exim-global").unwrap());
    rule.trigger = Trigger::Line(LinePattern::Exim(vec!["refused".into()]));
    let error = LogJudge::new(&[Arc::new(rule)], &Zone::utc(), false).unwrap_err();
    assert!(error.starts_with("found exim = \"refused\", expected one of refused-per-host, refused-global"), "{error}");
}

#[test]
fn a_password_in_a_line_is_no_evidence() {
    let world = World::new("[[rule]]\nname = 'syntax'\nexim = 'syntax-error'");
    let line = "2026-11-23 01:02:03 SMTP syntax error in \"AUTH PLAIN c2VjcmV0\" H=[192.0.2.1] x";
    let mut evidence = Vec::new();
    world.judge(line, false, &mut |offence| evidence.push(offence.offence.evidence.as_str().to_owned()));
    assert_eq!(evidence, ["Exim log: syntax-error"]);
}

/// The rules and the evidence of each offence in a line of a log that names only some rules, and how its client behaved.
fn judged_by(world: &World, rules: &[&str], line: &str) -> (Vec<(Vec<String>, String)>, Option<Outcome>) {
    let rules: Vec<_> = rules.iter().map(|name| Arc::clone(world.policy.rules.by_name(name).unwrap())).collect();
    let mut judge = LogJudge::new(&rules, &Zone::utc(), false).unwrap();
    let detector = Detector::new(&world.policy, &world.bans);
    let mut found = Vec::new();
    let judgement = judge.judge(line.as_bytes(), Received::live(NOW), &detector, &mut |LogOffence { offence, .. }| {
        found.push((offence.rules.iter().map(|rule| rule.name.to_string()).collect(), offence.evidence.as_str().to_owned()));
    });
    (found, judgement.map(|judgement| judgement.outcome))
}

#[test]
fn a_line_is_judged_only_by_the_rules_that_its_log_names() {
    let world = World::new("[[rule]]\nname = 'missing'\nstatus = 404");
    let (found, _) = judged_by(&world, &["missing"], PROBE);
    assert_eq!(found.iter().map(|(rules, _)| &rules[..]).collect::<Vec<_>>(), [["missing"]]);
    let ordinary = PROBE.replace("w00tw00t", "x").replace(" 404 ", " 200 ");
    assert_eq!(judged_by(&world, &["missing"], &ordinary), (Vec::new(), Some(Outcome::Success)), "it counts towards no rate");
    let connection = "2026-11-23 01:02:03 SMTP connection from [192.0.2.1]:59801 I=[10.0.0.1]:25 (TCP/IP connection count = 1)";
    assert_eq!(judged_by(&world, &["exim-global"], connection), (Vec::new(), Some(Outcome::Neutral)));
    let by_rate = (vec!["exim-rate".to_owned()], "one SMTP connection of many".to_owned());
    assert_eq!(judged_by(&world, &["exim-rate"], connection).0, [by_rate]);
}

#[test]
fn an_error_in_exims_log_is_an_offence_if_a_rule_of_the_log_is_about_it() {
    let world = World::new("[[rule]]\nname = 'acl'\nexim = 'rejected-by-acl'");
    let line = "2026-11-23 01:02:03 H=[192.0.2.1] rejected connection in \"connect\" ACL: listed";
    assert_eq!(judged_by(&world, &["exim-global"], line), (Vec::new(), Some(Outcome::Error)));
    assert_eq!(judged_by(&world, &["acl"], line).1, Some(Outcome::Offence));
    world.ban("192.0.2.1");
    assert_eq!(judged_by(&world, &["acl"], line), (Vec::new(), Some(Outcome::Offence)), "a banned client");
    assert_eq!(judged_by(&world, &["exim-global"], line), (Vec::new(), Some(Outcome::Error)), "a banned client");
}

#[test]
fn only_so_many_lines_behind_one_of_exims_can_be_the_headers_of_a_message() {
    let world = World::new("");
    let rules = [Arc::clone(world.policy.rules.by_name("exim-global").unwrap())];
    let mut judge = LogJudge::new(&rules, &Zone::utc(), false).unwrap();
    let detector = Detector::new(&world.policy, &world.bans);
    let mut judge = |line: &str| {
        judge.judge(line.as_bytes(), Received::late(NOW), &detector, &mut |_| ());
        (judge.health().lines, judge.health().not_understood)
    };
    assert_eq!(judge(REFUSED), (1, 0));
    for _ in 0..MAX_HEADERS {
        assert_eq!(judge("\tby mx1.example.org"), (1, 0));
    }
    assert_eq!(judge("\tby mx1.example.org"), (2, 1));
}

#[test]
fn a_new_judge_of_a_log_goes_on_from_what_the_old_one_knew_of_it() {
    let world = World::new("");
    let detector = Detector::new(&world.policy, &world.bans);
    let new = || LogJudge::new(&[Arc::clone(world.policy.rules.by_name("w00tw00t").unwrap())], &Zone::utc(), false).unwrap();
    let mut old = new();
    old.judge(b"what is this?", Received::late(NOW), &detector, &mut |_| ());
    let mut judge = new().with_health(old.health().clone());
    assert_eq!(judge.health(), old.health());
    judge.judge(PROBE.as_bytes(), Received::late(NOW), &detector, &mut |_| ());
    assert_eq!((judge.health().lines, judge.health().not_understood), (2, 1));
}
