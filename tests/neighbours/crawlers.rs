//! `verified_crawlers`, at a name server that answers, lies, is silent, dead or changes its mind.

use std::fs;
use std::io::Write;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Daemon, Dns, SQUID_HELPER, STRIKEOUT, SquidHelper, Stage, wait_until};

const RULES: &str = "[[rule]]\nname = 'not-found'\nstatus = 404\nmaxretry = 3\n[[rule]]\nname = 'probe'\npath = '^/probe$'\nmaxretry = 2\n";
const GOOGLE: &str = "Mozilla/5.0%20(compatible;%20Googlebot/2.1)";
const BROWSER: &str = "Mozilla/5.0";
/// A crawler of Google's, and one whose owner has chosen such a name.
const RECORDS: [&str; 2] = ["host-record=crawl-1.googlebot.com,192.0.2.66", "ptr-record=67.2.0.192.in-addr.arpa,crawl-2.googlebot.com"];

fn start(dns: &Dns, crawlers: &str) -> (Daemon, SquidHelper) {
    let stage = Stage::new();
    stage.configure("", &format!("[defaults]\nfamilies = []\nverified_crawlers = {crawlers}\n{RULES}"));
    let daemon = Daemon::start_by(&stage, dns.command(STRIKEOUT));
    let helper = SquidHelper::attach(&stage);
    (daemon, helper)
}

/// Ten dead links.
fn dead_links(helper: &mut SquidHelper, address: &str, agent: &str) {
    for number in 0..10 {
        helper.ask(&format!("{address} GET http://a.example/{number} {agent} - status=404"));
    }
}

fn is_refused(helper: &mut SquidHelper, address: &str, agent: &str) -> bool {
    helper.ask(&format!("{address} GET http://a.example/ {agent} - -")).starts_with("OK ")
}

fn google(daemon: &Daemon) -> Value {
    let mut status = daemon.object("status")["crawlers"][0].clone();
    status["asked"] = Value::Null;
    status
}

fn counts(verified: u32, refuted: u32, unknown: u32) -> Value {
    json!({"name": "googlebot", "networks": 0, "verified": verified, "refuted": refuted, "unknown": unknown, "asked": null})
}

#[test]
fn dead_links_ban_a_liar_and_no_crawler_and_probes_ban_both() {
    let Some(dns) = Dns::start(&RECORDS) else { return };
    let (daemon, mut helper) = start(&dns, "['googlebot']");
    wait_until("the helper has the configuration", || {
        helper.ask(&format!("192.0.2.66 GET http://a.example/ {GOOGLE} - -"));
        google(&daemon) == counts(1, 0, 0)
    });
    dead_links(&mut helper, "192.0.2.66", GOOGLE);
    assert!(!is_refused(&mut helper, "192.0.2.66", GOOGLE));
    // A forged name, and none at all.
    for liar in ["192.0.2.67", "192.0.2.68"] {
        helper.ask(&format!("{liar} GET http://a.example/ {GOOGLE} - -"));
    }
    wait_until("both are found out", || google(&daemon) == counts(1, 2, 0));
    for client in ["192.0.2.67", "192.0.2.68", "192.0.2.69"] {
        let agent = if client == "192.0.2.69" { BROWSER } else { GOOGLE };
        dead_links(&mut helper, client, agent);
        wait_until("who is no crawler is banned", || is_refused(&mut helper, client, agent));
    }
    let text = daemon.text(&["status"]);
    assert!(text.contains("crawler    googlebot: 1 client verified, 2 that only said so\n"), "{text}");
    assert!(daemon.ask("metrics\n").contains("strikeout_crawler_clients{crawler=\"googlebot\",found=\"verified\"} 1\n"));
    for _ in 0..2 {
        helper.ask(&format!("192.0.2.66 GET http://a.example/probe {GOOGLE} - -"));
    }
    wait_until("a crawler that probes is banned", || is_refused(&mut helper, "192.0.2.66", GOOGLE));
}

