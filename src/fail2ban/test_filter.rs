//! Lists the lines of a log that a fail2ban filter matches, for `strikeout test --filter FILE LOG`. The equivalent of `fail2ban-regex`.

use super::forgery::forgeries;
use super::{Filter, Matcher};
use anyhow::Context as _;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// Maximum length of a line, in bytes; the rest of a longer one is ignored.
const MAX_LINE_LENGTH: usize = 1 << 20;

/// A filter, a log, and how to show the matches.
#[derive(Debug, Clone)]
pub struct FilterTest {
    /// A fail2ban filter file, such as /etc/fail2ban/filter.d/sshd.conf
    pub filter: PathBuf,
    /// Options of the filter, such as mode=aggressive
    pub options: Vec<(String, String)>,
    /// The log; - is standard input
    pub log: PathBuf,
    /// One JSON object for each matching line
    pub json: bool,
    /// The time, in seconds since 1970, from which the year or day of incomplete dates is guessed; now if none
    pub now: Option<f64>,
    /// The time zone of dates without one, unless the filter names it
    pub local: TimeZone,
}

/// A matching line.
#[derive(Debug, Serialize, PartialEq)]
struct MatchRecord {
    /// Line number, counted from 1.
    line: u64,
    /// The client that is blamed.
    host: String,
    /// The date in the line, in seconds since 1970.
    time: Option<f64>,
    /// The identifier that fail2ban counts by, if it is not the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// Totals of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Summary {
    lines: u64,
    matched: u64,
    gave_up: u64,
    uncertain: u64,
}

/// Writes the matches to `output` and warnings to `errors`. Returns whether a line matched.
///
/// # Errors
/// The filter cannot be loaded, the log cannot be read, or an output cannot be written.
pub fn run(test: &FilterTest, output: &mut dyn Write, errors: &mut dyn Write) -> anyhow::Result<bool> {
    let filter = Arc::new(Filter::load(&test.filter, &test.options)?);
    for forgery in forgeries(&filter) {
        writeln!(errors, "warning: {forgery}")?;
    }
    let now = test.now.unwrap_or_else(|| {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of this century are far inside what a double counts exactly")]
        let now = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
        now
    });
    let log: Box<dyn Read> = if test.log.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(&test.log).with_context(|| test.log.display().to_string())?)
    };
    let mut matcher = Matcher::new(filter, test.local.clone());
    let summary =
        match_lines(&mut matcher, &mut BufReader::new(log), now, test.json, output).with_context(|| test.log.display().to_string())?;
    output.flush()?;
    if !test.json {
        writeln!(errors, "{} of {} lines match", summary.matched, summary.lines)?;
    }
    if summary.uncertain > 0 {
        writeln!(errors, "warning: {} lines match but could blame another client, and blame nobody", summary.uncertain)?;
    }
    if summary.gave_up > 0 {
        writeln!(
            errors,
            "warning: {} lines reached the step limit of an expression with lookaround or back-references, and match nothing",
            summary.gave_up
        )?;
    }
    Ok(summary.matched > 0)
}

fn match_lines(matcher: &mut Matcher, log: &mut dyn BufRead, now: f64, json: bool, output: &mut dyn Write) -> io::Result<Summary> {
    let mut summary = Summary::default();
    let mut line = Vec::new();
    while read_line(log, &mut line)? {
        summary.lines += 1;
        // Like fail2ban-regex: collections of samples hold comments.
        if line.starts_with(b"#") || line.is_empty() {
            continue;
        }
        let Some(found) = matcher.line(&line, now) else { continue };
        summary.matched += 1;
        let record = MatchRecord { line: summary.lines, host: found.host.to_string(), time: found.time, id: found.id };
        if json {
            serde_json::to_writer(&mut *output, &record)?;
            writeln!(output)?;
        } else {
            let time = record.time.map_or_else(|| "-".to_owned(), |time| time.to_string());
            writeln!(output, "{}\t{}\t{}\t{}", record.line, record.host, time, String::from_utf8_lossy(&line).escape_debug())?;
        }
    }
    summary.gave_up = matcher.gave_up();
    summary.uncertain = matcher.uncertain();
    Ok(summary)
}

