//! Tests of [`Connection`] over a pair of sockets, with the time handed in.

use super::*;
use std::io::Read;

struct World {
    connection: Connection,
    client: UnixStream,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (server, client) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        client.set_nonblocking(true).unwrap();
        let now = Instant::now();
        Self { connection: Connection::new(server, Peer { pid: None, user: 0 }, now), client, now }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).unwrap();
    }

    /// The lines that are there, as text.
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
        self.connection.answer(number, Answer::Text(text.into()));
        self.connection.write(self.now);
    }

    fn received(&mut self) -> String {
        let mut text = String::new();
        let _ = self.client.read_to_string(&mut text);
        text
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn answers_leave_in_the_order_of_their_requests() {
    let mut world = World::new();
    world.send(b"one\ntwo\nthr");
    assert_eq!(world.lines(), [(0, "one".into()), (1, "two".into())]);
    world.answer(1, "second\n");
    assert_eq!(world.received(), "");
    world.answer(0, "first\n");
    world.answer(0, "never\n");
    assert_eq!(world.received(), "first\nsecond\n");
    world.send(b"ee\n");
    assert_eq!(world.lines(), [(2, "three".into())]);
}

#[test]
fn who_sends_nothing_more_gets_the_answer_and_the_close_also_without_a_newline() {
    let mut world = World::new();
    world.send(b"check 192.0.2.1");
    world.client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(world.lines(), [(0, "check 192.0.2.1".into())]);
    assert!(!world.connection.is_done());
    world.answer(0, "accept\n");
    assert!(world.connection.is_done());
    assert_eq!(world.received(), "accept\n");
}

#[test]
fn half_a_line_waits_a_second_from_its_first_byte() {
    let mut world = World::new();
    world.send(b"che");
    assert!(world.lines().is_empty());
    for _ in 0..3 {
        world.pass(Duration::from_millis(300));
        assert!(!world.connection.is_overdue(world.now));
        world.send(b"c");
        assert!(world.lines().is_empty());
    }
    world.pass(Duration::from_millis(100));
    assert!(world.connection.is_overdue(world.now));
}

#[test]
fn who_says_nothing_is_let_go_but_not_while_an_answer_is_due() {
    let mut world = World::new();
    world.pass(IDLE);
    assert!(world.connection.is_overdue(world.now));
    world.send(b"check 192.0.2.1\n");
    world.lines();
    world.pass(IDLE * 2);
    assert!(!world.connection.is_overdue(world.now));
}

#[test]
fn a_line_has_at_most_8_kib() {
    let mut world = World::new();
    let longest = "a".repeat(LONGEST_LINE);
    world.send(format!("{longest}\n").as_bytes());
    assert_eq!(world.lines(), [(0, longest.clone())]);
    world.send(format!("{longest}a").as_bytes());
    assert_eq!(world.lines().first(), Some(&(1, "too long".into())));
}

#[test]
fn a_peer_that_does_not_read_is_not_read_from_and_is_let_go() {
    let mut world = World::new();
    for _ in 0..200 {
        world.send(b"list\n");
    }
    let mut answered = 0;
    loop {
        let lines = world.lines();
        if lines.is_empty() {
            break;
        }
        for (number, _) in lines {
            world.answer(number, &"x".repeat(16 * 1024));
            answered += 1;
        }
    }
    assert!(answered < 100, "{answered}");
    assert!(!world.connection.wants_read() && world.connection.wants_write());
    assert!(world.connection.output.len() < 2 * ENOUGH_OUTPUT, "{}", world.connection.output.len());
    world.pass(UNREAD);
    assert!(world.connection.is_overdue(world.now));
}

#[test]
fn many_requests_in_one_write_are_worked_on_64_at_a_time() {
    let mut world = World::new();
    world.send("list\n".repeat(100).as_bytes());
    assert_eq!(world.lines().len(), MOST_PENDING);
    for number in 0..64 {
        world.answer(number, "x\n");
    }
    assert_eq!(world.lines().len(), 36);
}

#[test]
fn lines_that_fill_the_input_are_worked_on_and_make_room_for_more() {
    let mut world = World::new();
    let sent = 4 * (LONGEST_LINE + CHUNK) / "line\n".len();
    world.send("line\n".repeat(sent).as_bytes());
    let mut answered = 0;
    while answered < sent {
        let lines = world.lines();
        assert!(!lines.is_empty(), "stuck after {answered} of {sent}");
        assert!(world.connection.input.len() <= LONGEST_LINE + 2 * CHUNK);
        lines.iter().for_each(|(number, _)| world.answer(*number, "."));
        assert_eq!(world.received(), ".".repeat(lines.len()));
        answered += lines.len();
    }
}

#[test]
fn more_than_is_written_at_a_time_is_written_to_its_end_once_it_is_read() {
    let mut world = World::new();
    world.send("status\n".repeat(40).as_bytes());
    let answer = "x".repeat(16 * 1024 - 1) + "\n";
    for (number, _) in world.lines() {
        world.connection.answer(number, Answer::Text(answer.clone()));
    }
    let mut received = 0;
    world.connection.write(world.now);
    while world.connection.wants_write() {
        received += world.received().len();
        world.connection.write(world.now);
    }
    assert_eq!(received + world.received().len(), 40 * answer.len());
}

#[test]
fn half_a_line_does_not_count_while_nothing_is_read() {
    let mut world = World::new();
    world.send(b"list\nsta");
    assert_eq!(world.lines(), [(0, "list".into())]);
    world.answer(0, &"x".repeat(1024 * 1024));
    world.pass(HALF_LINE * 2);
    assert!(!world.connection.is_overdue(world.now), "it has not been read from");
    while world.connection.wants_write() {
        world.received();
        world.connection.write(world.now);
    }
    world.pass(HALF_LINE / 2);
    assert!(!world.connection.is_overdue(world.now), "from now on it counts");
    world.pass(HALF_LINE);
    assert!(world.connection.is_overdue(world.now));
    world.send(b"tus\n");
    assert_eq!(world.lines(), [(1, "status".into())]);
}

#[test]
fn a_long_answer_is_made_as_fast_as_it_is_read() {
    let mut world = World::new();
    world.send(b"list\nstatus\n");
    world.lines();
    let made = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&made);
    let pieces = (0..10_000).map(move |_| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        "x".repeat(999) + "\n"
    });
    world.connection.answer(0, Answer::Pieces(Box::new(pieces)));
    world.answer(1, "last\n");
    assert!(made.load(std::sync::atomic::Ordering::Relaxed) < 2000);
    let mut received = String::new();
    while world.connection.wants_write() {
        received += &world.received();
        world.connection.write(world.now);
    }
    received += &world.received();
    assert_eq!(received.len(), 10_000_000 + 5);
    assert!(received.ends_with("x\nlast\n"));
}

