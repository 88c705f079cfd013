//! Logs: following files as servers write and rotate them, and reading the lines of Exim and Squid.
//!
//! The parsers are pure: bytes in, fields out. Files are touched in [`follow`] alone.

pub mod access;
pub mod exim;
pub mod follow;
pub mod time;
