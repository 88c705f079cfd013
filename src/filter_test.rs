//! `strikeout test --filter FILE LOG`: which lines of a log a fail2ban filter blames on whom. The equivalent of `fail2ban-regex`.

use crate::fail2ban::forgery::forgeries;
use crate::fail2ban::{Filter, Matcher};
use anyhow::Context as _;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Longest line that is looked at, in bytes; the rest of a longer one is passed over.
const LONGEST_LINE: usize = 1 << 20;

/// Arguments of the command.
#[derive(Debug, Clone)]
pub struct Args {
    /// A fail2ban filter file, such as /etc/fail2ban/filter.d/sshd.conf
    pub filter: PathBuf,
    /// An option of the filter, such as mode=aggressive; may be given several times
    pub options: Vec<(String, String)>,
    /// The log; - is the standard input
    pub log: PathBuf,
    /// One JSON object for each matching line
    pub json: bool,
    /// Dates without a year or a day are guessed as at this moment (seconds since 1970), not as now
    pub now: Option<f64>,
}

/// Reads `NAME=VALUE`.
///
/// # Errors
/// There is no `=`.
pub fn option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("found {text:?}, expected NAME=VALUE"))?;
    Ok((name.trim().to_lowercase(), value.to_owned()))
}

/// A matching line.
#[derive(Debug, Serialize, PartialEq)]
struct Record {
    /// From 1.
    line: u64,
    /// Who is blamed.
    host: String,
    /// Seconds since 1970, if the line says a moment.
    time: Option<f64>,
    /// What fail2ban counts by, if it is not the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// What a run over a log found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Summary {
    lines: u64,
    matched: u64,
    gave_up: u64,
}

/// Runs the command on the standard streams. Exit code 0: something matched; 1: nothing did; 2: the filter or the log cannot be read.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let mut errors = io::stderr().lock();
    match run_with(args, &mut BufWriter::new(io::stdout().lock()), &mut errors) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(errors, "strikeout: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Runs the command; says whether something matched.
///
/// # Errors
/// If the filter cannot be loaded or the log cannot be read.
pub fn run_with(args: &Args, output: &mut dyn Write, errors: &mut dyn Write) -> anyhow::Result<bool> {
    let filter = Arc::new(Filter::load(&args.filter, &args.options)?);
    for forgery in forgeries(&filter) {
        writeln!(errors, "warning: {forgery}")?;
    }
    let local = jiff::tz::TimeZone::system();
    let now = args.now.unwrap_or_else(|| {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of this century are far inside what a double counts exactly")]
        let now = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
        now
    });
    let log: Box<dyn Read> = if args.log.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(&args.log).with_context(|| args.log.display().to_string())?)
    };
    let mut matcher = Matcher::new(filter, local);
    let summary = test(&mut matcher, &mut BufReader::new(log), now, args.json, output).with_context(|| args.log.display().to_string())?;
    output.flush()?;
    if !args.json {
        writeln!(errors, "{} of {} lines match", summary.matched, summary.lines)?;
    }
    if summary.gave_up > 0 {
        writeln!(
            errors,
            "warning: {} lines took an expression with lookaround or back-references too many steps and match nothing",
            summary.gave_up
        )?;
    }
    Ok(summary.matched > 0)
}

fn test(matcher: &mut Matcher, log: &mut dyn BufRead, now: f64, json: bool, output: &mut dyn Write) -> io::Result<Summary> {
    let mut summary = Summary::default();
    let mut line = Vec::new();
    while read_line(log, &mut line)? {
        summary.lines += 1;
        // As fail2ban-regex does: comments of a collection of samples are no lines of a log.
        if line.starts_with(b"#") || line.is_empty() {
            continue;
        }
        let Some(found) = matcher.line(&line, now) else { continue };
        summary.matched += 1;
        let record = Record { line: summary.lines, host: found.host.to_string(), time: found.time, id: found.id };
        if json {
            serde_json::to_writer(&mut *output, &record)?;
            writeln!(output)?;
        } else {
            let time = record.time.map_or_else(|| "-".to_owned(), |time| time.to_string());
            writeln!(output, "{}\t{}\t{}\t{}", record.line, record.host, time, String::from_utf8_lossy(&line).escape_debug())?;
        }
    }
    summary.gave_up = matcher.gave_up();
    Ok(summary)
}

