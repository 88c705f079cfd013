//! Processes: ended by their PID, found by their program, their logs shown when a test fails.

use std::fs;
use std::path::Path;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

/// Kills a child that still runs, and reaps it.
pub(crate) fn end(child: &mut Child) {
    if child.try_wait().is_ok_and(|status| status.is_none()) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Sends a signal to a process that this test started, directly or through a server. It may have ended already.
pub(crate) fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The processes whose program is the file `program`: one in a test's own directory, so nobody else's.
pub(crate) fn running(program: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program))
        .collect()
}

/// The children of `parent` whose program is the file `program`.
pub(crate) fn children(parent: u32, program: &Path) -> Vec<u32> {
    running(program).into_iter().filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Field 4 of /proc/PID/stat; field 2 is a name in parentheses that may hold spaces.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A size of a process from /proc/PID/status, such as `VmRSS`, in bytes.
pub(crate) fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    kilobytes.unwrap().trim().parse::<u64>().unwrap() * 1024
}

/// Prints the end of a log if the test is failing.
pub(crate) fn show_log(name: &str, text: &str) {
    if std::thread::panicking() {
        let from = text.lines().count().saturating_sub(80);
        eprintln!("--- {name} (its last 80 lines)");
        text.lines().skip(from).for_each(|line| eprintln!("{line}"));
    }
}
