//! A botnet at a real Squid with two workers: what innocent clients get of it, alone, beside as many ordinary requests, and beside the attack.
//! Attackers are new clients all the time, named by the PROXY protocol; innocents are driven by wrk.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use super::squid::{Run, SCRIPT, drive, get, origin};
use super::{either, load};
use crate::child::Process;
use crate::report::{Goal, Report};
use crate::series::{median, paired, ratio};
use crate::world::{World, free_port, wait_for};
use crate::{Options, programs, traffic};

const WORKERS: usize = 2;
/// Connections of attackers at once.
const CONNECTIONS: usize = 32;
/// Requests of each client of the botnet, of which the first is the offence.
const REQUESTS: u32 = 5;
/// Where Squid's workers talk: compiled into Squid, and made by Debian's service.
const IPC_DIRECTORY: &str = "/run/squid";

/// What the botnet got.
#[derive(Default)]
struct Attack {
    offences_served: AtomicU64,
    /// Further requests of clients whose offence was answered.
    served_afterwards: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    next: AtomicU32,
}

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (squid, wrk) = (programs::find(&["squid"])?, programs::find(&["wrk"])?);
    let world = World::new()?;
    let script = world.write("clients.lua", SCRIPT)?;
    let state = world.state("strikeout.db", 0)?;
    let config = world.config_with("strikeout.toml", &state, 1_000_000, "")?;
    let daemon = world.daemon(&config)?;
    let server = Server::start(&world, &squid, origin()?)?;
    let case = format!("{WORKERS} workers, {CONNECTIONS} connections each");
    let seconds = either(options, 2, 10);
    let attack = Attack::default();
    let mut runs: [Vec<Run>; 3] = Default::default();
    let names = ["innocents alone", "beside ordinary requests", "beside the attack"];
    let mut attacked = 0.0;
    for _ in 0..options.repeat.unwrap_or(either(options, 1, 5)) {
        for (number, path) in [None, Some("/index.html"), Some("/bench-ban")].into_iter().enumerate() {
            let ends = AtomicBool::new(false);
            let ordinary = Attack::default();
            let (counts, clients): (_, fn(u32) -> Ipv4Addr) =
                if number == 2 { (&attack, traffic::tracked) } else { (&ordinary, traffic::stranger) };
            let run = std::thread::scope(|scope| {
                for _ in 0..CONNECTIONS {
                    let (server, ends) = (&server, &ends);
                    scope.spawn(move || path.map(|path| server.attack(path, clients, counts, ends)));
                }
                let run = drive(&wrk, &script, server.port, CONNECTIONS as u32, seconds);
                ends.store(true, Ordering::Relaxed);
                run
            })?;
            attacked += if number == 2 { f64::from(seconds) } else { 0.0 };
            runs[number].push(run);
        }
    }
    let column = |number: usize, value: fn(&Run) -> f64| -> Vec<f64> { runs[number].iter().map(value).collect() };
    for (number, name) in names.iter().enumerate() {
        report.series(&case, name, "requests/s", &column(number, |run| run.per_second));
        report.series(&case, name, "ms latency p50", &column(number, |run| run.p50 / 1000.0));
        report.series(&case, name, "ms latency p99", &column(number, |run| run.p99 / 1000.0));
    }
    let (alone, ordinary, attacked_rate) = (column(0, rate), column(1, rate), column(2, rate));
    report.finding(&case, "innocents' requests/s, attacked to alone", "×", paired(&attacked_rate, &alone, ratio), None);
    report.finding(&case, "the same, to ordinary requests beside", "×", paired(&attacked_rate, &ordinary, ratio), None);
    report.finding(&case, "innocents' p99 during the attack", "ms", median(&column(2, |run| run.p99 / 1000.0)), None);
    let total = |counter: &AtomicU64| median(&[counter.load(Ordering::Relaxed) as f64]);
    let none = Some(Goal::AtMost(0.0));
    let refused: f64 = runs.iter().flatten().map(|run| run.refused).sum();
    report.finding(&case, "innocents refused, sum", "requests", median(&[refused]), none);
    report.finding(&case, "offences that were served, sum", "requests", total(&attack.offences_served), none);
    report.finding(&case, "requests served after the offence, sum", "requests", total(&attack.served_afterwards), none);
    let requests = attack.refused.load(Ordering::Relaxed) as f64 / attacked.max(1.0);
    report.finding(&case, "requests of attackers refused", "/s", median(&[requests]), None);
    report.finding(&case, "connections of attackers that failed", "", total(&attack.failed), None);
    let status = load::status(&world)?;
    let offenders = u64::from(attack.next.load(Ordering::Relaxed)).saturating_sub(CONNECTIONS as u64);
    report.finding(
        &case,
        "clients banned",
        "",
        median(&[status["bans"].as_u64().unwrap_or(0) as f64]),
        Some(Goal::AtLeast(offenders as f64)),
    );
    report.finding(&case, "the daemon's memory", "MiB", median(&[daemon.memory()? as f64 / f64::from(1 << 20)]), None);
    Ok(())
}

