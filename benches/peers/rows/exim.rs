//! What each connect ACL costs Exim: a daemon is started, takes connections one by one, and ends; its whole CPU time is counted, with
//! that of its children and of the server that it asks.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::either;
use crate::child::{Process, children_cpu};
use crate::report::{Goal, Report};
use crate::series::{median, paired, ratio};
use crate::traffic::Random;
use crate::world::{World, wait_for};
use crate::{Options, programs};

/// A connect ACL, and the process that it asks.
struct Variant<'a> {
    name: &'static str,
    acl: String,
    asks: Option<&'a Process>,
}

/// What one connection took.
struct Sample {
    cpu_us: f64,
    /// Of it, what the server took that was asked.
    asked_us: f64,
    per_second: f64,
}

/// What a daemon's life took.
struct Life {
    /// CPU time of Exim and its children.
    exim: Duration,
    /// CPU time of the server that was asked.
    asked: Duration,
    /// The time of the connections.
    wall: Duration,
}

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let exim = programs::find(&["exim4", "exim"])?;
    let version = Command::new(&exim).arg("-bV").output()?;
    let has_proxy = String::from_utf8_lossy(&version.stdout).contains("PROXY");
    anyhow::ensure!(has_proxy, "{} cannot be told a client's address (no PROXY support): install exim4-daemon-heavy", exim.display());
    let world = World::new()?;
    let bans = either(options, 20_000, 1_000_000);
    let state = world.state("strikeout.db", bans)?;
    let resident = world.resident(&world.config_with("strikeout.toml", &state, 1_000_000, "")?)?;
    let trivial_socket = world.path("trivial.sock");
    let trivial = Process::start(programs::role("socket", &trivial_socket.to_string_lossy())?.stdout(Stdio::null()))?;
    wait_for("the trivial server", || trivial_socket.exists())?;
    for socket in [&trivial_socket, &world.path("strikeout.sock")] {
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    }
    let empty = programs::compile("fn main() {}", &world.path(""), "empty")?;
    let helper = world.path("exim_strikeout_acl");
    std::fs::copy(programs::EXIM_STRIKEOUT_ACL, &helper)?;

    let question = "check $sender_host_address pid=$pid port=$received_port";
    let socket = |path: &Path| format!("set acl_c_strike = ${{readsocket{{{}}}{{{question}\\n}}{{1s}}{{}}{{accept}}}}", path.display());
    let run = |program: &str| format!("set acl_c_strike = ${{run{{{program} {question}}}{{$value}}{{accept}}}}");
    let ours_socket = world.path("strikeout.sock");
    let variants = [
        Variant { name: "accept", acl: String::new(), asks: None },
        Variant { name: "readsocket, trivial", acl: socket(&trivial_socket), asks: Some(&trivial) },
        Variant { name: "readsocket, strikeout", acl: socket(&ours_socket), asks: Some(&resident) },
        Variant { name: "ratelimit per_conn", acl: "ratelimit = 1000000 / 1m / per_conn / strict".to_owned(), asks: None },
        Variant { name: "run, empty main", acl: run(&empty.to_string_lossy()), asks: None },
        Variant {
            name: "run, strikeout",
            acl: run(&format!("{} --table {}", helper.display(), ours_socket.display())),
            asks: Some(&resident),
        },
    ];
    let repeat = options.repeat.unwrap_or(either(options, 2, 24));
    let connections = either(options, 50, 300);
    let mut daemons = Vec::new();
    for (number, variant) in variants.iter().enumerate() {
        daemons.push(Daemon::new(&world, &exim, number, variant)?);
    }
    // What starting and ending a daemon costs belongs to nobody's connections.
    let mut idle = Vec::new();
    for _ in 0..either(options, 2, 5) {
        idle.push(daemons[0].measure(0, None)?.exim.as_secs_f64());
    }
    let idle = median(&idle).value;
    let mut samples: Vec<Vec<Sample>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 0..=repeat {
        for turn in 0..variants.len() {
            let number = (turn + round) % variants.len();
            let life = daemons[number].measure(connections, variants[number].asks)?;
            if round > 0 {
                let each = |seconds: f64| seconds * 1e6 / f64::from(connections);
                samples[number].push(Sample {
                    cpu_us: each(life.exim.as_secs_f64() - idle + life.asked.as_secs_f64()),
                    asked_us: each(life.asked.as_secs_f64()),
                    per_second: f64::from(connections) / life.wall.as_secs_f64(),
                });
            }
        }
    }
    let case = format!("{connections} connections, one by one");
    let cpu = |number: usize| -> Vec<f64> { samples[number].iter().map(|sample| sample.cpu_us).collect() };
    let rate = |number: usize| -> Vec<f64> { samples[number].iter().map(|sample| sample.per_second).collect() };
    for (number, variant) in variants.iter().enumerate() {
        report.series(&case, variant.name, "µs CPU/connection", &cpu(number));
        if variant.asks.is_some() {
            let asked: Vec<f64> = samples[number].iter().map(|sample| sample.asked_us).collect();
            report.series(&case, variant.name, "µs of it the server's", &asked);
        }
        report.series(&case, variant.name, "connections/s", &rate(number));
    }
    for (name, ours, theirs, cpu_goal, rate_goal) in [
        ("readsocket, to trivial", 2, 1, Some(Goal::AtMost(1.03)), Some(Goal::AtLeast(0.97))),
        ("run, to empty main", 5, 4, Some(Goal::AtMost(1.05)), Some(Goal::AtLeast(0.95))),
        ("readsocket, to ratelimit", 2, 3, None, None),
        ("run, to ratelimit", 5, 3, None, None),
        ("readsocket, to accept alone", 2, 0, None, None),
    ] {
        report.finding(&case, &format!("CPU, {name}"), "×", paired(&cpu(ours), &cpu(theirs), ratio), cpu_goal);
        report.finding(&case, &format!("connections/s, {name}"), "×", paired(&rate(ours), &rate(theirs), ratio), rate_goal);
    }
    Ok(())
}

