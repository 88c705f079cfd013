//! What runs beside Strikeout, such as the lists that it fetches.
//!
//! A test that needs something that is not installed is skipped with a reason.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "../harness/mod.rs"]
mod harness;

mod lists;
mod web;
