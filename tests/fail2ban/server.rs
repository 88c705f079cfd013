//! The same log and jail in fail2ban and in Strikeout make the same bans at the same lines.

use super::{FILTERS, existing};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strikeout::internals::client::Ipv6Prefix;
use strikeout::internals::config::Config;
use strikeout::internals::crawler::Crawlers;
use strikeout::internals::detector::{Detector, Geo};
use strikeout::internals::fail2ban::import::import;
use strikeout::internals::log::offence::Received;
use strikeout::internals::log::text_rule::TextRule;
use strikeout::internals::log::time::Zone;
use strikeout::internals::rule::Trigger;
use strikeout::internals::rule_id::RuleNames;
use strikeout::internals::table::{Bans, Strikes};
use strikeout::internals::time::Time;

const SERVER: &str = "/usr/bin/fail2ban-server";

/// A ban: the address, and the time of its latest failure in seconds.
type Ban = (String, u64);

/// The bans that a rule makes of lines, each of which comes with the time of its arrival. A ban resets the client's count.
fn bans(config: &Config, rule: &str, lines: &[(u64, String)]) -> Vec<Ban> {
    let rule = config.rules.by_name(rule).expect("a rule");
    let Trigger::Line(pattern) = &rule.trigger else { panic!("{rule:?} looks at no lines") };
    let mut text = TextRule::new(rule, pattern, &Zone::utc()).expect("a filter");
    let (none, strikes) = (Bans::new(1), Strikes::new(100_000));
    // fail2ban counts each IPv6 address by itself.
    let prefix = Ipv6Prefix::new(128).expect("a prefix");
    let detector =
        Detector { rules: &config.rules, lists: &config.lists, bans: &none, prefix, geo: &Geo::default(), crawlers: &Crawlers::default() };
    let mut found = Vec::new();
    for (now, line) in lines {
        let Some(seen) = text.judge(line.as_bytes(), Received::replayed(Time::from_secs(*now)), &detector) else { continue };
        let client = seen.offence.client;
        let counter = strikes.add(rule.id, client, seen.time, rule.findtime, 1);
        if counter.count() >= rule.maxretry {
            strikes.forget(rule.id, client);
            found.push((client.address().to_string(), counter.last().secs()));
        }
    }
    found
}

/// A linear congruential generator, the same in each run, and the number of sshd processes so far.
struct Random(u64, u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }

    /// An address of either family; low ones are more frequent.
    fn address(&mut self) -> IpAddr {
        let most = 1 + self.below(30);
        let number = 1 + self.below(most);
        let text = if number.is_multiple_of(3) { format!("2001:db8::{number:x}") } else { format!("192.0.2.{number}") };
        text.parse().expect("an address")
    }
}

fn civil(seconds: u64) -> jiff::civil::DateTime {
    let moment = jiff::Timestamp::from_second(i64::try_from(seconds).expect("a date")).expect("a date");
    moment.to_zoned(jiff::tz::TimeZone::UTC).datetime()
}

/// An Exim log line: mostly a refusal, sometimes an accepted message.
fn exim_line(random: &mut Random, at: u64) -> String {
    let (date, address) = (civil(at).strftime("%Y-%m-%d %H:%M:%S"), random.address());
    match random.below(6) {
        0 => format!("{date} 1aBcDe-000001-Ab <= a@b.example H=(x) [{address}]:2525 P=esmtp S=1"),
        1 => format!("{date} login authenticator failed for (x) [{address}]:2525: 535 Incorrect authentication data (set_id=a)"),
        _ => format!("{date} H=(x) [{address}]:2525 F=<a@b.example> rejected RCPT <c@d.example>: relay not permitted"),
    }
}

/// The log lines of one sshd connection.
fn sshd_lines(random: &mut Random, at: u64) -> Vec<String> {
    let date = civil(at).strftime("%b %e %H:%M:%S");
    // Each process is new: fail2ban forgets connections by its own clock, not by the log's times.
    random.1 += 1;
    let (process, address) = (random.1, random.address());
    let lines: Vec<String> = match random.below(4) {
        0 => vec![format!("Accepted publickey for root from {address} port 22 ssh2")],
        1 => vec![
            format!("Failed publickey for root from {address} port 22 ssh2: RSA x"),
            "Disconnecting: Too many authentication failures for root [preauth]".to_owned(),
        ],
        2 => vec![
            format!("Connection from {address} port 22 on 192.0.2.200 port 22"),
            "maximum authentication attempts exceeded for x".to_owned(),
        ],
        _ => vec![format!("Failed password for invalid user a from {address} port 22 ssh2")],
    };
    lines.into_iter().map(|line| format!("{date} host sshd[{process}]: {line}")).collect()
}

