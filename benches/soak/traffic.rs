//! What clients do: requests to Squid's helpers, connections to Exim, lines in Exim's log; and what the operator asks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{EXIM_HELPER, SquidHelper, wait_until};
use crate::machine::{BANNED, HELPERS, Machine, World, add};

/// Time between two batches of a helper, and the number of innocent queries in each.
const BATCH: Duration = Duration::from_millis(100);
const INNOCENTS: u32 = 40;
/// Innocent clients: 198.18.0.0/15, so that none of them exceeds a rate.
const INNOCENT_CLIENTS: u32 = 1 << 17;
/// Batches between two clients that guess, which offend without being banned at once.
const GUESS_EVERY: u64 = 5;
const MAIL: Duration = Duration::from_millis(250);
const LOG: Duration = Duration::from_secs(1);
/// Lines between two rotations of a log.
const ROTATE_EVERY: u64 = 15;
const OPERATOR: Duration = Duration::from_millis(500);
/// A ban of half a minute that is no older is still in force.
const SURELY_BANNED: Duration = Duration::from_secs(15);

fn innocent(number: u32) -> String {
    let [_, high, b, c] = (number % INNOCENT_CLIENTS).to_be_bytes();
    format!("198.{}.{b}.{c}", 18 + high)
}

/// What an answer must be.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    Served,
    /// Refused, because the query is an offence.
    Offence,
    /// Refused, because its client is banned.
    Banned,
    Any,
}

/// Queries of one helper, by channel ID.
#[derive(Default)]
struct Batch {
    lines: String,
    expected: HashMap<u64, (Expected, String)>,
    next: u64,
}

impl Batch {
    fn ask(&mut self, client: &str, path: &str, expected: Expected) {
        self.lines.push_str(&format!("{} {client} GET http://www.example.org{path} Mozilla/5.0 none -\n", self.next));
        self.expected.insert(self.next, (expected, client.to_owned()));
        self.next += 1;
    }
}

/// One of the helpers of a machine.
pub(crate) fn web(world: &World, machine: &Machine, number: usize) {
    let start = || {
        let mut helper = SquidHelper::attach(&machine.stage);
        // Until it has the bans it answers as it must without any.
        wait_until("the helper has the bans", || helper.refuses(BANNED));
        machine.helper_pids[number].store(helper.pid(), Ordering::Relaxed);
        helper
    };
    let note = |client: &str| *machine.last_banned.lock().unwrap() = Some((client.to_owned(), Instant::now()));
    let name = format!("{} helper {number}", machine.name);
    drive(world, &name, &machine.kill_helper[number], start, note);
}

