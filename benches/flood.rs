//! A flood of new IPv6 clients against a table with bans: its memory stays under its limit, and every ban stays in force.
//!
//! `cargo bench --bench flood [-- CLIENTS]`, 100,000,000 by default, each with one strike; `tests/long/flood` runs it. It fails if a ban
//! was evicted, an innocent client was refused, or the memory grew beyond [`CAP`].
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a measurement, not part of the product")]

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use strikeout::internals::client::Client;
use strikeout::internals::config::Config;
use strikeout::internals::detector::Detector;
use strikeout::internals::detector::Judgement;
use strikeout::internals::engine::reply::Reply;
use strikeout::internals::engine::{BanRecord, Completion, Engine};
use strikeout::internals::event::{Event, Request, Scope, Service};
use strikeout::internals::rule::set::Scratch;
use strikeout::internals::rule::{Evidence, Offence};
use strikeout::internals::rule_id::RuleNames;
use strikeout::internals::table::Until;
use strikeout::internals::time::{Span, Time};

const CLIENTS: usize = 1_000_000;
const BANS: u64 = 10_000;
/// Number of permanent bans by an operator, which must never be evicted.
const MANUAL: u64 = 1000;
/// Maximum growth of the memory: 110 bytes for each of the `clients` that the configuration allows, and the behaviour of recent clients.
const CAP: u64 = 110 * CLIENTS as u64 + BEHAVIOUR;
/// Memory for the behaviour of the latest 100,000 clients, from which false positives are found.
const BEHAVIOUR: u64 = 12_000_000;
/// New clients per millisecond: all 10⁸ come within the findtime of ten minutes, so that no strike expires.
const EACH_MILLISECOND: u64 = 1000;

const RULE: &str = "[[rule]]\nname = 'flood'\npath = '^/flood'\nmaxretry = 3\nfindtime = '10m'\nbantime = '1h'\n";
const START: Time = Time::from_secs(1_800_000_000);

/// The `number`th client. Multiplying by an odd number is a bijection, so no two clients share a /64, and scatters neighbours like random
/// prefixes.
fn address(number: u64) -> IpAddr {
    let network = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    IpAddr::V6(Ipv6Addr::from((u128::from(network) << 64) | 1))
}

/// A field of `/proc/self/status`, in bytes.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let kilobytes = status.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("a field in kB") * 1024
}

fn is_refused(engine: &Arc<Engine>, address: IpAddr, now: Time) -> bool {
    let policy = engine.policy();
    let event = Event::Request(Request { method: b"GET", url: b"/", ..Request::default() });
    match Detector::new(&policy, engine.bans()).judge(now, address, &event, &mut Scratch::default()) {
        Judgement::Settled { verdict, .. } => verdict.refusal().is_some(),
        Judgement::Unsaved(_) | Judgement::Offence(_) | Judgement::Ask { .. } => false,
    }
}

fn main() -> ExitCode {
    let flood: u64 = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(100_000_000);
    let names = Arc::new(RuleNames::default());
    let config = Config::parse(RULE.as_bytes(), Path::new("flood.toml"), &names).expect("a valid configuration");
    let engine = Arc::new(Engine::new(names, config.into(), CLIENTS, 1_000_000).expect("a thread can be started"));
    let prefix = engine.policy().prefix;
    let rule = Arc::clone(engine.policy().rules.by_name("flood").expect("the rule above"));
    let evidence = Evidence::new(&[b"GET /flood"]);
    let mut offence =
        Offence { address: address(0), client: Client::of(address(0), prefix), rules: vec![rule], evidence, marks: None, account: None };
    let mut strike = |number: u64, now: Time| {
        offence.address = address(number);
        offence.client = Client::of(offence.address, prefix);
        engine.record_offence(now, &offence, Service::Web, Reply::new(|_| ()));
    };

    // Banned clients have numbers above those of the flood.
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
        engine.ban(record, Completion::ignored());
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

    let active = (flood..flood + BANS + MANUAL).filter(|number| is_refused(&engine, address(*number), now)).count() as u64;
    let refused = (0..flood).step_by(9973).filter(|number| is_refused(&engine, address(*number), now)).count();
    let grown = peak.saturating_sub(before);
    println!("strikes of new /64s      {flood:>15}");
    println!("ns a strike              {:>15}", took.as_nanos() / u128::from(flood.max(1)));
    println!("live counters            {:>15}", engine.strikes().len());
    println!("evicted                  {:>15}", engine.strikes().evicted());
    println!("memory before, bytes     {before:>15}");
    println!("peak memory, bytes       {peak:>15}");
    println!("grown, bytes             {grown:>15}  (cap {CAP})");
    println!("bans in force            {active:>15}  (of {})", BANS + MANUAL);
    println!("innocent clients refused {refused:>15}");
    let holds = active == BANS + MANUAL && refused == 0 && grown <= CAP && engine.strikes().len() <= CLIENTS;
    println!("{}", if holds { "the table held" } else { "FAILED" });
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
