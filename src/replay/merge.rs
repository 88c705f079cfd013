//! Several logs as one stream of lines, in the order of their times.

use std::io;
use std::path::{Path, PathBuf};

use crate::log::open::LogReader;
use crate::log::time::{self, Zone};
use crate::log::{access, exim};
use crate::time::Time;

/// One log that is read.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    reader: LogReader,
    /// The lines read and not handed on yet, one behind the other, and where each ends.
    block: Vec<u8>,
    ends: Vec<usize>,
    next: usize,
    start: usize,
    /// The time of the next line; of the line before it, where that has none.
    head: Time,
    ended: bool,
    /// Lines handed on.
    pub lines: u64,
    /// Bytes of these lines, without newlines.
    pub bytes: u64,
    /// The time of the first line that has one.
    pub first: Option<Time>,
    /// What ended it early: it cannot be read on, or is damaged.
    pub fault: Option<String>,
}

impl Source {
    /// Opens a log and reads its beginning.
    ///
    /// # Errors
    /// What opening said.
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
            bytes: 0,
            first: None,
            fault: None,
        })
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes on disk: read so far, and in all where that is known.
    #[must_use]
    pub fn progress(&self) -> (u64, Option<u64>) {
        (self.reader.consumed(), self.reader.size())
    }

    /// The next line, without taking it.
    fn peek(&self) -> Option<&[u8]> {
        self.block.get(self.start..*self.ends.get(self.next)?)
    }

    fn advance(&mut self) {
        if let Some(end) = self.ends.get(self.next) {
            self.lines += 1;
            self.bytes += u64::try_from(end - self.start).unwrap_or_default();
            self.start = *end;
            self.next += 1;
        }
    }

    /// Reads on until there is a line, and says whether there is.
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

    fn look_ahead(&mut self, zone: &mut Zone) {
        if let Some(time) = self.peek().and_then(|line| time_of(line, zone)) {
            self.head = time;
            self.first.get_or_insert(time);
        }
    }
}

/// The time of a line in one of the formats that are known.
#[must_use]
pub fn time_of(line: &[u8], zone: &mut Zone) -> Option<Time> {
    if is_exim(line) {
        return exim::parse(line, zone).time;
    }
    match time::epoch(line) {
        Some((time, _)) => Some(time),
        None => access::parse(line).map(|line| line.time),
    }
}

/// Whether a line starts as all of Exim's do: `2026-11-23 `.
#[must_use]
pub fn is_exim(line: &[u8]) -> bool {
    matches!(line, [b'0'..=b'9', _, _, _, b'-', _, _, b'-', _, _, b' ', ..])
}

/// Hands the lines of all sources to `on_line` with the number of their source: those of one source in its own order, and among sources
/// the earlier time first. `on_read` is called whenever something was read.
pub fn run(sources: &mut [Source], zone: &mut Zone, mut on_line: impl FnMut(usize, &[u8]), mut on_read: impl FnMut(&[Source])) {
    for source in sources.iter_mut() {
        if source.fill() {
            source.look_ahead(zone);
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
        let Some(source) = sources.get_mut(number) else { return };
        // This source's lines, until one belongs behind another source's next one.
        while let Some(line) = source.peek() {
            on_line(number, line);
            source.advance();
            if source.peek().is_none() {
                let has_more = source.fill();
                if has_more && until.is_some() {
                    source.look_ahead(zone);
                }
                break;
            }
            if let Some(until) = until {
                source.look_ahead(zone);
                if (source.head, number) > until {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(logs: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let mut sources: Vec<Source> = logs
            .iter()
            .enumerate()
            .map(|(number, text)| {
                let path = folder.path().join(number.to_string());
                std::fs::write(&path, text).unwrap();
                Source::open(&path).unwrap()
            })
            .collect();
        let mut lines = Vec::new();
        run(&mut sources, &mut Zone::utc(), |_, line| lines.push(String::from_utf8_lossy(line).into_owned()), |_| {});
        assert_eq!(sources.iter().map(|source| source.lines).sum::<u64>(), lines.len() as u64);
        lines
    }

    #[test]
    fn lines_of_several_logs_come_in_the_order_of_their_times() {
        let squid = "1795395720.000 a\n1795395723.000 c\n1795395724.000 e\n";
        let exim = "2026-11-23 01:02:01 b\n\tcontinued\n2026-11-23 01:02:03 d\n2026-11-23 01:02:09 f\n";
        let expected = [
            "1795395720.000 a",
            "2026-11-23 01:02:01 b",
            "\tcontinued",
            "1795395723.000 c",
            "2026-11-23 01:02:03 d",
            "1795395724.000 e",
            "2026-11-23 01:02:09 f",
        ];
        assert_eq!(merged(&[squid, exim]), expected);
        assert_eq!(merged(&[squid]), ["1795395720.000 a", "1795395723.000 c", "1795395724.000 e"]);
    }

    #[test]
    fn rotated_logs_may_be_named_in_any_order() {
        let (old, new) = ("1795395720.000 a\n1795395721.000 b\n", "1795395722.000 c\n1795395723.000 d\n");
        let expected = ["1795395720.000 a", "1795395721.000 b", "1795395722.000 c", "1795395723.000 d"];
        assert_eq!(merged(&[new, old]), expected);
        assert_eq!(merged(&["", new, "", old]), expected);
    }

    #[test]
    fn many_lines_over_many_blocks_stay_in_order() {
        let log =
            |offset: u64| (0..40_000_u64).map(|n| format!("{}.{offset:03} {}\n", 1_795_395_720 + n, "x".repeat(30))).collect::<String>();
        let lines = merged(&[&log(1), &log(0), &log(2)]);
        assert_eq!(lines.len(), 120_000);
        assert!(lines.is_sorted());
    }
}
