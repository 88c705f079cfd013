//! All checks of one Exim, in the order in which a connection meets them.

use std::path::Path;

use super::acl::{OrderFault, Question, order_fault, questions};
use crate::config::DEFAULT_SOCKET;
use crate::doctor::facts::{EximAcl, EximFacts, EximSettings, Facts, ServerFacts, is_same_path};
use crate::doctor::report::{Finding, Level};
use crate::doctor::server;

const RESTART: &str = "update-exim4.conf && systemctl restart exim4";
const FOLLOW: &str = "follow /usr/share/doc/strikeout/install-exim.md, step 1: copy exim-readsocket.acl, set acl_smtp_connect, then: systemctl restart exim4";

/// The findings about all Exims that run.
pub fn check(facts: &Facts) -> Vec<Finding> {
    if facts.exims.is_empty() {
        return vec![match &facts.stopped.exim {
            Some(connect) => {
                let text = format!("no Exim runs here, although acl_smtp_connect = {connect} asks Strikeout");
                Finding::warning("exim", text, "systemctl start exim4; journalctl -u exim4 -n 20")
            }
            None => Finding::ok("exim", "no Exim runs here"),
        }];
    }
    facts.exims.iter().flat_map(|exim| of_one(exim, facts)).collect()
}

fn of_one(exim: &EximFacts, facts: &Facts) -> Vec<Finding> {
    let ServerFacts { pid, config, version, .. } = &exim.server;
    let version = version.as_deref().unwrap_or_default();
    let Some(settings) = &exim.settings else {
        return vec![Finding::ok("exim", format!("Exim {version} runs (pid {pid}); what it asks only root can see").replace("  ", " "))];
    };
    let ports = settings.ports.join(", ");
    let mut findings = vec![Finding::ok(
        "exim",
        format!("Exim {version} runs (pid {pid}) with {}, on the ports {ports}", config.display()).replace("  ", " "),
    )];
    findings.push(connect(settings, facts));
    // Without a question nothing else can be wrong with it.
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        findings.extend(server::group(&exim.server, &facts.socket, "exim", "exim4"));
        findings.extend(logins(settings, &facts.socket.path));
    }
    findings.extend(server::is_current(&exim.server, exim.newest.as_ref(), "exim", "systemctl restart exim4"));
    findings.extend(main_log(settings, facts));
    if let Ok(status) = &facts.daemon {
        findings.push(Finding::ok("exim-asked", server::last_asked("Exim", status.asked.exim)));
    }
    findings
}

/// Whether a socket that Exim asks is ours: it has that path, or a name like it.
fn is_ours(path: &Path, socket: &Path) -> bool {
    is_same_path(path, socket) || path.to_string_lossy().contains("strikeout")
}

fn asks(acl: Option<&EximAcl>, socket: &Path) -> Vec<Question> {
    acl.and_then(|acl| acl.text.as_deref()).map(|text| questions(text, |path| is_ours(path, socket))).unwrap_or_default()
}

/// The ACL that decides on each connection.
fn connect(settings: &EximSettings, facts: &Facts) -> Finding {
    let socket = &facts.socket.path;
    let Some(acl) = &settings.connect else {
        return Finding::fault("exim-acl", "Exim has no acl_smtp_connect, so it asks about no connection", FOLLOW);
    };
    if acl.is_unreadable {
        let text = format!("Exim's user may not read {}, so every connection gets a 451", acl.value);
        return Finding::fault("exim-acl", text, format!("chmod 644 {}", acl.value));
    }
    let Some(text) = acl.text.as_deref() else {
        return Finding::fault("exim-acl", format!("acl_smtp_connect = {} names nothing that can be read", acl.value), FOLLOW);
    };
    let questions = questions(text, |path| is_ours(path, socket));
    let Some(question) = questions.first() else {
        return Finding::fault("exim-acl", format!("acl_smtp_connect = {} does not ask Strikeout", acl.value), FOLLOW);
    };
    let asked = question.socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET));
    if !is_same_path(asked, socket) && !facts.socket.is_guessed {
        let text = format!("acl_smtp_connect = {} asks on {}, and the daemon listens on {}", acl.value, asked.display(), socket.display());
        return Finding::fault("exim-socket", text, format!("write {} there, then: {RESTART}", socket.display()));
    }
    if let Some(danger) = questions.iter().find_map(|question| question.danger.as_ref()) {
        return Finding::warning(
            "exim-acl",
            format!("acl_smtp_connect = {}: {danger}", acl.value),
            format!("write it so, then: {RESTART}"),
        );
    }
    let fault = |text: &str, remedy: &str| {
        Finding::fault("exim-acl", format!("acl_smtp_connect = {}: {text}", acl.value), format!("{remedy}, then: {RESTART}"))
    };
    match order_fault(text, |path| is_ours(path, socket)) {
        Some(OrderFault::NeverAsked) => {
            fault("an accept for everybody stands before the question", "move it behind the lines of exim-readsocket.acl")
        }
        Some(OrderFault::NeverRefuses) => {
            fault("no deny or defer uses the answer, so nobody is refused", "take the lines of exim-readsocket.acl as they are")
        }
        Some(OrderFault::DeniesAtTheEnd) => fault("it does not end with accept, so Exim denies everybody", "write accept at its end"),
        None => Finding::ok("exim-acl", format!("acl_smtp_connect = {} asks on {}, and refuses by the answer", acl.value, asked.display())),
    }
}

/// Whether guessed passwords count, where there are any.
fn logins(settings: &EximSettings, socket: &Path) -> Option<Finding> {
    const CHECK: &str = "exim-logins";
    let step = "follow /usr/share/doc/strikeout/install-exim.md, step 2, then: systemctl restart exim4";
    let auth = !asks(settings.auth.as_ref(), socket).is_empty();
    if settings.has_authenticators && !auth {
        let text = "Exim takes logins, and no acl_smtp_auth asks about them, so guessed passwords count nothing";
        return Some(Finding::warning(CHECK, text, step));
    }
    let missing = [("acl_smtp_quit", &settings.quit), ("acl_smtp_notquit", &settings.notquit)];
    let missing = missing.into_iter().find(|(_, acl)| asks(acl.as_ref(), socket).is_empty()).filter(|_| auth);
    if let Some((option, _)) = missing {
        return Some(Finding::warning(
            CHECK,
            format!("acl_smtp_auth asks, but not {option}, so the last failed login of a session counts nothing"),
            step,
        ));
    }
    auth.then(|| Finding::ok(CHECK, "failed logins count, and banned clients may not log in"))
}

/// Whether the daemon follows the log in which Exim tells what it refused by itself.
fn main_log(settings: &EximSettings, facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "exim-log";
    let (config, path) = (facts.config.as_ref().ok()?, settings.main_log.as_ref()?);
    Some(if config.logs.iter().any(|log| is_same_path(&log.path, path)) {
        Finding::ok(CHECK, format!("what Exim refuses by itself comes through {}", path.display()))
    } else {
        let text = format!("Exim writes {}, which no [[log]] names, so what it refuses by itself is not seen", path.display());
        let piece = format!("[[log]]\\npath = \"{}\"\\nrules = [\"exim-per-host\", \"exim-global\"]\\n", path.display());
        Finding::warning(CHECK, text, format!("printf '{piece}' > /etc/strikeout/conf.d/exim-log.toml && strikeout reload"))
    })
}
