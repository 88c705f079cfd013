//! `strikeout`'s subcommands against a running daemon: the text for operators and the JSON for programs.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "../harness/mod.rs"]
mod harness;

mod bans;
mod crowd_thresholds;
mod crowds;
mod geo;
mod geo_by_hand;
mod hook;
mod logs;
mod metrics;
mod pause;
mod reload;
mod status;
mod why;

use serde_json::json;

use harness::{Daemon, SquidHelper, wait_until};

/// Two incident rules: one bans in mail at the second strike, one only counts.
const RULES: &str = "[defaults]\nignoreip = ['203.0.113.99']\ndeny = ['203.0.113.66']\n\
    [[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 2\nscope = 'mail'\ndescription = 'A bad greeting.'\n\
    [[rule]]\nname = 'quiet'\nevent = 'incident'\nmaxretry = 1\nmode = 'shadow'\n";

/// A Squid helper that uses the daemon's table.
fn attach(daemon: &Daemon) -> SquidHelper {
    let helper = SquidHelper::attach(daemon.stage());
    wait_until("the helper is attached", || daemon.json(&["status"]).get("subscribers") == Some(&json!(1)));
    helper
}

/// The words of the line whose first word is `word`.
fn row<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words.first() == Some(&word)).unwrap_or_default()
}
