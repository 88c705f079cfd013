//! Follows one text file, as `tail -F` does: through rotation by renaming and by truncation, deletion, late appearance and links.
//!
//! It holds no clock and never waits: [`Follower::poll`] reads what is there. What it hands on are whole lines, of any bytes, cut at
//! [`super::lines::LONGEST_LINE`]; half a line waits for its other half. A position can be saved, and following starts there again, also in a file
//! that was renamed or copied away meanwhile.

use super::lines::Lines;
use std::collections::VecDeque;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How much one poll reads at most from each file, so that a huge log holds up nobody.
const MOST_PER_POLL: u64 = 8 << 20;
const CHUNK: usize = 64 * 1024;
/// So many bytes at the beginning of a file tell whether it is still the one it was.
const HEAD: usize = 256;
/// A rotated file may be written on for a while: so many of them are kept open, the last ones.
const MOST_ROTATED: usize = 2;
/// So many files that were rotated while nobody followed are read, the last ones.
const MOST_MISSED: usize = 50;
/// A deleted file that nobody writes any more is let go after so many polls, so that its disk space is freed.
const POLLS_OF_DELETED: u32 = 100;

/// Where reading stopped: to be saved, and handed to [`Follower::new`] after a restart.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The file system's device.
    pub device: u64,
    /// The file's number on it.
    pub inode: u64,
    /// How many bytes were read and handed on.
    pub offset: u64,
    /// How many bytes of the file's beginning `head_hash` is of; at most 256.
    pub head_length: u16,
    /// FNV-1a of the file's beginning: inode numbers are used again, and a truncated file may have grown again.
    pub head_hash: u64,
}

/// What one poll did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Lines handed on.
    pub lines: u64,
    /// Bytes read.
    pub bytes: u64,
    /// More is there already: poll again at once.
    pub more: bool,
}

/// What has happened since the start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Lines that were cut at [`super::lines::LONGEST_LINE`].
    pub cut_lines: u64,
    /// Bytes of such lines that were dropped.
    pub dropped_bytes: u64,
    /// How often another file took the path.
    pub rotations: u64,
    /// How often the file was truncated.
    pub truncations: u64,
    /// Half lines that their file ended with when it was let go: never handed on.
    pub half_lines: u64,
}

/// Where a follower without a saved position starts in a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At its end: a new installation does not judge the past.
    End,
    /// At its beginning.
    Beginning,
}

/// Follows one path.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// The file at the path; the last one that was there, while there is none.
    current: Option<Reading>,
    /// Files that were at the path before, oldest first.
    rotated: VecDeque<Reading>,
    start: Option<Start>,
    resume: Option<Position>,
    counts: Counts,
    chunk: Vec<u8>,
}

impl Follower {
    /// Follows `path`, from `position` if one was saved, else from the end of what is there now. The file need not exist.
    #[must_use]
    pub fn new(path: &Path, position: Option<Position>) -> Self {
        Self::starting(path, Start::End, position)
    }

    /// The same with a choice of where to start if no position was saved.
    #[must_use]
    pub fn starting(path: &Path, start: Start, position: Option<Position>) -> Self {
        Self {
            path: path.into(),
            current: None,
            rotated: VecDeque::new(),
            start: Some(start),
            resume: position,
            counts: Counts::default(),
            chunk: vec![0; CHUNK],
        }
    }

    /// The path that is followed.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands every line that is complete by now to `sink`, without its newline.
    ///
    /// # Errors
    /// What the file system said; a file that is not there (yet) is no error. Lines before the error were handed on, and the next
    /// poll goes on where this one stopped.
    pub fn poll(&mut self, sink: &mut dyn FnMut(&[u8])) -> io::Result<Progress> {
        let mut progress = Progress::default();
        let found = self.look();
        for reading in self.rotated.iter_mut().chain(&mut self.current) {
            reading.read(&mut self.chunk, sink, &mut progress, &mut self.counts)?;
            if progress.more {
                // Older lines come first.
                break;
            }
        }
        self.let_go();
        found?;
        Ok(progress)
    }

