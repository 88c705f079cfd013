//! What is checked of Strikeout itself: its configuration, the daemon, the state file, the socket.

use super::facts::{DaemonFault, Facts};
use super::report::Finding;
use crate::config::Config;
use crate::control::crowdsec::CrowdsecStatus;
use crate::control::status::{DaemonStatus, GeoStatus, StateStatus};
use crate::control::unit::FORBIDS_IP;
use crate::rule::Mode;

const RELOAD: &str = "strikeout reload";
const RESTART: &str = "systemctl restart strikeout";
/// Free space below which the state file may soon fail.
const LITTLE_SPACE: u64 = 50 << 20;

/// Whether the configuration and its pieces can be read, and rules are enforced by it.
pub fn configuration(facts: &Facts) -> Vec<Finding> {
    let config = match &facts.config {
        Ok(config) => config,
        Err(error) => return vec![Finding::fault("config", error.to_string(), format!("mend that line, then: {RELOAD}"))],
    };
    let pieces = match config.files.len().saturating_sub(1) {
        0 => String::new(),
        1 => " and 1 piece".to_owned(),
        pieces => format!(" and {pieces} pieces"),
    };
    let enforced = config.rules.rules().iter().filter(|rule| rule.mode == Mode::Enforce).count();
    let file = facts.config_file.display();
    let is_there = facts.config_files.iter().any(|file| file.path == facts.config_file);
    let mut findings = vec![Finding::ok(
        "config",
        if is_there { format!("{file}{pieces} can be read") } else { format!("there is no {file}: the defaults are in force{pieces}") },
    )];
    findings.push(if enforced == 0 {
        Finding::warning(
            "rules",
            "no rule is enforced, so nobody is banned by a rule",
            format!("remove mode = \"shadow\" or families = [] from the configuration, then: {RELOAD}"),
        )
    } else {
        Finding::ok("rules", format!("{enforced} rules are enforced, {} are in shadow", config.rules.rules().len() - enforced))
    });
    findings.extend(facts.unfed_rules.iter().map(|rule| {
        let text = format!("no log names the rule {rule}, so it counts nothing");
        Finding::warning("rules", text, format!("name it among the rules of a [[log]], then: {RELOAD}"))
    }));
    findings
}

/// Whether the daemon runs, with the configuration that is on disk.
pub fn daemon(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "daemon";
    let socket = facts.socket.path.display();
    let status = match &facts.daemon {
        Ok(status) => status,
        Err(_) if facts.socket.is_guessed => {
            return vec![Finding::ok(CHECK, "it cannot be asked: the configuration that names its socket cannot be read")];
        }
        Err(DaemonFault::NotRunning(fault)) => {
            let text = format!("nobody answers on {socket} ({fault}), so everybody is served");
            return vec![Finding::fault(CHECK, text, "systemctl start strikeout; if it does not stay: journalctl -u strikeout -n 20")];
        }
        Err(DaemonFault::NotAllowed(fault)) => {
            return vec![Finding::warning(CHECK, format!("this user may not ask on {socket} ({fault})"), "sudo strikeout doctor")];
        }
        Err(DaemonFault::NoAnswer(fault)) => {
            return vec![Finding::fault(CHECK, format!("the daemon listens on {socket} and does not answer: {fault}"), RESTART)];
        }
    };
    let mut findings = vec![Finding::ok(CHECK, format!("the daemon {} runs (pid {}) and answers on {socket}", status.version, status.pid))];
    findings.push(if status.version != facts.version {
        Finding::warning("version", format!("the daemon has the version {}, this program {}", status.version, facts.version), RESTART)
    } else if facts.daemon_is_replaced {
        Finding::warning("version", "the daemon's program was replaced since it was started", RESTART)
    } else {
        Finding::ok("version", format!("daemon and program have the version {}", status.version))
    });
    findings.push(in_force(facts, status));
    findings.extend(pause(status));
    findings.extend(answers(status));
    findings
}

