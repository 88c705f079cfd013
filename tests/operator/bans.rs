//! `list`, `ban` and `unban`.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{self, Daemon, Namespace, wait_until};
use crate::{RULES, attach, row};

#[test]
fn list_filters_sorts_and_counts() {
    let daemon = Daemon::start(RULES);
    assert_eq!(daemon.text(&["list"]), "no bans\n");
    daemon.text(&["ban", "203.0.113.10", "2h"]);
    daemon.text(&["ban", "203.0.113.9", "1h", "--scope", "web"]);
    daemon.text(&["ban", "198.51.100.0/24", "-1"]);
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n");
    let clients = |arguments: &[&str]| -> Vec<String> {
        let rows = daemon.json(&[&["list"], arguments].concat());
        rows.as_array().unwrap().iter().map(|row| row["client"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(clients(&[]), ["198.51.100.0/24", "203.0.113.9", "203.0.113.10", "203.0.113.11"]);
    assert_eq!(clients(&["--sort", "until"])[2..], ["203.0.113.10", "198.51.100.0/24"]);
    assert_eq!(clients(&["--sort", "rule"])[0], "203.0.113.11");
    let by_start = daemon.json(&["list", "--sort", "since"]);
    let starts: Vec<i64> = by_start.as_array().unwrap().iter().map(|row| row["since"].as_i64().unwrap()).collect();
    assert!(starts.len() == 4 && starts.is_sorted(), "{starts:?}");
    assert_eq!(clients(&["--rule", "helo"]), ["203.0.113.11"]);
    assert_eq!(clients(&["--network", "203.0.113.8/30"]), ["203.0.113.9", "203.0.113.10", "203.0.113.11"]);
    assert_eq!(clients(&["--network", "198.51.100.7"]), ["198.51.100.0/24"]);
    assert_eq!(clients(&["--scope", "web", "--network", "203.0.113.0/24"]), ["203.0.113.9", "203.0.113.10"]);
    assert_eq!(clients(&["--scope", "mail", "--rule", "manual"]), ["198.51.100.0/24", "203.0.113.10"]);
    assert_eq!(daemon.text(&["list", "--count", "--rule", "manual"]), "3\n");
    assert_eq!(daemon.json(&["list", "--count"]), json!({ "bans": 4 }));
    let text = daemon.text(&["list"]);
    assert_eq!(row(&text, "203.0.113.11")[1..3], ["mail", "helo"]);
    assert_eq!(row(&text, "CLIENT"), ["CLIENT", "SCOPE", "RULE", "SINCE", "UNTIL", "LEFT"]);
    assert!(row(&text, "198.51.100.0/24").join(" ").ends_with("forever -"), "{text}");
    let ban = &daemon.json(&["list", "--rule", "helo"])[0];
    let (since, until) = (ban["since"].as_i64().unwrap(), ban["until"].as_i64().unwrap());
    assert!((3600..=3601).contains(&(until - since)) && (1..=3601).contains(&ban["remaining"].as_i64().unwrap()), "{ban}");
}

#[test]
fn an_unknown_rule_or_command_is_an_error_that_suggests_the_nearest_name() {
    let daemon = Daemon::start(RULES);
    let (_, stderr, code) = daemon.run(&["list", "--rule", "hello"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("found \"hello\", expected the name of a rule; did you mean `helo`?"), "{stderr}");
    let (_, stderr, code) = daemon.run(&["stauts"]);
    assert!(code == Some(2) && stderr.contains("'status'"), "{stderr}");
}

#[test]
fn ban_and_unban_report_what_they_did_and_did_not_do() {
    let daemon = Daemon::start(RULES);
    let output = daemon.text(&["ban", "203.0.113.10", "10m", "--reason", "floods us"]);
    assert!(output.starts_with("banned 203.0.113.10 on the web and in mail until 2") && output.ends_with(" (in 10 min)\n"), "{output}");
    assert_eq!(daemon.json(&["why", "203.0.113.10"])["ban"]["evidence"], "floods us");
    let (_, stderr, code) = daemon.run(&["ban", "203.0.113.99"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("203.0.113.99 is never banned: ignored network 203.0.113.99"), "{stderr}");
    assert_eq!(daemon.text(&["unban", "203.0.113.10"]), "unbanned 203.0.113.10\n");
    assert_eq!(daemon.text(&["unban", "203.0.113.10"]), "203.0.113.10 was not banned\n");
    assert_eq!(
        daemon.json(&["unban", "203.0.113.10"]),
        json!({"target": "203.0.113.10", "found": false, "unbanned": 0, "inside": 0, "still_refused": false, "undo": [], "not_saved": null})
    );
    assert_eq!(
        daemon.json(&["ban", "198.51.100.0/24", "-1"]),
        json!({"banned": "198.51.100.0/24", "until": -1, "remaining": -1, "scope": "all", "not_saved": null})
    );
    let (stdout, stderr, code) = daemon.run(&["unban", "198.51.100.7"]);
    assert_eq!((stdout.as_str(), code), ("198.51.100.7 was not banned\n", Some(3)));
    assert!(stderr.contains("still refused; to change that: strikeout unban 198.51.100.0/24"), "{stderr}");
    for arguments in [&["ban", "everybody"][..], &["ban", "203.0.113.1", "soon"], &["unban", "203.0.113.1", "--scope", "ftp"]] {
        assert_eq!(daemon.run(arguments).2, Some(2), "{arguments:?}");
    }
}

#[test]
fn a_network_with_a_narrower_scope_than_all_is_an_error_and_nothing_is_banned() {
    let daemon = Daemon::start(RULES);
    let (stdout, stderr, code) = daemon.run(&["ban", "198.51.100.0/24", "1d", "--scope", "web"]);
    assert_eq!((stdout.as_str(), code), ("", Some(2)), "{stderr}");
    assert!(stderr.contains("for the network 198.51.100.0/24, expected all"), "{stderr}");
    let answer = daemon.ask("ban 198.51.100.0/24 for=1d scope=web\n");
    assert!(answer.starts_with("error found the scope ") && answer.contains("expected all"), "{answer}");
    assert_eq!(daemon.text(&["list"]), "no bans\n");
}

#[test]
fn a_network_that_is_banned_on_one_service_is_unbanned_there_and_one_banned_on_both_is_not() {
    let daemon = Daemon::start(RULES);
    let listed = |network: &str, scope: &str| json!({"client": network, "scope": scope, "rule": "helo", "until": -1, "remaining": -1});
    let saved = json!([listed("198.51.100.0/24", "web"), listed("198.51.101.0/24", "mail"), listed("2001:db8:1::/48", "web")]);
    let saved = daemon.stage().write("saved.json", &saved.to_string());
    let restore = || assert_eq!(daemon.json(&["ban", "--from", saved.to_str().unwrap()])["banned"], 3);
    restore();
    let (stdout, _, code) = daemon.run(&["unban", "198.51.100.0/24", "--scope", "mail"]);
    assert_eq!((stdout.as_str(), code), ("198.51.100.0/24 was not banned\n", Some(0)));
    assert_eq!(daemon.text(&["unban", "198.51.100.0/24", "--scope", "web"]), "unbanned 198.51.100.0/24\n");
    assert_eq!(daemon.text(&["unban", "2001:db8:1::/48", "--scope", "web"]), "unbanned 2001:db8:1::/48\n");
    assert_eq!(banned(&daemon), ["198.51.101.0/24"]);
    restore();
    assert_eq!(daemon.text(&["unban", "--rule", "helo", "--scope", "web"]), "unbanned rule helo: 2 clients and networks\n");
    assert_eq!(banned(&daemon), ["198.51.101.0/24"]);
    daemon.text(&["ban", "198.51.100.0/24"]);
    let (_, stderr, code) = daemon.run(&["unban", "198.51.100.0/24", "--scope", "web"]);
    assert!(code == Some(1) && stderr.contains("found the scope web, expected all: the ban of 198.51.100.0/24 refuses on"), "{stderr}");
    assert_eq!(daemon.text(&["unban", "198.51.100.0/24"]), "unbanned 198.51.100.0/24\n");
}

#[test]
fn a_part_of_an_ipv6_client_is_not_banned_on_one_service() {
    let daemon = Daemon::start(RULES);
    let (_, stderr, code) = daemon.run(&["ban", "2001:db8:1:2::/80", "--scope", "web"]);
    assert!(code == Some(1) && stderr.contains("found the scope web for the network 2001:db8:1:2::/80, expected all"), "{stderr}");
    assert_eq!(daemon.text(&["list"]), "no bans\n");
    daemon.text(&["ban", "2001:db8:1:2::/64", "--scope", "web"]);
    assert_eq!(banned(&daemon), ["2001:db8:1:2::/64"]);
}

#[test]
fn a_ban_reports_the_end_of_the_ban_in_force() {
    let daemon = Daemon::start(RULES);
    daemon.text(&["ban", "203.0.113.10", "-1"]);
    assert_eq!(daemon.text(&["ban", "203.0.113.10", "1m"]), "banned 203.0.113.10 on the web and in mail forever\n");
    daemon.text(&["ban", "203.0.113.11", "1h", "--scope", "mail"]);
    assert_eq!(daemon.text(&["unban", "203.0.113.11", "--scope", "web"]), "203.0.113.11 was not banned\n");
    assert_eq!(daemon.json(&["list", "--count"]), json!({ "bans": 2 }));
}

/// The clients and networks that are banned.
fn banned(daemon: &Daemon) -> Vec<String> {
    let bans = daemon.json(&["list"]);
    bans.as_array().unwrap().iter().map(|ban| ban["client"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn unban_takes_back_whatever_list_why_and_the_journal_show() {
    let daemon = Daemon::start(RULES);
    let mut helper = attach(&daemon);
    let bans = ["203.0.113.10", "2001:db8:1:2::7", "198.51.100.0/24", "2001:db8:9::/48"];
    for form in 0..3 {
        bans.iter().for_each(|target| _ = daemon.text(&["ban", target]));
        let listed = banned(&daemon);
        assert_eq!(listed, ["198.51.100.0/24", "203.0.113.10", "2001:db8:1:2::/64", "2001:db8:9::/48"]);
        let shown: Vec<String> = match form {
            0 => listed,
            1 => ["203.0.113.10", "2001:db8:1:2::7", "198.51.100.7", "2001:db8:9::1"]
                .iter()
                .map(|address| daemon.json(&["why", address])["undo"][0].as_str().unwrap().split(' ').nth(2).unwrap().to_owned())
                .collect(),
            _ => daemon.log().lines().filter_map(|line| Some(line.split_once("banned ")?.1.split(' ').next()?.to_owned())).collect(),
        };
        let (_, stderr, code) = daemon.run(&[&["unban"], &*shown.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        assert_eq!((stderr.as_str(), code), ("", Some(0)), "{shown:?}");
        assert!(banned(&daemon).is_empty(), "{form}: {shown:?}");
    }
    wait_until("the helper serves", || ["203.0.113.10", "2001:db8:1:2::9", "198.51.100.7"].iter().all(|client| !helper.refuses(client)));
}

#[test]
fn unban_of_a_network_says_what_is_still_banned_inside_it_and_how_to_end_that() {
    let daemon = Daemon::start(RULES);
    for target in ["198.51.100.0/24", "198.51.100.7", "198.51.100.8", "198.51.100.128/25", "198.51.101.1"] {
        daemon.text(&["ban", target]);
    }
    let (stdout, stderr, code) = daemon.run(&["unban", "198.51.100.0/24"]);
    assert_eq!((stdout.as_str(), code), ("unbanned 198.51.100.0/24\n", Some(3)));
    assert!(
        stderr.contains("3 clients inside 198.51.100.0/24 are still banned; to change that: strikeout unban 198.51.100.0/24 --inside"),
        "{stderr}"
    );
    assert_eq!(daemon.text(&["unban", "198.51.100.0/24", "--inside"]), "unbanned 198.51.100.0/24: 3 clients and networks\n");
    assert_eq!(banned(&daemon), ["198.51.101.1"]);
    assert_eq!(daemon.text(&["unban", "198.51.100.0/24", "--inside"]), "198.51.100.0/24 was not banned\n");
}

#[test]
fn unban_of_a_network_says_what_around_it_still_refuses_it_and_a_part_of_an_ipv6_client_is_that_client() {
    let daemon = Daemon::start(RULES);
    let still = |arguments: &[&str], undo: &str| {
        let (stdout, stderr, code) = daemon.run(arguments);
        assert_eq!(code, Some(3), "{arguments:?}: {stdout}{stderr}");
        assert!(stderr.contains(&format!("is still refused; to change that: {undo}")), "{stderr}");
    };
    daemon.text(&["ban", "198.51.0.0/16"]);
    daemon.text(&["ban", "198.51.100.0/24"]);
    still(&["unban", "198.51.100.0/24"], "strikeout unban 198.51.0.0/16");
    still(&["unban", "198.51.100.0/24", "--inside"], "strikeout unban 198.51.0.0/16");
    // RULES has this address on the deny list.
    still(&["unban", "203.0.113.66/31"], "remove 203.0.113.66");
    daemon.text(&["ban", "2001:db8:1:2::7"]);
    assert_eq!(daemon.text(&["unban", "2001:db8:1:2::/72"]), "unbanned 2001:db8:1:2::/64\n");
    daemon.text(&["ban", "2001:db8:1:2::7"]);
    daemon.text(&["ban", "2001:db8:1:2::/72"]);
    still(&["unban", "2001:db8:1:2::/72"], "strikeout unban 2001:db8:1:2::");
    assert_eq!(daemon.text(&["unban", "2001:db8:1:2::/64"]), "unbanned 2001:db8:1:2::/64\n");
    assert_eq!(banned(&daemon), ["198.51.0.0/16"]);
}

#[test]
fn a_ban_of_an_ipv6_client_on_one_service_is_saved_restored_and_taken_back_as_it_is_listed() {
    let daemon = Daemon::start(RULES);
    daemon.text(&["ban", "2001:db8:1:2::7", "--scope", "web", "--reason", "it's \"bad\" \\ caf\u{e9}"]);
    let listed = daemon.json(&["list", "--evidence"]);
    let saved = daemon.stage().write("saved.json", &listed.to_string());
    assert_eq!(daemon.text(&["unban", "2001:db8:1:2::/64", "--scope", "web"]), "unbanned 2001:db8:1:2::/64\n");
    assert!(banned(&daemon).is_empty());
    for _ in 0..2 {
        daemon.text(&["ban", "--from", saved.to_str().unwrap()]);
        let again = daemon.json(&["list", "--evidence"]);
        for key in ["client", "scope", "rule", "evidence"] {
            assert_eq!(again[0][key], listed[0][key], "{again} {listed}");
        }
    }
    let (_, stderr, code) = daemon.run(&["ban", "2001:db8:1::/48", "--scope", "web"]);
    assert!(code == Some(1) && stderr.contains("found the scope web for the network 2001:db8:1::/48, expected all"), "{stderr}");
}

#[test]
fn unban_by_rule_and_of_all_reaches_helpers_and_survives_a_restart() {
    let daemon = Daemon::start(RULES);
    let stage = daemon.stage().clone();
    let mut helper = attach(&daemon);
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n");
    daemon.ask("strike 203.0.113.12 helo\nstrike 203.0.113.12 helo\n");
    helper.ask("203.0.113.51 GET http://a.example/w00tw00t -");
    for target in ["203.0.113.10", "198.51.100.0/24"] {
        daemon.text(&["ban", target]);
    }
    assert_eq!(daemon.text(&["unban", "--rule", "helo"]), "unbanned rule helo: 2 clients and networks\n");
    assert_eq!(banned(&daemon), ["198.51.100.0/24", "203.0.113.10", "203.0.113.51"]);
    assert_eq!(daemon.text(&["unban", "--rule", "manual"]), "unbanned rule manual: 2 clients and networks\n");
    assert_eq!(banned(&daemon), ["203.0.113.51"]);
    let (_, stderr, code) = daemon.run(&["unban", "--rule", "hello"]);
    assert!(code == Some(1) && stderr.contains("did you mean `helo`?"), "{stderr}");
    daemon.text(&["ban", "203.0.113.10", "--scope", "web"]);
    assert_eq!(daemon.text(&["unban", "--all"]), "unbanned all: 2 clients and networks\n");
    wait_until("the helper serves", || !helper.refuses("203.0.113.51") && !helper.refuses("203.0.113.10"));
    daemon.end(Signal::KILL);
    assert!(banned(&Daemon::start_again(&stage)).is_empty());
}

#[test]
fn unban_by_rule_leaves_what_others_banned_of_the_same_client() {
    let daemon = Daemon::start(RULES);
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n");
    daemon.text(&["ban", "203.0.113.11", "--scope", "web"]);
    daemon.text(&["unban", "--rule", "helo"]);
    let why = daemon.json(&["why", "203.0.113.11"]);
    assert_eq!((&why["services"]["web"]["rule"], &why["services"]["mail"]), (&json!("manual"), &json!(null)));
}

#[test]
fn others_are_answered_while_many_bans_are_undone() {
    let daemon = Daemon::start(RULES);
    let text: String = (0..6000).map(|number| format!("198.{}.{}.1\n", 18 + number / 250, number % 250)).collect();
    let list = daemon.stage().write("list", &text);
    daemon.text(&["ban", "--from", list.to_str().unwrap()]);
    let counts = std::thread::scope(|scope| {
        let unban = scope.spawn(|| daemon.text(&["unban", "--all"]));
        let mut counts = Vec::new();
        while !unban.is_finished() {
            counts.push(daemon.number("bans"));
        }
        assert_eq!(unban.join().unwrap(), "unbanned all: 6000 clients and networks\n");
        counts
    });
    assert!(counts.iter().any(|bans| (1..6000).contains(bans)), "{counts:?}");
}

#[test]
fn list_tells_the_evidence_and_the_bans_in_shadow() {
    let daemon = Daemon::start(RULES);
    let stage = daemon.stage().clone();
    daemon.text(&["ban", "203.0.113.10", "--reason", "floods us"]);
    daemon.text(&["ban", "198.51.100.0/24", "--reason", "a botnet"]);
    daemon.ask("strike 203.0.113.13 quiet\n");
    assert!(!daemon.text(&["list"]).contains("floods us"));
    assert!(daemon.json(&["list"])[0].get("evidence").is_none());
    daemon.end(Signal::TERM);
    let daemon = Daemon::start_again(&stage);
    let text = daemon.text(&["list", "--evidence"]);
    assert!(
        row(&text, "203.0.113.10").join(" ").ends_with("floods us") && row(&text, "198.51.100.0/24").join(" ").ends_with("a botnet"),
        "{text}"
    );
    assert_eq!(daemon.json(&["list", "--evidence"])[1]["evidence"], "floods us");
    assert_eq!(daemon.text(&["list", "--shadow"]), "no bans\n", "they end with the daemon");
    daemon.ask("strike 203.0.113.13 quiet\n");
    let shadow = daemon.json(&["list", "--shadow", "--evidence"]);
    assert_eq!((&shadow[0]["client"], &shadow[0]["rule"], shadow.as_array().unwrap().len()), (&json!("203.0.113.13"), &json!("quiet"), 1));
    assert_eq!(shadow[0]["evidence"], "reported by the mail server");
    assert!(shadow[0]["since"].is_number(), "{shadow}");
}

#[test]
fn a_client_that_ignoreip_protects_by_now_stands_in_no_list() {
    let daemon = Daemon::start(RULES);
    for target in ["203.0.113.10", "203.0.113.11", "2001:db8:1:2::7"] {
        daemon.text(&["ban", target]);
    }
    daemon.configure(&RULES.replace("'203.0.113.99'", "'203.0.113.10', '2001:db8:1::/48'"));
    daemon.text(&["reload"]);
    assert_eq!(banned(&daemon), ["203.0.113.11"]);
    assert_eq!(daemon.json(&["list", "--count"]), json!({ "bans": 1 }));
}

#[test]
fn what_list_prints_as_json_can_be_banned_again_elsewhere() {
    let daemon = Daemon::start(RULES);
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n");
    for target in ["203.0.113.10", "198.51.100.0/24", "2001:db8:1:2::7"] {
        daemon.text(&["ban", target, "2h", "--reason", "floods us"]);
    }
    let saved = daemon.stage().write("saved.json", &daemon.json(&["list", "--evidence"]).to_string());
    let before = daemon.json(&["list", "--evidence"]);
    daemon.text(&["unban", "--all"]);
    let saved = saved.to_str().unwrap();
    assert_eq!(daemon.text(&["ban", "--from", saved]), "banned 4 clients and networks, left out 0 bans that had ended\n");
    let after = daemon.json(&["list", "--evidence"]);
    for (before, after) in before.as_array().unwrap().iter().zip(after.as_array().unwrap()) {
        for key in ["client", "scope", "rule", "evidence"] {
            assert_eq!(before[key], after[key], "{before} {after}");
        }
        let ends = [before, after].map(|ban| ban["until"].as_i64().unwrap());
        assert!(ends[0].abs_diff(ends[1]) <= 2, "{ends:?}");
    }
    daemon.configure(&RULES.replace("'203.0.113.99'", "'203.0.113.10'").replace("scope = 'mail'", "mode = 'shadow'"));
    daemon.text(&["reload"]);
    daemon.text(&["unban", "--all"]);
    let (stdout, stderr, code) = daemon.run(&["ban", "--from", saved]);
    assert_eq!((stdout.as_str(), code), ("banned 2 clients and networks, left out 0 bans that had ended\n", Some(1)));
    assert!(stderr.contains("2 bans refused: ") && stderr.contains("203.0.113.10 is never banned: "), "{stderr}");
    let report = daemon.json(&["ban", "--from", saved]);
    assert_eq!((&report["banned"], &report["refused"], report["reasons"].as_array().unwrap().len()), (&json!(2), &json!(2), 2));
    assert!(stderr.contains("203.0.113.11 is not banned: its rule helo is in shadow mode"), "{stderr}");
}

#[test]
fn a_thousand_bans_come_from_a_plain_list_and_go_to_one() {
    let daemon = Daemon::start(RULES);
    let text: String = (0..1000).map(|number| format!("198.51.{}.{}\n", number / 250, number % 250)).collect();
    let list = daemon.stage().write("list", &text);
    assert_eq!(
        daemon.text(&["ban", "--from", list.to_str().unwrap(), "--scope", "web"]),
        "banned 1000 clients and networks, left out 0 bans that had ended\n"
    );
    assert_eq!(daemon.text(&["list", "--format", "plain"]), text);
    let (_, stderr, code) = daemon.run(&["ban", "--from", "/nowhere"]);
    assert!(code == Some(2) && stderr.contains("/nowhere: cannot be read: "), "{stderr}");
}

#[test]
fn nft_takes_the_bans_twice_in_a_row() {
    if !(harness::has("nft", "nftables") && Namespace::can_be_made()) {
        return;
    }
    let daemon = Daemon::start(RULES);
    for (target, length) in [
        ("203.0.113.10", "-1"),
        ("203.0.113.11", "1h"),
        ("198.51.100.0/24", "1h"),
        ("198.51.100.7", "2h"),
        ("2001:db8:1:2::7", "1h"),
        ("2001:db8:9::/48", "-1"),
    ] {
        daemon.text(&["ban", target, length]);
    }
    let file = daemon.stage().write("bans.nft", &daemon.text(&["list", "--format", "nft"]));
    let namespace = Namespace::new();
    let nft = harness::program("nft").unwrap();
    for _ in 0..2 {
        namespace.run(&format!("{} -f {}", nft.display(), file.display()));
    }
    namespace.run(&format!("{} get element inet strikeout banned4 {{ 203.0.113.10 }}", nft.display()));
    namespace.run(&format!("{} get element inet strikeout banned_networks6 {{ 2001:db8:9::7 }}", nft.display()));
}

#[test]
fn names_of_another_program_that_are_taken_back_at_once_wait_for_each_other() {
    let daemon = Daemon::start(RULES);
    let names: Vec<String> = (1..=8).map(|number| format!("fail2ban-jail{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let bans: String = (0..50).map(|last| format!("ban 198.51.{number}.{last} rule={name}\n")).collect();
        daemon.ask(&bans);
    }
    assert_eq!(daemon.text(&["list", "--count"]), "400\n");
    std::thread::scope(|scope| {
        for name in &names {
            let daemon = &daemon;
            scope.spawn(move || assert_eq!(daemon.object(&format!("release all rule={name}"))["unbanned"], 50, "{name}"));
        }
    });
    assert_eq!(daemon.text(&["list"]), "no bans\n");
}
