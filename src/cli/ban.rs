//! `strikeout ban`.

use std::path::PathBuf;

use jiff::tz::TimeZone;

use super::ask::{ask_waiting, scope, target};
use super::origin::OriginArguments;
use super::terminal::{moment, now, span};
use super::{DaemonArguments, Failure, ban_from, print, print_json};
use crate::control::admin::{AdminRequest, BanLength, BanRequest, MAX_REASON, check_scope, length};
use crate::control::bans::BanReport;
use crate::control::request_error::RequestError;
use crate::event::Scope;
use crate::geo::Network;
use crate::time::Time;

/// The arguments of `ban`.
#[derive(Debug, clap::Args)]
pub struct BanArguments {
    /// An IP address, a network such as 192.0.2.0/24, a system such as AS64496, or a country such as country:XX.
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    target: Option<String>,
    /// How long, such as 90s, 10m or 2d; -1 forever. [default: 1h]
    #[arg(allow_hyphen_values = true)]
    duration: Option<String>,
    /// Ban everybody in this file, - for the standard input: what `strikeout list --json` has printed, or an address or network on each line.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["duration", "origin"])]
    from: Option<PathBuf>,
    /// Where the ban refuses: web, mail or all. A network is always banned everywhere.
    #[arg(long, default_value = "all")]
    scope: String,
    /// The reason, shown by `strikeout why`.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    origin: OriginArguments,
    #[command(flatten)]
    daemon: DaemonArguments,
}

/// `strikeout ban`.
///
/// # Errors
/// An argument cannot be used; the daemon cannot be asked, or refuses, as for a client that is never banned.
pub fn run(arguments: &BanArguments) -> Result<(), Failure> {
    let BanArguments { target, duration, from, scope, reason, origin, daemon } = arguments;
    if let Some(from) = from {
        // The address stands for those in the file.
        return ban_from::run(daemon, from, &ban_request("0.0.0.0", None, scope, reason)?);
    }
    let mut request = ban_request(target.as_deref().unwrap_or_default(), duration.as_deref(), scope, reason)?;
    request.rule = origin.rule()?;
    if let Some(until) = origin.until(duration.as_deref())?.filter(|until| *until >= 0) {
        let Some(until) = u64::try_from(until).ok().filter(|_| until > now()) else {
            return print(&format!("the ban of {} has ended\n", request.target));
        };
        request.length = BanLength::Until(Time::from_secs(until));
    }
    let report: BanReport = ask_waiting(daemon, &AdminRequest::Ban(request), origin.wait()?)?;
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
    let length = duration.map_or(Ok(BanLength::Default), |text| length(text).map(Into::into));
    let length = length.map_err(|fault| Failure::Usage(fault.to_string()))?;
    Ok(BanRequest { target, length, scope, rule: None, reason: reason.chars().take(MAX_REASON).collect() })
}

/// Checks the arguments as the daemon would.
fn target_and_scope(argument: &str, on: &str) -> Result<(Network, Scope), Failure> {
    let usage = |fault: RequestError| Failure::Usage(fault.to_string());
    let (target, scope) = (target(argument)?, scope(on)?);
    check_scope(target, scope, None).map_err(usage)?;
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
        assert_eq!(
            ban_request("as64496", None, "all", "").map(|ban| AdminRequest::Ban(ban).to_string()),
            Ok("ban AS64496 scope=all".into())
        );
        assert_eq!(
            ban_request("country:de", None, "all", "").map(|ban| AdminRequest::Ban(ban).to_string()),
            Ok("ban country:DE scope=all".into())
        );
        assert_eq!(request(Some("-1"), "web", "a\nb"), Ok("ban 192.0.2.1/32 scope=web for=-1 reason=a b".into()));
        for (client, duration, on) in [
            ("1 2\n3", None, "all"),
            ("192.0.2.1", Some("soon"), "all"),
            ("192.0.2.1", None, "ftp"),
            ("192.0.2.0/24", None, "web"),
            ("AS64496", None, "web"),
            ("AS0", None, "all"),
            ("country:DE", None, "web"),
            ("country:DEU", None, "all"),
            ("country:", None, "all"),
            ("DE", None, "all"),
        ] {
            assert!(matches!(ban_request(client, duration, on, ""), Err(Failure::Usage(_))), "{client}");
        }
    }
}
