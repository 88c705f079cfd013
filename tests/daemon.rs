//! `strikeout serve`, driven over its socket, by its helpers and by signals: counting by connection process, limits on peers, faults of
//! the disk, reloads and restarts.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "harness/mod.rs"]
mod harness;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use harness::{DEADLINE, Daemon, EXIM_HELPER, STRIKEOUT, Stage, is_root, wait_for, wait_until};

/// An incident rule that bans at the second strike.
const INCIDENT: &str = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 2\nscope = 'mail'\n";

/// Stands in for a connection process of Exim: a shell that asks as `conf-examples/exim-run.acl` does, then stays alive.
struct ConnectionProcess {
    shell: Child,
    answer: String,
}

impl ConnectionProcess {
    fn start(daemon: &Daemon, address: &str) -> Self {
        Self::start_naming(daemon, address, "$$")
    }

    /// Starts one until the helper has got the daemon's answer: on a busy machine that may take more than the 180 ms for which it waits.
    fn start_in_time(daemon: &Daemon, address: &str) -> Self {
        wait_for("an answer of the daemon's", || {
            let watched = daemon.status("mail_connections_watched");
            let process = Self::start(daemon, address);
            if !process.answer.contains("rule=on-failure") {
                return Some(process);
            }
            // The daemon may have counted the connection, and forgets it with the process.
            process.end();
            wait_until("its end is noticed", || daemon.status("mail_connections_watched") == watched);
            None
        })
    }

    /// Starts one that gives `pid` as its process number.
    fn start_naming(daemon: &Daemon, address: &str, pid: &str) -> Self {
        let config = daemon.stage().config();
        let ask = format!(
            "/bin/sh -c \"timeout -s KILL 5 $0 --config {} --table $1 check $2 pid={pid} port=25 || :\"; echo; read x",
            config.display()
        );
        let mut shell = Command::new("/bin/sh")
            .args(["-c", &ask, EXIM_HELPER])
            .arg(daemon.socket())
            .arg(address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answer = Vec::new();
        let stdout = shell.stdout.as_mut().unwrap();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            answer.extend(byte);
        }
        Self { shell, answer: String::from_utf8(answer).unwrap() }
    }

    fn end(mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }
}

#[test]
fn simultaneous_connections_are_counted_by_process_until_it_ends() {
    let rule = "[[rule]]\nname = 'exim-simultaneous'\nsimultaneous = 3\nmaxretry = 1000\n";
    let daemon = Daemon::start_on(&Stage::new(), "on_failure = 'deny'\n", rule);
    let mut open: Vec<_> = (0..3).map(|_| ConnectionProcess::start_in_time(&daemon, "203.0.113.7")).collect();
    assert!(open.iter().all(|process| process.answer == "accept"));
    assert_eq!(daemon.status("mail_connections_watched"), "3");
    let refused = ConnectionProcess::start_in_time(&daemon, "203.0.113.7");
    assert!(refused.answer.starts_with("defer rule=exim-simultaneous until="), "{}", refused.answer);
    let other = ConnectionProcess::start_in_time(&daemon, "203.0.113.8");
    assert_eq!(other.answer, "accept", "another client");
    assert_eq!(daemon.status("mail_connections_watched"), "4", "a refused connection is not watched");
    open.pop().unwrap().end();
    wait_until("the end of a process is noticed", || daemon.status("mail_connections_watched") == "3");
    let next = ConnectionProcess::start_in_time(&daemon, "203.0.113.7");
    assert_eq!(next.answer, "accept");
    for process in open.into_iter().chain([refused, other, next]) {
        process.end();
    }
    wait_until("all ends are noticed", || daemon.status("mail_connections_watched") == "0");
}

