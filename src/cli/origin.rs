//! What other programs say of their bans: who they are, since when a ban lasts, and how long to wait for the daemon.

use std::time::Duration;

use super::Failure;
use crate::control::admin::length;
use crate::rule_id::{ORIGINS, origin_name};
use crate::time::Span;

/// The arguments of `ban` and `unban` for other programs.
#[derive(Debug, clap::Args)]
pub struct OriginArguments {
    /// For other programs: whose ban this is, such as fail2ban/sshd. `list` and `why` show it, and `unban` takes back bans of this origin only.
    #[arg(long, value_name = "PROGRAM/NAME")]
    origin: Option<String>,
    /// When the ban began, in seconds since 1970: its duration counts from then.
    #[arg(long, value_name = "EPOCH", allow_hyphen_values = true)]
    since: Option<String>,
    /// Wait so long for a daemon that is away, as while it restarts.
    #[arg(long, value_name = "DURATION")]
    wait: Option<String>,
}

impl OriginArguments {
    /// The name under which the origin's bans stand; none for an operator.
    ///
    /// # Errors
    /// The origin is none that is known.
    pub fn rule(&self) -> Result<Option<String>, Failure> {
        let Some(origin) = &self.origin else { return Ok(None) };
        let known = |(program, _): &(&str, &str)| ORIGINS.contains(program);
        let (program, reason) = origin.split_once('/').filter(known).ok_or_else(|| {
            Failure::Usage(format!("found the origin {origin:?}, expected PROGRAM/NAME with a program of {}", ORIGINS.join(", ")))
        })?;
        Ok(Some(origin_name(program, reason)))
    }

    /// The end, in seconds since 1970 (-1 for never), of a ban that began at `--since`; `None` without that option.
    ///
    /// # Errors
    /// An argument is no time or no duration.
    pub fn until(&self, duration: Option<&str>) -> Result<Option<i64>, Failure> {
        let Some(since) = &self.since else { return Ok(None) };
        // fail2ban writes the time of a ban by hand with a fraction.
        let whole = since.split_once('.').map_or(since.as_str(), |(whole, _)| whole);
        let expected = || Failure::Usage(format!("found --since {since:?}, expected seconds since 1970"));
        let since: i64 = whole.parse().ok().filter(|since| *since >= 0).ok_or_else(expected)?;
        let duration = duration.ok_or_else(|| Failure::Usage("found --since without a duration, expected both".to_owned()))?;
        let length = length(duration).map_err(|fault| Failure::Usage(fault.to_string()))?;
        Ok(Some(length.map_or(-1, |span| since.saturating_add_unsigned(span.secs_ceil()))))
    }

    /// # Errors
    /// It is no duration.
    pub fn wait(&self) -> Result<Duration, Failure> {
        let Some(wait) = &self.wait else { return Ok(Duration::ZERO) };
        Span::parse(wait).map(|span| Duration::from_millis(span.millis())).map_err(|fault| Failure::Usage(format!("--wait: {fault}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(origin: &str, since: Option<&str>) -> OriginArguments {
        OriginArguments { origin: Some(origin.into()), since: since.map(Into::into), wait: Some("90s".into()) }
    }

    #[test]
    fn an_origin_is_a_known_program_and_a_name() {
        assert_eq!(arguments("fail2ban/sshd", None).rule(), Ok(Some("fail2ban-sshd".into())));
        assert_eq!(arguments("crowdsec/a/b", None).rule(), Ok(Some("crowdsec-a-b".into())));
        for origin in ["sshd", "nobody/sshd", ""] {
            assert!(matches!(arguments(origin, None).rule(), Err(Failure::Usage(_))), "{origin}");
        }
        assert_eq!(arguments("fail2ban/sshd", None).wait(), Ok(Duration::from_secs(90)));
    }

    #[test]
    fn a_duration_counts_from_the_start_of_the_ban() {
        let until = |since, duration| arguments("fail2ban/a", since).until(duration);
        assert_eq!(until(Some("1000"), Some("600")), Ok(Some(1600)));
        assert_eq!(until(Some("1000.75"), Some("10m")), Ok(Some(1600)));
        assert_eq!(until(Some("1000"), Some("-1")), Ok(Some(-1)));
        assert_eq!(until(None, Some("600")), Ok(None));
        for (since, duration) in [("soon", "600"), ("-1", "600"), ("1000", "ever"), ("", "1")] {
            assert!(matches!(until(Some(since), Some(duration)), Err(Failure::Usage(_))), "{since} {duration}");
        }
        assert!(matches!(until(Some("1000"), None), Err(Failure::Usage(_))));
    }
}
