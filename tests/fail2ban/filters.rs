//! fail2ban's filters on its labelled samples, and `fail2ban-regex` on the same lines.

use super::{FILTERS, existing};
use jiff::tz::TimeZone;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use strikeout::internals::fail2ban::{Filter, Host, Matcher};

/// The time that fail2ban's samples are written for: 2005-08-14 12:00:00 in Zürich.
const SAMPLES_NOW: f64 = 1_124_013_600.0;
const SAMPLES_ZONE: &str = "Europe/Zurich";

const INSTALLED_SAMPLES: &str = "/usr/lib/python3/dist-packages/fail2ban/tests/files/logs";

/// The folder of labelled lines: `STRIKEOUT_CORPUS`, or a folder beside the repository.
fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("STRIKEOUT_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"), PathBuf::from)
        .join("fail2ban");
    existing(folder)
}

type Options = Vec<(String, String)>;

/// A line of a sample log with its label, and the filter options that it is meant for.
struct Labelled {
    number: usize,
    text: Vec<u8>,
    label: Value,
    options: Vec<Options>,
}

/// Reads a sample log. A comment `failJSON` labels the next line; a comment `filterOptions` applies until the next one.
fn labelled(path: &Path) -> Vec<Labelled> {
    let mut lines = Vec::new();
    let mut label = None;
    let mut options = vec![Options::new()];
    for (number, text) in std::fs::read(path).expect("readable").split(|byte| *byte == b'\n').enumerate() {
        let comment = String::from_utf8_lossy(text);
        let after = |name: &str| comment.trim_start_matches('#').trim_start().strip_prefix(name).filter(|_| comment.starts_with('#'));
        if let Some(json) = after("failJSON:") {
            label = Some(serde_json::from_str(json).unwrap_or_else(|error| panic!("{}:{}: {error}", path.display(), number + 1)));
        } else if let Some(json) = after("filterOptions:") {
            let value: Value = serde_json::from_str(json).expect("JSON");
            let all = value.as_array().cloned().unwrap_or_else(|| vec![value]);
            options = all.iter().map(pairs).collect();
        } else if label.is_some() || !(text.starts_with(b"#") || text.trim_ascii().is_empty()) {
            let label = label.take().unwrap_or(Value::Null);
            lines.push(Labelled { number: number + 1, text: text.to_vec(), label, options: options.clone() });
        }
    }
    lines
}

fn pairs(options: &Value) -> Options {
    let pairs = options.as_object().expect("an object").iter();
    // The other names are for fail2ban's own test runner.
    pairs
        .filter(|(name, _)| *name != "filterName" && !name.starts_with("test."))
        .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect()
}

#[derive(Default, Debug, PartialEq)]
struct Tally {
    right: usize,
    wrong: usize,
    missed: usize,
    /// Lines that fail2ban itself does not match with the installed filter either.
    outdated: usize,
    /// Lines that could blame two clients, so that they blame nobody.
    uncertain: Vec<usize>,
}