#[test]
fn only_an_ancestor_of_the_helper_counts_as_its_connection_process() {
    let daemon = Daemon::start("");
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let process = ConnectionProcess::start_naming(&daemon, "203.0.113.7", &stranger.id().to_string());
    assert_eq!(process.answer, "accept");
    // The helper's parent was watched instead. That was `timeout`, which has ended; the stranger is alive and not watched.
    wait_until("nobody is watched", || daemon.status("mail_connections_watched") == "0");
    process.end();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn the_end_of_the_last_process_is_noticed_without_another_request() {
    let daemon = Daemon::start("[metrics]\nlisten = '127.0.0.1:0'\n");
    let logged = || Some(daemon.log().split_once("metrics on http://")?.1.split_once('/')?.0.to_owned());
    wait_until("the listener's address is logged", || logged().is_some());
    let address = logged().unwrap();
    // HTTP is answered by another thread, so it does not wake the event loop.
    let watched = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page.lines().find_map(|line| line.strip_prefix("strikeout_mail_connections ")).map(str::to_owned)
    };
    let process = ConnectionProcess::start(&daemon, "203.0.113.7");
    wait_until("it is watched", || watched().as_deref() == Some("1"));
    process.end();
    wait_until("its end is noticed", || watched().as_deref() == Some("0"));
}

#[test]
fn one_connection_process_counts_once_however_often_it_asks() {
    let daemon = Daemon::start("[[rule]]\nname = 'exim-rate'\nmaxretry = 3\n");
    for _ in 0..10 {
        assert_eq!(daemon.ask("check 203.0.113.7 port=25\n"), "accept\n");
    }
    for _ in 0..2 {
        let process = ConnectionProcess::start(&daemon, "203.0.113.7");
        let is_third = process.answer.starts_with("defer rule=exim-rate until=");
        process.end();
        if is_third {
            return;
        }
    }
    panic!("the third process was not refused");
}

#[test]
fn requests_of_a_connection_are_answered_in_order_and_an_error_closes_it() {
    let daemon = Daemon::start(INCIDENT);
    let lines = "check 203.0.113.1\nstrike 203.0.113.2 helo\nunban 203.0.113.9\nstrike 203.0.113.2 helo\nnonsense\ncheck 203.0.113.3\n";
    let answers = daemon.ask(lines);
    let words: Vec<&str> = answers.lines().map(|line| line.split([' ', ',']).next().unwrap()).collect();
    assert_eq!(words, ["accept", "accept", r#"{"target":"203.0.113.9""#, ".", "defer", "error"], "{answers}");
}

#[test]
fn only_an_incident_rule_can_be_reported() {
    let daemon = Daemon::start(INCIDENT);
    for (rule, expected) in
        [("w00tw00t", "error found \"w00tw00t\", expected"), ("nix", "error found \"nix\", expected"), ("helo", "accept")]
    {
        assert!(daemon.ask(&format!("strike 203.0.113.1 {rule}")).starts_with(expected), "{rule}");
    }
    assert_eq!(daemon.ask("strike  helo"), "accept\n", "no address");
    assert!(daemon.ask("strike 203.0.113.1 helo").starts_with("defer rule=helo"));
    assert!(daemon.ask("check 203.0.113.1 port=25").starts_with("defer rule=helo"));
    assert_eq!(daemon.ask("strike 127.0.0.1 helo\nstrike 127.0.0.1 helo\nstrike 127.0.0.1 helo"), "accept\n".repeat(3), "never banned");
}

#[test]
fn how_many_bans_have_no_line_in_the_log_is_told_at_the_end() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", INCIDENT);
    let lines: String = (0..103).map(|number| format!("strike 203.0.113.{number} helo\n").repeat(2)).collect();
    assert_eq!(daemon.ask(&lines).matches("defer rule=helo").count(), 103);
    assert!(daemon.end(Signal::TERM).success());
    let log = fs::read_to_string(stage.path("log")).unwrap();
    assert!(log.matches(" banned 203.0.113.").count() == 100 && log.contains(" banned 3 more: helo 3\n"), "{log}");
}

#[test]
fn too_many_reported_strikes_get_errors_and_others_are_served() {
    let daemon = Daemon::start("[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1000000\n");
    let lines: String = (0..4000).map(|number| format!("strike 203.0.{}.{} helo\n", number / 250, number % 250)).collect();
    let mut stream = daemon.connect();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        writer.write_all(lines.as_bytes()).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    writing.join().unwrap();
    assert_eq!(answers.lines().count(), 4000, "each is answered");
    let refused = answers.lines().filter(|line| line.starts_with("error user ")).count();
    assert!((1..=3000).contains(&refused), "{refused}");
    assert_eq!(daemon.ask("check 203.0.113.1 port=25"), "accept\n");
}

#[test]
fn a_burst_that_arrived_before_the_first_read_is_answered_in_full() {
    let daemon = Daemon::start("");
    daemon.signal(Signal::STOP);
    let mut stream = daemon.connect();
    stream.write_all("check 203.0.113.1 port=25\n".repeat(3000).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    daemon.signal(Signal::CONT);
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.lines().count(), 3000);
}

#[test]
fn thousands_of_silent_connections_delay_nobody() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(100_000);
    let daemon = Daemon::start("");
    let mut idle = Vec::new();
    for number in 0..5000.min(files.saturating_sub(200)) {
        idle.push(daemon.connect());
        if number % 500 == 0 {
            assert_eq!(daemon.ask(&format!("check 203.0.113.{} port=25", number / 500)), "accept\n");
        }
    }
    assert_eq!(daemon.ask("check 203.0.113.200 port=25"), "accept\n");
    let mut halves: Vec<_> = (0..500)
        .map(|_| {
            let mut stream = daemon.connect();
            stream.write_all(b"che").unwrap();
            stream
        })
        .collect();
    assert_eq!(daemon.ask("check 203.0.113.201 port=25"), "accept\n");
    let mut rest = Vec::new();
    assert_eq!(halves[0].read_to_end(&mut rest).unwrap(), 0, "half a line is closed");
}

