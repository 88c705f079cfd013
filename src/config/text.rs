//! The text of a configuration file, and errors that point into it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

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

/// A configuration file's text.
#[derive(Debug, Clone, Copy)]
pub struct ConfigText<'t> {
    text: &'t str,
    file: &'t Path,
}

impl<'t> ConfigText<'t> {
    /// Checks that `bytes` are UTF-8.
    ///
    /// # Errors
    /// The line of the first byte that is not.
    pub fn new(bytes: &'t [u8], file: &'t Path) -> Result<Self, ConfigError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self { text, file }),
            Err(error) => Err(ConfigError {
                file: file.into(),
                line: Some(line_of(bytes, error.valid_up_to())),
                message: "found bytes that are not UTF-8, expected TOML".into(),
            }),
        }
    }

    /// The file that the text is from.
    pub fn file(&self) -> &'t Path {
        self.file
    }

    /// Deserializes the whole text from TOML.
    ///
    /// # Errors
    /// The first fault, in one line of text: the message of the `toml` crate spans several.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text).map_err(|error| {
            let lines: Vec<&str> = error.message().lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let message = lines.join("; ");
            match error.span() {
                Some(span) => self.error_at(span.start, message),
                None => self.error(message),
            }
        })
    }

    /// An error at the byte `offset` of the text.
    pub fn error_at(&self, offset: usize, message: impl Into<String>) -> ConfigError {
        ConfigError { file: self.file.into(), line: Some(line_of(self.text.as_bytes(), offset)), message: message.into() }
    }

    /// An error of the file as a whole.
    pub fn error(&self, message: impl Into<String>) -> ConfigError {
        ConfigError { file: self.file.into(), line: None, message: message.into() }
    }

    /// The error of a faulty rule.
    pub fn spec_error(&self, error: SpecError) -> ConfigError {
        self.error_at(error.offset, error.message)
    }
}

/// The line, counted from 1, of the byte at `offset`.
fn line_of(text: &[u8], offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).iter().filter(|byte| **byte == b'\n').count() + 1
}
