//! fail2ban's own filters and labelled samples, and its own programs, against the library.
//!
//! What is not installed, or not there, is skipped with a reason.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::indexing_slicing, reason = "a test")]

use jiff::tz::TimeZone;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use strikeout::fail2ban::{Filter, Host, Matcher};

/// The present that fail2ban's samples are written for: 2005-08-14 12:00:00 in Zürich.
const SAMPLES_NOW: f64 = 1_124_013_600.0;
const SAMPLES_ZONE: &str = "Europe/Zurich";

const FILTERS: &str = "/etc/fail2ban/filter.d";
const INSTALLED_SAMPLES: &str = "/usr/lib/python3/dist-packages/fail2ban/tests/files/logs";

/// The labelled lines that lie beside the repository, or where `STRIKEOUT_CORPUS` says.
fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("STRIKEOUT_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"), PathBuf::from)
        .join("fail2ban");
    existing(folder)
}

fn existing(path: impl Into<PathBuf>) -> Option<PathBuf> {
    let path = path.into();
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

type Options = Vec<(String, String)>;

/// A line of a sample log and what its author says of it.
struct Labelled {
    number: usize,
    text: Vec<u8>,
    label: Value,
    options: Vec<Options>,
}

/// Reads a log with comments `failJSON`, which labels the next line, and `filterOptions`, which counts until the next one.
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
    // The rest are names for upstream's own test run.
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
    /// Labels that the installed filter contradicts, as fail2ban itself finds.
    outdated: usize,
}

/// Every labelled line of a log, under each of the options that it is meant for.
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
        let mut matcher = Matcher::new(loaded, zone.clone());
        for line in lines.iter().filter(|line| line.options.contains(&options) && meant(&line.label, &options)) {
            let found = matcher.line(&line.text, SAMPLES_NOW);
            let label = |name: &str| line.label.get(name);
            let wanted = label("match").and_then(Value::as_bool).unwrap_or(false);
            let elsewhere = label("filter").is_some_and(|other| log.file_stem().is_some_and(|name| *other != *name.to_string_lossy()));
            let fault = match found {
                None if wanted && !elsewhere => Some("missed"),
                None => None,
                Some(_) if !wanted => Some("blamed"),
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

/// Whether a label's `constraint` (a Python expression: the few forms that there are) holds.
fn meant(label: &Value, options: &Options) -> bool {
    let mode = options.iter().find(|(name, _)| name == "mode").map(|(_, mode)| mode.as_str());
    match label.get("constraint").and_then(Value::as_str) {
        Some("opts.get('mode') == 'aggressive'") => mode == Some("aggressive"),
        Some("opts.get('mode') != 'aggressive'") => mode != Some("aggressive"),
        None | Some("name == 'sshd'") => true,
        Some(other) => panic!("constraint {other:?} is not known"),
    }
}

/// A label's time, local to the samples: `2005-03-7T02:09:33` happens.
fn moment(text: &str, zone: &TimeZone) -> f64 {
    let numbers: Vec<i16> = text.split(['-', 'T', ':', '.']).take(6).map(|number| number.parse().expect("a number")).collect();
    let small = |index: usize| i8::try_from(numbers[index]).expect("small");
    let local = jiff::civil::DateTime::new(numbers[0], small(1), small(2), small(3), small(4), small(5), 0).expect("a date");
    zone.to_timestamp(local).expect("a moment").as_second() as f64
}

/// Whether the installed fail2ban itself finds a failure in one line.
fn fail2ban_matches(filter: &Path, options: &Options, line: &[u8]) -> bool {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    std::fs::write(&log, [line, b"\n"].concat()).expect("written");
    !fail2ban_regex(filter, options, &log).is_empty()
}

/// Host and time of each failure that `fail2ban-regex` finds in a log, in order.
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
fn the_labelled_lines_agree_or_fail2ban_itself_disagrees() {
    let (Some(corpus), Some(filters)) = (corpus(), existing(FILTERS)) else { return };
    for (name, log) in logs(&corpus) {
        let tally = agreement(&filters.join(format!("{name}.conf")), &log).expect(&name);
        println!("{name}: {tally:?}");
        assert_eq!((tally.wrong, tally.missed), (0, 0), "{name}");
        assert!(tally.right > 0, "{name}");
    }
}

#[test]
fn the_samples_that_come_with_fail2ban_agree() {
    let (Some(samples), Some(filters)) = (existing(INSTALLED_SAMPLES), existing(FILTERS)) else { return };
    let (mut labels, mut refused) = (0, Vec::new());
    for (name, log) in logs(&samples) {
        let filter = filters.join(format!("{name}.conf"));
        if !filter.exists() {
            continue;
        }
        match agreement(&filter, &log) {
            Ok(tally) => {
                assert_eq!((tally.wrong, tally.missed, tally.outdated), (0, 0, 0), "{name}");
                labels += tally.right;
            }
            Err(error) => {
                assert!(error.contains("filters over several lines are not supported"), "{error}");
                refused.push(name);
            }
        }
    }
    println!("{labels} labels agree; filters over several lines: {refused:?}");
    assert!(labels > 800, "{labels}");
}

#[test]
fn every_installed_filter_loads_or_says_why_not() {
    let Some(filters) = existing(FILTERS) else { return };
    let (mut loaded, mut refused) = (0, Vec::new());
    for (name, path) in logs(&filters) {
        let Some(name) = name.strip_suffix(".conf") else { continue };
        match Filter::load(&path, &[]) {
            Ok(_) => loaded += 1,
            Err(error) => {
                let error = error.to_string();
                let included = name.ends_with("common");
                let lines = error.contains("maxlines") && error.contains("filters over several lines are not supported");
                assert!(included || lines, "{error}");
                refused.push(format!("{name}: {error}"));
            }
        }
    }
    println!("{loaded} filters load, {} do not:\n{}", refused.len(), refused.join("\n"));
    assert!(loaded > 80, "{loaded}");
}

#[test]
fn every_line_is_found_as_fail2ban_regex_finds_it() {
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
