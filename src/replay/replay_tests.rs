//! Replays of small logs, from the lines to the report.

use super::command::{ReplayArguments, run_with};
use super::page;
use super::report::Report;
use serde_json::Value;
use std::path::PathBuf;

struct World {
    folder: tempfile::TempDir,
    logs: Vec<PathBuf>,
    config: String,
}

impl World {
    fn new(config: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), logs: Vec::new(), config: config.into() }
    }

    fn log(mut self, name: &str, lines: &[&str]) -> Self {
        let path = self.folder.path().join(name);
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        self.logs.push(path);
        self
    }

    /// Standard output, standard error, and whether everything was read and written.
    fn run(&self, json: bool, html: bool) -> (String, String, bool) {
        let config = self.folder.path().join("strikeout.toml");
        std::fs::write(&config, &self.config).unwrap();
        let args = ReplayArguments {
            config: Some(config),
            json,
            html: html.then(|| self.folder.path().join("page.html")),
            zone: Some("UTC".into()),
            logs: self.logs.clone(),
        };
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let done = run_with(&args, &mut output, &mut errors).unwrap();
        (String::from_utf8(output).unwrap(), String::from_utf8(errors).unwrap(), done)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.run(true, false).0).unwrap()
    }

    fn page(&self) -> String {
        self.run(false, true);
        std::fs::read_to_string(self.folder.path().join("page.html")).unwrap()
    }
}

/// A line of an access log, `second` seconds after a fixed time.
fn request(second: u32, client: &str, path: &str, status: u16) -> String {
    let (minute, second) = (second / 60, second % 60);
    format!(r#"{client} - - [23/Nov/2026:01:{minute:02}:{second:02} +0000] "GET {path} HTTP/1.1" {status} 12 "-" "agent""#)
}

fn rule<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == name).unwrap_or_else(|| panic!("{name} matched nothing"))
}

#[test]
fn a_scanner_is_banned_at_its_first_probe_and_refused_afterwards() {
    let lines = [
        request(0, "198.51.100.1", "/w00tw00t", 404),
        request(1, "198.51.100.1", "/w00tw00t", 404),
        request(2, "198.51.100.1", "/", 404),
        request(3, "198.51.100.2", "/", 200),
    ];
    let report = World::new("").log("access.log", &lines.each_ref().map(String::as_str)).json();
    let rule = rule(&report, "w00tw00t");
    assert_eq!((&rule["offences"], &rule["bans"], &rule["refused"]), (&1.into(), &1.into(), &3.into()));
    assert_eq!((&rule["clients"], &rule["clients_good"], &rule["over_limit"]), (&1.into(), &0.into(), &false.into()));
    assert_eq!(report["total"]["refused"], 3);
    assert_eq!((&report["clients"][0]["client"], &report["clients"][0]["refused"]), (&"198.51.100.1".into(), &3.into()));
    assert_eq!(report["networks"][0]["network"], "198.51.100.0/24");
    assert_eq!((&report["from"], &report["until"]), (&"2026-11-23T01:00:00Z".into(), &"2026-11-23T01:00:03Z".into()));
}

