//! Incidents later in a session: failed logins, refused recipients and bad SMTP become strikes, ordinary sessions do not.

use std::io::{Read as _, Write as _};

use crate::harness::{Daemon, Stage, wait_until};
use crate::rig::{Exim, Mail, example};

/// `PLAIN` with the login "me" and the password "wrong".
const WRONG: &str = "AUTH PLAIN AG1lAHdyb25n";
/// The same with the password "right".
const RIGHT: &str = "AUTH PLAIN AG1lAHJpZ2h0";

const RULES: &str = "[[rule]]\nname = \"exim-auth\"\nmaxretry = 3\n\
                     [[rule]]\nname = \"exim-rcpt\"\nmaxretry = 4\n\
                     [[rule]]\nname = \"exim-protocol\"\nmaxretry = 2\n";

/// Exim with the example for incidents, set up as its head says. After a failure it does not wait: that is one test's.
pub(crate) fn start(stage: &Stage) -> Exim {
    start_with(stage, "", "0s")
}

fn start_with(stage: &Stage, more: &str, delay: &str) -> Exim {
    let socket = stage.socket();
    let socket = format!("{}/./{}", socket.parent().unwrap().display(), socket.file_name().unwrap().display());
    let incidents = stage.write(
        "incidents.acl",
        &example("exim-incidents.acl", &[("/run/strikeout/./strikeout.sock", &socket), ("= 2s", &format!("= {delay}"))]),
    );
    let incidents = incidents.display();
    let options = format!(
        "acl_smtp_auth = {incidents}\nacl_smtp_quit = {incidents}\nacl_smtp_notquit = {incidents}\n\
         smtp_max_synprot_errors = 1\nsmtp_max_unknown_commands = 1\n{}\n{more}",
        event_action(&socket)
    );
    let recipients = format!("require acl = {incidents}\n  accept local_parts = postmaster\n  deny message = Unknown user");
    let plain = "plain:\n  driver = plaintext\n  public_name = PLAIN\n  server_prompts = :\n  server_condition = ${if eq{$auth3}{right}}\n  server_set_id = $auth2";
    Exim::start_whole(stage, &stage.exim_example("exim-readsocket.acl"), &options, &recipients, plain)
}

/// The line of the example's head that sets the event.
fn event_action(socket: &str) -> String {
    let head = example("exim-incidents.acl", &[("/run/strikeout/./strikeout.sock", socket)]);
    head.lines().find_map(|line| line.strip_prefix("#   ").filter(|line| line.starts_with("event_action = "))).unwrap().to_owned()
}

/// Runs a session of `client` with these commands, and returns the reply codes.
fn session(exim: &Exim, client: &str, commands: &[&str]) -> Vec<u16> {
    session_on(exim.port(), client, commands).unwrap()
}

/// The same on another port; `None` if Exim greets the client with a refusal.
pub(crate) fn session_on(port: u16, client: &str, commands: &[&str]) -> Option<Vec<u16>> {
    let mut mail = Mail::connect(port, client).unwrap();
    if mail.code != 220 {
        return None;
    }
    assert_eq!(mail.command("EHLO client.example.test").unwrap(), 250);
    Some(commands.iter().map_while(|command| mail.command(command).ok()).collect())
}

pub(crate) fn strikes(daemon: &Daemon, client: &str, rule: &str) -> u32 {
    let why = daemon.object(&format!("why {client}"));
    let strikes = why["strikes"].as_array().unwrap().iter().find(|strikes| strikes["rule"] == rule);
    strikes.map_or(0, |strikes| u32::try_from(strikes["count"].as_u64().unwrap()).unwrap())
}

