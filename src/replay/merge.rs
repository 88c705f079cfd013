//! Merges several logs into one stream of lines, in the order of their times.

use std::io;
use std::path::{Path, PathBuf};

use crate::log::line::{LineParser, LogLine};
use crate::log::open::LogReader;
use crate::log::time::epoch;
use crate::time::Time;

/// One of the logs.
#[derive(Debug)]
pub struct LogSource {
    path: PathBuf,
    reader: LogReader,
    /// The lines of the last chunk, concatenated, and the end of each.
    block: Vec<u8>,
    ends: Vec<usize>,
    /// Number of lines of the block that were passed on, and where the next one starts.
    next: usize,
    start: usize,
    /// The time of the next line, or if it has none, of the last line that had one.
    head: Time,
    ended: bool,
    pub lines: u64,
    /// Why reading ended early.
    pub fault: Option<String>,
}

impl LogSource {
    /// Opens a log.
    ///
    /// # Errors
    /// The log cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.into(),
            reader: LogReader::open(path)?,
            block: Vec::new(),
            ends: Vec::new(),
            next: 0,
            start: 0,
            head: Time::default(),
            ended: false,
            lines: 0,
            fault: None,
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes on disk: the number read so far, and the total if it is known.
    #[must_use]
    pub fn progress(&self) -> (u64, Option<u64>) {
        (self.reader.consumed(), self.reader.size())
    }

    /// The next line, without taking it.
    fn peek(&self) -> Option<&[u8]> {
        self.block.get(self.start..*self.ends.get(self.next)?)
    }

    /// The next lines of the chunk, at most `most` of them, without taking them.
    fn peek_many(&self, most: usize) -> impl Iterator<Item = &[u8]> {
        let ends = self.ends.iter().skip(self.next).take(most);
        ends.scan(self.start, |start, end| self.block.get(std::mem::replace(start, *end)..*end))
    }

    /// Takes this number of lines.
    fn advance(&mut self, lines: usize) {
        let next = (self.next + lines).min(self.ends.len());
        self.lines += (next - self.next) as u64;
        self.next = next;
        self.start = next.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0);
    }

    /// Reads until there is a line and returns whether there is one.
    fn fill(&mut self) -> bool {
        while self.next >= self.ends.len() {
            if self.ended {
                return false;
            }
            self.block.clear();
            self.ends.clear();
            self.next = 0;
            self.start = 0;
            let (block, ends) = (&mut self.block, &mut self.ends);
            let read = self.reader.next_chunk(&mut |line| {
                block.extend_from_slice(line);
                ends.push(block.len());
            });
            match read {
                Ok(more) => self.ended = !more,
                Err(error) => {
                    self.fault = Some(error.to_string());
                    self.ended = true;
                }
            }
        }
        true
    }

    /// Notes the time of the next line.
    fn look_ahead(&mut self, parser: &mut LineParser) {
        if let Some(time) = self.peek().and_then(|line| time_of(line, &parser.parse(line))) {
            self.head = time;
        }
    }
}

/// The time of a line; also of one in another format, such as that of a text rule's log, if it starts with seconds since 1970.
fn time_of(line: &[u8], parsed: &LogLine<'_>) -> Option<Time> {
    parsed.time().or_else(|| epoch(line).map(|(time, _)| time))
}

/// Maximum number of lines that are parsed before they are passed on. Parsing and judging together are more code than the processor's cache
/// for instructions holds, so doing one after the other for each line would load all of it again and again.
const MAX_BATCH: usize = 64;

