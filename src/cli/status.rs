//! `strikeout status`: the daemon's status, once or as a live view on the terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::ask::ask;
use super::terminal::{Align, Colours, bytes, columns, counted, span};
use super::{DaemonArguments, Failure, print, print_json};
use crate::control::admin::AdminRequest;
use crate::control::crowdsec::CrowdsecStatus;
use crate::control::status::{CrawlerStatus, DaemonStatus, FalseBans, FleetStatus, HostStatus, RuleStatus, StateStatus};
use crate::rule::Mode;

/// How often the live view is refreshed.
const REFRESH: Duration = Duration::from_secs(1);
/// Maximum number of rules in the text, those with the highest counts.
const MAX_RULES: usize = 20;

/// The arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    /// Refresh the view each second, until Ctrl-C.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    #[command(flatten)]
    daemon: DaemonArguments,
}

/// `strikeout status`.
///
/// # Errors
/// The daemon cannot be asked, or there is no terminal for the live view.
pub fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    let daemon = &arguments.daemon;
    if arguments.watch {
        return watch(daemon);
    }
    let status: DaemonStatus = ask(daemon, &AdminRequest::Status)?;
    if daemon.json { print_json(&status) } else { print(&text(&status, Colours::of_stdout())) }
}

/// The live view, on the terminal's alternate screen, so that the normal one is unchanged afterwards.
fn watch(daemon: &DaemonArguments) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::Usage("--watch needs a terminal, and standard output is none; expected status or status --json".into()));
    }
    let failed = |error: std::io::Error| Failure::Failed(format!("the live view cannot be shown: {error}"));
    let (signals, writer) = UnixStream::pair().map_err(failed)?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone().map_err(failed)?).map_err(failed)?;
    }
    let mut out = std::io::stdout().lock();
    let colours = Colours::of_stdout();
    let mut drawn = write!(out, "\x1b[?1049h\x1b[?25l");
    while drawn.is_ok() {
        let frame = match ask(daemon, &AdminRequest::Status) {
            Ok(status) => text(&status, colours),
            // The view goes on: the daemon may come back.
            Err(Failure::Failed(fault) | Failure::Usage(fault) | Failure::Refused(fault)) => colours.bad(&fault) + "\n",
        };
        let frame = frame.replace('\n', "\x1b[K\r\n");
        drawn = write!(out, "\x1b[H{frame}\x1b[K\r\n{}\x1b[K\x1b[J", colours.weak("Ctrl-C ends this view")).and_then(|()| out.flush());
        if is_readable_within(&signals, REFRESH) {
            break;
        }
    }
    drawn.and_then(|()| write!(out, "\x1b[?25h\x1b[?1049l")).and_then(|()| out.flush()).map_err(failed)
}

/// Waits up to `limit`, and returns whether the pipe has become readable, or cannot be waited for.
fn is_readable_within(pipe: &UnixStream, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            // The signal interrupts the call; its byte is in the pipe by then.
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}

