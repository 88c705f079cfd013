//! Answers to operators' requests, on a thread of their own.

mod ban;
pub mod context;
mod list;
mod pause;
mod release;
mod reload;
mod status;
mod unban;
mod undo;
mod undone;
mod why;
mod why_network;
pub mod worker;
