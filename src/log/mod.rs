//! Logs: following files as servers write and rotate them, and reading the lines of Exim and Squid.
//!
//! The parsers ([`access`], [`exim`], [`time`]) are pure: bytes in, fields out.

pub mod access;
pub mod exim;
pub mod follow;
pub mod lines;
pub mod open;
pub mod rules;
pub mod text;
pub mod thread;
pub mod time;
