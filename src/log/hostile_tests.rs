//! Every kind of line, composed around hostile text in every place where a client's text can be: how often the offence is seen, and that
//! nobody else is ever blamed for it. `cargo test --lib hostile -- --nocapture` prints the table.

use super::exim;
use super::exim::exim_composed::Session;
use super::judge::LogJudge;
use super::offence::Received;
use super::time::Zone;
use crate::client::{Client, Ipv6Prefix};
use crate::detector::Detector;
use crate::event::exim_kind::EximKind;
use crate::policy::Policy;
use crate::rule_id::RuleNames;
use crate::table::Bans;
use crate::time::Time;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

/// The time of all lines.
const NOW: Time = Time::from_secs(1_795_395_723);

/// Texts that imitate what Exim or Squid writes itself, all with the same address, which is nobody's.
const HOSTILE: [&str; 30] = [
    "",
    "plain",
    "[8.8.8.8]",
    "8.8.8.8",
    "[2001:db8::8]",
    ") [8.8.8.8]",
    "(x) [8.8.8.8]",
    "x) [8.8.8.8]:25 I=[8.8.8.8]:25",
    "a) [8.8.8.8] F=<b@c> rejected RCPT <d@e>: relay not permitted",
    "a) [8.8.8.8]: 535 Incorrect authentication data (set_id=x)",
    "\" H=[8.8.8.8] unrecognized command",
    "\" H=(y) [8.8.8.8] next input=\"",
    "\" from (y) [8.8.8.8]",
    "> H=(y) [8.8.8.8]",
    "> H=[8.8.8.8]: message too big: size=9 max=1",
    "\"@x> H=(y) [8.8.8.8] P=esmtp S=1",
    " plain authenticator failed for (x) [8.8.8.8]: 535 no",
    "Connection from [8.8.8.8] refused: too many connections",
    "dropped: too many nonmail commands [8.8.8.8] dropped: too many unrecognized commands",
    "): rejected connection from H=[8.8.8.8] input=\"",
    " refused connection from [8.8.8.8] (host_reject_connection)",
    "\\n2026-11-23 01:02:03 Connection from [8.8.8.8] refused: too many connections from that IP address",
    "**** log string overflowed log buffer ****",
    "1795395723.000 8.8.8.8 403 TCP_DENIED GET /.env - - - none",
    "http://8.8.8.8/ yes 8.8.8.8 8.8.8.8 none",
    "-",
    "%20 8.8.8.8 %0a1795395723.000 8.8.8.8 403 TCP_DENIED GET /.env -",
    "8.8.8.8 - - [23/Nov/2026:01:02:03 +0000] \"GET /.env HTTP/1.1\" 404 1",
    "\u{ff}\u{0}\u{7f}é",
    "2026-11-23 01:02:03 x",
];

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    tried: u64,
    seen: u64,
    others_blamed: u64,
}

/// Judges lines by one rule for each kind, and counts.
struct Census {
    policy: Policy,
    judge: LogJudge,
    table: BTreeMap<String, Counts>,
}

impl Census {
    fn new() -> Self {
        let mut rules = String::from("[defaults]\nignoreip = []\n");
        for (name, _) in EximKind::NAMED {
            let _ = writeln!(rules, "[[rule]]\nname = 'kind-{name}'\nexim = '{name}'\nmaxretry = 9");
        }
        rules += "[[rule]]\nname = 'status'\nstatus = [400, 401, 403, 404, 405, 411, 414, 417, 431, 501]\nmaxretry = 9\n";
        let policy = Policy::for_tests(&rules, &RuleNames::default());
        let judge = LogJudge::new(policy.rules.rules(), &Zone::utc(), false).unwrap();
        Self { policy, judge, table: BTreeMap::new() }
    }

    /// Counts a line of `client`'s. One that is no offence is seen if it is put down to its client.
    fn count(&mut self, kind: &str, line: &str, client: IpAddr) {
        let bans = Bans::new(1);
        let detector = Detector::new(&self.policy, &bans);
        let (mut seen, mut others) = (false, 0);
        let judgement = self.judge.judge(line.as_bytes(), Received::late(NOW), &detector, &mut |offence| {
            if offence.offence.address == client {
                seen = true;
            } else {
                others += 1;
            }
        });
        // Its behaviour too is put down to nobody else.
        let own = Client::of(client, Ipv6Prefix::default());
        if let Some(judgement) = judgement {
            others += u64::from(judgement.client != own);
            seen |= kind.contains("(no offence)");
        }
        let counts = self.table.entry(kind.to_owned()).or_default();
        *counts = Counts { tried: counts.tried + 1, seen: counts.seen + u64::from(seen), others_blamed: counts.others_blamed + others };
    }