#[test]
fn a_dead_or_silent_server_changes_nothing_for_anybody_else() {
    let Some(mut dns) = Dns::start(&RECORDS) else { return };
    dns.is_silent(true);
    let (daemon, mut helper) = start(&dns, "['googlebot']");
    wait_until("the helper has the configuration", || {
        helper.ask(&format!("192.0.2.66 GET http://a.example/ {GOOGLE} - -"));
        daemon.object("status")["crawlers"][0]["asked"] == 1
    });
    dead_links(&mut helper, "192.0.2.69", BROWSER);
    wait_until("others are banned meanwhile", || is_refused(&mut helper, "192.0.2.69", BROWSER));
    dns.is_silent(false);
    wait_until("the answer comes late", || google(&daemon) == counts(1, 0, 0));
    dns.stop();
    helper.ask(&format!("192.0.2.70 GET http://a.example/ {GOOGLE} - -"));
    wait_until("nothing is known", || google(&daemon) == counts(1, 0, 1));
    dead_links(&mut helper, "192.0.2.70", GOOGLE);
    wait_until("who cannot be looked up is judged like everybody", || is_refused(&mut helper, "192.0.2.70", GOOGLE));
    dead_links(&mut helper, "192.0.2.66", GOOGLE);
    assert!(!is_refused(&mut helper, "192.0.2.66", GOOGLE), "what was verified stays so");
    let findings = daemon.json(&["doctor"])["findings"].clone();
    assert!(findings.as_array().unwrap().iter().any(|finding| finding["check"] == "crawlers" && finding["level"] == "fault"), "{findings}");
}

#[test]
fn published_networks_verify_without_any_name_server_also_in_a_log_and_an_own_table() {
    let Some(dns) = Dns::dead() else { return };
    let stage = Stage::new();
    let file = stage.write("google.json", "{\"prefixes\": [{\"ipv4Prefix\": \"192.0.2.64/28\"}]}");
    let log = stage.write("access.log", "");
    let crawlers = format!("verified_crawlers = [{{ name = 'googlebot', file = {file:?} }}]");
    stage.configure("", &format!("[[log]]\npath = {log:?}\n[defaults]\nfamilies = []\n{crawlers}\n{RULES}"));
    let daemon = Daemon::start_by(&stage, dns.command(STRIKEOUT));
    let line = |address: &str| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let date = Command::new("date").args(["-u", "-d", &format!("@{now}"), "+%d/%b/%Y:%H:%M:%S +0000"]).output().unwrap();
        let date = String::from_utf8(date.stdout).unwrap();
        format!("{address} - - [{}] \"GET /x HTTP/1.1\" 404 9 \"-\" \"Googlebot/2.1\"\n", date.trim())
    };
    let text = (0..10).map(|_| line("192.0.2.66") + &line("192.0.2.99")).collect::<String>();
    // Again and again, because what is in the file before the daemon looks at it is not read.
    wait_until("the liar is banned", || {
        fs::File::options().append(true).open(&log).unwrap().write_all(text.as_bytes()).unwrap();
        daemon.ask("list\n").contains("192.0.2.99")
    });
    assert!(!daemon.ask("list\n").contains("192.0.2.66"));
    assert_eq!(daemon.object("status")["crawlers"][0]["networks"], 1);

    let mut command = dns.command(SQUID_HELPER);
    command.arg("--config").arg(stage.write("own.toml", &format!("[defaults]\n{crawlers}\n{RULES}")));
    let mut helper = SquidHelper::spawn(command).until_ready();
    dead_links(&mut helper, "192.0.2.66", GOOGLE);
    // Again and again, because none of it counts until the lookup has failed.
    wait_until("the liar is banned", || {
        dead_links(&mut helper, "192.0.2.99", GOOGLE);
        is_refused(&mut helper, "192.0.2.99", GOOGLE)
    });
    assert!(!is_refused(&mut helper, "192.0.2.66", GOOGLE));
}
