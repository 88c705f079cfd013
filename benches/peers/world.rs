//! A directory with the configuration and the state file that a contender starts with. It goes when it is dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use strikeout::client::Client;
use strikeout::engine::{BanRecord, Change};
use strikeout::event::Scope;
use strikeout::rule::Evidence;
use strikeout::state::{Item, Store};
use strikeout::table::Until as End;
use strikeout::time::{Span, Time};
use tempfile::TempDir;

use crate::child::Process;
use crate::pipe::{Helper, Load, Until};
use crate::traffic::{Clients, Traffic, banned};
use crate::{programs, traffic};

/// Rules that only the benchmark's own queries offend: one that counts, and one whose bans fill the table.
const RULES: &str = "
[[rule]]
name = 'bench-strike'
description = 'Counts and never bans.'
path = '^/bench-strike$'
maxretry = 1000000
findtime = '4w'

[[rule]]
name = 'bench-ban'
description = 'Its bans fill the table.'
path = '^/bench-ban$'
maxretry = 1
bantime = '4w'
";

pub struct World {
    directory: TempDir,
}

impl World {
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("strikeout-bench-").tempdir()?;
        // Squid's and Exim's users must get in.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { directory })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// A configuration with the built-in rules, the benchmark's own, and `rules`.
    pub fn config(&self, name: &str, rules: &str) -> Result<PathBuf> {
        self.config_with(name, Path::new(""), 1_000_000, rules)
    }

    /// The same for a resident, which keeps its bans in `state`, and with room for the strikes of so many `clients`.
    pub fn config_with(&self, name: &str, state: &Path, clients: u32, rules: &str) -> Result<PathBuf> {
        let (socket, state) = (self.path("strikeout.sock"), state.display());
        let table = format!(
            "[table]\nsocket = '{}'\ngroup = ''\nmode = '0666'\nstate = '{state}'\nclients = {clients}\nbans = 4000000\n",
            socket.display()
        );
        self.write(name, format!("{table}{RULES}{rules}"))
    }

    /// A state file with `count` bans of [`banned`] clients.
    pub fn state(&self, name: &str, count: u32) -> Result<PathBuf> {
        let path = self.path(name);
        let now = now();
        let (mut store, notes) = Store::open(&path, now).map_err(|failure| anyhow::anyhow!("{failure}"))?;
        anyhow::ensure!(notes.is_empty(), "{}", notes.join(", "));
        for start in (0..count).step_by(100_000) {
            let items: Vec<Item> = (start..count.min(start + 100_000))
                .map(|index| {
                    Item::Change(Change::Banned(BanRecord {
                        client: Client::from(banned(index)),
                        scope: Scope::All,
                        rule: "bench-ban".into(),
                        first: now,
                        since: now,
                        until: End::at(now.after(Span::from_secs(7 * 86_400))),
                        count: 1,
                        times: 1,
                        evidence: Evidence::new(&[b"GET", b"/bench-ban"]),
                        node: "".into(),
                    }))
                })
                .collect();
            store.save(&items, false).map_err(|failure| anyhow::anyhow!("{failure}"))?;
        }
        Ok(path)
    }

    /// Where a contender's standard error goes.
    pub fn log(&self, name: &str) -> Result<Stdio> {
        Ok(File::create(self.path(&format!("{name}.log")))?.into())
    }

    /// Our Squid helper with this configuration; with this state file, if there is one.
    pub fn embedded(&self, config: &Path, state: Option<&Path>) -> Result<Command> {
        let mut command = Command::new(programs::EXT_STRIKEOUT_ACL);
        command.arg("--config").arg(config).stderr(self.log("ext_strikeout_acl")?);
        if let Some(state) = state {
            command.arg("--state").arg(state);
        }
        Ok(command)
    }

    /// The resident with this configuration, once it listens.
    pub fn resident(&self, config: &Path) -> Result<Process> {
        let socket = self.path("strikeout.sock");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(programs::STRIKEOUT);
        command.args(["serve", "--config"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.log("serve")?);
        let process = Process::start(&mut command)?;
        wait_for("the resident's socket", || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
        Ok(process)
    }
}

/// Waits until `condition` holds, ten seconds at most.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        if std::time::Instant::now() > deadline {
            bail!("waited ten seconds for {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Wall time, as state files have it.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(u64::try_from(since.as_millis()).unwrap_or(0))
}

/// Sees to it that `helper` has its bans, and gives the first `clients` tracked clients one strike each.
pub fn prepare(helper: &mut Helper, bans: u32, clients: u32) -> Result<()> {
    if bans > 0 {
        let answer = helper.ask(format!("1 {} GET http://www.example.org/ - - -\n", banned(bans - 1)).as_bytes())?;
        anyhow::ensure!(answer.starts_with(b"1 OK"), "the last of {bans} bans was answered {:?}", String::from_utf8_lossy(&answer));
    }
    if clients > 0 {
        strike(helper, clients)?;
    }
    Ok(())
}

/// Gives each of the first `clients` tracked clients one strike.
pub fn strike(helper: &mut Helper, clients: u32) -> Result<()> {
    let mut strikes = Traffic::with_tails(Clients::Each, vec![b" GET http://www.example.org/bench-strike - - -\n".to_vec()]);
    let sample = helper.drive(&mut strikes, Load { outstanding: 256, batch: 64 }, Until::Lookups(u64::from(clients)))?;
    anyhow::ensure!(sample.refused == 0, "{} strikes were refused", sample.refused);
    Ok(())
}

/// An ordinary stranger, from whom nothing is expected.
pub fn browsing() -> Traffic {
    Traffic::browsing(traffic::Clients::Strangers)
}