/// Whether the configuration on disk is the one in force.
fn in_force(facts: &Facts, status: &DaemonStatus) -> Finding {
    const CHECK: &str = "config-in-force";
    // A fault that is still there is a finding of its own.
    if facts.config.is_err() {
        return Finding::ok(CHECK, format!("what was read {} s ago stays in force", status.config.since_ago));
    }
    if let Some(refused) = &status.config.refused {
        let text = format!("the last reload was refused, and what was read before stays in force: {}", refused.fault);
        return Finding::fault(CHECK, text, RELOAD);
    }
    // In wall time, which was perhaps set since the start.
    let since = status.config.since.saturating_add(status.wall_clock_drift_ms / 1000);
    if let Some(file) = facts.config_files.iter().find(|file| file.changed > since) {
        return Finding::warning(CHECK, format!("{} was changed after the daemon had read it", file.path.display()), RELOAD);
    }
    let pieces = facts.config.as_ref().map(|config| config.files.iter().skip(1).map(|file| file.display().to_string()).collect::<Vec<_>>());
    if pieces.is_ok_and(|pieces| pieces != status.config.pieces) {
        return Finding::warning(CHECK, "a piece in conf.d has come or gone since the daemon read the configuration", RELOAD);
    }
    Finding::ok(CHECK, "the daemon has the configuration that is on disk")
}

fn pause(status: &DaemonStatus) -> Option<Finding> {
    let pause = status.paused.as_ref()?;
    Some(Finding::warning(
        "pause",
        format!("everybody is served because of a pause, for another {} s", pause.remaining),
        "strikeout resume",
    ))
}

/// Answers and offences that did not go as they should.
fn answers(status: &DaemonStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    if status.answers_failed_open > 0 {
        let text = format!("{} answers accepted because of a fault since the daemon was started", status.answers_failed_open);
        findings.push(Finding::warning("answers", text, "journalctl -u strikeout -p warning -n 50"));
    }
    if status.offences_dropped > 0 {
        let text = format!("{} offences were never counted, because the daemon could not take them in time", status.offences_dropped);
        findings.push(Finding::warning("answers", text, "look for a stalled disk or a busy processor: strikeout status --watch"));
    }
    if status.bans_evicted > 0 {
        let text = format!("{} bans ended early, because the table was full", status.bans_evicted);
        findings.push(Finding::warning("answers", text, format!("raise bans in [table], then: {RESTART}")));
    }
    if status.networks_refused + status.networks_evicted > 0 {
        let text = format!(
            "rules have banned so many networks that {} bans were not made and {} ended early",
            status.networks_refused, status.networks_evicted
        );
        findings.push(Finding::warning("answers", text, "strikeout list shows them; put the rule that bans most into shadow mode"));
    }
    findings.extend(status.false_bans.iter().filter(|rule| !rule.shadow).map(|rule| {
        let text = format!("rule {}: {} of the last {} clients that it banned look good", rule.rule, rule.legitimate, rule.clients);
        let piece = format!("[[rule]]\\nname = \"{0}\"\\nmode = \"shadow\"\\n", rule.rule);
        Finding::warning("false-bans", text, format!("printf '{piece}' > /etc/strikeout/conf.d/{}.toml && {RELOAD}", rule.rule))
    }));
    findings
}

/// Whether bans are saved.
pub fn state(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "state";
    let Some((status, config)) = facts.running() else { return Vec::new() };
    let file = config.table.state.display();
    vec![match (&status.state, facts.state_free) {
        (StateStatus::Degraded(reason), _) => Finding::fault(
            CHECK,
            format!("bans are in memory only: {reason}"),
            format!("see \"When the state file fails\" in /usr/share/doc/strikeout/operators.md; look at {file} and its disk"),
        ),
        (StateStatus::None, _) => Finding::ok(CHECK, "no state file is configured: bans end with the daemon"),
        (StateStatus::Ok, Some(free)) if free < LITTLE_SPACE => {
            Finding::warning(CHECK, format!("only {} MiB are free on the disk of {file}", free >> 20), format!("df -h {file}"))
        }
        (StateStatus::Ok, _) => Finding::ok(CHECK, format!("bans are saved in {file}")),
    }]
}

