//! The questions with which docs/operators.md begins, each answered by the page's own commands, on a real Squid and a real Exim.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{STRIKEOUT, Stage, wait_until};
use crate::rig::{Mail, get, request};
use crate::sound::{Plan, Sound, stage};

/// Each section before the reference, with the commands of its first block, a line each.
fn questions() -> Vec<(String, Vec<String>)> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operators.md")).unwrap();
    let (questions, _) = page.split_once("\n# Reference\n").expect("the reference stands behind the questions");
    let section = |text: &str| {
        let (title, rest) = text.split_once('\n').unwrap();
        let block = rest.split_once("```sh\n").and_then(|(_, rest)| rest.split_once("```")).map_or("", |(block, _)| block);
        (title.to_owned(), block.lines().map(str::to_owned).collect())
    };
    questions.split("\n## ").skip(1).map(section).collect()
}

fn commands(title: &str) -> Vec<String> {
    let found = questions().into_iter().find(|(question, _)| question.starts_with(title));
    found.unwrap_or_else(|| panic!("docs/operators.md has no section {title}")).1
}

/// A stage whose programs are found in the path under the names that the page uses.
struct Machine {
    sound: Sound,
    programs: PathBuf,
    stage: Stage,
}

impl Machine {
    fn start() -> Option<Self> {
        let stage = stage()?;
        for folder in ["conf.d", "squid.d", "sbin"] {
            fs::create_dir(stage.path(folder)).unwrap();
        }
        stage.write("squid.d/10-other.conf", "# another piece\n");
        let mut plan = Plan::new(&stage);
        plan.squid = format!("include {}/*.conf\n{}", stage.path("squid.d").display(), plan.squid);
        let sound = plan.start(&stage);
        let machine = Self { programs: stage.path("sbin"), stage, sound };
        let config = machine.stage.config();
        let (squid, exim) = (machine.sound.squid.config().display(), machine.sound.exim.config().display());
        machine.program(
            "strikeout",
            &format!(
                "[ \"$1\" = doctor ] && set -- \"$@\" --squid {squid} --exim {exim}\nexec {STRIKEOUT} \"$@\" --config {}\n",
                config.display()
            ),
        );
        machine.program("squid", &format!("exec {} \"$@\"\n", machine.sound.squid.command().join(" ")));
        // What the edge publishes; its last line has no end.
        machine.program("curl", "case $* in *-v4) printf '203.0.113.0/24\\n198.18.0.0/15' ;; *) printf '2001:db8:ed::/48' ;; esac\n");
        Some(machine)
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.programs.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs one command of the page: what it prints, and its exit code.
    fn run(&self, command: &str) -> (String, Option<i32>) {
        let command = command.replace("/etc/squid/conf.d/", &format!("{}/", self.stage.path("squid.d").display()));
        let command = command.replace("/etc/strikeout/", &format!("{}/", self.stage.path("").display()));
        let output = Command::new("bash")
            .args(["-c", &command])
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.programs.display()))
            .env("SSH_CONNECTION", "")
            .output()
            .unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr), output.status.code())
    }

    /// Runs a command that must succeed.
    #[track_caller]
    fn done(&self, command: &str) -> String {
        let (text, code) = self.run(command);
        assert_eq!(code, Some(0), "{command}: {text}");
        text
    }

    fn web(&self, client: &str, path: &str) -> u16 {
        get(self.sound.squid.port(), client, path)
    }

    fn mail(&self, client: &str) -> u16 {
        Mail::code(self.sound.exim.port(), client)
    }
}

#[test]
fn the_page_begins_with_seven_questions_of_at_most_three_commands() {
    let questions = questions();
    assert_eq!(questions.len(), 7, "{questions:?}");
    for (title, commands) in questions {
        assert!((1..=3).contains(&commands.len()), "{title}: {commands:?}");
    }
}

#[test]
fn stop_everything_now() {
    let Some(machine) = Machine::start() else { return };
    assert_eq!((machine.web("198.51.100.1", "/w00tw00t"), machine.mail("198.51.100.1")), (429, 421));
    let [pause, status, resume] = commands("Stop everything now").try_into().unwrap();
    machine.done(&pause);
    wait_until("Squid serves", || machine.web("198.51.100.1", "/") == 200);
    assert_eq!((machine.web("198.51.100.2", "/w00tw00t"), machine.mail("198.51.100.1")), (200, 220));
    assert!(machine.done(&status).contains("PAUSED"));
    machine.done(&resume);
    wait_until("Squid refuses", || machine.web("198.51.100.1", "/") == 429);
    assert_eq!(machine.mail("198.51.100.1"), 421);
}

