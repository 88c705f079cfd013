//! `strikeout doctor`, on a real Squid and a real Exim: silent where all is sound, and naming what is broken and nothing else.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Daemon, STRIKEOUT, Stage, free_port, wait_until};
use crate::rig::{Mail, get};
use crate::sound::{Plan, Sound, stage};

impl Sound {
    /// What doctor reports: what is not sound, as `level check`, and everything.
    fn report(&self) -> (Vec<String>, Value) {
        let output = Command::new(STRIKEOUT)
            .args(["doctor", "--json", "--config"])
            .arg(self.stage.config())
            .arg("--squid")
            .arg(self.squid.config())
            .arg("--exim")
            .arg(self.exim.config())
            // The session in which the tests run is none of its business.
            .env("SSH_CONNECTION", self.session)
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let findings = report["findings"].as_array().unwrap().iter();
        let bad = findings.filter(|finding| finding["level"] != "ok");
        let bad: Vec<String> =
            bad.map(|finding| format!("{} {}", finding["level"].as_str().unwrap(), finding["check"].as_str().unwrap())).collect();
        let has_fault = bad.iter().any(|finding| finding.starts_with("fault"));
        assert_eq!(output.status.code(), Some(i32::from(has_fault)), "{report:#}");
        assert!(
            report["findings"].as_array().unwrap().iter().all(|finding| (finding["level"] == "ok") == finding["remedy"].is_null()),
            "{report:#}"
        );
        (bad, report)
    }

