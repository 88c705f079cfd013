//! Squid: its configuration, and what it has to say so that clients are judged by it.

mod access;
pub mod checks;
pub mod external;
mod forwarded;
mod telling_log;