/// A helper with a table and a state file of its own.
pub(crate) fn embedded(world: &World) {
    let start = || {
        let (config, state) = (world.embedded.config(), world.embedded.path("embedded.db"));
        let mut helper = SquidHelper::start(&["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap()]);
        // One that is not ready within five seconds, on a busy machine, answers as if nobody had offended until it is.
        wait_until("the helper judges", || helper.get(&world.new_client(), "/soak-probe").starts_with("OK "));
        world.embedded_pid.store(helper.pid(), Ordering::Relaxed);
        helper
    };
    drive(world, "the embedded helper", &world.kill_embedded, start, |_| ());
}

/// Sends batch after batch to a helper, and starts it again when it is killed.
fn drive(world: &World, name: &str, kill: &AtomicBool, start: impl Fn() -> SquidHelper, banned: impl Fn(&str)) {
    static INNOCENT: AtomicU32 = AtomicU32::new(0);
    let mut helper = start();
    let (mut batch, mut banned_before, mut batches) = (Batch::default(), Vec::new(), 0);
    while !world.has_ended() {
        std::thread::sleep(BATCH);
        for _ in 0..INNOCENTS {
            batch.ask(&innocent(INNOCENT.fetch_add(1, Ordering::Relaxed)), "/", Expected::Served);
        }
        // They were banned with the last batch.
        banned_before.drain(..).for_each(|client: String| batch.ask(&client, "/", Expected::Banned));
        batch.ask(&world.new_client(), "/soak-probe", Expected::Offence);
        batches += 1;
        if batches % GUESS_EVERY == 0 {
            let client = world.new_client();
            (0..4).for_each(|_| batch.ask(&client, "/soak-guess", Expected::Any));
        }
        helper.send(std::mem::take(&mut batch.lines).as_bytes());
        if kill.swap(false, Ordering::Relaxed) {
            helper.kill();
            drop(helper);
            batch.expected.clear();
            add(&world.counts.helpers_killed, 1);
            helper = start();
            continue;
        }
        while !batch.expected.is_empty() {
            let written = String::from_utf8(helper.next_write()).unwrap();
            for line in written.lines() {
                let (id, answer) = line.split_once(' ').expect("an answer with a channel ID");
                let Some((expected, client)) = batch.expected.remove(&id.parse().unwrap()) else {
                    world.fault(format!("{name}: an answer to no query, or a second one: {line}"));
                    continue;
                };
                let is_refused = answer.starts_with("OK ");
                let count = if expected == Expected::Served { &world.counts.web_innocents } else { &world.counts.web_offences };
                add(count, 1);
                if expected != Expected::Any && is_refused == (expected == Expected::Served) {
                    world.fault(format!("{name}: {client} was answered {answer}"));
                }
                // An offence that only the helper has judged is refused for itself, and banned later.
                if expected == Expected::Offence && answer.contains("message=\"refused until") {
                    add(&world.counts.web_bans, 1);
                    banned(&client);
                    banned_before.push(client);
                }
            }
        }
    }
    let (status, log) = helper.close();
    if !status.success() {
        world.fault(format!("{name}: {status}: {log}"));
    }
}

/// Checks by `${run}`, each in a process of its own as Exim's connections are, checks by `${readsocket}`, and incidents.
pub(crate) fn mail(world: &World, machine: &Machine) {
    for number in 0_u32.. {
        std::thread::sleep(MAIL);
        if world.has_ended() {
            return;
        }
        let client = innocent(number);
        let command = format!("{EXIM_HELPER} --table {:?} check {client} port=25; :", machine.stage.socket());
        let output = Command::new("sh").args(["-c", &command]).stderr(Stdio::inherit()).output().unwrap();
        if !output.stdout.starts_with(b"accept") {
            world.fault(format!("{}: {client} was answered {}", machine.name, String::from_utf8_lossy(&output.stdout)));
        }
        let banned = machine.last_banned.lock().unwrap().clone();
        if let Some((client, since)) = banned
            && since.elapsed() < SURELY_BANNED
            && let Some(answer) = machine.ask(&format!("check {client} port=25"))
            && since.elapsed() < SURELY_BANNED
        {
            // A daemon that ends answers `accept` rather than not at all.
            if answer.starts_with("accept") && machine.is_refused(&client) == Some(false) && since.elapsed() < SURELY_BANNED {
                world.fault(format!("{}: the ban of {client} is lost", machine.name));
            }
            add(&world.counts.mail_accepted_late, u64::from(answer.starts_with("accept")));
        }
        if number % 4 == 0 {
            let client = world.new_client();
            (0..2).for_each(|_| drop(machine.ask(&format!("strike {client} soak-helo"))));
        }
        add(&world.counts.mail_checks, 3);
    }
}

/// Exim's log, which is rotated; no line may be lost.
pub(crate) fn log(world: &World, machine: &Machine) {
    let (path, rotated) = (machine.log(), machine.stage.path("mainlog.1"));
    let append = || {
        let client = world.new_client();
        let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string();
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        writeln!(file, "{now} Connection from [{client}] refused: too many connections from that IP address").unwrap();
        add(&world.counts.log_lines, 1);
        client
    };
    for number in 1_u64.. {
        std::thread::sleep(LOG);
        if world.has_ended() {
            return;
        }
        let before = append();
        if number % ROTATE_EVERY == 0 {
            fs::rename(&path, &rotated).unwrap();
            add(&world.counts.rotations, 1);
            for client in [before, append()] {
                wait_until(&format!("{} counts the lines of {client}", machine.name), || machine.is_refused(&client) == Some(true));
            }
        }
    }
}

/// What operators and their programs ask.
pub(crate) fn operator(world: &World) {
    for number in 0_usize.. {
        std::thread::sleep(OPERATOR);
        if world.has_ended() {
            return;
        }
        let machine = &world.machines[number % world.machines.len()];
        let client = format!("203.0.113.{}", 100 + number % 100);
        let requests = ["status".into(), "list".into(), "metrics".into(), format!("ban {client} 1m"), format!("unban {client}")];
        requests.iter().for_each(|request| drop(machine.ask(request)));
        add(&world.counts.requests_of_operators, requests.len() as u64);
    }
}

/// Whether all helpers of a machine are attached.
pub(crate) fn has_helpers(machine: &Machine) -> bool {
    machine.status().is_some_and(|status| status["subscribers"] == HELPERS)
}
