//! The Squids and Exims that run now, and what their configurations say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::expressions;
use super::files::{DiskFiles, changed, first_of, newest, read, run, tail};
use super::processes::{MAX_GENERATIONS, Process, named, trustworthy, user};
use crate::doctor::exim::acl;
use crate::doctor::facts::{Credentials, EximAcl, EximFacts, EximSettings, HelperFacts, ServerFacts, SocketFacts, SquidFacts};
use crate::doctor::squid::checks::programs;
use crate::doctor::squid::external::External;
use crate::doctor::squid_config::SquidConfig;
use crate::rule::Rule;

const SQUID_CONFIG: &str = "/etc/squid/squid.conf";
const SQUID_PROGRAMS: [&str; 3] = ["/usr/sbin/squid", "/usr/local/sbin/squid", "/usr/local/squid/sbin/squid"];
const EXIM_PROGRAMS: [&str; 3] = ["/usr/sbin/exim4", "/usr/sbin/exim", "/usr/local/bin/exim"];
/// Our helper's name in /proc, which cuts names to 15 bytes.
const HELPER: &str = "ext_strikeout_a";
/// How much of Squid's cache.log is searched for its last reconfiguration.
const CACHE_LOG_TAIL: u64 = 1 << 20;
/// Exim's options that matter here.
const OPTIONS: [&str; 10] = [
    "acl_smtp_connect",
    "acl_smtp_auth",
    "acl_smtp_quit",
    "acl_smtp_notquit",
    "daemon_smtp_ports",
    "log_file_path",
    "spool_directory",
    "pid_file_path",
    "exim_user",
    "configure_file",
];

/// The Squids that run, or only the one with the configuration `only`.
pub fn squids(only: Option<&Path>, socket: &SocketFacts, rules: Option<&[Arc<Rule>]>, unseen: &mut Vec<String>) -> Vec<SquidFacts> {
    let processes = named(&["squid", HELPER]);
    let by_pid: BTreeMap<u32, &Process> = processes.iter().map(|process| (process.pid, process)).collect();
    let is_squid = |process: &&Process| process.name == "squid";
    let parent = |pid: u32| by_pid.get(&pid).map(|process| process.parent).filter(|parent| by_pid.contains_key(parent));
    let top = |process: &Process| std::iter::successors(Some(process.pid), |pid| parent(*pid)).take(MAX_GENERATIONS).last();
    let tops = processes.iter().filter(is_squid).filter(|process| parent(process.pid).is_none());
    let config = |process: &Process| process.option("-f").unwrap_or_else(|| SQUID_CONFIG.into());
    let tops: Vec<&Process> = tops.filter(|process| only.is_none_or(|only| config(process) == only)).collect();
    let version = (!tops.is_empty()).then(squid_version).flatten();
    let of_top = |first: &Process| {
        let family: Vec<&Process> = processes.iter().filter(|process| top(process) == Some(first.pid)).collect();
        let helpers: Vec<&&Process> = family.iter().filter(|process| process.name == HELPER).collect();
        // The helper's own word is best; without one, that of the process that will start it.
        let asking = helpers
            .first()
            .copied()
            .or_else(|| family.iter().find(|process| process.credentials.user != 0))
            .map_or(first, |process| *process);
        let path = config(first);
        let squid_config = SquidConfig::read(&path, &DiskFiles);
        let newest = newest(&squid_config.files);
        let started = family.iter().filter(|process| is_squid(process)).filter_map(|process| process.started).max();
        let read_config = started.and_then(|started| {
            reconfigured(&squid_config, started, newest.as_ref()?.changed).map(|reconfigured| started.max(reconfigured))
        });
        if read_config.is_none() {
            unseen.push(format!("when Squid read {} last", path.display()));
        }
        SquidFacts {
            server: server(first.pid, path, read_config, version.clone(), asking.credentials.clone(), socket),
            helpers: helper_programs(&squid_config),
            running_helpers: helpers.len(),
            helper_is_replaced: helpers.iter().any(|process| process.is_replaced()),
            newest,
            prefilters: expressions::prefilters(&squid_config, rules, unseen),
            unread_expressions: expressions::unread(&squid_config),
            config: squid_config,
        }
    };
    tops.into_iter().map(of_top).collect()
}

