//! Host names in `ignoreip`, at a name server that answers, changes its mind, is silent, lies or is dead.

use serde_json::{Value, json};

use crate::harness::{Daemon, Dns, SQUID_HELPER, STRIKEOUT, SquidHelper, Stage, wait_for, wait_until};

const CONFIG: &str =
    "[defaults]\nignoreip = ['home.example.net']\nmaxretry = 1\n[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\n";

fn serve(dns: &Dns, stage: &Stage) -> Daemon {
    Daemon::start_by(stage, dns.command(STRIKEOUT))
}

fn start(dns: &Dns) -> Daemon {
    let stage = Stage::new();
    stage.configure("", CONFIG);
    serve(dns, &stage)
}

fn host(daemon: &Daemon) -> Value {
    daemon.object("status")["hosts"][0].clone()
}

fn addresses(daemon: &Daemon) -> Value {
    host(daemon)["addresses"].clone()
}

#[track_caller]
fn wait_for_addresses(daemon: &Daemon, expected: &Value) {
    wait_until(&format!("the name has the addresses {expected}"), || addresses(daemon) == *expected);
}

/// Waits until the lookup has failed, and returns the fault.
#[track_caller]
fn wait_for_fault(daemon: &Daemon) -> String {
    wait_for("a fault", || host(daemon)["fault"].as_str().map(str::to_owned))
}

fn is_banned_for_one_offence(daemon: &Daemon, address: &str) -> bool {
    daemon.ask(&format!("strike {address} helo\n")).starts_with("d")
}

#[test]
fn the_addresses_of_a_name_are_never_banned_and_follow_it() {
    let Some(mut dns) = Dns::start(&["host-record=home.example.net,192.0.2.7,2001:db8::7"]) else { return };
    let daemon = start(&dns);
    let mut helper = SquidHelper::attach(daemon.stage());
    wait_for_addresses(&daemon, &json!(["192.0.2.7", "2001:db8::7"]));
    assert_eq!(host(&daemon)["fault"], Value::Null);
    assert!(host(&daemon)["answered_ago"].as_u64().unwrap() < 60);
    assert!(!is_banned_for_one_offence(&daemon, "192.0.2.7") && is_banned_for_one_offence(&daemon, "192.0.2.6"));
    let why = daemon.json(&["why", "192.0.2.7"]);
    assert!(why["never_banned"].as_str().unwrap().starts_with("ignored network 192.0.2.7 (home.example.net in ignoreip in "), "{why}");
    let (_, stderr, code) = daemon.run(&["ban", "192.0.2.0/24"]);
    assert!(code == Some(1) && stderr.contains("home.example.net"), "{stderr}");

    // The helper refuses by itself what is banned; it is told of the address.
    wait_until("the helper refuses the neighbour", || helper.refuses("192.0.2.6"));
    wait_until("the helper spares the name", || helper.ask("192.0.2.7 GET http://a.example/w00tw00t Mozilla/5.0 - -") == "ERR");

    dns.answer(&["host-record=home.example.net,198.51.100.9"]);
    daemon.text(&["reload"]);
    wait_for_addresses(&daemon, &json!(["198.51.100.9"]));
    assert!(is_banned_for_one_offence(&daemon, "192.0.2.7") && !is_banned_for_one_offence(&daemon, "198.51.100.9"));
    wait_until("the helper knows too", || helper.ask("198.51.100.9 GET http://a.example/w00tw00t Mozilla/5.0 - -") == "ERR");
}

#[test]
fn the_last_good_answer_outlives_a_dead_server_and_one_that_says_nonsense() {
    let Some(mut dns) = Dns::start(&["host-record=home.example.net,192.0.2.7"]) else { return };
    let daemon = start(&dns);
    wait_for_addresses(&daemon, &json!(["192.0.2.7"]));
    dns.stop();
    daemon.text(&["reload"]);
    wait_for_fault(&daemon);
    assert!(!is_banned_for_one_offence(&daemon, "192.0.2.7"));
    let text = daemon.text(&["status"]);
    assert!(text.contains("host       home.example.net: 192.0.2.7, ") && text.contains(" old; "), "{text}");
    assert!(daemon.ask("metrics\n").contains("strikeout_host_fault{host=\"home.example.net\"} 1\n"));

    // Not 0.0.0.0, nor multicast: and a name that has both keeps what it had.
    dns.answer(&["host-record=home.example.net,0.0.0.0", "host-record=home.example.net,224.0.0.1,::"]);
    daemon.text(&["reload"]);
    wait_until("the answer is refused", || wait_for_fault(&daemon).starts_with("found no address that a client can have"));
    assert_eq!(addresses(&daemon), json!(["192.0.2.7"]));

    dns.answer(&[]);
    daemon.text(&["reload"]);
    wait_until("there is no such name", || !wait_for_fault(&daemon).starts_with("found no address"));
    assert_eq!(addresses(&daemon), json!(["192.0.2.7"]));

    // A name without an answer gets one once the server is back.
    dns.answer(&["host-record=home.example.net,192.0.2.7"]);
    daemon.text(&["reload"]);
    wait_until("the fault is over", || host(&daemon)["fault"] == Value::Null);
}

