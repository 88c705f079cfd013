//! Splits the chunks read from a log into lines of any bytes and of bounded length.

/// Maximum length of a line in bytes. The rest of a longer one is dropped and counted.
pub const MAX_LENGTH: usize = 64 * 1024;

/// Turns chunks into lines. An incomplete line at the end of a chunk is held back until its newline arrives.
#[derive(Debug, Default)]
pub struct LineSplitter {
    incomplete: Vec<u8>,
    /// Whether everything up to the next newline is dropped: the line was cut, or its start was never seen.
    skipping: bool,
    /// Lines that were cut at [`MAX_LENGTH`].
    pub cut: u64,
    /// Bytes dropped from cut or skipped lines.
    pub dropped_bytes: u64,
}

impl LineSplitter {
    /// Hands every line that `bytes` completes to `sink`, without newline and carriage return, and returns their number.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> u64 {
        let mut lines = 0;
        while let Some(newline) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at_checked(newline).unwrap_or_default();
            bytes = rest.get(1..).unwrap_or_default();
            if self.skipping {
                self.skipping = false;
                self.drop_bytes(line);
            } else if self.incomplete.is_empty() && line.len() <= MAX_LENGTH {
                lines += 1;
                sink(without_return(line));
            } else {
                lines += 1;
                self.cut += u64::from(line.len() > MAX_LENGTH - self.incomplete.len());
                self.append(line);
                sink(without_return(&self.incomplete));
                self.incomplete.clear();
            }
        }
        if self.skipping {
            self.drop_bytes(bytes);
            return lines;
        }
        self.append(bytes);
        if self.incomplete.len() >= MAX_LENGTH {
            lines += 1;
            self.cut += 1;
            sink(&self.incomplete);
            self.incomplete.clear();
            self.skipping = true;
        }
        lines
    }

    /// Drops everything up to the next newline.
    pub fn skip_line(&mut self) {
        self.incomplete.clear();
        self.skipping = true;
    }

    /// Starts anew and drops an incomplete line.
    pub fn restart(&mut self) {
        self.incomplete.clear();
        self.skipping = false;
    }

    /// The line whose newline has not arrived yet.
    #[must_use]
    pub fn incomplete(&self) -> &[u8] {
        &self.incomplete
    }

    /// Appends to the incomplete line as much as fits.
    fn append(&mut self, bytes: &[u8]) {
        let room = MAX_LENGTH - self.incomplete.len();
        let (fitting, dropped) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        self.incomplete.extend_from_slice(fitting);
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

    fn split(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, LineSplitter) {
        let (mut lines, mut read, mut number) = (LineSplitter::default(), Vec::new(), 0);
        for chunk in chunks {
            number += lines.feed(chunk, &mut |line| read.push(line.to_vec()));
        }
        assert_eq!(number, read.len() as u64, "the number of lines is returned");
        (read, lines)
    }

    #[test]
    fn a_long_line_is_cut_wherever_chunks_end() {
        let text = [vec![b'x'; MAX_LENGTH + 10], b"\nnext\n".to_vec()].concat();
        for size in [1, 7, 1000, MAX_LENGTH - 1, MAX_LENGTH, MAX_LENGTH + 1, MAX_LENGTH + 11, text.len()] {
            let (read, lines) = split(&text.chunks(size).collect::<Vec<_>>());
            assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LENGTH, 4], "{size}");
            assert_eq!((lines.cut, lines.dropped_bytes), (1, 10), "{size}");
        }
    }

    #[test]
    fn a_line_of_the_maximum_length_is_not_cut() {
        let text = [vec![b'x'; 65_536], b"\nnext\n".to_vec()].concat();
        for chunks in [vec![&text[..]], vec![&text[..10], &text[10..]]] {
            let (read, lines) = split(&chunks);
            assert_eq!((read[0].len(), &*read[1], lines.cut, lines.dropped_bytes), (65_536, &b"next"[..], 0, 0));
        }
    }

    #[test]
    fn a_skipped_line_ends_at_the_next_newline_and_a_restart_drops_only_what_has_come() {
        let read = |change: fn(&mut LineSplitter)| {
            let (mut lines, mut read) = (LineSplitter::default(), Vec::new());
            lines.feed(b"begun", &mut |_| panic!("it is not complete"));
            change(&mut lines);
            lines.feed(b" rest\nnext\n", &mut |line| read.push(String::from_utf8(line.to_vec()).unwrap()));
            (read, lines.dropped_bytes)
        };
        assert_eq!(read(|_| ()), (vec!["begun rest".to_owned(), "next".to_owned()], 0));
        assert_eq!(read(LineSplitter::skip_line), (vec!["next".to_owned()], 5));
        assert_eq!(read(LineSplitter::restart), (vec![" rest".to_owned(), "next".to_owned()], 0));
        let restarted = |lines: &mut LineSplitter| {
            lines.skip_line();
            lines.restart();
        };
        assert_eq!(read(restarted), (vec![" rest".to_owned(), "next".to_owned()], 0));
    }

    proptest! {
        #[test]
        fn short_lines_are_split_as_by_slice_split(text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..300), size in 1_usize..50) {
            let (read, lines) = split(&text.chunks(size).collect::<Vec<_>>());
            let mut expected: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            prop_assert_eq!(lines.incomplete(), &expected.pop().unwrap()[..]);
            for line in &mut expected {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
            }
            prop_assert_eq!(read, expected);
        }
    }
}