    /// Where reading stopped in the newest file. None until a file was found.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match &self.current {
            Some(reading) => Some(reading.position()),
            None => self.resume.clone(),
        }
    }

    /// How many bytes are there that were not read yet, as of the last poll.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.rotated.iter().chain(&self.current).map(|reading| reading.size.saturating_sub(reading.offset)).sum()
    }

    /// What has happened since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Looks which file is at the path, and opens it if it is another one.
    fn look(&mut self) -> io::Result<()> {
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // What appears from now on is new: all of it is read.
                self.start = None;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(current) = &mut self.current
            && current.is(&metadata)
        {
            if current.was_truncated(&metadata)? {
                self.counts.truncations += 1;
                let position = current.position();
                current.restart();
                // What was written between the last poll and the truncation is in the copy, if one was made.
                self.read_on_elsewhere(&position)?;
            }
            return Ok(());
        }
        let mut opened = Reading::open(&self.path)?;
        if let Some(position) = self.resume.clone() {
            if opened.matches(&position)? {
                opened.go_to(position.offset)?;
            } else {
                self.read_on_elsewhere(&position)?;
            }
            self.resume = None;
        } else if self.start.take() == Some(Start::End) {
            opened.go_to(opened.size)?;
        }
        self.start = None;
        if let Some(before) = self.current.replace(opened) {
            self.counts.rotations += 1;
            self.rotated.push_back(before);
        }
        Ok(())
    }

    /// Finds the file that `position` is in, under another name by now, and what was rotated after it; puts them before the current one.
    fn read_on_elsewhere(&mut self, position: &Position) -> io::Result<()> {
        // A folder that may not be read hides what was rotated; the log itself is followed all the same.
        let siblings = siblings(&self.path).unwrap_or_default();
        let mut found = None;
        for sibling in &siblings {
            let is_it = sibling.device == position.device && sibling.inode == position.inode;
            // A copy has the same beginning under another number; a short beginning would prove nothing.
            let may_be_copy = usize::from(position.head_length) == HEAD && sibling.size >= position.offset;
            if !is_it && !may_be_copy {
                continue;
            }
            let Ok(mut reading) = Reading::open(&sibling.path) else { continue };
            if reading.has_head(position)? && reading.size >= position.offset {
                reading.go_to(position.offset)?;
                found = Some((sibling, reading));
                if is_it {
                    break;
                }
            }
        }
        let Some((sibling, reading)) = found else { return Ok(()) };
        self.rotated.push_back(reading);
        let since = (sibling.modified, &sibling.path);
        let mut later: Vec<&Sibling> = siblings
            .iter()
            .filter(|other| other.is_rotated_copy_of_same_log && (other.modified, &other.path) > since && other.inode != sibling.inode)
            .collect();
        later.sort_by_key(|other| other.modified);
        let surplus = later.len().saturating_sub(MOST_MISSED);
        for other in later.into_iter().skip(surplus) {
            if let Ok(reading) = Reading::open(&other.path) {
                self.rotated.push_back(reading);
            }
        }
        Ok(())
    }

    /// Lets files go that nobody writes any more.
    fn let_go(&mut self) {
        let surplus = self.rotated.len().saturating_sub(MOST_ROTATED);
        let mut number = 0;
        let counts = &mut self.counts;
        self.rotated.retain(|reading| {
            number += 1;
            let keep = !reading.is_at_end() || (number > surplus && reading.links > 0);
            counts.half_lines += u64::from(!keep && !reading.lines.half().is_empty());
            keep
        });
        if let Some(current) = &self.current
            && current.links == 0
            && current.idle_polls > POLLS_OF_DELETED
        {
            counts.half_lines += u64::from(!current.lines.half().is_empty());
            self.current = None;
        }
    }
}

/// One open file.
#[derive(Debug)]
struct Reading {
    file: File,
    device: u64,
    inode: u64,
    links: u64,
    /// As of the last look.
    size: u64,
    modified: (i64, i64),
    /// How far it was read.
    offset: u64,
    /// The beginning of the file, as far as it was read.
    head: Vec<u8>,
    /// Holds a line whose end was not written yet.
    lines: Lines,
    /// So often nothing new was found.
    idle_polls: u32,
}