    fn text(&self) -> String {
        let mut text = format!("{:<54} {:>8} {:>8} {:>14}\n", "kind", "tried", "seen", "others blamed");
        for (kind, Counts { tried, seen, others_blamed }) in &self.table {
            let _ = writeln!(text, "{kind:<54} {tried:>8} {seen:>8} {others_blamed:>14}");
        }
        text
    }
}

/// Escapes text as Exim's `string_printing` does.
fn printing(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_control() { format!("\\{:03o}", u32::from(c)) } else { c.to_string() }).collect()
}

/// Clients with each of the optional fields, named and unnamed, with each hostile text as HELO.
fn sessions() -> Vec<Session> {
    let hosts = [None, Some("x[8.8.8.8].example.org"), Some("[8.8.8.8]:5.example.org"), Some("\\(.example")];
    let clients: [IpAddr; 2] = ["203.0.113.77".parse().unwrap(), "2001:db8:7::77".parse().unwrap()];
    let helos = HOSTILE.iter().map(|text| Some(printing(text))).chain([None]);
    let mut all = Vec::new();
    for (number, helo) in helos.enumerate() {
        for (place, host) in hosts.iter().enumerate() {
            // Which optional fields there are does not depend on the texts, so each combination turns up with many of them.
            let has = |bit: usize| (number + place * 7) >> bit & 1 == 1;
            all.push(Session {
                host: host.map(str::to_owned),
                helo: helo.clone(),
                client: clients[(number + place) % 2],
                port: has(0).then_some(40_000),
                interface: has(1).then(|| "192.0.2.99".parse().unwrap()),
                pid: has(2).then_some(4711),
            });
        }
    }
    all
}

/// The name of the kind of one of Exim's lines.
fn kind_of(line: &str) -> String {
    let kind = exim::parse(line.as_bytes(), &mut Zone::utc()).kind;
    let note = match kind {
        EximKind::OurRefusal => " (never counts)",
        EximKind::Accepted | EximKind::AcceptedAuthenticated => " (no offence)",
        _ => "",
    };
    format!("Exim: {}{note}", kind.description())
}

fn exim_lines(census: &mut Census) {
    let plain = Session { host: None, helo: None, client: "203.0.113.77".parse().unwrap(), port: None, interface: None, pid: None };
    let kinds: Vec<String> = plain.lines("x").iter().map(|line| kind_of(line)).collect();
    let texts = HOSTILE.map(printing);
    for session in sessions() {
        for text in &texts {
            for (kind, line) in kinds.iter().zip(session.lines(text)) {
                census.count(kind, &line, session.client);
            }
            for line in session.ordinary_lines(text) {
                census.count("Exim: other (no offence unless the client writes one)", &line, session.client);
            }
        }
    }
}

/// Escapes text as Squid's `%#` does.
fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"#%'<>[\\]^`{|}~".contains(&byte);
    let text: String =
        text.bytes().map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect();
    if text.is_empty() { "-".into() } else { text }
}

/// How many lines of each kind of Exim's there are, and how many of them are seen. The others are not read, because the text may have ended a
/// field. All of Squid's are seen, or none.
const EXIM: [(&str, u64, u64); 26] = [
    ("Exim: accepted (no offence)", 3720, 1592),
    ("Exim: accepted, authenticated (no offence)", 3720, 1592),
    ("Exim: auth-failed", 7440, 5240),
    ("Exim: connection", 3720, 3720),
    ("Exim: message-too-big", 3720, 2800),
    ("Exim: no-mail", 3720, 3120),
    ("Exim: other (no offence unless the client writes one)", 63240, 108),
    ("Exim: our own refusal (never counts)", 3720, 0),
    ("Exim: protocol-error", 7440, 4736),
    ("Exim: refused-global", 3720, 3720),
    ("Exim: refused-host", 3720, 3120),
    ("Exim: refused-load", 3720, 3720),
    ("Exim: refused-per-host", 3720, 3720),
    ("Exim: refused-reserve", 3720, 3120),
    ("Exim: rejected-by-acl", 22320, 17408),
    ("Exim: rejected-helo", 14880, 10272),
    ("Exim: rejected-rcpt", 7440, 5236),
    ("Exim: synchronization", 7440, 5036),
    ("Exim: syntax-error", 3720, 2800),
    ("Exim: tls-error", 3720, 3120),
    ("Exim: too-many-errors", 3720, 2620),
    ("Exim: too-many-messages", 3720, 3120),
    ("Exim: too-many-nonmail", 3720, 2620),
    ("Exim: too-many-recipients", 7440, 5600),
    ("Exim: too-many-unrecognized", 3720, 2620),
    ("Exim: unqualified", 7440, 5600),
];

