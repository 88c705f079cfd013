//! Lists of a million networks reach everybody who follows, as fast as they read, while everything else goes on.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::processes::{Helper, Resident, Stage, median, until};

const MILLION: u32 = 1_000_000;
const MIB: u64 = 1024 * 1024;

/// A million addresses of which no two can be joined, from `first` on.
fn addresses(first: u8) -> String {
    let mut text = String::new();
    for number in 0..MILLION {
        let [_, b, c, d] = (number * 2).to_be_bytes();
        writeln!(text, "{first}.{b}.{c}.{d}").unwrap();
    }
    text
}

#[test]
fn a_reload_with_a_million_networks_reaches_followers_without_a_break_and_queries_are_answered_meanwhile() {
    let stage = Stage::new();
    let resident = Resident::start(&stage, "", "[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 2\n");
    let mut helper = Helper::attach(&stage);
    assert!(!helper.refuses("11.0.0.4"));
    fs::write(stage.path("deny"), addresses(11)).unwrap();
    fs::write(stage.path("spare"), addresses(12)).unwrap();
    let lists = format!("[defaults]\ndeny = [{:?}]\nignoreip = [{:?}]\n", stage.path("deny"), stage.path("spare"));
    stage.configure("", &(lists + "[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 2\n"));
    let reloaded = AtomicBool::new(false);
    let (mut waits, mut checks) = (Vec::new(), Vec::new());
    let reached = std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(resident.ask("reload"), "reloaded\n.\n");
            reloaded.store(true, Ordering::SeqCst);
        });
        let mut since = None;
        let deadline = Instant::now() + super::processes::DEADLINE;
        for number in 0_u32.. {
            if since.is_none() && reloaded.load(Ordering::SeqCst) {
                since = Some(Instant::now());
            }
            // An offence crosses to the resident and back; the second one of each client bans, and waits for the disk too.
            let client = std::net::Ipv4Addr::from(0x0a00_0000 + number / 2);
            let (answer, took) = helper.timed(&format!("{client} GET http://example.test/admin Mozilla/5.0 - -"));
            waits.push(took);
            // On a machine that is busy an answer may come too late, and then `on_failure` decides.
            assert!(
                answer.starts_with("OK ") == (number % 2 == 1) || took > Duration::from_millis(100),
                "{client}: {answer} after {took:?}"
            );
            let start = Instant::now();
            assert_eq!(resident.ask("check 192.0.2.1 port=465"), "accept\n");
            checks.push(start.elapsed());
            // The last one of the list: the configuration comes into force whole.
            if helper.refuses("11.30.132.126") {
                return since.map(|since| since.elapsed()).unwrap_or_default();
            }
            assert!(Instant::now() < deadline, "the lists do not arrive");
        }
        unreachable!()
    });
    assert!(helper.refuses("11.0.0.0"));
    assert!(!helper.refuses("11.0.0.1"), "between two that are listed");
    assert_eq!(helper.get("12.0.0.4", "/w00tw00t"), "ERR", "spared");
    assert!(helper.get("12.0.0.5", "/w00tw00t").starts_with("OK "), "between two that are spared");
    assert_eq!(helper.breaks(), 0, "{}", helper.log());
    eprintln!(
        "two lists of a million: in force {reached:?} after the reload; meanwhile {} offences answered, median {:?}, longest {:?}; \
         checks of Exim's: median {:?}, longest {:?}",
        waits.len(),
        median(waits.clone()),
        waits.iter().max().unwrap(),
        median(checks.clone()),
        checks.iter().max().unwrap()
    );
    // One that comes now gets them with its snapshot.
    let mut late = Helper::attach(&stage);
    until("the late one is attached", || late.refuses("11.30.132.126").then_some(()));
    assert!(!late.refuses("11.0.0.1"));
}

#[test]
fn a_million_networks_take_no_memory_for_who_does_not_read_them() {
    let stage = Stage::new();
    fs::write(stage.path("deny"), addresses(11)).unwrap();
    let lists = format!("[defaults]\ndeny = [{:?}]\n", stage.path("deny"));
    let resident = Resident::start(&stage, "", &lists);
    let begin = resident.memory();
    let mut idle: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(stage.socket()).unwrap();
            stream.write_all(b"follow 1\n").unwrap();
            stream
        })
        .collect();
    until("all follow", || (resident.status("followers") == "100").then_some(()));
    let grown = resident.memory().saturating_sub(begin);
    // As text it would be 2 GB.
    assert!(grown < 100 * MIB, "{} MiB for a hundred that do not read", grown / MIB);
    eprintln!("a hundred followers that do not read cost {} KiB each", grown / 1024 / 100);
    // They are let go, and a fresh one is served.
    until("they are let go", || (resident.status("followers") == "0").then_some(()));
    let start = Instant::now();
    idle[0].set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    idle[0].read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 2 * usize::try_from(MIB).unwrap() && start.elapsed() < Duration::from_secs(10));
    let mut helper = Helper::attach(&stage);
    until("it has the list", || helper.refuses("11.0.0.4").then_some(()));
}
