//! Child processes, their CPU time and memory.

use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::time::TimeValLike;
use nix::time::ClockId;
use nix::unistd::Pid;

/// A child process, killed when this is dropped, and the clock of its CPU time.
pub struct Process {
    child: Child,
    clock: ClockId,
}

impl Process {
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let pid = i32::try_from(child.id()).context("a pid")?;
        Ok(Self { clock: ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?, child })
    }

    /// User and system time of all threads so far.
    pub fn cpu(&self) -> Result<Duration> {
        Ok(Duration::from_nanos(u64::try_from(self.clock.now()?.num_nanoseconds())?))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes, without file mappings.
    pub fn memory(&self) -> Result<u64> {
        memory_of(&self.child.id().to_string())
    }

    pub fn send(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        Ok(nix::sys::signal::kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Sends SIGKILL and waits.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits; kills the process after `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<()> {
        self.send(nix::sys::signal::Signal::SIGTERM)?;
        let deadline = std::time::Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if std::time::Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same of this process.
pub fn own_memory() -> Result<u64> {
    memory_of("self")
}

fn memory_of(process: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon in /proc/PID/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// User and system time of all children that have ended and been waited for, and of their children.
pub fn children_cpu() -> Result<Duration> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(microseconds)?))
}
