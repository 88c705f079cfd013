//! `strikeout metrics`.

use serde_json::{Map, Value};

use super::ask::ask_text;
use super::{DaemonArguments, Failure, print, print_json};
use crate::control::admin::AdminRequest;

/// Prints the daemon's metrics in Prometheus' text format, or as one JSON object.
///
/// # Errors
/// The daemon cannot be asked.
pub fn run(daemon: &DaemonArguments) -> Result<(), Failure> {
    let text = ask_text(daemon, &AdminRequest::Metrics)?;
    if !daemon.json {
        return print(&text);
    }
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let samples: Map<String, Value> =
        samples.filter_map(|(name, value)| Some((name.to_owned(), serde_json::from_str(value).ok()?))).collect();
    print_json(&samples)
}
