//! One file of a followed log: reads on from where it stopped, and notices when the file was truncated or rewritten.

use super::lines::LineSplitter;
use super::seen_lines::{Search, SeenLines, hash};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Maximum number of bytes that one poll reads from each file, so that a huge log does not delay the others.
pub(super) const MAX_PER_POLL: u64 = 8 << 20;
/// Number of bytes at the start of a file, and before the place where reading stopped, by which it is recognised.
pub(super) const HEAD: usize = 256;
/// Maximum number of bytes at the end of a rewritten file in which lines that were read before are looked for.
const MAX_SEARCHED: u64 = 64 << 20;
/// Number of bytes before the place where reading starts whose lines are remembered.
const REMEMBERED_BYTES: u64 = 4 << 20;
/// Number of lines in a row that were not read before, and of polls without a line, after which a file is taken to be written to its end by
/// whoever rewrites it.
const MAX_UNSEEN: u32 = 32;
const MAX_IDLE_POLLS: u32 = 40;
/// Maximum size of a new file whose lines were surely written since the last poll.
const MAX_NEW: u64 = 64 * 1024;

/// Where reading stopped. It is saved and passed to [`super::follow::Follower::new`] after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Position {
    pub device: u64,
    pub inode: u64,
    /// Number of bytes that were read and handed on.
    pub offset: u64,
    /// Number of bytes at the start of the file that `head_hash` covers; at most 256.
    pub head_length: u16,
    /// FNV-1a of the start of the file. Device and inode are not enough: inode numbers are reused, and a truncated file may have regrown.
    pub head_hash: u64,
    /// Number of bytes before `offset` that `tail_hash` covers; at most 256. With the start alone, a rewritten file would look the same.
    #[serde(default)]
    pub tail_length: u16,
    #[serde(default)]
    pub tail_hash: u64,
    /// The key of the hashes in `recent`.
    #[serde(default)]
    pub key: u64,
    /// The last lines that were read, to recognise them in a file that was rewritten meanwhile.
    #[serde(default)]
    pub recent: Vec<u64>,
}

/// The result of one poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Lines handed on.
    pub lines: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Whether unread data is left: poll again at once.
    pub more: bool,
}

/// Counters since the start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Lines that were cut at [`super::lines::MAX_LENGTH`].
    pub cut_lines: u64,
    /// Bytes dropped from such lines.
    pub dropped_bytes: u64,
    /// How often another file took over the path.
    pub rotations: u64,
    /// How often the file was truncated or rewritten.
    pub truncations: u64,
    /// Incomplete lines at the end of closed files. They were never handed on.
    pub incomplete_lines: u64,
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) links: u64,
    /// Size and modification time as of the last poll.
    pub(super) size: u64,
    modified: (i64, i64),
    /// Number of bytes read.
    pub(super) offset: u64,
    /// The first [`HEAD`] bytes of the file, as far as they were read.
    head: Vec<u8>,
    /// The last [`HEAD`] bytes before `offset`.
    tail: Vec<u8>,
    /// Set until the first line of a file that is not known to be new.
    unchecked: Option<Unchecked>,
    /// Set while a file may still be in the course of being rewritten.
    rewriting: Option<Rewriting>,
    /// Whether the last read came to the end, so that what follows has been written since.
    is_caught_up: bool,
    /// Whether it was read to its end after its last name was gone, so that what follows is written to a deleted file.
    pub(super) is_left: bool,
    /// Whether something was written to it after that, and after another file took its place.
    pub(super) is_written_late: bool,
    /// Whether it was at the log's path before another file was, rather than found beside it.
    pub(super) was_current: bool,
    /// Whether a whole line was added to it since it was first read, or since the follower reset this.
    pub(super) has_grown: bool,
    /// Whether it held nothing but lines that were read before when it took the place of another file.
    pub(super) is_rewritten_copy: bool,
    pub(super) lines: LineSplitter,
    /// Number of consecutive polls that found nothing new.
    pub(super) idle_polls: u32,
}

