//! A botnet at one helper: a fixed number of offences in flight, each of another client, and an innocent query now and then between them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::pipe::Helper;
use crate::traffic;

/// Number of offences in flight: the `concurrency` of `conf-examples`.
pub const IN_FLIGHT: usize = 500;
/// Time between two innocent queries.
const INNOCENT_EVERY: Duration = Duration::from_millis(2);
/// After this time without an answer the helper counts as hung.
const HUNG: Duration = Duration::from_secs(10);

/// What the queries of one helper came to.
#[derive(Default)]
pub struct Outcome {
    /// Offences that were refused.
    pub refused: u64,
    /// The tracked clients whose answer says that they are banned.
    pub banned: Vec<u32>,
    /// Offences that were served.
    pub served: u64,
    /// Innocent queries that were refused.
    pub innocents_refused: u64,
    /// Time from each innocent query to its answer.
    pub innocents: Vec<Duration>,
    /// Time to the last offence's answer.
    pub wall: Duration,
}

/// A query that is not answered yet.
#[derive(Clone, Copy)]
enum Asked {
    /// Of this tracked client.
    Offence(u32),
    Innocent(Instant),
}

/// Sends one offence of each of the tracked clients `clients`.
///
/// # Errors
/// A query is answered twice or not at all, or the helper ends.
pub fn attack(helper: &mut Helper, clients: std::ops::Range<u32>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    // It answers as soon as it has its rules and bans.
    helper.ask(format!("1 {} GET http://www.example.org/ Mozilla/5.0 none -\n", traffic::stranger(0)).as_bytes())?;
    // By channel ID, which counts up from 0.
    let mut asked: Vec<Option<Asked>> = Vec::with_capacity(clients.len());
    let (mut next, mut offences, mut unanswered) = (clients.start, 0, 0);
    let (mut out, mut written) = (Vec::new(), 0);
    let mut partial: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 256 << 10];
    let start = Instant::now();
    let (mut next_innocent, mut last_answer) = (start, start);
    while unanswered > 0 || next < clients.end {
        let now = Instant::now();
        if written == out.len() {
            out.clear();
            written = 0;
            if now >= next_innocent && next < clients.end {
                next_innocent = now + INNOCENT_EVERY;
                let client = traffic::stranger(asked.len() as u32);
                out.extend_from_slice(format!("{} {client} GET http://www.example.org/ Mozilla/5.0 none -\n", asked.len()).as_bytes());
                asked.push(Some(Asked::Innocent(now)));
                unanswered += 1;
            }
            while offences < IN_FLIGHT && next < clients.end {
                let client = traffic::tracked(next);
                out.extend_from_slice(
                    format!("{} {client} GET http://www.example.org/bench-ban Mozilla/5.0 none -\n", asked.len()).as_bytes(),
                );
                asked.push(Some(Asked::Offence(next)));
                next += 1;
                offences += 1;
                unanswered += 1;
            }
        }
        if written < out.len() {
            match send(helper.socket(), &out[written..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => written += sent,
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error).context("the helper does not read"),
            }
        }
        let wanted = if written < out.len() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let limit = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        poll(&mut [PollFd::new(helper.socket(), wanted)], Some(&limit))?;
        let length = match recv(helper.socket(), buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => bail!("the helper has ended"),
            Ok((length, _)) => length,
            Err(Errno::AGAIN) => {
                ensure!(last_answer.elapsed() < HUNG, "no answer for {HUNG:?}; {unanswered} queries wait");
                continue;
            }
            Err(error) => return Err(error).context("cannot read from the helper"),
        };
        last_answer = Instant::now();
        partial.extend_from_slice(&buffer[..length]);
        let whole = memchr::memrchr(b'\n', &partial).map_or(0, |end| end + 1);
        for line in partial[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let text = std::str::from_utf8(line)?;
            let (id, verdict) = text.split_once(' ').with_context(|| format!("an answer without an ID: {text}"))?;
            let slot = asked.get_mut(id.parse::<usize>()?).with_context(|| format!("an answer to no query: {text}"))?;
            let is_refused = verdict.starts_with("OK");
            unanswered -= 1;
            match slot.take().with_context(|| format!("answered twice: {text}"))? {
                Asked::Offence(client) => {
                    offences -= 1;
                    if verdict.contains("message=\"refused until") {
                        outcome.banned.push(client);
                    }
                    *(if is_refused { &mut outcome.refused } else { &mut outcome.served }) += 1;
                    outcome.wall = last_answer - start;
                }
                Asked::Innocent(since) => {
                    outcome.innocents.push(last_answer - since);
                    outcome.innocents_refused += u64::from(is_refused);
                }
            }
        }
        partial.drain(..whole);
    }
    Ok(outcome)
}
