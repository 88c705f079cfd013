//! The text of a configuration in one or more files, and errors that point into it.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use super::duplicate;
use super::error_text::readable;
use crate::rule::spec::SpecError;

/// An unusable configuration, shown as `FILE:LINE: what was found, what was expected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// The faulty line, counted from 1; none if the fault is not in one line.
    pub line: Option<usize>,
    /// What was found, and what was expected.
    pub message: String,
}

impl ConfigError {
    /// The error for a file that cannot be read.
    pub fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        Self { file: file.into(), line: None, message: format!("cannot be read: {error}") }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The text of a configuration: of the main file, then of the pieces. Offsets count through all of them.
#[derive(Debug, Clone)]
pub struct ConfigText(Vec<Piece>);

#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) file: PathBuf,
    pub(super) text: String,
    /// The offset of its first byte.
    pub(super) start: usize,
}

impl ConfigText {
    /// The text of a configuration in one file.
    ///
    /// # Errors
    /// The line of the first byte that is not UTF-8.
    pub fn new(bytes: &[u8], file: &Path) -> Result<Self, ConfigError> {
        let mut text = Self(Vec::new());
        text.add(bytes, file)?;
        Ok(text)
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// The line of the first byte that is not UTF-8.
    pub(super) fn add(&mut self, bytes: &[u8], file: &Path) -> Result<(), ConfigError> {
        // One byte apart, so that the end of one is not the start of the next.
        let start = self.0.last().map_or(0, |last| last.start + last.text.len() + 1);
        match std::str::from_utf8(bytes) {
            Ok(text) => self.0.push(Piece { file: file.into(), text: text.to_owned(), start }),
            Err(error) => {
                return Err(ConfigError {
                    file: file.into(),
                    line: Some(line_of(bytes, error.valid_up_to())),
                    message: "found bytes that are not UTF-8, expected TOML".into(),
                });
            }
        }
        Ok(())
    }

    /// The files, the main one first.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|piece| &*piece.file)
    }

    /// The file that holds the byte at `offset`.
    pub fn file_at(&self, offset: usize) -> &Path {
        self.piece_at(offset).map_or(Path::new(""), |(piece, _)| &piece.file)
    }

    /// `FILE:LINE` of the byte at `offset`.
    pub fn place(&self, offset: usize) -> String {
        let error = self.error_at(offset, "");
        format!("{}:{}", error.file.display(), error.line.unwrap_or_default())
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.0
    }

    pub(super) fn toml_error(&self, error: &toml::de::Error, start: usize) -> ConfigError {
        let Some(span) = error.span() else { return self.error(readable(error.message(), "", "")) };
        if error.message() == "duplicate key"
            && let Some((piece, _)) = self.piece_at(span.start + start)
            && let Some((name, first)) = duplicate::first(&piece.text, span.clone())
        {
            let first = self.place(first + start);
            return self.error_at(span.start + start, format!("found a second {name}, the first is at {first}; expected it in one place"));
        }
        let (from, to) = (span.start + start, span.end + start);
        let (before, value) = self.piece_at(from).map_or(("", ""), |(piece, at)| {
            (piece.text.get(..at).unwrap_or_default(), piece.text.get(at..at + (to - from)).unwrap_or_default())
        });
        self.error_at(from, readable(error.message(), before, value))
    }

    /// An error at the byte `offset` of the text.
    pub fn error_at(&self, offset: usize, message: impl Into<Cow<'static, str>>) -> ConfigError {
        let message = message.into().into_owned();
        match self.piece_at(offset) {
            Some((piece, at)) => ConfigError { file: piece.file.clone(), line: Some(line_of(piece.text.as_bytes(), at)), message },
            None => self.error(message),
        }
    }

    /// An error of the configuration as a whole.
    pub fn error(&self, message: impl Into<String>) -> ConfigError {
        let file = self.0.first().map(|piece| piece.file.clone()).unwrap_or_default();
        ConfigError { file, line: None, message: message.into() }
    }

    /// The error of a faulty rule.
    pub fn spec_error(&self, error: SpecError) -> ConfigError {
        self.error_at(error.offset, error.message)
    }

    /// The piece that holds the byte at `offset`, and the offset within it.
    fn piece_at(&self, offset: usize) -> Option<(&Piece, usize)> {
        let piece = self.0.iter().rfind(|piece| piece.start <= offset)?;
        Some((piece, offset - piece.start))
    }
}

/// The line, counted from 1, of the byte at `offset`.
fn line_of(text: &[u8], offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).iter().filter(|byte| **byte == b'\n').count() + 1
}
