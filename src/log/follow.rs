//! Follows one text file, as `tail -F` does: through rotation by renaming and by truncation, deletion, late appearance and links. A file
//! that is rewritten, in place or by another that takes its place, is read on behind the last line that was read before.
//!
//! It reads no clock and never waits: [`Follower::poll`] reads what is there. It hands on whole lines, of any bytes, cut at
//! [`super::lines::MAX_LENGTH`]; an incomplete line is held back until its newline arrives. A saved [`Position`] is found again after a
//! restart, even if the file was renamed or copied away in the meantime.

use super::followed_file::{HEAD, OpenFile};
use super::seen_lines::SeenLines;
use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes per read.
const CHUNK: usize = 64 * 1024;
/// Number of rotated files that stay open, newest first: a server may go on writing to a rotated file for a while.
const MAX_ROTATED: usize = 2;
/// Maximum number of files read, newest first, that were rotated while the log was not followed.
const MAX_MISSED: usize = 50;
/// Number of polls without new data after which a deleted file is closed, which frees its disk space.
const POLLS_BEFORE_CLOSING_DELETED: u32 = 100;
/// The same for a file that another one replaced (`sed -i`, an editor) and that was not written to after that, once the new one has grown: a
/// minute. It is also for how long nothing may be written to a replaced file before the server is taken to write to the new one.
const POLLS_BEFORE_CLOSING_REPLACED: u32 = 1200;
/// The same for a replaced file that was written to after that, or while the new one has not grown: an hour. Its server may go on writing to
/// it until it opens its log again, and a quiet one may not do so for a long time.
const POLLS_BEFORE_CLOSING_WRITTEN: u32 = 72_000;

pub use super::followed_file::{Counts, Position, Progress};

/// Number of polls for which a required file may be missing once it was there: between its renaming and the server's new file.
const POLLS_BEFORE_MISSED: u32 = 200;

/// Where a follower without a saved position starts in a file that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the end: a new installation does not judge the past.
    End,
    #[cfg(test)]
    Beginning,
}

/// Follows one path.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// The file at the path; while none exists, the last one that did.
    current: Option<OpenFile>,
    /// Files that were at the path before, oldest first.
    rotated: VecDeque<OpenFile>,
    seen: SeenLines,
    start: Option<Start>,
    resume: Option<Position>,
    is_required: bool,
    /// Number of polls in a row that found no file at the path.
    missing: u32,
    /// What is wrong with the file at the path although it can be read.
    fault: Option<&'static str>,
    counts: Counts,
    chunk: Vec<u8>,
}

impl Follower {
    /// Follows `path` from `position`, or from the current end if none was saved. The file need not exist yet.
    #[must_use]
    pub fn new(path: &Path, position: Option<Position>) -> Self {
        Self::starting(path, Start::End, position)
    }

    /// Like [`Follower::new`], with a choice of where to start if no position was saved.
    #[must_use]
    pub fn starting(path: &Path, start: Start, position: Option<Position>) -> Self {
        let seen = position.as_ref().map_or_else(SeenLines::new, |position| SeenLines::restored(position.key, &position.recent));
        Self {
            path: path.into(),
            current: None,
            rotated: VecDeque::new(),
            seen,
            start: Some(start),
            resume: position,
            is_required: false,
            missing: 0,
            fault: None,
            counts: Counts::default(),
            chunk: vec![0; CHUNK],
        }
    }

