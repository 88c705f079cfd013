//! The helper's loop: reads a batch of queries, judges them and writes their answers together. Every query is answered exactly once.

use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::answer;
use super::batch::Batch;
use super::helper_stats::HelperStats;
use super::output::Output;
use super::query::{Parser, split_id};
use super::{BackendSlot, OriginQuestion};
use crate::detector::Judgement;
use crate::engine::reply::Reply;
use crate::event::Event;
use crate::event::headers::HeaderNames;
use crate::rule::set::Scratch;
use crate::table::RequestTally;
use crate::verdict::{AllowReason, Verdict};

/// Bytes read at a time.
const READ_SIZE: usize = 32 * 1024;
/// Answers are written after this many lines of a batch, so that Squid goes on with them while the rest is judged.
const FLUSH_LINES: usize = 64;
/// Maximum length of a line; Squid's have at most 200 KB. A longer one is answered `ERR` and skipped.
const MAX_LINE: usize = 1024 * 1024;
/// From this channel ID on, the helper ends at the next quiet moment, and Squid starts a new one: Squid reads channel IDs into an int.
const RESTART_ID: u64 = (1 << 31) - (1 << 22);
/// How long input must pause for a moment to be quiet.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// From this channel ID on, any moment without input is quiet enough.
const URGENT_RESTART_ID: u64 = (1 << 31) - (1 << 16);
/// How long the helper waits at its end for answers from other threads; longer than their own time limit.
const LAST_ANSWERS: Duration = Duration::from_millis(1000);

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Squid closed the helper's input.
    Eof,
    /// Squid closed the helper's output, or reading failed.
    Broken,
    /// Channel IDs are about to overflow.
    IdsRunOut,
}

/// A run of the helper, from the first query to the end of input.
pub struct Session {
    slot: BackendSlot,
    output: Output,
    parser: Parser,
    scratch: Scratch,
    out: Vec<u8>,
    /// Ordinary requests of the current batch, to be added to the rates of their clients.
    tallies: Vec<RequestTally>,
    /// Counts of answers that the backend has not been given yet.
    stats: HelperStats,
    /// The highest channel ID seen.
    highest_id: u64,
    malformed: u64,
    /// Whether the query being judged has a [`Reply`], which answers in any case: then a panic must not be answered as well.
    has_reply: bool,
}

impl Session {
    /// A session that answers on `output` with the backend in `slot`. Its queries have these headers behind the other fields.
    #[must_use]
    pub fn new(slot: BackendSlot, output: Output, headers: HeaderNames) -> Self {
        Self {
            slot,
            output,
            parser: Parser::new(headers),
            scratch: Scratch::default(),
            out: Vec::with_capacity(READ_SIZE),
            tallies: Vec::new(),
            stats: HelperStats::default(),
            highest_id: 0,
            malformed: 0,
            has_reply: false,
        }
    }

