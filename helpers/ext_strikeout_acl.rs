//! Placeholder until the library answers.
#![forbid(unsafe_code)]

fn main() {}
