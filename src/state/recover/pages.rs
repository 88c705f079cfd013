//! The pages of an SQLite database, each in its newest committed version, from the file itself or from its write-ahead log.
//!
//! The formats are those of <https://www.sqlite.org/fileformat2.html>.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The page size assumed if the file's header is damaged: SQLite's default, with which the state file is created.
const DEFAULT_SIZE: usize = 4096;

/// Length of the log's header.
const WAL_HEADER: usize = 32;
/// Length of the header of each frame in the log.
const FRAME_HEADER: usize = 24;

/// The pages of a database file.
pub(super) struct Pages {
    database: File,
    wal: Option<File>,
    /// For each page in the log, the offset of its newest version.
    frames: HashMap<u32, u64>,
    size: usize,
    count: u32,
}

impl Pages {
    /// Opens the database at `path` and its `-wal` file, if there is one.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let database = File::open(path)?;
        let mut name = OsString::from(path);
        name.push("-wal");
        let wal = File::open(name).ok();
        let mut header = [0; 18];
        // A file too short for its header has no pages either.
        let size =
            database.read_exact_at(&mut header, 0).ok().and_then(|()| page_size(u32::from(u16::from_be_bytes([header[16], header[17]]))));
        let log = wal.as_ref().and_then(Log::read);
        let size = size.or(log.as_ref().map(|log| log.page_size)).unwrap_or(DEFAULT_SIZE);
        let frames = log.filter(|log| log.page_size == size).map(|log| log.frames).unwrap_or_default();
        let pages = database.metadata()?.len().div_ceil(size as u64);
        let count = u32::try_from(pages).unwrap_or(u32::MAX).max(frames.keys().copied().max().unwrap_or(0));
        Ok(Self { database, wal, frames, size, count })
    }

    /// The numbers of all pages. The first one is 1.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + use<> {
        1..=self.count
    }

    /// The page with this number; `None` if it cannot be read.
    pub(super) fn read(&self, number: u32) -> Option<Vec<u8>> {
        let mut page = vec![0; self.size];
        match (self.frames.get(&number), &self.wal) {
            (Some(offset), Some(wal)) => wal.read_exact_at(&mut page, *offset).ok()?,
            _ => self.database.read_exact_at(&mut page, u64::from(number.checked_sub(1)?) * self.size as u64).ok()?,
        }
        Some(page)
    }
}

/// A page size as stored in a header, where 1 means 65536; `None` if it is not a valid size.
fn page_size(stored: u32) -> Option<usize> {
    let size = if stored == 1 { 65_536 } else { stored };
    (size.is_power_of_two() && (512..=65_536).contains(&size)).then_some(size as usize)
}

/// The committed frames of a write-ahead log.
struct Log {
    page_size: usize,
    /// The offset of the newest committed version of each page.
    frames: HashMap<u32, u64>,
}

impl Log {
    /// Like SQLite, reads up to the first frame that the checksum shows to be damaged or left over from an earlier use of the log.
    fn read(wal: &File) -> Option<Self> {
        let mut header = [0; WAL_HEADER];
        wal.read_exact_at(&mut header, 0).ok()?;
        let is_big_endian = match word(&header, 0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let page_size = page_size(word(&header, 8))?;
        let mut sum = checksum((0, 0), header.get(..24)?, is_big_endian);
        if sum != (word(&header, 24), word(&header, 28)) {
            return None;
        }
        let (mut frames, mut uncommitted) = (HashMap::new(), Vec::new());
        let mut frame = vec![0; FRAME_HEADER + page_size];
        let mut offset = WAL_HEADER as u64;
        while wal.read_exact_at(&mut frame, offset).is_ok() {
            let (head, page) = frame.split_at(FRAME_HEADER);
            sum = checksum(checksum(sum, head.get(..8)?, is_big_endian), page, is_big_endian);
            if head.get(8..16) != header.get(16..24) || sum != (word(head, 16), word(head, 20)) {
                break;
            }
            uncommitted.push((word(head, 0), offset + FRAME_HEADER as u64));
            let is_commit = word(head, 4) != 0;
            if is_commit {
                frames.extend(uncommitted.drain(..));
            }
            offset += frame.len() as u64;
        }
        Some(Self { page_size, frames })
    }
}

/// The big-endian word at `at`; 0 if there is none.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// The log's checksum of `bytes`, continued from `sum`.
fn checksum(sum: (u32, u32), bytes: &[u8], is_big_endian: bool) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = bytes.try_into().unwrap_or_default();
        if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    bytes.chunks_exact(8).fold(sum, |(first, second), pair| {
        let (left, right) = pair.split_at(4);
        let first = first.wrapping_add(word(left)).wrapping_add(second);
        (first, second.wrapping_add(word(right)).wrapping_add(first))
    })
}
