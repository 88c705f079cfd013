//! `exim_strikeout_acl`: Exim asks it about each connection.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    strikeout::exim::run()
}