#[test]
fn a_peer_that_does_not_read_delays_nobody() {
    let daemon = Daemon::start("");
    let bans: String = (0..2000).map(|number| format!("ban 2001:db8:{number:x}::/48\n")).collect();
    assert!(daemon.ask(&bans).lines().all(|line| line == "." || line.starts_with(r#"{"banned":"#)));
    let mut greedy = daemon.connect();
    greedy.write_all("list\n".repeat(4).as_bytes()).unwrap();
    for number in 0..50 {
        assert_eq!(daemon.ask(&format!("check 203.0.113.{number} port=25")), "accept\n");
    }
    // Reading again within the timeout of five seconds, it gets everything.
    greedy.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    greedy.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.lines().filter(|line| *line == ".").count(), 4);
    assert_eq!(answers.lines().count(), 4 * 2001);
}

#[test]
fn only_a_few_lists_are_sent_at_a_time() {
    let daemon = Daemon::start("");
    // More than the socket buffers hold, so that no list is complete before it is read.
    let bans: String = (0..8000).map(|number| format!("ban 2001:db8:{number:x}::/48\n")).collect();
    daemon.ask(&bans);
    let mut unread: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = daemon.connect();
            stream.write_all(b"list\n").unwrap();
            // The first byte shows that the list has begun.
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    wait_until("one more is refused", || daemon.ask("list").starts_with("error 4 lists are being read already"));
    assert_eq!(daemon.ask("check 203.0.113.1 port=25"), "accept\n");
    unread.clear();
    wait_until("there is room again", || daemon.ask("list").ends_with("\n.\n"));
}

#[test]
fn with_few_file_descriptors_the_longest_idle_connections_are_closed() {
    let stage = Stage::new();
    stage.configure("", "");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -n 100; exec \"$@\"", "sh", STRIKEOUT]);
    let daemon = Daemon::start_by(&stage, command);
    let mut idle: Vec<_> = (0..300).map(|_| daemon.connect()).collect();
    for number in 0..20 {
        assert_eq!(daemon.ask(&format!("check 203.0.113.{number} port=25")), "accept\n");
    }
    assert_eq!(idle[0].read(&mut [0]).unwrap(), 0, "it was closed");
    let processes: Vec<_> = (0..30).map(|number| ConnectionProcess::start(&daemon, &format!("198.51.100.{number}"))).collect();
    assert!(processes.iter().all(|process| process.answer == "accept"));
    assert_eq!(daemon.ask("check 203.0.113.200 port=25"), "accept\n");
    processes.into_iter().for_each(ConnectionProcess::end);
}

