//! What the thresholds of `crowd-requests-asn` find in an hour of requests from four autonomous systems, by a replay. The log is made here:
//! docs/crowds.md says what is in it.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::harness::mmdb::{Said, database};
use crate::harness::{STRIKEOUT, Stage};

const BARE: &str = "-";
const LINKED: &str = "http://www.example.org/";

/// Requests, each with its second in the hour.
#[derive(Default)]
struct Requests(Vec<(u32, Ipv4Addr, &'static str)>);

impl Requests {
    /// A scraper of a hosting provider: 6,000 addresses in 600 /24s of 40 /16s, two pages each.
    fn scraper(&mut self) {
        for number in 0..12_000_u32 {
            let (network, host) = (number % 600, number / 600 % 10);
            let address =
                Ipv4Addr::new(23, u8::try_from(network / 15).unwrap(), u8::try_from(network % 15).unwrap(), u8::try_from(host).unwrap());
            self.0.push((number * 7919 % 3600, address, BARE));
        }
    }

    /// 10,000 people of an access provider, each with one visit: five in a hundred browsers do not say where the page comes from, and two in a
    /// hundred load nothing but the page.
    fn people(&mut self) {
        for person in 0..10_000_u32 {
            let (second, address) = (person * 7907 % 3590, Ipv4Addr::from(0x4d00_0000 + person * 37));
            self.0.push((second, address, if person % 20 == 0 { BARE } else { LINKED }));
            if person % 50 != 0 {
                self.0.extend((1..4).map(|more| (second + more, address, LINKED)));
            }
        }
    }

    /// Programs that ask once every so many seconds, such as feed readers and monitoring.
    fn programs(&mut self, first: Ipv4Addr, programs: u32, every: u32) {
        for program in 0..programs {
            let address = Ipv4Addr::from(u32::from(first) + program * 20_011);
            self.0.extend((0..3600 / every).map(|turn| (turn * every + program * 7 % every, address, BARE)));
        }
    }

    fn log(mut self) -> String {
        self.0.sort_by_key(|(second, ..)| *second);
        let mut log = String::new();
        for (second, address, referer) in self.0 {
            let time = format!("03:{:02}:{:02}", second / 60, second % 60);
            writeln!(log, "{address} - - [23/Nov/2026:{time} +0000] \"GET / HTTP/1.1\" 200 9 \"{referer}\" \"x\"").unwrap();
        }
        log
    }
}

#[test]
fn the_built_in_threshold_finds_the_scraper_alone_and_a_lower_one_would_hit_programs() {
    let stage = Stage::new();
    let asn = stage.path("asn.mmdb");
    let systems = [("23.0.0.0/8", 64496), ("77.0.0.0/8", 64497), ("45.0.0.0/8", 64498), ("46.0.0.0/8", 64499)];
    std::fs::write(&asn, database(&systems.map(|(network, number)| (network, Said::Asn(number))))).unwrap();
    let rule = |members: u32| {
        format!(
            "[[rule]]\nname = 'asn-{members}'\nevent = 'request'\nreferer = false\ncount_by = 'asn'\nmembers = {members}\nmaxretry = {}\n\
             findtime = '10m'\nbantime = '1h'\nscope = 'web'\nmode = 'shadow'\n",
            members * 2
        )
    };
    stage.configure("", &format!("[geo]\nasn = {asn:?}\n{}{}", rule(100), rule(250)));
    let mut requests = Requests::default();
    requests.scraper();
    requests.people();
    requests.programs(Ipv4Addr::new(45, 0, 0, 1), 200, 420);
    requests.programs(Ipv4Addr::new(46, 0, 0, 1), 450, 900);
    let log = stage.write("access.log", &requests.log());
    let output =
        std::process::Command::new(STRIKEOUT).args(["replay", "--json", "--config"]).arg(stage.config()).arg(log).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let crowds = report["crowds"].as_array().unwrap();
    let found = |rule: &str| {
        let mut found: Vec<&str> =
            crowds.iter().filter(|crowd| crowd["rule"] == rule).map(|crowd| crowd["network"].as_str().unwrap()).collect();
        found.sort_unstable();
        found
    };
    assert_eq!(found("crowd-requests-asn"), ["AS64496"], "{crowds:?}");
    assert_eq!(found("asn-250"), ["AS64496"], "{crowds:?}");
    assert_eq!(found("asn-100"), ["AS64496", "AS64498", "AS64499"], "{crowds:?}");
    assert!(found("crowd-requests").is_empty() && found("crowd-requests-near").is_empty(), "no single network has enough: {crowds:?}");
}
