//! `[crowdsec]` at a local API of the test's own, which is slow, lies, goes away or is somebody else.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::web::{Web, send};
use crate::harness::mmdb::{Said, database};
use crate::harness::{Daemon, SquidHelper, Stage, wait_for, wait_until};

/// What the local API does with every question.
#[derive(Clone)]
enum Mode {
    /// Answers what is in force, or what has changed.
    Honest,
    Status(&'static str),
    Text(String),
    /// Sends this before it closes, with a length that is never reached.
    Cut(String),
    /// Sends this again and again.
    Endless(&'static str, &'static str),
    Silent,
}

#[derive(Default)]
struct Decisions {
    in_force: Vec<Value>,
    new: Vec<Value>,
    deleted: Vec<Value>,
}

/// A local API.
pub(super) struct Lapi {
    pub(super) web: Web,
    mode: Arc<Mutex<Mode>>,
    decisions: Arc<Mutex<Decisions>>,
}

pub(super) fn decision(id: u64, scope: &str, value: &str, duration: &str) -> Value {
    json!({"id": id, "origin": "CAPI", "type": "ban", "scope": scope, "value": value, "duration": duration, "scenario": "crowdsecurity/ssh-bf"})
}

impl Lapi {
    pub(super) fn start(in_force: Vec<Value>) -> Self {
        let mode = Arc::new(Mutex::new(Mode::Honest));
        let decisions = Arc::new(Mutex::new(Decisions { in_force, ..Decisions::default() }));
        let (its_mode, its_decisions) = (Arc::clone(&mode), Arc::clone(&decisions));
        let web = Web::start(move |request, stream| {
            let is_first = request.path.contains("startup=true");
            let mode = its_mode.lock().clone();
            match mode {
                Mode::Honest if request.header("X-Api-Key") != Some("secret") => {
                    send(stream, "403 Forbidden", "", "{\"message\":\"access forbidden\"}");
                }
                Mode::Honest => {
                    let answer = its_decisions.lock().answer(is_first);
                    send(stream, "200 OK", "", &answer);
                }
                Mode::Status(status) => send(stream, status, "Location: http://127.0.0.1:1/\r\n", "{}"),
                Mode::Text(text) => send(stream, "200 OK", "", &text),
                Mode::Cut(text) => _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{text}"),
                Mode::Endless(first, again) => endless(stream, first, again),
                Mode::Silent => std::thread::park(),
            }
        });
        Self { web, mode, decisions }
    }