#[test]
fn a_customer_cannot_reach_us_and_who_is_banned() {
    let Some(machine) = Machine::start() else { return };
    let customer = "198.51.100.25";
    assert_eq!((machine.web(customer, "/w00tw00t"), machine.mail(customer)), (429, 421));
    let [evidence, count, shadow] = commands("Who is banned, and why").try_into().unwrap();
    let listed = machine.done(&evidence);
    assert!(listed.contains(customer) && listed.contains("GET http://example.test/w00tw00t"), "{listed}");
    assert!(machine.done(&count).contains('1'));
    machine.done(&shadow);
    let [why, unban] = commands("A customer cannot reach us").try_into().unwrap();
    let (text, code) = machine.run(&why);
    assert!(code == Some(3) && text.contains("is refused on the web and in mail") && text.contains(&unban), "{text}");
    machine.done(&unban);
    assert_eq!(machine.mail(customer), 220);
    wait_until("the customer is served", || machine.web(customer, "/") == 200);
    assert!(machine.done(&why).contains("not refused"));
}

#[test]
fn never_ban_my_office() {
    let Some(machine) = Machine::start() else { return };
    let office = "192.0.2.44";
    assert_eq!((machine.web(office, "/w00tw00t"), machine.mail(office)), (429, 421));
    let [write, reload, why] = commands("Never ban my office").try_into().unwrap();
    machine.done(&write);
    machine.done(&reload);
    assert!(machine.done(&why).contains("it is never banned"));
    assert_eq!(machine.mail(office), 220);
    // The helper hears of the ban's end and of the list one after the other.
    wait_until("the office may send probes", || machine.web(office, "/w00tw00t") == 200);
    assert_eq!(machine.web(office, "/"), 200);
}

#[test]
fn is_my_rule_in_force() {
    let Some(machine) = Machine::start() else { return };
    machine.stage.write("conf.d/mine.toml", "[[rule]]\nname = 'mine'\npath = '^/mine$'\nmaxretry = 1\n");
    assert_eq!(machine.web("198.51.100.1", "/mine"), 200);
    let [check, reload, test] = commands("Is my rule in force").try_into().unwrap();
    assert!(machine.done(&check).contains("\nrule mine: 1 in "));
    machine.done(&reload);
    assert!(machine.done(&test).contains("w00tw00t"));
    wait_until("the helper has it", || machine.web("198.51.100.1", "/mine") == 429);
    machine.stage.write("conf.d/mine.toml", "[[rule]]\nname = 'mine'\npath = '('\n");
    let (text, code) = machine.run(&check);
    assert!(code == Some(2) && text.contains("mine.toml:3: "), "{text}");
    let (text, code) = machine.run(&reload);
    assert!(code == Some(1) && text.contains("stays in force"), "{text}");
}

#[test]
fn behind_an_edge_with_its_published_lists() {
    let Some(machine) = Machine::start() else { return };
    // The last address is the one that has connected to Squid.
    let through_edge = |client: &str| format!("{client}, 203.0.113.80");
    assert_eq!(machine.web(&through_edge("198.51.100.77"), "/w00tw00t"), 429);
    assert_eq!(machine.web(&through_edge("198.51.100.78"), "/"), 429, "nothing is configured, and the edge itself is banned");
    for command in commands("Behind Cloudflare") {
        machine.done(&command);
    }
    assert_eq!(fs::read_to_string(machine.stage.path("edge.txt")).unwrap(), "203.0.113.0/24\n198.18.0.0/15\n2001:db8:ed::/48");
    // Squid closes its port for a moment while it reads its configuration.
    let asked = |client: &str| request(machine.sound.squid.port(), &through_edge(client), "GET", "/", "");
    wait_until("a visitor is served", || asked("198.51.100.78").is_ok_and(|reply| reply.status == 200));
    wait_until("the scanner is blamed", || machine.web(&through_edge("198.51.100.77"), "/w00tw00t") == 429);
    assert_eq!(machine.web(&through_edge("198.51.100.78"), "/"), 200);
    assert_eq!(machine.web(&through_edge("198.51.100.77"), "/"), 429);
    let listed = machine.done("strikeout list");
    assert!(listed.contains("198.51.100.77") && !listed.contains("203.0.113.80"), "{listed}");
    let [doctor] = commands("Is it working at all").try_into().unwrap();
    let report = machine.done(&doctor);
    assert!(report.contains("No fault, no warning."), "{report}");
}

#[test]
fn is_it_working_at_all() {
    let Some(machine) = Machine::start() else { return };
    let [doctor] = commands("Is it working at all").try_into().unwrap();
    assert!(machine.done(&doctor).contains("No fault, no warning."));
    fs::remove_file(machine.stage.socket()).unwrap();
    let (report, code) = machine.run(&doctor);
    assert!(code == Some(1) && report.contains("systemctl start strikeout"), "{report}");
}