impl OpenFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Without O_NONBLOCK, opening a FIFO blocks until a writer opens it.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: expected a file, found something else", path.display())));
        }
        Ok(Self {
            file,
            device: metadata.dev(),
            inode: metadata.ino(),
            links: metadata.nlink(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            offset: 0,
            head: Vec::new(),
            tail: Vec::new(),
            unchecked: None,
            rewriting: None,
            is_caught_up: false,
            is_left: false,
            is_written_late: false,
            was_current: false,
            has_grown: false,
            is_rewritten_copy: false,
            lines: LineSplitter::default(),
            idle_polls: 0,
        })
    }

    pub(super) fn is_same(&self, metadata: &Metadata) -> bool {
        (self.device, self.inode) == (metadata.dev(), metadata.ino())
    }

    /// Whether this is the file that `position` points into.
    pub(super) fn matches(&self, position: &Position) -> io::Result<bool> {
        Ok((self.device, self.inode) == (position.device, position.inode) && self.has_read_part(position)?)
    }

    /// Whether this file, or a copy of it, has what was read before `position`: the same start and the same last bytes.
    pub(super) fn has_read_part(&self, position: &Position) -> io::Result<bool> {
        if self.size < position.offset || !self.has_head(position)? {
            return Ok(false);
        }
        let length = u64::from(position.tail_length);
        let tail = self.read_at(position.offset.saturating_sub(length), usize::from(position.tail_length))?;
        Ok(position.tail_length == 0 || hash(&tail) == position.tail_hash)
    }

    pub(super) fn has_head(&self, position: &Position) -> io::Result<bool> {
        let head = self.read_head(usize::from(position.head_length))?;
        Ok(head.len() == usize::from(position.head_length) && hash(&head) == position.head_hash)
    }

    fn read_head(&self, length: usize) -> io::Result<Vec<u8>> {
        self.read_at(0, length.min(HEAD))
    }

    /// Reads once, again if a signal interrupts it.
    fn read_some(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Reads as much of `length` bytes as there are.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_some(rest, offset + u64::try_from(filled).unwrap_or_default())? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Continues at `offset`, or with the next line if `offset` is inside a line.
    pub(super) fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.offset = offset;
        self.head = self.read_head(usize::try_from(offset).unwrap_or(HEAD))?;
        let tail = HEAD.min(usize::try_from(offset).unwrap_or(HEAD));
        self.tail = self.read_at(offset - u64::try_from(tail).unwrap_or_default(), tail)?;
        if self.tail.last().is_some_and(|byte| *byte != b'\n') {
            self.lines.skip_line();
        }
        Ok(())
    }

    /// Continues at `offset` as [`OpenFile::seek`], and remembers the lines before it.
    pub(super) fn resume(&mut self, offset: u64, chunk: &mut [u8], seen: &mut SeenLines) -> io::Result<()> {
        let start = offset.saturating_sub(REMEMBERED_BYTES);
        self.whole_lines(start, offset, chunk, &mut |line, _| seen.push(line))?;
        self.seek(offset)
    }

    /// Has the next read look for the lines that were read before: the file took the place of the one at `position`.
    pub(super) fn check(&mut self, position: Option<Position>, is_new: bool) {
        self.is_caught_up = is_new && self.size <= MAX_NEW;
        self.unchecked = Some(Unchecked { was_empty: false, polls: 0, replaced: position });
        self.rewriting = None;
    }

    /// Skips what was read before from the file that this one replaced. Whoever rewrites a file in place has often written only a part of
    /// it, or nothing, when it is looked at.
    fn skip_seen(&mut self, unchecked: Unchecked, chunk: &mut [u8], seen: &SeenLines) -> io::Result<()> {
        if seen.is_empty() {
            return Ok(());
        }
        if self.size == 0 {
            self.unchecked = Some(Unchecked { was_empty: true, ..unchecked });
            return Ok(());
        }
        let (mut search, mut end_of_seen) = (seen.search(), 0);
        self.whole_lines(self.size.saturating_sub(MAX_SEARCHED), self.size, chunk, &mut |line, end| {
            if search.line(line) {
                end_of_seen = end;
            }
        })?;
        // An earlier state of a long file, put back: none of its lines is recent enough to be remembered.
        if end_of_seen == 0
            && let Some(replaced) = &unchecked.replaced
            && usize::from(replaced.head_length) == HEAD
            && self.has_head(replaced)?
        {
            end_of_seen = self.size;
            if unchecked.was_empty && self.offset < self.size && unchecked.polls < MAX_IDLE_POLLS {
                // What follows may be the lines that are remembered.
                self.unchecked = Some(Unchecked { polls: unchecked.polls + 1, ..unchecked });
            }
        }
        self.rewriting = Some(Rewriting { search, unseen: 0, idle_polls: 0 });
        self.is_rewritten_copy = end_of_seen > 0 && end_of_seen == self.size;
        if end_of_seen > 0 {
            self.is_caught_up = false;
            self.seek(end_of_seen)?;
        }
        Ok(())
    }

    /// Hands each whole line from `start` to `end` to `sink`, with the offset of the byte behind its newline. The first line is left out
    /// if it began before `start`.
    fn whole_lines(&self, start: u64, end: u64, chunk: &mut [u8], sink: &mut dyn FnMut(&[u8], u64)) -> io::Result<()> {
        let mut lines = LineSplitter::default();
        let mut offset = start;
        if start > 0 && self.read_at(start - 1, 1)? != b"\n" {
            lines.skip_line();
        }
        while offset < end {
            let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(chunk.len());
            let read = self.read_some(chunk.get_mut(..wanted).unwrap_or_default(), offset)?;
            if read == 0 {
                break;
            }
            for line in chunk.get(..read).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
                offset += u64::try_from(line.len()).unwrap_or_default();
                lines.feed(line, &mut |text| sink(text, offset));
            }
        }
        Ok(())
    }

    /// Whether the file was truncated or rewritten: it is shorter than what was read, or what was read has changed.
    pub(super) fn was_truncated(&self, now: &Metadata) -> io::Result<bool> {
        if now.len() < self.offset {
            return Ok(true);
        }
        let is_unchanged = now.len() == self.size && (now.mtime(), now.mtime_nsec()) == self.modified;
        if is_unchanged {
            return Ok(false);
        }
        let tail = self.offset - u64::try_from(self.tail.len()).unwrap_or_default();
        Ok(self.read_head(self.head.len())? != self.head || self.read_at(tail, self.tail.len())? != self.tail)
    }

    pub(super) fn restart(&mut self) {
        self.offset = 0;
        self.head.clear();
        self.tail.clear();
        self.lines.restart();
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.offset >= self.size
    }

    /// The start of an incomplete line counts as the position, so that the line is read whole after a restart.
    pub(super) fn position(&self, seen: &SeenLines) -> Position {
        let (incomplete, head_length) = (self.lines.incomplete().len(), self.head.len().min(HEAD));
        let tail = self.tail.get(..self.tail.len().saturating_sub(incomplete)).unwrap_or_default();
        let (key, recent) = seen.saved();
        Position {
            device: self.device,
            inode: self.inode,
            offset: self.offset - u64::try_from(incomplete).unwrap_or_default(),
            head_length: u16::try_from(head_length).unwrap_or_default(),
            head_hash: hash(&self.head),
            tail_length: u16::try_from(tail.len()).unwrap_or_default(),
            tail_hash: hash(tail),
            key,
            recent,
        }
    }

    /// Reads what is there, up to a limit, and hands each line to `sink`, with whether it was written since the last read.
    pub(super) fn read(
        &mut self,
        chunk: &mut [u8],
        seen: &mut SeenLines,
        sink: &mut dyn FnMut(&[u8], bool),
        progress: &mut Progress,
        counts: &mut Counts,
    ) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        self.links = metadata.nlink();
        self.size = metadata.len();
        self.modified = (metadata.mtime(), metadata.mtime_nsec());
        // What a file has when it is first seen may come from whoever put it there.
        let is_known = self.unchecked.as_ref().is_none_or(|unchecked| unchecked.was_empty);
        if let Some(unchecked) = self.unchecked.clone() {
            self.unchecked = None;
            if let Err(error) = self.skip_seen(unchecked.clone(), chunk, seen) {
                self.unchecked = Some(unchecked);
                return Err(error);
            }
        }
        if self.is_at_end() {
            self.is_caught_up = true;
            self.is_left = self.links == 0;
            self.idle_polls = self.idle_polls.saturating_add(1);
            if let Some(rewriting) = &mut self.rewriting {
                rewriting.idle_polls += 1;
                if rewriting.idle_polls > MAX_IDLE_POLLS {
                    self.rewriting = None;
                }
            }
            return Ok(());
        }
        self.idle_polls = 0;
        let is_live = self.is_caught_up;
        self.is_caught_up = false;
        let stop = self.offset.saturating_add(MAX_PER_POLL);
        loop {
            let read = self.read_some(chunk, self.offset)?;
            if read == 0 {
                self.is_caught_up = true;
                self.is_left = self.links == 0;
                return Ok(());
            }
            let bytes = chunk.get(..read).unwrap_or_default();
            self.offset += u64::try_from(read).unwrap_or_default();
            progress.bytes += u64::try_from(read).unwrap_or_default();
            let missing = HEAD - self.head.len();
            self.head.extend_from_slice(bytes.get(..missing).unwrap_or(bytes));
            let before = (self.lines.cut, self.lines.dropped_bytes);
            self.tail.extend_from_slice(bytes.get(bytes.len().saturating_sub(HEAD)..).unwrap_or_default());
            self.tail.drain(..self.tail.len().saturating_sub(HEAD));
            let (rewriting, mut repeated) = (&mut self.rewriting, 0);
            let lines = self.lines.feed(bytes, &mut |line| {
                if rewriting.as_mut().is_some_and(|rewriting| rewriting.is_seen(line)) {
                    repeated += 1;
                    return;
                }
                seen.push(line);
                sink(line, is_live);
            });
            progress.lines += lines - repeated;
            self.has_grown |= is_known && is_live && lines > repeated;
            if self.rewriting.as_ref().is_some_and(|rewriting| rewriting.unseen > MAX_UNSEEN) {
                self.rewriting = None;
            }
            counts.cut_lines += self.lines.cut - before.0;
            counts.dropped_bytes += self.lines.dropped_bytes - before.1;
            if self.offset >= stop {
                progress.more = true;
                return Ok(());
            }
        }
    }
}

