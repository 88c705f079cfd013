//! Remembers the last lines that were read from a log, to find the place in a rewritten file up to which it was read before.
//!
//! A file is rewritten by `sed -i`, an editor, `rsync`, a program that keeps only the last lines, or a copy put back. Its lines keep their
//! order, so everything before the last line that was read before is old, even what is too old to be remembered.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

/// Maximum number of lines remembered, 128 KiB of hashes.
pub const REMEMBERED: usize = 16_384;
/// Number of lines that a saved position remembers.
const SAVED: usize = 128;
/// Number of lines looked at together. At least half of them must have been read before: a new line may happen to be the same as an old one.
const WINDOW: u32 = 4;

/// Keyed hashes of the last lines read, oldest first.
#[derive(Debug)]
pub struct SeenLines {
    key: u64,
    hashes: VecDeque<u64>,
}

impl SeenLines {
    /// Remembers nothing yet, and hashes with a random key.
    #[must_use]
    pub fn new() -> Self {
        Self { key: RandomState::new().hash_one(0), hashes: VecDeque::new() }
    }

    /// Remembers the lines of a saved position.
    #[must_use]
    pub fn restored(key: u64, hashes: &[u64]) -> Self {
        Self { key, hashes: hashes.iter().copied().collect() }
    }

    pub fn push(&mut self, line: &[u8]) {
        if self.hashes.len() >= REMEMBERED {
            self.hashes.pop_front();
        }
        self.hashes.push_back(line_hash(self.key, line));
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The key and the last lines, to be saved.
    #[must_use]
    pub fn saved(&self) -> (u64, Vec<u64>) {
        (self.key, self.hashes.range(self.hashes.len().saturating_sub(SAVED)..).copied().collect())
    }

    /// Starts looking through a file for the lines that were read before.
    #[must_use]
    pub fn search(&self) -> Search {
        let mut unmatched = HashMap::with_capacity(self.hashes.len());
        for hash in &self.hashes {
            *unmatched.entry(*hash).or_insert(0) += 1;
        }
        Search { key: self.key, unmatched, window: 0, lines: 0 }
    }
}

/// A search through the lines of one file, in order.
#[derive(Debug)]
pub struct Search {
    key: u64,
    /// How often each line was read, less the times that it was found again. Each occurrence counts, so that a repeated line is no surprise.
    unmatched: HashMap<u64, u32>,
    /// One bit for each of the last lines, the newest lowest: whether it was read before.
    window: u32,
    lines: u64,
}

impl Search {
    /// Takes the next line and returns whether everything up to its end was read before.
    pub fn line(&mut self, line: &[u8]) -> bool {
        let is_seen = match self.unmatched.get_mut(&line_hash(self.key, line)) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        };
        self.window = ((self.window << 1) | u32::from(is_seen)) & ((1 << WINDOW) - 1);
        self.lines += 1;
        let looked_at = u32::try_from(self.lines).unwrap_or(WINDOW).min(WINDOW);
        is_seen && self.window.count_ones() * 2 >= looked_at
    }
}

/// FNV-1a with 64 bits, for the start of a file and the bytes before a place in it.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The hash of a line, 16 bytes at a time as wyhash does it: every line is hashed, and FNV-1a took a tenth of the time of a whole line. The
/// hashers of libraries are no alternative, because they may give another value after an upgrade.
///
/// Both factors depend on the secret `key`, so no client can choose text that makes a product zero whatever comes before it.
fn line_hash(key: u64, line: &[u8]) -> u64 {
    const START: u64 = 0xa076_1d64_78bd_642f;
    const END: u64 = 0xe703_7ed1_a0b4_28db;
    let second = key.rotate_left(32) ^ END;
    let word = |half: &[u8; 8]| u64::from_le_bytes(*half);
    let mix = |hash: u64, part: &[u8; 16]| match part.as_chunks() {
        ([low, high], _) => folded_product(word(low) ^ hash, word(high) ^ second),
        _ => hash,
    };
    let (parts, rest) = line.as_chunks::<16>();
    let hash = parts.iter().fold(key ^ START, mix);
    let mut last = [0; 16];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    // The length tells a line from the same with NUL bytes behind it.
    folded_product(mix(hash, &last) ^ u64::try_from(line.len()).unwrap_or_default(), second)
}

