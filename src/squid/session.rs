//! The helper's loop: one read's worth of lines in, one write's worth of answers out, and every query answered exactly once.

use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::answered::Answered;
use super::output::Output;
use super::query::{self, Parser, split_id};
use super::{Backend, Place};
use crate::client::Client;
use crate::detector::{Detector, Judgement};
use crate::engine::InForce;
use crate::event::Event;
use crate::reply::Reply;
use crate::rule::set::Scratch;
use crate::table::Tallied;
use crate::time::Time;
use crate::verdict::{Innocence, Verdict};

/// How much is read at a time.
const READ: usize = 32 * 1024;
/// After so many lines of one read their answers are written: Squid can go on with these while the rest is judged.
const AT_ONCE: usize = 64;
/// The longest line that is kept: Squid's are 200 KB at most. What is longer is answered `ERR`, and the rest of it is passed over.
const LONGEST_LINE: usize = 1024 * 1024;
/// Squid reads channel IDs into an int: from here on the helper looks for a quiet moment to end, and Squid starts a new one.
const LAST_ID: u64 = (1 << 31) - (1 << 22);
/// How long nothing may come in for the moment to be quiet; from [`VERY_LAST_ID`] on any moment will do.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
const VERY_LAST_ID: u64 = (1 << 31) - (1 << 16);
/// How long the end waits for answers that other threads owe: longer than their own limit.
const LAST_ANSWERS: Duration = Duration::from_millis(1000);

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Squid closed the helper's input.
    Eof,
    /// Squid closed the helper's output, or it cannot be read.
    Broken,
    /// Channel IDs are running out.
    IdsRunOut,
}

/// One run of the helper, from the first query to the end of input.
pub struct Session {
    place: Place,
    output: Output,
    parser: Parser,
    scratch: Scratch,
    out: Vec<u8>,
    /// The ordinary requests of this read, for the rates of their clients.
    tally: Vec<Tallied>,
    /// What was answered and is not handed on yet.
    answered: Answered,
    /// The highest channel ID seen.
    last_id: u64,
    malformed: u64,
    /// Whether the query being judged has a reply that answers it whatever happens: a fault must not answer it once more.
    handed_over: bool,
}

/// What is the same for all lines of one read.
struct Read<'a> {
    backend: &'a Arc<dyn Backend>,
    in_force: &'a Arc<InForce>,
    detector: Detector<'a>,
    now: Time,
    counts_requests: bool,
}

impl Read<'_> {
    /// Looks among the bans at what judging `lines` will ask for, if there is more than one.
    fn look_ahead(&self, lines: &[u8]) {
        if memchr::memchr(b'\n', lines).is_none_or(|end| end + 1 == lines.len()) {
            return;
        }
        let mut start = 0;
        self.detector.bans.look_ahead(memchr::memchr_iter(b'\n', lines).filter_map(|end| {
            let line = lines.get(start..end).unwrap_or_default();
            start = end + 1;
            query::address(split_id(line).1).map(|address| Client::of(address, self.detector.prefix))
        }));
    }
}

impl Session {
    /// A session that answers on `output` with whatever backend is in `place`.
    #[must_use]
    pub fn new(place: Place, output: Output) -> Self {
        Self {
            place,
            output,
            parser: Parser::default(),
            scratch: Scratch::default(),
            out: Vec::with_capacity(READ),
            tally: Vec::new(),
            answered: Answered::default(),
            last_id: 0,
            malformed: 0,
            handed_over: false,
        }
    }

