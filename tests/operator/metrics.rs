//! Metrics: their values, their documentation, and the HTTP listener.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Daemon, STRIKEOUT, wait_for, wait_until};
use crate::{RULES, attach, row};

/// The samples of a page by name and labels. Checks that each follows the TYPE line of its metric.
fn samples(page: &str) -> HashMap<String, f64> {
    let mut samples = HashMap::new();
    let mut metric = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            metric = rest.split(' ').next().unwrap().to_owned();
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(&metric), "{name} is listed under {metric}");
            assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} is listed twice");
        }
    }
    samples
}

#[test]
fn metrics_count_answers_by_rule_and_service_and_their_latencies() {
    let daemon = Daemon::start(RULES);
    daemon.ask("check 203.0.113.1 port=25\nstrike 203.0.113.11 helo\nstrike 203.0.113.11 helo\ncheck 203.0.113.11 port=25\nstrike 203.0.113.1 none\n");
    let mut subscriber = UnixStream::connect(daemon.socket()).unwrap();
    // A helper's stream: an offence, and what it answered by itself.
    subscriber
        .write_all(b"subscribe 1\nstats 40 3\nrefused w00tw00t 5\nrefused no-such-rule 9\noffence 1 198.51.100.7 w00tw00t GET /w00tw00t\n")
        .unwrap();
    let samples = wait_for("the offence is counted", || {
        let samples = samples(&daemon.text(&["metrics"]));
        samples.contains_key("strikeout_answer_seconds_count{question=\"offence\"}").then_some(samples)
    });
    for (name, expected) in [
        ("strikeout_verdicts_total{service=\"mail\",verdict=\"defer\",rule=\"helo\"}", 2.0),
        ("strikeout_verdicts_total{service=\"web\",verdict=\"deny\",rule=\"w00tw00t\"}", 6.0),
        ("strikeout_verdicts_total{service=\"web\",verdict=\"accept\",rule=\"\"}", 43.0),
        ("strikeout_queries_total{question=\"query\"}", 48.0),
        ("strikeout_queries_total{question=\"offence\"}", 1.0),
        ("strikeout_verdicts_total{service=\"mail\",verdict=\"accept\",rule=\"\"}", 3.0),
        ("strikeout_queries_total{question=\"check\"}", 2.0),
        ("strikeout_queries_total{question=\"strike\"}", 3.0),
        ("strikeout_answer_seconds_count{question=\"check\"}", 2.0),
        ("strikeout_answer_seconds_bucket{question=\"check\",le=\"+Inf\"}", 2.0),
        ("strikeout_rule_bans{rule=\"helo\"}", 1.0),
        ("strikeout_rule_bans_total{rule=\"w00tw00t\"}", 1.0),
        ("strikeout_bans", 2.0),
        ("strikeout_failed_open_total", 3.0),
        ("strikeout_subscribers", 1.0),
        ("strikeout_state_degraded", 0.0),
    ] {
        assert!((samples[name] - expected).abs() < 0.5, "{name} is {}, expected {expected}", samples[name]);
    }
    let json = daemon.json(&["metrics"]);
    assert_eq!(json["strikeout_bans"], 2);
}

