//! A flood of new IPv6 clients against a table with bans: its memory stays under its cap, and every ban stays in place.
//!
//! `cargo bench --bench flood [-- CLIENTS]`, 100,000,000 by default, each with one strike; `tests/long/flood` runs it. It fails if a ban
//! fell, an innocent client was refused, or the memory grew beyond [`CAP`].
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a measurement, not part of the product")]

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use strikeout::client::Client;
use strikeout::config::Config;
use strikeout::detector::Judgement;
use strikeout::engine::{BanRecord, Engine};
use strikeout::event::{Event, Request, Scope, Surface};
use strikeout::reply::Reply;
use strikeout::rule::set::Scratch;
use strikeout::rule::{Evidence, Names, Offence};
use strikeout::table::Until;
use strikeout::time::{Span, Time};

const CLIENTS: usize = 1_000_000;
const BANS: u64 = 10_000;
/// As many again by hand, without end: these must not even fall when bans crowd each other.
const MANUAL: u64 = 1000;
/// What the strikes may take: 110 bytes for each of the `clients` that the configuration allows; and what does not grow with `clients`: the
/// conduct of the latest 100,000 clients, for the false-ban budget.
const CAP: u64 = 110 * CLIENTS as u64 + CONDUCT;
const CONDUCT: u64 = 12_000_000;
/// So many new clients come in a millisecond: all 10⁸ within the findtime of ten minutes, so that none of them ends by itself.
const EACH_MILLISECOND: u64 = 1000;

const RULE: &str = "[[rule]]\nname = 'flood'\npath = '^/flood'\nmaxretry = 3\nfindtime = '10m'\nbantime = '1h'\n";
const START: Time = Time::from_secs(1_800_000_000);

/// The `number`th client: no two share a /64. Multiplied by an odd number, neighbours are far apart, as random prefixes are.
fn address(number: u64) -> IpAddr {
    let network = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    IpAddr::V6(Ipv6Addr::from((u128::from(network) << 64) | 1))
}

/// A line of this process's status, in bytes.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let kilobytes = status.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("the kernel says how much memory is used") * 1024
}

fn is_refused(engine: &Arc<Engine>, address: IpAddr, now: Time) -> bool {
    let in_force = engine.in_force();
    let event = Event::Request(Request { method: b"GET", url: b"/", ..Request::default() });
    match in_force.detector(engine.bans()).judge(now, address, &event, &mut Scratch::default()) {
        Judgement::Settled { verdict, .. } => verdict.refusal().is_some(),
        Judgement::Unkept(_) | Judgement::Offence(_) => false,
    }
}

fn main() -> ExitCode {
    let flood: u64 = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(100_000_000);
    let names = Arc::new(Names::default());
    let config = Config::parse(RULE.as_bytes(), Path::new("flood.toml"), &names).expect("a sound configuration");
    let engine = Arc::new(Engine::new(names, config.into(), CLIENTS, 1_000_000).expect("a thread can be started"));
    let prefix = engine.in_force().prefix;
    let rule = Arc::clone(engine.in_force().rules.by_name("flood").expect("the rule above"));
    let evidence = Evidence::new(&[b"GET /flood"]);
    let mut offence = Offence { address: address(0), client: Client::of(address(0), prefix), rules: vec![rule], evidence };
    let mut strike = |number: u64, now: Time| {
        offence.address = address(number);
        offence.client = Client::of(offence.address, prefix);
        engine.offend(now, &offence, Surface::Web, Reply::new(|_| ()));
    };

    // Those who are banned have the numbers behind the flood's.
    for number in flood..flood + BANS {
        for _ in 0..3 {
            strike(number, START);
        }
    }
    for number in flood + BANS..flood + BANS + MANUAL {
        let record = BanRecord {
            client: Client::of(address(number), prefix),
            scope: Scope::All,
            rule: "manual".into(),
            first: START,
            since: START,
            until: Until::NEVER,
            count: 0,
            times: 1,
            evidence: Evidence::new(&[]),
            node: "".into(),
        };
        engine.ban(record, Reply::new(|_| ()));
    }

    let before = memory("VmRSS:");
    let begun = Instant::now();
    let mut now = START;
    for number in 0..flood {
        if number % EACH_MILLISECOND == 0 {
            now = now.after(Span::from_millis(1));
            if now.millis().is_multiple_of(1000) {
                engine.sweep(now);
            }
        }
        strike(number, now);
    }
    let took = begun.elapsed();
    let peak = memory("VmHWM:");

    let standing = (flood..flood + BANS + MANUAL).filter(|number| is_refused(&engine, address(*number), now)).count() as u64;
    let refused = (0..flood).step_by(9973).filter(|number| is_refused(&engine, address(*number), now)).count();
    let grown = peak.saturating_sub(before);
    println!("strikes of new /64s      {flood:>15}");
    println!("ns a strike              {:>15}", took.as_nanos() / u128::from(flood.max(1)));
    println!("live counters            {:>15}", engine.strikes().len());
    println!("pushed out               {:>15}", engine.strikes().evicted());
    println!("memory before, bytes     {before:>15}");
    println!("peak memory, bytes       {peak:>15}");
    println!("grown, bytes             {grown:>15}  (cap {CAP})");
    println!("bans standing            {standing:>15}  (of {})", BANS + MANUAL);
    println!("innocent clients refused {refused:>15}");
    let holds = standing == BANS + MANUAL && refused == 0 && grown <= CAP && engine.strikes().len() <= CLIENTS;
    println!("{}", if holds { "the table held" } else { "FAILED" });
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
