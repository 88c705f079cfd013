//! `strikeout reload`.

use super::ask::ask;
use super::{DaemonArguments, Failure, print, print_json};
use crate::control::bans::ReloadReport;
use crate::control::admin::AdminRequest;

/// Makes the daemon read its configuration again.
///
/// # Errors
/// The daemon cannot be asked, or refuses the configuration.
pub fn run(daemon: &DaemonArguments) -> Result<(), Failure> {
    let report: ReloadReport = ask(daemon, &AdminRequest::Reload)?;
    if daemon.json {
        return print_json(&report);
    }
    print(&report.notes.iter().fold("reloaded\n".to_owned(), |text, note| format!("{text}warning: {note}\n")))
}