/// The configuration of a Squid that asks, if there is one: `only`, or what Debian's Squid is started with.
pub fn stopped_squid(only: Option<&Path>) -> Option<PathBuf> {
    let path = only.unwrap_or(Path::new(SQUID_CONFIG));
    (!External::all(&SquidConfig::read(path, &DiskFiles)).is_empty()).then(|| path.into())
}

/// The `acl_smtp_connect` of an Exim that asks, if there is one: with the configuration `only`, or with its own.
pub fn stopped_exim(only: Option<&Path>) -> Option<String> {
    let values = options(only).ok()?;
    let settings = settings(&values, only, &Credentials::default());
    let connect = settings.connect?;
    connect.text.as_deref().is_some_and(|text| text.contains("strikeout")).then_some(connect.value)
}

fn server(
    pid: u32,
    config: PathBuf,
    read_config: Option<i64>,
    version: Option<String>,
    credentials: Credentials,
    socket: &SocketFacts,
) -> ServerFacts {
    let (name, by_database) = user(credentials.user);
    let is_user_in_group = by_database.zip(socket.access.as_ref()).is_some_and(|(credentials, access)| credentials.may_open(access));
    ServerFacts { pid, config, read_config, version, credentials, user: name, is_user_in_group }
}

fn squid_version() -> Option<String> {
    let text = run(first_of(&SQUID_PROGRAMS)?, &["-v"]).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Squid Cache: Version ")).map(|version| version.trim().to_owned())
}

fn helper_programs(config: &SquidConfig) -> Vec<HelperFacts> {
    let facts = |program: &Path| {
        let version = run(program, &["--version"]);
        let version = version.map(|text| text.split_whitespace().next_back().unwrap_or_default().to_owned());
        HelperFacts { program: program.into(), version }
    };
    programs(config).into_iter().map(facts).collect()
}

/// When Squid was started or reconfigured last, by its cache.log. None if this user cannot see that, or the log has been rotated since
/// the configuration was changed.
fn reconfigured(config: &SquidConfig, started: i64, changed: i64) -> Option<i64> {
    let path = config.setting("cache_log").unwrap_or("/var/log/squid/cache.log");
    let path = path.strip_prefix("stdio:").unwrap_or(path);
    let text = tail(Path::new(path), CACHE_LOG_TAIL).ok()?;
    last_reconfiguration(&text, started, changed)
}

/// The time of the last reconfiguration that is in `log`, or `started` if none since the change can be missing in it.
fn last_reconfiguration(log: &str, started: i64, changed: i64) -> Option<i64> {
    match log.lines().rfind(|line| line.contains("Reconfiguring Squid Cache")) {
        Some(line) => line_time(line),
        None if changed <= started => Some(started),
        None => log.lines().find_map(line_time).filter(|oldest| *oldest <= changed).map(|_| started),
    }
}

/// The time of a line of cache.log: `2026/11/23 01:02:03 kid1| …`, in local time.
fn line_time(line: &str) -> Option<i64> {
    let time = DateTime::strptime("%Y/%m/%d %H:%M:%S", line.get(..19)?).ok()?;
    Some(time.to_zoned(TimeZone::system()).ok()?.timestamp().as_second())
}

/// The Exims that run, or only the one with the configuration `only`.
pub fn exims(only: Option<&Path>, socket: &SocketFacts, unseen: &mut Vec<String>) -> Vec<EximFacts> {
    let processes = named(&["exim4", "exim"]);
    let is_daemon = |process: &&Process| process.arguments.iter().any(|argument| matches!(argument.as_str(), "-bd" | "-bdf"));
    // A process of a connection has the arguments of the daemon that it comes from.
    let is_first = |process: &&Process| processes.iter().all(|other| other.pid != process.parent);
    let daemons = processes.iter().filter(is_daemon).filter(is_first);
    let daemons = daemons.filter(|process| only.is_none_or(|only| process.option("-C").is_some_and(|config| config == only)));
    daemons.map(|process| exim(process, socket, unseen)).collect()
}

