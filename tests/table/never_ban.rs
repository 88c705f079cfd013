//! Own addresses, as they come and go, the gateway, listed networks and trusted proxies are never banned.

use std::fs;
use std::process::Command;

use crate::harness::{Daemon, STRIKEOUT, SquidHelper, Stage, is_root, wait_until};

#[test]
fn networks_listed_in_files_and_trusted_proxies_are_never_banned() {
    let stage = Stage::new();
    fs::write(stage.path("office"), "# office\n203.0.113.0/28\n2001:db8:7::/48\n").unwrap();
    let lists = format!("[defaults]\nignoreip = [{:?}, '198.51.100.7']\ntrusted_proxies = ['198.51.100.8']\n", stage.path("office"));
    let daemon = Daemon::start_on(&stage, "", &(lists + "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\n"));
    let mut helper = SquidHelper::attach(&stage);
    for exempt in ["203.0.113.3", "2001:db8:7:1::5", "::ffff:203.0.113.4", "198.51.100.7", "198.51.100.8", "127.0.0.1", "::1"] {
        assert_eq!(helper.get(exempt, "/w00tw00t"), "ERR", "{exempt}");
        assert_eq!(daemon.ask(&format!("strike {exempt} helo")), "accept\n", "{exempt}");
        assert!(daemon.ask(&format!("ban {exempt}")).contains("is never banned: "), "{exempt}");
    }
    assert!(daemon.ask("ban 203.0.112.0/20").contains("is never banned: "), "nor a network that contains one");
    assert!(helper.get("203.0.113.16", "/w00tw00t").starts_with("OK "), "the next address is not exempt");
    assert_eq!(daemon.status("bans"), "1");
}

#[test]
fn own_addresses_and_the_gateway_are_exempt_while_the_machine_has_them() {
    if !is_root("create a network namespace") {
        return;
    }
    let stage = Stage::new();
    stage.configure("", "");
    // A network namespace with only loopback, for this daemon.
    let mut command = Command::new("unshare");
    command.arg("--net").arg(STRIKEOUT);
    let daemon = Daemon::start_by(&stage, command);
    let ip = |arguments: &[&str]| {
        let namespace = format!("--net=/proc/{}/ns/net", daemon.pid());
        let output = Command::new("nsenter").args([&namespace, "ip"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "ip {arguments:?}: {output:?}");
    };
    let mut helper = SquidHelper::attach(&stage);
    assert!(helper.get("203.0.113.7", "/w00tw00t").starts_with("OK "));
    ip(&["link", "add", "inside", "type", "veth", "peer", "name", "outside"]);
    ip(&["link", "set", "inside", "up"]);
    ip(&["addr", "add", "203.0.113.7/24", "dev", "inside"]);
    wait_until("the helper knows the new own address", || !helper.refuses("203.0.113.7"));
    assert_eq!(helper.get("203.0.113.7", "/w00tw00t"), "ERR");
    assert!(daemon.ask("ban 203.0.113.7").contains("is never banned: own address 203.0.113.7"));
    assert!(helper.get("203.0.113.1", "/w00tw00t").starts_with("OK "), "it is not the gateway yet");
    daemon.ask("unban 203.0.113.1");
    ip(&["route", "add", "default", "via", "203.0.113.1"]);
    wait_until("the gateway is known", || daemon.ask("ban 203.0.113.1").contains("is never banned: default gateway 203.0.113.1"));
    wait_until("the helper knows the gateway", || helper.get("203.0.113.1", "/w00tw00t") == "ERR");
    ip(&["route", "del", "default"]);
    ip(&["addr", "del", "203.0.113.7/24", "dev", "inside"]);
    wait_until("the address is no longer exempt", || helper.get("203.0.113.7", "/w00tw00t").starts_with("OK "));
    assert_eq!(helper.breaks(), 0, "{}", helper.log());
}