/// A Python program that runs fail2ban's classes over a log, each line at its own time, and prints address and time of each ban.
const COUNTING: &str = r#"
import sys, os, time
sys.path.insert(0, '/usr/lib/python3/dist-packages')
os.environ['TZ'] = 'UTC'; time.tzset()
from fail2ban.server.mytime import MyTime
from fail2ban.server.filter import Filter
from fail2ban.client.filterreader import FilterReader
path, log, maxretry, findtime = sys.argv[1:5]
class Jail:
    name = 'x'
    def putFailTicket(self, ticket):
        print(ticket.getID(), int(ticket.getTime()))
reader = FilterReader(os.path.basename(path)[:-5], 'x', {}, share_config={}, basedir=os.path.dirname(os.path.dirname(path)))
reader.read(); reader.applyAutoOptions('polling'); reader.getOptions(None)
flt = Filter(Jail(), useDns='no'); flt.ignoreSelf = False
flt.setMaxRetry(int(maxretry)); flt.setFindTime(int(findtime))
for option in reader.convert():
    for value in (option[3] if option[0] == 'multi-set' else [option[3]]):
        if option[2] == 'prefregex': flt.prefRegex = value
        elif option[2] == 'addfailregex': flt.addFailRegex(value)
        elif option[2] == 'datepattern': flt.setDatePattern(value)
for line in open(log):
    now, line = line.rstrip('\n').split('\t', 1)
    MyTime.setTime(int(now))
    flt.performSvc(force=True)
    flt.processLineAndAdd(line)
"#;

