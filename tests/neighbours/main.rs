//! What runs beside Strikeout, such as the lists that it fetches and the name server that it asks; and what other systems than Debian need.
//!
//! A test that needs something that is not installed is skipped with a reason.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "../harness/mod.rs"]
mod harness;

mod crawlers;
mod crowdsec;
mod crowdsec_again;
mod crowdsec_hostile;
mod elsewhere;
mod host_names;
mod lists;
mod nftables;
mod web;
