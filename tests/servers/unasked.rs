//! What Squid refuses before it asks the helper, told by its log: on real Squid, from clients with real addresses.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::harness::{Daemon, Stage, wait_until};
use crate::rig::{Network, Origin, SERVER, Squid, example};

const CLOSE: &str = "Connection: close\r\n\r\n";
/// An accelerator that goes by the Host header, one for a single site, and a forward proxy.
const VHOST: u16 = 80;
const SITE: u16 = 81;
const FORWARD: u16 = 3128;

/// `[[log]]` as in the example, with this stage's path. On a busy machine a test may take longer than the minute of these rules.
fn followed(stage: &Stage) -> String {
    let slow = ["web-rate", "web-not-found", "web-bad-request"].map(|rule| format!("[[rule]]\nname = '{rule}'\nfindtime = '1h'\n"));
    format!("{}[[log]]\npath = {:?}\noptional = true\n", slow.concat(), stage.squid_log())
}

/// Squid for one site, as an administrator would have it: everything but the site is denied.
fn start(stage: &Stage, origin: &Origin, example: &str, more: &str) -> Squid {
    let fragment = format!(
        "http_port {SERVER}:{VHOST} accel vhost\n\
         http_port {SERVER}:{SITE} accel defaultsite=www.example.test no-vhost\n\
         http_port {SERVER}:{FORWARD}\n\
         dns_nameservers 127.0.0.1\n\
         {more}\n\
         {example}\n\
         acl our_sites dstdomain -n www.example.test\n\
         http_access allow our_sites\n\
         http_access deny all\n"
    );
    Squid::start(stage, origin, &fragment)
}

/// Rules, and how often each of them strikes.
type Strikes = &'static [(&'static str, u64)];

/// How often each rule has struck a client. A ban of one strike counts as that.
fn strikes(daemon: &Daemon, client: &str) -> BTreeMap<String, u64> {
    let known = daemon.json(&["why", client]);
    let counted = known["strikes"].as_array().unwrap().iter();
    let mut strikes: BTreeMap<String, u64> =
        counted.map(|strike| (strike["rule"].as_str().unwrap().to_owned(), strike["count"].as_u64().unwrap())).collect();
    // It counts bans.
    strikes.remove("recidive");
    if known["refused"] == true {
        // Requests go into rates a moment after they are answered, and those of a client that is banned by then do not.
        strikes.remove("web-rate");
        strikes.insert(known["services"]["web"]["rule"].as_str().unwrap().to_owned(), 1);
    }
    strikes
}

fn expected(rules: &[(&str, u64)]) -> BTreeMap<String, u64> {
    rules.iter().map(|(rule, count)| ((*rule).to_owned(), *count)).collect()
}

/// Waits until the clients have just these strikes, and that they still have them when all of the log has been read.
#[track_caller]
fn assert_strikes(network: &Network, daemon: &Daemon, clients: &[(String, Strikes)]) {
    for (client, rules) in clients {
        let rules = expected(rules);
        let mut found = BTreeMap::new();
        let start = std::time::Instant::now();
        while found != rules {
            assert!(start.elapsed() < crate::harness::DEADLINE, "{client}: found {found:?}, expected {rules:?}");
            found = strikes(daemon, client);
        }
    }
    // The line of the last request comes after all others.
    assert_eq!(network.send("198.51.100.99", VHOST, b"GET /w00tw00t HTTP/1.1\r\nConnection: close\r\n\r\n"), 400);
    wait_until("the last line is read", || !strikes(daemon, "198.51.100.99").is_empty());
    for (client, rules) in clients {
        assert_eq!(strikes(daemon, client), expected(rules), "{client}, in the end");
    }
}