    /// Expects doctor to name this and nothing else.
    #[track_caller]
    fn expect(&self, fault: &str, expected: &str) {
        let (found, report) = self.report();
        assert_eq!(found, [expected], "{fault}: {report:#}");
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.stage.strikeout(arguments);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

/// Makes a file one that was changed after everything has read it, and returns when it was changed before.
fn age(path: &Path) -> SystemTime {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    set_changed(path, SystemTime::now() + Duration::from_secs(60));
    before
}

fn set_changed(path: &Path, time: SystemTime) {
    File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Starts the sound plan as changed by `change`, and expects doctor to name `expected` alone.
#[track_caller]
fn seeded(fault: &str, expected: &str, change: impl FnOnce(&Stage, &mut Plan)) {
    let Some(stage) = stage() else { return };
    let mut plan = Plan::new(&stage);
    change(&stage, &mut plan);
    plan.start(&stage).expect(fault, expected);
}

#[test]
fn a_sound_stage_has_no_fault_and_no_warning_before_and_after_its_first_bans() {
    for (squid, exim) in [("squid-failopen.conf", "exim-readsocket.acl"), ("squid.conf", "exim-run.acl")] {
        let Some(stage) = stage() else { return };
        let mut plan = Plan::new(&stage);
        plan.squid = format!("cache_effective_group Debian-exim\n{}", stage.squid_example(squid));
        plan.acl = stage.exim_example(exim);
        // As Debian's, for Exim as a client: nobody can log in here.
        plan.authenticators = "plain:\n  driver = plaintext\n  public_name = PLAIN\n  client_send = ^user^secret\n";
        let mut sound = plan.start(&stage);
        sound.session = "127.0.0.1 50000 192.0.2.1 22";
        let (found, report) = sound.report();
        assert!(found.is_empty() && report["unseen"] == serde_json::json!([]), "{report:#}");
        assert_eq!(get(sound.squid.port(), "198.51.100.1", "/w00tw00t"), 429);
        assert_eq!(Mail::code(sound.exim.port(), "198.51.100.1"), 421);
        let (found, report) = sound.report();
        assert!(found.is_empty(), "{report:#}");
        let text = |check: &str| {
            let findings = report["findings"].as_array().unwrap().iter();
            findings.filter(|finding| finding["check"] == check).map(|finding| finding["text"].as_str().unwrap()).collect::<String>()
        };
        assert!(text("squid-attached").contains("attached; Squid asked last "), "{report:#}");
        assert!(text("exim-asked").contains("Exim asked last "), "{report:#}");
        assert!(text("your-address").contains("127.0.0.1 is never banned"), "{report:#}");
        assert!(text("squid-group").contains("proxy, as which it runs now, may ask"), "{report:#}");

        // Right after a restart of the daemon, before Squid's helpers are back.
        sound.daemon.kill();
        sound.daemon = Daemon::start_again(&stage);
        let (found, report) = sound.report();
        assert!(found.is_empty(), "{report:#}");
    }
}

#[test]
fn the_configuration_and_what_is_in_force_of_it() {
    let Some(stage) = stage() else { return };
    let list = stage.write("office.txt", "192.0.2.0/24\n");
    fs::create_dir(stage.path("conf.d")).unwrap();
    let piece = |text: &str| stage.write("conf.d/piece.toml", text);
    piece("");
    let mut plan = Plan::new(&stage);
    plan.rules = format!("[defaults]\nignoreip = ['127.0.0.0/8', {list:?}]\n");
    let mut sound = plan.start(&stage);
    piece("[[rule]]\nname = 'x'\npath = '('\n");
    assert!(sound.text(&["reload"]).contains("found the pattern '('"));
    sound.expect("a piece with an error", "fault config");
    piece("this is no TOML");
    sound.expect("a piece that is no TOML", "fault config");
    piece("[[rule]]\nname = 'x'\npath = '/x'\n");
    sound.expect("the last reload was refused", "fault config-in-force");
    sound.text(&["reload"]);
    sound.expect_nothing();
    fs::remove_file(stage.path("conf.d/piece.toml")).unwrap();
    sound.expect("a piece has gone", "warning config-in-force");
    sound.text(&["reload"]);
    let before = age(&list);
    sound.expect("a list has changed", "warning config-in-force");
    set_changed(&list, before);
    piece("[[rule]]\nname = 'sshd'\nfailregex = '^bad <HOST>$'\n");
    sound.text(&["reload"]);
    sound.expect("no log feeds a rule", "warning rules");
    piece("[defaults]\nignoreip = ['0.0.0.0/0']\n");
    sound.text(&["reload"]);
    sound.expect("nobody can be banned", "warning lists");
    piece("[hook]\ncommand = ['/no/such/program']\n");
    sound.text(&["reload"]);
    sound.expect("the hook's program is missing", "fault hook");
    piece("[hook]\ncommand = ['/bin/false']\n");
    sound.text(&["reload"]);
    sound.text(&["ban", "198.51.100.9"]);
    wait_until("the hook has failed", || sound.daemon.object("status")["hook"]["failed"] == 1);
    sound.expect("the hook fails", "warning hook");
    piece(&format!("[[log]]\npath = {:?}\n", stage.path("none.log")));
    sound.text(&["reload"]);
    wait_until("the log is missed", || sound.daemon.object("status")["logs"].to_string().contains("no such file"));
    sound.expect("a log is missing", "fault logs");
    piece("");
    sound.text(&["reload"]);
    sound.session = "203.0.113.50 50000 192.0.2.1 22";
    sound.expect("the operator can be banned", "warning your-address");
    sound.text(&["ban", "203.0.113.50"]);
    sound.expect("the operator is banned", "fault your-address");
    sound.session = "";
    sound.text(&["pause", "1h"]);
    sound.expect("everybody is served", "warning pause");
    sound.text(&["resume"]);
    sound.daemon.signal(Signal::STOP);
    sound.expect("the daemon hangs", "fault daemon");
    sound.daemon.signal(Signal::CONT);
    sound.daemon.kill();
    sound.expect("the daemon is gone", "fault daemon");
}

impl Sound {
    #[track_caller]
    fn expect_nothing(&self) {
        let (found, report) = self.report();
        assert!(found.is_empty(), "{report:#}");
    }
}

#[test]
fn the_daemon_and_what_it_was_started_with() {
    seeded("no rule is in force", "warning rules", |_, plan| plan.rules = "[defaults]\nfamilies = []\n".into());
    seeded("the state file cannot be written", "fault state", |stage, plan| {
        let path = stage.write("file", "");
        plan.rules = format!("# {path:?}");
        plan.table = "";
        // The directory of the state file is a file.
        fs::write(stage.path("state"), "").unwrap();
    });
    seeded("everybody may name clients", "warning socket", |_, plan| plan.table = "mode = '0666'\n");
    seeded("nobody answers for the fleet", "fault fleet", |_, plan| {
        plan.rules = format!("[fleet]\nurl = 'redis://127.0.0.1:{}/0'\nnode = 'one'\n", free_port());
    });
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in taken.incoming().flatten() {
            drop(stream);
        }
    });
    seeded("something else listens for the metrics", "fault metrics", |_, plan| {
        plan.rules = format!("[metrics]\nlisten = '{address}'\n");
    });
}

#[test]
fn squids_configuration_as_it_runs_now() {
    seeded("Squid asks about nothing", "fault squid-helper", |_, plan| plan.squid = String::new());
    seeded("Squid is in no group", "fault squid-group", |_, plan| {
        plan.squid = plan.squid.replace("cache_effective_group Debian-exim\n", "")
    });
    seeded("the helper asks elsewhere", "fault squid-socket", |stage, plan| {
        plan.squid = plan.squid.replace(stage.socket().to_str().unwrap(), "/run/other.sock");
    });
    seeded("the helper has a table of its own", "warning squid-socket", |stage, plan| {
        plan.squid = plan.squid.replace(&format!("--table {}", stage.socket().display()), "");
    });
    seeded("everybody is allowed before", "fault squid-order", |stage, plan| {
        let example = stage.squid_example("squid.conf");
        plan.squid = format!("cache_effective_group Debian-exim\nhttp_access allow all\n{example}");
    });
    seeded("some are allowed before", "warning squid-order", |stage, plan| {
        let example = stage.squid_example("squid.conf");
        plan.squid = format!("cache_effective_group Debian-exim\nacl office src 192.0.2.0/24\nhttp_access allow office\n{example}");
    });
    seeded("the list is never looked at", "fault squid-order", |_, plan| plan.squid = plan.squid.replace("\nurl_rewrite_program", "\n#"));
    seeded("nobody is refused", "fault squid-refusal", |_, plan| plan.squid = plan.squid.replace("\nadapted_http_access", "\n#"));
    seeded("the answers are cached", "warning squid-cache", |_, plan| {
        plan.squid = plan.squid.replace("ttl=0 negative_ttl=0 grace=0 cache=0", "ttl=60");
    });
    seeded("the URL is ambiguous", "warning squid-format", |_, plan| {
        plan.squid = plan.squid.replace("%#>ru %#.300{User", "%>ru %#.300{User")
    });
    seeded("headers have no names", "fault squid-format", |_, plan| {
        plan.squid = plan.squid.replace("%#{Sec-Fetch-Site}>h", "%#{Sec-Fetch-Site}>h %#.300{Referer}>h %#{Cookie}>h");
    });
    seeded("the fields are in another order", "fault squid-format", |_, plan| plan.squid = plan.squid.replace("%>rm %#>ru", "%#>ru %>rm"));
}

#[test]
fn squids_logs_and_its_clients_addresses() {
    seeded("Squid writes no log for us", "warning squid-log", |_, plan| {
        plan.squid = plan.squid.lines().filter(|line| !line.contains("logformat=strikeout ")).collect::<Vec<_>>().join("\n");
    });
    seeded("nobody follows Squid's log", "warning squid-log", |_, plan| plan.follows_squid = false);
    seeded("everything counts twice", "fault squid-log", |_, plan| {
        plan.squid = plan.squid.replace("\nurl_rewrite_access deny strikeout_asked !all", "\n#");
        plan.squid = plan.squid.replace("\nurl_rewrite_access deny strikeout_has_password", "\n#");
    });
    seeded("clients choose who is blamed", "fault squid-clients", |_, plan| plan.squid += "\nfollow_x_forwarded_for allow all\n");
    seeded("the balancer can be banned", "warning squid-clients", |_, plan| {
        plan.squid += "\nacl balancer src 192.0.2.10\nfollow_x_forwarded_for allow balancer\n";
    });
    seeded("addresses are cut", "fault squid-clients", |_, plan| plan.squid += "\nclient_netmask 255.255.255.0\n");
    seeded("the balancer is judged", "fault squid-clients", |_, plan| plan.squid += "\nlog_uses_indirect_client off\n");
}

#[test]
fn squid_after_it_was_started() {
    let Some(stage) = stage() else { return };
    let sound = Plan::new(&stage).start(&stage);
    age(sound.squid.config());
    sound.expect("Squid's configuration has changed", "warning squid-reload");
    let Some(stage) = crate::sound::stage() else { return };
    let sound = Plan::new(&stage).start(&stage);
    sound.expect_nothing();
    assert_eq!(get(sound.squid.port(), "198.51.100.1", "/"), 200);
    let log = stage.squid_log();
    let mut garbage = File::options().append(true).open(&log).unwrap();
    std::io::Write::write_all(&mut garbage, "what is this?\n".repeat(50).as_bytes()).unwrap();
    wait_until("the garbage was read", || sound.daemon.object("status")["logs"].to_string().contains("what is this?"));
    sound.expect("a log is not understood", "fault logs");
    let Some(stage) = crate::sound::stage() else { return };
    let sound = Plan::new(&stage).start(&stage);
    let helper = stage.program("ext_strikeout_acl");
    fs::remove_file(&helper).unwrap();
    sound.expect("the helper is gone", "fault squid-helper");
    fs::write(&helper, "#!/bin/sh\necho ext_strikeout_acl 0.0.9\n").unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    sound.expect("the helper is of another version", "warning squid-helper");
    assert!(sound.report().1.to_string().contains("0.0.9"), "{:#}", sound.report().1);
}

#[test]
fn one_client_with_most_of_the_traffic() {
    let Some(stage) = stage() else { return };
    let sound = Plan::new(&stage).start(&stage);
    for _ in 0..600 {
        assert_eq!(get(sound.squid.port(), "192.0.2.10", "/"), 200);
    }
    wait_until("the daemon knows", || !sound.daemon.object("status")["heaviest"].as_array().unwrap().is_empty());
    sound.expect("a balancer that nobody named", "warning traffic");
    let expected = "192.0.2.10 makes 100 % of the last ";
    assert!(sound.text(&["status"]).contains(expected));
    assert!(sound.text(&["why", "203.0.113.9"]).contains(expected), "of another client");
    sound.text(&["ban", "192.0.2.10"]);
    sound.expect("the balancer is banned", "fault traffic");
    assert!(sound.text(&["why", "203.0.113.9"]).contains("everybody behind it is banned with it"));
}

#[test]
fn exims_configuration_as_it_runs_now() {
    seeded("Exim asks about nothing", "fault exim-acl", |_, plan| plan.acl = "accept\n".into());
    seeded("Exim is in no group", "fault exim-group", |_, plan| {
        plan.group = "proxy";
        plan.squid = plan.squid.replace("cache_effective_group Debian-exim\n", "");
    });
    seeded("Exim asks elsewhere", "fault exim-socket", |stage, plan| {
        plan.acl = plan.acl.replace(stage.socket().to_str().unwrap(), "/run/strikeout/other.sock");
    });
    seeded("Exim would wait for ever", "warning exim-acl", |_, plan| plan.acl = plan.acl.replace("{1s}", "{500ms}"));
    seeded("Exim fails closed", "warning exim-acl", |_, plan| plan.acl = plan.acl.replace("{1s}{}{accept}", "{1s}"));
    seeded("everybody is accepted before", "fault exim-acl", |_, plan| plan.acl = format!("accept\n{}", plan.acl));
    seeded("everybody is accepted before, in more words", "fault exim-acl", |_, plan| plan.acl = format!("accept hosts = *\n{}", plan.acl));
    seeded("everybody is denied at the end", "fault exim-acl", |_, plan| {
        plan.acl = plan.acl.trim_end().strip_suffix("accept").unwrap().to_owned();
    });
    seeded("nobody follows Exim's log", "warning exim-log", |_, plan| plan.follows_exim = false);
    seeded("guessed passwords count nothing", "warning exim-logins", |_, plan| {
        plan.authenticators = "plain:\n  driver = plaintext\n  public_name = PLAIN\n  server_prompts = :\n  server_condition = false\n";
    });
}

#[test]
fn exim_after_it_was_started() {
    let Some(stage) = stage() else { return };
    let mut plan = Plan::new(&stage);
    plan.exim_options = "log_selector = +smtp_connection\n";
    plan.rules = "# KOLKATA\n".into();
    let sound = plan.start(&stage);
    sound.expect_nothing();
    assert_eq!(Mail::code(sound.exim.port(), "198.51.100.1"), 220);
    wait_until("the times are noticed", || sound.daemon.object("status")["logs"].to_string().contains("the clock"));
    sound.expect("a log in another time zone", "fault logs");
    let Some(stage) = crate::sound::stage() else { return };
    let sound = Plan::new(&stage).start(&stage);
    age(sound.exim.config());
    sound.expect("Exim's configuration has changed", "warning exim-reload");
    let Some(stage) = crate::sound::stage() else { return };
    let sound = Plan::new(&stage).start(&stage);
    let acl = stage.path(sound.exim.config().file_name().unwrap().to_str().unwrap()).with_extension("acl");
    fs::set_permissions(&acl, fs::Permissions::from_mode(0o600)).unwrap();
    sound.expect("Exim may not read its ACL", "fault exim-acl");
}
