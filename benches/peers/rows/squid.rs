//! Requests through a real Squid: cached hits driven by wrk, without a helper, with each helper, and in the two forms of `conf-examples`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::either;
use crate::child::Process;
use crate::report::{Goal, Report};
use crate::series::{difference, paired, ratio};
use crate::world::{World, free_port, wait_for};
use crate::{Options, programs};

const FORMAT: &str = "%>a %>rm %#>ru %#.300{User-Agent}>h %#{Sec-Fetch-Site}>h";

/// A different client for each request: loopback is never banned, so no rule would be evaluated for it.
pub(super) const SCRIPT: &str = "
request = function()
  local n = math.random(0, 67108863)
  wrk.headers['X-Forwarded-For'] = string.format('%d.%d.%d.%d', 64 + math.floor(n / 16777216), math.floor(n / 65536) % 256, math.floor(n / 256) % 256, n % 256)
  return wrk.format('GET', '/index.html')
end
";

/// The same for as many clients as there are connections: Squid keeps what it has been told of an address for a second.
const FEW_CLIENTS: &str = "
request = function()
  wrk.headers['X-Forwarded-For'] = string.format('64.0.0.%d', math.random(1, 64))
  return wrk.format('GET', '/index.html')
end
";

/// The result of one run of wrk.
pub(super) struct Run {
    pub(super) per_second: f64,
    /// Microseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) refused: f64,
}

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (squid, wrk) = (programs::find(&["squid"])?, programs::find(&["wrk"])?);
    let userip = programs::find(&["ext_file_userip_acl"]);
    let world = World::new()?;
    let script = world.write("clients.lua", FEW_CLIENTS)?;
    let origin = origin()?;
    let helpers = world.path("helpers");
    std::fs::create_dir(&helpers)?;
    // Squid's user may not have access to the build directory.
    let copy = |from: &Path, name: &str| -> Result<PathBuf> {
        let to = helpers.join(name);
        std::fs::copy(from, &to)?;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))?;
        Ok(to)
    };
    let bans = either(options, 20_000, 1_000_000);
    let state_directory = world.path("state");
    std::fs::create_dir(&state_directory)?;
    let state = world.state("state/strikeout.db", bans)?;
    for path in [&state_directory, &state] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    }
    let config = world.config("strikeout.toml", "")?;
    let ours = copy(Path::new(programs::EXT_STRIKEOUT_ACL), "ext_strikeout_acl")?;
    let echo = copy(&std::env::current_exe()?, "echo")?;
    let list = world.write("userip", "203.0.113.1/255.255.255.255 GET\n")?;

    let many = "children-max=1 children-startup=1 concurrency=1000 queue-size=5000";
    let one = "children-max=16 children-startup=16 concurrency=0 queue-size=5000";
    let denying = |helper: String| {
        format!(
            "external_acl_type strikeout ttl=0 negative_ttl=0 grace=0 cache=0 {helper}\nacl struck external strikeout\nhttp_access deny struck\n"
        )
    };
    let python = copy(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/helper.py")), "helper.py")?;
    let prefilter = world.path("prefilter");
    std::fs::create_dir(&prefilter)?;
    let written =
        Command::new(programs::STRIKEOUT).arg("prefilter").arg("--config").arg(&config).arg("--output").arg(&prefilter).output()?;
    anyhow::ensure!(written.status.success(), "strikeout prefilter: {}", String::from_utf8_lossy(&written.stderr));
    let form = |name: &str| -> Result<String> {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf-examples").join(name))?;
        let table = format!("--config {} --state {}", config.display(), state.display());
        let log = format!("{}/{name}.", state_directory.display());
        let replaced = [
            ("/usr/lib/squid/ext_strikeout_acl", ours.display().to_string()),
            ("--table /run/strikeout/strikeout.sock", table),
            ("/etc/squid/strikeout", prefilter.display().to_string()),
            ("stdio:/var/log/squid/", format!("stdio:{log}")),
            ("access_log daemon:/var/log/squid/access.log squid", String::new()),
        ];
        Ok(replaced.into_iter().fold(text, |text, (from, to)| text.replace(from, &to)))
    };
    let mut variants = vec![
        ("no helper", String::new()),
        ("echo", denying(format!("{many} {FORMAT} {} --role echo", echo.display()))),
        ("strikeout", denying(format!("{many} {FORMAT} {} --config {} --state {}", ours.display(), config.display(), state.display()))),
        ("squid-failopen.conf", form("squid-failopen.conf")?),
        ("squid-fast.conf", form("squid-fast.conf")?),
        ("Python helper", denying(format!("{many} {FORMAT} /usr/bin/python3 {}", python.display()))),
    ];
    match userip {
        Ok(userip) => variants.push(("userip, 1 entry", denying(format!("{one} %>a %>rm {} -f {}", userip.display(), list.display())))),
        Err(error) => report.note(&format!("without ext_file_userip_acl: {error}")),
    }
    let mut running = Vec::new();
    for (number, (name, acl)) in variants.iter().enumerate() {
        let (process, port) = start(&world, &squid, number, acl, origin)?;
        // The first request fetches the page, the second one shows that it is served from the cache.
        for _ in 0..2 {
            let answer = get(port)?;
            anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "Squid with {name} answered {:?}", answer.lines().next());
        }
        running.push((process, port));
    }
    let repeat = options.repeat.unwrap_or(either(options, 2, 11));
    let seconds = either(options, 1, 4);
    for (case, connections, goal) in [("64 connections", 64, 0.90), ("1 connection", 1, 0.85)] {
        let mut samples: Vec<Vec<Run>> = variants.iter().map(|_| Vec::new()).collect();
        let mut cpu: Vec<Vec<f64>> = variants.iter().map(|_| Vec::new()).collect();
        for round in 0..=repeat {
            for position in 0..variants.len() {
                let number = (position + round) % variants.len();
                let (process, port) = &running[number];
                let before = process.cpu()?;
                let run = drive(&wrk, &script, *port, connections, seconds)?;
                let used = process.cpu()?.saturating_sub(before);
                anyhow::ensure!(run.refused == 0.0, "{} refused or failed {} requests", variants[number].0, run.refused);
                if round > 0 {
                    cpu[number].push(used.as_secs_f64() * 1e6 / (run.per_second * f64::from(seconds)));
                    samples[number].push(run);
                }
            }
        }
        let column = |number: usize, value: fn(&Run) -> f64| -> Vec<f64> { samples[number].iter().map(value).collect() };
        for (number, (name, _)) in variants.iter().enumerate() {
            report.series(case, name, "requests/s", &column(number, |run| run.per_second));
            report.series(case, name, "µs latency p50", &column(number, |run| run.p50));
            report.series(case, name, "µs latency p99", &column(number, |run| run.p99));
            report.series(case, name, "µs CPU of Squid/request", &cpu[number]);
        }
        let rate = |number: usize| column(number, |run| run.per_second);
        report.finding(case, "requests/s to echo", "×", paired(&rate(2), &rate(1), ratio), Some(Goal::AtLeast(0.97)));
        report.finding(case, "requests/s to no helper", "×", paired(&rate(2), &rate(0), ratio), None);
        report.finding(case, "requests/s of squid-failopen.conf to no helper", "×", paired(&rate(3), &rate(0), ratio), None);
        report.finding(
            case,
            "requests/s of squid-fast.conf to no helper",
            "×",
            paired(&rate(4), &rate(0), ratio),
            Some(Goal::AtLeast(goal)),
        );
        report.finding(case, "requests/s of squid-fast.conf to the Python helper", "×", paired(&rate(4), &rate(5), ratio), None);
        if variants.len() > 6 {
            report.finding(case, "requests/s to userip", "×", paired(&rate(2), &rate(6), ratio), None);
            report.finding(case, "requests/s of squid-fast.conf to userip", "×", paired(&rate(4), &rate(6), ratio), None);
        }
        for (what, value) in [("p50 added to echo", (|run: &Run| run.p50) as fn(&Run) -> f64), ("p99 added to echo", |run| run.p99)] {
            report.finding(case, what, "µs", paired(&column(2, value), &column(1, value), difference), None);
        }
    }
    Ok(())
}