#[test]
fn a_rule_a_question_or_a_service_has_no_series_before_its_first_use() {
    let daemon = Daemon::start(RULES);
    let labelled = |page: &str| -> Vec<String> {
        let families = ["queries_total", "verdicts_total", "answer_seconds", "rule_", "last_query"];
        page.lines()
            .filter(|line| families.iter().any(|family| line.starts_with(&format!("strikeout_{family}"))))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(labelled(&daemon.text(&["metrics"])), Vec::<String>::new());
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n");
    let page = daemon.text(&["metrics"]);
    let series = labelled(&page);
    // `recidive` counts the ban.
    assert!(
        series.iter().all(|line| ["\"helo\"", "\"recidive\"", "\"strike\"", "\"mail\""].iter().any(|label| line.contains(label))),
        "{series:?}"
    );
    let samples = samples(&page);
    let now = jiff::Timestamp::now().as_second() as f64;
    for name in [
        "strikeout_rule_last_ban_timestamp_seconds{rule=\"helo\"}",
        "strikeout_last_query_timestamp_seconds{service=\"mail\"}",
        "strikeout_config_last_reload_success_timestamp_seconds",
        "process_start_time_seconds",
    ] {
        assert!((now - 600.0..=now + 1.0).contains(&samples[name]), "{name} is {}, now {now}", samples[name]);
    }
    for (list, expected) in [("ignoreip", 1.0), ("deny", 1.0), ("trusted_proxies", 0.0)] {
        assert!((samples[&format!("strikeout_list_networks{{list=\"{list}\"}}")] - expected).abs() < 0.5, "{list}");
    }
    assert!(samples["process_resident_memory_bytes"] > 100_000.0 && samples["process_threads"] > 1.0);
    daemon.configure("[[rule]]\nname = 'broken'\n");
    assert_eq!(daemon.run(&["reload"]).2, Some(1));
    assert!(daemon.text(&["metrics"]).contains("\nstrikeout_config_last_reload_successful 0\n"));
}

#[test]
fn metrics_report_evictions_from_a_full_table_and_unread_bytes_of_logs() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("mainlog");
    fs::write(&log, "").unwrap();
    let daemon = Daemon::start(&format!("clients = 1\nbans = 1\n{RULES}[[log]]\npath = {log:?}\nrules = ['exim-per-host']\n"));
    let strikes: String = (1..=200).map(|last| format!("strike 198.51.100.{last} helo\n")).collect();
    daemon.ask(&strikes);
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\nstrike 203.0.113.12 helo\nstrike 203.0.113.12 helo\n");
    let mut file = fs::File::options().append(true).open(&log).unwrap();
    // Lines written before the daemon opened the log are not read, so write until some are.
    let name = |metric: &str| format!("strikeout_{metric}{{log=\"{}\"}}", log.display());
    let samples = wait_for("the lines are read", || {
        writeln!(file, "2026-11-23 01:02:03 Start queue run: pid=7").unwrap();
        let samples = samples(&daemon.text(&["metrics"]));
        (samples[&name("log_lines_total")] >= 2.0 && samples["strikeout_bans_evicted_total"] > 0.0).then_some(samples)
    });
    assert!(samples["strikeout_strikes_evicted_total"] > 100.0 && samples["strikeout_bans"] < 1.5, "{samples:?}");
    assert_eq!((samples[&name("log_fault")], samples.contains_key(&name("log_lag_bytes"))), (0.0, true));
}

#[test]
fn answers_that_a_squid_helper_gives_alone_are_counted_even_while_the_daemon_is_away() {
    let daemon = Daemon::start(RULES);
    let mut helper = attach(&daemon);
    // The metrics are read one after the other while the helper reports, so all of them are waited for.
    let wait_for_counts = |daemon: &Daemon, served: f64, refused: f64, queries: f64| {
        wait_until(&format!("{served} served and {refused} refused queries, {queries} of them answered by the helper"), || {
            let samples = samples(&daemon.text(&["metrics"]));
            let value = |name: &str| samples.get(name).copied().unwrap_or(0.0);
            let verdicts = |verdict: &str| value(&format!("strikeout_verdicts_total{{service=\"web\",{verdict}}}"));
            let verdicts = (verdicts("verdict=\"accept\",rule=\"\""), verdicts("verdict=\"deny\",rule=\"w00tw00t\""));
            (verdicts, value("strikeout_queries_total{question=\"query\"}")) == ((served, refused), queries)
        });
    };
    for _ in 0..3 {
        assert_eq!(helper.ask("203.0.113.50 GET http://a.example/ -"), "ERR");
    }
    assert!(helper.ask("203.0.113.51 GET http://a.example/w00tw00t -").starts_with("OK "));
    for _ in 0..2 {
        assert!(helper.ask("203.0.113.51 GET http://a.example/ -").starts_with("OK "));
    }
    // The daemon answered the offence, the helper the rest.
    wait_for_counts(&daemon, 3.0, 3.0, 5.0);
    let stage = daemon.stage().clone();
    daemon.end(Signal::TERM);
    assert_eq!(helper.ask("203.0.113.50 GET http://a.example/ -"), "ERR");
    assert!(helper.ask("203.0.113.51 GET http://a.example/ -").starts_with("OK "));
    // One strike is enough: refused although no daemon counts it.
    assert!(helper.ask("203.0.113.52 GET http://a.example/w00tw00t -").starts_with("OK "));
    let daemon = Daemon::start_again(&stage);
    wait_for_counts(&daemon, 1.0, 2.0, 3.0);
}