#[test]
fn what_squid_refuses_by_itself_strikes_its_sender_once() {
    let Some(stage) = Stage::with_squid() else { return };
    let ours = format!("Host: www.example.test\r\n{CLOSE}");
    let body = format!("Host: www.example.test\r\nContent-Length: 5\r\n{CLOSE}hello");
    let elsewhere = format!("Host: azenv.net\r\n{CLOSE}");
    let long = "a".repeat(9_000);
    let longer = "a".repeat(70_000);
    let bad: Strikes = &[("web-bad-request", 1), ("web-rate", 1)];
    // Otherwise the helper is asked about it.
    let refuses_bodies = Stage::squid_refuses_bodies();
    let (body_status, of_body): (_, Strikes) = if refuses_bodies { (411, bad) } else { (200, &[("web-rate", 1)]) };
    let probe_status = if refuses_bodies { 411 } else { 429 };
    // The request, the status from squid-failopen.conf and from squid.conf, and the strikes.
    #[rustfmt::skip]
    let cases: &[(u16, String, [u16; 2], Strikes)] = &[
        (VHOST, format!("GET /.env HTTP/1.1\r\nHost: {SERVER}\r\n{CLOSE}"), [403, 429], &[("env-file", 1)]),
        (VHOST, format!("GET / HTTP/1.1\r\nHost: {SERVER}\r\n{CLOSE}"), [403, 403], &[("web-forbidden", 1), ("web-rate", 1)]),
        (VHOST, format!("GET /w00tw00t.at.ISC.SANS.DFind:) HTTP/1.1\r\n{CLOSE}"), [400, 400], &[("w00tw00t", 1)]),
        (FORWARD, format!("GET /w00tw00t.at.ISC.SANS.DFind:) HTTP/1.1\r\n{CLOSE}"), [400, 400], &[("w00tw00t", 1)]),
        (SITE, format!("GET /w00tw00t.at.ISC.SANS.DFind:) HTTP/1.1\r\n{CLOSE}"), [429, 429], &[("w00tw00t", 1)]),
        (VHOST, format!("GET /w00tw00t HTTP/1.1\r\n{body}"), [probe_status; 2], &[("w00tw00t", 1)]),
        (VHOST, format!("GET / HTTP/1.1\r\n{body}"), [body_status; 2], of_body),
        (FORWARD, format!("GET http://azenv.net/azenv.php HTTP/1.1\r\n{elsewhere}"), [403, 403], &[("proxy-judge", 1), ("proxy-judge-host", 1), ("web-forbidden", 1)]),
        (FORWARD, format!("CONNECT mail.example.org:25 HTTP/1.1\r\n{elsewhere}"), [403, 403], &[("proxy-mail-relay", 1), ("web-forbidden", 1)]),
        (VHOST, format!("CONNECT mail.example.org:25 HTTP/1.1\r\n{elsewhere}"), [405, 405], &[("proxy-connect-refused", 1)]),
        (SITE, format!("CONNECT mail.example.org:25 HTTP/1.1\r\n{elsewhere}"), [405, 405], &[("proxy-connect-refused", 1)]),
        (VHOST, format!("TRACE / HTTP/1.1\r\n{ours}"), [200, 200], &[("trace-method", 1)]),
        (VHOST, format!("TRACE / HTTP/1.1\r\nHost: {SERVER}\r\n{CLOSE}"), [403, 403], &[("trace-method", 1), ("web-forbidden", 1)]),
        (VHOST, format!("GET /{longer} HTTP/1.1\r\n{ours}"), [414, 414], bad),
        (VHOST, format!("GET /{long} HTTP/1.1\r\n{ours}"), [400, 400], bad),
        (VHOST, format!("OPTIONS * HTTP/1.1\r\n{ours}"), [501, 501], bad),
        (SITE, format!("OPTIONS * HTTP/1.1\r\n{ours}"), [403, 403], &[("web-forbidden", 1), ("web-rate", 1)]),
        (VHOST, "\x16\x03\x01\x02\r\n\r\n".to_owned(), [400, 400], bad),
        (VHOST, String::new(), [0, 0], &[]),
        // Squid 5.7 logs it under the address `::`.
        (VHOST, format!("GET /w00tw00t HTTP/1.1\r\nExpect: x\r\n{ours}"), [417, 417], &[]),
        (VHOST, format!("GET / HTTP/1.1\r\n{ours}").replace(CLOSE, "\r\n") + &format!("GET /.env HTTP/1.1\r\nHost: {SERVER}\r\n{CLOSE}"), [200, 200], &[("env-file", 1)]),
        // Asked about: the helper counts the request, and the log the status.
        (VHOST, format!("GET / HTTP/1.1\r\n{ours}"), [200, 200], &[("web-rate", 1)]),
        (VHOST, format!("POST / HTTP/1.1\r\n{ours}"), [200, 200], &[("web-rate", 1)]),
        (VHOST, format!("GET /missing HTTP/1.1\r\n{ours}"), [404, 404], &[("web-not-found", 1), ("web-rate", 1)]),
        (VHOST, format!("GET /.env HTTP/1.1\r\n{ours}"), [429, 429], &[("env-file", 1)]),
    ];
    Network::with(|network| {
        for (number, name) in ["squid-failopen.conf", "squid.conf"].into_iter().enumerate() {
            let stage = if number == 0 { stage.clone() } else { Stage::with_squid().unwrap() };
            let origin = Origin::start();
            let daemon = stage.daemon(&followed(&stage));
            let squid = start(&stage, &origin, &stage.squid_example(name), "");
            let mut clients = Vec::new();
            for (last, (port, text, statuses, rules)) in (2..).zip(cases) {
                let client = format!("198.51.100.{last}");
                let shown: String = text.chars().take(60).collect();
                assert_eq!(network.send(&client, *port, text.as_bytes()), statuses[number], "{name}, port {port}: {shown:?}");
                clients.push((client, *rules));
            }
            clients.push(("::".to_owned(), &[]));
            assert_strikes(network, &daemon, &clients);
            squid.assert_clean_log();
            let access_log = fs::read_to_string(stage.squid_log().with_file_name("access.log")).unwrap();
            assert!(access_log.contains(" TCP_MISS/200 "), "Squid's own log goes on: {access_log}");
            assert!(!squid.cache_log().contains("is used in context without"), "{}", squid.cache_log());
            println!("{name}: {} requests tried, {} clients struck as expected, nobody else", cases.len(), clients.len());
            assert_eq!(
                daemon.number("bans"),
                1 + clients.iter().filter(|(_, rules)| matches!(rules, [("env-file" | "w00tw00t", 1)])).count() as u64
            );
        }
    });
}

