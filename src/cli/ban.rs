//! `strikeout ban`.

use ipnet::IpNet;
use jiff::tz::TimeZone;

use super::ask::{ask, scope, target};
use super::terminal::{moment, now, span};
use super::{DaemonArguments, Failure, print, print_json};
use crate::control::bans::BanReport;
use crate::control::admin::{AdminRequest, BanLength, BanRequest, check_scope, length};
use crate::event::Scope;

/// Maximum length of a reason, in characters.
const MAX_REASON: usize = 500;

/// `strikeout ban`.
///
/// # Errors
/// An argument cannot be used; the daemon cannot be asked, or refuses, as for a client that is never banned.
pub fn ban(daemon: &DaemonArguments, client: &str, duration: Option<&str>, on: &str, reason: &str) -> Result<(), Failure> {
    let report: BanReport = ask(daemon, &AdminRequest::Ban(ban_request(client, duration, on, reason)?))?;
    if daemon.json {
        return print_json(&report);
    }
    print(&with_warning(ban_text(&report, now(), &TimeZone::system()), report.not_saved.as_deref()))
}

fn ban_text(report: &BanReport, now: i64, zone: &TimeZone) -> String {
    let ends = u64::try_from(report.remaining).map_or_else(
        |_| "forever".to_owned(),
        |left| format!("until {} (in {})", moment(now.saturating_add_unsigned(left), zone), span(left)),
    );
    let places = match report.scope {
        Scope::Web => "on the web",
        Scope::Mail => "in mail",
        Scope::All => "on the web and in mail",
    };
    format!("banned {} {places} {ends}", report.banned)
}

/// A line of text, with the reason why the change may not survive a restart.
pub(super) fn with_warning(text: String, not_saved: Option<&str>) -> String {
    match not_saved {
        Some(reason) => format!("{text}, not saved: {reason}\n"),
        None => text + "\n",
    }
}

fn ban_request(client: &str, duration: Option<&str>, on: &str, reason: &str) -> Result<BanRequest, Failure> {
    let (target, scope) = target_and_scope(client, on)?;
    let length = duration.map_or(Ok(BanLength::Default), length).map_err(|fault| Failure::Usage(fault.to_string()))?;
    Ok(BanRequest { target, length, scope, reason: reason.chars().take(MAX_REASON).collect() })
}

/// Checks the arguments as the daemon would.
fn target_and_scope(argument: &str, on: &str) -> Result<(IpNet, Scope), Failure> {
    let (target, scope) = (target(argument)?, scope(on)?);
    check_scope(target, scope).map_err(|fault| Failure::Usage(fault.to_string()))?;
    Ok((target, scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_is_reported_with_place_and_end() {
        let report = |remaining, scope| BanReport { banned: "192.0.2.1".into(), until: 0, remaining, scope, not_saved: None };
        let text = |remaining, scope| ban_text(&report(remaining, scope), 1_800_000_000, &TimeZone::UTC);
        assert_eq!(text(600, Scope::All), "banned 192.0.2.1 on the web and in mail until 2027-01-15 08:10:00 (in 10 min)");
        assert_eq!(text(-1, Scope::Mail), "banned 192.0.2.1 in mail forever");
        assert_eq!(with_warning(text(-1, Scope::Web), Some("disk full")), "banned 192.0.2.1 on the web forever, not saved: disk full\n");
    }

    #[test]
    fn a_ban_request_is_one_line_whatever_the_reason_holds() {
        let request = |duration, on, reason| ban_request("192.0.2.1", duration, on, reason).map(|ban| AdminRequest::Ban(ban).to_string());
        assert_eq!(request(Some("1d 12h"), "all", ""), Ok("ban 192.0.2.1/32 scope=all for=129600".into()));
        assert_eq!(request(Some("-1"), "web", "a\nb"), Ok("ban 192.0.2.1/32 scope=web for=-1 reason=a b".into()));
        for (client, duration, on) in
            [("1 2\n3", None, "all"), ("192.0.2.1", Some("soon"), "all"), ("192.0.2.1", None, "ftp"), ("192.0.2.0/24", None, "web")]
        {
            assert!(matches!(ban_request(client, duration, on, ""), Err(Failure::Usage(_))), "{client}");
        }
    }
}