/// Starts a server with one page that may be cached for an hour, and returns its port.
pub(super) fn origin() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    Ok(port)
}

fn serve(mut stream: TcpStream) {
    let mut request = [0; 4096];
    if stream.read(&mut request).is_ok() {
        let body = "x".repeat(4096);
        let date = httpdate();
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nDate: {date}\r\nCache-Control: public, max-age=3600\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
}

fn httpdate() -> String {
    let output = Command::new("date").args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Starts a Squid that accelerates the origin, with these lines of configuration, and waits until it answers.
fn start(world: &World, squid: &Path, number: usize, acl: &str, origin: u16) -> Result<(Process, u16)> {
    let directory = world.path(&format!("squid-{number}"));
    std::fs::create_dir(&directory)?;
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
    let port = free_port()?;
    let here = directory.display();
    // Ours has a log of its own.
    let log = if acl.contains("access_log") { "" } else { "access_log none\n" };
    let config = format!(
        "http_port 127.0.0.1:{port} accel defaultsite=www.example.org\n\
         cache_peer 127.0.0.1 parent {origin} 0 no-query originserver\n\
         cache_mem 32 MB\ncache_log {here}/cache.log\npid_filename {here}/squid.pid\ncoredump_dir {here}\n\
         visible_hostname bench\npinger_enable off\nnetdb_filename none\nshutdown_lifetime 0 seconds\nworkers 1\n\
         follow_x_forwarded_for allow all\n{log}{acl}\nhttp_access allow all\n"
    );
    let config = world.write(&format!("squid-{number}.conf"), config)?;
    let log = world.log(&format!("squid-{number}"))?;
    let mut command = Command::new(squid);
    // Each instance needs its own service name, which names its shared memory.
    command.args(["-N", "-n", &format!("bench{}{number}", std::process::id()), "-f"]).arg(config);
    let process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))?;
    wait_for("Squid", || get(port).is_ok())?;
    Ok((process, port))
}

pub(super) fn get(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /index.html HTTP/1.1\r\nHost: www.example.org\r\nX-Forwarded-For: 64.1.2.3\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub(super) fn drive(wrk: &Path, script: &Path, port: u16, connections: u32, seconds: u32) -> Result<Run> {
    let output = Command::new(wrk)
        .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--latency", "-s"])
        .arg(script)
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let field = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let missing = || format!("wrk printed {text}");
    Ok(Run {
        per_second: field("Requests/sec:").with_context(missing)?.parse()?,
        p50: field("50%").and_then(microseconds).with_context(missing)?,
        p99: field("99%").and_then(microseconds).with_context(missing)?,
        refused: field("Non-2xx or 3xx responses:").map_or(Ok(0.0), str::parse)?,
    })
}

/// `812.00us`, `1.20ms` or `1.01s`.
fn microseconds(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Some(number.parse::<f64>().ok()? * factor);
        }
    }
    None
}
