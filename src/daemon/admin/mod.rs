//! Answers to operators' requests, on a thread of their own.

mod ban;
pub mod context;
mod list;
mod pause;
mod reload;
mod status;
mod why;
pub mod worker;