    /// Answers queries from `input` until it ends.
    pub fn run(&mut self, input: BorrowedFd<'_>) -> End {
        let mut buffer = vec![0; READ];
        let mut filled = 0;
        let mut skipping = false;
        let end = loop {
            if self.last_id >= LAST_ID && filled == 0 && !skipping && self.output.waiting() == 0 && self.is_quiet(input) {
                break End::IdsRunOut;
            }
            if buffer.len() < filled + READ {
                buffer.resize(filled + READ, 0);
            }
            let read = match rustix::io::read(input, buffer.get_mut(filled..).unwrap_or_default()) {
                Ok(0) => break End::Eof,
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&input, PollFlags::IN)], None);
                    continue;
                }
                Err(error) => {
                    log::error!("stdin cannot be read: {error}");
                    break End::Broken;
                }
            };
            let searched = filled;
            filled += read;
            let Some(newline) = memchr::memrchr(b'\n', buffer.get(searched..filled).unwrap_or_default()) else {
                if filled > LONGEST_LINE {
                    // Its head holds the ID; the answer goes out now, and the tail is dropped as it comes.
                    if !skipping {
                        self.too_long(buffer.get(..filled).unwrap_or_default());
                    }
                    skipping = true;
                    filled = 0;
                    buffer.truncate(2 * READ);
                }
                continue;
            };
            let complete = searched + newline + 1;
            let mut lines = buffer.get(..complete).unwrap_or_default();
            if skipping {
                let tail = memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1);
                lines = lines.get(tail..).unwrap_or_default();
                skipping = false;
            }
            self.answer_all(lines);
            buffer.copy_within(complete..filled, 0);
            filled -= complete;
            if buffer.len() > 4 * READ && filled < READ {
                buffer.truncate(2 * READ);
                buffer.shrink_to_fit();
            }
            if self.output.is_closed() {
                break End::Broken;
            }
        };
        if filled > 0 && !skipping {
            // A query that the end of input cut off is answered all the same.
            buffer.truncate(filled);
            buffer.push(b'\n');
            self.answer_all(&buffer);
        }
        self.output.wait_for_all(LAST_ANSWERS);
        if let Some(backend) = self.place.get() {
            backend.close();
        }
        end
    }

    /// Answers the complete lines of one read, whatever needs no waiting in a write for each [`AT_ONCE`] of them.
    fn answer_all(&mut self, lines: &[u8]) {
        let backend = self.place.get();
        let in_force = backend.as_ref().map(|backend| backend.in_force());
        let read = backend.as_ref().zip(in_force.as_ref()).map(|(backend, in_force)| Read {
            backend,
            in_force,
            detector: in_force.detector(backend.bans()),
            now: backend.now(),
            counts_requests: !in_force.rules.request_rates().is_empty(),
        });
        if let Some(read) = &read {
            read.look_ahead(lines);
        }
        let mut start = 0;
        for (number, end) in memchr::memchr_iter(b'\n', lines).enumerate() {
            if number > 0 && number.is_multiple_of(AT_ONCE) {
                self.flush();
            }
            let line = lines.get(start..end).unwrap_or_default();
            start = end + 1;
            let (id, query) = split_id(line.strip_suffix(b"\r").unwrap_or(line));
            self.note_id(id);
            let Some(read) = &read else {
                self.answered.failed_open += 1;
                super::answer::write_err(id, &mut self.out);
                continue;
            };
            let before = self.out.len();
            self.handed_over = false;
            if catch_unwind(AssertUnwindSafe(|| self.answer(read, id, query))).is_err() {
                log::error!("internal fault while a query was judged: it is answered ERR");
                self.parser = Parser::default();
                self.scratch = Scratch::default();
                if !self.handed_over {
                    self.answered.failed_open += 1;
                    self.out.truncate(before);
                    super::answer::write_err(id, &mut self.out);
                }
            }
        }
        self.flush();
        let Some(read) = read else { return };
        if !self.tally.is_empty() {
            read.backend.tally(read.now, &mut self.tally);
            self.tally.clear();
        }
        if !self.answered.is_empty() {
            read.backend.answered(&mut self.answered);
        }
    }

    fn answer(&mut self, read: &Read<'_>, id: Option<&[u8]>, line: &[u8]) {
        log::debug!("query {}", line.escape_ascii());
        let query = match self.parser.parse(line) {
            Ok(query) => query,
            Err(error) => {
                // A stranger may be able to provoke these: one line of log for each power of two of them.
                self.malformed += 1;
                self.answered.served += 1;
                if self.malformed.is_power_of_two() {
                    log::warn!("malformed query ({} so far): {error}", self.malformed);
                }
                return super::answer::write_err(id, &mut self.out);
            }
        };
        let is_response = matches!(query.event, Event::Response { .. });
        match read.detector.judge(read.now, query.address, &query.event, &mut self.scratch) {
            Judgement::Settled { verdict, counts } => {
                if counts && read.counts_requests && matches!(query.event, Event::Request(_)) {
                    let client = Client::of(query.address, read.in_force.prefix);
                    match self.tally.last_mut() {
                        Some(last) if last.client == client => last.requests += 1,
                        _ => self.tally.push(Tallied::new(query.address, client, 1)),
                    }
                }
                log::debug!("{} gets {verdict:?}", query.address);
                self.answered.note(&verdict);
                self.output.format(id, &verdict, read.backend.names(), read.now, &mut self.out);
            }
            Judgement::Unkept(verdict) => {
                let reply = self.later(read, id, false);
                read.backend.when_kept(verdict, reply.0);
                self.wait(reply.1);
            }
            Judgement::Offence(offence) => {
                // A response is on its way already: only what comes next is refused.
                let reply = self.later(read, id, is_response);
                read.backend.offend(read.now, offence, reply.0);
                self.wait(reply.1);
            }
        }
    }

    /// A reply that writes its answer by itself, on whichever thread it is given.
    ///
    /// With `only_counts` it serves the client whatever comes of it.
    /// Without a channel ID answers must come in the order of the queries: then the second value is what to wait for.
    fn later(&mut self, read: &Read<'_>, id: Option<&[u8]>, only_counts: bool) -> (Reply, Option<std::sync::mpsc::Receiver<()>>) {
        let (sender, receiver): (Option<Sender<()>>, _) = match id {
            Some(_) => (None, None),
            None => {
                self.flush();
                let (sender, receiver) = channel();
                (Some(sender), Some(receiver))
            }
        };
        self.output.expect();
        let output = self.output.clone();
        let backend = Arc::clone(read.backend);
        let id = id.map(<[u8]>::to_vec);
        let now = read.now;
        let reply = Reply::new(move |verdict: Verdict| {
            log::debug!("an offence or an unsaved ban gets {verdict:?}");
            let mut line = Vec::with_capacity(super::answer::LONGEST);
            let verdict = if only_counts { Verdict::Allow(Innocence::NothingFound) } else { verdict };
            output.format(id.as_deref(), &verdict, backend.names(), now, &mut line);
            output.write_expected(&line);
            drop(sender);
        });
        self.handed_over = true;
        (reply, receiver)
    }

    fn wait(&self, answered: Option<std::sync::mpsc::Receiver<()>>) {
        if let Some(answered) = answered {
            // The sender is dropped with the reply, whatever becomes of it.
            let _ = answered.recv();
        }
    }

    fn too_long(&mut self, head: &[u8]) {
        let (id, _) = split_id(head);
        self.note_id(id);
        log::warn!("a query of more than {LONGEST_LINE} bytes is answered ERR");
        super::answer::write_err(id, &mut self.out);
        self.flush();
    }

    fn note_id(&mut self, id: Option<&[u8]>) {
        let digits = id.unwrap_or_default().iter().map(|digit| u64::from(digit.wrapping_sub(b'0')));
        self.last_id = self.last_id.max(digits.fold(0, |id, digit| id.saturating_mul(10).saturating_add(digit)));
    }

    fn flush(&mut self) {
        if !self.out.is_empty() {
            self.output.write(&self.out);
            self.out.clear();
        }
    }

    /// Whether nothing comes in for [`QUIET`].
    fn is_quiet(&self, input: BorrowedFd<'_>) -> bool {
        let limit = if self.last_id < VERY_LAST_ID { QUIET } else { Timespec { tv_sec: 0, tv_nsec: 0 } };
        matches!(poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&limit)), Ok(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::engine::Engine;
    use crate::rule::{Names, Offence};
    use crate::table::Bans;
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::fd::AsFd;
    use std::path::Path;

    /// A backend whose offences never come to anything.
    struct Faulty(Arc<Engine>);

    impl Backend for Faulty {
        fn now(&self) -> Time {
            Time::from_secs(1_800_000_000)
        }

        fn in_force(&self) -> Arc<InForce> {
            self.0.in_force()
        }

        fn bans(&self) -> &Bans {
            self.0.bans()
        }

        fn names(&self) -> &Names {
            self.0.names()
        }

        fn offend(&self, _: Time, _: Offence, _reply: Reply) {
            panic!("a fault of ours");
        }

        fn when_kept(&self, _: Verdict, _: Reply) {}

        fn tally(&self, _: Time, _: &mut Vec<Tallied>) {}

        fn close(&self) {}
    }

    fn answers(queries: &str) -> String {
        let names = Arc::new(Names::default());
        let config = Config::parse(b"", Path::new("test.toml"), &names).unwrap();
        let place = Place::default();
        place.put(Arc::new(Faulty(Arc::new(Engine::new(names, config.into(), 100, 100).unwrap()))));
        let (mut input, mut output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        input.write_all(queries.as_bytes()).unwrap();
        input.rewind().unwrap();
        let mut session = Session::new(place, Output::new(output.try_clone().unwrap().into()));
        assert_eq!(session.run(input.as_fd()), End::Eof);
        let mut text = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_fault_while_an_offence_is_counted_answers_its_query_once() {
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let text = answers("1 192.0.2.1 GET / -\n2 192.0.2.1 GET /w00tw00t -\n3 192.0.2.1 GET / -\n");
        assert_eq!(sorted(text), ["1 ERR", "2 ERR", "3 ERR"]);
        assert_eq!(answers("192.0.2.1 GET / -\n192.0.2.1 GET /w00tw00t -\n192.0.2.1 GET / -\n"), "ERR\nERR\nERR\n");
    }
}
