//! What goes on and on is said in the log once in a while, and how often since.

use std::time::{Duration, Instant};

/// Once in so long.
const AGAIN: Duration = Duration::from_secs(10);

/// One thing that there is to complain about.
#[derive(Debug, Default)]
pub struct Complaint {
    last: Option<Instant>,
    more: u64,
}

impl Complaint {
    /// Says `text` in the log, unless that was done a moment ago.
    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(line) = self.line(Instant::now(), text) {
            log::warn!("{line}");
        }
    }

    fn line(&mut self, now: Instant, text: impl FnOnce() -> String) -> Option<String> {
        if self.last.is_some_and(|last| now.duration_since(last) < AGAIN) {
            self.more += 1;
            return None;
        }
        self.last = Some(now);
        let again = match std::mem::take(&mut self.more) {
            0 => String::new(),
            more => format!(" ({more} more like it)"),
        };
        Some(text() + &again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_once_in_a_while_and_how_often() {
        let (mut complaint, start) = (Complaint::default(), Instant::now());
        let mut line = |after: u64| complaint.line(start + Duration::from_secs(after), || "no".to_owned());
        assert_eq!([line(0), line(1), line(9)], [Some("no".to_owned()), None, None]);
        assert_eq!([line(10), line(11), line(30)], [Some("no (2 more like it)".to_owned()), None, Some("no (1 more like it)".to_owned())]);
        assert_eq!(line(60).as_deref(), Some("no"));
    }
}
