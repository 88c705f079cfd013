//! Lists of a million networks reach every subscriber as fast as it reads, and delay nothing else.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Daemon, SquidHelper, Stage, median, wait_until};

const MILLION: u32 = 1_000_000;
const MIB: u64 = 1024 * 1024;

/// A million addresses in `first`/8, no two of which are adjacent, so that none can be merged.
fn addresses(first: u8) -> String {
    let mut text = String::new();
    for number in 0..MILLION {
        let [_, b, c, d] = (number * 2).to_be_bytes();
        writeln!(text, "{first}.{b}.{c}.{d}").unwrap();
    }
    text
}

#[test]
fn a_reload_with_a_million_networks_reaches_subscribers_and_queries_are_answered_meanwhile() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", "[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 2\n");
    let mut helper = SquidHelper::attach(&stage);
    assert!(!helper.refuses("11.0.0.4"));
    fs::write(stage.path("deny"), addresses(11)).unwrap();
    fs::write(stage.path("ignore"), addresses(12)).unwrap();
    let lists = format!("[defaults]\ndeny = [{:?}]\nignoreip = [{:?}]\n", stage.path("deny"), stage.path("ignore"));
    stage.configure("", &(lists + "[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 2\n"));
    let reloaded = AtomicBool::new(false);
    let (mut waits, mut checks) = (Vec::new(), Vec::new());
    let reached = std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(daemon.ask("reload").starts_with("{\"reloaded\":true,\"notes\":[],"));
            reloaded.store(true, Ordering::SeqCst);
        });
        let mut since = None;
        let deadline = Instant::now() + crate::harness::DEADLINE;
        for number in 0_u32.. {
            if since.is_none() && reloaded.load(Ordering::SeqCst) {
                since = Some(Instant::now());
            }
            // An offence goes to the daemon and back. The second one of each client bans, and also waits for the disk.
            let client = std::net::Ipv4Addr::from(0x0a00_0000 + number / 2);
            let (answer, took) = helper.timed(&format!("{client} GET http://example.test/admin Mozilla/5.0 - -"));
            waits.push(took);
            // On a busy machine the daemon may answer too late. `on_failure` decides then.
            assert!(
                answer.starts_with("OK ") == (number % 2 == 1) || took > Duration::from_millis(100),
                "{client}: {answer} after {took:?}"
            );
            let start = Instant::now();
            assert_eq!(daemon.ask("check 192.0.2.1 port=465"), "accept\n");
            checks.push(start.elapsed());
            // The last address of the list, because the configuration takes effect as a whole.
            if helper.refuses("11.30.132.126") {
                return since.map(|since| since.elapsed()).unwrap_or_default();
            }
            assert!(Instant::now() < deadline, "the lists do not arrive");
        }
        unreachable!()
    });
    assert!(helper.refuses("11.0.0.0"));
    assert!(!helper.refuses("11.0.0.1"), "between two listed addresses");
    assert_eq!(helper.get("12.0.0.4", "/w00tw00t"), "ERR", "exempt");
    assert!(helper.get("12.0.0.5", "/w00tw00t").starts_with("OK "), "between two exempt addresses");
    assert_eq!(helper.breaks(), 0, "{}", helper.log());
    eprintln!(
        "two lists of a million: in force {reached:?} after the reload; meanwhile {} offences answered, median {:?}, longest {:?}; \
         checks by Exim: median {:?}, longest {:?}",
        waits.len(),
        median(waits.clone()),
        waits.iter().max().unwrap(),
        median(checks.clone()),
        checks.iter().max().unwrap()
    );
    // A helper that attaches now gets the lists in its snapshot.
    let mut late = SquidHelper::attach(&stage);
    wait_until("the late helper is attached", || late.refuses("11.30.132.126"));
    assert!(!late.refuses("11.0.0.1"));
}

#[test]
fn a_subscriber_that_does_not_read_costs_no_memory_for_a_million_networks() {
    let stage = Stage::new();
    fs::write(stage.path("deny"), addresses(11)).unwrap();
    let lists = format!("[defaults]\ndeny = [{:?}]\n", stage.path("deny"));
    let daemon = Daemon::start_on(&stage, "", &lists);
    let begin = daemon.memory();
    // The peak is that from now on (`man 5 proc_pid_clear_refs`).
    fs::write(format!("/proc/{}/clear_refs", daemon.pid()), "5").unwrap();
    let mut idle: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(stage.socket()).unwrap();
            stream.write_all(b"subscribe 1\n").unwrap();
            stream
        })
        .collect();
    // On a busy machine the first ones may be disconnected before the last ones are subscribed.
    for stream in &idle {
        stream.set_read_timeout(Some(crate::harness::DEADLINE)).unwrap();
        let (sent, _) = rustix::net::recv(stream, &mut [0; 64], rustix::net::RecvFlags::PEEK).unwrap();
        assert!(sent > 0, "a subscriber was sent nothing");
    }
    // They are disconnected, and a new one is served.
    wait_until("they are disconnected", || daemon.status("subscribers") == "0");
    let grown = daemon.peak_memory().saturating_sub(begin);
    // As text, the lists would take 2 GB.
    assert!(grown < 100 * MIB, "{} MiB for a hundred subscribers that do not read", grown / MIB);
    eprintln!("a hundred subscribers that do not read cost {} KiB each", grown / 1024 / 100);
    let start = Instant::now();
    idle[0].set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    idle[0].read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 2 * usize::try_from(MIB).unwrap() && start.elapsed() < Duration::from_secs(10));
    let mut helper = SquidHelper::attach(&stage);
    wait_until("it has the list", || helper.refuses("11.0.0.4"));
}