#[test]
fn a_request_that_was_asked_about_is_not_counted_twice_and_a_status_rule_needs_nothing_else() {
    let Some(stage) = Stage::with_squid() else { return };
    Network::with(|network| {
        let origin = Origin::start();
        let rules = "[[rule]]\nname = \"probe\"\npath = \"^/missing\"\nmaxretry = 9\n\
                     [[rule]]\nname = \"many-404\"\nstatus = 404\npath = \"^/(?:missing|gone/missing)$\"\nmaxretry = 4\n";
        let daemon = stage.daemon(&format!("{rules}{}", followed(&stage)));
        let _squid = start(&stage, &origin, &stage.squid_example("squid-failopen.conf"), "");
        let get = |client: &str, path: &str| {
            network.send(client, VHOST, format!("GET {path} HTTP/1.1\r\nHost: www.example.test\r\n{CLOSE}").as_bytes())
        };
        for _ in 0..3 {
            assert_eq!(get("198.51.100.2", "/missing"), 404);
        }
        // The same missing page counts once under a rule over different ones.
        let three: Strikes = &[("probe", 3), ("many-404", 3), ("web-not-found", 1)];
        assert_strikes(network, &daemon, &[("198.51.100.2".to_owned(), three)]);
        for _ in 0..4 {
            assert_eq!(get("198.51.100.3", "/gone/missing"), 404);
        }
        wait_until("the fourth 404 bans", || get("198.51.100.3", "/") == 429);
        assert_eq!(daemon.json(&["why", "198.51.100.3"])["services"]["web"]["rule"], "many-404");
        assert_eq!(get("198.51.100.4", "/"), 200);
    });
}

