//! The table is bounded: the least recently used strikes are evicted, and bans have a limit of their own. An IPv6 client is a network.

use crate::harness::{Daemon, SquidHelper, Stage};

const ADMIN: &str = "[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 3\n";

#[test]
fn new_clients_evict_the_least_recently_used_strikes_and_never_a_ban() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "clients = 1000\nbans = 100\n", ADMIN);
    let mut helper = SquidHelper::attach(&stage);
    for number in 1..=50 {
        assert!(helper.get(&format!("203.0.113.{number}"), "/w00tw00t").starts_with("OK "));
    }
    let two_strikes = |helper: &mut SquidHelper, client: &str| (0..2).for_each(|_| assert_eq!(helper.get(client, "/admin"), "ERR"));
    two_strikes(&mut helper, "198.51.100.1");
    for number in 0..5000 {
        assert_eq!(helper.get(&format!("2001:db8:{number:x}::1"), "/admin"), "ERR");
        if number == 4990 {
            two_strikes(&mut helper, "198.51.100.2");
        }
    }
    assert!(daemon.status("strikes").parse::<u32>().unwrap() <= 1000, "{}", daemon.status("strikes"));
    assert!(daemon.status("strikes_evicted").parse::<u32>().unwrap() >= 4000, "{}", daemon.status("strikes_evicted"));
    assert_eq!((daemon.status("bans"), daemon.status("bans_evicted")), ("50".to_owned(), "0".to_owned()));
    assert!((1..=50).all(|number| helper.refuses(&format!("203.0.113.{number}"))), "every ban is in place");
    assert_eq!(helper.get("198.51.100.1", "/admin"), "ERR", "its strikes were evicted");
    assert!(helper.get("198.51.100.2", "/admin").starts_with("OK "), "its strikes are recent");
}

#[test]
fn above_the_limit_the_ban_that_ends_soonest_is_evicted_but_never_a_manual_one() {
    let stage = Stage::new();
    let short = "[[rule]]\nname = 'short'\nevent = 'incident'\nmaxretry = 1\nbantime = '10m'\n";
    let daemon = Daemon::start_on(&stage, "bans = 20\n", &format!("{short}{}", short.replace("short", "long").replace("10m", "2h")));
    assert!(daemon.ask("ban 203.0.113.1 1m").starts_with(r#"{"banned":"#));
    assert!(daemon.ask("strike 203.0.113.2 short").starts_with("defer "));
    for number in 1..=40 {
        assert!(daemon.ask(&format!("strike 198.51.100.{number} long")).starts_with("defer "));
    }
    assert_eq!(daemon.status("bans"), "20");
    assert!(daemon.ask("check 203.0.113.1 port=25").starts_with("defer rule=manual"), "a manual ban");
    assert_eq!(daemon.ask("check 203.0.113.2 port=465"), "accept\n", "it ended soonest");
}

#[test]
fn an_ipv6_client_is_a_network_of_the_configured_prefix() {
    for (bits, other) in [(64, "2001:db8:0:1ff::1"), (56, "2001:db8:0:200::1")] {
        let stage = Stage::new();
        let _daemon = Daemon::start_on(&stage, &format!("ipv6_prefix = {bits}\n"), ADMIN);
        let mut helper = SquidHelper::attach(&stage);
        // Offences of three addresses of one network are three strikes of one client.
        let within = if bits == 64 { "2001:db8:0:100:" } else { "2001:db8:0:1" };
        let one = |number: u8| if bits == 64 { format!("{within}:{number}") } else { format!("{within}{number:02}::1") };
        let answers: Vec<bool> = (1..=3).map(|number| helper.get(&one(number), "/admin").starts_with("OK ")).collect();
        assert_eq!(answers, [false, false, true], "/{bits}");
        assert!(helper.refuses(&one(9)), "/{bits}: an address of the same network");
        assert!(!helper.refuses(other), "/{bits}: the next network");
    }
}
