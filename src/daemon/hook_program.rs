//! One run of the hook's program: without a shell, in a process group of its own, with the changes on its standard input, killed at its
//! deadline or when the daemon ends.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::hook_event::{DroppedEvent, HookEvent};
use crate::config::HookConfig;
use crate::control::answer::line;

/// Runs the program for `events`, and tells it how many more were `dropped` before them. Returns `None` if it was killed.
///
/// # Errors
/// The program could not be started or waited for, or there is no memory or file descriptor for its input.
pub fn run<'a>(
    config: &HookConfig,
    events: impl Iterator<Item = HookEvent<'a>> + Clone,
    dropped: u64,
    end: &EndSignal,
) -> std::io::Result<Option<ExitStatus>> {
    let mut command = Command::new(&config.command.program);
    command.args(&config.command.arguments).env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if config.most() == 1 {
        command.args(events.clone().flat_map(|event| event.words()));
    }
    let mut child = command.stdin(lines(events, dropped)?).stdout(Stdio::null()).process_group(0).spawn()?;
    let deadline = Instant::now() + Duration::from_millis(config.timeout.0.millis());
    match wait(&child, deadline, end) {
        Ok(true) => child.wait().map(Some),
        result => {
            // The whole group, so that the program's children end too.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.kill();
            child.wait()?;
            result.map(|_| None)
        }
    }
}

/// A file in memory with one change a line. A pipe would have to be written as fast as the program reads.
fn lines<'a>(events: impl Iterator<Item = HookEvent<'a>>, dropped: u64) -> std::io::Result<File> {
    let mut file = BufWriter::new(File::from(memfd_create("strikeout-hook", MemfdFlags::CLOEXEC)?));
    if dropped > 0 {
        file.write_all(line(&DroppedEvent::new(dropped)).as_bytes())?;
    }
    for event in events {
        file.write_all(line(&event).as_bytes())?;
    }
    let mut file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

/// Waits until `child` ends. Returns false at the deadline, or when the daemon is ending.
fn wait(child: &Child, deadline: Instant, end: &EndSignal) -> std::io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
        let mut watched = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&end.0, PollFlags::IN)];
        match poll(&mut watched, Some(&left)) {
            Ok(_) => {
                let [child, _] = &watched;
                return Ok(!child.revents().is_empty());
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tells all workers that the daemon is ending: an eventfd that becomes readable and is never read, so a worker can wait for it and for a
/// program in one poll.
pub struct EndSignal(OwnedFd);

impl EndSignal {
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    pub fn raise(&self) {
        // Fails only once 2^64 - 1 has been added.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    pub fn is_raised(&self) -> bool {
        let no_wait = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&no_wait)).is_ok_and(|ready| ready > 0)
    }
}
