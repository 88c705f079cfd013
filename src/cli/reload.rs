//! `strikeout reload`.

use std::fmt::Write as _;

use super::ask::ask;
use super::terminal::counted;
use super::{DaemonArguments, Failure, print, print_json};
use crate::control::admin::AdminRequest;
use crate::control::config::ReloadReport;

/// Makes the daemon read its configuration again.
///
/// # Errors
/// The daemon cannot be asked, or refuses the configuration.
pub fn run(daemon: &DaemonArguments) -> Result<(), Failure> {
    let report: ReloadReport = ask(daemon, &AdminRequest::Reload)?;
    if daemon.json {
        return print_json(&report);
    }
    print(&text(&report))
}

fn text(report: &ReloadReport) -> String {
    let config = &report.config;
    let verb = if config.pieces.is_empty() { "is" } else { "are" };
    let mut text = format!(
        "reloaded: {} {verb} in force, with {} and {} in shadow\n",
        config.files(),
        counted(config.enforced, "rule"),
        config.shadow
    );
    // Writing to a string cannot fail.
    for lifted in &report.lifted {
        let _ = writeln!(text, "{} of rule {} ended: it is {}", counted(lifted.bans, "ban"), lifted.rule, lifted.because);
    }
    for note in &report.notes {
        let _ = writeln!(text, "warning: {note}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::{ConfigStatus, LiftedRule};

    #[test]
    fn a_reload_is_reported_with_what_is_in_force_and_the_bans_that_ended() {
        let config = ConfigStatus { file: "/etc/s.toml".into(), enforced: 12, shadow: 3, ..ConfigStatus::default() };
        let lifted = vec![LiftedRule { rule: "login".into(), because: "in shadow mode".into(), bans: 1 }];
        let report = ReloadReport { reloaded: true, notes: vec!["[fleet] waits".into()], lifted, config };
        assert_eq!(
            text(&report),
            "reloaded: /etc/s.toml is in force, with 12 rules and 3 in shadow\n1 ban of rule login ended: it is in shadow mode\n\
             warning: [fleet] waits\n"
        );
    }
}