/// Reads a line without its end; `false` at the end of the log.
fn read_line(log: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let buffer = log.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        any = true;
        let (part, used, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => (buffer.get(..end).unwrap_or_default(), end + 1, true),
            None => (buffer, buffer.len(), false),
        };
        let room = LONGEST_LINE.saturating_sub(line.len());
        line.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
        log.consume(used);
        if ended {
            break;
        }
    }
    while line.last().is_some_and(|byte| *byte == b'\r') {
        line.pop();
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(filter: &str, log: &[u8], json: bool) -> (Result<bool, String>, String, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let args = Args {
            filter: directory.path().join("x.conf"),
            options: vec![],
            log: directory.path().join("log"),
            json,
            now: Some(1_369_098_172.0),
        };
        std::fs::write(&args.filter, filter).expect("written");
        std::fs::write(&args.log, log).expect("written");
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let result = run_with(&args, &mut output, &mut errors).map_err(|error| format!("{error:#}"));
        (result, String::from_utf8(output).expect("UTF-8"), String::from_utf8(errors).expect("UTF-8"))
    }

    const FILTER: &str = "[Definition]\nfailregex = ^ ?bad <HOST>$\n";

    #[test]
    fn each_matching_line_is_a_record() {
        let log = b"# bad 192.0.2.9\n\n2013-05-21T01:01:52Z bad 192.0.2.1\ngood\nbad 2001:db8::1\r\n2013-05-21T01:01:52Z bad a.example";
        let (result, output, _) = run(FILTER, log, true);
        assert_eq!(result, Ok(true));
        assert_eq!(
            output,
            "{\"line\":3,\"host\":\"192.0.2.1\",\"time\":1369098112.0}\n{\"line\":5,\"host\":\"2001:db8::1\",\"time\":null}\n{\"line\":6,\"host\":\"a.example\",\"time\":1369098112.0}\n"
        );
    }

    #[test]
    fn text_for_people_shows_the_line_escaped_and_a_summary() {
        let (result, output, errors) = run(FILTER, b"bad 192.0.2.1\n\x1b[31m", false);
        assert_eq!((result, output.as_str()), (Ok(true), "1\t192.0.2.1\t-\tbad 192.0.2.1\n"));
        assert_eq!(errors, "1 of 2 lines match\n");
    }

    #[test]
    fn nothing_that_matches_is_no_error() {
        assert_eq!(run(FILTER, b"good\n", true), (Ok(false), String::new(), String::new()));
    }

    #[test]
    fn an_expression_that_a_client_can_deceive_is_warned_about() {
        let (result, output, errors) = run("[Definition]\nfailregex = bad <HOST>$\n", b"good\n", true);
        assert_eq!((result, output.as_str()), (Ok(false), ""));
        assert!(
            errors.starts_with("warning: failregex 1 lets a client decide who is blamed: it is not bound to the beginning of the line (^)"),
            "{errors}"
        );
    }

    #[test]
    fn a_filter_or_log_that_cannot_be_read_is_an_error_that_names_it() {
        let error = run("[Definition]\nfailregex = (\n", b"", true).0.expect_err("no filter");
        assert!(error.contains("x.conf:2: failregex: "), "{error}");
        let args = Args { filter: "/nowhere".into(), options: vec![], log: "/nowhere".into(), json: true, now: None };
        assert!(run_with(&args, &mut Vec::new(), &mut Vec::new()).is_err());
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut log = b"bad 192.0.2.1\n".to_vec();
        log.extend(vec![b'x'; 3 << 20]);
        log.extend(b"\nbad 192.0.2.2\n");
        let (_, output, _) = run(FILTER, &log, true);
        assert_eq!(output.lines().count(), 2);
        assert!(output.contains("\"line\":3"));
    }
}
