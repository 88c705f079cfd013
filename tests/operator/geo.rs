//! Conditions on where clients belong, by databases that only the daemon reads.

use std::path::Path;

use serde_json::json;

use crate::attach;
use crate::harness::mmdb::{Said, database};
use crate::harness::{Daemon, SquidHelper, Stage, wait_until};

const RULES: &str = "[[rule]]\nname = 'far'\npath = '^/far'\nmaxretry = 1\nasn = [64496]\n\
    [[rule]]\nname = 'login'\nevent = 'incident'\nmaxretry = 1\nscope = 'mail'\nnot_country = ['DE']\n";

/// Replaces a file as a downloader does.
pub(super) fn replace(file: &Path, bytes: &[u8]) {
    let new = file.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, file).unwrap();
}

pub(super) fn asns() -> Vec<u8> {
    database(&[("198.18.0.0/16", Said::Asn(64496)), ("198.19.0.0/16", Said::Asn(64497)), ("2001:db8::/32", Said::Asn(64496))])
}

pub(super) fn countries() -> Vec<u8> {
    database(&[("198.18.0.0/16", Said::Country("DE")), ("198.19.0.0/16", Said::Country("FR")), ("2001:db8::/32", Said::Country("DE"))])
}

/// A stage with databases, and the configuration that names them.
pub(super) fn stage() -> (Stage, String) {
    let stage = Stage::new();
    let (asn, country) = (stage.path("asn.mmdb"), stage.path("country.mmdb"));
    replace(&asn, &asns());
    replace(&country, &countries());
    let geo = format!("[geo]\nasn = {asn:?}\ncountry = {country:?}\n");
    (stage, geo)
}

fn fault(daemon: &Daemon) -> Option<String> {
    let status = daemon.json(&["status"]);
    Some(status.pointer("/geo/0/fault")?.as_str()?.to_owned())
}

#[test]
fn a_rule_concerns_only_clients_that_belong_where_it_says() {
    let (stage, geo) = stage();
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}{RULES}"));
    let mut helper = attach(&daemon);
    for (client, is_refused) in [("198.19.0.1", false), ("203.0.113.1", false), ("198.18.0.1", true), ("2001:db8:1::1", true)] {
        assert_eq!(helper.get(client, "/far").starts_with("OK"), is_refused, "{client}");
    }
    assert!(!helper.refuses("198.18.0.2"), "only the path is an offence");
    for (client, answer) in [("198.18.7.1", "accept\n"), ("203.0.113.1", "accept\n"), ("198.19.7.1", "defer rule=login")] {
        assert!(daemon.ask(&format!("strike {client} login\n")).starts_with(answer), "{client}");
    }
    let status = daemon.json(&["status"]);
    assert_eq!(
        (&status["geo"][0]["kind"], &status["geo"][0]["networks"], &status["geo"][0]["fault"]),
        (&json!("asn"), &json!(3), &json!(null))
    );
    assert_eq!((&status["geo"][1]["kind"], &status["geo"][1]["networks"]), (&json!("country"), &json!(3)));
    let metrics = daemon.text(&["metrics"]);
    for line in ["strikeout_geo_networks{database=\"asn\"} 3", "strikeout_geo_usable{database=\"country\"} 1"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn a_request_that_a_page_sent_is_not_refused_for_where_its_client_may_belong() {
    let (stage, geo) = stage();
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}{RULES}"));
    let mut helper = attach(&daemon);
    let ask = |helper: &mut SquidHelper, client: &str| helper.ask(&format!("{client} GET http://a.example/far x cross-site -"));
    assert_eq!(ask(&mut helper, "198.19.0.1"), "ERR");
    assert!(ask(&mut helper, "198.18.0.1").contains("rule_=far"), "the daemon says where it belongs");
    assert!(daemon.json(&["list"]).as_array().unwrap().is_empty(), "a page may be to blame");
}