/// The text, in groups.
fn text(status: &DaemonStatus, colours: Colours) -> String {
    let mut text = String::new();
    let mut line = |title: &str, rest: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {rest}", colours.strong(&format!("{title:<10}")));
    };
    let lost = |number: u64, what: &str| match number {
        0 => String::new(),
        number => colours.bad(&format!(", {number} {what}")),
    };
    let DaemonStatus { version, pid, socket, .. } = status;
    line("strikeout", &format!("{version}, up {}, {}, pid {pid}, {socket}", span(status.uptime), bytes(status.memory)));
    if let Some(pause) = &status.paused {
        let left = span(u64::try_from(pause.remaining).unwrap_or(0));
        let by = if pause.by.is_empty() { String::new() } else { format!(", paused by {}", pause.by) };
        line("PAUSED", &colours.bad(&format!("everybody is served for another {left}{by}; to end that: strikeout resume")));
    }
    line(
        "bans",
        &format!(
            "{}, {}, {} in shadow; {} made since the start{}{}{}",
            counted(status.bans, "client"),
            counted(status.banned_networks, "network"),
            status.shadow_bans,
            status.bans_made,
            lost(status.bans_evicted, "dropped because the table was full"),
            lost(status.networks_evicted, "of networks ended early, because rules have banned too many"),
            lost(status.networks_refused, "of networks not made, because rules have banned too many for ever"),
        ),
    );
    line(
        "strikes",
        &format!(
            "{} live; {} since the start{}{}",
            counted(status.strikes, "counter"),
            counted(status.offences_counted, "offence"),
            lost(status.strikes_evicted, "dropped because the table was full"),
            lost(status.crowds_evicted, "counts of networks dropped because the table was full"),
        ),
    );
    let queries = if status.answers_by_helpers == 1 { "1 query".to_owned() } else { format!("{} queries", status.answers_by_helpers) };
    let (helpers, offences) = (counted(status.subscribers, "helper"), counted(status.answers_to_offence, "offence"));
    let deferred = match status.offences_deferred {
        0 => String::new(),
        number => format!(", {} counted late", counted(number, "offence")),
    };
    let dropped = lost(status.offences_dropped, "never counted, because the daemon could not take them in time");
    line("squid", &format!("{helpers} attached; {queries} answered there, {offences} here{deferred}{dropped}"));
    for prefilter in &status.prefilters {
        let state = prefilter.stale.as_ref().map_or_else(|| colours.good("current"), |stale| colours.bad(&format!("stale: {stale}")));
        line("prefilter", &format!("{}: {state}", prefilter.directory));
    }
    line(
        "exim",
        &format!(
            "{} open; {} and {} answered",
            counted(status.mail_connections_watched, "connection"),
            counted(status.answers_to_check, "check"),
            counted(status.answers_to_strike, "strike")
        ),
    );
    let unsaved = match status.state_unsaved {
        0 => String::new(),
        unsaved => format!(", {} not saved", counted(unsaved, "change")),
    };
    line(
        "state",
        &match &status.state {
            StateStatus::Ok => format!("{}{unsaved}", colours.good("ok")),
            StateStatus::None => "none: bans end with the daemon".to_owned(),
            StateStatus::Degraded(reason) => colours.bad(&format!("degraded: {reason}{unsaved}")),
        },
    );
    line("faults", &faults(status, colours));
    let config = &status.config;
    let since = format!("{}, read {} ago", config.files(), span(config.since_ago));
    line("rules", &format!("{} in force, {} of them in shadow: {since}", status.rules, config.shadow));
    if let Some(refused) = &config.refused {
        line(
            "REFUSED",
            &colours.bad(&format!(
                "the configuration of {} ago: {}; what was read before stays in force",
                span(refused.at_ago),
                refused.fault
            )),
        );
    }
    for list in &status.lists {
        let age = list.modified_ago.map_or_else(String::new, |age| format!(", {} old", span(age)));
        let shrunk = list.shrunk_from.map_or_else(String::new, |before| {
            colours.bad(&format!("; it had {before} before a reload, and has lost more than half of them"))
        });
        let entries = if list.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", list.entries) };
        line("list", &format!("{}, {}: {entries}{age}{shrunk}", list.option, list.origin));
    }
    for geo in &status.geo {
        let (networks, age) =
            (counted(geo.networks, "network"), geo.built_ago.map_or_else(String::new, |age| format!(", built {} ago", span(age))));
        let kept = if geo.networks > 0 { "the last good one stays in use" } else { "what depends on it matches nobody" };
        let fault = geo.fault.as_ref().map_or_else(String::new, |fault| colours.bad(&format!("; {fault}; {kept}")));
        line("geo", &format!("{}, {}: {networks}{age}{fault}", geo.kind, geo.file));
    }
    for crawler in &status.crawlers {
        let CrawlerStatus { name, networks, verified, refuted, unknown, asked } = crawler;
        let networks = if *networks > 0 { format!(", {} published", counted(*networks, "network")) } else { String::new() };
        let waiting = if *asked > 0 { format!(", {asked} being looked up") } else { String::new() };
        let unknown = if *unknown > 0 { colours.bad(&format!(", {unknown} could not be looked up")) } else { String::new() };
        line(
            "crawler",
            &format!("{name}: {} verified, {refuted} that only said so{waiting}{unknown}{networks}", counted(*verified, "client")),
        );
    }
    for host in &status.hosts {
        line("host", &host_name(host, colours));
    }
    for log in &status.logs {
        let state = match (&log.fault, log.lag) {
            (Some(fault), _) => colours.bad(fault),
            (None, _) if log.missing => "no such file yet".to_owned(),
            (None, 0) => format!("{} read", counted(log.lines, "line")),
            (None, lag) => format!("{} read, {} behind", counted(log.lines, "line"), bytes(lag)),
        };
        // A fault names them itself.
        let not_understood =
            log.not_understood.as_ref().filter(|_| log.fault.is_none()).map_or_else(String::new, |text| format!("; {text}"));
        line("log", &format!("{}: {state}{not_understood}", log.path));
    }
    if let Some(hook) = &status.hook {
        let faults = if hook.failed + hook.killed + hook.dropped == 0 {
            String::new()
        } else {
            colours.bad(&format!("; {} failed, {} killed, {} dropped", hook.failed, hook.killed, hook.dropped))
        };
        line("hook", &format!("{} done, {} waiting{faults}", counted(hook.done, "call"), hook.waiting));
    }
    if let Some(crowdsec) = &status.crowdsec {
        line("crowdsec", &self::crowdsec(crowdsec, colours));
    }
    if let Some(fleet) = &status.fleet {
        let state = match fleet {
            FleetStatus::Ok => colours.good("ok"),
            FleetStatus::CutOff(reason) => colours.bad(&format!("cut off: {reason}")),
        };
        let counts = status.fleet_counts;
        let (dropped, refused) = (lost(counts.dropped, "dropped"), lost(counts.refused, "refused"));
        let published = counted(counts.published, "change");
        line("fleet", &format!("{state}; {published} published, {} received{dropped}{refused}", counts.received));
    }
    if status.wall_clock_drift_ms.abs() > 2000 {
        line("clock", &format!("set by {} s since the start; bans keep their length", status.wall_clock_drift_ms / 1000));
    }
    for heavy in &status.heaviest {
        line("traffic", &colours.bad(&heavy.to_string()));
    }
    for rule in &status.false_bans {
        line("false bans", &colours.bad(&false_bans(rule)));
    }
    text + &rules(&status.by_rule, colours)
}

