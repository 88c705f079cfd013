//! Decisions whose ban is not there, because there was no room, a full table evicted it, or another's replaced it: they count again as soon as
//! they can, not only at the next whole list.

use serde_json::json;

use super::crowdsec_hostile::{Lapi, crowdsec, decision, rules, wait_for_bans};
use crate::harness::wait_until;

const HELO: &str = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\nbantime = '9h'\n";

#[test]
fn decisions_without_room_are_taken_when_others_have_gone() {
    let all = (1..=12).map(|number| decision(number, "Ip", &format!("203.0.113.{number}"), "4h"));
    let lapi = Lapi::start(all.collect());
    let daemon = lapi.daemon("decisions = 10\n");
    wait_until("ten are banned", || daemon.number("bans") == 10 && crowdsec(&daemon)["skipped"] == json!({"without room": 2}));
    (1..=5).for_each(|number| lapi.delete(number));
    let left: Vec<String> = (6..=12).map(|number| format!("203.0.113.{number} crowdsec-ssh-bf")).collect();
    wait_for_bans(&daemon, &left.iter().map(String::as_str).collect::<Vec<_>>());
    wait_until("nothing is left out", || crowdsec(&daemon)["skipped"] == json!({}));
    // Then only changes are asked for.
    lapi.wait_for_questions();
    assert!(lapi.web.requests().last().is_some_and(|request| request.path.contains("startup=false")));
}

#[test]
fn a_decision_whose_ban_was_replaced_counts_again_when_the_other_is_taken_back_or_ends() {
    let lapi = Lapi::start(vec![decision(1, "Ip", "203.0.113.1", "4h"), decision(2, "Range", "198.51.100.0/24", "4h")]);
    let daemon = lapi.daemon("");
    let own = ["203.0.113.1 crowdsec-ssh-bf", "198.51.100.0/24 crowdsec-ssh-bf"];
    wait_for_bans(&daemon, &own);
    daemon.text(&["ban", "203.0.113.1", "9h", "--origin", "fail2ban/sshd"]);
    // By hand, a shorter one replaces that of a network as well.
    daemon.text(&["ban", "198.51.100.0/24", "30m"]);
    wait_for_bans(&daemon, &["203.0.113.1 fail2ban-sshd", "198.51.100.0/24 manual"]);
    daemon.text(&["ban", "198.51.100.0/24", "1s"]);
    daemon.text(&["unban", "203.0.113.1", "--origin", "fail2ban/sshd"]);
    wait_for_bans(&daemon, &own);
    // One that is taken back by hand stays so until the next whole list.
    daemon.text(&["unban", "203.0.113.1"]);
    lapi.wait_for_questions();
    assert_eq!(rules(&daemon), ["198.51.100.0/24 crowdsec-ssh-bf"]);
}

#[test]
fn decisions_that_a_full_table_evicted_count_again_when_it_has_room() {
    let all: Vec<String> = (1..=40).map(|number| format!("203.0.113.{number}")).collect();
    let lapi = Lapi::start(all.iter().zip(1..).map(|(address, id)| decision(id, "Ip", address, "1h")).collect());
    let daemon = lapi.daemon_with("bans = 100\n", HELO);
    wait_until("they are banned", || daemon.number("bans") == 40);
    for number in 1..=100 {
        assert!(daemon.ask(&format!("strike 198.51.100.{number} helo\n")).starts_with('d'));
    }
    wait_until("the rule's bans have pushed them out", || rules(&daemon).iter().all(|ban| ban.ends_with(" helo")));
    lapi.wait_for_questions();
    assert_eq!(daemon.number("bans"), 100, "a full table evicts no ban of a rule for a decision's");
    daemon.text(&["unban", "--rule", "helo"]);
    wait_until("they are banned again", || rules(&daemon).len() == 40);
}