#[test]
fn the_addresses_of_a_name_outlive_a_restart_while_the_server_is_away() {
    let Some(mut dns) = Dns::start(&["host-record=home.example.net,192.0.2.7"]) else { return };
    let stage = Stage::new();
    stage.configure("", CONFIG);
    let daemon = serve(&dns, &stage);
    wait_for_addresses(&daemon, &json!(["192.0.2.7"]));
    let saved = stage.state().with_extension("db.hosts");
    wait_until("they are saved", || std::fs::read_to_string(&saved).is_ok_and(|text| text.contains("192.0.2.7")));
    dns.stop();
    daemon.end(rustix::process::Signal::KILL);
    let daemon = serve(&dns, &stage);
    wait_for_addresses(&daemon, &json!(["192.0.2.7"]));
    assert!(!is_banned_for_one_offence(&daemon, "192.0.2.7") && is_banned_for_one_offence(&daemon, "192.0.2.6"));
    assert!(daemon.text(&["status"]).contains("host       home.example.net: 192.0.2.7, "));
}

#[test]
fn a_name_that_points_at_very_much_protects_some_single_addresses_only() {
    let many: Vec<String> = (0..200).map(|number| format!("host-record=home.example.net,192.0.2.{number}")).collect();
    let Some(dns) = Dns::start(&many.iter().map(String::as_str).collect::<Vec<_>>()) else { return };
    let daemon = start(&dns);
    let fault = wait_for_fault(&daemon);
    assert!(fault.starts_with("found 200 addresses, expected 16 at most"), "{fault}");
    assert_eq!(addresses(&daemon).as_array().unwrap().len(), 16);
    assert!(!is_banned_for_one_offence(&daemon, "192.0.2.7") && is_banned_for_one_offence(&daemon, "192.0.2.200"));
}

#[test]
fn a_dead_or_silent_server_delays_neither_the_start_nor_any_answer() {
    let Some(dns) = Dns::start(&["host-record=home.example.net,192.0.2.7"]) else { return };
    dns.is_silent(true);
    let daemon = start(&dns);
    assert!(is_banned_for_one_offence(&daemon, "192.0.2.200"), "it serves while the lookup hangs");
    assert_eq!(host(&daemon), json!({"name": "home.example.net", "addresses": [], "answered": null, "answered_ago": null, "fault": null}));
    let fault = wait_for_fault(&daemon);
    assert!(fault.starts_with("no answer for "), "{fault}");
    let findings = daemon.json(&["doctor"])["findings"].clone();
    let finding = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "hosts").unwrap();
    assert!(finding["level"] == "fault" && finding["text"].as_str().unwrap().contains("no answer for "), "{finding}");
    dns.is_silent(false);
    wait_for_addresses(&daemon, &json!(["192.0.2.7"]));

    let Some(dns) = Dns::dead() else { return };
    let daemon = start(&dns);
    assert!(is_banned_for_one_offence(&daemon, "192.0.2.7"));
    wait_for_fault(&daemon);
}

#[test]
fn a_helper_with_a_table_of_its_own_knows_the_names_too() {
    let Some(dns) = Dns::start(&["host-record=home.example.net,192.0.2.7"]) else { return };
    let stage = Stage::new();
    let config = stage.write("strikeout.toml", "[defaults]\nignoreip = ['home.example.net']\n");
    let mut command = dns.command(SQUID_HELPER);
    command.arg("--config").arg(config);
    let mut helper = SquidHelper::spawn(command).until_ready();
    let mut probe = |address: &str| helper.ask(&format!("{address} GET http://a.example/w00tw00t Mozilla/5.0 - -"));
    wait_until("the name is known", || probe("192.0.2.7") == "ERR");
    assert!(probe("192.0.2.8").starts_with("OK "));
}