/// The metrics' names in the first column of the page's table, without their labels.
fn documented_metrics() -> BTreeSet<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operators.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("Metrics\n")).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    let names = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let prefix = |name: &str| if name.starts_with("process_") { "" } else { "strikeout_" };
    names.map(|name| format!("{}{}", prefix(name), name.split('{').next().unwrap())).collect()
}

/// Answers as CrowdSec's local API does that has no decisions.
fn says_nothing_new(mut connection: TcpStream) {
    let mut request = [0; 4096];
    let _ = connection.read(&mut request);
    let body = r#"{"new":null,"deleted":null}"#;
    let _ = write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    // A fleet has metrics even while Redis is away.
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("mainlog");
    fs::write(&log, "").unwrap();
    let key = dir.path().join("key");
    fs::write(&key, "k").unwrap();
    let crowdsec = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = crowdsec.local_addr().unwrap().port();
    std::thread::spawn(move || crowdsec.incoming().flatten().for_each(says_nothing_new));
    let daemon = Daemon::start(&format!(
        "[defaults]\nverified_crawlers = ['googlebot']\n[geo]\nasn = '/nowhere/asn.mmdb'\n\
         [crowdsec]\nurl = 'http://127.0.0.1:{port}'\nkey_file = {key:?}\n\
         [[log]]\npath = {log:?}\nrules = ['exim-per-host']\n[hook]\ncommand = ['/bin/true']\n[fleet]\nurl = 'redis://127.0.0.1:1/0'\nnode = 'mx1'\n"
    ));
    let page = wait_for("an answer of CrowdSec", || {
        Some(daemon.text(&["metrics"])).filter(|page| page.contains("strikeout_crowdsec_last_answer_timestamp_seconds"))
    });
    let exported: BTreeSet<String> =
        page.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())).collect();
    let documented = documented_metrics();
    assert_eq!(documented.difference(&exported).collect::<Vec<_>>(), Vec::<&String>::new(), "documented but not exported");
    assert_eq!(exported.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new(), "exported but not documented");
    let samples = samples(&page);
    assert!(samples.contains_key(&format!("strikeout_log_lag_bytes{{log=\"{}\"}}", log.display())), "{page}");
    let text = daemon.text(&["status"]);
    assert!(row(&text, "fleet").join(" ").contains("0 changes published, 0 received"), "{text}");
}

#[test]
fn metrics_are_served_over_http_on_loopback_if_configured() {
    let daemon = Daemon::start("[metrics]\nlisten = '127.0.0.1:0'\n");
    let address = wait_for("the listener's address is logged", || {
        let log = daemon.log();
        log.split_once("metrics on http://").and_then(|(_, rest)| Some(rest.split_once('/')?.0.to_owned()))
    });
    let get = |request: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    // A scraper that sends nothing does not block others for long.
    let _silent = TcpStream::connect(&address).unwrap();
    let answer = get("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let page = answer.split("\r\n\r\n").nth(1).unwrap();
    assert!(samples(page).contains_key("strikeout_bans"), "{page}");
    assert!(get("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(get("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(get("\0\r\n\r\n").starts_with("HTTP/1.1 400 "));
}

#[test]
fn a_metrics_listener_outside_loopback_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("strikeout.toml");
    fs::write(&config, "[metrics]\nlisten = '0.0.0.0:9471'\n").unwrap();
    let output = Command::new(STRIKEOUT).args(["check", "--config"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(&format!("{}:2: found \"0.0.0.0:9471\", expected a loopback address", config.display())), "{stderr}");
}
