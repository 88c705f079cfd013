//! Cuts what was read, chunk by chunk, into lines: of any bytes, of bounded length.

/// The longest line in bytes that is handed on: what comes behind it is dropped, and counted.
pub const LONGEST_LINE: usize = 64 * 1024;

/// Turns chunks into lines. Half a line waits for its other half.
#[derive(Debug, Default)]
pub struct Lines {
    half: Vec<u8>,
    /// The rest of a line that was cut, or whose beginning was never seen, is being passed over.
    skipping: bool,
    /// Lines that were cut at [`LONGEST_LINE`].
    pub cut: u64,
    /// Bytes that were dropped.
    pub dropped_bytes: u64,
}

impl Lines {
    /// Hands every line that `bytes` completes to `sink`, without newline and carriage return, and says how many there were.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> u64 {
        let mut lines = 0;
        while let Some(newline) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at_checked(newline).unwrap_or_default();
            bytes = rest.get(1..).unwrap_or_default();
            if self.skipping {
                self.skipping = false;
                self.drop_bytes(line);
            } else if self.half.is_empty() && line.len() <= LONGEST_LINE {
                lines += 1;
                sink(without_return(line));
            } else {
                lines += 1;
                self.cut += u64::from(line.len() > LONGEST_LINE - self.half.len());
                self.append(line);
                sink(without_return(&self.half));
                self.half.clear();
            }
        }
        if self.skipping {
            self.drop_bytes(bytes);
            return lines;
        }
        self.append(bytes);
        if self.half.len() >= LONGEST_LINE {
            lines += 1;
            self.cut += 1;
            sink(&self.half);
            self.half.clear();
            self.skipping = true;
        }
        lines
    }

    /// Passes over everything up to the next newline.
    pub fn skip_line(&mut self) {
        self.half.clear();
        self.skipping = true;
    }

    /// Forgets what waits, and says whether that was half a line.
    pub fn restart(&mut self) -> bool {
        let waited = !self.half.is_empty();
        self.half.clear();
        self.skipping = false;
        waited
    }

    /// The line that no newline has ended yet.
    #[must_use]
    pub fn half(&self) -> &[u8] {
        &self.half
    }

    /// Adds to the half line what fits.
    fn append(&mut self, bytes: &[u8]) {
        let room = LONGEST_LINE - self.half.len();
        let (kept, dropped) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        self.half.extend_from_slice(kept);
        self.drop_bytes(dropped);
    }

    fn drop_bytes(&mut self, bytes: &[u8]) {
        self.dropped_bytes += u64::try_from(bytes.len()).unwrap_or_default();
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Lines) {
        let (mut lines, mut read) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.feed(chunk, &mut |line| read.push(line.to_vec()));
        }
        (read, lines)
    }

    #[test]
    fn a_long_line_is_cut_wherever_the_chunks_end() {
        let text = [vec![b'x'; LONGEST_LINE + 10], b"\nnext\n".to_vec()].concat();
        for size in [1, 7, 1000, LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1, LONGEST_LINE + 11, text.len()] {
            let (read, lines) = cut(&text.chunks(size).collect::<Vec<_>>());
            assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), [LONGEST_LINE, 4], "{size}");
            assert_eq!((lines.cut, lines.dropped_bytes), (1, 10), "{size}");
        }
    }

    #[test]
    fn a_line_that_just_fits_is_whole() {
        let text = [vec![b'x'; LONGEST_LINE], b"\nnext\n".to_vec()].concat();
        let (read, lines) = cut(&[&text]);
        assert_eq!((read[0].len(), &*read[1], lines.dropped_bytes), (LONGEST_LINE, &b"next"[..], 0));
    }

    proptest! {
        #[test]
        fn short_lines_are_those_of_a_plain_split(text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..300), size in 1_usize..50) {
            let (read, lines) = cut(&text.chunks(size).collect::<Vec<_>>());
            let mut expected: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            prop_assert_eq!(lines.half(), &expected.pop().unwrap()[..]);
            for line in &mut expected {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
            }
            prop_assert_eq!(read, expected);
        }
    }
}