/// Starts Exim again and again with one configuration.
struct Daemon {
    exim: PathBuf,
    config: PathBuf,
    port: u16,
    name: &'static str,
    log: PathBuf,
    random: Random,
}

impl Daemon {
    fn new(world: &World, exim: &Path, number: usize, variant: &Variant<'_>) -> Result<Self> {
        let directory = world.path(&format!("exim-{number}"));
        std::fs::create_dir(&directory)?;
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
        let here = directory.display();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let warn = if variant.acl.is_empty() { String::new() } else { format!("  warn {}\n", variant.acl) };
        let config = world.write(
            &format!("exim-{number}.conf"),
            format!(
                "primary_hostname = bench.example\nspool_directory = {here}\nlog_file_path = {here}/%slog\nlog_selector = -all\n\
                 pid_file_path = {here}/pid\nlocal_interfaces = <; 127.0.0.1\nhosts_proxy = 127.0.0.1\nhost_lookup =\nhost_lookup_order =\nrfc1413_hosts =\n\
                 smtp_accept_max = 0\nsmtp_accept_queue = 0\ntls_advertise_hosts =\nkeep_environment =\ncheck_spool_space = 0\n\
                 check_log_space = 0\nacl_smtp_connect = connect\nbegin acl\nconnect:\n{warn}\
                 \x20 defer condition = ${{if match{{$acl_c_strike}}{{\\N^(deny|defer)\\b\\N}}}}\n  accept\n"
            ),
        )?;
        Ok(Self {
            exim: exim.to_owned(),
            config,
            port,
            name: variant.name,
            log: world.path(&format!("exim-{number}.log")),
            random: Random(number as u64),
        })
    }

    /// A daemon's life with so many connections.
    fn measure(&mut self, connections: u32, asks: Option<&Process>) -> Result<Life> {
        let asked_before = asks.map(Process::cpu).transpose()?;
        let before = children_cpu()?;
        let log = std::fs::File::create(&self.log)?;
        let mut command = Command::new(&self.exim);
        command.arg("-bdf").arg("-C").arg(&self.config).arg("-oX").arg(self.port.to_string());
        let mut daemon = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))?;
        wait_for("Exim", || listens(self.port))?;
        let start = Instant::now();
        for _ in 0..connections {
            self.connect()?;
        }
        let wall = start.elapsed();
        let children = format!("/proc/{0}/task/{0}/children", daemon.id());
        wait_for("Exim's children", || std::fs::read_to_string(&children).is_ok_and(|children| children.trim().is_empty()))?;
        daemon.stop(Duration::from_secs(5))?;
        let exim = children_cpu()?.saturating_sub(before);
        let asked = asks.map(Process::cpu).transpose()?.unwrap_or_default().saturating_sub(asked_before.unwrap_or_default());
        Ok(Life { exim, asked, wall })
    }

    /// One connection from a client that was never seen, up to the banner, and QUIT.
    fn connect(&mut self) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let [_, b, c, d] = (self.random.next() as u32).to_be_bytes();
        let octet = 64 + self.random.below(4);
        write!(stream, "PROXY TCP4 {octet}.{b}.{c}.{d} 127.0.0.1 40000 25\r\n")?;
        let mut banner = [0; 512];
        let length = stream.read(&mut banner)?;
        let text = String::from_utf8_lossy(&banner[..length]);
        anyhow::ensure!(text.starts_with("220"), "Exim with {} said {text:?}", self.name);
        // After QUIT Exim waits up to 200 ms for the client to close its side.
        stream.write_all(b"QUIT\r\n")?;
        stream.shutdown(Shutdown::Write)?;
        let length = stream.read(&mut banner).context("the answer to QUIT")?;
        anyhow::ensure!(banner[..length].starts_with(b"221"), "Exim with {} did not take leave", self.name);
        Ok(())
    }
}

/// Whether somebody listens, without connecting: a connection would be Exim's work.
fn listens(port: u16) -> bool {
    let port = format!(":{port:04X} ");
    std::fs::read_to_string("/proc/net/tcp")
        .unwrap_or_default()
        .lines()
        .any(|line| line.split_once(": ").is_some_and(|(_, rest)| rest[..rest.len().min(14)].contains(&port) && rest.contains(" 0A ")))
}