/// Passes the lines of all sources to `on_line`, parsed, with the number of their source: in order within a source, by time across sources.
/// Each source has the parser with its number, which knows its zone. A line is parsed once more only where another source's line goes
/// before it; the batches start small at such places, so that these are no more than the lines passed on.
/// `on_read` is called after each run of lines from one source.
pub fn run(
    sources: &mut [LogSource],
    parsers: &mut [LineParser],
    mut on_line: impl FnMut(usize, &[u8], &LogLine<'_>),
    mut on_read: impl FnMut(&[LogSource]),
) {
    for (source, parser) in sources.iter_mut().zip(parsers.iter_mut()) {
        if source.fill() {
            source.look_ahead(parser);
        }
    }
    loop {
        on_read(sources);
        let mut heads: Vec<(Time, usize)> = sources
            .iter()
            .enumerate()
            .filter(|(_, source)| source.peek().is_some())
            .map(|(number, source)| (source.head, number))
            .collect();
        heads.sort_unstable();
        let Some((_, number)) = heads.first().copied() else { return };
        let until = heads.get(1).copied();
        let (Some(source), Some(parser)) = (sources.get_mut(number), parsers.get_mut(number)) else { return };
        // Lines of this source up to the next line of another source.
        let mut batch_size = 1;
        loop {
            let mut batch = Vec::with_capacity(batch_size);
            batch.extend(source.peek_many(batch_size).map(|line| parser.parse(line)));
            let (mut head, mut passed) = (source.head, 0);
            for (line, parsed) in source.peek_many(batch_size).zip(&batch) {
                head = time_of(line, parsed).unwrap_or(head);
                if until.is_some_and(|until| (head, number) > until) {
                    break;
                }
                on_line(number, line, parsed);
                passed += 1;
            }
            let is_whole = passed == batch.len() && passed > 0;
            source.head = head;
            source.advance(passed);
            if !is_whole {
                break;
            }
            batch_size = (batch_size * 2).min(MAX_BATCH);
        }
        if source.peek().is_none() && source.fill() {
            source.look_ahead(parser);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::time::Zone;

    fn merged(logs: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let mut sources: Vec<LogSource> = logs
            .iter()
            .enumerate()
            .map(|(number, text)| {
                let path = folder.path().join(number.to_string());
                std::fs::write(&path, text).unwrap();
                LogSource::open(&path).unwrap()
            })
            .collect();
        let mut lines = Vec::new();
        let mut parsers: Vec<LineParser> = logs.iter().map(|_| LineParser::new(Zone::utc(), true, true)).collect();
        run(&mut sources, &mut parsers, |_, line, _| lines.push(String::from_utf8_lossy(line).into_owned()), |_| {});
        assert_eq!(sources.iter().map(|source| source.lines).sum::<u64>(), lines.len() as u64);
        lines
    }

    /// A line of Squid's log at this time, which asks for `/page`.
    fn squid(time: &str, page: &str) -> String {
        format!("{time} 1 192.0.2.1 TCP_MISS/200 9 GET http://site/{page} - HIER_NONE/- -")
    }

    fn squid_log(lines: &[(&str, &str)]) -> String {
        lines.iter().map(|(time, page)| squid(time, page) + "\n").collect()
    }

    #[test]
    fn lines_of_several_logs_are_merged_by_time() {
        let squid_lines = [("1795395720.000", "a"), ("1795395723.000", "c"), ("1795395724.000", "e")];
        let [a, c, e] = squid_lines.map(|(time, page)| squid(time, page));
        let exim = "2026-11-23 01:02:01 b\n\tcontinued\n2026-11-23 01:02:03 d\n2026-11-23 01:02:09 f\n";
        let expected = [&*a, "2026-11-23 01:02:01 b", "\tcontinued", &*c, "2026-11-23 01:02:03 d", &*e, "2026-11-23 01:02:09 f"];
        assert_eq!(merged(&[&squid_log(&squid_lines), exim]), expected);
        assert_eq!(merged(&[&squid_log(&squid_lines)]), [&*a, &*c, &*e]);
        assert_eq!(
            merged(&["1795395722.5 of another program\n1795395724.000 b\n", &(c.clone() + "\n")]),
            ["1795395722.5 of another program", &*c, "1795395724.000 b"]
        );
    }

    #[test]
    fn rotated_logs_may_be_given_in_any_order() {
        let lines = [("1795395720.000", "a"), ("1795395721.000", "b"), ("1795395722.000", "c"), ("1795395723.000", "d")];
        let (old, new) = (squid_log(&lines[..2]), squid_log(&lines[2..]));
        let expected = lines.map(|(time, page)| squid(time, page));
        assert_eq!(merged(&[&new, &old]), expected);
        assert_eq!(merged(&["", &new, "", &old]), expected);
    }

    #[test]
    fn lines_stay_in_order_across_chunks() {
        let log =
            |offset: u64| (0..20_000_u64).map(|n| squid(&format!("{}.{offset:03}", 1_795_395_720 + n), "page") + "\n").collect::<String>();
        let lines = merged(&[&log(1), &log(0), &log(2)]);
        assert_eq!(lines.len(), 60_000);
        assert!(lines.is_sorted());
    }
}