#[test]
fn fail2bans_own_classes_count_the_same_over_days() {
    if existing(FILTERS).is_none() || existing("/usr/lib/python3/dist-packages/fail2ban").is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a directory");
    for (name, maxretry, findtime, seed) in
        [("exim", 3, 60, 1), ("exim", 5, 600, 2), ("exim", 2, 86_400, 3), ("exim", 1, 600, 4), ("exim", 10, 3600, 5), ("sshd", 4, 600, 6)]
    {
        let mut random = Random(seed, 0);
        let mut now = 1_795_000_000_u64;
        let mut lines = Vec::new();
        for _ in 0..3000 {
            // Bursts and pauses.
            now += match random.below(20) {
                0 => random.below(2 * findtime),
                1..5 => random.below(60),
                _ => random.below(5),
            };
            // Some lines come late. fail2ban drops failures that are too old by its clock only now and then, so with a short `findtime` the
            // result would depend on when it does.
            let late = random.below(4) / 3 * random.below(20);
            let at = if findtime < 3600 { now } else { now - late };
            let texts = if name == "sshd" { sshd_lines(&mut random, at) } else { vec![exim_line(&mut random, at)] };
            lines.extend(texts.into_iter().map(|text| (at, text)));
        }
        let log = folder.path().join("log");
        let text = lines.iter().fold(String::new(), |mut text, (now, line)| {
            let _ = writeln!(text, "{now}\t{line}");
            text
        });
        std::fs::write(&log, text).expect("written");
        let filter = format!("{FILTERS}/{name}.conf");
        let mut python = Command::new("python3")
            .args(["-", &filter, &log.display().to_string(), &maxretry.to_string(), &findtime.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        python.stdin.take().expect("a pipe").write_all(COUNTING.as_bytes()).expect("written");
        let output = python.wait_with_output().expect("it ends");
        assert!(output.status.success());
        let theirs: Vec<Ban> = String::from_utf8(output.stdout).expect("UTF-8").lines().map(ban).collect();

        let text = format!("[[rule]]\nname = 'x'\nfilter = '{filter}'\nmaxretry = {maxretry}\nfindtime = {findtime}\nbantime = -1\n");
        let config = Config::parse(text.as_bytes(), Path::new("x.toml"), &RuleNames::default()).expect("a configuration");
        assert_eq!(bans(&config, "x", &lines), theirs, "{name}: {maxretry} in {findtime} s");
        assert!(theirs.len() > 10, "{name}: {maxretry} in {findtime} s: {theirs:?}");
    }
}

fn ban(line: &str) -> Ban {
    let (address, time) = line.split_once(' ').expect("two words");
    (address.to_owned(), time.split('.').next().and_then(|seconds| seconds.parse().ok()).expect("seconds"))
}

#[test]
fn fail2bans_server_bans_the_same_addresses_at_the_same_failures() {
    if existing(FILTERS).is_none() || existing(SERVER).is_none() {
        return;
    }
    // At its start, the server reads the last `findtime` of a log, each line at its own time.
    let start = u64::try_from(jiff::Timestamp::now().as_second()).expect("a date") - 3000;
    let mut random = Random(7, 0);
    let mut logs = [("exim", Vec::new()), ("sshd", Vec::new())];
    for step in 0..400 {
        let at = start + step * 6 + random.below(6);
        for (name, lines) in &mut logs {
            let texts = if *name == "sshd" { sshd_lines(&mut random, at) } else { vec![exim_line(&mut random, at)] };
            lines.extend(texts.into_iter().map(|text| (at, text)));
        }
    }
    // The last ones to be banned: once they are, everything has been read.
    let end = start + 2500;
    let date = civil(end);
    for _ in 0..3 {
        for (name, lines) in &mut logs {
            lines.push((
                end,
                if *name == "sshd" {
                    format!(
                        "{} host sshd[1]: Failed password for invalid user a from 198.51.100.1 port 22 ssh2",
                        date.strftime("%b %e %H:%M:%S")
                    )
                } else {
                    format!(
                        "{} H=(x) [198.51.100.1]:2525 F=<a@b.example> rejected RCPT <c@d.example>: relay not permitted",
                        date.strftime("%Y-%m-%d %H:%M:%S")
                    )
                },
            ));
        }
    }
    let folder = tempfile::tempdir().expect("a directory");
    let path = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink(FILTERS, path("filter.d")).expect("linked");
    std::fs::create_dir(path("action.d")).expect("made");
    let write =
        |name: &str, text: &str| std::fs::write(path(name), text.replace("FOLDER", &folder.path().display().to_string())).expect("written");
    write("action.d/note.conf", "[Definition]\nactionban = echo '<ip> <time>' >> FOLDER/<name>.bans\n[Init]\nname = x\n");
    write(
        "fail2ban.conf",
        "[DEFAULT]\n[Definition]\nloglevel = INFO\nlogtarget = FOLDER/f2b.log\nsyslogsocket = auto\nsocket = FOLDER/f2b.sock\npidfile = FOLDER/f2b.pid\ndbfile = None\ndbpurgeage = 1d\n",
    );
    let mut jails =
        "[DEFAULT]\nbackend = polling\nusedns = no\nignoreself = false\nmaxretry = 3\nfindtime = 2h\nbantime = 4h\nenabled = true\n"
            .to_owned();
    for (name, lines) in &logs {
        let _ = write!(jails, "[{name}]\nport = http\nfilter = {name}\nlogpath = FOLDER/{name}.log\naction = note[name={name}]\n");
        write(&format!("{name}.log"), &lines.iter().map(|(_, line)| line.clone() + "\n").collect::<String>());
    }
    write("jail.conf", &jails);

    let option = |name: &str| path(name).display().to_string();
    let mut server = Command::new(SERVER)
        .args(["-c", &folder.path().display().to_string(), "-s", &option("f2b.sock"), "-p", &option("f2b.pid"), "-f", "start"])
        .env("TZ", "UTC")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server starts");
    let read = |name: &str| std::fs::read_to_string(path(&format!("{name}.bans"))).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(90);
    while Instant::now() < deadline && !logs.iter().all(|(name, _)| read(name).contains("198.51.100.1 ")) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = server.kill();
    let _ = server.wait();

    let imported = import(folder.path(), &[], false).expect("translated");
    let config = Config::parse(imported.text.as_bytes(), Path::new("x.toml"), &RuleNames::default()).expect("a configuration");
    for (name, lines) in &logs {
        let theirs: BTreeSet<Ban> = read(name).lines().map(ban).collect();
        // A banned address is not banned again while the ban lasts.
        let mut banned = BTreeSet::new();
        let ours: BTreeSet<Ban> = bans(&config, name, lines).into_iter().filter(|(address, _)| banned.insert(address.clone())).collect();
        let log = || std::fs::read_to_string(path("f2b.log")).unwrap_or_default();
        assert_eq!(ours, theirs, "{name}\n{}", log());
        assert!(ours.len() > 10, "{name}: {ours:?}");
    }
}
