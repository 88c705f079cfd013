//! Tests of [`PeerConnection`] over a socket pair, with time as an argument.

use super::*;
use std::io::Read;

struct Fixture {
    connection: PeerConnection,
    client: UnixStream,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        let (server, client) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        client.set_nonblocking(true).unwrap();
        let now = Instant::now();
        Self { connection: PeerConnection::new(server, Peer { pid: None, user: 0 }, now), client, now }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).unwrap();
    }

    /// Reads what has arrived, and returns its lines as text.
    fn lines(&mut self) -> Vec<(u64, String)> {
        while self.connection.read(self.now) {
            if self.connection.read_closed {
                break;
            }
        }
        std::iter::from_fn(|| self.connection.next_line(self.now))
            .map(|(number, line)| match line {
                Line::Whole(line) => (number, String::from_utf8(line).unwrap()),
                Line::TooLong => (number, "too long".into()),
            })
            .collect()
    }

    fn answer(&mut self, number: u64, text: &str) {
        self.connection.answer(number, ReplyText::Whole(text.into()));
        self.connection.write(self.now);
    }

    fn received(&mut self) -> String {
        let mut text = String::new();
        let _ = self.client.read_to_string(&mut text);
        text
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn answers_leave_in_the_order_of_their_requests() {
    let mut fixture = Fixture::new();
    fixture.send(b"one\ntwo\nthr");
    assert_eq!(fixture.lines(), [(0, "one".into()), (1, "two".into())]);
    fixture.answer(1, "second\n");
    assert_eq!(fixture.received(), "");
    fixture.answer(0, "first\n");
    fixture.answer(0, "never\n");
    assert_eq!(fixture.received(), "first\nsecond\n");
    fixture.send(b"ee\n");
    assert_eq!(fixture.lines(), [(2, "three".into())]);
}

#[test]
fn a_peer_that_shuts_down_its_side_gets_the_answer_and_the_close_even_without_a_newline() {
    let mut fixture = Fixture::new();
    fixture.send(b"check 192.0.2.1");
    fixture.client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(fixture.lines(), [(0, "check 192.0.2.1".into())]);
    assert!(!fixture.connection.is_done());
    fixture.answer(0, "accept\n");
    assert!(fixture.connection.is_done());
    assert_eq!(fixture.received(), "accept\n");
}

#[test]
fn a_snapshot_whose_next_piece_is_not_made_yet_waits_until_it_is_resumed_and_changes_stay_behind_it() {
    let mut fixture = Fixture::new();
    let pieces = ["first\n", "", "second\n"].into_iter().map(str::to_owned);
    fixture.connection.subscribe(Box::new(pieces));
    fixture.connection.push(b"change\n");
    fixture.connection.queue_config(Box::new(["config\n".to_owned()].into_iter()));
    assert!(fixture.connection.wants_write());
    fixture.connection.write(fixture.now);
    assert_eq!((fixture.received().as_str(), fixture.connection.wants_write()), ("first\n", false));
    fixture.connection.resume();
    assert!(fixture.connection.wants_write());
    fixture.connection.write(fixture.now);
    assert_eq!((fixture.received().as_str(), fixture.connection.wants_write()), ("second\nchange\nconfig\n", false));
}

#[test]
fn memory_of_what_a_subscriber_had_not_read_is_given_back() {
    let mut fixture = Fixture::new();
    fixture.connection.subscribe(Box::new(std::iter::empty()));
    fixture.connection.write(fixture.now);
    let line = vec![b'x'; 1 << 20];
    (0..8).for_each(|_| fixture.connection.push(&line));
    assert_eq!((fixture.connection.unread(), fixture.connection.is_done()), (8 << 20, false));
    while fixture.connection.unread() > 0 {
        fixture.connection.write(fixture.now);
        fixture.received();
    }
    assert!(fixture.connection.output.capacity() <= 2 * OUTPUT_HIGH_WATER);
    (0..9).for_each(|_| fixture.connection.push(&line));
    assert!(fixture.connection.is_done(), "it is cut off");
}

#[test]
fn half_a_line_times_out_a_second_after_its_first_byte() {
    let mut fixture = Fixture::new();
    fixture.send(b"che");
    assert!(fixture.lines().is_empty());
    for _ in 0..3 {
        fixture.advance(Duration::from_millis(300));
        assert!(!fixture.connection.is_overdue(fixture.now));
        fixture.send(b"c");
        assert!(fixture.lines().is_empty());
    }
    fixture.advance(Duration::from_millis(100));
    assert!(fixture.connection.is_overdue(fixture.now));
}

#[test]
fn an_idle_connection_times_out_but_not_while_an_answer_is_due() {
    let mut fixture = Fixture::new();
    fixture.advance(IDLE_TIMEOUT);
    assert!(fixture.connection.is_overdue(fixture.now));
    fixture.send(b"check 192.0.2.1\n");
    fixture.lines();
    fixture.advance(IDLE_TIMEOUT * 2);
    assert!(!fixture.connection.is_overdue(fixture.now));
}

#[test]
fn a_line_has_at_most_8_kib() {
    let mut fixture = Fixture::new();
    let longest = "a".repeat(MAX_LINE);
    fixture.send(format!("{longest}\n").as_bytes());
    assert_eq!(fixture.lines(), [(0, longest.clone())]);
    fixture.send(format!("{longest}a").as_bytes());
    assert_eq!(fixture.lines().first(), Some(&(1, "too long".into())));
}

#[test]
fn a_peer_that_does_not_read_is_not_read_from_and_times_out() {
    let mut fixture = Fixture::new();
    for _ in 0..200 {
        fixture.send(b"list\n");
    }
    let mut answered = 0;
    loop {
        let lines = fixture.lines();
        if lines.is_empty() {
            break;
        }
        for (number, _) in lines {
            fixture.answer(number, &"x".repeat(16 * 1024));
            answered += 1;
        }
    }
    assert!(answered < 100, "{answered}");
    assert!(!fixture.connection.wants_read() && fixture.connection.wants_write());
    assert!(fixture.connection.output.len() < 2 * OUTPUT_HIGH_WATER, "{}", fixture.connection.output.len());
    fixture.advance(UNREAD_TIMEOUT);
    assert!(fixture.connection.is_overdue(fixture.now));
}

#[test]
fn many_requests_in_one_write_are_handled_64_at_a_time() {
    let mut fixture = Fixture::new();
    fixture.send("list\n".repeat(100).as_bytes());
    assert_eq!(fixture.lines().len(), MAX_PENDING);
    for number in 0..64 {
        fixture.answer(number, "x\n");
    }
    assert_eq!(fixture.lines().len(), 36);
}

#[test]
fn a_full_input_buffer_drains_as_its_lines_are_answered() {
    let mut fixture = Fixture::new();
    let sent = 4 * (MAX_LINE + READ_CHUNK) / "line\n".len();
    fixture.send("line\n".repeat(sent).as_bytes());
    let mut answered = 0;
    while answered < sent {
        let lines = fixture.lines();
        assert!(!lines.is_empty(), "stuck after {answered} of {sent}");
        assert!(fixture.connection.input.len() <= MAX_LINE + 2 * READ_CHUNK);
        lines.iter().for_each(|(number, _)| fixture.answer(*number, "."));
        assert_eq!(fixture.received(), ".".repeat(lines.len()));
        answered += lines.len();
    }
}

#[test]
fn output_beyond_one_write_is_sent_as_the_peer_reads() {
    let mut fixture = Fixture::new();
    fixture.send("status\n".repeat(40).as_bytes());
    let answer = "x".repeat(16 * 1024 - 1) + "\n";
    for (number, _) in fixture.lines() {
        fixture.connection.answer(number, ReplyText::Whole(answer.clone()));
    }
    let mut received = 0;
    fixture.connection.write(fixture.now);
    while fixture.connection.wants_write() {
        received += fixture.received().len();
        fixture.connection.write(fixture.now);
    }
    assert_eq!(received + fixture.received().len(), 40 * answer.len());
}

#[test]
fn half_a_line_does_not_time_out_while_nothing_is_read() {
    let mut fixture = Fixture::new();
    fixture.send(b"list\nsta");
    assert_eq!(fixture.lines(), [(0, "list".into())]);
    fixture.answer(0, &"x".repeat(1024 * 1024));
    fixture.advance(HALF_LINE_TIMEOUT * 2);
    assert!(!fixture.connection.is_overdue(fixture.now), "nothing is read now");
    while fixture.connection.wants_write() {
        fixture.received();
        fixture.connection.write(fixture.now);
    }
    fixture.advance(HALF_LINE_TIMEOUT / 2);
    assert!(!fixture.connection.is_overdue(fixture.now), "from now on it does");
    fixture.advance(HALF_LINE_TIMEOUT);
    assert!(fixture.connection.is_overdue(fixture.now));
    fixture.send(b"tus\n");
    assert_eq!(fixture.lines(), [(1, "status".into())]);
}

#[test]
fn a_long_answer_is_made_as_fast_as_it_is_read() {
    let mut fixture = Fixture::new();
    fixture.send(b"list\nstatus\n");
    fixture.lines();
    let made = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&made);
    let pieces = (0..10_000).map(move |_| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        "x".repeat(999) + "\n"
    });
    fixture.connection.answer(0, ReplyText::Pieces(Box::new(pieces)));
    fixture.answer(1, "last\n");
    assert!(made.load(std::sync::atomic::Ordering::Relaxed) < 2000);
    let mut received = String::new();
    while fixture.connection.wants_write() {
        received += &fixture.received();
        fixture.connection.write(fixture.now);
    }
    received += &fixture.received();
    assert_eq!(received.len(), 10_000_000 + 5);
    assert!(received.ends_with("x\nlast\n"));
}

