//! `strikeout doctor`: what is broken between a client and the verdict, and how to mend it.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::terminal::{Colours, counted};
use super::{DaemonArguments, Failure, print, print_json};
use crate::doctor::report::{Finding, Level, Report};
use crate::doctor::{Where, examine, gather};

/// The arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Look at the Squid that runs with this configuration alone. [default: every Squid that runs]
    #[arg(long, value_name = "FILE")]
    squid: Option<PathBuf>,
    /// Look at the Exim that runs with this configuration alone. [default: every Exim that runs]
    #[arg(long, value_name = "FILE")]
    exim: Option<PathBuf>,
}

/// `strikeout doctor`.
///
/// # Errors
/// There is a fault, which the report names.
pub fn run(arguments: &DoctorArguments) -> Result<(), Failure> {
    let DoctorArguments { daemon, squid, exim } = arguments;
    let place = Where { config: daemon.config.clone(), socket: daemon.table.clone(), squid: squid.clone(), exim: exim.clone() };
    let report = examine(&gather(&place));
    if daemon.json {
        print_json(&report)?
    } else {
        print(&text(&report, Colours::of_stdout()))?
    }
    // The report has said what failed.
    if report.faults == 0 { Ok(()) } else { Err(Failure::Failed(String::new())) }
}

fn text(report: &Report, colours: Colours) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for Finding { check, level, text: found, remedy } in &report.findings {
        let level = match level {
            Level::Ok => colours.good("ok     "),
            Level::Warning => colours.strong("warning"),
            Level::Fault => colours.bad("FAULT  "),
        };
        let _ = writeln!(text, "{level}  {check:<16} {found}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "         {:<16} {}", "do:", colours.strong(remedy));
        }
    }
    for unseen in &report.unseen {
        let _ = writeln!(text, "{}  {unseen}", colours.weak("unseen "));
    }
    let _ = match (report.faults, report.warnings) {
        (0, 0) => writeln!(text, "{}", colours.good("No fault, no warning.")),
        (faults, warnings) => writeln!(text, "{}, {}.", counted(faults, "fault"), counted(warnings, "warning")),
    };
    if !report.unseen.is_empty() && !rustix::process::geteuid().is_root() {
        let _ = writeln!(text, "Root sees more: sudo strikeout doctor");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_a_line_and_what_to_do_below_it() {
        let findings = vec![
            Finding::ok("config", "x.toml can be read"),
            Finding::warning("pause", "everybody is served", "strikeout resume"),
            Finding::fault("daemon", "nobody answers", "systemctl start strikeout"),
        ];
        let text = text(&Report::new(findings, vec!["who may ask".to_owned()]), Colours::NONE);
        for line in [
            "ok       config           x.toml can be read",
            "warning  pause            everybody is served",
            "         do:              strikeout resume",
            "FAULT    daemon           nobody answers",
            "unseen   who may ask",
            "1 fault, 1 warning.",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(super::text(&Report::default(), Colours::NONE).starts_with("No fault, no warning."));
    }
}
