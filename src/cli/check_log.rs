//! What `strikeout check` says about a log: whether it is there, and whether its last lines and their times are understood.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::config::LogConfig;
use crate::detector::Detector;
use crate::list::Lists;
use crate::log::follow::NO_SUCH_FILE;
use crate::log::health::LogHealth;
use crate::log::judge::LogJudge;
use crate::log::lines::LineSplitter;
use crate::log::offence::Received;
use crate::policy::Policy;
use crate::table::Bans;
use crate::time::Time;

/// Number of bytes at the end of a log that are read.
const TAIL: u64 = 256 * 1024;

/// The state of a log in a few words.
///
/// # Errors
/// What is wrong with the log, and the remedy.
pub fn state(log: &LogConfig, policy: &Arc<Policy>) -> Result<String, String> {
    let mut file = match File::open(&log.path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound && log.optional => return Ok("no such file yet".into()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(NO_SUCH_FILE.into()),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    let metadata = file.metadata().map_err(|error| format!("cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err("found something else than a file, expected a log".into());
    }
    let mut tail = Vec::new();
    let start = metadata.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))
        .and_then(|_| file.take(TAIL).read_to_end(&mut tail))
        .map_err(|error| format!("cannot be read: {error}"))?;
    // The last line was written when the file was last changed, so its time tells whether the zone fits.
    let since = metadata.modified().ok().and_then(|modified| modified.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let written = Time::from_millis(u64::try_from(since.as_millis()).unwrap_or_default());
    let health = health(log, policy, &tail, start > 0, written)?;
    match (health.fault(), health.not_understood()) {
        (Some(fault), _) => Err(fault),
        (None, Some(some)) => Ok(some),
        (None, None) => Ok(String::new()),
    }
}

/// What speaks against a log that ends with `tail`, last written at a given time.
fn health(log: &LogConfig, policy: &Arc<Policy>, tail: &[u8], is_cut: bool, written: Time) -> Result<LogHealth, String> {
    let mut judge = LogJudge::of_log(&policy.rules, log.rules.as_deref(), &log.zone(), log.inline)?;
    let (lists, bans) = (Lists::default(), Bans::new(1));
    let detector =
        Detector { rules: &policy.rules, lists: &lists, bans: &bans, prefix: policy.prefix, geo: &policy.geo, crawlers: &policy.crawlers };
    let mut splitter = LineSplitter::default();
    if is_cut {
        splitter.skip_line();
    }
    let mut last: Option<Vec<u8>> = None;
    let mut judge_line = |line: &[u8], received| {
        judge.judge(line, received, &detector, &mut |_| ());
    };
    splitter.feed(tail, &mut |line| {
        if let Some(before) = last.replace(line.to_vec()) {
            judge_line(&before, Received::late(written));
        }
    });
    if let Some(last) = last {
        judge_line(&last, Received::live(written));
    }
    Ok(judge.health().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::rule_id::RuleNames;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    const LINE: &str = "203.0.113.9 - - [23/Nov/2026:01:02:03 +0000] \"GET / HTTP/1.1\" 200 1\n";
    const EXIM: &str = "2026-11-23 01:02:03 Connection from [203.0.113.9] refused: too many connections\n";

    /// The state of a log with this content, last written at 01:02:03 UTC.
    fn state_of(content: Option<&str>, keys: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_395_723);
            File::options().append(true).open(&path).unwrap().set_modified(written).unwrap();
        }
        let text = format!("[[log]]\npath = \"{}\"\n{keys}\n", path.display());
        let config = Config::parse(text.as_bytes(), Path::new("test.toml"), &RuleNames::default()).unwrap();
        let log = config.logs[0].clone();
        state(&log, &Arc::new(Policy::from(config)))
    }

    #[test]
    fn a_log_that_is_understood_is_no_fault() {
        assert_eq!(state_of(Some(LINE), ""), Ok(String::new()));
        assert_eq!(state_of(Some(""), ""), Ok(String::new()));
        assert_eq!(state_of(Some(EXIM), "rules = ['exim-per-host']\nzone = 'UTC'"), Ok(String::new()));
    }

    #[test]
    fn a_missing_log_is_a_fault_unless_it_is_optional() {
        assert!(state_of(None, "").unwrap_err().starts_with("found no such file, expected the log's path"));
        assert_eq!(state_of(None, "optional = true"), Ok("no such file yet".into()));
    }

    #[test]
    fn a_log_in_another_format_is_a_fault_with_an_example() {
        let fault = state_of(Some(&format!("{LINE}what is this?\n{LINE}")), "").unwrap_err();
        assert!(fault.starts_with("34 % of its last 3 lines are not understood, such as \"what is this?\"; expected "), "{fault}");
        let few = format!("{}what is this?\n", LINE.repeat(50));
        assert_eq!(state_of(Some(&few), "").unwrap(), "2 % of its last 51 lines are not understood, such as \"what is this?\"");
        assert!(state_of(Some(EXIM), "").unwrap_err().contains("not understood"), "no rule over requests can read Exim's log");
        let long = format!("{}{LINE}", "x".repeat(300_000));
        assert_eq!(state_of(Some(&long.replace('x', "y\n")), "rules = ['exim-per-host']").unwrap_err().matches("such as").count(), 1);
    }

    #[test]
    fn a_log_whose_last_time_does_not_fit_is_a_fault_that_names_the_zone() {
        let fault = state_of(Some(EXIM), "rules = ['exim-per-host']\nzone = 'Asia/Kolkata'").unwrap_err();
        assert!(fault.contains("5 h 30 min behind the clock") && fault.contains("zone = \"UTC\""), "{fault}");
    }
}
