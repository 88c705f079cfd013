//! A flood at a real Exim, which asks the daemon by `${readsocket}`, while a botnet at a Squid helper has thousands of clients banned: how long
//! the connect ACL waits for its answer, and whether any connection goes without one.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{either, load};
use crate::botnet::attack;
use crate::child::Process;
use crate::pipe::Helper;
use crate::report::{Goal, Report};
use crate::series::median;
use crate::world::{World, free_port, wait_for};
use crate::{Options, programs, traffic};

/// Threads that make connections.
const DRIVERS: u32 = 8;
/// Offences that the botnet makes before it looks whether it should end.
const OFFENCES_AT_A_TIME: u32 = 5_000;
/// How long a connection may wait for Exim, which starts a process for each.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let exim = programs::find(&["exim4", "exim"])?;
    let world = World::new()?;
    let state = world.state("strikeout.db", 0)?;
    let config = world.config_with("strikeout.toml", &state, 1_000_000, "")?;
    let daemon = world.daemon(&config)?;
    let exim = Exim::start(&world, &exim)?;
    let at_once = either(options, 100, 3_000);
    let in_a_row = either(options, 500, 100_000);
    for (case, is_at_once, connections) in
        [(format!("{at_once} connections at once"), true, at_once), (format!("{in_a_row} connections in a row"), false, in_a_row)]
    {
        let before = bans(&world)?;
        let log_start = exim.log()?.len();
        let (start, next, failed) = (Instant::now(), AtomicU32::new(0), AtomicU64::new(0));
        let ends = AtomicBool::new(false);
        let botnet = std::thread::scope(|scope| -> Result<u64> {
            let botnet = scope.spawn(|| offend(&world, &ends));
            let drivers: Vec<_> = (0..DRIVERS)
                .map(|_| {
                    scope.spawn(|| {
                        if is_at_once {
                            exim.hold(connections / DRIVERS, &next, &failed);
                        } else {
                            exim.connect_in_a_row(connections / DRIVERS, &next, &failed);
                        }
                    })
                })
                .collect();
            for driver in drivers {
                driver.join().map_err(|_| anyhow::anyhow!("a driver panicked"))?;
            }
            ends.store(true, Ordering::Relaxed);
            botnet.join().map_err(|_| anyhow::anyhow!("the botnet panicked"))?
        })?;
        let wall = start.elapsed().as_secs_f64();
        let log = exim.log()?;
        let answers = Answers::of(&log[log_start..]);
        let one = |value: f64| median(&[value]);
        let none = Some(Goal::AtMost(0.0));
        report.finding(&case, "connections/s", "", one(f64::from(connections) / wall), None);
        report.finding(&case, "the ACL's wait, p50", "ms", one(answers.percentile(50)), None);
        report.finding(&case, "the ACL's wait, p99", "ms", one(answers.percentile(99)), None);
        report.finding(&case, "the ACL's wait, longest", "ms", one(answers.percentile(100)), Some(Goal::AtMost(1000.0)));
        report.finding(&case, "ACLs without an answer", "", one(answers.without as f64), none);
        report.finding(&case, "connections without a greeting", "", one(failed.load(Ordering::Relaxed) as f64), none);
        report.finding(&case, "clients banned on the web meanwhile", "", one(bans(&world)?.saturating_sub(before) as f64), None);
        report.finding(&case, "offences served meanwhile", "", one(botnet as f64), none);
        report.finding(&case, "the daemon's memory", "MiB", one(daemon.memory()? as f64 / f64::from(1 << 20)), None);
    }
    Ok(())
}

fn bans(world: &World) -> Result<u64> {
    load::status(world)?["bans"].as_u64().context("no number of bans in the status")
}

/// A botnet at one helper, each client with one offence, until `ends`. Returns how many offences were served.
fn offend(world: &World, ends: &AtomicBool) -> Result<u64> {
    let mut served = 0;
    let mut first = u32::try_from(bans(world)?)?;
    while !ends.load(Ordering::Relaxed) {
        let mut command = Command::new(programs::EXT_STRIKEOUT_ACL);
        command.arg("--table").arg(world.path("strikeout.sock")).stderr(world.log("ext_strikeout_acl")?);
        served += attack(&mut Helper::start(&mut command)?, first..first + OFFENCES_AT_A_TIME)?.served;
        first += OFFENCES_AT_A_TIME;
    }
    Ok(served)
}

/// What Exim wrote about the answers that its connect ACL got.
struct Answers {
    /// Milliseconds, sorted.
    waits: Vec<f64>,
    without: usize,
}