#[test]
fn random_bytes_do_not_stop_it() {
    let daemon = Daemon::start("");
    // Xorshift with a fixed seed: the same bytes each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words =
        ["check", "strike", "ban", "subscribe 1", "list", "192.0.2.1", "pid=", "\n", " ", "=", "\0", "\u{e4}", "203.0.113.1/24", "-1"];
    for round in 0..300 {
        let mut stream = daemon.connect();
        let bytes: Vec<u8> = if round % 2 == 0 {
            (0..random() % 4000).map(|_| random().to_le_bytes()[3]).collect()
        } else {
            (0..random() % 60).flat_map(|_| words[usize::try_from(random() % 14).unwrap()].bytes()).collect()
        };
        // The daemon may close the connection before it has read everything.
        let _ = stream.write_all(&bytes);
        if round % 3 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 100]);
        }
    }
    assert_eq!(daemon.ask("check 198.51.100.200 port=25"), "accept\n");
    assert!(!daemon.log().contains("internal fault") && !daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn a_stopped_daemon_delays_nobody_and_answers_once_it_continues() {
    let daemon = Daemon::start("");
    let helper = |arguments: &[&str]| daemon.stage().exim_helper(arguments).0;
    daemon.ask("ban 203.0.113.9 10m");
    assert!(helper(&["check", "203.0.113.9", "port=25"]).starts_with("defer rule=manual until="));
    daemon.signal(Signal::STOP);
    assert_eq!(helper(&["check", "203.0.113.9", "port=25"]), "accept");
    daemon.configure("on_failure = 'deny'\n");
    let config = daemon.stage().config();
    let deferred = helper(&["--config", config.to_str().unwrap(), "check", "203.0.113.1", "port=25"]);
    assert!(deferred.starts_with("defer rule=on-failure until="), "{deferred}");
    daemon.signal(Signal::CONT);
    assert!(helper(&["check", "203.0.113.9", "port=25"]).starts_with("defer rule=manual until="));
}

#[test]
fn bans_and_strikes_survive_a_restart_and_a_stale_socket_is_replaced() {
    let daemon = Daemon::start(INCIDENT);
    assert!(daemon.ask("strike 203.0.113.1 helo\nstrike 203.0.113.1 helo").starts_with("accept\ndefer rule=helo until="));
    assert!(daemon.ask("check 203.0.113.1 port=25").starts_with("defer rule=helo"));
    let stage = daemon.stage().clone();
    daemon.end(Signal::KILL);
    assert!(stage.socket().exists(), "a killed daemon leaves its socket");
    let daemon = Daemon::start_again(&stage);
    assert!(daemon.ask("check 203.0.113.1 port=25").starts_with("defer rule=helo"));
    assert_eq!(daemon.ask("strike 203.0.113.2 helo"), "accept\n");
    assert!(daemon.end(Signal::TERM).success());
    assert!(!stage.socket().exists(), "a clean end removes the socket");
    let daemon = Daemon::start_again(&stage);
    assert!(daemon.ask("strike 203.0.113.2 helo").starts_with("defer rule=helo"), "the first strike was saved");
    let why = daemon.object("why 203.0.113.1");
    assert_eq!(
        (&why["services"]["mail"]["rule"], &why["ban"]["evidence"]),
        (&"helo".into(), &"reported by the mail server".into()),
        "{why}"
    );
}

#[test]
fn it_serves_without_a_usable_state_file() {
    let stage = Stage::new();
    // The state file's directory is a file.
    stage.write("state", "");
    let daemon = Daemon::start_on(&stage, "", INCIDENT);
    assert!(daemon.status("state").starts_with("degraded: "), "{}", daemon.status("state"));
    assert!(daemon.ask("strike 203.0.113.1 helo\nstrike 203.0.113.1 helo").contains("defer rule=helo until="));
    assert!(daemon.log().contains("bans are in memory only"));
}

#[test]
fn a_socket_that_cannot_be_created_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let socket = dir.path().join("file/socket");
    fs::write(dir.path().join("strikeout.toml"), format!("[table]\nsocket = {socket:?}\nstate = ''\ngroup = ''\n")).unwrap();
    let output = Command::new(STRIKEOUT).args(["serve", "--config"]).arg(dir.path().join("strikeout.toml")).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains(&format!("{}: cannot be used for the socket", dir.path().join("file").display())), "{stderr}");
}