    /// Makes a file that is not there an error.
    #[must_use]
    pub fn required(self) -> Self {
        Self { is_required: true, ..self }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands every complete line to `sink`, without its newline, and whether it was written since the last poll.
    ///
    /// # Errors
    /// Any file system error; a file that does not exist only if it is [required](Follower::required). Lines before the error were handed
    /// on, and the next poll continues where this one stopped.
    pub fn poll(&mut self, sink: &mut dyn FnMut(&[u8], bool)) -> io::Result<Progress> {
        let mut progress = Progress::default();
        let checked = self.check_path();
        for reading in &mut self.rotated {
            let (offset, was_left) = (reading.offset, reading.is_left);
            reading.read(&mut self.chunk, &mut self.seen, sink, &mut progress, &mut self.counts)?;
            if was_left && reading.offset > offset {
                self.fault = Some(WRITTEN_ELSEWHERE);
                reading.is_written_late = true;
                if let Some(current) = &mut self.current {
                    current.has_grown = false;
                }
            }
            if progress.more {
                // Older lines come first.
                break;
            }
        }
        if let Some(reading) = self.current.as_mut().filter(|_| !progress.more) {
            reading.read(&mut self.chunk, &mut self.seen, sink, &mut progress, &mut self.counts)?;
        }
        self.close_finished();
        self.end_fault();
        checked?;
        Ok(progress)
    }

    /// Where reading stopped in the newest file; none before a file was found.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match &self.current {
            Some(reading) => Some(reading.position(&self.seen)),
            None => self.resume.clone(),
        }
    }

    /// Whether no file was found at the path yet.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.current.is_none() && self.missing > 0
    }

    /// What is wrong with the file although it can be read, and the remedy.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// Number of unread bytes as of the last poll.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.rotated.iter().chain(&self.current).map(|reading| reading.size.saturating_sub(reading.offset)).sum()
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Opens the file at the path if it is not the current one, and starts again in a truncated one.
    fn check_path(&mut self) -> io::Result<()> {
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A file that appears from now on is new, so it is read from its start.
                self.start = None;
                self.missing = self.missing.saturating_add(1);
                let is_missed = self.current.is_none() || self.missing > POLLS_BEFORE_MISSED;
                return if self.is_required && is_missed { Err(missing()) } else { Ok(()) };
            }
            Err(error) => return Err(error),
        };
        self.missing = 0;
        if let Some(current) = &mut self.current
            && current.is_same(&metadata)
        {
            if current.was_truncated(&metadata)? {
                self.counts.truncations += 1;
                let position = current.position(&self.seen);
                current.restart();
                current.size = metadata.len();
                current.check(Some(position.clone()), true);
                // logrotate's `copytruncate`: what was written after the last poll is in the copy.
                self.read_rotated(&position)?;
            }
            return Ok(());
        }
        let mut opened = OpenFile::open(&self.path)?;
        if let Some(position) = self.resume.clone() {
            if position.offset > 0 && opened.matches(&position)? {
                opened.resume(position.offset, &mut self.chunk, &mut self.seen)?;
            } else {
                opened.check(Some(position.clone()), false);
                self.read_rotated(&position)?;
            }
            self.resume = None;
        } else if self.start.take() == Some(Start::End) {
            opened.resume(opened.size, &mut self.chunk, &mut self.seen)?;
        } else {
            opened.check(self.current.as_ref().map(|before| before.position(&self.seen)), true);
        }
        self.start = None;
        if let Some(mut before) = self.current.replace(opened) {
            self.counts.rotations += 1;
            before.was_current = true;
            self.rotated.push_back(before);
        }
        Ok(())
    }

    /// Finds the file that `position` points into, which has another name by now, and the files rotated after it, and reads them before
    /// the current one.
    fn read_rotated(&mut self, position: &Position) -> io::Result<()> {
        // If the folder cannot be listed, rotated files are not found, but the log itself is still followed.
        let siblings = siblings(&self.path).unwrap_or_default();
        let mut found = None;
        for sibling in &siblings {
            let is_same_file = sibling.device == position.device && sibling.inode == position.inode;
            // A copy has the same start and another inode. A short start would prove nothing.
            let may_be_copy = usize::from(position.head_length) == HEAD && sibling.size >= position.offset;
            if !is_same_file && !may_be_copy {
                continue;
            }
            let Ok(mut reading) = OpenFile::open(&sibling.path) else { continue };
            if reading.has_read_part(position)? {
                reading.seek(position.offset)?;
                found = Some((sibling, reading));
                if is_same_file {
                    break;
                }
            }
        }
        let Some((sibling, reading)) = found else { return Ok(()) };
        self.rotated.push_back(reading);
        let since = (sibling.modified, &sibling.path);
        let mut later: Vec<&Sibling> = siblings
            .iter()
            .filter(|other| other.is_rotated && (other.modified, &other.path) > since && other.inode != sibling.inode)
            .collect();
        later.sort_by_key(|other| other.modified);
        let surplus = later.len().saturating_sub(MAX_MISSED);
        for other in later.into_iter().skip(surplus) {
            if let Ok(mut reading) = OpenFile::open(&other.path) {
                reading.check(Some(position.clone()), false);
                self.rotated.push_back(reading);
            }
        }
        Ok(())
    }

    /// Closes files to which nothing is written any more.
    fn close_finished(&mut self) {
        let surplus = self.rotated.len().saturating_sub(MAX_ROTATED);
        let mut number = 0;
        let counts = &mut self.counts;
        let has_grown = self.current.as_ref().is_some_and(|current| current.has_grown);
        let is_copy = self.current.as_ref().is_some_and(|current| current.is_rewritten_copy);
        let fault = &mut self.fault;
        self.rotated.retain(|reading| {
            number += 1;
            let is_needed = reading.is_written_late || (reading.was_current && !has_grown);
            let patience = if is_needed { POLLS_BEFORE_CLOSING_WRITTEN } else { POLLS_BEFORE_CLOSING_REPLACED };
            let is_idle = reading.links == 0 && reading.idle_polls > patience;
            let keep = !reading.is_at_end() || (number > surplus && !is_idle);
            // An ordinary rotation leaves an empty file, and a log may be quiet for a day: that is no fault.
            if !keep && is_idle && !has_grown && (reading.is_written_late || (reading.was_current && is_copy)) {
                *fault = Some(GIVEN_UP);
            }
            counts.incomplete_lines += u64::from(!keep && !reading.lines.incomplete().is_empty());
            keep
        });
        if let Some(current) = &self.current
            && current.links == 0
            && current.idle_polls > POLLS_BEFORE_CLOSING_DELETED
        {
            counts.incomplete_lines += u64::from(!current.lines.incomplete().is_empty());
            self.current = None;
        }
    }

    /// Withdraws the fault once the file at the path has grown and no other one has for a while: two processes may write to one each.
    fn end_fault(&mut self) {
        let is_quiet = |reading: &OpenFile| !reading.is_written_late || reading.idle_polls > POLLS_BEFORE_CLOSING_REPLACED;
        if self.current.as_ref().is_some_and(|current| current.has_grown) && self.rotated.iter().all(is_quiet) {
            self.fault = None;
        }
    }
}

