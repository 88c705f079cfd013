//! The rows of the table in BENCHMARKS.md, one file each.

mod attack;
mod crowds;
mod exim;
mod growth;
mod load;
mod logs;
mod lookups;
mod mail;
mod memory;
mod offences;
mod restart;
mod spread;
mod squid;
mod start;
mod table;
mod userip;

use anyhow::Result;

use crate::Options;
use crate::report::Report;

/// A row of the table.
pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Options, &mut Report) -> Result<()>,
}

pub const ROWS: [Row; 16] = [
    Row { name: "lookups", about: "CPU and lookups/s over a socket pair, beside the echo helper and a Python helper", run: lookups::run },
    Row { name: "userip", about: "the same without channel IDs, beside Squid's ext_file_userip_acl", run: userip::run },
    Row { name: "growth", about: "CPU per lookup as rules, tracked clients and URLs grow", run: growth::run },
    Row { name: "table", about: "a helper on the daemon's table beside one with its own", run: table::run },
    Row {
        name: "load",
        about: "a botnet at four helpers: bans/s, offenders left unbanned, and how long innocent queries wait",
        run: load::run,
    },
    Row {
        name: "restart",
        about: "the same while the daemon is killed, stopped and started: bans lost, and how soon helpers are back",
        run: restart::run,
    },
    Row { name: "spread", about: "what the hook, the fleet, the log and the state file make of a botnet's bans", run: spread::run },
    Row { name: "squid", about: "requests/s and latency through Squid (cached hits, wrk) with each helper", run: squid::run },
    Row {
        name: "attack",
        about: "innocents at a Squid with two workers, beside a botnet and beside as many ordinary clients",
        run: attack::run,
    },
    Row { name: "exim", about: "CPU per SMTP connection and connections/s with each connect ACL", run: exim::run },
    Row { name: "crowds", about: "what counting by network costs an innocent request, and memory at the caps", run: crowds::run },
    Row { name: "mail", about: "how long Exim's connect ACL waits in a flood, while a botnet is banned on the web", run: mail::run },
    Row { name: "logs", about: "lines/s of replay beside grep -c and fail2ban-regex", run: logs::run },
    Row { name: "offences", about: "requests of an offender that are served after its offence", run: offences::run },
    Row { name: "memory", about: "bytes for each tracked client", run: memory::run },
    Row { name: "start", about: "from the start to the first answer, with and without a million bans", run: start::run },
];

/// Returns `quick` in a quick run, otherwise `full`.
pub fn either<T>(options: &Options, quick: T, full: T) -> T {
    if options.quick { quick } else { full }
}
