//! The examples that tell people: hooks for groups of bans, alert rules for Prometheus, and a dashboard for Grafana.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{self, Daemon};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf-examples").join(name)
}

/// What the daemon gives a hook for a group: 25 bans, an unban, and the number of those that were dropped.
fn group() -> String {
    let bans = (1..=25).map(|last| {
        format!(
            "{{\"event\":\"ban\",\"client\":\"192.0.2.{last}\",\"scope\":\"all\",\"rule\":\"w00tw00t\",\"until\":-1,\"at\":0,\"count\":1,\
             \"times\":1,\"evidence\":\"GET /\\\"rule\\\":\\\"no\"}}\n"
        )
    });
    let rest = "{\"event\":\"unban\",\"client\":\"2001:db8::/64\",\"scope\":\"web\",\"at\":0}\n{\"event\":\"dropped\",\"number\":17}\n";
    bans.collect::<String>() + rest
}

/// Runs an example with `argument` and a group on its standard input.
fn run(name: &str, argument: &str, path: &str) {
    let mut child = Command::new("/bin/sh").arg(example(name)).arg(argument).env("PATH", path).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(group().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{name}");
}

#[test]
fn the_digest_mails_a_group_in_one_letter() {
    let folder = tempfile::tempdir().unwrap();
    let curl = folder.path().join("curl");
    fs::write(&curl, format!("#!/bin/sh\n{{ echo \"$*\"; cat; }} > {}/mail\n", folder.path().display())).unwrap();
    fs::set_permissions(&curl, fs::Permissions::from_mode(0o755)).unwrap();
    run("hook-mail-digest.sh", "root@localhost", &format!("{}:/usr/bin:/bin", folder.path().display()));
    let mail = fs::read_to_string(folder.path().join("mail")).unwrap();
    assert!(mail.contains("--mail-rcpt root@localhost"), "{mail}");
    assert!(mail.contains("\nSubject: 26 bans and unbans: ban 192.0.2.1 by w00tw00t\n"), "{mail}");
    assert!(mail.contains("\nban 192.0.2.25 by w00tw00t\nunban 2001:db8::/64\nand 17 more that were not told\n"), "{mail}");
}

#[test]
fn the_web_hook_is_sent_the_first_twenty_of_a_group_and_how_many_more_there_are() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/topic", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut head, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line).unwrap() > 2 {
            head.push_str(&std::mem::take(&mut line));
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        (head, String::from_utf8(body).unwrap())
    });
    run("hook-ntfy.sh", &url, "/usr/bin:/bin");
    let (head, body) = server.join().unwrap();
    assert!(head.starts_with("POST /topic ") && head.contains("\nTitle: 26 bans and unbans on "), "{head}");
    assert!(body.starts_with("ban 192.0.2.1 by w00tw00t\n") && body.ends_with("ban 192.0.2.20 by w00tw00t\nand 6 more\n"), "{body}");
}

/// The names of metrics in an expression.
fn metrics(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("strikeout_") || word.starts_with("process_"));
    names.map(|name| name.strip_suffix("_bucket").unwrap_or(name).to_owned()).collect()
}

/// The metrics that a daemon exports which has a log, a hook and a fleet.
fn exported() -> BTreeSet<String> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let more = "[hook]\ncommand = ['/bin/true']\n[fleet]\nurl = 'redis://127.0.0.1:1/0'\nnode = 'mx1'\n";
    let daemon = Daemon::start(&format!("[[log]]\npath = {:?}\nrules = ['exim-per-host']\n{more}", log.path()));
    let page = daemon.text(&["metrics"]);
    page.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())).collect()
}

#[test]
fn the_alert_rules_and_the_dashboard_name_only_metrics_that_there_are() {
    let alerts = fs::read_to_string(example("prometheus-alerts.yml")).unwrap();
    let rules: String = alerts.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    let dashboard: serde_json::Value = serde_json::from_str(&fs::read_to_string(example("grafana-dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(expressions.len() >= 20 && panels.iter().all(|panel| panel["gridPos"]["w"].as_u64().unwrap() <= 24));
    let named: BTreeSet<String> = expressions.into_iter().flat_map(metrics).chain(metrics(&rules)).collect();
    let exported = exported();
    assert_eq!(named.difference(&exported).collect::<Vec<_>>(), Vec::<&String>::new(), "not exported");
    assert!(named.len() > 25, "{named:?}");
}

#[test]
fn promtool_accepts_the_alert_rules_and_the_metrics() {
    if !harness::has("promtool", "prometheus") {
        return;
    }
    let promtool = harness::program("promtool").unwrap();
    let output = Command::new(&promtool).args(["check", "rules"]).arg(example("prometheus-alerts.yml")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let daemon = Daemon::start("");
    daemon.ask("check 203.0.113.1 port=25\nban 203.0.113.2\n");
    let page = daemon.text(&["metrics"]);
    let mut check = Command::new(promtool);
    let mut child = check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}{page}", String::from_utf8_lossy(&output.stderr));
}
