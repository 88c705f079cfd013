//! `strikeout status`: how the resident is, once or as a live view of the terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::ask::ask;
use super::fields::{Fields, value};
use super::screen::{Align, Colours, bytes, columns, counted, span};
use super::{Asking, Failure, show};

/// How often the live view is drawn anew.
const FRAME: Duration = Duration::from_secs(1);
/// So often it is looked whether the live view is to end.
const LOOK: Duration = Duration::from_millis(50);
/// So many rules are shown to people, those with the highest numbers.
const MOST_RULES: usize = 20;

/// Once or live.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Draw it anew each second, until Ctrl-C.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    #[command(flatten)]
    asking: Asking,
}

/// Asks, and shows the answer.
///
/// # Errors
/// The resident cannot be asked, or there is no terminal to watch it on.
pub fn run(args: &Args) -> Result<(), Failure> {
    if args.watch {
        return watch(&args.asking);
    }
    let fields = Fields::of(&ask(&args.asking, "status")?.lines());
    if args.asking.json { show(&format!("{}\n", Value::Object(object(&fields)))) } else { show(&text(&fields, Colours::of_stdout())) }
}

/// The live view: on the terminal's other screen, which leaves the first one as it was.
fn watch(asking: &Asking) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "--watch draws on a terminal, and the standard output is none; expected status or status --json".into(),
        ));
    }
    let failed = |error: std::io::Error| Failure::Failed(format!("the live view cannot be shown: {error}"));
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(failed)?;
    }
    let mut out = std::io::stdout().lock();
    let colours = Colours::of_stdout();
    let mut drawn = write!(out, "\x1b[?1049h\x1b[?25l");
    while drawn.is_ok() && !ended.load(Ordering::Relaxed) {
        let frame = match ask(asking, "status") {
            Ok(answer) => text(&Fields::of(&answer.lines()), colours),
            // It may come back.
            Err(Failure::Failed(fault) | Failure::Usage(fault)) => colours.bad(&fault) + "\n",
        };
        let frame = frame.replace('\n', "\x1b[K\r\n");
        drawn = write!(out, "\x1b[H{frame}\x1b[K\r\n{}\x1b[K\x1b[J", colours.weak("Ctrl-C ends this view")).and_then(|()| out.flush());
        let until = std::time::Instant::now() + FRAME;
        while std::time::Instant::now() < until && !ended.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
        }
    }
    drawn.and_then(|()| write!(out, "\x1b[?25h\x1b[?1049l")).and_then(|()| out.flush()).map_err(failed)
}

/// A log's line: the path may hold spaces.
fn log(line: &str) -> (String, u64, u64, Option<String>) {
    let Some((path, rest)) = line.rsplit_once(" lines=") else { return (line.to_owned(), 0, 0, None) };
    let (lines, rest) = rest.split_once(" lag=").unwrap_or((rest, ""));
    let (lag, state) = rest.split_once(' ').unwrap_or((rest, ""));
    let number = |text: &str| text.parse().unwrap_or(0);
    (path.to_owned(), number(lines), number(lag), state.strip_prefix("fault: ").map(str::to_owned))
}

/// The stable shape for programs: see `docs/operators.md`.
fn object(fields: &Fields) -> Map<String, Value> {
    let mut object = fields.object();
    for key in ["log", "rule", "hook"] {
        object.remove(key);
    }
    let logs = fields.all("log").map(|line| {
        let (path, lines, lag, fault) = log(line);
        json!({ "path": path, "lines": lines, "lag": lag, "fault": fault })
    });
    let rules = fields.all("rule").map(|line| {
        let (name, row) = line.split_once(' ').unwrap_or((line, ""));
        let mut rule = Fields::of_row(row).object();
        for key in ["mode", "scope"] {
            if rule.get(key) == Some(&value("-")) {
                rule.insert(key.to_owned(), Value::Null);
            }
        }
        rule.insert("name".into(), name.into());
        Value::Object(rule)
    });
    let hook = fields.get("hook").map_or(Value::Null, |row| Value::Object(Fields::of_row(row).object()));
    object.insert("logs".into(), logs.collect());
    object.insert("by_rule".into(), rules.collect());
    object.insert("hook".into(), hook);
    object
}