#[test]
fn a_rule_that_bans_clients_that_look_good_exceeds_the_false_positive_limit() {
    let mut lines: Vec<String> = (0..5).map(|second| request(second, "198.51.100.1", "/page", 200)).collect();
    lines.push(request(5, "198.51.100.1", "/feed", 200));
    lines.extend((6..9).map(|second| request(second, "198.51.100.1", "/page", 200)));
    let config = "[[rule]]\nname = 'too-wide'\npath = '^/feed$'\nmaxretry = 1";
    let world = World::new(config).log("access.log", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let report = world.json();
    let rule = rule(&report, "too-wide");
    assert_eq!(
        (&rule["clients_good"], &rule["refused"], &rule["refused_good"]),
        (&1.into(), &4.into(), &4.into()),
        "the feed itself was served as well"
    );
    assert_eq!((&rule["over_limit"], &report["false_positives"]["over"][0]), (&true.into(), &"too-wide".into()));
    assert_eq!((&report["total"]["banned_good"], &report["total"]["refused_good"]), (&1.into(), &4.into()));
    let text = world.run(false, false).0;
    assert!(
        text.contains("rule \"too-wide\" exceeds the false-positive limit of 1 %: 1 of the 1 clients that it banned look good."),
        "{text}"
    );
    assert!(text.contains("mode = \"shadow\""), "{text}");
    let generous = World { config: format!("[defaults]\nfalse_ban_share = 1.0\n{config}"), ..world };
    assert!(generous.run(false, false).0.contains("No rule exceeds the false-positive limit of 100 %."));
}

#[test]
fn an_authenticated_client_looks_good_and_one_with_a_wrong_password_does_not() {
    let probe = request(0, "198.51.100.1", "/w00tw00t", 404);
    for (status, good) in [(200, 1), (401, 0)] {
        let with_name = request(1, "198.51.100.1", "/", status).replace("- - [", "- anna [");
        let report = World::new("").log("access.log", &[&probe, &with_name]).json();
        assert_eq!(rule(&report, "w00tw00t")["clients_good"], good, "{status}");
        assert_eq!(report["clients"][0]["authenticated"], good == 1);
    }
}

#[test]
fn a_shadow_rule_is_reported_as_if_it_were_enforced_and_left_out_of_the_totals() {
    let lines = [request(0, "198.51.100.1", "/w00tw00t", 404), request(1, "198.51.100.1", "/", 200)];
    let config = "[[rule]]\nname = 'w00tw00t'\nmode = 'shadow'";
    let report = World::new(config).log("access.log", &lines.each_ref().map(String::as_str)).json();
    let rule = rule(&report, "w00tw00t");
    assert_eq!((&rule["mode"], &rule["bans"], &rule["refused"]), (&"shadow".into(), &1.into(), &2.into()));
    assert_eq!((&report["total"]["bans"], &report["total"]["shadow_bans"], &report["total"]["refused"]), (&0.into(), &1.into(), &0.into()));
}

#[test]
fn rates_and_responses_count_as_they_do_in_squid() {
    let lines: Vec<String> = (0..20).map(|second| request(second, "198.51.100.1", "/x", if second < 5 { 404 } else { 200 })).collect();
    let config = "[[rule]]\nname = 'rate'\nevent = 'request'\nmaxretry = 10\nfindtime = '1m'\n[[rule]]\nname = 'missing'\nstatus = 404\nmaxretry = 5\nmode = 'shadow'";
    let report = World::new(config).log("access.log", &lines.iter().map(String::as_str).collect::<Vec<_>>()).json();
    assert_eq!((&rule(&report, "rate")["bans"], &rule(&report, "rate")["refused"]), (&1.into(), &10.into()));
    assert!(report.to_string().contains("one request of many: GET /x"), "the evidence is the request that made the ban: {report}");
    assert_eq!((&rule(&report, "missing")["offences"], &rule(&report, "missing")["bans"]), (&5.into(), &1.into()));
}

#[test]
fn events_of_never_banned_clients_are_reported_as_spared() {
    let probe = request(0, "198.51.100.1", "/w00tw00t", 404);
    let report = World::new("[defaults]\nignoreip = ['198.51.100.0/24']").log("access.log", &[&probe]).json();
    let rule = rule(&report, "w00tw00t");
    assert_eq!((&rule["spared"], &rule["bans"], &rule["offences"]), (&1.into(), &0.into(), &0.into()));
}

#[test]
fn mail_logs_and_web_logs_share_one_table() {
    let web = [request(0, "198.51.100.1", "/w00tw00t", 404)];
    let refused = "Connection from [198.51.100.7] refused: too many connections from that IP address";
    let mail = [
        "2026-11-23 00:59:00 1tE000-00000003abc-1A2b <= a@b.example H=x [198.51.100.1] P=esmtp S=7".to_owned(),
        "2026-11-23 01:00:05 H=(x) [198.51.100.1] F=<a@b> rejected RCPT <c@d>: no".to_owned(),
        format!("2026-11-23 01:00:06 {refused}"),
        format!("2026-11-23 01:00:07 {refused}"),
        "2026-11-23 01:00:08 H=[198.51.100.9] temporarily rejected connection in \"connect\" ACL: strikeout: defer".to_owned(),
    ];
    let world = World::new("[[rule]]\nname = 'w00tw00t'\nscope = 'all'")
        .log("mainlog", &mail.each_ref().map(String::as_str))
        .log("access.log", &web.each_ref().map(String::as_str));
    let report = world.json();
    assert_eq!(rule(&report, "w00tw00t")["refused"], 2, "the probe, and the mail five seconds later");
    assert_eq!((&rule(&report, "exim-per-host")["bans"], &rule(&report, "exim-per-host")["refused"]), (&1.into(), &1.into()));
    assert_eq!((&report["total"]["mail"], &report["total"]["refused_before"]), (&5.into(), &1.into()));
}

#[test]
fn a_rule_in_fail2bans_language_judges_the_log_that_the_configuration_gives_it() {
    let config =
        "[[rule]]\nname = 'badd'\nfailregex = 'badd: refused <HOST>$'\nmaxretry = 2\n[[log]]\npath = '/var/log/badd.log'\nrules = ['badd']";
    let lines = ["2026-11-23 01:02:03 badd: refused 198.51.100.1", "2026-11-23 01:02:04 badd: refused 198.51.100.1", "something else"];
    let report = World::new(config).log("badd.log.1", &lines).json();
    assert_eq!((&rule(&report, "badd")["offences"], &rule(&report, "badd")["bans"]), (&2.into(), &1.into()));
    assert_eq!(report["total"]["unread"], 1);
}

#[test]
fn a_damaged_log_is_read_as_far_as_possible_and_reported() {
    let mut world = World::new("").log("access.log", &[&request(0, "198.51.100.1", "/w00tw00t", 404)]);
    let packed = world.folder.path().join("old.log.zst");
    let mut bytes = zstd::encode_all(&request(1, "198.51.100.2", "/w00tw00t", 404).repeat(100).into_bytes()[..], 1).unwrap();
    bytes.truncate(bytes.len() - 5);
    std::fs::write(&packed, bytes).unwrap();
    world.logs.push(packed);
    let (text, _, done) = world.run(false, false);
    assert!(!done && text.contains("warning: ") && text.contains("old.log.zst: read up to line"), "{text}");
}

#[test]
fn local_times_are_in_the_zone_of_their_log_or_in_the_one_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let line = "2026-11-23 01:02:03 Connection from [203.0.113.9] refused: too many connections from that IP address\n";
    for name in ["mainlog", "mainlog.1", "other"] {
        std::fs::write(path(name), line).unwrap();
    }
    let config = format!("[[log]]\npath = {:?}\nrules = ['exim-per-host']\nzone = '+05:30'\n", path("mainlog"));
    std::fs::write(path("strikeout.toml"), config).unwrap();
    let first = |log: &str, zone: Option<&str>| {
        let args = ReplayArguments {
            config: Some(path("strikeout.toml")),
            json: true,
            html: None,
            zone: zone.map(Into::into),
            logs: vec![path(log)],
        };
        let mut output = Vec::new();
        run_with(&args, &mut output, &mut Vec::new()).unwrap();
        serde_json::from_slice::<Value>(&output).unwrap()["from"].as_str().unwrap().to_owned()
    };
    for log in ["mainlog", "mainlog.1"] {
        assert_eq!(first(log, None), "2026-11-22T19:32:03Z", "{log}");
    }
    assert_eq!(first("mainlog", Some("UTC")), "2026-11-23T01:02:03Z");
    assert_eq!(first("other", Some("-02:00")), "2026-11-23T03:02:03Z");
}

