//! The action in `conf-examples/fail2ban-action.conf`: a real fail2ban bans, unbans, stops and starts, and Strikeout follows.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{Daemon, STRIKEOUT, Stage, end, skip, wait_until};
use rustix::process::Signal;

const SERVER: &str = "/usr/bin/fail2ban-server";
const CLIENT: &str = "/usr/bin/fail2ban-client";
const ACTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf-examples/fail2ban-action.conf");
const JAIL: &str = "My_Jail";
const RULE: &str = "fail2ban-my-jail";

/// A fail2ban server with one jail, which bans an address at its second line in the log.
struct Fail2ban {
    folder: PathBuf,
    server: Child,
}

impl Fail2ban {
    fn start(stage: &Stage, settings: &str) -> Self {
        let folder = stage.path("fail2ban");
        for name in ["action.d", "filter.d"] {
            fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        fs::copy(ACTION, folder.join("action.d/strikeout.conf")).expect("copied");
        let write = |name: &str, text: String| fs::write(folder.join(name), text).expect("written");
        let shown = folder.display();
        write("filter.d/bad.conf", "[Definition]\nfailregex = ^\\s*bad login of \\S+ from <HOST>$\n".into());
        write(
            "fail2ban.conf",
            format!(
                "[DEFAULT]\n[Definition]\nloglevel = INFO\nlogtarget = {shown}/log\nsyslogsocket = auto\nsocket = {shown}/sock\n\
                 pidfile = {shown}/pid\ndbfile = {shown}/db\ndbpurgeage = 1d\n"
            ),
        );
        let options = format!("program=\"{STRIKEOUT}\", options=\"--table {}\"", stage.socket().display());
        write(
            "jail.conf",
            format!(
                "[DEFAULT]\nbackend = polling\nusedns = no\nignoreself = false\nmaxretry = 2\nfindtime = 1h\nenabled = true\n\
                 {settings}\n[{JAIL}]\nport = 22\nfilter = bad\nlogpath = {shown}/offences\naction = strikeout[{options}]\n"
            ),
        );
        fs::File::create(folder.join("offences")).expect("made");
        let server = Self::server(&folder);
        Self { folder, server }
    }

    fn server(folder: &Path) -> Child {
        let server = Command::new(SERVER)
            .arg("-c")
            .arg(folder)
            .arg("-s")
            .arg(folder.join("sock"))
            .arg("-p")
            .arg(folder.join("pid"))
            .args(["-f", "start"])
            .env("TZ", "UTC")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        wait_until("fail2ban runs the jail", || Self::ask(folder, &["status", JAIL]).0);
        server
    }

    fn ask(folder: &Path, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(CLIENT).arg("-c").arg(folder).arg("-s").arg(folder.join("sock")).args(arguments).output().expect("asked");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[track_caller]
    fn command(&self, arguments: &[&str]) {
        let (is_done, text) = Self::ask(&self.folder, arguments);
        assert!(is_done, "{arguments:?}: {text}\n{}", self.log());
    }

    /// As its unit stops it.
    fn stop(&mut self) {
        self.command(&["stop"]);
        self.server.wait().expect("it ends");
    }

    fn start_again(&mut self) {
        self.server = Self::server(&self.folder);
    }

    /// Two offences of `address`, which its jail bans for.
    fn offend(&self, address: &str) {
        let mut log = fs::File::options().append(true).open(self.folder.join("offences")).expect("the log");
        let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S");
        write!(log, "{now} bad login of root from {address}\n{now} bad login of $(id)'\";x from {address}\n").expect("written");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Fail2ban {
    fn drop(&mut self) {
        end(&mut self.server);
    }
}

fn is_missing() -> bool {
    let is_missing = !Path::new(SERVER).exists();
    if is_missing {
        skip("fail2ban is not installed");
    }
    is_missing
}

/// The end of the ban of `address` by the jail, in seconds since 1970.
fn end_of(daemon: &Daemon, address: &str) -> Option<i64> {
    let bans = daemon.json(&["list", "--rule", RULE]);
    let ban = bans.as_array()?.iter().find(|ban| ban["client"] == address)?;
    ban["until"].as_i64()
}

#[test]
fn what_a_jail_bans_is_refused_with_the_jail_as_origin_until_fail2ban_unbans() {
    if is_missing() {
        return;
    }
    let daemon = Daemon::start("");
    let fail2ban = Fail2ban::start(daemon.stage(), "bantime = 1h");
    fail2ban.offend("198.51.100.7");
    wait_until("the address is banned", || daemon.text(&["list"]).contains("198.51.100.7"));
    let why = daemon.text(&["why", "198.51.100.7"]);
    assert!(why.contains("fail2ban-my-jail (another program's ban)"), "{why}");
    assert!(why.contains("2 failures: ") && why.contains("bad login of root from 198.51.100.7"), "{why}");

    // Strikeout's own ban of another client, and one of this client that lasts longer, are none of fail2ban's business.
    daemon.text(&["ban", "198.51.100.8", "1h"]);
    fail2ban.command(&["set", JAIL, "unbanip", "198.51.100.7"]);
    wait_until("the address is unbanned", || !daemon.text(&["list"]).contains("198.51.100.7"));
    fail2ban.offend("198.51.100.9");
    wait_until("the next is banned", || end_of(&daemon, "198.51.100.9").is_some());
    daemon.text(&["ban", "198.51.100.9", "2d"]);
    fail2ban.command(&["set", JAIL, "unbanip", "198.51.100.9"]);
    let list = daemon.text(&["list"]);
    assert!(list.contains("198.51.100.9") && list.contains("198.51.100.8"), "{list}");
}

#[test]
fn a_restart_of_fail2ban_neither_loses_nor_prolongs_a_ban() {
    if is_missing() {
        return;
    }
    let daemon = Daemon::start("");
    let mut fail2ban = Fail2ban::start(daemon.stage(), "bantime = 1h");
    for address in ["198.51.100.7", "2001:db8:1::7"] {
        fail2ban.offend(address);
    }
    let both = ["198.51.100.7", "2001:db8:1::/64"];
    wait_until("both are banned", || both.iter().all(|client| end_of(&daemon, client).is_some()));
    let before = both.map(|client| end_of(&daemon, client).expect("banned"));
    daemon.text(&["ban", "198.51.100.8", "1h"]);

    fail2ban.stop();
    assert_eq!(daemon.text(&["list", "--count", "--rule", RULE]), "0\n", "a stopped jail bans nobody");
    assert_eq!(daemon.text(&["list", "--count"]), "1\n", "the ban of another stays");
    fail2ban.start_again();
    wait_until("both are banned again", || both.iter().all(|client| end_of(&daemon, client).is_some()));
    for (client, before) in both.iter().zip(before) {
        let after = end_of(&daemon, client).expect("banned");
        assert!((before - after).abs() <= 2, "{client}: {before} and {after}");
    }
    assert_eq!(daemon.text(&["list", "--count"]), "3\n", "none is doubled");
}

#[test]
fn a_restart_of_the_daemon_loses_nothing_even_what_is_banned_meanwhile() {
    if is_missing() {
        return;
    }
    let daemon = Daemon::start("");
    let fail2ban = Fail2ban::start(daemon.stage(), "bantime = 1h");
    fail2ban.offend("198.51.100.7");
    wait_until("the first is banned", || end_of(&daemon, "198.51.100.7").is_some());
    let stage = daemon.stage().clone();
    daemon.end(Signal::TERM);
    fail2ban.offend("198.51.100.8");
    wait_until("fail2ban bans while the daemon is away", || fail2ban.log().contains("Ban 198.51.100.8"));
    let daemon = Daemon::start_again(&stage);
    wait_until("both are banned", || end_of(&daemon, "198.51.100.8").is_some());
    assert!(end_of(&daemon, "198.51.100.7").is_some());
}

#[test]
fn an_address_that_is_never_banned_is_refused_with_the_reason_in_fail2bans_log() {
    if is_missing() {
        return;
    }
    let daemon = Daemon::start("[defaults]\nignoreip = ['198.51.100.0/28']\n");
    let fail2ban = Fail2ban::start(daemon.stage(), "bantime = 1h");
    fail2ban.offend("198.51.100.7");
    fail2ban.offend("198.51.100.99");
    wait_until("the other is banned", || end_of(&daemon, "198.51.100.99").is_some());
    assert!(fail2ban.log().contains("198.51.100.7 is never banned: ignored network 198.51.100.0/28"), "{}", fail2ban.log());
    assert_eq!(daemon.text(&["list", "--count"]), "1\n");
}

#[test]
fn a_ban_that_fail2ban_prolongs_is_prolonged() {
    if is_missing() {
        return;
    }
    let daemon = Daemon::start("");
    // The first ban ends by itself, so that fail2ban remembers it; the second is made for as long, and then prolonged.
    let settings = "bantime = 2\nbantime.increment = true\nbantime.formula = 86400";
    let fail2ban = Fail2ban::start(daemon.stage(), settings);
    fail2ban.offend("198.51.100.7");
    wait_until("the first ban has ended", || fail2ban.log().contains("Unban 198.51.100.7"));
    fail2ban.offend("198.51.100.7");
    wait_until("the second ban lasts a day", || {
        end_of(&daemon, "198.51.100.7").is_some_and(|until| until - jiff::Timestamp::now().as_second() > 86_000)
    });
}