fn exim(process: &Process, socket: &SocketFacts, unseen: &mut Vec<String>) -> EximFacts {
    let config = process.option("-C");
    let values = options(config.as_deref());
    let value = |name: &str| values.as_ref().ok().and_then(|values| values.get(name)).filter(|value| !value.is_empty());
    let path = config.clone().or_else(|| value("configure_file").map(PathBuf::from)).unwrap_or_else(|| "/etc/exim4".into());
    let pid_file = value("pid_file_path")
        .map_or_else(|| format!("{}/exim-daemon.pid", value("spool_directory").map_or("", String::as_str)), String::clone);
    // Exim writes it whenever it starts, also after a SIGHUP.
    let read_config = changed(Path::new(&pid_file)).map(|file| file.changed).or(process.started);
    // The daemon changes to Exim's own user when it listens, and a process of a connection inherits that.
    let credentials = match value("exim_user").and_then(|user| nix::unistd::User::from_name(user).ok().flatten()) {
        Some(exim) if process.credentials.user == 0 => user(exim.uid.as_raw()).1.unwrap_or_default(),
        _ => process.credentials.clone(),
    };
    if let Err(fault) = &values {
        unseen.push(format!("what Exim (pid {}) asks: {fault}", process.pid));
    }
    let settings = values.as_ref().ok().map(|values| settings(values, config.as_deref(), &credentials));
    EximFacts { newest: changed(&path), server: server(process.pid, path, read_config, exim_version(), credentials, socket), settings }
}

fn exim_version() -> Option<String> {
    let text = run(first_of(&EXIM_PROGRAMS)?, &["-bV"]).ok()?;
    text.strip_prefix("Exim version ")?.split_whitespace().next().map(str::to_owned)
}

/// Asks Exim with its configuration `config` for something that `-bP` prints.
fn ask(config: Option<&Path>, what: &[&str]) -> Result<String, String> {
    let program = first_of(&EXIM_PROGRAMS).ok_or("there is no exim4 in /usr/sbin")?;
    let config = config.map(|config| trustworthy(config).map_err(|fault| format!("{}: {fault}", config.display()))).transpose()?;
    let mut arguments = Vec::new();
    if let Some(config) = &config {
        arguments.extend(["-C", config.to_str().unwrap_or_default()]);
    }
    arguments.push("-bP");
    run(program, &[&arguments, what].concat())
}

fn options(config: Option<&Path>) -> Result<BTreeMap<String, String>, String> {
    let text = ask(config, &OPTIONS)?;
    Ok(parse_options(&text))
}

/// `name = value`, a line each; a value may go on in lines that do not look like that. `no_name` and `name` are truth values.
fn parse_options(text: &str) -> BTreeMap<String, String> {
    let mut options: BTreeMap<String, String> = BTreeMap::new();
    let mut last: Option<String> = None;
    for line in text.lines() {
        let known = line.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        match (known.filter(|(name, _)| OPTIONS.contains(name)), &last) {
            (Some((name, value)), _) => {
                options.insert(name.to_owned(), value.to_owned());
                last = Some(name.to_owned());
            }
            // `configure_file` is printed as the bare path.
            (None, _) if line.starts_with('/') && !options.contains_key("configure_file") => {
                options.insert("configure_file".to_owned(), line.to_owned());
            }
            (None, Some(name)) => {
                if let Some(value) = options.get_mut(name) {
                    value.push('\n');
                    value.push_str(line);
                }
            }
            (None, None) => {}
        }
    }
    options
}

fn settings(values: &BTreeMap<String, String>, config: Option<&Path>, exim: &Credentials) -> EximSettings {
    let whole = ask(config, &["config"]).unwrap_or_default();
    let value = |name: &str| values.get(name).map(String::as_str).unwrap_or_default();
    let acl = |name: &str| (!value(name).is_empty()).then(|| acl_of(value(name), &whole, exim));
    let authenticators = whole.split_once("begin authenticators").map_or("", |(_, rest)| rest);
    let authenticators = authenticators.split("\nbegin ").next().unwrap_or_default();
    EximSettings {
        connect: acl("acl_smtp_connect"),
        auth: acl("acl_smtp_auth"),
        quit: acl("acl_smtp_quit"),
        notquit: acl("acl_smtp_notquit"),
        ports: ports(value("daemon_smtp_ports")),
        main_log: main_log(value("log_file_path"), value("spool_directory")),
        // Debian's own are for Exim as a client.
        has_authenticators: authenticators.lines().any(|line| line.trim_start().starts_with("server_")),
    }
}