#[test]
fn a_missing_group_and_an_open_mode_are_warned_about() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "mode = '0666'", "");
    assert!(daemon.log().contains("mode 0666 lets every user of this machine name clients"), "{}", daemon.log());
    assert_eq!(fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o777, 0o666);
    daemon.end(Signal::TERM);
    let daemon = Daemon::start_on(&stage, "group = 'no-such-group'", "");
    let log = daemon.log();
    assert!(log.contains("found no group \"no-such-group\""), "{log}");
}

#[test]
fn a_reload_takes_a_valid_configuration_and_rejects_an_invalid_one_entirely() {
    let daemon = Daemon::start("");
    assert!(daemon.ask("strike 203.0.113.1 helo").starts_with("error "));
    daemon.configure(INCIDENT);
    assert!(daemon.ask("reload").starts_with("{\"reloaded\":true,\"notes\":[],"));
    assert_eq!(daemon.ask("strike 203.0.113.1 helo"), "accept\n");
    daemon.configure(&INCIDENT.replace("maxretry = 2", "maxretry = 0"));
    let (_, stderr, code) = daemon.run(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("strikeout.toml:9: found maxretry = 0"), "{stderr}");
    assert!(daemon.ask("strike 203.0.113.1 helo").starts_with("defer rule=helo"), "rules and strikes stay");
    daemon.signal(Signal::HUP);
    wait_until("the fault is logged", || daemon.log().contains("Z stays in force"));
    daemon.configure("");
    daemon.signal(Signal::HUP);
    // A new client each time: two strikes before the reload would ban it, and a banned client is refused whatever the rule.
    let mut clients = u32::from(std::net::Ipv4Addr::new(198, 18, 0, 0))..;
    wait_until("the rule is gone", || {
        let client = std::net::Ipv4Addr::from(clients.next().unwrap());
        daemon.ask(&format!("strike {client} helo")).starts_with("error ")
    });
    wait_until("the bans of the rule end with it", || daemon.ask("check 203.0.113.1 port=25") == "accept\n");
    daemon.ask("ban 203.0.113.1");
    assert!(daemon.ask("strike 203.0.113.1 helo").starts_with("defer rule=manual"), "a banned client is refused whatever the rule");
}

