//! `strikeout pause` and `strikeout resume`.

use jiff::tz::TimeZone;

use super::ask::ask;
use super::ban::with_warning;
use super::terminal::{moment, now, span};
use super::{DaemonArguments, Failure, print, print_json};
use crate::control::admin::{AdminRequest, pause_length};
use crate::control::pause::{PauseReport, ResumeReport};

/// `strikeout pause`.
///
/// # Errors
/// The duration cannot be used, or the daemon cannot be asked.
pub fn pause(daemon: &DaemonArguments, duration: Option<&str>) -> Result<(), Failure> {
    let length = pause_length(duration.unwrap_or_default()).map_err(|fault| Failure::Usage(fault.to_string()))?;
    let report: PauseReport = ask(daemon, &AdminRequest::Pause(length))?;
    if daemon.json {
        return print_json(&report);
    }
    print(&with_warning(pause_text(&report, now(), &TimeZone::system()), report.not_saved.as_deref()))
}

fn pause_text(report: &PauseReport, now: i64, zone: &TimeZone) -> String {
    let left = u64::try_from(report.paused.remaining).unwrap_or(0);
    format!("everybody is served until {} (for {})", moment(now.saturating_add_unsigned(left), zone), span(left))
}

/// `strikeout resume`.
///
/// # Errors
/// The daemon cannot be asked.
pub fn resume(daemon: &DaemonArguments) -> Result<(), Failure> {
    let report: ResumeReport = ask(daemon, &AdminRequest::Resume)?;
    if daemon.json {
        return print_json(&report);
    }
    let text = if report.resumed { "resumed: banned clients are refused again" } else { "there was no pause" };
    print(&with_warning(text.to_owned(), report.not_saved.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::pause::PauseStatus;

    #[test]
    fn a_pause_is_reported_with_its_end() {
        let paused = PauseStatus { since: 1_800_000_000, until: 1_800_001_800, remaining: 1800, by: String::new() };
        let text = pause_text(&PauseReport { paused, not_saved: None }, 1_800_000_000, &TimeZone::UTC);
        assert_eq!(text, "everybody is served until 2027-01-15 08:30:00 (for 30 min)");
    }
}