/// A scanner that goes by the bare address, and says with each probe that a page sent it.
#[test]
fn probes_in_the_name_of_a_page_add_up_though_squid_refuses_them_by_itself() {
    let Some(stage) = Stage::with_squid() else { return };
    Network::with(|network| {
        let origin = Origin::start();
        let daemon = stage.daemon(&format!("[[rule]]\nname = 'page-probes'\nfindtime = '1h'\n{}", followed(&stage)));
        let _squid = start(&stage, &origin, &stage.squid_example("squid-failopen.conf"), "");
        let page = format!("Sec-Fetch-Site: cross-site\r\n{CLOSE}");
        let probe = |client: &str| {
            let text = format!("GET /.env HTTP/1.1\r\nHost: {SERVER}\r\n{page}");
            assert_eq!(network.send(client, VHOST, text.as_bytes()), 403);
        };
        let (visitor, scanner) = ("198.51.100.2", "198.51.100.3");
        (0..60).for_each(|_| probe(visitor));
        (0..299).for_each(|_| probe(scanner));
        assert_strikes(network, &daemon, &[(visitor.to_owned(), &[("page-probes", 60)]), (scanner.to_owned(), &[("page-probes", 299)])]);
        probe(scanner);
        wait_until("the scanner is banned", || strikes(&daemon, scanner) == expected(&[("page-probes", 1)]));
        // No page can send this.
        let connect = format!("CONNECT mail.example.org:25 HTTP/1.1\r\nHost: mail.example.org:25\r\n{page}");
        (0..10).for_each(|_| assert_eq!(network.send("198.51.100.4", FORWARD, connect.as_bytes()), 403));
        wait_until("the relay hunter is banned", || daemon.json(&["why", "198.51.100.4"])["services"]["web"]["rule"] == "proxy-mail-relay");
        assert_eq!(strikes(&daemon, visitor), expected(&[("page-probes", 60)]));
    });
}

#[test]
fn behind_a_balancer_only_the_client_that_it_names_is_blamed() {
    let Some(stage) = Stage::with_squid() else { return };
    let balancer = "198.51.100.9";
    Network::with(|network| {
        let origin = Origin::start();
        let daemon = stage.daemon(&format!("[defaults]\ntrusted_proxies = ['{balancer}']\n{}", followed(&stage)));
        let more = format!("acl balancer src {balancer}\nfollow_x_forwarded_for allow balancer\nfollow_x_forwarded_for deny all\n");
        let squid = start(&stage, &origin, &stage.squid_example("squid-failopen.conf"), &more);
        let named = |client: &str| format!("X-Forwarded-For: 203.0.113.1, {client}\r\n");
        let send = |from: &str, text: String| network.send(from, VHOST, text.as_bytes());
        // Squid knows the header of a well-formed request, before http_access.
        assert_eq!(send(balancer, format!("GET /.env HTTP/1.1\r\nHost: {SERVER}\r\n{}{CLOSE}", named("203.0.113.7"))), 403);
        // Of these it knows only who has sent them.
        assert_eq!(send(balancer, format!("GET /w00tw00t HTTP/1.1\r\n{}{CLOSE}", named("203.0.113.8"))), 400);
        assert_eq!(send(balancer, format!("CONNECT a.example:25 HTTP/1.1\r\nHost: a.example\r\n{}{CLOSE}", named("203.0.113.8"))), 405);
        let body = "Host: www.example.test\r\nContent-Length: 5\r\n";
        if Stage::squid_refuses_bodies() {
            assert_eq!(send(balancer, format!("GET /w00tw00t HTTP/1.1\r\n{body}{}{CLOSE}hello", named("203.0.113.8"))), 411);
        }
        // A stranger who writes the header is no balancer.
        assert_eq!(send("198.51.100.3", format!("GET /.env HTTP/1.1\r\nHost: {SERVER}\r\n{}{CLOSE}", named("203.0.113.9"))), 403);
        let env: Strikes = &[("env-file", 1)];
        let blamed: Vec<(String, Strikes)> = [
            ("203.0.113.7", env),
            ("198.51.100.3", env),
            (balancer, &[]),
            ("203.0.113.1", &[]),
            ("203.0.113.8", &[]),
            ("203.0.113.9", &[]),
        ]
        .map(|(client, rules)| (client.to_owned(), rules))
        .into();
        assert_strikes(network, &daemon, &blamed);
        assert_eq!(daemon.number("bans"), 3, "with the one of the last line");
        assert_eq!(send(balancer, format!("GET / HTTP/1.1\r\nHost: www.example.test\r\n{}{CLOSE}", named("203.0.113.8"))), 200);
        squid.assert_clean_log();
    });
}

