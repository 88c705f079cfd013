//! Reads a whole log for replay: plain, gzip or zstd, told apart by their first bytes.

use super::lines::LineSplitter;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes per read: small enough that a chunk and its lines stay in the second-level cache.
const CHUNK: usize = 64 * 1024;

/// A log that is read from start to end.
pub struct LogReader {
    reader: Box<dyn Read + Send>,
    size: Option<u64>,
    consumed: Arc<AtomicU64>,
    lines: LineSplitter,
    chunk: Vec<u8>,
    ended: bool,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader").field("size", &self.size).field("consumed", &self.consumed).finish_non_exhaustive()
    }
}

/// Counts the bytes read from a file before they are decompressed.
struct CountingReader<R> {
    inner: R,
    consumed: Arc<AtomicU64>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.consumed.fetch_add(u64::try_from(read).unwrap_or_default(), Ordering::Relaxed);
        Ok(read)
    }
}

impl LogReader {
    /// Opens `path`; `-` is standard input.
    ///
    /// # Errors
    /// Any file system error, with the path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        if path == Path::new("-") {
            return Self::new(io::stdin(), None).map_err(named);
        }
        let mut file = File::open(path).map_err(named)?;
        let metadata = file.metadata().map_err(named)?;
        if metadata.is_dir() {
            return Err(named(io::Error::new(io::ErrorKind::IsADirectory, "found a directory, expected a file")));
        }
        // A pipe has neither a size nor a start to go back to.
        let size = metadata.is_file().then_some(metadata.len());
        if size.is_some() {
            file.rewind().map_err(named)?;
        }
        Self::new(file, size).map_err(named)
    }

    /// Reads from `input`, which yields `size` bytes in total if that is known.
    ///
    /// # Errors
    /// The first bytes cannot be read.
    pub fn new(input: impl Read + Send + 'static, size: Option<u64>) -> io::Result<Self> {
        let consumed = Arc::new(AtomicU64::new(0));
        let mut counted = CountingReader { inner: input, consumed: Arc::clone(&consumed) };
        let mut magic = Vec::with_capacity(4);
        counted.by_ref().take(4).read_to_end(&mut magic)?;
        let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
        let is_zstd = magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        let input = io::Cursor::new(magic).chain(counted);
        let reader: Box<dyn Read + Send> = if is_gzip {
            // A gzip file may consist of several members (RFC 1952, section 2.2), for example rotated logs put together with `cat`.
            Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(CHUNK, input)))
        } else if is_zstd {
            Box::new(zstd::Decoder::new(input)?)
        } else {
            Box::new(input)
        };
        Ok(Self { reader, size, consumed, lines: LineSplitter::default(), chunk: vec![0; CHUNK], ended: false })
    }

    /// Number of bytes read so far from the file as it is on disk, for any thread.
    #[must_use]
    pub fn consumed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.consumed)
    }

    /// Size of the file on disk; none for a pipe.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Reads one chunk, hands its lines to `sink` and returns whether there may be more. The last line needs no newline.
    ///
    /// # Errors
    /// The file cannot be read or decompressed any further. Lines before the error were handed on.
    pub fn next_chunk(&mut self, sink: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        while !self.ended {
            match self.reader.read(&mut self.chunk) {
                Ok(0) => {
                    self.ended = true;
                    if !self.lines.incomplete().is_empty() {
                        self.lines.feed(b"\n", sink);
                    }
                }
                Ok(read) => {
                    self.lines.feed(self.chunk.get(..read).unwrap_or_default(), sink);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text() -> Vec<u8> {
        (0..50_000).flat_map(|number| format!("line {number}\n").into_bytes()).chain(*b"last").collect()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn lines_of(file: &[u8]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, file).unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        assert_eq!(reader.size(), Some(file.len() as u64));
        let mut lines = Vec::new();
        while reader.next_chunk(&mut |line| lines.push(String::from_utf8_lossy(line).into_owned())).map_err(|error| error.to_string())? {}
        assert_eq!(reader.consumed().load(Ordering::Relaxed), file.len() as u64);
        Ok(lines)
    }

    #[test]
    fn plain_gzip_and_zstd_logs_hold_the_same_lines() {
        let text = text();
        let expected: Vec<String> = (0..50_000).map(|number| format!("line {number}")).chain(["last".into()]).collect();
        assert_eq!(lines_of(&text).unwrap(), expected);
        assert_eq!(lines_of(&gzip(&text)).unwrap(), expected);
        assert_eq!(lines_of(&zstd::encode_all(&text[..], 3).unwrap()).unwrap(), expected);
    }

    #[test]
    fn concatenated_compressed_files_are_one_log() {
        let expected = ["a", "b"];
        assert_eq!(lines_of(&[gzip(b"a\n"), gzip(b"b\n")].concat()).unwrap(), expected);
        let frames = [zstd::encode_all(&b"a\n"[..], 1).unwrap(), zstd::encode_all(&b"b\n"[..], 1).unwrap()].concat();
        assert_eq!(lines_of(&frames).unwrap(), expected);
    }

    #[test]
    fn a_read_that_a_signal_interrupts_is_repeated_and_another_error_ends_the_log() {
        struct Failing(Vec<io::Result<&'static [u8]>>);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let part = if self.0.is_empty() { Ok(&b""[..]) } else { self.0.remove(0) }?;
                buffer[..part.len()].copy_from_slice(part);
                Ok(part.len())
            }
        }
        let read = |error: io::ErrorKind| {
            let parts: Vec<io::Result<&[u8]>> = vec![Ok(b"1\n2\n"), Err(error.into()), Ok(b"3\n")];
            let (mut reader, mut lines) = (LogReader::new(Failing(parts), None).unwrap(), Vec::new());
            let mut next = || reader.next_chunk(&mut |line| lines.push(line.to_vec()));
            let results = [1, 2, 3].map(|_| next().map_err(|error| error.kind()));
            (results, lines.concat())
        };
        assert_eq!(read(io::ErrorKind::Interrupted), ([Ok(true), Ok(true), Ok(false)], b"123".to_vec()));
        assert_eq!(read(io::ErrorKind::TimedOut), ([Ok(true), Err(io::ErrorKind::TimedOut), Ok(false)], b"12".to_vec()));
    }

    #[test]
    fn an_empty_log_has_no_lines() {
        assert!(lines_of(b"").unwrap().is_empty());
        assert!(lines_of(&gzip(b"")).unwrap().is_empty());
        assert_eq!(lines_of(b"\n").unwrap(), [""]);
    }

    #[test]
    fn a_truncated_compressed_log_is_an_error() {
        let mut file = gzip(&text());
        file.truncate(file.len() / 2);
        assert!(lines_of(&file).is_err());
    }

    #[test]
    fn an_error_from_opening_a_log_names_it() {
        let error = LogReader::open(Path::new("/no/such/log.gz")).unwrap_err().to_string();
        assert!(error.starts_with("/no/such/log.gz: "), "{error}");
        assert!(LogReader::open(Path::new("/")).unwrap_err().to_string().contains("expected a file"));
    }
}
