//! Old logs: `strikeout replay`, `grep -c` with the same expression and `fail2ban-regex` on the same file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use strikeout::internals::rule::builtin;

use super::either;
use crate::child::children_cpu;
use crate::report::{Goal, Report};
use crate::series::{paired, ratio};
use crate::traffic::{Random, WORDS};
use crate::world::World;
use crate::{Options, programs};

/// A log, the seed rules for it, and the equivalent expressions for grep and fail2ban.
struct Log {
    name: &'static str,
    line: fn(&mut Random, u32) -> String,
    seeds: &'static [&'static str],
    grep: &'static str,
    failregex: &'static str,
}

const LOGS: [Log; 2] = [
    Log {
        name: "Squid",
        line: squid_line,
        seeds: &["w00tw00t"],
        grep: "/w[o0]{2}tw[o0]{2}t",
        // fail2ban removes the time from the line before it matches the rest.
        failregex: r"^\s*\d+\s+<HOST>\s.*(?i:/w[o0]{2}tw[o0]{2}t)",
    },
    Log {
        name: "Exim",
        line: exim_line,
        seeds: &["exim-per-host", "exim-global"],
        grep: "refused: too many connections",
        failregex: r"\[<HOST>\] .*refused: too many connections",
    },
];

/// The beginning of 2026-11-01 in UTC.
const START: u32 = 1_793_491_200;

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let world = World::new()?;
    let fail2ban = programs::find(&["fail2ban-regex"]);
    let lines = either(options, 50_000, 1_000_000);
    // One line in a thousand.
    let hits = lines / 1000;
    for log in LOGS {
        let case = format!("{}'s log", log.name);
        let file = write(&world, &log, lines)?;
        let seeds = world.write("seeds.toml", only(log.seeds)?)?;
        let all = world.write("all.toml", "")?;
        let replay = |config: &Path| {
            let mut command = Command::new(programs::STRIKEOUT);
            command.args(["replay", "--json", "--zone", "UTC", "--config"]).arg(config).arg(&file);
            command
        };
        let mut grep = Command::new("grep");
        grep.args(["-ciE", log.grep]).arg(&file).env("LC_ALL", "C");
        let mut commands = vec![("strikeout, seed rules", replay(&seeds)), ("strikeout, all rules", replay(&all)), ("grep -c", grep)];
        match &fail2ban {
            Ok(fail2ban) => {
                let mut command = Command::new(fail2ban);
                command.arg("--print-no-missed").arg(&file).arg(log.failregex).env("TZ", "UTC");
                commands.push(("fail2ban-regex", command));
            }
            Err(error) => report.note(&format!("without fail2ban: {error}")),
        }
        let mut per_core: Vec<Vec<f64>> = commands.iter().map(|_| Vec::new()).collect();
        let mut per_second = per_core.clone();
        for round in 0..=options.repeat.unwrap_or(either(options, 1, 7)) {
            for position in 0..commands.len() {
                let number = (position + round) % commands.len();
                let (name, command) = &mut commands[number];
                let (before, start) = (children_cpu()?, Instant::now());
                let output = command.stdin(Stdio::null()).stderr(world.log("replay")?).output()?;
                let (cpu, wall) = (children_cpu()?.saturating_sub(before), start.elapsed());
                anyhow::ensure!(
                    output.status.success(),
                    "{name}: {}: {}",
                    output.status,
                    std::fs::read_to_string(world.path("replay.log"))?
                );
                // Each contender must have read every line and found every hit.
                let printed = String::from_utf8_lossy(&output.stdout);
                let finds = match *name {
                    "grep -c" => printed.trim_end() == hits.to_string(),
                    "fail2ban-regex" => printed.contains(&format!("{lines} lines, 0 ignored, {hits} matched")),
                    _ => {
                        let report: serde_json::Value = serde_json::from_str(&printed)?;
                        let number = |name: &str| report["total"][name].as_u64();
                        // A probe of a client that is banned already is refused and not counted as an offence.
                        number("lines") == Some(u64::from(lines))
                            && number("offences").is_some_and(|offences| offences > u64::from(hits / 2))
                    }
                };
                anyhow::ensure!(finds, "{name}: expected {hits} of {lines} lines to match, found:\n{printed}");
                if round > 0 {
                    per_core[number].push(f64::from(lines) / cpu.as_secs_f64());
                    per_second[number].push(f64::from(lines) / wall.as_secs_f64());
                }
            }
        }
        for (number, (name, ..)) in commands.iter().enumerate() {
            report.series(&case, name, "lines/s of one core", &per_core[number]);
            report.series(&case, name, "lines/s", &per_second[number]);
        }
        let ours = paired(&per_core[0], &per_core[0], |ours, _| ours);
        report.finding(&case, "seed rules", "lines/s of one core", ours, Some(Goal::AtLeast(1_500_000.0)));
        let ours = paired(&per_core[1], &per_core[1], |ours, _| ours);
        report.finding(&case, "all rules", "lines/s of one core", ours, None);
        report.finding(&case, "seed rules to grep -c", "×", paired(&per_core[0], &per_core[2], ratio), None);
        if let Some(theirs) = per_core.get(3) {
            report.finding(&case, "seed rules to fail2ban-regex", "×", paired(&per_core[0], theirs, ratio), Some(Goal::AtLeast(50.0)));
            report.finding(&case, "all rules to fail2ban-regex", "×", paired(&per_core[1], theirs, ratio), None);
        }
    }
    Ok(())
}

