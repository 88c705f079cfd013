//! The resident's table: rules, lists and bans come by `follow`, and offences go across. An innocent request costs no round trip.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::answered::Answered;
use super::helper::Fault;
use super::{Backend, Place};
use crate::client::{Client, Ipv6Prefix};
use crate::clock::Clock;
use crate::config::{FALSE_BAN_SHARE, OnFailure};
use crate::engine::InForce;
use crate::list::{BannedNetwork, Lists, OwnAddresses, Source};
use crate::reply::{Deadlines, Held, Reply};
use crate::rule::{Mode, Names, Offence, Rule, RuleId, RuleSet};
use crate::socket::follow::{self, FromFollower, FromResident, List};
use crate::table::{Ban, Bans, Tallied, Until};
use crate::time::Time;
use crate::verdict::{Grounds, Innocence, Refusal, Verdict};

/// Waits between two tries to reach the resident: doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Requests and answers are counted for so long before they go across together.
const BATCH: Duration = Duration::from_millis(100);
/// How long the resident may say nothing before its first snapshot is whole: then it is tried again.
const SNAPSHOT: Duration = Duration::from_secs(10);
/// The longest line that the resident sends: a rule with its patterns.
const LONGEST_LINE: usize = 256 * 1024;
/// A replica holds what the resident holds: the resident's own caps bound it.
const ANY_NUMBER: usize = 200_000_000;

/// A copy of the resident's rules, lists and bans, and the line to it.
struct Attached {
    clock: Clock,
    names: Arc<Names>,
    in_force: RwLock<Arc<InForce>>,
    bans: Bans,
    deadlines: Deadlines,
    line: UnixStream,
    lost: AtomicBool,
    /// Serialises lines, so that two threads never mix theirs.
    sending: Mutex<()>,
    number: AtomicU64,
    unanswered: Mutex<HashMap<u64, (Held, Verdict)>>,
    requests: Mutex<HashMap<Client, (IpAddr, u32), ahash::RandomState>>,
    /// Shared by all connections to come: what was answered while the resident was away is told once it is back.
    answered: Arc<Mutex<Answered>>,
}