/// Keys that have a place of their own in the text; others are shown at its end.
const PLACED: [&str; 39] = [
    "version",
    "pid",
    "uptime",
    "socket",
    "rules",
    "bans",
    "banned_networks",
    "strikes",
    "offences_counted",
    "bans_made",
    "shadow_bans_made",
    "bans_evicted",
    "strikes_evicted",
    "answers_before_saved",
    "connections",
    "mail_connections_watched",
    "wall_clock_drift_ms",
    "state",
    "state_unsaved",
    "log",
    "memory",
    "followers",
    "shadow_bans",
    "answers_failed_open",
    "reloads",
    "reloads_refused",
    "answers_by_helpers",
    "answers_to_check",
    "answers_to_strike",
    "answers_to_offence",
    "hook",
    "rule",
    "fleet",
    "fleet_hears",
    "fleet_says",
    "fleet_said_total",
    "fleet_heard_total",
    "fleet_dropped_total",
    "fleet_refused_total",
];

/// For people, in groups.
fn text(fields: &Fields, colours: Colours) -> String {
    let number = |key: &str| fields.number(key);
    let mut text = String::new();
    let mut line = |title: &str, rest: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {rest}", colours.strong(&format!("{title:<10}")));
    };
    let get = |key| fields.get(key).unwrap_or("?");
    line(
        "strikeout",
        &format!("{}, up {}, {}, pid {}, {}", get("version"), span(number("uptime")), bytes(number("memory")), get("pid"), get("socket")),
    );
    let fallen = |key: &str, what: &str| match number(key) {
        0 => String::new(),
        fallen => colours.bad(&format!(", {fallen} {what}")),
    };
    line(
        "bans",
        &format!(
            "{}, {}, {} in shadow; {} made since the start{}",
            counted(number("bans"), "client"),
            counted(number("banned_networks"), "network"),
            number("shadow_bans"),
            number("bans_made"),
            fallen("bans_evicted", "fell because the table was full"),
        ),
    );
    line(
        "strikes",
        &format!(
            "{} live; {} since the start{}",
            counted(number("strikes"), "counter"),
            counted(number("offences_counted"), "offence"),
            fallen("strikes_evicted", "fell because the table was full"),
        ),
    );
    line(
        "squid",
        &format!(
            "{} attached; {} answered there, {} here",
            counted(number("followers"), "helper"),
            if number("answers_by_helpers") == 1 { "1 query".to_owned() } else { format!("{} queries", number("answers_by_helpers")) },
            counted(number("answers_to_offence"), "offence")
        ),
    );
    line(
        "exim",
        &format!(
            "{} open; {} and {} answered",
            counted(number("mail_connections_watched"), "connection"),
            counted(number("answers_to_check"), "check"),
            counted(number("answers_to_strike"), "strike")
        ),
    );
    let unsaved = match number("state_unsaved") {
        0 => String::new(),
        unsaved => format!(", {} not saved", counted(unsaved, "change")),
    };
    line(
        "state",
        &match get("state") {
            "ok" => format!("{}{unsaved}", colours.good("ok")),
            "none" => "none: bans end with the resident".to_owned(),
            reason => colours.bad(&format!("{reason}{unsaved}")),
        },
    );
    let faults = [("answers_failed_open", "accepted because of a fault"), ("answers_before_saved", "refused before the ban was saved")];
    let faults: Vec<String> =
        faults.iter().filter(|(key, _)| number(key) > 0).map(|(key, what)| format!("{} {what}", counted(number(key), "answer"))).collect();
    line("faults", &if faults.is_empty() { colours.good("none") } else { colours.bad(&faults.join(", ")) });
    let refused = fallen("reloads_refused", "refused for a fault: the old configuration is in force, see strikeout check");
    line("rules", &format!("{} in force, {}{refused}", number("rules"), counted(number("reloads"), "reload")));
    for (path, lines, lag, fault) in fields.all("log").map(log) {
        let state = match (&fault, lag) {
            (Some(fault), _) => colours.bad(fault),
            (None, 0) => format!("{} read", counted(lines, "line")),
            (None, lag) => format!("{} read, {} behind", counted(lines, "line"), bytes(lag)),
        };
        line("log", &format!("{path}: {state}"));
    }
    if let Some(hook) = fields.get("hook").map(Fields::of_row) {
        let number = |key| hook.number(key);
        let (calls, failed, killed, dropped) = (number("done"), number("failed"), number("killed"), number("dropped"));
        let faults = if failed + killed + dropped == 0 {
            String::new()
        } else {
            colours.bad(&format!("; {failed} failed, {killed} killed, {dropped} dropped"))
        };
        line("hook", &format!("{} done, {} waiting{faults}", counted(calls, "call"), number("waiting")));
    }
    if let Some(state) = fields.get("fleet") {
        let state = if state == "ok" { colours.good("ok") } else { colours.bad(state) };
        let dropped = fallen("fleet_dropped_total", "dropped");
        let refused = fallen("fleet_refused_total", "not believed");
        let (said, heard) = (counted(number("fleet_said_total"), "change"), number("fleet_heard_total"));
        line("fleet", &format!("{state}; {said} said, {heard} heard{dropped}{refused}"));
    }
    if fields.signed("wall_clock_drift_ms").is_some_and(|drift| drift.abs() > 2000) {
        line(
            "clock",
            &format!("set by {} s since the start; bans keep their length", fields.signed("wall_clock_drift_ms").unwrap_or(0) / 1000),
        );
    }
    for key in fields.keys().into_iter().filter(|key| !PLACED.contains(key)) {
        for value in fields.all(key) {
            line(&key.replace('_', " "), value);
        }
    }
    text + &rules(fields, colours)
}