/// Answers that did not go as they should.
fn faults(status: &DaemonStatus, colours: Colours) -> String {
    let faults =
        [(status.answers_failed_open, "accepted because of a fault"), (status.answers_before_saved, "refused before the ban was saved")];
    let faults: Vec<String> =
        faults.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{} {what}", counted(*number, "answer"))).collect();
    if faults.is_empty() { colours.good("none") } else { colours.bad(&faults.join(", ")) }
}

/// A host name in `ignoreip`: its addresses, how old the answer is, and what is wrong.
fn host_name(host: &HostStatus, colours: Colours) -> String {
    let known = match host.answered_ago {
        Some(age) => format!("{}, {} old", host.addresses.join(" "), span(age)),
        None if host.fault.is_none() => "is being looked up".to_owned(),
        None => "no address is known".to_owned(),
    };
    let fault = host.fault.as_ref().map_or_else(String::new, |fault| colours.bad(&format!("; {fault}")));
    format!("{}: {known}{fault}", host.name)
}

/// CrowdSec's local API: what is known of it, and what is wrong.
fn crowdsec(status: &CrowdsecStatus, colours: Colours) -> String {
    let answered = status.answered_ago.map_or_else(|| "never answered".to_owned(), |ago| format!("answered {} ago", span(ago)));
    let state = match &status.fault {
        None if status.answered_ago.is_none() => "is being asked".to_owned(),
        None => format!("{}, {answered}", colours.good("ok")),
        Some(fault) => colours.bad(&format!("{fault}; {answered}, what is known stands until it ends")),
    };
    let waiting = if status.waiting > 0 { format!(", {} behind bans of others", status.waiting) } else { String::new() };
    format!("{}{waiting}{}; {state}", counted(status.decisions, "decision"), status.skipped_text())
}

