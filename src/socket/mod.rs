//! The resident's socket: what is asked on it, what is answered, and how to ask.

pub mod follow;