#[test]
fn probes_that_a_page_may_have_sent_count_also_where_the_daemon_had_to_be_asked() {
    let (stage, geo) = stage();
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}{RULES}[[rule]]\nname = 'page-probes'\nmaxretry = 3\nmode = 'enforce'\n"));
    let mut helper = attach(&daemon);
    let mut ask = |client: &str| helper.ask(&format!("{client} GET http://a.example/far x cross-site -"));
    assert_eq!(ask("198.19.0.1"), "ERR");
    // The first was asked about; the answer is known for the others.
    for _ in 0..3 {
        assert!(ask("198.18.0.1").contains("rule_=far"));
    }
    wait_until("the third probe bans", || daemon.ask("why 198.18.0.1").contains("page-probes"));
    assert!(!daemon.ask("why 198.19.0.1").contains("page-probes"), "it belongs elsewhere");
}

#[test]
fn a_denied_system_or_country_is_refused_everywhere_but_for_those_never_banned() {
    let (stage, geo) = stage();
    let lists = |deny: &str| format!("{geo}[defaults]\nignoreip = ['198.18.0.99']\ndeny = [{deny}]\n");
    let daemon = Daemon::start_on(&stage, "", &lists("'AS64496', 'country:FR'"));
    let mut helper = attach(&daemon);
    for (client, is_refused) in
        [("198.18.0.1", true), ("198.18.0.99", false), ("198.19.0.1", true), ("2001:db8:1::1", true), ("203.0.113.1", false)]
    {
        assert_eq!(helper.refuses(client), is_refused, "{client}");
        assert_eq!(helper.refuses(client), is_refused, "{client}, from what the helper knows now");
        assert_eq!(daemon.ask(&format!("check {client}\n")).starts_with("defer rule=deny-list"), is_refused, "{client}");
    }
    let many: String = (0..100).map(|number| format!("{number} 198.18.7.{} GET / x - -\n", number % 10)).collect();
    helper.send(many.as_bytes());
    let answers = helper.lines(100);
    let served: Vec<&String> = answers.iter().filter(|answer| !answer.contains(" OK ban_=yes")).collect();
    assert!(served.is_empty(), "many queries of a client share an answer: {served:?}");
    let text = daemon.text(&["why", "198.18.0.1"]);
    for expected in ["belongs to AS64496, DE", "AS64496 (deny in "] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }

    replace(&stage.path("asn.mmdb"), &database(&[("203.0.113.0/24", Said::Asn(64496))]));
    wait_until("the helper hears of the new database", || helper.refuses("203.0.113.1") && !helper.refuses("2001:db8:1::1"));
    daemon.configure(&lists(""));
    daemon.text(&["reload"]);
    wait_until("nobody is refused any more", || !helper.refuses("203.0.113.1") && !helper.refuses("198.19.0.1"));
}

#[test]
fn a_deny_file_may_name_systems_and_countries_and_needs_a_database_for_them() {
    let (stage, geo) = stage();
    let deny = stage.path("deny.txt");
    std::fs::write(&deny, "203.0.113.9\nAS64496 # a provider\ncountry:FR\n").unwrap();
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}[defaults]\ndeny = [{deny:?}]\n"));
    let mut helper = attach(&daemon);
    assert!(["198.18.0.1", "198.19.0.1", "203.0.113.9"].iter().all(|client| helper.refuses(client)));
    assert!(!helper.refuses("203.0.113.1"));
    let text = daemon.text(&["why", "198.18.0.1"]);
    assert!(text.contains(&format!("AS64496 ({}): always refused", deny.display())), "{text}");
    std::fs::write(&deny, "203.0.113.9\n\nAS64497\n").unwrap();
    daemon.text(&["reload"]);
    wait_until("the new list is in force", || helper.refuses("198.19.0.1") && !helper.refuses("198.18.0.1"));
    // Without a database, and in a list that takes networks alone.
    for (config, expected) in [
        (format!("[defaults]\ndeny = [{deny:?}]\n"), ":3: found AS64497 without a database, expected asn in [geo] as well"),
        (format!("{geo}[defaults]\nignoreip = [{deny:?}]\n"), ":3: found AS64497 in a list of ignoreip, expected networks: systems and"),
    ] {
        daemon.configure(&config);
        let (_, fault, code) = daemon.run(&["reload"]);
        assert!(code == Some(1) && fault.contains(&format!("{}{expected}", deny.display())), "{fault}");
    }
}

