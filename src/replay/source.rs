//! One of the logs of a replay. A thread of its own reads and parses it, some blocks of lines ahead.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::log::line::{LineParser, LogLine};
use crate::log::open::LogReader;
use crate::log::outline::LineOutline;
use crate::log::time::{Zone, epoch};
use crate::time::Time;

/// Number of blocks that wait at most. Beside them one is being judged and one parsed, each of some 64 KiB of text and as much of what was
/// parsed: half a megabyte for each log.
const AHEAD: usize = 1;

/// A log.
#[derive(Debug)]
pub struct LogSource {
    path: PathBuf,
    blocks: Receiver<Result<Block, String>>,
    block: Block,
    /// Number of lines of the block that were passed on, and where the next one starts.
    passed: usize,
    start: usize,
    /// The time of the next line, or if it has none, of the last line that had one.
    head: Time,
    lines: u64,
    consumed: Arc<AtomicU64>,
    size: Option<u64>,
    fault: Option<String>,
}

/// Some lines, parsed.
#[derive(Debug, Default)]
struct Block {
    /// The text of all lines, without their newlines.
    text: Vec<u8>,
    lines: Vec<Line>,
    is_last: bool,
}

#[derive(Debug)]
struct Line {
    /// Where the line ends in the block's text.
    end: usize,
    time: Option<Time>,
    outline: LineOutline,
}

impl LogSource {
    /// Opens a log and starts to read it. Local times are in `zone`.
    ///
    /// # Errors
    /// The log cannot be opened, or no thread can be started.
    pub fn open(path: &Path, zone: Zone) -> io::Result<Self> {
        let reader = LogReader::open(path)?;
        let (consumed, size) = (reader.consumed(), reader.size());
        let (sender, blocks) = sync_channel(AHEAD);
        let parser = LineParser::new(zone, true, true);
        std::thread::Builder::new().name("log".into()).spawn(move || read(reader, parser, &sender))?;
        Ok(Self {
            path: path.into(),
            blocks,
            block: Block::default(),
            passed: 0,
            start: 0,
            head: Time::default(),
            lines: 0,
            consumed,
            size,
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
        (self.consumed.load(Ordering::Relaxed), self.size)
    }

    /// Number of lines that were passed on.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Why reading ended early.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Waits for the next block if all lines of this one were passed on.
    pub fn fill(&mut self) {
        while self.passed >= self.block.lines.len() && !self.block.is_last {
            let last = || Block { is_last: true, ..Block::default() };
            self.block = match self.blocks.recv() {
                Ok(Ok(block)) => block,
                Ok(Err(fault)) => {
                    self.fault = Some(fault);
                    last()
                }
                Err(_) => {
                    self.fault = Some("its thread ended before the log did".into());
                    last()
                }
            };
            self.passed = 0;
            self.start = 0;
        }
        self.note_head();
    }

    /// The time of the next line of this block, or if it has none, of the last line that had one. None if there is no next line.
    #[must_use]
    pub fn head(&self) -> Option<Time> {
        (self.passed < self.block.lines.len()).then_some(self.head)
    }

    /// Takes the next line of this block.
    pub fn next(&mut self) -> Option<(&[u8], &LineOutline)> {
        let end = self.block.lines.get(self.passed)?.end;
        let start = std::mem::replace(&mut self.start, end);
        self.passed += 1;
        self.lines += 1;
        self.note_head();
        Some((self.block.text.get(start..end)?, &self.block.lines.get(self.passed - 1)?.outline))
    }

    fn note_head(&mut self) {
        if let Some(time) = self.block.lines.get(self.passed).and_then(|line| line.time) {
            self.head = time;
        }
    }
}

/// Reads and parses a log to its end, or until nobody wants its lines.
fn read(mut reader: LogReader, mut parser: LineParser, blocks: &SyncSender<Result<Block, String>>) {
    let mut length = 0;
    loop {
        let mut block = Block { lines: Vec::with_capacity(length), ..Block::default() };
        let read = reader.next_chunk(&mut |line| {
            let parsed = parser.parse(line);
            block.text.extend_from_slice(line);
            block.lines.push(Line { end: block.text.len(), time: time_of(line, &parsed), outline: LineOutline::of(&parsed, line) });
        });
        // The next block will be about as long.
        length = block.lines.len();
        block.is_last = matches!(read, Ok(false));
        let is_last = read.is_err() || block.is_last;
        if blocks.send(Ok(block)).is_err() {
            return;
        }
        if let Err(error) = read {
            // Lines before the error count.
            let _ = blocks.send(Err(error.to_string()));
        }
        if is_last {
            return;
        }
    }
}

/// The time of a line; also of one in another format, such as that of a text rule's log, if it starts with seconds since 1970.
fn time_of(line: &[u8], parsed: &LogLine<'_>) -> Option<Time> {
    parsed.time().or_else(|| epoch(line).map(|(time, _)| time))
}