    /// Answers queries from `input` until it ends.
    pub fn run(&mut self, input: BorrowedFd<'_>) -> End {
        let mut buffer = vec![0; READ_SIZE];
        let mut filled = 0;
        let mut skipping = false;
        let end = loop {
            if self.highest_id >= RESTART_ID && filled == 0 && !skipping && self.output.waiting() == 0 && self.is_quiet(input) {
                break End::IdsRunOut;
            }
            if buffer.len() < filled + READ_SIZE {
                buffer.resize(filled + READ_SIZE, 0);
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
                if filled > MAX_LINE {
                    // Its head holds the channel ID: it is answered now, and the rest is skipped as it arrives.
                    if !skipping {
                        self.too_long(buffer.get(..filled).unwrap_or_default());
                    }
                    skipping = true;
                    filled = 0;
                    buffer.truncate(2 * READ_SIZE);
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
            if buffer.len() > 4 * READ_SIZE && filled < READ_SIZE {
                buffer.truncate(2 * READ_SIZE);
                buffer.shrink_to_fit();
            }
            if self.output.is_closed() {
                break End::Broken;
            }
        };
        if filled > 0 && !skipping {
            // A last query without its newline is answered, too.
            buffer.truncate(filled);
            buffer.push(b'\n');
            self.answer_all(&buffer);
        }
        self.output.wait_for_all(LAST_ANSWERS);
        if let Some(backend) = self.slot.get() {
            backend.close();
        }
        end
    }

    /// Answers the lines of a batch, with one write per [`FLUSH_LINES`] except for answers that must wait.
    fn answer_all(&mut self, lines: &[u8]) {
        let backend = self.slot.get();
        let policy = backend.as_ref().map(|backend| backend.policy());
        let batch = backend.as_ref().zip(policy.as_ref()).map(|(backend, policy)| Batch::new(backend, policy));
        if let Some(batch) = &batch {
            batch.prefetch(lines);
        }
        let mut start = 0;
        for (number, end) in memchr::memchr_iter(b'\n', lines).enumerate() {
            if number > 0 && number.is_multiple_of(FLUSH_LINES) {
                self.flush();
                // The daemon counts the offences of these lines meanwhile.
                backend.iter().for_each(|backend| backend.flush());
            }
            let line = lines.get(start..end).unwrap_or_default();
            start = end + 1;
            let (id, query) = split_id(line.strip_suffix(b"\r").unwrap_or(line));
            self.note_id(id);
            let Some(batch) = &batch else {
                self.stats.failed_open += 1;
                answer::write_err(id, &mut self.out);
                continue;
            };
            let before = self.out.len();
            self.has_reply = false;
            if catch_unwind(AssertUnwindSafe(|| self.answer(batch, id, query))).is_err() {
                log::error!("internal fault while a query was judged: it is answered ERR");
                self.parser.reset();
                self.scratch = Scratch::default();
                if !self.has_reply {
                    self.stats.failed_open += 1;
                    self.out.truncate(before);
                    answer::write_err(id, &mut self.out);
                }
            }
        }
        self.flush();
        let Some(batch) = batch else { return };
        if !self.tallies.is_empty() {
            batch.backend.count_requests(batch.now, &mut self.tallies);
            self.tallies.clear();
        }
        if !self.stats.is_empty() {
            batch.backend.report_stats(&mut self.stats);
        }
        batch.backend.flush();
    }

    fn answer(&mut self, batch: &Batch<'_>, id: Option<&[u8]>, line: &[u8]) {
        log::debug!("query {}", self.parser.shown(line).escape_ascii());
        let query = match self.parser.parse(line) {
            Ok(query) => query,
            Err(error) => {
                // Only powers of two are logged: clients might be able to provoke malformed queries.
                self.malformed += 1;
                self.stats.served += 1;
                if self.malformed.is_power_of_two() {
                    log::warn!("malformed query ({} so far): {error}", self.malformed);
                }
                return answer::write_err(id, &mut self.out);
            }
        };
        let address = query.address;
        let claimed = match &query.event {
            Event::Request(request) | Event::Response { request, .. } => batch.policy.crawlers.claimed_by(request.user_agent.as_written()),
            _ => None,
        };
        let is_too_late = matches!(query.event, Event::Response { .. }) && !query.refuses_response;
        match batch.detector.judge(batch.now, address, &query.event, &mut self.scratch) {
            Judgement::Settled { verdict, counts } => {
                if counts {
                    batch.tally(&mut self.tallies, address, &query.event);
                }
                if let Event::Response { request, status } = &query.event
                    && verdict.refusal().is_none()
                    && let Some(cleared) = batch.detector.cleared(*status, request, &mut self.scratch)
                {
                    batch.backend.clear(address, cleared);
                }
                if let Event::Request(request) = &query.event
                    && let Some(offence) = batch.detector.page_probe(address, request, &verdict)
                {
                    batch.backend.count_offence(batch.now, offence);
                }
                let answer = batch.policy.answer(batch.now, verdict);
                log::debug!("{address} gets {answer:?}");
                self.stats.record(&answer);
                self.output.format(id, &answer, batch.backend.names(), batch.now, &mut self.out);
            }
            Judgement::Ask { counts, rules } => {
                if counts {
                    batch.tally(&mut self.tallies, address, &query.event);
                }
                let probe = match &query.event {
                    Event::Request(request) if !rules.is_empty() => batch.detector.probe(address, request),
                    _ => None,
                };
                let (reply, answered) = self.deferred(batch, id, false);
                batch.backend.ask_origin(batch.now, OriginQuestion { address, rules, probe }, reply);
                Self::wait(batch, answered);
            }
            Judgement::Unsaved(verdict) => {
                let (reply, answered) = self.deferred(batch, id, false);
                batch.backend.when_persisted(verdict, reply);
                Self::wait(batch, answered);
            }
            Judgement::Offence(offence) => {
                // It is too late to refuse a response, unless Squid does so by the answer; the next request can be refused.
                let (reply, answered) = self.deferred(batch, id, is_too_late);
                batch.backend.record_offence(batch.now, offence, reply);
                Self::wait(batch, answered);
            }
        }
        // Only now, so that whoever comes with another address each time is not spared each time.
        if let Some(crawler) = claimed {
            batch.backend.note_claim(batch.now, address, crawler);
        }
    }

    /// A reply that writes its answer from any thread. With `only_counts` the answer is `ERR` whatever the verdict.
    ///
    /// Without a channel ID, answers must come in the order of the queries. Then there is also a receiver, which disconnects after the answer.
    fn deferred(&mut self, batch: &Batch<'_>, id: Option<&[u8]>, only_counts: bool) -> (Reply, Option<Receiver<()>>) {
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
        let backend = Arc::clone(batch.backend);
        let id = id.map(<[u8]>::to_vec);
        let now = batch.now;
        let reply = Reply::new(move |verdict: Verdict| {
            log::debug!("an offence or unsaved ban gets {verdict:?}");
            let mut line = Vec::with_capacity(answer::MAX_LEN);
            let verdict = if only_counts { Verdict::Allow(AllowReason::NothingFound) } else { backend.policy().answer(now, verdict) };
            output.format(id.as_deref(), &verdict, backend.names(), now, &mut line);
            output.write_expected(&line);
            drop(sender);
        });
        self.has_reply = true;
        (reply, receiver)
    }

    fn wait(batch: &Batch<'_>, answered: Option<Receiver<()>>) {
        if let Some(answered) = answered {
            batch.backend.flush();
            // Nothing is sent: it fails once the reply has dropped the sender, which it does in any case.
            let _ = answered.recv();
        }
    }

    fn too_long(&mut self, head: &[u8]) {
        let (id, _) = split_id(head);
        self.note_id(id);
        log::warn!("a query of more than {MAX_LINE} bytes is answered ERR");
        answer::write_err(id, &mut self.out);
        self.flush();
    }

    fn note_id(&mut self, id: Option<&[u8]>) {
        let digits = id.unwrap_or_default().iter().map(|digit| u64::from(digit.wrapping_sub(b'0')));
        self.highest_id = self.highest_id.max(digits.fold(0, |id, digit| id.saturating_mul(10).saturating_add(digit)));
    }

    fn flush(&mut self) {
        if !self.out.is_empty() {
            self.output.write(&self.out);
            self.out.clear();
        }
    }

    /// Whether no input arrives for [`QUIET`].
    fn is_quiet(&self, input: BorrowedFd<'_>) -> bool {
        let limit = if self.highest_id < URGENT_RESTART_ID { QUIET } else { Timespec { tv_sec: 0, tv_nsec: 0 } };
        matches!(poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&limit)), Ok(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::config::Config;
    use crate::engine::Engine;
    use crate::event::Service;
    use crate::policy::Policy;
    use crate::rule::Offence;
    use crate::rule_id::RuleNames;
    use crate::squid::Backend;
    use crate::table::Bans;
    use crate::time::Time;
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::fd::AsFd;
    use std::path::Path;

    /// An engine as a backend. It may panic at each offence.
    struct TestBackend {
        engine: Arc<Engine>,
        panics: bool,
    }

    impl Backend for TestBackend {
        fn now(&self) -> Time {
            Time::from_secs(1_800_000_000)
        }

        fn policy(&self) -> Arc<Policy> {
            self.engine.policy()
        }

        fn bans(&self) -> &Bans {
            self.engine.bans()
        }

        fn names(&self) -> &RuleNames {
            self.engine.names()
        }

        fn record_offence(&self, now: Time, offence: Offence, reply: Reply) {
            assert!(!self.panics, "an internal fault");
            self.engine.record_offence(now, &offence, Service::Web, reply);
        }

        fn clear(&self, address: std::net::IpAddr, cleared: crate::rule::Cleared) {
            self.engine.clear(Client::of(address, self.engine.policy().prefix), &cleared);
        }

        fn when_persisted(&self, _: Verdict, _: Reply) {}

        fn note_claim(&self, now: Time, address: std::net::IpAddr, crawler: &Arc<crate::crawler::Crawler>) {
            self.engine.claims().note(now, address, crawler);
        }

        fn count_requests(&self, now: Time, tallies: &mut Vec<RequestTally>) {
            self.engine.count_requests(now, tallies);
        }

        fn close(&self) {}
    }

    fn engine(rules: &str) -> Arc<Engine> {
        let names = Arc::new(RuleNames::default());
        let config = Config::parse(rules.as_bytes(), Path::new("test.toml"), &names).unwrap();
        Arc::new(Engine::new(names, config.into(), 100, 100).unwrap())
    }

    /// The answers to queries that arrive in one read.
    fn answers(engine: Arc<Engine>, panics: bool, queries: &str) -> String {
        let slot = BackendSlot::default();
        slot.put(Arc::new(TestBackend { engine, panics }));
        let (mut input, mut output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        input.write_all(queries.as_bytes()).unwrap();
        input.rewind().unwrap();
        let mut session = Session::new(slot, Output::new(output.try_clone().unwrap().into()), HeaderNames::default());
        assert_eq!(session.run(input.as_fd()), End::Eof);
        let mut text = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut text).unwrap();
        text
    }

    /// The answers in the order of their channel IDs.
    fn sorted(text: &str) -> Vec<&str> {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn a_panic_while_counting_an_offence_answers_its_query_once() {
        let answers = |queries| answers(engine(""), true, queries);
        let text = answers("1 192.0.2.1 GET / -\n2 192.0.2.1 GET /w00tw00t -\n3 192.0.2.1 GET / -\n");
        assert_eq!(sorted(&text), ["1 ERR", "2 ERR", "3 ERR"]);
        assert_eq!(answers("192.0.2.1 GET / -\n192.0.2.1 GET /w00tw00t -\n192.0.2.1 GET / -\n"), "ERR\nERR\nERR\n");
    }

    #[test]
    fn a_status_that_offends_is_answered_err_and_only_counts() {
        let refused = |answer: &&str| answer.contains("OK ban_=yes rule_=gone");
        for (keys, is_banned) in [("maxretry = 1", [false, true]), ("maxretry = 2\nrefuse = 'offence'", [false, false])] {
            let rules = format!("[[rule]]\nname = 'gone'\nstatus = 410\n{keys}");
            let text = answers(engine(&rules), false, "1 192.0.2.1 GET / status=410\n2 192.0.2.1 -\n");
            assert_eq!(sorted(&text).iter().map(refused).collect::<Vec<_>>(), is_banned, "{text}");
            let text = answers(engine(&rules), false, "192.0.2.1 GET / status=410\n192.0.2.1 -\n");
            assert_eq!(text.lines().collect::<Vec<_>>().iter().map(refused).collect::<Vec<_>>(), is_banned, "{text}");
        }
    }

    #[test]
    fn a_request_that_offends_is_refused_by_its_own_answer() {
        let text = answers(engine(""), false, "1 192.0.2.1 GET /w00tw00t -\n2 192.0.2.1 GET / -\n3 192.0.2.2 GET / -\n");
        assert_eq!(
            sorted(&text).iter().map(|answer| answer.contains("OK ban_=yes rule_=w00tw00t")).collect::<Vec<_>>(),
            [true, true, false]
        );
    }

    #[test]
    fn only_requests_add_to_the_rate_of_their_client() {
        let rules = "[[rule]]\nname = 'flood'\nevent = 'request'\nmaxretry = 2\nfindtime = '1m'";
        let banned = |query: &str| {
            let engine = engine(rules);
            answers(Arc::clone(&engine), false, &format!("{query}\n{query}\n"));
            engine.bans().len()
        };
        assert_eq!(["192.0.2.1 GET / -", "192.0.2.1 GET / status=200", "192.0.2.1 -"].map(banned), [1, 0, 0]);
    }
}
