//! `strikeout`: the daemon and the operator's program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    strikeout::strikeout_main()
}