fn write(world: &World, log: &Log, lines: u32) -> Result<PathBuf> {
    let mut random = Random(5);
    let mut text = String::new();
    for number in 0..lines {
        text.push_str(&(log.line)(&mut random, number));
        text.push('\n');
    }
    world.write(&format!("{}-{lines}.log", log.name), text)
}

/// A configuration with only these rules enabled.
fn only(names: &[&str]) -> Result<String> {
    let mut text = String::new();
    for spec in builtin::specs().map_err(anyhow::Error::msg)? {
        let name = spec.name.get_ref().as_str();
        if !names.contains(&name) {
            write!(text, "[[rule]]\nname = '{name}'\nenabled = false\n").context("a string")?;
        }
    }
    Ok(text)
}

/// One of 200,000 clients, number n with probability proportional to 1/n: as in the log of a busy site, few clients write most lines.
fn address(random: &mut Random) -> String {
    let client = (200_000_f64.powf(random.unit()) as u32).wrapping_mul(0x9e37_79b1);
    format!("{}.{}.{}.{}", 64 + (client >> 24 & 3), client >> 16 & 255, client >> 8 & 255, client & 255)
}

fn word(random: &mut Random) -> &'static str {
    WORDS[random.below(WORDS.len() as u32) as usize]
}

/// One line in a thousand is a probe.
fn squid_line(random: &mut Random, number: u32) -> String {
    let path = if number % 1000 == 999 {
        "w00tw00t.at.ISC.SANS.DFind:)".to_owned()
    } else {
        format!("{}/{}-{}.html", word(random), word(random), random.below(10_000))
    };
    format!(
        "{}.{:03} {:6} {} TCP_MISS/200 {} GET http://www.example.org/{path} - HIER_DIRECT/203.0.113.80 text/html",
        START + number / 100,
        number % 1000,
        random.below(900),
        address(random),
        random.below(100_000)
    )
}

/// One line in a thousand is a refusal; the rest is mail.
fn exim_line(random: &mut Random, number: u32) -> String {
    let second = number / 100;
    let date = format!("2026-11-{:02} {:02}:{:02}:{:02}", 1 + second / 86_400, second / 3600 % 24, second / 60 % 60, second % 60);
    let address = address(random);
    match number % 1000 {
        999 => format!("{date} Connection from [{address}] refused: too many connections from that IP address"),
        other => {
            let id = format!("1tF{:06x}-00{:04X}-{:02X}", number, random.below(65_536), random.below(256));
            let user = format!("{}{}@example.org", word(random), random.below(1000));
            match other % 4 {
                0 => format!(
                    "{date} {id} <= {user} H=mail{}.example.net [{address}] P=esmtps X=TLS1.3:TLS_AES_256_GCM_SHA384:256 CV=no S={} id={number}@example.net",
                    random.below(100),
                    random.below(100_000)
                ),
                1 => format!(
                    "{date} {id} => {user} R=dnslookup T=remote_smtp H=mx.example.net [{address}] X=TLS1.3:TLS_AES_256_GCM_SHA384:256 CV=yes C=\"250 OK\""
                ),
                2 => format!("{date} {id} Completed"),
                _ => format!("{date} no host name found for IP address {address}"),
            }
        }
    }
}
