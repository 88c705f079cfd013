//! Looks up names, off the path of every query. What the system answers (getaddrinfo(3)), counts: also what /etc/hosts says.
//!
//! A lookup takes as long as the system's resolver lets it, which is half a minute for a dead server and cannot be cut short. So each runs on
//! a short-lived thread of its own, and few at a time.

pub mod crawlers;
pub mod host_answer;
pub mod hosts;
mod questions;
pub mod saved_hosts;
pub mod system;