    fn is(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    fn add(&self, decision: Value) {
        let mut decisions = self.decisions.lock();
        decisions.in_force.push(decision.clone());
        decisions.new.push(decision);
    }

    pub(super) fn delete(&self, id: u64) {
        let mut decisions = self.decisions.lock();
        let at = decisions.in_force.iter().position(|decision| decision["id"] == id).unwrap();
        let mut decision = decisions.in_force.remove(at);
        decision["duration"] = json!("-1.5s");
        decisions.deleted.push(decision);
    }

    /// A daemon that asks each second.
    pub(super) fn daemon(&self, more: &str) -> Daemon {
        self.daemon_with("", more)
    }

    /// The same with more in `[table]`.
    pub(super) fn daemon_with(&self, table: &str, more: &str) -> Daemon {
        self.start_daemon(&Stage::new(), table, more)
    }

    fn daemon_on(&self, stage: &Stage, more: &str) -> Daemon {
        self.start_daemon(stage, "", more)
    }

    fn start_daemon(&self, stage: &Stage, table: &str, more: &str) -> Daemon {
        let key = stage.write("key", "secret\n");
        Daemon::start_on(
            stage,
            table,
            &format!("[crowdsec]\nurl = '{}'\nkey_file = '{}'\ninterval = '1s'\n{more}", self.web.url(""), key.display()),
        )
    }

    /// Waits until two more questions have been asked, so that the answer to the first has been dealt with.
    pub(super) fn wait_for_questions(&self) {
        let before = self.web.requests().len();
        wait_until("two more questions", || self.web.requests().len() >= before + 2);
    }
}

impl Decisions {
    fn answer(&mut self, is_first: bool) -> String {
        let (new, deleted) = (std::mem::take(&mut self.new), std::mem::take(&mut self.deleted));
        if is_first { json!({"new": self.in_force, "deleted": deleted}) } else { json!({"new": new, "deleted": deleted}) }.to_string()
    }
}

fn endless(stream: &mut TcpStream, first: &str, again: &str) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{first}");
    let again = again.repeat(1 + (64 << 10) / again.len());
    while stream.write_all(again.as_bytes()).is_ok() {}
}

pub(super) fn rules(daemon: &Daemon) -> Vec<String> {
    let mut bans: Vec<String> =
        daemon.objects("list").iter().map(|ban| format!("{} {}", ban["client"], ban["rule"]).replace('"', "")).collect();
    bans.sort();
    bans
}

#[track_caller]
pub(super) fn wait_for_bans(daemon: &Daemon, expected: &[&str]) {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    wait_until(&format!("the bans are {expected:?}, and not {:?}", rules(daemon)), || rules(daemon) == expected);
}

pub(super) fn crowdsec(daemon: &Daemon) -> Value {
    daemon.object("status")["crowdsec"].clone()
}

#[track_caller]
fn wait_for_fault(daemon: &Daemon, expected: &str) {
    let fault = wait_for("the fault", || crowdsec(daemon)["fault"].as_str().filter(|fault| fault.contains(expected)).map(str::to_owned));
    assert!(fault.starts_with("CrowdSec at http://127.0.0.1:"), "{fault}");
}

#[test]
fn decisions_are_bans_with_their_scenario_and_end_with_them() {
    let lapi = Lapi::start(vec![decision(1, "Ip", "203.0.113.1", "4h0m0s"), decision(2, "Range", "198.51.100.0/24", "3h59m59.5s")]);
    let daemon = lapi.daemon("");
    let mut helper = SquidHelper::attach(daemon.stage());
    wait_for_bans(&daemon, &["203.0.113.1 crowdsec-ssh-bf", "198.51.100.0/24 crowdsec-ssh-bf"]);
    wait_until("the helper refuses both", || helper.refuses("203.0.113.1") && helper.refuses("198.51.100.77"));
    let why = daemon.json(&["why", "203.0.113.1"]);
    assert_eq!(
        (&why["refused"], &why["ban"]["rule"], &why["ban"]["evidence"]),
        (&json!(true), &json!("crowdsec-ssh-bf"), &json!("crowdsecurity/ssh-bf (CAPI)"))
    );
    let remaining = why["ban"]["remaining"].as_i64().unwrap();
    assert!((14_000..=14_401).contains(&remaining), "{why}");
    lapi.add(decision(3, "Ip", "2001:db8::1", "1h"));
    lapi.add(decision(4, "Ip", "2001:db8::2", "2h"));
    wait_until("the network of both", || helper.refuses("2001:db8::3"));
    lapi.delete(4);
    lapi.delete(1);
    lapi.delete(2);
    wait_for_bans(&daemon, &["2001:db8::/64 crowdsec-ssh-bf"]);
    wait_until("the ban is as long as the decision that is left", || {
        daemon.objects("list")[0]["remaining"].as_i64().is_some_and(|remaining| remaining <= 3600)
    });
    lapi.delete(3);
    wait_until("nobody is refused", || !helper.refuses("2001:db8::3") && !helper.refuses("203.0.113.1"));
    // The bans end before status counts them.
    wait_until("status says that nothing is left", || crowdsec(&daemon)["decisions"] == json!(0));
    wait_until("status has no fault", || crowdsec(&daemon)["fault"].is_null());
}

/// Takes decisions about `value`, which stands as `shown`, and is 198.18.0.0/16 by a database.
fn is_banned_as_one(scope: &str, value: &str, shown: &str, key: &str, said: Said<'_>) {
    let lapi = Lapi::start(vec![decision(1, scope, value, "4h"), decision(2, scope, value, "2h"), decision(3, scope, "\u{e9}", "4h")]);
    let stage = Stage::new();
    let file = stage.path("geo.mmdb");
    let (taken, geo) = (scope.to_lowercase(), format!("[geo]\n{key} = {file:?}\n"));
    let daemon = lapi.daemon_on(&stage, &format!("scopes = ['{taken}']\n{geo}[defaults]\nignoreip = ['198.18.7.8']\n"));
    let is_refused = |address: &str| daemon.ask(&format!("check {address}\n")).starts_with('d');
    let ban = format!("{shown} crowdsec-ssh-bf");
    wait_for_bans(&daemon, &[&ban]);
    assert!(!is_refused("198.18.7.7"), "no database says who that is");
    std::fs::write(&file, database(&[("198.18.0.0/16", said)])).unwrap();
    wait_until("the database is there", || is_refused("198.18.7.7"));
    assert!(!is_refused("198.18.7.8") && !is_refused("198.19.7.7"));
    assert_eq!(crowdsec(&daemon)["skipped"], json!({"unreadable": 1}));
    lapi.delete(1);
    wait_until("the shorter one is left", || daemon.objects("list")[0]["remaining"].as_i64().is_some_and(|remaining| remaining <= 7200));
    lapi.delete(2);
    wait_for_bans(&daemon, &[]);
    assert!(!is_refused("198.18.7.7"));

    // A ban by hand stands, and the decision waits for its end.
    daemon.text(&["ban", shown, "1h"]);
    lapi.add(decision(4, scope, value, "4h"));
    wait_until("it waits", || crowdsec(&daemon)["waiting"] == json!(1));
    wait_for_bans(&daemon, &[&format!("{shown} manual")]);
    daemon.text(&["unban", shown]);
    wait_for_bans(&daemon, &[&ban]);
}

#[test]
fn an_autonomous_system_is_banned_as_one() {
    is_banned_as_one("AS", "64496", "AS64496", "asn", Said::Asn(64496));
}

#[test]
fn a_country_is_banned_as_one() {
    is_banned_as_one("Country", "de", "country:DE", "country", Said::Country("DE"));
}

#[test]
fn what_must_not_be_refused_is_skipped_and_counted() {
    let everybody = ["0.0.0.0/0", "::/0", "10.0.0.0/7"].iter().zip(1..).map(|(network, id)| decision(id, "Range", network, "4h"));
    let mut all: Vec<Value> = everybody.collect();
    all.push(decision(11, "Ip", "127.0.0.1", "4h"));
    all.push(decision(12, "Ip", "198.51.100.7", "4h"));
    all.push(decision(13, "AS", "64496", "4h"));
    all.push(decision(18, "Country", "DE", "4h"));
    all.push(decision(14, "Ip", "203.0.113.14", "-4h"));
    all.push(decision(15, "Ip", "nobody", "4h"));
    all.push(json!({"id": "x", "value": ["a"], "scope": {}, "type": 7}));
    all.push(decision(16, "Ip", "203.0.113.16", "9999999999h"));
    let mut captcha = decision(17, "Ip", "203.0.113.17", "4h");
    captcha["type"] = json!("captcha");
    all.push(captcha);
    let lapi = Lapi::start(all);
    let daemon = lapi.daemon("[defaults]\nignoreip = ['198.51.100.7']\n");
    wait_for_bans(&daemon, &["203.0.113.16 crowdsec-ssh-bf"]);
    let expected =
        json!({"wider than /8 (IPv6 /16)": 3, "never banned": 2, "of another scope": 2, "of another type than ban": 1, "unreadable": 2});
    assert_eq!(crowdsec(&daemon)["skipped"], expected);
    let text = daemon.text(&["status"]);
    assert!(text.contains("2 never banned") && text.contains("3 wider than /8"), "{text}");
    assert!(daemon.objects("list")[0]["remaining"].as_i64().unwrap() < 11 * 365 * 86_400);
}

#[test]
fn what_is_known_stands_while_the_api_is_away_or_lies() {
    let lapi = Lapi::start(vec![decision(1, "Ip", "203.0.113.1", "4h"), decision(2, "Ip", "203.0.113.2", "4h")]);
    let daemon = lapi.daemon("decisions = 1000\n");
    let both = ["203.0.113.1 crowdsec-ssh-bf", "203.0.113.2 crowdsec-ssh-bf"];
    wait_for_bans(&daemon, &both);
    let cut = json!({"new": [decision(9, "Ip", "203.0.113.9", "4h")], "deleted": [decision(1, "Ip", "203.0.113.1", "-1s")]}).to_string();
    for (mode, fault) in [
        (Mode::Status("500 Internal Server Error"), "found the status 500, expected 200"),
        (Mode::Status("302 Found"), "found a redirect (status 302)"),
        (Mode::Status("403 Forbidden"), "it refuses the key in "),
        (Mode::Text("<html>hello".into()), "its answer is not what a local API sends"),
        (Mode::Text("{\"message\":\"no\"}".into()), "its answer has no list of new decisions"),
        (Mode::Text(String::new()), "its answer ends in the middle"),
        (Mode::Cut(cut[..cut.len() - 1].to_owned()), "its answer"),
        (Mode::Endless("{\"new\":[{\"value\":\"", "a"), "more than 65536 bytes"),
        (Mode::Endless("{\"new\":[", "["), "nested too deeply"),
        (Mode::Endless("{\"new\":[", "   "), "it is longer than"),
    ] {
        lapi.is(mode);
        wait_for_fault(&daemon, fault);
        assert_eq!(rules(&daemon), both, "{fault}");
    }
    assert!(daemon.peak_memory() < 300 << 20, "{} bytes", daemon.peak_memory());
    // Meanwhile one has ended and one is new: what is said first is a whole list.
    lapi.decisions.lock().in_force.remove(0);
    lapi.decisions.lock().in_force.push(decision(5, "Ip", "203.0.113.5", "4h"));
    lapi.is(Mode::Honest);
    wait_for_bans(&daemon, &["203.0.113.2 crowdsec-ssh-bf", "203.0.113.5 crowdsec-ssh-bf"]);
    wait_until("status has no fault", || crowdsec(&daemon)["fault"].is_null());
}

#[test]
fn a_silent_api_delays_nobody() {
    let lapi = Lapi::start(Vec::new());
    lapi.is(Mode::Silent);
    let daemon = lapi.daemon("[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\n");
    wait_until("it is asked", || !lapi.web.requests().is_empty());
    assert!(daemon.ask("strike 203.0.113.1 helo\n").starts_with('d'));
    assert!(daemon.text(&["status"]).contains("is being asked"));
    assert_eq!(daemon.object("reload")["reloaded"], json!(true));
    assert!(daemon.end(rustix::process::Signal::TERM).success());
}

#[test]
fn bans_by_hand_and_by_rules_are_neither_replaced_nor_ended() {
    let lapi = Lapi::start(Vec::new());
    let daemon = lapi.daemon("[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\nbantime = '1h'\n");
    daemon.object("ban 203.0.113.1 30m");
    daemon.object("ban 198.51.100.0/24 30m");
    daemon.ask("strike 203.0.113.2 helo\n");
    let stand = ["198.51.100.0/24 manual", "203.0.113.1 manual", "203.0.113.2 helo"];
    wait_for_bans(&daemon, &stand);
    for (id, scope, value) in [(1, "Ip", "203.0.113.1"), (2, "Ip", "203.0.113.2"), (3, "Range", "198.51.100.0/24")] {
        lapi.add(decision(id, scope, value, "4h"));
    }
    wait_until("they wait", || crowdsec(&daemon)["waiting"] == json!(3));
    assert_eq!(rules(&daemon), stand);
    // When the other ban ends, the decision counts.
    daemon.object("unban 203.0.113.1");
    wait_for_bans(&daemon, &["203.0.113.1 crowdsec-ssh-bf", "203.0.113.2 helo", "198.51.100.0/24 manual"]);
    for id in 1..=3 {
        lapi.delete(id);
    }
    wait_for_bans(&daemon, &["203.0.113.2 helo", "198.51.100.0/24 manual"]);
    wait_until("status says that nothing is left", || {
        let status = crowdsec(&daemon);
        (&status["waiting"], &status["decisions"]) == (&json!(0), &json!(0))
    });
}

#[test]
fn bans_outlive_the_daemon_and_what_has_gone_meanwhile_is_dropped() {
    let lapi = Lapi::start(vec![decision(1, "Ip", "203.0.113.1", "4h"), decision(2, "Range", "198.51.100.0/24", "4h")]);
    let stage = Stage::new();
    let mut daemon = lapi.daemon_on(&stage, "");
    wait_for_bans(&daemon, &["203.0.113.1 crowdsec-ssh-bf", "198.51.100.0/24 crowdsec-ssh-bf"]);
    daemon.kill();
    lapi.is(Mode::Status("500 Internal Server Error"));
    drop(daemon);
    let daemon = Daemon::start_again(&stage);
    assert_eq!(rules(&daemon), ["198.51.100.0/24 crowdsec-ssh-bf", "203.0.113.1 crowdsec-ssh-bf"]);
    lapi.decisions.lock().in_force.remove(1);
    lapi.is(Mode::Honest);
    wait_for_bans(&daemon, &["203.0.113.1 crowdsec-ssh-bf"]);
    // Without the section nothing is left of it.
    daemon.configure("");
    daemon.object("reload");
    wait_for_bans(&daemon, &[]);
    assert_eq!(crowdsec(&daemon), Value::Null);
}

#[test]
fn a_list_that_ends_most_bans_is_believed_when_it_is_said_twice() {
    let many = (0..200).map(|number| decision(number, "Ip", &format!("203.0.113.{number}"), "4h")).collect();
    let lapi = Lapi::start(many);
    let daemon = lapi.daemon("");
    wait_until("all are banned", || daemon.number("bans") == 200);
    // As CrowdSec 1.7 answers when its database fails.
    let lost = "{\"new\": [], \"deleted\": []}";
    lapi.is(Mode::Status("500 Internal Server Error"));
    wait_for_fault(&daemon, "500");
    let before = lapi.web.requests().len();
    lapi.is(Mode::Text(lost.into()));
    wait_until("it is doubted", || daemon.log().contains("is asked for again before that is believed"));
    assert!(lapi.web.requests().iter().skip(before).all(|request| request.path.contains("startup=true")));
    wait_until("all have ended", || daemon.number("bans") == 0);
}

#[test]
fn many_decisions_are_taken_up_to_the_limit() {
    let many =
        (0..60_000_u32).map(|number| decision(number.into(), "Ip", &std::net::Ipv4Addr::from(0x2d00_0000 + number).to_string(), "4h"));
    let lapi = Lapi::start(many.collect());
    let daemon = lapi.daemon("decisions = 50_000\n");
    wait_until("they are banned", || crowdsec(&daemon)["answered_ago"].is_u64());
    assert_eq!((daemon.number("bans"), crowdsec(&daemon)["decisions"].clone()), (50_000, json!(50_000)));
    assert_eq!(crowdsec(&daemon)["skipped"], json!({"without room": 10_000}));
    lapi.wait_for_questions();
    let made = daemon.object("status")["bans_made"].clone();
    // A whole list again changes nothing.
    daemon.object("reload");
    lapi.wait_for_questions();
    assert_eq!(daemon.object("status")["bans_made"], made);
    assert!(daemon.peak_memory() < 300 << 20, "{} bytes", daemon.peak_memory());
}
