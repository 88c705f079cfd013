//! The program's own log on standard error: its setup, and throttling of repeated messages.

use std::io::Write;
use std::time::{Duration, Instant};

/// Minimum time between two lines of a [`ThrottledLog`].
const INTERVAL: Duration = Duration::from_secs(10);

/// How often a [`FaultLog`] repeats a persistent fault.
pub const FAULT_INTERVAL: Duration = Duration::from_secs(60);

/// Logs a repeated warning at most once per [`INTERVAL`], with the number of suppressed ones.
#[derive(Debug, Default)]
pub struct ThrottledLog {
    last: Option<Instant>,
    suppressed: u64,
}

impl ThrottledLog {
    /// Logs `text` as a warning, unless the last warning is too recent.
    pub fn warn(&mut self, text: impl FnOnce() -> String) {
        if let Some(line) = self.line(Instant::now(), text) {
            log::warn!("{line}");
        }
    }

    fn line(&mut self, now: Instant, text: impl FnOnce() -> String) -> Option<String> {
        if self.last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        let suffix = match std::mem::take(&mut self.suppressed) {
            0 => String::new(),
            suppressed => format!(" ({suppressed} more like it)"),
        };
        Some(text() + &suffix)
    }
}

/// Logs a persistent fault when it begins or changes, and once a minute while it lasts.
#[derive(Default)]
pub struct FaultLog(Option<(String, Instant)>);

impl FaultLog {
    pub fn report(&mut self, fault: &str) {
        if self.0.as_ref().is_some_and(|(reported, at)| reported == fault && at.elapsed() < FAULT_INTERVAL) {
            return;
        }
        log::error!("{fault}");
        self.0 = Some((fault.to_owned(), Instant::now()));
    }

    /// Ends the fault; logs `message` if there was one.
    pub fn resolve(&mut self, message: &str) {
        if self.0.take().is_some() {
            log::info!("{message}");
        }
    }
}

/// Starts logging to standard error, at level info unless `RUST_LOG` says otherwise. Under systemd, lines carry a priority and no time,
/// because the journal adds its own.
pub fn start_logging() {
    let mut builder = builder(log::LevelFilter::Info);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        // The priority prefixes of sd-daemon(3).
        builder.format(|out, record| {
            let priority = match record.level() {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                log::Level::Debug | log::Level::Trace => 7,
            };
            writeln!(out, "<{priority}>{}", record.args())
        });
    } else {
        builder.format_target(false);
    }
    start(builder);
}

/// Starts logging to standard error for Squid, which copies it into cache.log as it is, so each line carries its own time and program name.
pub fn start_squid_logging(debug: bool) {
    let mut builder = builder(if debug { log::LevelFilter::Debug } else { log::LevelFilter::Info });
    builder.format(|out, record| {
        let now = jiff::Zoned::now().strftime("%Y/%m/%d %H:%M:%S").to_string();
        writeln!(out, "{now}| ext_strikeout_acl: {}: {}", record.level().as_str().to_ascii_lowercase(), record.args())
    });
    start(builder);
}

/// Logs what this crate says from `level` on, and warnings of libraries, unless `RUST_LOG` says otherwise.
fn builder(level: log::LevelFilter) -> env_logger::Builder {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(format!("warn,strikeout={level}")))
}

fn start(mut builder: env_logger::Builder) {
    // Fails only if a logger is already set.
    let _ = builder.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_warning_is_logged_once_per_interval_with_a_count() {
        let (mut throttled, start) = (ThrottledLog::default(), Instant::now());
        let mut line = |after: u64| throttled.line(start + Duration::from_secs(after), || "no".to_owned());
        assert_eq!([line(0), line(1), line(9)], [Some("no".to_owned()), None, None]);
        assert_eq!([line(10), line(11), line(30)], [Some("no (2 more like it)".to_owned()), None, Some("no (1 more like it)".to_owned())]);
        assert_eq!(line(60).as_deref(), Some("no"));
    }
}
