//! The text of an explanation, a titled line at a time.

use std::fmt::Write;

use jiff::tz::TimeZone;

use super::terminal::{Colours, moment, span};
use crate::control::explanation::NetworkBan;
use crate::event::Scope;

/// Builds the text, a titled line at a time.
pub(super) struct Printer {
    pub(super) text: String,
    now: i64,
    zone: TimeZone,
    pub(super) colours: Colours,
}

impl Printer {
    pub(super) fn new(now: i64, zone: TimeZone, colours: Colours) -> Self {
        Self { text: String::new(), now, zone, colours }
    }

    pub(super) fn line(&mut self, title: &str, rest: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "  {} {rest}", self.colours.weak(&format!("{title:<9}")));
    }

    pub(super) fn ago(&self, seconds: u64) -> String {
        format!("{} ({} ago)", moment(self.now.saturating_sub_unsigned(seconds), &self.zone), span(seconds))
    }

    pub(super) fn end(&self, remaining: i64) -> String {
        match u64::try_from(remaining) {
            Ok(left) => format!("until {} (in {})", moment(self.now.saturating_add_unsigned(left), &self.zone), span(left)),
            Err(_) => "forever".to_owned(),
        }
    }

    pub(super) fn network(&mut self, ban: &NetworkBan) {
        let by = if ban.rule == "manual" { "by hand".to_owned() } else { format!("by {}", ban.rule) };
        let (since, end) = (self.ago(ban.since_ago), self.end(ban.remaining));
        let place = if ban.scope == Scope::All { String::new() } else { format!(" (scope {})", ban.scope.as_str()) };
        self.line("network", &format!("{} is banned {by}{place} since {since}, {end}", ban.network));
        if let Some(by) = &ban.by {
            self.line("by", by);
        }
        if ban.members > 0 {
            self.line("members", &format!("{} clients or more", ban.members));
        }
        if let Some(reason) = &ban.reason {
            self.line(if ban.members > 0 { "evidence" } else { "reason" }, reason);
        }
        if let Some(node) = &ban.node {
            self.line("machine", node);
        }
    }
}