#[test]
fn a_helper_whose_daemon_is_gone_refuses_those_that_it_knows_and_answers_others_by_on_failure() {
    let (stage, geo) = stage();
    let daemon = Daemon::start_on(&stage, "on_failure = 'deny'", &format!("{geo}[defaults]\ndeny = ['AS64496']\n"));
    let mut helper = attach(&daemon);
    assert!(helper.refuses("198.18.0.1") && !helper.refuses("203.0.113.1"));
    daemon.end(rustix::process::Signal::KILL);
    helper.logs("cannot be reached");
    assert!(helper.get("198.18.0.1", "/").contains("rule_=deny-list"), "known");
    assert_eq!(helper.get("203.0.113.1", "/"), "ERR", "known");
    assert!(helper.get("203.0.113.2", "/").contains("rule_=on-failure"), "not known");
}

#[test]
fn a_changed_database_is_used_at_once_and_a_broken_one_leaves_the_last_good_one() {
    let (stage, geo) = stage();
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}{RULES}"));
    let file = stage.path("asn.mmdb");
    let mut helper = attach(&daemon);
    assert_eq!(helper.get("198.19.0.1", "/far"), "ERR");
    replace(&file, &database(&[("198.19.0.0/16", Said::Asn(64496))]));
    wait_until("the new database is in use", || daemon.json(&["status"])["geo"][0]["networks"] == json!(1));
    assert!(helper.get("198.19.0.1", "/far").starts_with("OK"));
    assert_eq!(helper.get("198.18.0.1", "/far"), "ERR");

    let whole = asns();
    for (what, bytes) in [("cut", &whole[..whole.len() / 2]), ("empty", b""), ("something else", b"<html>429</html>")] {
        replace(&file, bytes);
        wait_until("it is noticed", || fault(&daemon).is_some_and(|fault| fault.starts_with("found a damaged database")));
        assert!(helper.get(&format!("198.19.1.{}", what.len()), "/far").starts_with("OK"), "{what}: the last good one is in use");
        replace(&file, &database(&[("198.19.0.0/16", Said::Asn(64496)), ("198.18.0.0/16", Said::Asn(1))]));
        wait_until("a good one is taken", || fault(&daemon).is_none());
    }
    std::fs::remove_file(&file).unwrap();
    wait_until("it is noticed", || fault(&daemon).is_some_and(|fault| fault.starts_with("cannot be read: No such file")));
    assert!(helper.get("198.19.3.1", "/far").starts_with("OK"));
    let text = daemon.text(&["status"]);
    assert!(text.contains("No such file or directory (os error 2); the last good one stays in use"), "{text}");
    let (doctor, _, _) = daemon.run(&["doctor"]);
    assert!(doctor.contains(&format!("the database {} (asn) cannot be used, the last good one stays in use", file.display())), "{doctor}");
    assert!(daemon.text(&["metrics"]).contains("strikeout_geo_usable{database=\"asn\"} 0"));
    assert!(daemon.text(&["reload"]).starts_with("reloaded"));
    assert!(helper.get("198.19.3.2", "/far").starts_with("OK"), "also after a reload");
}

#[test]
fn a_database_that_has_shrunk_to_nothing_is_taken_only_by_a_reload() {
    let (stage, geo) = stage();
    let file = stage.path("asn.mmdb");
    let networks: Vec<String> = (0..100).map(|number| format!("198.18.{number}.0/24")).collect();
    let networks: Vec<(&str, Said<'_>)> = networks.iter().map(|network| (network.as_str(), Said::Asn(64496))).collect();
    replace(&file, &database(&networks));
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}{RULES}"));
    replace(&file, &database(&networks[..2]));
    wait_until("it is noticed", || fault(&daemon).is_some_and(|fault| fault.starts_with("found 2 networks where the one in use has 100;")));
    assert_eq!(daemon.json(&["status"])["geo"][0]["networks"], json!(100));
    daemon.text(&["reload"]);
    assert_eq!((fault(&daemon), &daemon.json(&["status"])["geo"][0]["networks"]), (None, &json!(2)));
}