/// Compares each labelled line of a log with the matcher, under each set of options that it is meant for.
fn agreement(filter: &Path, log: &Path) -> Result<Tally, String> {
    let lines = labelled(log);
    let zone = TimeZone::get(SAMPLES_ZONE).expect("a zone database");
    let mut all: Vec<Options> = Vec::new();
    for options in lines.iter().flat_map(|line| &line.options) {
        if !all.contains(options) {
            all.push(options.clone());
        }
    }
    let mut tally = Tally::default();
    for options in all {
        let loaded = match Filter::load(filter, &options) {
            Ok(filter) => Arc::new(filter),
            Err(error) if error.to_string().contains("is not defined") => {
                tally.outdated += lines.iter().filter(|line| line.options.contains(&options)).count();
                continue;
            }
            Err(error) => return Err(error.to_string()),
        };
        let mut matcher = Matcher::new(Arc::clone(&loaded), zone.clone());
        let mut trusting = Matcher::trusting(loaded, zone.clone());
        for line in lines.iter().filter(|line| line.options.contains(&options) && meant(&line.label, &options)) {
            let found = matcher.line(&line.text, SAMPLES_NOW);
            let trusted = trusting.line(&line.text, SAMPLES_NOW);
            let label = |name: &str| line.label.get(name);
            let wanted = label("match").and_then(Value::as_bool).unwrap_or(false);
            let elsewhere = label("filter").is_some_and(|other| log.file_stem().is_some_and(|name| *other != *name.to_string_lossy()));
            let fault = match found {
                None if wanted && !elsewhere => Some("missed"),
                None => None,
                Some(_) if !wanted => Some("matched"),
                Some(found) => {
                    let host = label("host").or_else(|| label("fid")).and_then(Value::as_str);
                    let same = |host: &str| match host.parse() {
                        Ok(address) => found.host == Host::Address(address),
                        Err(_) => found.host.to_string() == host || found.id.as_deref() == Some(host),
                    };
                    let named = host.is_none_or(same);
                    let time = label("time").and_then(Value::as_str).map(|text| moment(text, &zone));
                    let timed = time.is_none_or(|time| found.counted_at.floor() == time);
                    if !named {
                        Some("another host")
                    } else if !timed {
                        Some("another time")
                    } else {
                        None
                    }
                }
            };
            match fault {
                None => tally.right += 1,
                Some("missed") if trusted.is_some() => tally.uncertain.push(line.number),
                Some("missed") if !fail2ban_matches(filter, &options, &line.text) => tally.outdated += 1,
                Some(fault) => {
                    eprintln!("{}:{}: {fault} with {options:?}: {}", log.display(), line.number, String::from_utf8_lossy(&line.text));
                    *if fault == "missed" { &mut tally.missed } else { &mut tally.wrong } += 1;
                }
            }
        }
    }
    Ok(tally)
}

/// Whether a label's `constraint` holds: a Python expression, of which the samples use a few.
fn meant(label: &Value, options: &Options) -> bool {
    let mode = options.iter().find(|(name, _)| name == "mode").map(|(_, mode)| mode.as_str());
    match label.get("constraint").and_then(Value::as_str) {
        Some("opts.get('mode') == 'aggressive'") => mode == Some("aggressive"),
        Some("opts.get('mode') != 'aggressive'") => mode != Some("aggressive"),
        None | Some("name == 'sshd'") => true,
        Some(other) => panic!("constraint {other:?} is not known"),
    }
}

/// A label's time, in the samples' zone. Digits may be missing, as in `2005-03-7T02:09:33`.
fn moment(text: &str, zone: &TimeZone) -> f64 {
    let numbers: Vec<i16> = text.split(['-', 'T', ':', '.']).take(6).map(|number| number.parse().expect("a number")).collect();
    let small = |index: usize| i8::try_from(numbers[index]).expect("small");
    let local = jiff::civil::DateTime::new(numbers[0], small(1), small(2), small(3), small(4), small(5), 0).expect("a date");
    zone.to_timestamp(local).expect("a moment").as_second() as f64
}

/// Whether the installed `fail2ban-regex` matches a line.
fn fail2ban_matches(filter: &Path, options: &Options, line: &[u8]) -> bool {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    std::fs::write(&log, [line, b"\n"].concat()).expect("written");
    !fail2ban_regex(filter, options, &log).is_empty()
}

