//! Word lists, guessed passwords and attacks in the query on a real Squid, with the example's configuration; and beside them clients that fail
//! as often and are innocent.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::harness::{Daemon, Stage, wait_until};
use crate::rig::{Origin, RIGHT, Squid, request};

/// The most requests that are sent in vain.
const ENOUGH: usize = 500;
const BROWSER: &str = "User-Agent: Mozilla/5.0 (Windows NT 10.0; rv:84.0) Gecko/20100101 Firefox/84.0\r\n";
const WRONG: &str = "Authorization: Basic dXNlcjp3cm9uZw==\r\n";

/// Squid as in the example, with its log followed.
struct Site {
    squid: Squid,
    daemon: Daemon,
    /// The last number of the next client whose line ends the log.
    lines: AtomicU8,
    _origin: Origin,
}

impl Site {
    /// Runs `test` against a site. Skipped where Squid is missing.
    fn with(test: impl FnOnce(&Self)) {
        let Some(stage) = Stage::with_squid() else { return };
        let origin = Origin::start();
        // On a busy machine a test may take longer than the minute of these rules.
        let slow = ["web-not-found", "login-form", "wordpress-xmlrpc"].map(|rule| format!("[[rule]]\nname = '{rule}'\nfindtime = '1h'\n"));
        let daemon = stage.daemon(&format!("{}[[log]]\npath = {:?}\noptional = true\n", slow.concat(), stage.squid_log()));
        let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
        test(&Self { squid, daemon, lines: AtomicU8::new(1), _origin: origin });
    }

    fn send(&self, client: &str, method: &str, path: &str, headers: &str) -> u16 {
        let headers = format!("{headers}{}", if method == "POST" { "Content-Length: 0\r\n" } else { "" });
        request(self.squid.port(), client, method, path, &headers).expect("an answer").status
    }