/// The fault of a required log that is missing.
pub const NO_SUCH_FILE: &str = "found no such file, expected the log's path (or optional = true, if its server may not be here)";

/// The fault of a log whose server writes to a file that is at no path any more.
const WRITTEN_ELSEWHERE: &str =
    "lines still come in a file that another one has replaced; expected its server to open the log again (reload or restart it)";

/// The fault of a log whose replaced file was given up although nobody is known to write to the new one.
const GIVEN_UP: &str = "another file has replaced this log, and no line has come in either for an hour (the old one is no longer read); \
     expected its server to open the log again (reload or restart it)";

fn missing() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, NO_SUCH_FILE)
}

/// Another file in the folder of a followed one.
#[derive(Debug)]
struct Sibling {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Whether its name is the log's with a suffix (`mainlog.1`, `access.log-20261123`) and it is not compressed.
    is_rotated: bool,
}

/// The other files in the folder of `path` and in that of the file to which it links.
fn siblings(path: &Path) -> io::Result<Vec<Sibling>> {
    /// Maximum number of entries looked at, in case the folder is not one of logs.
    const MAX_ENTRIES: usize = 10_000;
    let mut names = vec![path.to_owned()];
    names.extend(path.canonicalize().ok().filter(|target| target != path));
    let current = std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let mut siblings = Vec::new();
    for log in names {
        let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else { continue };
        for entry in std::fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?.take(MAX_ENTRIES) {
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
                is_rotated: (is_number || suffix == ".old") && !is_compressed,
            });
        }
    }
    Ok(siblings)
}

#[cfg(test)]
#[path = "follow_tests/mod.rs"]
mod tests;