/// Keeps `place` in step with the resident on `socket`, for the life of the process.
pub fn keep(socket: &Path, place: &Place, ready: &Sender<()>) {
    let (names, answered) = (Arc::new(Names::default()), Arc::default());
    let mut fault = Fault::default();
    let mut wait = FIRST_WAIT;
    loop {
        let began = Instant::now();
        let ended = follow(socket, &names, &answered, place, ready, &mut fault);
        fault.say(&explain(socket, &ended, place.get().is_some()));
        let _ = ready.send(());
        if began.elapsed() > LONGEST_WAIT {
            wait = FIRST_WAIT;
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// One connection to the resident, from its snapshot to its end. Returns why it ended.
fn follow(
    socket: &Path,
    names: &Arc<Names>,
    answered: &Arc<Mutex<Answered>>,
    place: &Place,
    ready: &Sender<()>,
    fault: &mut Fault,
) -> io::Error {
    let attached = match Attached::connect(socket, names, answered) {
        Ok(attached) => Arc::new(attached),
        Err(error) => return error,
    };
    let mut incoming = Incoming::default();
    let mut lines = Lines::default();
    let mut heard = Instant::now();
    let mut in_place = false;
    let (mut swept, mut told) = (Instant::now(), Instant::now());
    let error = loop {
        match lines.wait(&attached.line, BATCH) {
            Ok(true) => heard = Instant::now(),
            Ok(false) if !in_place && heard.elapsed() > SNAPSHOT => {
                break io::Error::new(io::ErrorKind::TimedOut, "the resident does not answer");
            }
            Ok(false) => {}
            Err(error) => break error,
        }
        let taken = loop {
            match lines.next() {
                Ok(Some(line)) => match attached.take(&line, &mut incoming) {
                    Ok(true) if !in_place => {
                        place.put(Arc::clone(&attached) as Arc<dyn Backend>);
                        in_place = true;
                        fault.over("attached to the resident: its rules and bans are in force");
                        let _ = ready.send(());
                    }
                    Ok(_) => {}
                    Err(error) => break Err(error),
                },
                Ok(None) => break incoming.look(),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = taken {
            break error;
        }
        // However often the resident says something.
        if told.elapsed() >= BATCH {
            told = Instant::now();
            attached.send_requests();
            if in_place {
                attached.send_answered();
            }
        }
        if swept.elapsed() >= Duration::from_secs(1) {
            swept = Instant::now();
            attached.bans.expire(attached.now(), |_, _| ());
        }
        if attached.lost.load(Ordering::Relaxed) {
            break io::Error::new(io::ErrorKind::BrokenPipe, "the resident does not read");
        }
    };
    attached.lose();
    error
}

/// What a lost or missing resident means, for the log.
fn explain(socket: &Path, error: &io::Error, has_replica: bool) -> String {
    let meanwhile = if has_replica { "rules and bans stay as they were" } else { "every query is answered ERR" };
    let socket = socket.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        let group = std::fs::metadata(socket.to_string())
            .or_else(|_| std::fs::metadata(std::path::Path::new(&socket.to_string()).parent().unwrap_or(Path::new("/"))))
            .ok()
            .and_then(|metadata| group_name(std::os::unix::fs::MetadataExt::gid(&metadata)));
        let group = group.as_deref().unwrap_or("strikeout");
        return format!(
            "no permission on the resident's socket {socket}: the user that Squid runs helpers as must join the group {group}; {meanwhile}"
        );
    }
    format!("the resident on {socket} cannot be reached: {error}; {meanwhile}")
}

/// The name of a group, as `/etc/group` has it.
fn group_name(gid: u32) -> Option<String> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let gid = gid.to_string();
    groups
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&gid.as_str()))
        .and_then(|fields| fields.first().map(|name| (*name).to_owned()))
}

impl Attached {
    fn connect(socket: &Path, names: &Arc<Names>, answered: &Arc<Mutex<Answered>>) -> io::Result<Self> {
        let line = UnixStream::connect(socket)?;
        let deadlines = Deadlines::start()?;
        let rules = RuleSet::new(Vec::new()).map_err(io::Error::other)?;
        let nothing = InForce {
            rules: Arc::new(rules),
            lists: Lists::default(),
            prefix: Ipv6Prefix::default(),
            on_failure: OnFailure::Allow,
            false_ban_share: FALSE_BAN_SHARE,
        };
        let attached = Self {
            clock: Clock::start(),
            names: Arc::clone(names),
            in_force: RwLock::new(Arc::new(nothing)),
            bans: Bans::new(ANY_NUMBER),
            deadlines,
            line,
            lost: AtomicBool::new(false),
            sending: Mutex::default(),
            number: AtomicU64::new(0),
            unanswered: Mutex::default(),
            requests: Mutex::default(),
            answered: Arc::clone(answered),
        };
        attached.send(&format!("follow {}\n", follow::VERSION));
        Ok(attached)
    }

    /// Sends whole lines, or gives the connection up: nothing here ever waits for the resident.
    fn send(&self, lines: &str) -> bool {
        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = lines.as_bytes();
        while !rest.is_empty() && !self.lost.load(Ordering::Relaxed) {
            match rustix::net::send(&self.line, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // Also where its buffer is full: it reads no more, and half a line must not be followed by another.
                Err(_) => self.lost.store(true, Ordering::Relaxed),
            }
        }
        rest.is_empty()
    }

    /// Answers everything that waits for a resident that is gone.
    fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
        let _ = self.line.shutdown(std::net::Shutdown::Both);
        let unanswered = std::mem::take(&mut *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner));
        for (held, verdict) in unanswered.into_values() {
            self.settle(&held, verdict);
        }
    }

    /// Takes one line from the resident. True once the first snapshot is whole.
    fn take(self: &Arc<Self>, line: &[u8], incoming: &mut Incoming) -> io::Result<bool> {
        let snapshot = &mut incoming.snapshot;
        let text = std::str::from_utf8(line).map_err(|_| invalid("found bytes that are no UTF-8 on the stream".into()))?;
        let now = self.now();
        match FromResident::parse(text).map_err(|error| invalid(error.to_string()))? {
            FromResident::Hello(follow::VERSION) => {}
            FromResident::Hello(version) => {
                return Err(invalid(format!(
                    "it speaks version {version} of the follow protocol, expected {}: helper and resident must be upgraded together",
                    follow::VERSION
                )));
            }
            FromResident::Error(text) => return Err(invalid(format!("it refuses: {text}"))),
            FromResident::BeginConfig { prefix, on_failure } => *snapshot = Snapshot { prefix, on_failure, ..Snapshot::default() },
            FromResident::Rule(rule) => snapshot.rules.push(rule.into_rule(&self.names)),
            FromResident::Listed(list, network) => snapshot.listed.push((list, network)),
            FromResident::EndConfig => incoming.build(self)?,
            FromResident::BeginBans => {}
            FromResident::EndBans => return incoming.finish().map(|()| true),
            FromResident::Ban { client, scope, rule, remaining } => {
                let until = remaining.map_or(Until::NEVER, |remaining| Until::at(now.after(remaining)));
                self.bans.ban(client, scope, Ban { until, rule: self.names.intern(&rule), saved: true }, now);
            }
            FromResident::Unban { client, scope } => {
                self.bans.unban(client, scope);
            }
            FromResident::BanNetwork { network, remaining } => {
                let until = remaining.map(|remaining| now.after(remaining));
                self.change_lists(|lists| {
                    lists.banned.insert(BannedNetwork { network, rule: "manual".into(), since: now, until });
                });
            }
            FromResident::UnbanNetwork(network) => self.change_lists(|lists| {
                lists.banned.remove(network);
            }),
            FromResident::Answer { number, refusal } => {
                let held = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
                if let Some((held, _)) = held {
                    held.settle(follow::verdict(refusal, &self.names, now));
                }
            }
        }
        Ok(false)
    }

    /// What is in force from now on; the banned networks, which come for themselves, stay.
    fn put_in_force(&self, mut in_force: InForce) {
        let mut current = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        in_force.lists.banned = current.lists.banned.clone();
        *current = Arc::new(in_force);
    }

    fn change_lists(&self, change: impl FnOnce(&mut Lists)) {
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        let mut lists = in_force.lists.clone();
        change(&mut lists);
        *in_force = Arc::new(InForce {
            rules: Arc::clone(&in_force.rules),
            lists,
            prefix: in_force.prefix,
            on_failure: in_force.on_failure,
            false_ban_share: in_force.false_ban_share,
        });
    }

    /// Sends the requests counted since the last time.
    fn send_requests(&self) {
        let counted = std::mem::take(&mut *self.requests.lock().unwrap_or_else(PoisonError::into_inner));
        if counted.is_empty() {
            return;
        }
        let lines: String =
            counted.into_values().map(|(address, count)| format!("{}\n", FromFollower::Requests { address, count })).collect();
        self.send(&lines);
    }

    /// Tells what was answered since the last time.
    fn send_answered(&self) {
        let answered = std::mem::take(&mut *self.answered.lock().unwrap_or_else(PoisonError::into_inner));
        if answered.is_empty() {
            return;
        }
        let Answered { served, failed_open, refused } = answered;
        let mut lines = format!("{}\n", FromFollower::Answered { served, failed_open });
        for (rule, count) in refused {
            lines.push_str(&format!("{}\n", FromFollower::Refused { rule: self.names.name(rule).to_string(), count }));
        }
        self.send(&lines);
    }

    /// Notes what an offence was answered here, because the resident did not.
    fn note(&self, verdict: &Verdict) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).note(verdict);
    }

    /// Answers for a resident that cannot.
    fn settle(&self, held: &Held, verdict: Verdict) {
        if held.settle(verdict.clone()) {
            self.note(&verdict);
        }
    }

    /// What an offence is answered when the resident does not: whatever it would have refused alone is refused all the same.
    fn without_answer(&self, now: Time, rules: &[Arc<Rule>]) -> Verdict {
        if let Some(rule) = rules.iter().find(|rule| rule.mode == Mode::Enforce && rule.refuses_offence) {
            return Refusal { rule: rule.id, until: Until::at(now), grounds: Grounds::Offence }.on_web();
        }
        match self.in_force().on_failure {
            OnFailure::Allow => Verdict::Allow(Innocence::Failure),
            OnFailure::Deny => Refusal { rule: RuleId::ON_FAILURE, until: Until::at(now), grounds: Grounds::Failure }.on_web(),
        }
    }
}