/// The ACL behind an option's value: the path of a file, a name, or the text itself.
fn acl_of(value: &str, whole: &str, exim: &Credentials) -> EximAcl {
    let path = Path::new(value);
    let text = if value.starts_with('/') {
        read(path).ok()
    } else if value.split_whitespace().count() == 1 {
        acl::named(whole, value).map(str::to_owned)
    } else {
        Some(value.to_owned())
    };
    let readable = |access: Vec<crate::doctor::facts::Access>| {
        access.iter().all(|file| {
            let shift = if exim.user == file.user {
                6
            } else if exim.groups.contains(&file.group) {
                3
            } else {
                0
            };
            let needed = if file.is_directory { 0o1 } else { 0o4 };
            exim.user == 0 || file.mode >> shift & needed != 0
        })
    };
    let is_unreadable = value.starts_with('/') && super::files::access(path).is_some_and(|access| !readable(access));
    EximAcl { value: value.lines().next().unwrap_or_default().to_owned(), text, is_unreadable }
}

fn ports(value: &str) -> Vec<String> {
    let value = value.strip_prefix("<;").unwrap_or(value);
    let ports: Vec<String> = value.split([':', ';']).map(str::trim).filter(|port| !port.is_empty()).map(str::to_owned).collect();
    if ports.is_empty() { vec!["25".to_owned()] } else { ports }
}

/// The file of the main log: the first path of `log_file_path` with `main` for `%s`. Without one it is in the spool directory; `syslog`
/// alone means none.
fn main_log(value: &str, spool: &str) -> Option<PathBuf> {
    let value = value.strip_prefix("<;").unwrap_or(value);
    let entries: Vec<&str> = value.split([':', ';']).map(str::trim).filter(|entry| !entry.is_empty()).collect();
    match entries.iter().find(|entry| entry.starts_with('/')) {
        Some(path) => Some(PathBuf::from(path.replace("%slog", "mainlog").replace("%s", "main"))),
        None if entries.is_empty() => Some(Path::new(spool).join("log/mainlog")),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exim_prints_is_read_by_name_with_values_of_several_lines() {
        let text = "acl_smtp_connect = accept\n  hosts = a\ndaemon_smtp_ports = 25 : 465 : 587\nlog_file_path = syslog:/var/log/exim4/%slog\nspool_directory = /var/spool/exim4\n/var/lib/exim4/config.autogenerated\n";
        let options = parse_options(text);
        assert_eq!(options["acl_smtp_connect"], "accept\n  hosts = a");
        assert_eq!(options["configure_file"], "/var/lib/exim4/config.autogenerated");
        assert_eq!(ports(&options["daemon_smtp_ports"]), ["25", "465", "587"]);
        assert_eq!(main_log(&options["log_file_path"], ""), Some("/var/log/exim4/mainlog".into()));
        assert_eq!((main_log("", "/spool"), main_log("syslog", "/spool")), (Some("/spool/log/mainlog".into()), None));
        assert_eq!(ports("<; 25 ; 26"), ["25", "26"]);
    }

    #[test]
    fn a_line_of_cache_log_has_the_time_of_the_reconfiguration() {
        let line = "2026/11/23 01:02:03 kid1| Reconfiguring Squid Cache (version 5.7)...";
        let time = line_time(line).unwrap();
        let started = "2026/11/23 01:00:00 kid1| Starting Squid Cache version 5.7\n";
        let start = line_time(started).unwrap();
        assert_eq!(last_reconfiguration(&format!("{started}{line}"), start, start), Some(time));
        assert_eq!(last_reconfiguration(line, start, start), Some(time), "rotated before it");
        assert_eq!(last_reconfiguration(started, start, time), Some(start), "not since the change");
        assert_eq!(last_reconfiguration("", start, start), Some(start), "not changed since the start");
        assert_eq!(last_reconfiguration(started, start - 3600, start - 60), None, "rotated since the change: an older log may hold one");
        assert_eq!(last_reconfiguration("", start, time), None);
        assert!(line_time("nonsense").is_none() && line_time("2026/11/23 01:02:é").is_none());
    }
}
