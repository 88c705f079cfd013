//! `strikeout import`: translates another program's configuration and prints the result.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::terminal::now;
use super::{Failure, print, print_json};
use crate::control::bans::ListedBan;
use crate::event::Scope;
use crate::fail2ban::import::import;
use crate::fail2ban::import_bans::bans;

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
        /// Put all rules into shadow mode: they count and refuse nobody
        #[arg(long)]
        shadow: bool,
        /// Print the bans in fail2ban's database instead, as `strikeout ban --from -` takes them
        #[arg(long, conflicts_with_all = ["jails", "shadow"])]
        bans: bool,
    },
}

/// Prints the bans in fail2ban's database.
fn print_bans(folder: &Path) -> Result<(), Failure> {
    let now = now();
    let bans = bans(folder, now).map_err(|error| Failure::Usage(format!("{error:#}")))?;
    let listed = bans.into_iter().map(|ban| ListedBan {
        client: ban.client,
        scope: Scope::from_name(ban.scope).unwrap_or_default(),
        rule: ban.rule,
        until: ban.until,
        remaining: if ban.until < 0 { -1 } else { ban.until - now },
        since: Some(ban.since),
        evidence: Some("a ban of fail2ban".to_owned()),
    });
    print_json(&listed.collect::<Vec<_>>())
}

/// `strikeout import`. Exit code 0: done; 1: a jail that was named, or every jail, could not be translated; 2: the folder cannot be read or
/// holds a fault.
pub fn run(arguments: &ImportArguments) -> ExitCode {
    let ImportSource::Fail2ban { folder, jails, shadow, bans } = &arguments.source;
    if *bans {
        return match print_bans(folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        };
    }
    let imported = match import(folder, jails, *shadow) {
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