/// Whether the databases of `[geo]` can be used. The daemon says so: its user reads them.
pub fn geo(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "geo";
    let Some((status, _)) = facts.running() else { return Vec::new() };
    let findings = status.geo.iter().map(|database| {
        let GeoStatus { kind, file, networks, fault, .. } = database;
        match fault {
            None => Finding::ok(CHECK, format!("the database {file} ({kind}) has {networks} networks")),
            Some(fault) => {
                let kept = if *networks > 0 { "the last good one stays in use" } else { "rules that need it match nobody" };
                let text = format!("the database {file} ({kind}) cannot be used, {kept}: {fault}");
                Finding::fault(
                    CHECK,
                    text,
                    format!("download {file} again, readable for the daemon's user, under another name, and rename it"),
                )
            }
        }
    });
    findings.collect()
}

/// Lets the daemon go to services on this machine.
const ALLOW_IP: &str = "mkdir -p /etc/systemd/system/strikeout.service.d; cp /usr/share/doc/strikeout/examples/strikeout-network.conf \
                        /etc/systemd/system/strikeout.service.d/network.conf; systemctl daemon-reload; systemctl restart strikeout";

/// Whether CrowdSec's local API answers the daemon, and its key is a secret.
pub fn crowdsec(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "crowdsec";
    let Some(status) = facts.running().and_then(|(status, _)| status.crowdsec.as_ref()) else { return Vec::new() };
    let CrowdsecStatus { url, key_file, decisions, .. } = status;
    let skipped = status.skipped_text();
    let mut findings = vec![match (&status.fault, status.answered_ago) {
        (None, Some(_)) => Finding::ok(CHECK, format!("{url} answers: {decisions} decisions are in force{skipped}")),
        (None, None) => Finding::ok(CHECK, format!("{url} is being asked for the first time")),
        (Some(fault), _) => {
            let text = format!("the {decisions} decisions that are known stand until they end, and no new one comes: {fault}");
            let remedy = if fault.contains(key_file.as_str()) {
                format!("cscli bouncers delete strikeout; cscli bouncers add strikeout -o raw > {key_file}")
            } else if fault.contains(FORBIDS_IP) {
                ALLOW_IP.to_owned()
            } else {
                "systemctl status crowdsec; cscli lapi status".to_owned()
            };
            Finding::fault(CHECK, text, remedy)
        }
    }];
    if status.key_is_public {
        let text = format!("every user of this machine can read the key in {key_file}");
        findings.push(Finding::warning(CHECK, text, format!("chown root:strikeout {key_file}; chmod 640 {key_file}")));
    }
    findings
}

/// Whether only those may ask who should.
pub fn socket(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "socket";
    let Some((status, config)) = facts.running() else { return Vec::new() };
    if status.socket != facts.socket.path.display().to_string() {
        let text = format!(
            "the daemon was started with the socket {}, and the configuration names {}",
            status.socket,
            facts.socket.path.display()
        );
        return vec![Finding::warning(CHECK, text, RESTART)];
    }
    let Some(access) = &facts.socket.access else { return vec![Finding::ok(CHECK, "who may ask, only root can see")] };
    let everybody = super::facts::Credentials { user: u32::MAX, groups: Vec::new() };
    if everybody.may_open(access) {
        let text = "every user of this machine may ask and name clients to refuse";
        return vec![Finding::warning(CHECK, text, format!("write mode = \"0660\" in [table], then: {RESTART}"))];
    }
    vec![mode(config, &facts.socket.group)]
}

fn mode(config: &Config, group: &str) -> Finding {
    let wanted = &config.table.group;
    if wanted.is_empty() || wanted == group {
        return Finding::ok("socket", format!("root and the group {group} may ask"));
    }
    let text = format!("the socket belongs to the group {group}, and the configuration names {wanted}");
    Finding::warning("socket", text, format!("addgroup --system {wanted}; {RESTART}"))
}