/// Both halves of a product.
fn folded_product(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    let halves: [u64; 2] = [0, 64].map(|bits| u64::try_from(product >> bits & u128::from(u64::MAX)).unwrap_or_default());
    halves.iter().fold(0, |both, half| both ^ half)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many lines of `file` were read before.
    fn seen(read: &[&str], file: &[&str]) -> usize {
        let mut lines = SeenLines::new();
        read.iter().for_each(|line| lines.push(line.as_bytes()));
        let (key, hashes) = lines.saved();
        let mut search = SeenLines::restored(key, &hashes).search();
        file.iter().enumerate().filter(|(_, line)| search.line(line.as_bytes())).map(|(at, _)| at + 1).last().unwrap_or(0)
    }

    #[test]
    fn everything_up_to_the_last_line_that_was_read_is_old() {
        let read = ["a", "b", "c", "d", "e", "f"];
        assert_eq!(seen(&read, &["a", "b", "d", "e", "f", "new"]), 5, "a line was removed");
        assert_eq!(seen(&read, &["e", "f", "new"]), 2, "only the last lines were kept");
        assert_eq!(seen(&read, &["a", "b"]), 2, "the last lines were cut off");
        assert_eq!(seen(&read, &["older", "oldest", "c", "d", "x", "f", "new", "new"]), 6, "a line was changed");
        assert_eq!(seen(&read, &["new", "newer"]), 0);
        assert_eq!(seen(&[], &["a"]), 0);
    }

    #[test]
    fn repeated_lines_are_counted() {
        assert_eq!(seen(&["a", "a", "a"], &["a", "a", "a", "a"]), 3);
        assert_eq!(seen(&["a", "b", "a"], &["a", "a", "a"]), 2);
    }

    #[test]
    fn a_new_line_that_is_the_same_as_an_old_one_makes_no_file_an_old_one() {
        assert_eq!(seen(&["a", "----", "b", "----"], &["1", "2", "3", "----", "4", "5", "6", "----"]), 0);
    }

    #[test]
    fn lines_that_differ_in_one_byte_or_in_length_have_different_hashes() {
        let mut known = std::collections::HashSet::new();
        for length in 0..100_u8 {
            let line = vec![0; usize::from(length)];
            assert!(known.insert(line_hash(7, &line)), "{length}");
            for place in 0..line.len() {
                let mut other = line.clone();
                other[place] = length;
                assert!(known.insert(line_hash(7, &other)), "{length} {place}");
            }
        }
        assert_ne!(line_hash(7, b"a line"), line_hash(8, b"a line"));
        assert_eq!(line_hash(7, b"a line that is saved"), 0x844f_8151_7fac_c985, "a saved position must be understood after an upgrade");
    }

    #[test]
    fn one_line_of_three_that_was_read_before_is_chance() {
        assert_eq!(seen(&["a"], &["x", "y", "a"]), 0);
        assert_eq!(seen(&["a"], &["x", "a"]), 2);
    }

    #[test]
    fn the_hash_of_a_part_is_fnv_1a() {
        // Published test vectors of FNV-1a with 64 bits.
        assert_eq!([&b""[..], b"a", b"foobar"].map(hash), [0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c, 0x8594_4171_f739_67e8]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut lines = SeenLines::new();
        assert!(lines.is_empty());
        (0..2 * REMEMBERED).for_each(|number| lines.push(&number.to_le_bytes()));
        assert_eq!((lines.is_empty(), lines.hashes.len(), lines.saved().1.len()), (false, REMEMBERED, SAVED));
    }
}
