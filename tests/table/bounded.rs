//! The table is bounded: strikes fall out, least recently used, and bans have a cap of their own; an IPv6 client is a network.

use super::processes::{Helper, Resident, Stage};

const ADMIN: &str = "[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 3\n";

#[test]
fn new_clients_push_out_the_strikes_of_those_quiet_longest_and_never_a_ban() {
    let stage = Stage::new();
    let resident = Resident::start(&stage, "clients = 1000\nbans = 100\n", ADMIN);
    let mut helper = Helper::attach(&stage);
    for number in 1..=50 {
        assert!(helper.get(&format!("203.0.113.{number}"), "/w00tw00t").starts_with("OK "));
    }
    let two_strikes = |helper: &mut Helper, client: &str| (0..2).for_each(|_| assert_eq!(helper.get(client, "/admin"), "ERR"));
    two_strikes(&mut helper, "198.51.100.1");
    for number in 0..5000 {
        assert_eq!(helper.get(&format!("2001:db8:{number:x}::1"), "/admin"), "ERR");
        if number == 4990 {
            two_strikes(&mut helper, "198.51.100.2");
        }
    }
    assert!(resident.status("strikes").parse::<u32>().unwrap() <= 1000, "{}", resident.status("strikes"));
    assert!(resident.status("strikes_evicted").parse::<u32>().unwrap() >= 4000, "{}", resident.status("strikes_evicted"));
    assert_eq!((resident.status("bans"), resident.status("bans_evicted")), ("50".to_owned(), "0".to_owned()));
    assert!((1..=50).all(|number| helper.refuses(&format!("203.0.113.{number}"))), "every ban is in place");
    assert_eq!(helper.get("198.51.100.1", "/admin"), "ERR", "its strikes have fallen out");
    assert!(helper.get("198.51.100.2", "/admin").starts_with("OK "), "its strikes are fresh");
}

#[test]
fn of_too_many_bans_the_one_that_ends_soonest_falls_and_none_made_by_hand() {
    let stage = Stage::new();
    let short = "[[rule]]\nname = 'short'\nevent = 'incident'\nmaxretry = 1\nbantime = '10m'\n";
    let resident = Resident::start(&stage, "bans = 20\n", &format!("{short}{}", short.replace("short", "long").replace("10m", "2h")));
    assert!(resident.ask("ban 203.0.113.1 1m").starts_with("banned "));
    assert!(resident.ask("strike 203.0.113.2 short").starts_with("defer "));
    for number in 1..=40 {
        assert!(resident.ask(&format!("strike 198.51.100.{number} long")).starts_with("defer "));
    }
    assert_eq!(resident.status("bans"), "20");
    assert!(resident.ask("check 203.0.113.1 port=25").starts_with("defer rule=manual"), "made by hand");
    assert_eq!(resident.ask("check 203.0.113.2 port=465"), "accept\n", "it ended soonest");
}

#[test]
fn an_ipv6_client_is_its_prefix_as_configured() {
    for (bits, other) in [(64, "2001:db8:0:1ff::1"), (56, "2001:db8:0:200::1")] {
        let stage = Stage::new();
        let _resident = Resident::start(&stage, &format!("ipv6_prefix = {bits}\n"), ADMIN);
        let mut helper = Helper::attach(&stage);
        // Three addresses of one network: three strikes of one client.
        let within = if bits == 64 { "2001:db8:0:100:" } else { "2001:db8:0:1" };
        let one = |number: u8| if bits == 64 { format!("{within}:{number}") } else { format!("{within}{number:02}::1") };
        let answers: Vec<bool> = (1..=3).map(|number| helper.get(&one(number), "/admin").starts_with("OK ")).collect();
        assert_eq!(answers, [false, false, true], "/{bits}");
        assert!(helper.refuses(&one(9)), "/{bits}: a neighbour");
        assert!(!helper.refuses(other), "/{bits}: the next network");
    }
}