    /// How many of these requests are served before one is refused.
    #[track_caller]
    fn served(&self, what: &str, client: &str, requests: impl Iterator<Item = (&'static str, String, String)>) -> usize {
        let mut served = 0;
        for (method, path, headers) in requests.take(ENOUGH) {
            if self.send(client, method, &path, &headers) == 429 {
                eprintln!("{what}: {served} served before the first refusal");
                return served;
            }
            served += 1;
        }
        panic!("{what}: {served} served, none refused: {}", self.daemon.json(&["why", client]));
    }

    /// Waits until the log is read as far as it is written now.
    fn wait_for_log(&self) {
        let client = format!("198.51.100.{}", self.lines.fetch_add(1, Ordering::Relaxed));
        assert_eq!(self.send(&client, "GET", "/missing-last-line", ""), 404);
        wait_until("the last line is read", || {
            self.daemon.json(&["why", &client])["strikes"].as_array().is_some_and(|strikes| !strikes.is_empty())
        });
    }

    #[track_caller]
    fn assert_innocent(&self, client: &str) {
        assert_eq!(self.send(client, "GET", "/", ""), 200, "{}", self.daemon.json(&["why", client]));
    }
}

fn numbered(method: &'static str, path: &'static str, headers: &'static str) -> impl Iterator<Item = (&'static str, String, String)> {
    ('a'..='z').flat_map(move |a| ('a'..='z').map(move |b| (method, path.replace('#', &format!("{a}{b}")), headers.to_owned())))
}

/// The example with the commented lines that begin so switched on.
fn with_lines(example: &str, beginnings: &[&str]) -> String {
    let switched = |line: &str| {
        let text = line.strip_prefix('#').filter(|text| beginnings.iter().any(|beginning| text.starts_with(beginning)));
        format!("{}\n", text.unwrap_or(line))
    };
    example.lines().map(switched).collect()
}

#[test]
fn names_that_a_scanner_has_asked_for_on_many_connections_are_refused_too_where_squid_asks_before_it_answers() {
    let Some(stage) = Stage::with_squid() else { return };
    let (origin, daemon) = (Origin::start(), stage.daemon("[[rule]]\nname = 'web-not-found'\nfindtime = '1h'\n"));
    let lines = [
        "external_acl_type strikeout_answer",
        "acl strikeout_missing",
        "acl strikeout_is_404",
        "acl strikeout_referer",
        "acl strikeout_fetch_site",
        "http_reply_access deny strikeout_is_404",
        "deny_info 429:ERR_ACCESS_DENIED strikeout_missing",
    ];
    let squid = Squid::start(&stage, &origin, &with_lines(&stage.squid_example("squid-failopen.conf"), &lines));
    let send = |client: &str, path: &str, headers: &str| request(squid.port(), client, "GET", path, headers).expect("an answer").status;
    std::thread::scope(|scope| {
        let ask = |client: &'static str, number: usize, headers: &'static str| {
            scope.spawn(move || send(client, &format!("/held-missing-{}", "x".repeat(number + 1)), headers))
        };
        let scanner: Vec<_> = (0..60).map(|number| ask("198.51.100.1", number, "")).collect();
        let page: Vec<_> = (0..60).map(|number| ask("203.0.113.1", number, "Referer: http://example.test/\r\n")).collect();
        let other: Vec<_> = (0..10).map(|number| ask("203.0.113.2", number, "")).collect();
        wait_until("all are under way", || origin.served() == 130);
        origin.release();
        let [scanner, page, other] = [scanner, page, other].map(|asked| asked.into_iter().map(|answer| answer.join().unwrap()).collect());
        let (refused, served): (Vec<u16>, Vec<u16>) = Vec::into_iter(scanner).partition(|status| *status == 429);
        assert_eq!((served, refused.len()), (vec![404; 23], 37), "the twenty-fourth bans: {}", daemon.json(&["why", "198.51.100.1"]));
        assert_eq!((page, other), (vec![404; 60], vec![404; 10]));
    });
    squid.assert_clean_log();
}

#[test]
fn a_word_list_is_stopped_after_forty_names() {
    Site::with(|site| {
        assert!(site.served("word list", "203.0.113.1", numbered("GET", "/missing-#", BROWSER)) <= 40);
        assert!(site.served("word list of directories, HEAD", "203.0.113.2", numbered("HEAD", "/missing-#/", BROWSER)) <= 40);
    });
}

#[test]
fn broken_pictures_repeats_and_what_programs_look_for_ban_nobody() {
    Site::with(|site| {
        for (client, path, headers) in [
            ("203.0.113.11", "/missing-#.png", "Referer: http://example.test/\r\n"),
            ("203.0.113.12", "/missing-#", "Referer: http://example.test/\r\n"),
            ("203.0.113.13", "/missing-#", "Sec-Fetch-Site: same-origin\r\n"),
            ("203.0.113.14", "/missing-#.png", ""),
            ("203.0.113.15", "/missing/simple/#/", "User-Agent: pip/23.0\r\n"),
            ("203.0.113.16", "/missing/v2/app/blobs/sha256:0123456789abcdef#", "User-Agent: docker/24\r\n"),
            ("203.0.113.17", "/missing?poll=#", "User-Agent: curl/8.5\r\n"),
            ("203.0.113.18", "/missing/github.com/a/#/@v/list", "User-Agent: Go-http-client/2.0\r\n"),
        ] {
            for (method, path, headers) in numbered("GET", path, headers).take(60) {
                assert_eq!(site.send(client, method, &path, &headers), 404, "{client} {path}");
            }
        }
        site.wait_for_log();
        (11..=18).for_each(|last| site.assert_innocent(&format!("203.0.113.{last}")));
    });
}

#[test]
fn guessed_passwords_are_stopped_after_twenty_tries() {
    Site::with(|site| {
        for (what, client, method, path, headers) in [
            ("Basic", "203.0.113.21", "GET", "/private/", WRONG),
            ("WordPress", "203.0.113.22", "POST", "/wp-login.php", BROWSER),
            ("a login form", "203.0.113.23", "POST", "/user/login", BROWSER),
            ("xmlrpc", "203.0.113.24", "POST", "/xmlrpc.php", BROWSER),
        ] {
            // At the pace of the log, whatever else this machine does: an answer counts when its line has been read.
            let paced = numbered(method, path, headers).enumerate().map(|(number, request)| {
                if number >= 7 {
                    site.wait_for_log();
                }
                request
            });
            assert!(site.served(what, client, paced) <= 20, "{what}");
        }
    });
}

#[test]
fn logins_that_succeed_in_the_end_ban_nobody() {
    Site::with(|site| {
        let right = format!("Authorization: Basic {RIGHT}\r\n");
        // NTLM, WebDAV, git and apt: each request is challenged first. And pages below a password, without one.
        for (_, path, _) in numbered("GET", "/dav/private-#", "").take(40) {
            assert_eq!(site.send("203.0.113.31", "PROPFIND", &path, ""), 401);
            assert_eq!(site.send("203.0.113.31", "PROPFIND", &path, &right), 200);
            assert_eq!(site.send("203.0.113.32", "GET", &path, ""), 401);
        }
        // People who mistype, and an office in which one of ten does, or whose telephone has an old password.
        for round in 0..12 {
            for client in ["203.0.113.33", "203.0.113.34"] {
                (0..5).for_each(|_| assert_eq!(site.send(client, "GET", "/private/a", WRONG), 401));
                (0..5).for_each(|_| assert_eq!(site.send(client, "POST", "/wp-login.php", ""), 200));
                assert_eq!(site.send(client, "GET", "/private/b", &right), 200);
                assert_eq!(site.send(client, "POST", "/wp-login.php?password=right", ""), 302);
                site.wait_for_log();
                assert_eq!(site.send(client, "GET", "/", ""), 200, "round {round}: {}", site.daemon.json(&["why", client]));
            }
        }
        (31..=34).for_each(|last| site.assert_innocent(&format!("203.0.113.{last}")));
    });
}

#[test]
fn a_success_elsewhere_does_not_clear_guessed_passwords() {
    Site::with(|site| {
        let guesses = numbered("GET", "/private/", WRONG).flat_map(|guess| [guess, ("GET", "/open/".to_owned(), WRONG.to_owned())]);
        assert!(site.served("Basic, with requests to an open page between", "203.0.113.41", guesses) <= 40);
    });
}

#[test]
fn attacks_in_the_query_are_stopped_after_ten_requests_and_the_same_one_again_is_one() {
    Site::with(|site| {
        let text = include_str!("../data/queries-attack.tsv");
        let queries = |kind: &'static str| text.lines().filter_map(move |line| line.strip_prefix(kind)?.strip_prefix('\t'));
        let requests =
            queries("sqlmap").map(|query| ("GET", format!("/item?{query}"), format!("{BROWSER}Referer: http://example.test/item\r\n")));
        assert!(site.served("sqlmap with a browser's name", "203.0.113.51", requests) <= 12);
        for time in 0..40 {
            let path = format!("/api?expr=%7Bjob%3D%22a%22%7D+%21%3D+%22%27+or+1%3D1%22&start={time}&end={time}");
            assert_eq!(site.send("203.0.113.52", "GET", &path, BROWSER), 200);
        }
        site.assert_innocent("203.0.113.52");
    });
}
