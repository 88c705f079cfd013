//! Counting crowds: what it costs an innocent request, and the memory of full tables of networks and accounts.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use strikeout::internals::client::Client;
use strikeout::internals::config::Config;
use strikeout::internals::engine::Engine;
use strikeout::internals::engine::reply::Reply;
use strikeout::internals::event::Service;
use strikeout::internals::rule::{Evidence, Offence, Rule};
use strikeout::internals::rule_id::RuleNames;
use strikeout::internals::table::RequestTally;
use strikeout::internals::time::Time;

use super::either;
use super::lookups::{LOADS, Turns, column, report_samples};
use crate::Options;
use crate::child::own_memory;
use crate::pipe::{Helper, Sample};
use crate::report::{Goal, Report};
use crate::series::{median, paired, ratio};
use crate::traffic::{Clients, Traffic};
use crate::world::{World, prepare};

const RULES: [&str; 2] = ["crowd-requests", "crowd-requests-near"];

/// A site's visitors, of whom some ask far more than others; and clients that each ask once, as the members of a crowd do: their networks are
/// in no cache.
const POPULATIONS: [(&str, Clients); 2] = [("visitors", Clients::Zipf(100_000)), ("strangers", Clients::Strangers)];

/// Short stretches in turn, and many of them: what else the machine does then meets all contenders alike.
const STRETCH: Duration = Duration::from_millis(100);
const REPEAT: usize = 61;

/// Groups that the table holds, unless configured otherwise, and the members that are remembered of each on average.
const GROUPS: u32 = 100_000;
const MEMBERS: u32 = 32;

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    cost(options, report)?;
    memory(report)
}

/// The two built-in rules that count requests by network, in force but never reached, beside the same helper without them.
fn cost(options: &Options, report: &mut Report) -> Result<()> {
    let world = World::new()?;
    let bans = either(options, 20_000, 1_000_000);
    let rules = |keys: &str| RULES.map(|name| format!("[[rule]]\nname = '{name}'\n{keys}\n")).concat();
    let start = |name: &str, rules: &str| -> Result<Helper> {
        let state = world.state(&format!("{name}.db"), bans)?;
        let config = world.config(&format!("{name}.toml"), rules)?;
        let mut helper = Helper::start(&mut world.embedded(&config, Some(&state))?)?;
        prepare(&mut helper, bans, either(options, 10_000, 100_000))?;
        Ok(helper)
    };
    // Without a database the rule for systems counts nothing, but it is in force.
    let mut off = start("off", &(rules("enabled = false") + "[[rule]]\nname = 'crowd-requests-asn'\nenabled = false\n"))?;
    let mut on = start("on", &rules("mode = 'enforce'\nmaxretry = 4000000000"))?;
    let mut shadow = start("shadow", &rules("maxretry = 4000000000"))?;
    for (load, (population, clients)) in [LOADS[1], LOADS[4]].into_iter().flat_map(|load| POPULATIONS.map(|population| (load, population)))
    {
        for bare in [0, 10, 100] {
            let case = format!("{population}, {}, {bare} of 100 without a source", load.name());
            let mut contenders = [("off", &mut off), ("on", &mut on), ("shadow", &mut shadow)];
            let turns = Turns { repeat: options.repeat.unwrap_or(either(options, 3, REPEAT)), stretch: STRETCH };
            let samples = turns.measure(&mut contenders, load, |_| Traffic::with_referers(clients, bare))?;
            report_samples(report, &case, &contenders.map(|(name, _)| name), &samples);
            for (number, what) in [(1, "CPU, on to off"), (2, "CPU, in shadow mode to off")] {
                let cpu = paired(&column(&samples[number], Sample::cpu_us), &column(&samples[0], Sample::cpu_us), ratio);
                // Innocent browsers say where they come from, but for a few requests.
                report.finding(&case, what, "×", cpu, (bare < 100).then_some(Goal::AtMost(1.1)));
            }
        }
    }
    Ok(())
}

/// The growth of this process while each network, or each account, gets as many members as the table holds of each.
fn memory(report: &mut Report) -> Result<()> {
    let off = ["web-rate", RULES[0], RULES[1]].map(|name| format!("[[rule]]\nname = '{name}'\nenabled = false\n")).concat();
    let rules = "[[rule]]\nname = 'network'\nevent = 'request'\ncount_by = 'network'\nmembers = 1024\nmaxretry = 4000000000\nfindtime = '4w'\n\
                 [[rule]]\nname = 'account'\nevent = 'incident'\ncount_by = 'account'\nmembers = 1024\nmaxretry = 4000000000\nfindtime = '4w'\n\
                 [[rule]]\nname = 'other'\nevent = 'incident'\nmaxretry = 2\n";
    let names = Arc::new(RuleNames::default());
    let config = Config::parse((off + rules).as_bytes(), std::path::Path::new("crowds.toml"), &names)?;
    let engine = Arc::new(Engine::new(names, config.into(), 1_000_000, 1_000_000)?);
    let now = Time::from_secs(1_800_000_000);
    let address = |number: u32| IpAddr::from(Ipv4Addr::from_bits(0x2000_0000 + number));
    let client = |number: u32| Client::of(address(number), engine.policy().prefix);
    let guess = |rule: &Arc<Rule>, number: u32, account: Option<u32>| {
        let account = account.and_then(|account| engine.accounts().named(&account.to_string()));
        let (rules, evidence) = (vec![Arc::clone(rule)], Evidence::new(&[]));
        let offence = Offence { address: address(number), client: client(number), rules, evidence, marks: None, account };
        engine.record_offence(now, &offence, Service::Mail, Reply::new(|_| ()));
    };
    let rule = |name: &str| engine.policy().rules.by_name(name).cloned().context("one of the rules above");
    // The behaviour of the latest 100,000 clients is remembered whatever is counted.
    let other = rule("other")?;
    (0..2 * GROUPS).for_each(|number| guess(&other, number, None));
    let before = own_memory()?;
    let mut tallies = Vec::new();
    for member in 0..MEMBERS {
        for network in 0..GROUPS {
            let number = network * 256 + member;
            tallies.push(RequestTally::new(address(number), client(number), 1));
            if tallies.len() == 1000 {
                engine.count_requests(now, &mut tallies);
                tallies.clear();
            }
        }
    }
    let networks = own_memory()?;
    let rule = rule("account")?;
    for guesser in 0..MEMBERS {
        (0..GROUPS).for_each(|account| guess(&rule, account * 256 + guesser, Some(account)));
    }
    let accounts = own_memory()?;
    for login in 0..GROUPS {
        let account = engine.accounts().named(&login.to_string()).context("a name")?;
        engine.note_login(now, &rule, account, client(login));
    }
    let logins = own_memory()?;
    let case = format!("{GROUPS} of each, {MEMBERS} members");
    for (what, less, more) in [("networks", before, networks), ("accounts", networks, accounts), ("logins", accounts, logins)] {
        report.finding(&case, what, "MB", median(&[more.saturating_sub(less) as f64 / 1e6]), None);
    }
    Ok(())
}