/// The kinds of lines in Squid's `strikeout.log`: name, status, result, method, whether asked.
const SQUID: [(&str, &str, &str, &str, &str); 14] = [
    ("403, not asked", "403", "TCP_DENIED", "GET", "-"),
    ("400, not asked", "400", "NONE_NONE", "GET", "-"),
    ("405, not asked", "405", "NONE_NONE", "CONNECT", "-"),
    ("411, not asked", "411", "NONE_NONE", "GET", "-"),
    ("414, not asked", "414", "NONE_NONE", "GET", "-"),
    ("431, not asked", "431", "NONE_NONE", "GET", "-"),
    ("501, not asked", "501", "TCP_DENIED", "OPTIONS", "-"),
    ("403, asked", "403", "TCP_MISS", "GET", "yes"),
    ("404, asked", "404", "TCP_MISS", "GET", "yes"),
    ("401 to a POST, asked", "401", "TCP_MISS_ABORTED", "POST", "yes"),
    ("500, asked in vain", "500", "TCP_DENIED", "GET", "failed"),
    ("200 to a POST, asked (no offence)", "200", "TCP_MISS", "POST", "yes"),
    ("429, our own refusal (never counts)", "429", "TCP_DENIED", "GET", "-"),
    ("000, idle connection (names nobody)", "000", "NONE_NONE", "-", "-"),
];

fn squid_lines(census: &mut Census) {
    for (name, status, result, method, asked) in SQUID {
        for client in ["203.0.113.77", "2001:db8:7::77"] {
            // Each place by itself, and all at once.
            for (place, text) in (0..6).flat_map(|place| HOSTILE.map(|text| (place, escaped(text)))) {
                let at = |mine: usize, ordinary: &str| if place == mine || place == 5 { text.clone() } else { ordinary.to_owned() };
                let url = match (status, place) {
                    ("000", _) => "error:transaction-end-before-headers".to_owned(),
                    (_, 1 | 5) => format!("http://203.0.113.1/.env?{text}"),
                    _ => "http://203.0.113.1/.env".to_owned(),
                };
                let method: String = at(0, method).chars().take(32).collect();
                let [agent, referer, site] = [at(2, "curl/8.5"), at(3, "-"), at(4, "none")];
                let line = format!("1795395723.000 {client} {status} {result} {method} {url} {asked} {agent} {referer} {site}");
                census.count(&format!("Squid: {name}"), &line, client.parse().unwrap());
            }
        }
    }
}

#[test]
fn no_hostile_text_in_any_kind_of_line_gets_anybody_else_blamed() {
    let mut census = Census::new();
    exim_lines(&mut census);
    squid_lines(&mut census);
    println!("{}", census.text());
    for (name, _) in EximKind::NAMED {
        assert!(census.table.contains_key(&format!("Exim: {name}")), "no line of this kind is composed: {name}");
    }
    assert!(census.table.values().all(|counts| counts.others_blamed == 0));
    let squid = SQUID.map(|(name, ..)| {
        let never_counts = name.contains("never counts") || name.contains("names nobody");
        (format!("Squid: {name}"), 360, if never_counts { 0 } else { 360 })
    });
    let mut expected: Vec<_> = EXIM.map(|(kind, tried, seen)| (kind.to_owned(), tried, seen)).into_iter().chain(squid).collect();
    expected.sort();
    let counts: Vec<_> = census.table.iter().map(|(kind, counts)| (kind.clone(), counts.tried, counts.seen)).collect();
    assert_eq!(counts, expected);
}