/// A file in which lines that were read before are still to be looked for.
#[derive(Debug, Clone)]
struct Unchecked {
    /// Whether it was found empty: then it may still be written when it is looked at again.
    was_empty: bool,
    /// How often nothing but old lines was found.
    polls: u32,
    /// Where reading stopped in the file that it replaced.
    replaced: Option<Position>,
}

/// A file whose next lines may have been read before.
#[derive(Debug)]
struct Rewriting {
    search: Search,
    /// Number of lines in a row that were not read before.
    unseen: u32,
    /// Number of polls without a line.
    idle_polls: u32,
}

impl Rewriting {
    fn is_seen(&mut self, line: &[u8]) -> bool {
        let is_seen = self.search.line(line);
        self.unseen = if is_seen { 0 } else { self.unseen + 1 };
        is_seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_lines_of_a_part_are_those_that_begin_and_end_in_it() {
        let (folder, content) = (tempfile::tempdir().unwrap(), b"ab\ncd\n\nefg\nhi");
        let path = folder.path().join("log");
        std::fs::write(&path, content).unwrap();
        let file = OpenFile::open(&path).unwrap();
        for (start, end) in (0..=content.len()).flat_map(|start| (start..=content.len()).map(move |end| (start, end))) {
            let (mut expected, mut begin) = (Vec::new(), 0);
            for line in content.split_inclusive(|byte| *byte == b'\n') {
                let next = begin + line.len();
                if begin >= start && next <= end && line.ends_with(b"\n") {
                    expected.push((line.trim_ascii_end().to_vec(), next as u64));
                }
                begin = next;
            }
            for chunk in 1..5 {
                let mut lines = Vec::new();
                let mut add = |line: &[u8], end: u64| lines.push((line.to_vec(), end));
                file.whole_lines(start as u64, end as u64, &mut vec![0; chunk], &mut add).unwrap();
                assert_eq!(lines, expected, "{start} to {end} in parts of {chunk}");
            }
        }
    }
}
