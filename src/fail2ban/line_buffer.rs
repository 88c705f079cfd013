//! The last lines of a log that are part of no failure yet, for expressions over several lines: fail2ban's `Filter.__lineBuffer`.

/// Maximum length of the lines together, in bytes; the newest may be longer until it has been searched. fail2ban has no such bound.
const MAX_LENGTH: usize = 64 * 1024;

/// The last lines of a log, joined by line feeds.
#[derive(Debug)]
pub struct LineBuffer {
    text: String,
    max_lines: usize,
}

impl LineBuffer {
    /// A buffer for at most `max_lines` lines.
    #[must_use]
    pub fn new(max_lines: usize) -> Self {
        Self { text: String::new(), max_lines }
    }

    /// The lines, each with its line feed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Appends a line, which ends with a line feed, and drops the oldest lines that are too many or too long.
    pub fn push(&mut self, line: &str) {
        let feeds = memchr::memrchr_iter(b'\n', self.text.as_bytes());
        // The line feed before the oldest line that stays: the last `max_lines - 1` lines do.
        let by_number = feeds.clone().nth(self.max_lines.saturating_sub(1)).map_or(0, |feed| feed + 1);
        let room = MAX_LENGTH.saturating_sub(line.len());
        let excess = self.text.len().saturating_sub(room);
        let by_length = if excess == 0 {
            0
        } else {
            memchr::memchr(b'\n', self.text.as_bytes().get(excess - 1..).unwrap_or_default()).map_or(self.text.len(), |feed| excess + feed)
        };
        self.text.drain(..by_number.max(by_length));
        self.text.push_str(line);
    }

    /// Drops the newest line.
    pub fn pop(&mut self) {
        let start = memchr::memrchr_iter(b'\n', self.text.as_bytes()).nth(1).map_or(0, |feed| feed + 1);
        self.text.truncate(start);
    }

    pub fn clear(&mut self) {
        self.text.clear();
    }

    /// Takes the lines of a match out, except those skipped by `<SKIPLINES>`, and returns them: fail2ban's `Regex.search`.
    pub fn take(&mut self, (start, end): (usize, usize), skipped: &[(usize, usize)]) -> String {
        let bytes = self.text.as_bytes();
        // A line feed that begins a match belongs to the line before it.
        let first = memchr::memrchr(b'\n', bytes.get(..=start).unwrap_or(bytes)).map_or(0, |feed| feed + 1);
        let from = end.saturating_sub(1);
        let last = memchr::memchr(b'\n', bytes.get(from..).unwrap_or_default()).map_or(bytes.len(), |feed| from + feed + 1);
        let mut matched = String::new();
        let mut kept = self.text.get(..first).unwrap_or_default().to_owned();
        let mut at = first;
        for &(start, end) in skipped {
            matched.push_str(self.text.get(at..start).unwrap_or_default());
            kept.push_str(self.text.get(start..end).unwrap_or_default());
            at = end;
        }
        matched.push_str(self.text.get(at..last).unwrap_or_default());
        kept.push_str(self.text.get(last..).unwrap_or_default());
        self.text = kept;
        matched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffer(max_lines: usize, lines: &[&str]) -> LineBuffer {
        let mut buffer = LineBuffer::new(max_lines);
        lines.iter().for_each(|line| buffer.push(&format!("{line}\n")));
        buffer
    }

    #[test]
    fn the_oldest_lines_are_dropped() {
        assert_eq!(buffer(2, &["a", "b", "c"]).text(), "b\nc\n");
        assert_eq!(buffer(9, &["a", "b", "c"]).text(), "a\nb\nc\n");
        let long = "x".repeat(MAX_LENGTH / 2);
        assert_eq!(buffer(9, &["a", &long, "c"]).text().len(), long.len() + 5);
        assert_eq!(buffer(9, &["a", &long, &long, "c"]).text().len(), long.len() + 3);
        assert_eq!(buffer(9, &[&"x".repeat(MAX_LENGTH * 2), "c"]).text(), "c\n");
    }

    #[test]
    fn the_lines_of_a_match_are_taken_out_and_skipped_ones_stay() {
        let mut lines = buffer(9, &["a", "bad", "c", "d", "end", "f"]);
        let text = lines.text().to_owned();
        let place = |part: &str| text.find(part).expect(part);
        let matched = lines.take((place("ad"), place("nd\n")), &[(place("c\n"), place("end"))]);
        assert_eq!((matched.as_str(), lines.text()), ("bad\nend\n", "a\nc\nd\nf\n"));
        lines.pop();
        assert_eq!(lines.text(), "a\nc\nd\n");
        assert_eq!(lines.take((0, 0), &[]), "a\n");
    }

    proptest! {
        /// The twin keeps a list of lines.
        #[test]
        fn a_list_of_lines_keeps_the_same(max_lines in 1_usize..6, lengths in proptest::collection::vec(prop_oneof![0_usize..9, 30_000_usize..70_000], 0..12)) {
            let mut buffer = LineBuffer::new(max_lines);
            let mut list: Vec<String> = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let line = format!("{number}{}\n", "x".repeat(length));
                buffer.push(&line);
                list.push(line);
                while list.len() > max_lines || (list.len() > 1 && list.iter().map(String::len).sum::<usize>() > MAX_LENGTH) {
                    list.remove(0);
                }
                prop_assert_eq!(buffer.text(), list.concat());
            }
        }
    }
}
