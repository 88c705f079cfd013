//! `exim_strikeout_acl`: the helper that Exim asks about each connection.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    strikeout::exim_strikeout_acl_main()
}