/// The rules that have something to tell.
fn rules(fields: &Fields, colours: Colours) -> String {
    let keys = ["bans", "shadow_bans", "strikes", "bans_made", "refused"];
    let rules = fields.all("rule").map(|line| (line.split(' ').next().unwrap_or_default(), Fields::of_row(line)));
    let mut rules: Vec<_> = rules.filter(|(_, row)| keys.iter().any(|key| row.number(key) > 0)).collect();
    if rules.is_empty() {
        return String::new();
    }
    rules.sort_by_key(|(name, row)| (std::cmp::Reverse(keys.map(|key| row.number(key))), *name));
    let rows: Vec<Vec<String>> = rules
        .iter()
        .take(MOST_RULES)
        .map(|(name, row)| {
            let words = [(*name).to_owned(), row.get("mode").unwrap_or("-").to_owned(), row.get("scope").unwrap_or("-").to_owned()];
            words.into_iter().chain(keys.map(|key| row.number(key).to_string())).collect()
        })
        .collect();
    let titles = ["BANS", "SHADOW", "STRIKES", "MADE", "REFUSED"].map(|title| (title, Align::Right));
    let heading: Vec<_> = [("RULE", Align::Left), ("MODE", Align::Left), ("SCOPE", Align::Left)].into_iter().chain(titles).collect();
    let more = match rules.len().saturating_sub(MOST_RULES) {
        0 => String::new(),
        more => format!("and {more} more: strikeout status --json\n"),
    };
    format!("\n{}{more}", columns(&heading, &rows, colours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields::of(&[
            "version=0.1.0",
            "pid=7",
            "uptime=3660",
            "bans=2",
            "banned_networks=1",
            "state=degraded: disk full",
            "state_unsaved=3",
            "log=/var/log/a b lines=7 lag=12 ok",
            "log=/x lines=0 lag=0 fault: cannot be read: no such file",
            "memory=10485760",
            "fleet=cut off: the engine is away",
            "fleet_said_total=7",
            "fleet_dropped_total=2",
            "false_bans=rule helo: 2 of the last 9 clients that it banned look good",
            "rule=helo mode=enforce scope=mail bans=2 shadow_bans=0 strikes=1 bans_made=5 refused=9",
            "rule=quiet mode=shadow scope=all bans=0 shadow_bans=0 strikes=0 bans_made=0 refused=0",
        ])
    }

    #[test]
    fn people_see_groups_what_is_degraded_and_the_rules_that_have_something_to_tell() {
        let text = text(&fields(), Colours::NONE);
        for expected in [
            "0.1.0, up 1 h 1 min, 10.0 MiB, pid 7",
            "2 clients, 1 network",
            "degraded: disk full, 3 changes not saved",
            "/var/log/a b: 7 lines read, 12 B behind",
            "/x: cannot be read: no such file",
            "cut off: the engine is away; 7 changes said, 0 heard, 2 dropped\n",
            "false bans rule helo: 2 of the last 9",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert!(text.contains("helo") && !text.contains("quiet"), "{text}");
    }

    #[test]
    fn programs_get_lists_and_numbers_whatever_there_is() {
        let object = Value::Object(object(&fields()));
        assert_eq!(object["bans"], 2);
        assert_eq!(object["logs"][0], json!({"path": "/var/log/a b", "lines": 7, "lag": 12, "fault": null}));
        assert_eq!(object["logs"][1]["fault"], "cannot be read: no such file");
        assert_eq!(object["by_rule"][0]["name"], "helo");
        assert_eq!(object["by_rule"][0]["refused"], 9);
        assert_eq!(object["hook"], Value::Null);
    }
}