#[test]
fn after_a_fault_reading_stops_and_earlier_requests_are_answered() {
    let mut fixture = Fixture::new();
    fixture.send(b"check 192.0.2.1\nnonsense\nstatus\n");
    fixture.connection.read(fixture.now);
    let (first, _) = fixture.connection.next_line(fixture.now).unwrap();
    let (second, _) = fixture.connection.next_line(fixture.now).unwrap();
    fixture.answer(second, "error\n");
    fixture.connection.close_after_answers();
    assert_eq!(fixture.connection.next_line(fixture.now), None);
    assert!(!fixture.connection.is_done());
    fixture.answer(first, "accept\n");
    assert!(fixture.connection.is_done());
    assert_eq!(fixture.received(), "accept\nerror\n");
}

#[test]
fn a_subscriber_gets_its_snapshot_then_pushes_may_idle_and_is_cut_off_when_it_lags() {
    let mut fixture = Fixture::new();
    fixture.send(b"subscribe 1\n");
    assert_eq!(fixture.lines().len(), 1);
    fixture.connection.subscribe(Box::new(["snapshot\n", "end\n"].map(str::to_owned).into_iter()));
    fixture.connection.push(b"change\n");
    fixture.send(b"one\ntwo\n");
    assert_eq!(fixture.lines().len(), 2);
    fixture.connection.write(fixture.now);
    assert_eq!(fixture.received(), "snapshot\nend\nchange\n");
    fixture.connection.push(b"later\n");
    fixture.connection.write(fixture.now);
    assert_eq!(fixture.received(), "later\n");
    fixture.advance(IDLE_TIMEOUT * 2);
    assert!(!fixture.connection.is_overdue(fixture.now) && !fixture.connection.is_done());
    for _ in 0..20 {
        fixture.connection.push(&vec![b'x'; 1024 * 1024]);
    }
    assert!(fixture.connection.is_done() && fixture.connection.output.len() <= MAX_SUBSCRIBER_OUTPUT);
}