#[test]
fn a_copy_that_may_belong_to_logs_of_different_zones_needs_a_zone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("mainlog"), "").unwrap();
    let fails = |zones: [&str; 2], asked_for: Option<&str>| {
        let log = |(folder, zone)| format!("[[log]]\npath = '/nowhere/{folder}/mainlog'\nrules = ['exim-per-host']\n{zone}\n");
        std::fs::write(path("strikeout.toml"), ["a", "b"].into_iter().zip(zones).map(log).collect::<String>()).unwrap();
        let args = ReplayArguments {
            config: Some(path("strikeout.toml")),
            json: true,
            html: None,
            zone: asked_for.map(Into::into),
            logs: vec![path("mainlog")],
        };
        run_with(&args, &mut Vec::new(), &mut Vec::new()).err().map(|error| error.to_string())
    };
    let error = fails(["zone = 'UTC'", ""], None).unwrap();
    let expected = "found the name of /nowhere/a/mainlog (zone: UTC) and of /nowhere/b/mainlog (zone: this machine's), expected --zone or the log's own path";
    assert!(error.ends_with(expected), "{error}");
    assert_eq!(fails(["zone = 'UTC'", ""], Some("UTC")), None);
    assert_eq!(fails(["zone = '+05:30'"; 2], None), None);
}

