//! Exim's questions: `check` and `strike`, and which of its connection processes are alive.

pub mod check;
pub mod processes;
