//! `strikeout doctor`: looks at every link from a client to the verdict on this machine, and changes nothing.
//!
//! [`gather()`] collects the facts; each check is a pure function from them to findings. A new check is a new entry of [`CHECKS`].
//!
//! | module | job |
//! |---|---|
//! | `facts`, `report` | what the checks are made on, and what they report |
//! | `own`, `server`, `around` | Strikeout itself; Squid and Exim alike; logs, lists, traffic, fleet, hook, metrics |
//! | `squid_config` | Squid's configuration, read as Squid reads it |
//! | `squid`, `exim` | what has to stand in the servers' configurations, and what is wrong with them |
//! | `gather` | reads files and /proc, and asks the daemon and Exim |

mod around;
mod exim;
mod facts;
mod gather;
mod own;
pub mod report;
mod server;
mod squid;
mod squid_config;

pub use gather::{Where, gather};

use facts::Facts;
use report::{Finding, Report};

/// All checks, in the order in which they are reported.
const CHECKS: [fn(&Facts) -> Vec<Finding>; 12] = [
    own::configuration,
    own::daemon,
    own::state,
    own::geo,
    own::crowdsec,
    own::socket,
    squid::checks::check,
    exim::checks::check,
    around::logs,
    around::lists,
    around::traffic,
    around::services,
];

/// Makes all checks.
#[must_use]
pub fn examine(facts: &Facts) -> Report {
    Report::new(CHECKS.iter().flat_map(|check| check(facts)).collect(), facts.unseen.clone())
}