impl Backend for Attached {
    fn now(&self) -> Time {
        self.clock.now()
    }

    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn bans(&self) -> &Bans {
        &self.bans
    }

    fn names(&self) -> &Names {
        &self.names
    }

    fn offend(&self, now: Time, offence: Offence, reply: Reply) {
        let verdict = self.without_answer(now, &offence.rules);
        if self.lost.load(Ordering::Relaxed) {
            self.note(&verdict);
            return reply.send(verdict);
        }
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (late, answered) = (verdict.clone(), Arc::clone(&self.answered));
        let held = self.deadlines.hold(reply, move || {
            answered.lock().unwrap_or_else(PoisonError::into_inner).note(&late);
            late
        });
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).insert(number, (held.clone(), verdict.clone()));
        let rules = offence.rules.iter().map(|rule| rule.name.to_string()).collect();
        let line = FromFollower::Offence { number, address: offence.address, rules, evidence: offence.evidence };
        if !self.send(&format!("{line}\n")) {
            self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            self.settle(&held, verdict);
        }
    }

    fn when_kept(&self, verdict: Verdict, reply: Reply) {
        // The resident sends a ban only when it is saved.
        reply.send(verdict);
    }

    fn tally(&self, _: Time, tallied: &mut Vec<Tallied>) {
        // Nobody would ever send them, and they must not pile up.
        if self.lost.load(Ordering::Relaxed) {
            return;
        }
        let rules = Arc::clone(&self.in_force().rules);
        let Some(fewest) = rules.request_rates().iter().map(|rule| rule.maxretry).min() else { return };
        let mut urgent = String::new();
        let mut counted = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for Tallied { address, client, requests, .. } in tallied {
            let entry = counted.entry(*client).or_insert((*address, 0));
            entry.1 = entry.1.saturating_add(*requests);
            if entry.1 >= fewest {
                let line = FromFollower::Requests { address: *address, count: entry.1 };
                counted.remove(client);
                urgent += &format!("{line}\n");
            }
        }
        drop(counted);
        if !urgent.is_empty() {
            self.send(&urgent);
        }
    }

    fn answered(&self, answered: &mut Answered) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).take(answered);
    }

    fn close(&self) {
        self.send_requests();
        self.send_answered();
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The configuration that is coming in, and the one before, which may still be in the making.
#[derive(Default)]
struct Incoming {
    snapshot: Snapshot,
    /// A million networks take a while to be put in order: meanwhile answers and bans come in, so that is done on another thread.
    building: Option<JoinHandle<io::Result<()>>>,
}

impl Incoming {
    /// Puts the configuration, which is whole, into force as soon as it is made, and after the one before.
    fn build(&mut self, attached: &Arc<Attached>) -> io::Result<()> {
        let (snapshot, attached) = (std::mem::take(&mut self.snapshot), Arc::clone(attached));
        let mut before = Self { snapshot: Snapshot::default(), building: self.building.take() };
        let build = move || {
            let in_force = snapshot.finish().map_err(invalid)?;
            before.finish()?;
            attached.put_in_force(in_force);
            Ok(())
        };
        self.building = Some(std::thread::Builder::new().name("lists".into()).spawn(build)?);
        Ok(())
    }

    /// What went wrong with a configuration since the last look.
    fn look(&mut self) -> io::Result<()> {
        if self.building.as_ref().is_some_and(JoinHandle::is_finished) { self.finish() } else { Ok(()) }
    }

    /// Waits until the configuration is in force.
    fn finish(&mut self) -> io::Result<()> {
        let built = self.building.take().map(JoinHandle::join);
        built.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(io::Error::other("internal fault")))
    }
}