#[test]
fn without_a_usable_database_nobody_is_refused_and_the_daemon_runs() {
    let (stage, geo) = stage();
    std::fs::write(stage.path("asn.mmdb"), b"").unwrap();
    std::fs::remove_file(stage.path("country.mmdb")).unwrap();
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}{RULES}"));
    let mut helper = attach(&daemon);
    assert_eq!(helper.get("198.18.0.1", "/far"), "ERR");
    assert_eq!(daemon.ask("strike 198.19.7.1 login\n"), "accept\n", "not_country of what is not known");
    assert!(fault(&daemon).is_some());
    replace(&stage.path("asn.mmdb"), &asns());
    wait_until("it is used as soon as it is there", || fault(&daemon).is_none());
    assert!(helper.get("198.18.0.2", "/far").starts_with("OK"));
}

#[test]
fn a_helper_with_its_own_table_and_check_say_that_such_rules_match_nobody_there() {
    let (stage, geo) = stage();
    stage.configure("", &format!("{geo}[defaults]\ndeny = ['AS64496']\n{RULES}"));
    let config = stage.config();
    let mut helper = SquidHelper::start(&["--config", config.to_str().unwrap()]).until_ready();
    assert_eq!(helper.get("198.18.0.1", "/far"), "ERR");
    let warning = "this matches nobody in a helper with a table of its own: far, login, AS64496 in deny: only the daemon reads [geo]";
    helper.logs(warning);
    let output = std::process::Command::new(crate::harness::STRIKEOUT).args(["check", "--config"]).arg(&config).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(warning) && text.contains("asn.mmdb: 3 networks\n"), "{text}");
}

const CROWD: &str = "[defaults]\nignoreip = ['198.18.0.99']\n\
    [[rule]]\nname = 'crowd'\npath = '^/x'\ncount_by = 'asn'\nmembers = 5\nmaxretry = 10\nrefuse = 'ban'\nscope = 'web'\n";

/// Requests by five clients of AS64496 in five networks, of which the last bans it.
fn crowd(helper: &mut SquidHelper) {
    for number in 0..10 {
        let answer = helper.get(&format!("198.18.{}.1", number % 5), "/x");
        assert_eq!(answer.starts_with("OK"), number == 9, "request {number}: {answer}");
    }
}

#[test]
fn a_crowd_of_one_system_is_banned_as_one_entry_that_outlives_kill_9_until_it_is_unbanned() {
    let (stage, geo) = stage();
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}{CROWD}"));
    let mut helper = attach(&daemon);
    assert!(!helper.refuses("198.18.200.1") && !helper.refuses("2001:db8:7::1"));
    crowd(&mut helper);
    wait_until("the helper refuses the system", || helper.refuses("198.18.200.1"));
    assert!(helper.get("2001:db8:7::1", "/").contains("rule_=crowd"), "also over IPv6");
    for served in ["198.18.0.99", "198.19.0.1", "203.0.113.1"] {
        assert!(!helper.refuses(served), "{served}");
    }
    assert_eq!(daemon.ask("check 198.18.200.1\n"), "accept\n", "its scope is the web");

    let list = daemon.json(&["list", "--evidence"]);
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!((&list[0]["client"], &list[0]["rule"], &list[0]["scope"]), (&json!("AS64496"), &json!("crowd"), &json!("web")));
    for (target, expected) in [
        (
            "198.18.200.1",
            &["belongs to AS64496, DE", "AS64496 is banned by crowd (scope web)", "such as 198.18.", "strikeout unban AS64496"][..],
        ),
        ("AS64496", &["AS64496 is banned by crowd", "5 clients or more", "strikeout unban AS64496"][..]),
    ] {
        let text = daemon.text(&["why", target]);
        for expected in expected {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }
    assert!(daemon.text(&["metrics"]).contains("strikeout_banned_networks 1"));
    let nft = daemon.text(&["list", "--format", "nft"]);
    assert!(!nft.contains("AS64496"), "{nft}");

    daemon.end(rustix::process::Signal::KILL);
    let daemon = Daemon::start_again(&stage);
    wait_until("the helper is attached again", || daemon.json(&["status"]).get("subscribers") == Some(&json!(1)));
    assert!(helper.get("198.18.200.1", "/").contains("rule_=crowd"));
    assert!(daemon.json(&["list"]).to_string().contains("AS64496"), "the state file has it");
    assert!(daemon.text(&["unban", "AS64496"]).contains("unbanned AS64496"));
    wait_until("the helper serves the system again", || !helper.refuses("198.18.200.1"));
    assert_eq!(daemon.json(&["list"]), json!([]));
    let (_, _, code) = daemon.run(&["why", "AS64496"]);
    assert_eq!(code, Some(0));
}

