//! Drives a line helper as Squid does: stdin and stdout of the helper are one socket, which carries queries and answers.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

use crate::child::Process;
use crate::traffic::Traffic;

/// How queries are sent.
#[derive(Clone, Copy)]
pub struct Load {
    /// Maximum number of unanswered queries.
    pub outstanding: usize,
    /// Number of queries per write.
    pub batch: usize,
}

impl Load {
    pub fn name(self) -> String {
        match self.batch {
            1 => format!("{} outstanding, one per write", self.outstanding),
            batch => format!("{} outstanding, {batch} per write", self.outstanding),
        }
    }
}

/// The result of one measurement.
#[derive(Clone, Copy)]
pub struct Sample {
    pub lookups: u64,
    /// Number of `OK` answers, which are refusals.
    pub refused: u64,
    pub wall: Duration,
    pub cpu: Duration,
}

impl Sample {
    pub fn per_second(&self) -> f64 {
        self.lookups as f64 / self.wall.as_secs_f64()
    }

    /// The helper's CPU time per lookup in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.lookups as f64
    }
}

/// A running helper.
pub struct Helper {
    pub process: Process,
    socket: UnixStream,
    sendbuf: Vec<u8>,
    received: Vec<u8>,
}

/// When to stop.
#[derive(Clone, Copy)]
pub enum Until {
    Elapsed(Duration),
    Lookups(u64),
}

impl Helper {
    /// Starts `command` on one end of a socket pair.
    pub fn start(command: &mut Command) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        // Each small message takes a whole buffer of a Unix socket; 1,000 must fit, as they do in Squid's TCP socket.
        for socket in [&ours, &theirs] {
            sockopt::set_socket_send_buffer_size_force(socket, 4 << 20)
                .or_else(|_| sockopt::set_socket_send_buffer_size(socket, 4 << 20))?;
        }
        let stdin = OwnedFd::from(theirs.try_clone()?);
        let process = Process::start(command.stdin(Stdio::from(stdin)).stdout(Stdio::from(OwnedFd::from(theirs))))?;
        // The command keeps its copies of the socket open, and with them an ended helper would not be noticed.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self { process, socket: ours, sendbuf: Vec::new(), received: vec![0; 256 << 10] })
    }

    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Sends one query and returns its answer without the newline.
    pub fn ask(&mut self, line: &[u8]) -> Result<Vec<u8>> {
        self.write_all(line)?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n") {
            answer.extend_from_slice(self.receive(true)?.unwrap_or_default());
        }
        answer.pop();
        Ok(answer)
    }

    /// Sends several queries in one write and returns their answers, `count` lines.
    pub fn ask_all(&mut self, lines: &[u8], count: usize) -> Result<Vec<u8>> {
        self.write_all(lines)?;
        let mut answers = Vec::new();
        while memchr::memchr_iter(b'\n', &answers).count() < count {
            answers.extend_from_slice(self.receive(true)?.unwrap_or_default());
        }
        Ok(answers)
    }

    /// Sends `traffic` until `until`, waits for the last answer, and returns what that cost the helper.
    pub fn drive(&mut self, traffic: &mut Traffic, load: Load, until: Until) -> Result<Sample> {
        let (mut sent, mut answered, mut refused) = (0_u64, 0_u64, 0_u64);
        let refusal = memchr::memmem::Finder::new(b"OK");
        let mut pending = 0;
        self.sendbuf.clear();
        let mut ending = false;
        let cpu = self.process.cpu()?;
        let start = Instant::now();
        loop {
            // Send as much as the load allows.
            let mut blocked = false;
            while !ending && !blocked && (pending < self.sendbuf.len() || (sent - answered) as usize + load.batch <= load.outstanding) {
                if pending == self.sendbuf.len() {
                    self.sendbuf.clear();
                    pending = 0;
                    for _ in 0..load.batch {
                        traffic.line(&mut self.sendbuf);
                    }
                    sent += load.batch as u64;
                }
                match send(&self.socket, &self.sendbuf[pending..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(written) => pending += written,
                    Err(Errno::AGAIN) => blocked = true,
                    Err(error) => return Err(error).context("the helper does not read"),
                }
                if let Until::Lookups(limit) = until {
                    ending = sent >= limit && pending == self.sendbuf.len();
                }
            }
            if let Until::Elapsed(limit) = until {
                ending |= pending == self.sendbuf.len() && start.elapsed() >= limit;
            }
            if ending && answered == sent {
                break;
            }
            // Read the answers that have come; wait if nothing else can be done.
            if blocked {
                let mut fds = [PollFd::new(&self.socket, PollFlags::IN | PollFlags::OUT)];
                poll(&mut fds, None)?;
            }
            if let Some(answers) = self.receive(!blocked)? {
                answered += memchr::memchr_iter(b'\n', answers).count() as u64;
                refused += refusal.find_iter(answers).count() as u64;
            }
        }
        let wall = start.elapsed();
        // Include work after the last answer: rates are counted then.
        std::thread::sleep(Duration::from_millis(2));
        Ok(Sample { lookups: answered, refused, wall, cpu: self.process.cpu()?.saturating_sub(cpu) })
    }

    /// The answers that have come; `None` if there are none and `wait` is not set.
    fn receive(&mut self, wait: bool) -> Result<Option<&[u8]>> {
        let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        match recv(&self.socket, self.received.as_mut_slice(), flags) {
            Ok((0, _)) => bail!("the helper has ended"),
            Ok((length, _)) => Ok(Some(&self.received[..length])),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error).context("cannot read from the helper"),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = send(&self.socket, rest, SendFlags::NOSIGNAL).context("the helper does not read")?;
            rest = &rest[written..];
        }
        Ok(())
    }
}
