//! What Exim reports later in a session: failed logins, refused recipients and bad SMTP become strikes, and what an ordinary
//! client does becomes none.

use super::harness::{Exim, Mail, Resident, Stage, example, until};

/// `PLAIN` with the login "me" and the password "wrong".
const WRONG: &str = "AUTH PLAIN AG1lAHdyb25n";
/// The same with the password "right".
const RIGHT: &str = "AUTH PLAIN AG1lAHJpZ2h0";

const RULES: &str = "[[rule]]\nname = \"exim-auth\"\nmaxretry = 3\n\
                     [[rule]]\nname = \"exim-rcpt\"\nmaxretry = 4\n\
                     [[rule]]\nname = \"exim-protocol\"\nmaxretry = 2\n";

fn start(stage: &Stage) -> Exim {
    let socket = stage.socket();
    let socket = format!("{}/./{}", socket.parent().unwrap().display(), socket.file_name().unwrap().display());
    let incidents = stage.write("incidents.acl", &example("exim-incidents.acl", &[("/run/strikeout/./strikeout.sock", &socket)]));
    let incidents = incidents.display();
    let options = format!(
        "acl_smtp_auth = {incidents}\nacl_smtp_quit = {incidents}\nacl_smtp_notquit = {incidents}\n\
         smtp_max_synprot_errors = 1\nsmtp_max_unknown_commands = 1\n"
    );
    let recipients = format!("require acl = {incidents}\n  accept local_parts = postmaster\n  deny message = Unknown user");
    let plain = "plain:\n  driver = plaintext\n  public_name = PLAIN\n  server_prompts = :\n  server_condition = ${if eq{$auth3}{right}}";
    Exim::start_whole(stage, &stage.exim_example("exim-readsocket.acl"), &options, &recipients, plain)
}

/// A session of `client` with these commands, and what each was answered.
fn session(exim: &Exim, client: &str, commands: &[&str]) -> Vec<u16> {
    let mut mail = Mail::connect(exim.port(), client).unwrap();
    assert_eq!(mail.say("EHLO client.example.test").unwrap(), 250);
    commands.iter().map_while(|command| mail.say(command).ok()).collect()
}

fn strikes(resident: &Resident, client: &str, rule: &str) -> u32 {
    let story = resident.ask(&format!("why {client}"));
    let line = story.lines().find(|line| line.starts_with("strikes=") && line.contains(&format!("rule={rule} "))).map(str::to_owned);
    line.and_then(|line| line.strip_prefix("strikes=")?.split(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn failed_logins_count_once_each_and_a_good_one_counts_nothing() {
    let Some(stage) = Stage::with_exim() else { return };
    let resident = Resident::start(&stage, RULES);
    let exim = start(&stage);
    assert_eq!(session(&exim, "198.51.100.1", &[RIGHT, "QUIT"]), [235, 221]);
    assert_eq!(strikes(&resident, "198.51.100.1", "exim-auth"), 0);
    assert_eq!(session(&exim, "198.51.100.1", &[WRONG, RIGHT, "QUIT"]), [535, 235, 221]);
    assert_eq!(strikes(&resident, "198.51.100.1", "exim-auth"), 1);
    assert_eq!(session(&exim, "198.51.100.2", &[WRONG, WRONG, "QUIT"]), [535, 535, 221]);
    assert_eq!(strikes(&resident, "198.51.100.2", "exim-auth"), 2);
    // The third is struck at the fourth AUTH, whose password, a good one, is not even looked at.
    assert_eq!(session(&exim, "198.51.100.3", &[WRONG, WRONG, WRONG, RIGHT, "QUIT"]), [535, 535, 535, 421, 221]);
    assert_eq!(Mail::code(exim.port(), "198.51.100.3"), 421);
    assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 220);
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn refused_recipients_count_once_each_and_stop_whoever_tries_out_names() {
    let Some(stage) = Stage::with_exim() else { return };
    let resident = Resident::start(&stage, RULES);
    let exim = start(&stage);
    let names =
        ["MAIL FROM:<>", "RCPT TO:<a@x.test>", "RCPT TO:<b@x.test>", "RCPT TO:<c@x.test>", "RCPT TO:<d@x.test>", "RCPT TO:<e@x.test>"];
    assert_eq!(session(&exim, "198.51.100.1", &names), [250, 550, 550, 550, 550, 421]);
    assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 421);
    let answers = session(&exim, "198.51.100.2", &["MAIL FROM:<>", "RCPT TO:<postmaster@x.test>", "RCPT TO:<nobody@x.test>", "QUIT"]);
    assert_eq!(answers, [250, 250, 550, 221]);
    assert_eq!(strikes(&resident, "198.51.100.2", "exim-rcpt"), 1);
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn who_speaks_no_smtp_is_struck_at_the_end_of_the_session() {
    let Some(stage) = Stage::with_exim() else { return };
    let resident = Resident::start(&stage, RULES);
    let exim = start(&stage);
    for _ in 0..2 {
        session(&exim, "198.51.100.1", &["GET / HTTP/1.1", "Host: x", "Accept: x"]);
    }
    until("both are counted", || resident.ask("check 198.51.100.1").starts_with("defer rule=exim-protocol").then_some(()));
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn without_the_resident_nobody_is_refused() {
    let Some(stage) = Stage::with_exim() else { return };
    let exim = start(&stage);
    let commands = [WRONG, WRONG, WRONG, WRONG, RIGHT, "MAIL FROM:<>", "RCPT TO:<nobody@x.test>", "RCPT TO:<postmaster@x.test>", "QUIT"];
    assert_eq!(session(&exim, "198.51.100.1", &commands), [535, 535, 535, 535, 235, 250, 550, 250, 221]);
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn neither_login_nor_password_reaches_the_resident() {
    let acl = example("exim-incidents.acl", &[]);
    let asked: Vec<&str> = acl.lines().filter(|line| !line.starts_with('#') && line.contains("readsocket")).collect();
    assert_eq!(asked.len(), 4);
    for line in asked {
        let request = line.split("{strike ").nth(1).and_then(|rest| rest.split("\\n}").next()).unwrap();
        let (address, rule) = request.split_once(' ').unwrap();
        assert_eq!(address, "$sender_host_address");
        assert!(rule.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{rule}");
    }
}