#[test]
fn a_log_is_followed_through_rotation_and_a_restart() {
    let stage = Stage::new();
    let log = stage.write("mainlog", "");
    let daemon = Daemon::start_on(&stage, "", &format!("[[log]]\npath = {log:?}\nrules = ['exim-per-host']\n"));
    let line = |address: &str| {
        let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        let text =
            format!("{now} [99] Connection from [{address}]:4 I=[198.51.100.1]:25 refused: too many connections from that IP address\n");
        fs::File::options().create(true).append(true).open(&log).unwrap().write_all(text.as_bytes()).unwrap();
    };
    let is_refused =
        |daemon: &Daemon, address: &str| daemon.ask(&format!("check {address} port=25")).starts_with("defer rule=exim-per-host");
    // A log without a saved position is followed from its end, and nothing shows when that was found. So the line is written until it counts.
    wait_until("the line counts", || {
        line("203.0.113.1");
        is_refused(&daemon, "203.0.113.1")
    });
    assert!(!is_refused(&daemon, "198.51.100.1"), "the interface is not blamed");
    fs::rename(&log, log.with_extension("1")).unwrap();
    line("203.0.113.2");
    wait_until("the new file is read", || is_refused(&daemon, "203.0.113.2"));
    daemon.end(Signal::TERM);
    line("203.0.113.3");
    let daemon = Daemon::start_again(&stage);
    wait_until("lines written meanwhile are read", || is_refused(&daemon, "203.0.113.3"));
}

#[test]
fn only_root_and_the_daemons_user_may_ban_unban_and_reload() {
    if !is_root("become another user") {
        return;
    }
    let stage = Stage::new();
    stage.open();
    let program = stage.program("strikeout");
    let daemon = Daemon::start_on(&stage, "mode = '0666'", "");
    let as_user = |user: &str, arguments: &[&str]| {
        let output = Command::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups"])
            .arg(&program)
            .args(arguments)
            .arg("--table")
            .arg(daemon.socket())
            .output()
            .expect("setpriv belongs to util-linux");
        (String::from_utf8(output.stderr).unwrap(), output.status.code())
    };
    for user in ["65534", "33"] {
        let known = nix::unistd::User::from_uid(user.parse::<u32>().unwrap().into()).unwrap();
        let named = known.map_or(user.to_owned(), |known| format!("{} (uid {user})", known.name));
        for arguments in [&["ban", "203.0.113.1"][..], &["unban", "203.0.113.1"], &["reload"]] {
            let (stderr, code) = as_user(user, arguments);
            assert_eq!(code, Some(1), "{user} {arguments:?}: {stderr}");
            assert!(stderr.contains(&format!("user {named} may not do this")), "{stderr}");
        }
        assert_eq!(as_user(user, &["status"]).1, Some(0));
    }
    let (stdout, _, code) = daemon.run(&["ban", "203.0.113.1", "10m"]);
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with("banned 203.0.113.1"), "{stdout}");
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    let (stderr, code) = as_user("33", &["status"]);
    assert!(code == Some(1) && stderr.contains("ask as root, or join the group root"), "{stderr}");
}

#[test]
fn the_service_manager_is_notified_once_it_answers_and_then_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let (config, socket, manager) = (dir.path().join("strikeout.toml"), dir.path().join("socket"), dir.path().join("notify"));
    fs::write(&config, format!("[table]\nsocket = {socket:?}\ngroup = ''\nstate = ''\n")).unwrap();
    let notifications = UnixDatagram::bind(&manager).unwrap();
    notifications.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = Command::new(STRIKEOUT);
    let mut child =
        command.args(["serve", "--config"]).arg(&config).env("NOTIFY_SOCKET", &manager).env("WATCHDOG_USEC", "300000").spawn().unwrap();
    let next = || {
        let mut message = [0; 100];
        let length = notifications.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    assert_eq!(next(), "READY=1\n");
    let status = Command::new(STRIKEOUT).args(["status", "--table"]).arg(&socket).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    // Heartbeats, although nothing else happens.
    (0..5).for_each(|_| assert_eq!(next(), "WATCHDOG=1\n"));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let last = std::iter::repeat_with(next).find(|message| message != "WATCHDOG=1\n");
    assert_eq!(last.as_deref(), Some("STOPPING=1\n"));
    assert!(child.wait().unwrap().success());
}