/// Host and time of each line of a log that `fail2ban-regex` matches, in order.
fn fail2ban_regex(filter: &Path, options: &Options, log: &Path) -> Vec<(String, Option<f64>)> {
    let list: Vec<String> = options.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let filter = if list.is_empty() { filter.display().to_string() } else { format!("{}[{}]", filter.display(), list.join(", ")) };
    let output = Command::new("fail2ban-regex")
        .args(["-r", "-o", "row"])
        .arg(log)
        .arg(filter)
        .env("TZ", SAMPLES_ZONE)
        .output()
        .expect("fail2ban-regex runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows = text.lines().filter_map(|line| line.strip_prefix('['));
    rows.map(|row| {
        let mut parts = row.split(",\t");
        let host = parts.next().expect("a host").trim_matches('\'').to_owned();
        let time = parts.next().expect("a time").parse().ok();
        (host, time)
    })
    .collect()
}

fn logs(folder: &Path) -> BTreeMap<String, PathBuf> {
    let files = std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    files.map(|path| (path.file_name().expect("a name").to_string_lossy().trim_end_matches(".log").to_owned(), path)).collect()
}

#[test]
fn every_labelled_line_matches_as_labelled_unless_fail2ban_disagrees_too() {
    let (Some(corpus), Some(filters)) = (corpus(), existing(FILTERS)) else { return };
    for (name, log) in logs(&corpus) {
        let tally = agreement(&filters.join(format!("{name}.conf")), &log).expect(&name);
        println!("{name}: {tally:?}");
        assert_eq!((tally.wrong, tally.missed, tally.uncertain.len()), (0, 0, 0), "{name}");
        assert!(tally.right > 0, "{name}");
    }
}

#[test]
fn fail2bans_own_samples_match_as_labelled() {
    let (Some(samples), Some(filters)) = (existing(INSTALLED_SAMPLES), existing(FILTERS)) else { return };
    let (mut labels, mut uncertain) = (0, Vec::new());
    for (name, log) in logs(&samples) {
        let filter = filters.join(format!("{name}.conf"));
        if !filter.exists() {
            continue;
        }
        let tally = agreement(&filter, &log).expect(&name);
        assert_eq!((tally.wrong, tally.missed, tally.outdated), (0, 0, 0), "{name}");
        labels += tally.right;
        uncertain.extend(tally.uncertain.into_iter().map(|line| (name.clone(), line)));
    }
    println!("{labels} labels agree");
    // `ruser= rhost=192.0.2.2 user=test rhost=192.0.2.152`: both names are the client's text.
    // `for admin from 127.0.0.1. from 1.2.3.4. AUTHENTICATE`: the text behind the address may be anything, too.
    // `identification 'dummy string' from 192.0.2.1' from 69.61.56.115`: the expression ends with the address.
    let expected = [("pam-generic", 23), ("roundcube-auth", 15), ("sshd", 275)].map(|(name, line)| (name.to_owned(), line));
    uncertain.dedup();
    assert_eq!(uncertain, expected);
    assert!(labels > 800, "{labels}");
}

#[test]
fn every_installed_filter_loads_or_is_refused_with_a_reason() {
    let Some(filters) = existing(FILTERS) else { return };
    let (mut loaded, mut refused) = (0, Vec::new());
    for (name, path) in logs(&filters) {
        let Some(name) = name.strip_suffix(".conf") else { continue };
        match Filter::load(&path, &[]) {
            Ok(_) => loaded += 1,
            Err(error) => {
                let error = error.to_string();
                assert!(name.ends_with("common"), "{error}");
                refused.push(format!("{name}: {error}"));
            }
        }
    }
    println!("{loaded} filters load, {} do not:\n{}", refused.len(), refused.join("\n"));
    assert!(loaded > 80, "{loaded}");
}

#[test]
fn the_matcher_finds_what_fail2ban_regex_finds() {
    let (Some(corpus), Some(filters), Some(_)) = (corpus(), existing(FILTERS), existing("/usr/bin/fail2ban-regex")) else { return };
    let now = jiff::Timestamp::now().as_second() as f64;
    for (name, log) in logs(&corpus) {
        let filter = filters.join(format!("{name}.conf"));
        let mut all: Vec<Options> = vec![Options::new()];
        all.extend(labelled(&log).into_iter().flat_map(|line| line.options));
        all.sort();
        all.dedup();
        for options in all {
            let Ok(loaded) = Filter::load(&filter, &options) else {
                assert_eq!(fail2ban_regex(&filter, &options, &log), [], "{name} {options:?}: fail2ban cannot load it either");
                continue;
            };
            let mut matcher = Matcher::new(Arc::new(loaded), TimeZone::get(SAMPLES_ZONE).expect("a zone database"));
            let text = std::fs::read(&log).expect("readable");
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#"));
            let ours: Vec<_> = lines.filter_map(|line| matcher.line(line, now)).map(|found| (found.host.to_string(), found.time)).collect();
            assert_eq!(ours, fail2ban_regex(&filter, &options, &log), "{name} {options:?}");
            assert!(!ours.is_empty(), "{name} {options:?}");
        }
    }
}

/// Filters over several lines with `maxlines`, and logs for them in which lines of several clients are mixed.
const SEVERAL_LINES: [(&str, &str); 5] = [
    (
        "failregex = ^\\s+\\[conn(?P<__connid>\\d+)\\] login failed [^\\n]+<SKIPLINES>\\s+\\[conn(?P=__connid)\\] bye <HOST>\nmaxlines = 5\n",
        " [conn1] login failed x\n [conn2] login failed y\n [conn1] bye 192.0.2.1\n [conn2] bye 192.0.2.2\n [conn3] bye 192.0.2.3\n [conn4] login failed z\n a\n b\n c\n [conn4] bye 192.0.2.4\n [conn5] login failed z\n a\n b\n c\n d\n [conn5] bye 192.0.2.5\n",
    ),
    (
        "failregex = ^ WARN: login\\n user \\S+ from <HOST>$\n  ^ refused <HOST>$\nmaxlines = 2\n",
        " WARN: login\n user a from 192.0.2.1\n user b from 192.0.2.2\n WARN: login\n refused 192.0.2.3\n user c from 192.0.2.4\n WARN: login\n x\n user d from 192.0.2.5\n refused 192.0.2.6\n",
    ),
    (
        "failregex = ^ bad <HOST>$\n  ^ worse .* <HOST>$\nmaxlines = 20\n",
        " bad 192.0.2.1\n x\n worse y 192.0.2.2\n bad 192.0.2.3\n bad 192.0.2.4\n",
    ),
    (
        "failregex = ^ user (?P<user>\\S+) failed<SKIPLINES>^ client <HOST> left$\nignoreregex = user test\nmaxlines = 4\n",
        " user a failed\n x\n client 192.0.2.1 left\n user test failed\n client 192.0.2.2 left\n client 192.0.2.3 left\n user b failed\n y\n z\n client 192.0.2.4 left\n",
    ),
    (
        "failregex = ^ <HOST> says<SKIPLINES> one<SKIPLINES> two$\nmaxlines = 9\n",
        " 192.0.2.1 says\n one\n 192.0.2.2 says\n two\n one\n x\n two\n two\n",
    ),
];

#[test]
fn lines_are_joined_as_fail2ban_joins_them() {
    let Some(_) = existing("/usr/bin/fail2ban-regex") else { return };
    let now = jiff::Timestamp::now().as_second() as f64;
    for (definition, lines) in SEVERAL_LINES {
        let directory = tempfile::tempdir().expect("a directory");
        let (filter, log) = (directory.path().join("several.conf"), directory.path().join("log"));
        std::fs::write(&filter, format!("[Definition]\n{definition}")).expect("written");
        let dated: Vec<String> =
            lines.lines().enumerate().map(|(number, line)| format!("2026-01-02 03:04:{:02}{line}\n", number % 60)).collect();
        std::fs::write(&log, dated.concat()).expect("written");
        let loaded = Filter::load(&filter, &[]).expect("loaded");
        let mut matcher = Matcher::new(Arc::new(loaded), TimeZone::get(SAMPLES_ZONE).expect("a zone database"));
        let found = dated.iter().filter_map(|line| matcher.line(line.as_bytes(), now));
        let ours: Vec<_> = found.map(|found| (found.host.to_string(), found.time)).collect();
        assert_eq!(ours, fail2ban_regex(&filter, &Options::new(), &log), "{definition}");
        assert!(!ours.is_empty(), "{definition}");
    }
}

#[test]
fn all_expressions_of_the_stock_filter_for_exim_are_warned_about() {
    let Some(filter) = existing(Path::new(FILTERS).join("exim.conf")) else { return };
    let log = tempfile::NamedTempFile::new().expect("a file");
    // A HELO under `helo_accept_junk_hosts`.
    let line = b"2026-01-02 03:04:05 H=(x) [203.0.113.66] F=<q>) [198.51.100.50]:1 F=<a@b> rejected RCPT <c@d>: relay not permitted\n";
    std::fs::write(log.path(), line).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_strikeout"))
        .args([std::ffi::OsStr::new("test"), "--filter".as_ref(), filter.as_os_str(), log.path().as_os_str()])
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    for number in 1..=8 {
        assert!(
            errors.contains(&format!("warning: failregex {number} lets a client decide which address is blamed")),
            "{number}: {errors}"
        );
    }
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(1), ""), "{errors}");
    assert_eq!(fail2ban_regex(&filter, &Options::new(), log.path()).first().map(|(host, _)| host.as_str()), Some("203.0.113.66"));
}
