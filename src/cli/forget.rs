//! `strikeout forget`.

use super::ask::ask;
use super::{DaemonArguments, Failure, print, print_json};
use crate::config::fleet::{NODE_NAME, is_node};
use crate::control::admin::AdminRequest;
use crate::control::bans::ForgetReport;

/// Drops everything that a node published to the fleet.
///
/// # Errors
/// The argument cannot name a node, or the daemon cannot be asked or is in no fleet.
pub fn run(daemon: &DaemonArguments, node: &str) -> Result<(), Failure> {
    if !is_node(node) {
        return Err(Failure::Usage(format!("found the node name {node:?}, expected {NODE_NAME}")));
    }
    let report: ForgetReport = ask(daemon, &AdminRequest::Forget(node.to_owned()))?;
    if daemon.json {
        return print_json(&report);
    }
    print(&text(&report))
}

fn text(report: &ForgetReport) -> String {
    let node = &report.forgetting;
    match &report.waiting {
        None => format!("dropping everything that {node} published\n"),
        Some(reason) => format!(
            "will drop everything that {node} published when Redis can be reached again ({reason})\n\
             repeat this command if the daemon is restarted before\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_waits_for_redis_is_not_reported_as_done() {
        let report = |waiting: Option<&str>| ForgetReport { forgetting: "mx2".into(), waiting: waiting.map(str::to_owned) };
        assert_eq!(text(&report(None)), "dropping everything that mx2 published\n");
        let waits = text(&report(Some("connection refused")));
        assert!(
            waits.starts_with("will drop everything that mx2 published when Redis can be reached again (connection refused)\n"),
            "{waits}"
        );
    }
}
