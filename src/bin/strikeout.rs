//! `strikeout`: the resident, and what operators ask it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    strikeout::operator::run()
}
