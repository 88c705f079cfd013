//! Bans of systems and countries by hand: wherever clients belong by a database, they stand until they are taken back.

use serde_json::json;

use super::geo::{asns, countries, replace, stage};
use crate::attach;
use crate::harness::{Daemon, Stage, wait_until};

/// Bans 198.18.0.0/16 and 2001:db8::/32 by hand, under `target` as it is written and as it is shown. `file` is the database that has them.
fn is_banned_by_hand(written: &str, target: &str, file: &str, bytes: &[u8]) {
    let (stage, geo) = stage();
    let daemon = Daemon::start_on(&stage, "", &format!("{geo}[defaults]\nignoreip = ['198.18.0.99']\n"));
    let mut helper = attach(&daemon);
    assert!(!helper.refuses("198.18.0.1"));
    let text = daemon.text(&["ban", written, "2h", "--reason", "scrapes"]);
    assert!(text.starts_with(&format!("banned {target} on the web and in mail until ")), "{text}");
    wait_until("the helper refuses all of it", || helper.refuses("198.18.0.1"));
    assert!(
        helper.refuses("2001:db8::1") && !helper.refuses("198.18.0.99") && !helper.refuses("198.19.0.1") && !helper.refuses("203.0.113.1")
    );
    assert!(daemon.ask("check 198.18.0.1\n").starts_with("defer rule=manual"));
    assert_eq!(daemon.ask("check 198.18.0.99\n"), "accept\n");
    for asked in [target, written, "198.18.0.1"] {
        let (text, _, code) = daemon.run(&["why", asked]);
        assert_eq!(code, Some(3), "{text}");
        for expected in [format!("{target} is banned by hand"), "scrapes".into(), format!("strikeout unban {target}")] {
            assert!(text.contains(&expected), "{expected} is not in\n{text}");
        }
    }
    assert_eq!(daemon.text(&["list", "--format", "plain"]), format!("{target}\n"));
    assert!(!daemon.text(&["list", "--format", "nft"]).contains(target));
    let list = daemon.json(&["list"]).to_string();

    let database = stage.path(file);
    daemon.end(rustix::process::Signal::KILL);
    std::fs::remove_file(&database).unwrap();
    let daemon = Daemon::start_again(&stage);
    wait_until("the helper is attached again", || daemon.json(&["status"]).get("subscribers") == Some(&json!(1)));
    assert!(!helper.refuses("198.18.0.2"), "without a database it is nobody");
    replace(&database, bytes);
    wait_until("the ban has outlived the restart", || helper.refuses("198.18.0.2"));

    daemon.text(&["ban", "198.18.0.7"]);
    let (text, fault, code) = daemon.run(&["unban", written]);
    assert!(text.contains(&format!("unbanned {target}")), "{text}");
    let still = format!("1 client inside {target} is still banned; to change that: strikeout unban 198.18.0.7");
    assert!(code == Some(3) && fault.contains(&still), "{fault}");
    wait_until("the helper serves all others again", || !helper.refuses("198.18.0.1"));
    daemon.text(&["unban", "198.18.0.7"]);
    stage.write("bans.json", &list);
    assert!(daemon.text(&["ban", "--from", &stage.path("bans.json").display().to_string()]).starts_with("banned 1 client or network"));
    wait_until("what list printed is in force again", || helper.refuses("198.18.0.1"));
    daemon.text(&["unban", "--all"]);
    stage.write("bans.txt", &format!("{written} # a comment\n"));
    daemon.text(&["ban", "--from", &stage.path("bans.txt").display().to_string()]);
    wait_until("a line of a file is in force", || helper.refuses("198.18.0.1"));
    assert_eq!(daemon.text(&["list", "--format", "plain"]), format!("{target}\n"));

    daemon.text(&["unban", target]);
    daemon.text(&["ban", target, "--origin", "fail2ban/by-hand"]);
    let (_, fault, _) = daemon.run(&["unban", target, "--origin", "fail2ban/another"]);
    assert!(helper.refuses("198.18.0.1"), "{fault}");
    assert!(daemon.text(&["unban", target, "--origin", "fail2ban/by-hand"]).contains(&format!("unbanned {target}")));
    wait_until("its origin has taken it back", || !helper.refuses("198.18.0.1"));
}

#[test]
fn a_system_is_banned_and_unbanned_by_hand_and_outlives_a_restart() {
    is_banned_by_hand("as64496", "AS64496", "asn.mmdb", &asns());
}

#[test]
fn a_country_is_banned_and_unbanned_by_hand_and_outlives_a_restart() {
    is_banned_by_hand("country:de", "country:DE", "country.mmdb", &countries());
}

#[test]
fn of_a_system_and_its_country_the_ban_that_ends_last_counts_and_each_is_unbanned_by_itself() {
    let (stage, geo) = stage();
    let daemon = Daemon::start_on(&stage, "", &geo);
    daemon.text(&["ban", "country:DE", "1h"]);
    daemon.text(&["ban", "AS64496", "2h"]);
    let why = daemon.json(&["why", "198.18.0.1"]);
    let networks: Vec<_> = why["networks"].as_array().unwrap().iter().map(|ban| &ban["network"]).collect();
    assert_eq!(networks, [&json!("AS64496"), &json!("country:DE")], "the smallest first");
    assert!(why["services"]["web"]["remaining"].as_i64().unwrap() > 3600, "{why}");
    let (_, fault, code) = daemon.run(&["why", "198.19.0.1"]);
    assert_eq!(code, Some(0), "{fault}");
    daemon.text(&["unban", "AS64496"]);
    assert!(daemon.ask("check 198.18.0.1\n").starts_with("defer rule=manual"));
    daemon.text(&["unban", "country:DE"]);
    assert_eq!(daemon.ask("check 198.18.0.1\n"), "accept\n");
}

#[test]
fn a_system_or_a_country_is_not_banned_by_hand_where_no_database_says_which_addresses_it_has() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", "");
    for (target, key) in [("AS64496", "asn"), ("country:DE", "country")] {
        let (_, fault, code) = daemon.run(&["ban", target]);
        let expected = format!("{target} is not banned: no database says which addresses it has, expected a usable one as {key} in [geo]");
        assert!(code == Some(1) && fault.contains(&expected), "{fault}");
        let (_, fault, code) = daemon.run(&["ban", target, "--scope", "web"]);
        assert!(code == Some(2) && fault.contains("expected all"), "{fault}");
    }
    for target in ["country:DEU", "country:", "country:D1", "AS0"] {
        let (_, fault, code) = daemon.run(&["ban", target]);
        assert!(code == Some(2) && fault.contains("or a country such as country:XX"), "{fault}");
    }
}