impl Answers {
    fn of(log: &str) -> Self {
        let microseconds = |line: &str| line.rsplit_once("WAITED ")?.1.trim().parse::<f64>().ok();
        let mut waits: Vec<f64> = log.lines().filter_map(microseconds).map(|wait| wait / 1000.0).collect();
        waits.sort_by(f64::total_cmp);
        Self { waits, without: log.matches("WITHOUT ANSWER").count() }
    }

    fn percentile(&self, percent: usize) -> f64 {
        let index = (self.waits.len() * percent / 100).min(self.waits.len().saturating_sub(1));
        self.waits.get(index).copied().unwrap_or(f64::NAN)
    }
}

struct Exim {
    _process: Process,
    port: u16,
    log: PathBuf,
}

impl Exim {
    fn start(world: &World, exim: &Path) -> Result<Self> {
        let directory = world.path("exim");
        std::fs::create_dir(&directory)?;
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
        let (here, socket) = (directory.display(), world.path("strikeout.sock"));
        let port = free_port()?;
        let config = world.write(
            "exim.conf",
            format!(
                "primary_hostname = bench.example\nspool_directory = {here}\nlog_file_path = {here}/%slog\nlog_selector = -all\n\
                 pid_file_path = {here}/pid\nlocal_interfaces = <; 127.0.0.1\nhosts_proxy = 127.0.0.1\nhost_lookup =\nhost_lookup_order =\nrfc1413_hosts =\n\
                 smtp_accept_max = 0\nsmtp_accept_queue = 0\nsmtp_connect_backlog = 4096\ntls_advertise_hosts =\nkeep_environment =\ncheck_spool_space = 0\n\
                 check_log_space = 0\nacl_smtp_connect = connect\nbegin acl\nconnect:\n\
                 \x20 warn set acl_c_before = $tod_epoch_l\n\
                 \x20 warn set acl_c_strike = ${{readsocket{{{}}}{{check $sender_host_address pid=$pid port=$received_port\\n}}{{1s}}{{}}{{}}}}\n\
                 \x20 warn logwrite = WAITED ${{eval:$tod_epoch_l - $acl_c_before}}\n\
                 \x20 warn condition = ${{if eq{{$acl_c_strike}}{{}}}}\n       logwrite = WITHOUT ANSWER\n\
                 \x20 defer condition = ${{if match{{$acl_c_strike}}{{\\N^(deny|defer)\\b\\N}}}}\n  accept\n",
                socket.display()
            ),
        )?;
        let mut command = Command::new(exim);
        command.arg("-bdf").arg("-C").arg(config).arg("-oX").arg(port.to_string());
        let process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(world.log("exim")?))?;
        let exim = Self { _process: process, port, log: directory.join("mainlog") };
        wait_for("Exim", || exim.greeting(traffic::stranger(0)).is_ok())?;
        Ok(exim)
    }

    fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log).context("Exim's log")?).into_owned())
    }

    /// Opens `number` connections, each of another client, and keeps them all until the last one is greeted.
    fn hold(&self, number: u32, next: &AtomicU32, failed: &AtomicU64) {
        let open: Vec<_> = (0..number).map(|_| self.open(traffic::stranger(next.fetch_add(1, Ordering::Relaxed)))).collect();
        let greeted: Vec<_> = open.into_iter().map(|stream| stream.and_then(greeted)).collect();
        failed.fetch_add(greeted.iter().filter(|stream| stream.is_err()).count() as u64, Ordering::Relaxed);
    }

    /// Makes one connection after the other, each of another client.
    fn connect_in_a_row(&self, number: u32, next: &AtomicU32, failed: &AtomicU64) {
        for _ in 0..number {
            let client = traffic::stranger(next.fetch_add(1, Ordering::Relaxed));
            failed.fetch_add(u64::from(self.greeting(client).is_err()), Ordering::Relaxed);
        }
    }

    fn greeting(&self, client: Ipv4Addr) -> Result<()> {
        let mut stream = greeted(self.open(client)?)?;
        // After QUIT Exim waits up to 200 ms for the client to close its side.
        stream.write_all(b"QUIT\r\n")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = [0; 512];
        let _ = stream.read(&mut answer)?;
        Ok(())
    }

    fn open(&self, client: Ipv4Addr) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "PROXY TCP4 {client} 127.0.0.1 40000 25\r\n")?;
        Ok(stream)
    }
}

/// The connection, once Exim has greeted.
fn greeted(mut stream: TcpStream) -> Result<TcpStream> {
    let mut banner = [0; 512];
    let length = stream.read(&mut banner)?;
    anyhow::ensure!(banner[..length].starts_with(b"220"), "Exim answered {:?}", String::from_utf8_lossy(&banner[..length]));
    Ok(stream)
}