#[test]
fn no_text_of_a_client_moves_the_blame_or_hides_the_next_line() {
    let Some(stage) = Stage::with_squid() else { return };
    Network::with(|network| {
        let origin = Origin::start();
        let daemon = stage.daemon(&followed(&stage));
        let _squid = start(&stage, &origin, &stage.squid_example("squid-failopen.conf"), "");
        let forged = "1795932767.058 203.0.113.9 403 TCP_DENIED GET http://x/.env - - - -";
        let escaped = forged.replace(' ', "%20");
        let long = "%0a".repeat(2_500);
        for (last, text) in [
            (2, format!("GET /{escaped}%0a{escaped}%0A HTTP/1.1\r\nHost: {SERVER}\r\n{CLOSE}")),
            (3, format!("GET / HTTP/1.1\r\nHost: {SERVER}\r\nUser-Agent: \x0b\x0c {forged} yes - - -\r\nReferer: {forged}\r\n{CLOSE}")),
            (4, format!("GET / HTTP/1.1\r\nHost: {SERVER}\r\nSec-Fetch-Site: {forged}\r\n{CLOSE}")),
            (5, format!("GET /{long}{escaped} HTTP/1.1\r\nHost: {SERVER}\r\nUser-Agent: {long}\r\nReferer: {long}\r\n{CLOSE}")),
            (6, format!("GET /{forged} HTTP/1.1\r\nHost: {SERVER}\r\n{CLOSE}")),
            (7, format!("{} / HTTP/1.1\r\nHost: {SERVER}\r\n{CLOSE}", "A".repeat(6_000))),
            (8, format!("GET\u{b}{forged}\r\n\r\n")),
        ] {
            network.send(&format!("198.51.100.{last}"), VHOST, text.as_bytes());
            // The next line is another client's.
            let next = format!("198.51.100.{}", last + 20);
            assert_eq!(network.send(&next, VHOST, format!("GET /w00tw00t HTTP/1.1\r\n{CLOSE}").as_bytes()), 400);
            wait_until("the next line is read", || strikes(&daemon, &next) == expected(&[("w00tw00t", 1)]));
        }
        for line in fs::read_to_string(stage.squid_log()).unwrap().lines() {
            assert!(line.len() < 8_000 && line.split(' ').count() == 10, "{line}");
        }
        assert!(strikes(&daemon, "203.0.113.9").is_empty());
        // The first and the sixth have sent /.env themselves, in their own path.
        let banned: Vec<String> =
            daemon.json(&["list"]).as_array().unwrap().iter().map(|ban| ban["client"].as_str().unwrap().to_owned()).collect();
        assert!(banned.iter().all(|client| client.starts_with("198.51.100.")), "{banned:?}");
    });
}

#[test]
fn while_the_helper_is_missing_the_log_counts_requests_and_nobody_is_blamed_for_squids_own_refusals() {
    let Some(_) = Stage::with_squid() else { return };
    Network::with(|network| {
        let (rate, probe): (Strikes, Strikes) = (&[("web-rate", 1)], &[("w00tw00t", 1)]);
        // squid.conf refuses everybody then, with the same 429 as Strikeout: none of that is the clients' doing.
        for (name, status, strikes) in [("squid-failopen.conf", 404, [rate, probe]), ("squid.conf", 429, [&[][..], &[]])] {
            let stage = Stage::with_squid().unwrap();
            let origin = Origin::start();
            let daemon = stage.daemon(&followed(&stage));
            let helper = stage.program("ext_strikeout_acl");
            let broken = stage.squid_example(name).replace(helper.to_str().unwrap(), "/nowhere/ext_strikeout_acl");
            let _squid = start(&stage, &origin, &broken, "");
            for (client, path) in [("198.51.100.2", "/missing"), ("198.51.100.3", "/w00tw00t/missing")] {
                let text = format!("GET {path} HTTP/1.1\r\nHost: www.example.test\r\n{CLOSE}");
                assert_eq!(network.send(client, VHOST, text.as_bytes()), status, "{name}");
            }
            assert_strikes(network, &daemon, &[("198.51.100.2".to_owned(), strikes[0]), ("198.51.100.3".to_owned(), strikes[1])]);
        }
    });
}