#[test]
fn a_crowd_in_shadow_mode_is_shown_and_served_and_without_a_database_nothing_is_counted() {
    let (stage, geo) = stage();
    let shadow = CROWD.replace("scope = 'web'", "mode = 'shadow'");
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}{shadow}"));
    let mut helper = attach(&daemon);
    for number in 0..10 {
        assert_eq!(helper.get(&format!("198.18.{}.1", number % 5), "/x"), "ERR");
    }
    let list = daemon.json(&["list", "--shadow"]);
    assert_eq!((&list[0]["client"], &list[0]["rule"]), (&json!("AS64496"), &json!("crowd")), "{list}");
    let text = daemon.text(&["why", "198.18.200.1"]);
    assert!(text.contains("crowd would refuse AS64496"), "{text}");

    let (stage, geo) = self::stage();
    std::fs::remove_file(stage.path("asn.mmdb")).unwrap();
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}{CROWD}"));
    let mut helper = attach(&daemon);
    for number in 0..20 {
        assert_eq!(helper.get(&format!("198.18.{}.1", number % 5), "/x"), "ERR");
    }
    assert_eq!(daemon.json(&["list"]), json!([]));
}

#[test]
fn a_replay_reads_the_databases_and_counts_by_system() {
    let (stage, geo) = stage();
    stage.configure("", &format!("{geo}{CROWD}[[rule]]\nname = 'far'\npath = '^/far'\nmaxretry = 1\nnot_country = ['DE']\n"));
    let line = |client: &str, second: usize, path: &str| {
        format!("{client} - - [23/Nov/2026:03:00:{second:02} +0000] \"GET {path} HTTP/1.1\" 200 9 \"-\" \"-\"\n")
    };
    let crowd: String = (0..10).map(|number| line(&format!("198.18.{}.1", number % 5), number, "/x")).collect();
    let later = line("198.18.200.1", 20, "/")
        + &line("198.19.0.1", 21, "/far")
        + &line("198.18.0.99", 22, "/far")
        + &line("203.0.113.1", 23, "/far");
    let log = stage.write("access.log", &(crowd + &later));
    let output = std::process::Command::new(crate::harness::STRIKEOUT)
        .args(["replay", "--json", "--config"])
        .arg(stage.config())
        .arg(log)
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let crowd = report["crowds"].as_array().unwrap();
    assert_eq!(
        crowd.iter().map(|crowd| (&crowd["network"], &crowd["members"])).collect::<Vec<_>>(),
        [(&json!("AS64496"), &json!(5))],
        "{report}"
    );
    let far = report["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == "far").unwrap();
    assert_eq!(far["bans"], json!(1), "only of the client that is known to be elsewhere: {far}");
}

#[test]
fn the_hook_is_told_of_a_system_and_of_a_country_as_of_a_network() {
    let (stage, geo) = stage();
    let told = stage.path("told");
    let hook = stage.write("hook", &format!("#!/bin/sh\necho \"$@\" >> {told:?}\n"));
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}{CROWD}[hook]\ncommand = [{hook:?}]\nqueue = 10\nat_once = 1\n"));
    let mut helper = attach(&daemon);
    crowd(&mut helper);
    let has = |text: &str| std::fs::read_to_string(&told).is_ok_and(|told| told.contains(text));
    wait_until("the hook is told of the ban", || has("ban AS64496 crowd "));
    daemon.text(&["unban", "AS64496"]);
    wait_until("the hook is told of the unban", || has("unban AS64496"));
    daemon.text(&["ban", "country:fr"]);
    wait_until("the hook is told of the country", || has("ban country:FR manual "));
    daemon.text(&["unban", "country:FR"]);
    wait_until("the hook is told of its unban", || has("unban country:FR"));
}
