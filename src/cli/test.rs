//! `strikeout test`: a URL or a log line against the rules of the configuration, or a fail2ban filter against a log.

use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, test_line};
use crate::fail2ban::test_filter::{self, FilterTest};
use crate::log::time::Zone;

/// The arguments of `test`: a filter and a log, or a line for the rules of the configuration.
#[derive(Debug, clap::Args)]
pub struct TestArguments {
    /// Test this fail2ban filter against a log, such as /etc/fail2ban/filter.d/sshd.conf
    #[arg(long, value_name = "FILE")]
    filter: Option<PathBuf>,
    /// An option of the filter, such as mode=aggressive; may be given several times
    #[arg(short = 'o', long = "option", value_name = "NAME=VALUE", value_parser = filter_option, requires = "filter")]
    options: Vec<(String, String)>,
    /// Complete dates without a year or a day as of this moment (seconds since 1970) instead of now
    #[arg(long, value_name = "EPOCH", requires = "filter")]
    now: Option<f64>,
    /// The time zone of times without an offset, such as Europe/Berlin or +05:30 [default: this machine's]
    #[arg(long, value_name = "ZONE", value_parser = Zone::parse, allow_hyphen_values = true)]
    zone: Option<Zone>,
    /// The configuration whose rules are tested [default: /etc/strikeout/strikeout.toml, if it is there]
    #[arg(long, value_name = "FILE", conflicts_with = "filter")]
    config: Option<PathBuf>,
    /// The method of the request, if the text is a URL
    #[arg(long, default_value = "GET", conflicts_with = "filter")]
    method: String,
    /// The User-Agent of the request, "" for none; no rule over it matches if this is not given
    #[arg(long, conflicts_with = "filter")]
    user_agent: Option<String>,
    /// Another header of the request, such as 'Cookie: a=b'; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE", conflicts_with = "filter")]
    headers: Vec<String>,
    /// With --filter, the log (- for standard input); otherwise a URL, a path, or a line of a log
    #[arg(value_name = "LOG or LINE")]
    text: std::ffi::OsString,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `strikeout test`. Exit code 0: something matched; 1: nothing did; 2: filter, log or configuration cannot be used.
pub fn run(arguments: TestArguments) -> ExitCode {
    let TestArguments { filter, options, now, zone, config, method, user_agent, headers, text, json } = arguments;
    let zone = zone.unwrap_or_else(Zone::of_this_machine);
    let matched = match filter {
        Some(filter) => run_filter(&FilterTest { filter, options, log: text.into(), json, now, local: zone.rules().clone() }),
        None => {
            let line = text.to_string_lossy();
            let input = test_line::TestInput { line: &line, method: &method, user_agent: user_agent.as_deref(), headers: &headers, zone };
            test_line::run(config.as_deref(), &input, json)
        }
    };
    match matched {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => failure.report(),
    }
}

/// Tests a filter on the standard streams. Returns whether a line matched.
fn run_filter(test: &FilterTest) -> Result<bool, Failure> {
    let done = test_filter::run(test, &mut BufWriter::new(io::stdout().lock()), &mut io::stderr().lock());
    done.or_else(|error| match error.downcast_ref::<io::Error>() {
        // A reader such as `head` closes its end after the first matches.
        Some(fault) if fault.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        _ => Err(Failure::Usage(format!("{error:#}"))),
    })
}

/// Parses `NAME=VALUE`.
fn filter_option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("found {text:?}, expected NAME=VALUE"))?;
    Ok((name.trim().to_lowercase(), value.to_owned()))
}