fn rate(run: &Run) -> f64 {
    run.per_second
}

/// Squid with its workers; it is ended in an orderly way, because workers outlive a monitor that is killed.
struct Server {
    process: Process,
    /// For wrk, which names clients by X-Forwarded-For.
    port: u16,
    /// For attackers, who are named by the PROXY protocol.
    proxied: u16,
    /// Whether [`IPC_DIRECTORY`] was made here, and must be removed.
    made_directory: bool,
}

impl Server {
    fn start(world: &World, squid: &Path, origin: u16) -> Result<Self> {
        let helpers = world.path("helpers");
        std::fs::create_dir(&helpers)?;
        // Squid's user may not have access to the build directory.
        let helper: PathBuf = helpers.join("ext_strikeout_acl");
        std::fs::copy(programs::EXT_STRIKEOUT_ACL, &helper)?;
        let directory = world.path("squid");
        std::fs::create_dir(&directory)?;
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
        let made_directory = !Path::new(IPC_DIRECTORY).exists();
        if made_directory {
            std::fs::create_dir(IPC_DIRECTORY).context("Squid's workers need /run/squid, which only root can make")?;
            std::fs::set_permissions(IPC_DIRECTORY, std::fs::Permissions::from_mode(0o1777))?;
        }
        let [port, proxied] = [free_port()?, free_port()?];
        let (here, socket) = (directory.display(), world.path("strikeout.sock"));
        let config = world.write(
            "squid.conf",
            format!(
                "workers {WORKERS}\n\
                 http_port 127.0.0.1:{port} accel defaultsite=www.example.org\n\
                 http_port 127.0.0.1:{proxied} accel defaultsite=www.example.org require-proxy-header\n\
                 proxy_protocol_access allow localhost\n\
                 cache_peer 127.0.0.1 parent {origin} 0 no-query no-digest originserver\n\
                 cache_mem 32 MB\naccess_log none\ncache_log {here}/cache.log\npid_filename {here}/squid.pid\ncoredump_dir {here}\n\
                 visible_hostname bench\npinger_enable off\nnetdb_filename none\nshutdown_lifetime 0 seconds\n\
                 follow_x_forwarded_for allow localhost\nacl_uses_indirect_client on\n\
                 external_acl_type strikeout ttl=0 negative_ttl=0 grace=0 cache=0 children-max=1 children-startup=1 concurrency=500 \
                 queue-size=5000 %>a %>rm %#>ru %#.300{{User-Agent}}>h %#{{Sec-Fetch-Site}}>h {} --table {}\n\
                 acl struck external strikeout\nhttp_access deny struck\ndeny_info 429:ERR_ACCESS_DENIED struck\nhttp_access allow all\n",
                helper.display(),
                socket.display()
            ),
        )?;
        let mut command = Command::new(squid);
        command.args(["--foreground", "-n", &service(), "-f"]).arg(config);
        let process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(world.log("squid")?))?;
        let server = Self { process, port, proxied, made_directory };
        wait_for("Squid's workers", || {
            let log = std::fs::read_to_string(directory.join("cache.log")).unwrap_or_default();
            // Each of two ports.
            log.matches("Accepting").count() >= 2 * WORKERS && get(port).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        })?;
        Ok(server)
    }

    /// Client after client asks for `path` and then for an ordinary page, until `ends`.
    fn attack(&self, path: &str, clients: fn(u32) -> Ipv4Addr, counts: &Attack, ends: &AtomicBool) {
        let add = |counter: &AtomicU64| _ = counter.fetch_add(1, Ordering::Relaxed);
        while !ends.load(Ordering::Relaxed) {
            let client = clients(counts.next.fetch_add(1, Ordering::Relaxed));
            for number in 0..REQUESTS {
                match self.request(client, if number == 0 { path } else { "/index.html" }) {
                    Ok(200) if number == 0 => add(&counts.offences_served),
                    Ok(200) => add(&counts.served_afterwards),
                    Ok(429) => add(&counts.refused),
                    _ => add(&counts.failed),
                }
            }
        }
    }

    /// Asks on a connection of its own, and returns the status.
    fn request(&self, client: Ipv4Addr, path: &str) -> Result<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.proxied))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "PROXY TCP4 {client} 127.0.0.1 40000 80\r\nGET {path} HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: Mozilla/5.0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        Ok(text.split(' ').nth(1).context("no status")?.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.stop(Duration::from_secs(10));
        // What Squid leaves outside its own directory.
        for directory in [IPC_DIRECTORY, "/dev/shm"] {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&format!("{}-", service())) {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
        if self.made_directory {
            let _ = std::fs::remove_dir(IPC_DIRECTORY);
        }
    }
}

/// Squid's service name, which names its shared memory.
fn service() -> String {
    format!("bench{}", std::process::id())
}
