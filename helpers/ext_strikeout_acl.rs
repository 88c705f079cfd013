//! `ext_strikeout_acl`: the helper that Squid asks about each request.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    strikeout::ext_strikeout_acl_main()
}