/// A configuration, line by line.
#[derive(Default)]
struct Snapshot {
    prefix: Ipv6Prefix,
    on_failure: OnFailure,
    rules: Vec<Rule>,
    listed: Vec<(List, ipnet::IpNet)>,
}

impl Snapshot {
    fn finish(self) -> Result<InForce, String> {
        let of = |wanted: List| self.listed.iter().filter(move |(list, _)| *list == wanted).map(|(_, network)| *network);
        let source = |list: List, name: &str| vec![Source::new(name, of(list))];
        let mut lists = Lists::default();
        lists.set_own(OwnAddresses::new(of(List::Own).map(|network| network.addr()), of(List::Gateway).map(|network| network.addr())));
        lists.set_ignoreip(source(List::IgnoreIp, "the resident's ignoreip"));
        lists.set_trusted_proxies(source(List::TrustedProxies, "the resident's trusted_proxies"));
        lists.set_deny(source(List::Deny, "the resident's deny lists"));
        Ok(InForce {
            rules: Arc::new(RuleSet::new(self.rules)?),
            lists,
            prefix: self.prefix,
            on_failure: self.on_failure,
            false_ban_share: FALSE_BAN_SHARE,
        })
    }
}

/// Lines out of a stream that is read in large pieces.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
}

impl Lines {
    /// Waits at most `limit` for more, and reads it. False if nothing came.
    fn wait(&mut self, stream: &UnixStream, limit: Duration) -> io::Result<bool> {
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
        match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.len() > LONGEST_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it sends a line that is too long"));
        }
        let filled = self.buffer.len();
        self.buffer.resize(filled + 64 * 1024, 0);
        let read = rustix::net::recv(stream, self.buffer.get_mut(filled..).unwrap_or_default(), RecvFlags::DONTWAIT);
        self.buffer.truncate(filled + read.as_ref().map_or(0, |(read, _)| *read));
        match read {
            Ok((0, _)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The next whole line, without its newline.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let Some(newline) = memchr::memchr(b'\n', rest) else { return Ok(None) };
        let line = rest.get(..newline).unwrap_or_default().to_vec();
        self.start += newline + 1;
        Ok(Some(line))
    }
}