#[test]
fn after_a_fault_nothing_more_is_read_and_what_was_asked_is_answered() {
    let mut world = World::new();
    world.send(b"check 192.0.2.1\nnonsense\nstatus\n");
    world.connection.read(world.now);
    let (first, _) = world.connection.next_line(world.now).unwrap();
    let (second, _) = world.connection.next_line(world.now).unwrap();
    world.answer(second, "error\n");
    world.connection.close_after_answers();
    assert_eq!(world.connection.next_line(world.now), None);
    assert!(!world.connection.is_done());
    world.answer(first, "accept\n");
    assert!(world.connection.is_done());
    assert_eq!(world.received(), "accept\nerror\n");
}

#[test]
fn a_follower_gets_its_snapshot_then_what_is_pushed_may_be_idle_and_is_cut_off_when_it_lags() {
    let mut world = World::new();
    world.send(b"follow 1\n");
    assert_eq!(world.lines().len(), 1);
    world.connection.follow(Box::new(["snapshot\n", "end\n"].map(str::to_owned).into_iter()));
    world.connection.push(b"change\n");
    world.send(b"one\ntwo\n");
    assert_eq!(world.lines().len(), 2);
    world.connection.write(world.now);
    assert_eq!(world.received(), "snapshot\nend\nchange\n");
    world.connection.push(b"later\n");
    world.connection.write(world.now);
    assert_eq!(world.received(), "later\n");
    world.pass(IDLE * 2);
    assert!(!world.connection.is_overdue(world.now) && !world.connection.is_done());
    for _ in 0..20 {
        world.connection.push(&vec![b'x'; 1024 * 1024]);
    }
    assert!(world.connection.is_done() && world.connection.output.len() <= MOST_OUTPUT);
}

#[test]
fn a_follower_that_does_not_read_is_let_go_whatever_it_sends_and_one_that_reads_its_snapshot_slowly_in_a_minute() {
    let endless = || Box::new(std::iter::repeat_with(|| "ban 192.0.2.1 all x 60\n".repeat(100)));
    let mut mute = World::new();
    mute.connection.follow(endless());
    while mute.connection.write(mute.now) {}
    mute.pass(UNREAD / 2);
    mute.send(b"answered 0 0\n");
    assert_eq!(mute.lines().len(), 1);
    mute.connection.write(mute.now);
    assert!(!mute.connection.is_overdue(mute.now));
    mute.pass(UNREAD / 2);
    assert!(mute.connection.is_overdue(mute.now));
    let mut slow = World::new();
    slow.connection.follow(endless());
    let (mut seconds, mut taken) = (0, [0; 200_000]);
    while !slow.connection.is_overdue(slow.now) {
        slow.connection.write(slow.now);
        slow.pass(Duration::from_secs(1));
        seconds += 1;
        assert!(slow.client.read(&mut taken).unwrap() > 0);
    }
    assert_eq!(seconds, SNAPSHOT.as_secs());
}

#[test]
fn a_follower_gets_a_configuration_as_fast_as_it_reads_changes_between_its_pieces_and_after_it_only_the_newest() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let mut world = World::new();
    world.connection.follow(Box::new(std::iter::once("snapshot\n".to_owned())));
    let made = std::sync::Arc::new(AtomicUsize::new(0));
    let mut config = |name: &'static str, pieces: usize| {
        let made = std::sync::Arc::clone(&made);
        let pieces = (0..pieces).map(move |_| {
            made.fetch_add(1, Ordering::Relaxed);
            format!("{name}{}\n", "x".repeat(1022))
        });
        world.connection.reconfigure(Box::new(pieces));
    };
    config("a", 30_000);
    config("b", 10);
    config("c", 10);
    world.connection.write(world.now);
    assert!(world.connection.wants_write());
    assert!(made.load(Ordering::Relaxed) < 1000, "{made:?}");
    world.connection.push(b"change\n");
    let mut received = String::new();
    while world.connection.wants_write() {
        received += &world.received();
        world.connection.write(world.now);
        assert!(world.connection.output.len() < 2 * ENOUGH_OUTPUT);
    }
    received += &world.received();
    let letters = |wanted| received.lines().filter(|line| line.starts_with(wanted)).count();
    assert_eq!((letters('s'), letters('a'), letters('b')), (1, 30_000, 0));
    assert_eq!(received.lines().filter(|line| line.starts_with("cx")).count(), 10);
    let before = received.lines().position(|line| line == "change").unwrap();
    assert!(before < 1000, "the change waited for {before} lines");
}