fn false_bans(rule: &FalseBans) -> String {
    let advice = if rule.shadow { "leave it in shadow mode" } else { "mode = \"shadow\" is proposed" };
    format!("rule {}: {} of the last {} clients that it banned look good: {advice}", rule.rule, rule.legitimate, rule.clients)
}

/// The rules that have counted something.
fn rules(rules: &[RuleStatus], colours: Colours) -> String {
    let columns_of = |rule: &RuleStatus| {
        let counts = rule.counts;
        [counts.bans, counts.shadow_bans, counts.strikes, counts.bans_made, counts.refused]
    };
    let mut rules: Vec<&RuleStatus> = rules.iter().filter(|rule| columns_of(rule).iter().any(|count| *count > 0)).collect();
    if rules.is_empty() {
        return String::new();
    }
    rules.sort_by_key(|rule| (std::cmp::Reverse(columns_of(rule)), &rule.name));
    let rows: Vec<Vec<String>> = rules
        .iter()
        .take(MAX_RULES)
        .map(|rule| {
            let mode = rule.mode.map_or("-", |mode| if mode == Mode::Shadow { "shadow" } else { "enforce" });
            let words = [rule.name.clone(), mode.to_owned(), rule.scope.map_or("-", |scope| scope.as_str()).to_owned()];
            words.into_iter().chain(columns_of(rule).map(|count| count.to_string())).collect()
        })
        .collect();
    let titles = ["BANS", "SHADOW", "STRIKES", "MADE", "REFUSED"].map(|title| (title, Align::Right));
    let heading: Vec<_> = [("RULE", Align::Left), ("MODE", Align::Left), ("SCOPE", Align::Left)].into_iter().chain(titles).collect();
    let more = match rules.len().saturating_sub(MAX_RULES) {
        0 => String::new(),
        more => format!("and {more} more: strikeout status --json\n"),
    };
    format!("\n{}{more}", columns(&heading, &rows, colours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{FleetCounts, FollowedLog, ListStatus, RuleCounts};
    use crate::event::Scope;

    fn status() -> DaemonStatus {
        let counts = RuleCounts { bans: 2, strikes: 1, bans_made: 5, refused: 9, ..RuleCounts::default() };
        DaemonStatus {
            version: "0.1.0".into(),
            pid: 7,
            uptime: 3660,
            memory: 10_485_760,
            bans: 2,
            banned_networks: 1,
            offences_deferred: 4,
            offences_dropped: 1,
            state: StateStatus::Degraded("disk full".into()),
            state_unsaved: 3,
            logs: vec![
                FollowedLog { path: "/var/log/a b".into(), lines: 7, lag: 12, ..FollowedLog::default() },
                FollowedLog {
                    path: "/x".into(),
                    lines: 0,
                    lag: 0,
                    fault: Some("cannot be read: no such file".into()),
                    ..FollowedLog::default()
                },
                FollowedLog { path: "/y".into(), missing: true, ..FollowedLog::default() },
                FollowedLog { path: "/z".into(), lines: 9, not_understood: Some("1 % of 9".into()), ..FollowedLog::default() },
            ],
            lists: vec![
                ListStatus { option: "ignoreip".into(), origin: "ignoreip in x.toml".into(), entries: 1, ..ListStatus::default() },
                ListStatus {
                    option: "deny".into(),
                    origin: "/etc/deny.txt".into(),
                    entries: 4,
                    modified: Some(1),
                    modified_ago: Some(7200),
                    shrunk_from: Some(900),
                },
            ],
            hosts: vec![
                HostStatus {
                    name: "home.example".into(),
                    addresses: vec!["192.0.2.7".into(), "2001:db8::7".into()],
                    answered: Some(1),
                    answered_ago: Some(7200),
                    fault: Some("no answer for 9s".into()),
                },
                HostStatus { name: "new.example".into(), ..HostStatus::default() },
                HostStatus { name: "bad.example".into(), fault: Some("Name unknown".into()), ..HostStatus::default() },
            ],
            fleet: Some(FleetStatus::CutOff("no connection".into())),
            fleet_counts: FleetCounts { published: 7, dropped: 2, ..FleetCounts::default() },
            false_bans: vec![FalseBans { rule: "helo".into(), clients: 9, legitimate: 2, shadow: false }],
            by_rule: vec![
                RuleStatus { name: "helo".into(), mode: Some(Mode::Enforce), scope: Some(Scope::Mail), counts },
                RuleStatus { name: "quiet".into(), mode: Some(Mode::Shadow), scope: Some(Scope::All), counts: RuleCounts::default() },
            ],
            ..DaemonStatus::default()
        }
    }

    #[test]
    fn the_text_has_groups_what_is_degraded_and_the_rules_that_have_counted_something() {
        let text = text(&status(), Colours::NONE);
        for expected in [
            "0.1.0, up 1 h 1 min, 10.0 MiB, pid 7",
            "2 clients, 1 network",
            "degraded: disk full, 3 changes not saved",
            "/var/log/a b: 7 lines read, 12 B behind",
            "list       ignoreip, ignoreip in x.toml: 1 entry\n",
            "list       deny, /etc/deny.txt: 4 entries, 2 h old; it had 900 before a reload, and has lost more than half of them\n",
            "host       home.example: 192.0.2.7 2001:db8::7, 2 h old; no answer for 9s\n",
            "host       new.example: is being looked up\n",
            "host       bad.example: no address is known; Name unknown\n",
            "/x: cannot be read: no such file",
            "/y: no such file yet",
            "/z: 9 lines read; 1 % of 9",
            "0 offences here, 4 offences counted late, 1 never counted, because the daemon could not take them in time\n",
            "cut off: no connection; 7 changes published, 0 received, 2 dropped\n",
            "false bans rule helo: 2 of the last 9",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert!(text.contains("helo") && !text.contains("quiet"), "{text}");
    }

    #[test]
    fn the_json_has_lists_and_numbers_whatever_there_is() {
        let json = serde_json::to_value(status()).unwrap();
        assert_eq!((&json["bans"], &json["state"]), (&2.into(), &"degraded: disk full".into()));
        assert_eq!(
            json["logs"][0],
            serde_json::json!({"path": "/var/log/a b", "lines": 7, "lag": 12, "fault": null, "missing": false, "not_understood": null})
        );
        assert_eq!(json["logs"][1]["fault"], "cannot be read: no such file");
        assert_eq!((&json["by_rule"][0]["name"], &json["by_rule"][0]["refused"]), (&"helo".into(), &9.into()));
        assert_eq!(json["hook"], serde_json::Value::Null);
        assert_eq!((&json["fleet"], &json["fleet_published_total"]), (&"cut off: no connection".into(), &7.into()));
        let json = serde_json::to_value(DaemonStatus::default()).unwrap();
        assert_eq!(
            (&json["false_bans"], &json["fleet"], &json["fleet_published_total"]),
            (&serde_json::json!([]), &serde_json::Value::Null, &0.into())
        );
    }
}
