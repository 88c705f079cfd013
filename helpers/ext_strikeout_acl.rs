//! `ext_strikeout_acl`: Squid asks it about each request.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    strikeout::squid::helper::run()
}