impl Reading {
    fn open(path: &Path) -> io::Result<Self> {
        // Opening a pipe that nobody writes would wait.
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
            lines: Lines::default(),
            idle_polls: 0,
        })
    }

    fn is(&self, metadata: &Metadata) -> bool {
        (self.device, self.inode) == (metadata.dev(), metadata.ino())
    }

    /// Whether it is the file that `position` is in.
    fn matches(&self, position: &Position) -> io::Result<bool> {
        Ok((self.device, self.inode) == (position.device, position.inode) && self.size >= position.offset && self.has_head(position)?)
    }

    fn has_head(&self, position: &Position) -> io::Result<bool> {
        let head = self.read_head(usize::from(position.head_length))?;
        Ok(head.len() == usize::from(position.head_length) && hash(&head) == position.head_hash)
    }

    fn read_head(&self, length: usize) -> io::Result<Vec<u8>> {
        let mut head = vec![0; length.min(HEAD)];
        let mut filled = 0;
        while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, u64::try_from(filled).unwrap_or_default()) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        head.truncate(filled);
        Ok(head)
    }

    /// Goes on from `offset`; from the next line on, if that is inside one.
    fn go_to(&mut self, offset: u64) -> io::Result<()> {
        self.offset = offset;
        self.head = self.read_head(usize::try_from(offset).unwrap_or(HEAD))?;
        if let Some(before) = offset.checked_sub(1) {
            let mut byte = [0];
            if self.file.read_at(&mut byte, before)? == 1 && byte != *b"\n" {
                self.lines.skip_line();
            }
        }
        Ok(())
    }

    /// Whether the file is shorter than what was read, or begins differently: it was truncated, and may have grown again.
    fn was_truncated(&self, now: &Metadata) -> io::Result<bool> {
        if now.len() < self.offset {
            return Ok(true);
        }
        let is_unchanged = now.len() == self.size && (now.mtime(), now.mtime_nsec()) == self.modified;
        Ok(!is_unchanged && self.read_head(self.head.len())? != self.head)
    }

    fn restart(&mut self) {
        self.offset = 0;
        self.head.clear();
        self.lines.restart();
    }

    fn is_at_end(&self) -> bool {
        self.offset >= self.size
    }

    /// A half line is read again after a restart: the position is where it begins.
    fn position(&self) -> Position {
        let head_length = self.head.len().min(HEAD);
        Position {
            device: self.device,
            inode: self.inode,
            offset: self.offset - u64::try_from(self.lines.half().len()).unwrap_or_default(),
            head_length: u16::try_from(head_length).unwrap_or_default(),
            head_hash: hash(&self.head),
        }
    }

    fn read(&mut self, chunk: &mut [u8], sink: &mut dyn FnMut(&[u8]), progress: &mut Progress, counts: &mut Counts) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        self.links = metadata.nlink();
        self.size = metadata.len();
        self.modified = (metadata.mtime(), metadata.mtime_nsec());
        if self.is_at_end() {
            self.idle_polls = self.idle_polls.saturating_add(1);
            return Ok(());
        }
        self.idle_polls = 0;
        let stop = self.offset.saturating_add(MOST_PER_POLL);
        loop {
            match self.file.read_at(chunk, self.offset) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    let bytes = chunk.get(..read).unwrap_or_default();
                    self.offset += u64::try_from(read).unwrap_or_default();
                    progress.bytes += u64::try_from(read).unwrap_or_default();
                    let missing = HEAD - self.head.len();
                    self.head.extend_from_slice(bytes.get(..missing).unwrap_or(bytes));
                    let before = (self.lines.cut, self.lines.dropped_bytes);
                    progress.lines += self.lines.feed(bytes, sink);
                    counts.cut_lines += self.lines.cut - before.0;
                    counts.dropped_bytes += self.lines.dropped_bytes - before.1;
                    if self.offset >= stop {
                        progress.more = true;
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// FNV-1a, 64 bits: it need only be the same after a restart.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A file beside a followed one.
#[derive(Debug)]
struct Sibling {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Its name is the log's with something behind it (`mainlog.1`, `access.log-20261123`), and it is not compressed.
    is_rotated_copy_of_same_log: bool,
}

/// The files in the folder of `path`, and of the file that it links to; not the file at `path` itself.
fn siblings(path: &Path) -> io::Result<Vec<Sibling>> {
    /// A folder of mail or the like is no folder of logs.
    const MOST: usize = 10_000;
    let mut names = vec![path.to_owned()];
    names.extend(path.canonicalize().ok().filter(|target| target != path));
    let current = std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let mut siblings = Vec::new();
    for log in names {
        let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else { continue };
        for entry in std::fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?.take(MOST) {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() || current == Some((metadata.dev(), metadata.ino())) {
                continue;
            }
            let file_name = entry.file_name();
            let suffix = file_name.to_str().and_then(|other| other.strip_prefix(name)).unwrap_or_default();
            let is_number = suffix.starts_with(['.', '-']) && suffix.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
            let is_compressed = [".gz", ".xz", ".bz2", ".zst"].iter().any(|end| suffix.ends_with(end));
            siblings.push(Sibling {
                path: entry.path(),
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.len(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                is_rotated_copy_of_same_log: (is_number || suffix == ".old") && !is_compressed,
            });
        }
    }
    Ok(siblings)
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