#[test]
fn an_error_names_the_file_or_option_that_cannot_be_used() {
    let world = World::new("[table]\nclients = 0").log("access.log", &[]);
    let config = world.folder.path().join("strikeout.toml");
    std::fs::write(&config, &world.config).unwrap();
    let args = |config: Option<PathBuf>, logs: Vec<PathBuf>, zone: &str| ReplayArguments {
        config,
        json: false,
        html: None,
        zone: Some(zone.into()),
        logs,
    };
    let fails = |args: &ReplayArguments| run_with(args, &mut Vec::new(), &mut Vec::new()).unwrap_err().to_string();
    assert!(fails(&args(Some(config), world.logs.clone(), "UTC")).contains("strikeout.toml:2: found clients = 0, expected 1 to"));
    let empty = world.folder.path().join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    assert!(fails(&args(Some(empty.clone()), vec!["/no/such/log".into()], "UTC")).starts_with("/no/such/log: "));
    assert!(fails(&args(Some(empty), world.logs.clone(), "Mars/Olympus")).contains("found time zone \"Mars/Olympus\""));
}

#[test]
fn an_empty_log_gives_an_empty_report() {
    let world = World::new("").log("access.log", &["", "what is this?"]);
    let report = world.json();
    assert_eq!((&report["total"]["lines"], &report["total"]["unread"], &report["from"]), (&2.into(), &2.into(), &Value::Null));
    assert!(world.page().contains("These rules would have banned nobody."));
}

#[test]
fn nothing_in_a_log_becomes_markup_and_the_page_loads_nothing() {
    let path = "/w00tw00t</script><script>alert(1)</script><img/src=//evil.example/>&\\\"'";
    let page = World::new("").log("<b>.log", &[&request(0, "198.51.100.1", path, 404)]).page();
    assert!(page.contains("&lt;/script&gt;") && page.contains("&lt;b&gt;.log"));
    assert_eq!(page.matches("<script").count(), 2, "the numbers and the script");
    assert!(!page.contains("<img") && !page.contains("<b>.log"));
    for outside in ["http://", "https://", "src=", "url(", "@import", "<link rel=stylesheet"] {
        let outside_of_evidence = page.replace("src=//evil.example", "");
        assert!(!outside_of_evidence.contains(outside), "{outside}");
    }
}

#[test]
fn the_json_and_the_page_show_the_same_numbers() {
    let lines = [request(0, "198.51.100.1", "/w00tw00t", 404), request(1, "198.51.100.1", "/", 404)];
    let world = World::new("").log("access.log", &lines.each_ref().map(String::as_str));
    assert!(world.page().contains("These rules would have banned 1 client and refused 2 of 2 events. None of these clients looks good."));
    assert_eq!(world.json()["total"]["banned_clients"], 1);
    let _: fn(&Report) -> String = page::html;
}

#[test]
fn a_crowd_is_shown_with_its_members_and_what_would_be_refused_over_time() {
    let mut lines = Vec::new();
    for number in 0..600_u32 {
        let from_page = |line: String, page: &str| line.replace("\"-\" \"agent\"", &format!("\"{page}\" \"agent\""));
        lines.push(request(number / 4, &format!("198.51.{}.{}", number % 200, number / 200), &format!("/page/{number}"), 200));
        // A university: as many clients, whose browsers load a picture with the page.
        let student = format!("203.0.{}.{}", number % 200, number / 200);
        lines.push(request(number / 4, &student, "/", 200));
        lines.push(from_page(request(number / 4, &student, "/picture.png", 200), "http://www.example.org/"));
    }
    let world = World::new("").log("access.log", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let report = world.json();
    let crowds = report["crowds"].as_array().unwrap();
    assert_eq!(crowds.len(), 1, "{crowds:?}");
    let crowd = &crowds[0];
    assert_eq!((&crowd["network"], &crowd["rule"], &crowd["mode"]), (&"198.51.0.0/16".into(), &"crowd-requests".into(), &"shadow".into()));
    assert_eq!(
        (&crowd["members"], &crowd["bans"], &crowd["refused"], &crowd["clients_good"]),
        (&200.into(), &1.into(), &300.into(), &0.into())
    );
    assert_eq!(crowd["spark"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap()).sum::<u64>(), 300);
    assert_eq!(report["total"]["refused"], 0, "in shadow mode");
    let page = world.page();
    assert!(page.contains("<h2>Crowds</h2>") && page.contains("198.51.0.0/16"));
    let enforced = World::new("[[rule]]\nname = 'crowd-requests'\nmode = 'enforce'\n")
        .log("access.log", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let report = enforced.json();
    assert_eq!((&report["total"]["refused"], &report["crowds"][0]["refused"]), (&300.into(), &300.into()));
}