#[test]
fn half_a_line_of_a_subscriber_has_time_and_is_ignored_at_the_end() {
    let mut fixture = Fixture::new();
    fixture.connection.subscribe(Box::new(std::iter::empty()));
    fixture.connection.write(fixture.now);
    fixture.send(b"requests 192.0.2.1 5\nrequests 192.0.2.1");
    assert_eq!(fixture.lines().len(), 1);
    fixture.advance(HALF_LINE_TIMEOUT * 2);
    assert!(!fixture.connection.is_overdue(fixture.now));
    fixture.client.shutdown(std::net::Shutdown::Write).unwrap();
    fixture.connection.read(fixture.now);
    assert!(fixture.lines().is_empty() && !fixture.connection.has_line());
    assert!(fixture.connection.is_done());
}

#[test]
fn what_a_subscriber_has_sent_can_be_read_after_it_can_send_no_more() {
    let mut fixture = Fixture::new();
    fixture.connection.subscribe(Box::new(std::iter::empty()));
    fixture.send(b"stats 1 0\nstats 2 0\n");
    fixture.connection.receive_no_more();
    assert_eq!(fixture.client.write(b"stats 3 0\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert!(fixture.connection.read_rest(fixture.now));
    assert_eq!(fixture.lines().len(), 2);
    assert!(!fixture.connection.read_rest(fixture.now));
}

#[test]
fn a_subscriber_that_does_not_read_times_out_and_one_that_reads_slowly_has_a_minute() {
    let endless = || Box::new(std::iter::repeat_with(|| "ban 192.0.2.1 all x 60\n".repeat(100)));
    let mut silent = Fixture::new();
    silent.connection.subscribe(endless());
    while silent.connection.write(silent.now) {}
    silent.advance(UNREAD_TIMEOUT / 2);
    silent.send(b"stats 0 0\n");
    assert_eq!(silent.lines().len(), 1);
    silent.connection.write(silent.now);
    assert!(!silent.connection.is_overdue(silent.now));
    silent.advance(UNREAD_TIMEOUT / 2);
    assert!(silent.connection.is_overdue(silent.now));
    let mut slow = Fixture::new();
    slow.connection.subscribe(endless());
    let (mut seconds, mut taken) = (0, [0; 200_000]);
    while !slow.connection.is_overdue(slow.now) {
        slow.connection.write(slow.now);
        slow.advance(Duration::from_secs(1));
        seconds += 1;
        assert!(slow.client.read(&mut taken).unwrap() > 0);
    }
    assert_eq!(seconds, SNAPSHOT_TIMEOUT.as_secs());
}

#[test]
fn a_subscriber_gets_changes_between_pieces_of_a_configuration_and_then_only_the_newest_one() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let mut fixture = Fixture::new();
    fixture.connection.subscribe(Box::new(std::iter::once("snapshot\n".to_owned())));
    let made = std::sync::Arc::new(AtomicUsize::new(0));
    let mut config = |name: &'static str, pieces: usize| {
        let made = std::sync::Arc::clone(&made);
        let pieces = (0..pieces).map(move |_| {
            made.fetch_add(1, Ordering::Relaxed);
            format!("{name}{}\n", "x".repeat(1022))
        });
        fixture.connection.queue_config(Box::new(pieces));
    };
    config("a", 30_000);
    config("b", 10);
    config("c", 10);
    fixture.connection.write(fixture.now);
    assert!(fixture.connection.wants_write());
    assert!(made.load(Ordering::Relaxed) < 1000, "{made:?}");
    fixture.connection.push(b"change\n");
    let mut received = String::new();
    while fixture.connection.wants_write() {
        received += &fixture.received();
        fixture.connection.write(fixture.now);
        assert!(fixture.connection.output.len() < 2 * OUTPUT_HIGH_WATER);
    }
    received += &fixture.received();
    let letters = |wanted| received.lines().filter(|line| line.starts_with(wanted)).count();
    assert_eq!((letters('s'), letters('a'), letters('b')), (1, 30_000, 0));
    assert_eq!(received.lines().filter(|line| line.starts_with("cx")).count(), 10);
    let before = received.lines().position(|line| line == "change").unwrap();
    assert!(before < 1000, "the change waited for {before} lines");
}