/// Reads a line without its terminator; returns `false` at the end of the log.
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
        let room = MAX_LINE_LENGTH.saturating_sub(line.len());
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

    fn run_on(filter: &str, log: &[u8], json: bool) -> (Result<bool, String>, String, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let test = FilterTest {
            filter: directory.path().join("x.conf"),
            options: vec![],
            log: directory.path().join("log"),
            json,
            now: Some(1_369_098_172.0),
            local: TimeZone::UTC,
        };
        std::fs::write(&test.filter, filter).expect("written");
        std::fs::write(&test.log, log).expect("written");
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let result = run(&test, &mut output, &mut errors).map_err(|error| format!("{error:#}"));
        (result, String::from_utf8(output).expect("UTF-8"), String::from_utf8(errors).expect("UTF-8"))
    }

    const FILTER: &str = "[Definition]\nfailregex = ^ ?bad <HOST>$\n";

    #[test]
    fn each_matching_line_is_a_record() {
        let log = b"# bad 192.0.2.9\n\n2013-05-21T01:01:52Z bad 192.0.2.1\ngood\nbad 2001:db8::1\r\n2013-05-21T01:01:52Z bad a.example";
        let (result, output, _) = run_on(FILTER, log, true);
        assert_eq!(result, Ok(true));
        assert_eq!(
            output,
            "{\"line\":3,\"host\":\"192.0.2.1\",\"time\":1369098112.0}\n{\"line\":5,\"host\":\"2001:db8::1\",\"time\":null}\n{\"line\":6,\"host\":\"a.example\",\"time\":1369098112.0}\n"
        );
    }

    #[test]
    fn plain_output_shows_the_line_escaped_and_a_summary() {
        let (result, output, errors) = run_on(FILTER, b"bad 192.0.2.1\n\x1b[31m", false);
        assert_eq!((result, output.as_str()), (Ok(true), "1\t192.0.2.1\t-\tbad 192.0.2.1\n"));
        assert_eq!(errors, "1 of 2 lines match\n");
    }

    #[test]
    fn lines_that_could_blame_another_client_are_counted() {
        let filter = "[Definition]\nfailregex = ^bad .* from <HOST>\n";
        let (result, output, errors) = run_on(filter, b"bad x from 198.51.100.9 from 192.0.2.1\n", false);
        assert_eq!((result, output.as_str()), (Ok(false), ""));
        assert!(errors.contains("warning: 1 lines match but could blame another client, and blame nobody"), "{errors}");
    }

    #[test]
    fn a_log_without_a_match_is_no_error() {
        assert_eq!(run_on(FILTER, b"good\n", true), (Ok(false), String::new(), String::new()));
    }

    #[test]
    fn an_expression_that_a_client_can_deceive_is_warned_about() {
        let (result, output, errors) = run_on("[Definition]\nfailregex = bad <HOST>$\n", b"good\n", true);
        assert_eq!((result, output.as_str()), (Ok(false), ""));
        assert!(
            errors.starts_with(
                "warning: failregex 1 lets a client decide which address is blamed: it is not anchored to the start of the line (^)"
            ),
            "{errors}"
        );
    }

    #[test]
    fn an_unreadable_filter_or_log_is_an_error_that_names_it() {
        let error = run_on("[Definition]\nfailregex = (\n", b"", true).0.expect_err("no filter");
        assert!(error.contains("x.conf:2: failregex: "), "{error}");
        let test =
            FilterTest { filter: "/nowhere".into(), options: vec![], log: "/nowhere".into(), json: true, now: None, local: TimeZone::UTC };
        assert!(run(&test, &mut Vec::new(), &mut Vec::new()).is_err());
    }

    #[test]
    fn an_overlong_line_is_cut() {
        let mut log = b"bad 192.0.2.1\n".to_vec();
        log.extend(vec![b'x'; 3 << 20]);
        log.extend(b"\nbad 192.0.2.2\n");
        let (_, output, _) = run_on(FILTER, &log, true);
        assert_eq!(output.lines().count(), 2);
        assert!(output.contains("\"line\":3"));
    }
}
