//! Never-ban is absolute: own addresses as they come and go, the gateway, lists and trusted proxies, whatever a client did.

use std::fs;
use std::process::Command;

use super::processes::{Helper, Resident, Stage, is_root, until};

#[test]
fn ignored_networks_of_files_and_trusted_proxies_are_never_banned_by_anybody() {
    let stage = Stage::new();
    fs::write(stage.path("office"), "# ours\n203.0.113.0/28\n2001:db8:7::/48\n").unwrap();
    let lists = format!("[defaults]\nignoreip = [{:?}, '198.51.100.7']\ntrusted_proxies = ['198.51.100.8']\n", stage.path("office"));
    let resident = Resident::start(&stage, "", &(lists + "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\n"));
    let mut helper = Helper::attach(&stage);
    for spared in ["203.0.113.3", "2001:db8:7:1::5", "::ffff:203.0.113.4", "198.51.100.7", "198.51.100.8", "127.0.0.1", "::1"] {
        assert_eq!(helper.get(spared, "/w00tw00t"), "ERR", "{spared}");
        assert_eq!(resident.ask(&format!("strike {spared} helo")), "accept\n", "{spared}");
        assert!(resident.ask(&format!("ban {spared}")).contains("is never banned: "), "{spared}");
    }
    assert!(resident.ask("ban 203.0.112.0/20").contains("is never banned: "), "nor a network around one");
    assert!(helper.get("203.0.113.16", "/w00tw00t").starts_with("OK "), "the next address is not spared");
    assert_eq!(resident.status("bans"), "1");
}

#[test]
fn own_addresses_and_the_gateway_are_followed_as_they_come_and_go() {
    if !is_root("make a network of its own") {
        return;
    }
    let stage = Stage::new();
    stage.configure("", "");
    // A network without anything but loopback, for this resident alone.
    let mut command = Command::new("unshare");
    command.arg("--net").arg(stage.path("strikeout")).args(["serve", "--config"]).arg(stage.path("strikeout.toml"));
    let resident = Resident::start_by(&stage, command);
    let ip = |arguments: &[&str]| {
        let namespace = format!("--net=/proc/{}/ns/net", resident.pid());
        let output = Command::new("nsenter").args([&namespace, "ip"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "ip {arguments:?}: {output:?}");
    };
    let mut helper = Helper::attach(&stage);
    assert!(helper.get("203.0.113.7", "/w00tw00t").starts_with("OK "));
    ip(&["link", "add", "inside", "type", "veth", "peer", "name", "outside"]);
    ip(&["link", "set", "inside", "up"]);
    ip(&["addr", "add", "203.0.113.7/24", "dev", "inside"]);
    until("the helper knows the new own address", || (!helper.refuses("203.0.113.7")).then_some(()));
    assert_eq!(helper.get("203.0.113.7", "/w00tw00t"), "ERR");
    assert!(resident.ask("ban 203.0.113.7").contains("is never banned: own address 203.0.113.7"));
    assert!(helper.get("203.0.113.1", "/w00tw00t").starts_with("OK "), "not yet the gateway");
    resident.ask("unban 203.0.113.1");
    ip(&["route", "add", "default", "via", "203.0.113.1"]);
    until("the gateway is known", || {
        resident.ask("ban 203.0.113.1").contains("is never banned: default gateway 203.0.113.1").then_some(())
    });
    until("the helper knows the gateway", || (helper.get("203.0.113.1", "/w00tw00t") == "ERR").then_some(()));
    ip(&["route", "del", "default"]);
    ip(&["addr", "del", "203.0.113.7/24", "dev", "inside"]);
    until("the address is nobody's again", || helper.get("203.0.113.7", "/w00tw00t").starts_with("OK ").then_some(()));
    assert_eq!(helper.breaks(), 0, "{}", helper.log());
}
