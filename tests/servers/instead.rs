//! What Squid can do with a verdict instead of refusing: the snippets of docs/crowds.md.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use crate::harness::{Daemon, Stage, wait_until};
use crate::rig::{LARGE, Origin, Squid, get, request};

const BANNED: &str = "198.51.100.7";
const OTHER: &str = "203.0.113.9";

/// The snippet of the page that contains `word`.
fn snippet(word: &str) -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/crowds.md")).unwrap();
    let mut blocks = page.split("```squid\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.find(|block| block.contains(word)).unwrap_or_else(|| panic!("no snippet with {word}")).to_owned()
}

/// `squid-failopen.conf` with `snippet` in place of the refusal, as the page says.
fn configuration(stage: &Stage, snippet: &str) -> String {
    let example = stage.squid_example("squid-failopen.conf");
    let is_refusal = |line: &&str| line.starts_with("adapted_http_access ") || line.starts_with("deny_info ");
    assert_eq!(example.lines().filter(is_refusal).count(), 2);
    let rest: Vec<&str> = example.lines().filter(|line| !is_refusal(line)).collect();
    format!("{}\n{snippet}", rest.join("\n"))
}

/// The snippet that sends banned clients to `busy`. The rig's own line for the origin stands in place of `site`.
fn busy_page(busy: &Origin) -> String {
    let snippet = snippet("name=busy");
    let lines: Vec<&str> = snippet.lines().filter(|line| !line.ends_with("name=site")).collect();
    lines.join("\n").replace(" site ", " 127.0.0.1 ").replace(" 8081 ", &format!(" {} ", busy.port()))
}

/// Bans the one client by hand, and waits until Squid knows.
fn ban(daemon: &Daemon, is_known: impl FnMut() -> bool) {
    daemon.text(&["ban", BANNED, "1h"]);
    wait_until("Squid knows of the ban", is_known);
}

#[test]
fn a_banned_client_gets_its_page_from_another_server_which_nobody_else_sees() {
    let Some(stage) = Stage::with_squid() else { return };
    let (origin, busy) = (Origin::start(), Origin::start());
    let daemon = stage.daemon("");
    let squid = Squid::start(&stage, &origin, &configuration(&stage, &busy_page(&busy)));
    assert_eq!((get(squid.port(), OTHER, "/"), origin.served(), busy.served()), (200, 1, 0));
    ban(&daemon, || get(squid.port(), BANNED, "/page") == 200 && busy.served() > 0);
    let (before, of_busy) = (origin.served(), busy.served());
    let mut served_by = |client| {
        assert_eq!(get(squid.port(), client, "/cached"), 200);
        (origin.served() - before, busy.served() - of_busy)
    };
    assert_eq!([BANNED, BANNED].map(&mut served_by), [(0, 1), (0, 2)]);
    assert_eq!([OTHER, OTHER].map(&mut served_by), [(1, 2), (1, 2)], "nobody else gets that page, and the site's own is cached");
    assert_eq!(served_by(BANNED), (1, 3), "which is not for the banned client");
    squid.assert_clean_log();
}

#[test]
fn a_crowd_gets_another_page_and_a_scanner_is_refused_as_before() {
    let Some(stage) = Stage::with_squid() else { return };
    let (origin, busy) = (Origin::start(), Origin::start());
    let daemon = stage.daemon("[[rule]]\nname = \"crowd-requests\"\nmode = \"enforce\"\n");
    let page = busy_page(&busy).replace("strikeout_banned", "strikeout_crowd").replace("acl strikeout_crowd note ban_ yes\n", "");
    let deny = snippet("!strikeout_crowd").replace("acl strikeout_banned note ban_ yes\n", "");
    let example = stage.squid_example("squid-failopen.conf").replace("adapted_http_access deny strikeout_banned\n", &deny);
    let squid = Squid::start(&stage, &origin, &format!("{example}\n{page}"));
    assert!(daemon.ask("ban 198.51.0.0/16 for=3600 rule=crowd-requests").contains("banned"));
    wait_until("Squid knows of the crowd", || get(squid.port(), BANNED, "/") == 200 && busy.served() > 0);
    let served = origin.served();
    assert_eq!((get(squid.port(), BANNED, "/"), origin.served()), (200, served));
    assert_eq!([get(squid.port(), OTHER, "/w00tw00t"), get(squid.port(), OTHER, "/")], [429, 429]);
    squid.assert_clean_log();
}

#[test]
fn a_banned_client_is_sent_to_another_site() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let daemon = stage.daemon("");
    let squid = Squid::start(&stage, &origin, &configuration(&stage, &snippet("307:")));
    ban(&daemon, || get(squid.port(), BANNED, "/") == 307);
    let answer = request(squid.port(), BANNED, "POST", "/login", "Content-Length: 0\r\n").unwrap();
    assert_eq!(answer.status, 307, "which repeats a POST as a POST");
    assert!(answer.text.contains("Location: https://static.example.org/busy.html\r\n"), "{}", answer.text);
    assert_eq!(get(squid.port(), OTHER, "/"), 200);
    squid.assert_clean_log();
}

#[test]
fn a_banned_client_is_served_slowly_and_others_as_before() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let daemon = stage.daemon("");
    let squid = Squid::start(&stage, &origin, &configuration(&stage, &snippet("delay_pools").replace("20000/20000", "1000/4000")));
    assert_eq!(request(squid.port(), BANNED, "GET", "/large", "").unwrap().text.len() / 1000, LARGE / 1000);
    daemon.text(&["ban", BANNED, "1h"]);
    // At 1,000 bytes a second it takes minutes.
    wait_until("the client is slowed", || {
        let mut stream = TcpStream::connect(("127.0.0.1", squid.port())).unwrap();
        let head = format!("GET /large HTTP/1.1\r\nHost: example.test\r\nX-Forwarded-For: {BANNED}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut buffer = vec![0; 2 * LARGE];
        let mut received = stream.read(&mut buffer).unwrap();
        for _ in 0..20 {
            assert!(request(squid.port(), OTHER, "GET", "/large", "").unwrap().text.len() >= LARGE);
        }
        stream.set_nonblocking(true).unwrap();
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            received += read;
        }
        received > 0 && received < LARGE / 2
    });
    squid.assert_clean_log();
}