#[test]
fn each_failed_login_counts_once_and_a_successful_one_never() {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon(RULES);
    let exim = start(&stage);
    assert_eq!(session(&exim, "198.51.100.1", &[RIGHT, "QUIT"]), [235, 221]);
    assert_eq!(strikes(&daemon, "198.51.100.1", "exim-auth"), 0);
    assert_eq!(session(&exim, "198.51.100.1", &[WRONG, RIGHT, "QUIT"]), [535, 235, 221]);
    assert_eq!(strikes(&daemon, "198.51.100.1", "exim-auth"), 1);
    assert_eq!(session(&exim, "198.51.100.2", &[WRONG, WRONG, "QUIT"]), [535, 535, 221]);
    assert_eq!(strikes(&daemon, "198.51.100.2", "exim-auth"), 2);
    // The third failure counts at the fourth AUTH, whose correct password is not checked any more.
    assert_eq!(session(&exim, "198.51.100.3", &[WRONG, WRONG, WRONG, RIGHT, "QUIT"]), [535, 535, 535, 421, 221]);
    assert_eq!(Mail::code(exim.port(), "198.51.100.3"), 421);
    assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 220);
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn guessing_one_password_a_connection_is_stopped_on_every_port() {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon("");
    let exim = start(&stage);
    for (port, guesser, owner) in [(exim.port(), "198.51.100.1", "198.51.100.2"), (exim.submission(), "198.51.100.3", "198.51.100.4")] {
        let attempt = |client: &str, login: &str| session_on(port, client, &[login, "QUIT"]).and_then(|codes| codes.first().copied());
        let mut tries = 0;
        while attempt(guesser, WRONG) == Some(535) {
            tries += 1;
            assert!(tries <= 10, "port {port}");
        }
        assert_eq!(strikes(&daemon, guesser, "exim-auth"), 0, "a ban ends the count");
        assert!(attempt(guesser, RIGHT).is_none_or(|code| code == 421), "not even the right password is checked any more");
        // Other users log in, also one who mistyped before.
        assert_eq!([attempt(owner, WRONG), attempt(owner, RIGHT), attempt(owner, RIGHT)], [Some(535), Some(235), Some(235)]);
        println!("port {port}: {tries} passwords were checked");
    }
    // Connections that the client just drops count too.
    let mut tries = 0;
    loop {
        let mut mail = Mail::connect(exim.submission(), "198.51.100.5").unwrap();
        mail.command("EHLO client.example.test").unwrap();
        if mail.command(WRONG).unwrap() != 535 {
            break;
        }
        tries += 1;
        assert!(tries <= 10);
        drop(mail);
        wait_until("the dropped connection is counted", || {
            strikes(&daemon, "198.51.100.5", "exim-auth") == tries || daemon.ask("check 198.51.100.5").starts_with("defer")
        });
    }
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn a_user_may_log_in_although_the_address_is_banned_for_a_scan_or_a_flood() {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon("[[rule]]\nname = \"exim-rate\"\nmaxretry = 3\n");
    let exim = start(&stage);
    let codes: Vec<u16> = (0..5).map(|_| Mail::code(exim.port(), "198.51.100.1")).collect();
    assert_eq!(codes[4], 421);
    let login = |client: &str| session_on(exim.submission(), client, &[RIGHT]).unwrap();
    assert_eq!(login("198.51.100.1"), [235]);
    daemon.ask("strike 198.51.100.2 exim-helo");
    daemon.ask("strike 198.51.100.2 exim-helo");
    assert!(daemon.ask("strike 198.51.100.2 exim-helo").starts_with("defer"));
    assert_eq!(login("198.51.100.2"), [421]);
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn a_session_under_this_servers_own_name_counts_once() {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon("");
    let exim = start(&stage);
    for helo in ["mx.example.test", "MX.Example.Test", "[127.0.0.1]"] {
        let mut mail = Mail::connect(exim.port(), "198.51.100.1").unwrap();
        assert_eq!(mail.command(&format!("EHLO {helo}")).unwrap(), 250);
        assert_eq!(mail.command("MAIL FROM:<>").unwrap(), 250);
        mail.command("RCPT TO:<postmaster@x.test>").unwrap();
        mail.command("RCPT TO:<postmaster@x.test>").unwrap();
        let _ = mail.command("QUIT");
    }
    wait_until("three sessions are a ban", || daemon.ask("check 198.51.100.1").starts_with("defer rule=exim-helo"));
    session(&exim, "198.51.100.2", &["MAIL FROM:<>", "RCPT TO:<postmaster@x.test>", "QUIT"]);
    assert_eq!(strikes(&daemon, "198.51.100.2", "exim-helo"), 0);
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn a_failed_tls_handshake_counts_once_with_starttls_and_with_tls_from_the_start() {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon("");
    let dir = stage.make("tls", None);
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mx.example.test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for file in [&certificate, &key] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }
    let tls = format!("tls_certificate = {}\ntls_privatekey = {}\ntls_advertise_hosts = *\n", certificate.display(), key.display());
    let exim = start_with(&stage, &tls, "0s");
    let mut mail = Mail::connect(exim.port(), "198.51.100.1").unwrap();
    mail.command("EHLO client.example.test").unwrap();
    assert_eq!(mail.command("STARTTLS").unwrap(), 220);
    let _ = mail.command("this is no handshake at all");
    drop(mail);
    wait_until("the failed STARTTLS counts", || strikes(&daemon, "198.51.100.1", "exim-tls") > 0);
    // From the start: the same server, told that one of its ports has TLS.
    let exim = start_with(&stage, &format!("{tls}tls_on_connect_ports = 465:587\n"), "0s");
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", exim.submission())).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    stream.write_all(format!("PROXY TCP4 198.51.100.2 127.0.0.1 40000 {}\r\n", exim.submission()).as_bytes()).unwrap();
    stream.write_all(b"EHLO this is no handshake at all\r\n").unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    wait_until("the failed handshake counts", || strikes(&daemon, "198.51.100.2", "exim-tls") > 0);
    assert_eq!((strikes(&daemon, "198.51.100.1", "exim-tls"), strikes(&daemon, "198.51.100.2", "exim-tls")), (1, 1));
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn each_refused_recipient_counts_once_and_guessing_is_stopped_within_the_session() {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon(RULES);
    let exim = start(&stage);
    let names =
        ["MAIL FROM:<>", "RCPT TO:<a@x.test>", "RCPT TO:<b@x.test>", "RCPT TO:<c@x.test>", "RCPT TO:<d@x.test>", "RCPT TO:<e@x.test>"];
    assert_eq!(session(&exim, "198.51.100.1", &names), [250, 550, 550, 550, 550, 421]);
    assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 421);
    let answers = session(&exim, "198.51.100.2", &["MAIL FROM:<>", "RCPT TO:<postmaster@x.test>", "RCPT TO:<nobody@x.test>", "QUIT"]);
    assert_eq!(answers, [250, 250, 550, 221]);
    assert_eq!(strikes(&daemon, "198.51.100.2", "exim-rcpt"), 1);
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn a_client_that_speaks_no_smtp_is_struck_at_the_end_of_the_session() {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon(RULES);
    let exim = start(&stage);
    for _ in 0..2 {
        session(&exim, "198.51.100.1", &["GET / HTTP/1.1", "Host: x", "Accept: x"]);
    }
    wait_until("both are counted", || daemon.ask("check 198.51.100.1").starts_with("defer rule=exim-protocol"));
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn without_the_daemon_nobody_is_refused() {
    let Some(stage) = Stage::with_exim() else { return };
    let exim = start(&stage);
    let commands = [WRONG, WRONG, WRONG, WRONG, RIGHT, "MAIL FROM:<>", "RCPT TO:<nobody@x.test>", "RCPT TO:<postmaster@x.test>", "QUIT"];
    assert_eq!(session(&exim, "198.51.100.1", &commands), [535, 535, 535, 535, 235, 250, 550, 250, 221]);
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn neither_login_nor_password_reaches_the_daemon() {
    let acl = example("exim-incidents.acl", &[]);
    let asked: Vec<&str> = acl.lines().filter(|line| !line.starts_with('#') && line.contains("readsocket")).collect();
    assert_eq!(asked.len(), 7);
    for line in asked {
        let request = line.split_once("strikeout.sock}{").and_then(|(_, rest)| rest.split("\\n}").next()).unwrap();
        let is_rule = |rule: &str| rule.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        let is_about_an_account = |verb: &str| {
            request.strip_prefix(verb).is_some_and(|rest| rest.starts_with(" $sender_host_address guessed-account account=${sha1:${lc:"))
        };
        assert!(
            request == "check $sender_host_address pid=$pid port=587"
                || request.strip_prefix("strike $sender_host_address ").is_some_and(is_rule)
                || is_about_an_account("strike")
                || is_about_an_account("clear"),
            "{request}"
        );
    }
}

#[test]
fn guesses_on_several_connections_at_once_are_counted_before_any_of_them_goes_on() {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon(RULES);
    let exim = start_with(&stage, "", "2s");
    let mut sessions: Vec<Mail> = (0..3).map(|_| Mail::connect(exim.port(), "198.51.100.1").unwrap()).collect();
    for session in &mut sessions {
        assert_eq!(session.command("EHLO client.example.test").unwrap(), 250);
        assert_eq!(session.command(WRONG).unwrap(), 535, "the first failure is known only afterwards");
    }
    let again: Vec<u16> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, session) in (1..).zip(&mut sessions) {
            threads.push(scope.spawn(|| session.command(RIGHT).unwrap()));
            // The last one bans, and a ban ends the count.
            wait_until("its first failure is counted", || number == 3 || strikes(&daemon, "198.51.100.1", "exim-auth") == number);
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(again, [421; 3], "three failures ban, whichever connection comes first");
}
