//! Cost of each connect ACL in Exim. An Exim daemon for each is started; they take a few connections each, alternately, and end. The CPU time of
//! each is counted with that of its children and of the server that it asks. The machine's speed varies within a second, so contenders must
//! be interleaved more finely than that.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::either;
use crate::child::{Process, children_cpu};
use crate::report::{Goal, Report};
use crate::series::{paired, ratio};
use crate::traffic::Random;
use crate::world::{World, free_port, wait_for};
use crate::{Options, programs};

/// A connect ACL, and the process that it asks, if any.
struct Variant<'a> {
    name: &'static str,
    acl: String,
    asks: Option<&'a Process>,
}

/// The cost of one connection.
struct Sample {
    cpu_us: f64,
    /// The part of it used by the server that is asked.
    asked_us: f64,
    per_second: f64,
}

/// Number of connections made to one Exim daemon before the next one.
const AT_A_TIME: u32 = 25;

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let exim = programs::find(&["exim4", "exim"])?;
    let version = Command::new(&exim).arg("-bV").output()?;
    let has_proxy = String::from_utf8_lossy(&version.stdout).contains("PROXY");
    anyhow::ensure!(has_proxy, "{} does not support the PROXY protocol: install exim4-daemon-heavy", exim.display());
    let world = World::new()?;
    let bans = either(options, 20_000, 1_000_000);
    // Each ACL has a Strikeout daemon of its own, so that its CPU time belongs to the ACL.
    let worlds = [World::new()?, World::new()?];
    let mut daemons = Vec::new();
    for world in &worlds {
        let state = world.state("strikeout.db", bans)?;
        daemons.push(world.daemon(&world.config_with("strikeout.toml", &state, 1_000_000, "")?)?);
    }
    let [for_readsocket, for_run] = &daemons[..] else { unreachable!("two daemons") };
    let [readsocket_socket, run_socket] = worlds.each_ref().map(|world| world.path("strikeout.sock"));
    let trivial_socket = world.path("trivial.sock");
    let trivial = Process::start(programs::role("socket", &trivial_socket.to_string_lossy())?.stdout(Stdio::null()))?;
    wait_for("the trivial server", || trivial_socket.exists())?;
    for socket in [&trivial_socket, &readsocket_socket, &run_socket] {
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    }
    let empty = programs::compile("fn main() {}", &world.path(""), "empty")?;
    let helper = world.path("exim_strikeout_acl");
    std::fs::copy(programs::EXIM_STRIKEOUT_ACL, &helper)?;

    let question = "check $sender_host_address pid=$pid port=$received_port";
    let socket = |path: &Path| format!("set acl_c_strike = ${{readsocket{{{}}}{{{question}\\n}}{{1s}}{{}}{{accept}}}}", path.display());
    let run = |program: &str| format!("set acl_c_strike = ${{run{{{program} {question}}}{{$value}}{{accept}}}}");
    let variants = [
        Variant { name: "accept", acl: String::new(), asks: None },
        Variant { name: "readsocket, trivial", acl: socket(&trivial_socket), asks: Some(&trivial) },
        Variant { name: "readsocket, strikeout", acl: socket(&readsocket_socket), asks: Some(for_readsocket) },
        Variant { name: "ratelimit per_conn", acl: "ratelimit = 1000000 / 1m / per_conn / strict".to_owned(), asks: None },
        Variant { name: "run, empty main", acl: run(&empty.to_string_lossy()), asks: None },
        Variant {
            name: "run, strikeout",
            acl: run(&format!("{} --table {}", helper.display(), run_socket.display())),
            asks: Some(for_run),
        },
    ];
    let repeat = options.repeat.unwrap_or(either(options, 2, 24));
    let connections = either(options, 50, 300);
    let mut daemons = Vec::new();
    for (number, variant) in variants.iter().enumerate() {
        daemons.push(EximDaemon::new(&world, &exim, number, variant)?);
    }
    let mut samples: Vec<Vec<Sample>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 0..=repeat {
        daemons.iter_mut().try_for_each(EximDaemon::begin)?;
        let mut asked = vec![Duration::ZERO; variants.len()];
        let mut walls = asked.clone();
        for pass in 0..connections / AT_A_TIME {
            for step in 0..variants.len() {
                // Every second pass runs backwards, so that no contender always follows the same one.
                let position = if pass % 2 == 0 { step } else { variants.len() - 1 - step };
                let number = (position + round) % variants.len();
                // Excludes what a server does while others are asked, for example sweeping a million bans, and also what it does within
                // 100 ms after the last of these connections.
                let cpu = || variants[number].asks.map_or(Ok(Duration::ZERO), Process::cpu);
                let before = cpu()?;
                walls[number] += daemons[number].connect(AT_A_TIME)?;
                asked[number] += cpu()?.saturating_sub(before);
            }
        }
        let exim = daemons.iter_mut().map(EximDaemon::end).collect::<Result<Vec<_>>>()?;
        for number in (0..variants.len()).filter(|_| round > 0) {
            let each = |seconds: f64| seconds * 1e6 / f64::from(connections);
            let asked = asked[number].as_secs_f64();
            samples[number].push(Sample {
                cpu_us: each(exim[number].as_secs_f64() + asked),
                asked_us: each(asked),
                per_second: f64::from(connections) / walls[number].as_secs_f64(),
            });
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

/// An Exim daemon with one configuration, started once per round.
struct EximDaemon {
    exim: PathBuf,
    config: PathBuf,
    port: u16,
    name: &'static str,
    log: PathBuf,
    random: Random,
    /// The running process, and the CPU time of its start, which belongs to no connection.
    process: Option<(Process, Duration)>,
}

impl EximDaemon {
    fn new(world: &World, exim: &Path, number: usize, variant: &Variant<'_>) -> Result<Self> {
        let directory = world.path(&format!("exim-{number}"));
        std::fs::create_dir(&directory)?;
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
        let here = directory.display();
        let port = free_port()?;
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
            process: None,
        })
    }

    fn begin(&mut self) -> Result<()> {
        let log = std::fs::File::create(&self.log)?;
        let mut command = Command::new(&self.exim);
        command.arg("-bdf").arg("-C").arg(&self.config).arg("-oX").arg(self.port.to_string());
        let process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))?;
        wait_for("Exim", || listens(self.port))?;
        // Exim listens before it is ready to answer.
        self.connect_once()?;
        let started = process.cpu()?;
        self.process = Some((process, started));
        Ok(())
    }

    /// Makes connections and returns how long they took.
    fn connect(&mut self, connections: u32) -> Result<Duration> {
        let start = Instant::now();
        (0..connections).try_for_each(|_| self.connect_once())?;
        Ok(start.elapsed())
    }

    /// Stops Exim and returns the CPU time that it and its children used since the start.
    fn end(&mut self) -> Result<Duration> {
        let (mut process, started) = self.process.take().context("Exim is not running")?;
        let children = format!("/proc/{0}/task/{0}/children", process.id());
        wait_for("Exim's children", || std::fs::read_to_string(&children).is_ok_and(|children| children.trim().is_empty()))?;
        let before = children_cpu()?;
        process.stop(Duration::from_secs(5))?;
        Ok(children_cpu()?.saturating_sub(before).saturating_sub(started))
    }

    /// Connects as a new client, reads the banner and sends QUIT.
    fn connect_once(&mut self) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let [_, b, c, d] = (self.random.next() as u32).to_be_bytes();
        let octet = 64 + self.random.below(4);
        write!(stream, "PROXY TCP4 {octet}.{b}.{c}.{d} 127.0.0.1 40000 25\r\n")?;
        let mut banner = [0; 512];
        let length = stream.read(&mut banner)?;
        let text = String::from_utf8_lossy(&banner[..length]);
        anyhow::ensure!(text.starts_with("220"), "Exim with {} answered {text:?}", self.name);
        // After QUIT Exim waits up to 200 ms for the client to close its side.
        stream.write_all(b"QUIT\r\n")?;
        stream.shutdown(Shutdown::Write)?;
        let length = stream.read(&mut banner).context("the answer to QUIT")?;
        anyhow::ensure!(banner[..length].starts_with(b"221"), "Exim with {} did not answer QUIT", self.name);
        Ok(())
    }
}

/// Whether something listens on the port. Reads /proc/net/tcp, because a connection would cost Exim CPU time.
fn listens(port: u16) -> bool {
    let port = format!(":{port:04X} ");
    std::fs::read_to_string("/proc/net/tcp")
        .unwrap_or_default()
        .lines()
        .any(|line| line.split_once(": ").is_some_and(|(_, rest)| rest[..rest.len().min(14)].contains(&port) && rest.contains(" 0A ")))
}
