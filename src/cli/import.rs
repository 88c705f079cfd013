//! `strikeout import`: translates another program's configuration and prints the result.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, print};
use crate::fail2ban::import::import;

/// The arguments of `import`.
#[derive(Debug, clap::Args)]
pub struct ImportArguments {
    #[command(subcommand)]
    source: ImportSource,
}

/// The program whose configuration is read.
#[derive(Debug, clap::Subcommand)]
enum ImportSource {
    /// Translate fail2ban's jails; the configuration is written to standard output
    Fail2ban {
        /// fail2ban's configuration folder
        #[arg(default_value = "/etc/fail2ban")]
        folder: PathBuf,
        /// Translate only this jail, enabled or not; may be repeated
        #[arg(long = "jail", value_name = "NAME")]
        jails: Vec<String>,
    },
}

/// `strikeout import`. Exit code 0: done; 1: a jail that was named, or every jail, could not be translated; 2: the folder cannot be read or
/// holds a fault.
pub fn run(arguments: &ImportArguments) -> ExitCode {
    let ImportSource::Fail2ban { folder, jails } = &arguments.source;
    let imported = match import(folder, jails) {
        Ok(imported) => imported,
        Err(error) => return Failure::Usage(format!("{error:#}")).report(),
    };
    let mut errors = std::io::stderr().lock();
    for warning in &imported.warnings {
        // A failure to write on standard error cannot be reported anywhere; the text holds the warning too.
        let _ = writeln!(errors, "warning: {warning}");
    }
    drop(errors);
    match print(&imported.text) {
        Ok(()) if imported.failed => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