#[test]
fn the_log_is_readable_for_squids_group_and_followed_through_debians_rotation() {
    let Some(stage) = Stage::with_squid() else { return };
    Network::with(|network| {
        let origin = Origin::start();
        let daemon = stage.daemon(&followed(&stage));
        // As in Debian's squid.conf: logrotate renames, and Squid opens its logs again.
        let squid = start(&stage, &origin, &stage.squid_example("squid-failopen.conf"), "logfile_rotate 0");
        let probe = |client: &str| {
            assert_eq!(network.send(client, VHOST, format!("GET /.env HTTP/1.1\r\nHost: {SERVER}\r\n{CLOSE}").as_bytes()), 403);
            wait_until("the probe strikes", || strikes(&daemon, client) == expected(&[("env-file", 1)]));
        };
        probe("198.51.100.2");
        let log = stage.squid_log();
        let (metadata, group) = (fs::metadata(&log).unwrap(), fs::metadata(log.parent().unwrap()).unwrap().gid());
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.gid()), (0o640, group), "Debian's package puts the daemon into it");
        fs::rename(&log, log.with_extension("log.1")).unwrap();
        probe("198.51.100.3");
        squid.control("rotate");
        wait_until("Squid opens a new log", || log.exists());
        probe("198.51.100.4");
        assert_eq!(daemon.number("bans"), 3);
    });
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _daemon = stage.daemon("");
    for name in ["squid-failopen.conf", "squid.conf"] {
        let log = stage.squid_log();
        let fragment = stage.squid_example(name).replace(log.to_str().unwrap(), "/nowhere/strikeout.log");
        let mut squid = Squid::start(&stage, &origin, &fragment);
        assert_eq!(crate::rig::get(squid.port(), "203.0.113.9", "/"), 200, "{name}");
        assert_eq!(crate::rig::get(squid.port(), "203.0.113.9", "/missing"), 404, "{name}");
        squid.assert_running();
    }
}

#[test]
fn the_example_configuration_follows_the_log_and_does_not_mind_that_it_is_missing() {
    let Some(stage) = Stage::with_squid() else { return };
    Network::with(|network| {
        let origin = Origin::start();
        let log = stage.squid_log();
        let text = example(
            "strikeout.toml",
            &[
                ("#socket = ", "socket = "),
                ("#state = ", "state = "),
                ("/run/strikeout/strikeout.sock", stage.socket().to_str().unwrap()),
                ("/var/lib/strikeout/strikeout.db", stage.state().to_str().unwrap()),
                ("/var/log/squid/strikeout.log", log.to_str().unwrap()),
                ("/var/log/exim4", stage.path("exim4").to_str().unwrap()),
                ("#mode = \"0660\"", "mode = \"0666\""),
                ("#group = \"strikeout\"", "group = \"\""),
            ],
        );
        stage.write("strikeout.toml", &text);
        let daemon = Daemon::start_again(&stage);
        let no_fault = || daemon.object("status")["logs"].as_array().unwrap().iter().all(|log| log["fault"].is_null());
        assert!(no_fault(), "{}", daemon.object("status"));
        let _squid = start(&stage, &origin, &stage.squid_example("squid-failopen.conf"), "");
        assert_eq!(network.send("198.51.100.2", VHOST, format!("GET /.env HTTP/1.1\r\nHost: {SERVER}\r\n{CLOSE}").as_bytes()), 403);
        wait_until("the probe strikes", || strikes(&daemon, "198.51.100.2") == expected(&[("env-file", 1)]));
        assert!(no_fault() && !daemon.log().contains("cannot be followed"), "{}", daemon.log());
    });
}
