//! What Exim asks, checked before it goes to the resident, and what the resident answers, checked before it goes to Exim: pure.

use std::ffi::OsString;
use std::net::IpAddr;

use crate::socket::request::{Check, Request, Via, parse};

/// The answer that lets a client pass.
pub const ACCEPT: &str = "accept";

/// The longest answer that is handed on, in bytes: a rule's name has 64 at most.
const LONGEST_ANSWER: usize = 150;

/// A query worth asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// May this connection go on?
    Check {
        /// Whom it is about.
        address: IpAddr,
        /// What Exim says its process is.
        pid: Option<u32>,
        /// The port that the connection came in on.
        port: Option<u16>,
        /// Who asks.
        via: Via,
    },
    /// An incident under a rule.
    Strike {
        /// Whom it is about.
        address: IpAddr,
        /// The rule's name.
        rule: String,
    },
}

impl Query {
    /// `check ADDRESS [pid=N] [port=N]` or `strike ADDRESS RULE`. None where nothing is to be asked: an empty address (mail from this
    /// machine), or something that is no query.
    #[must_use]
    pub fn of_arguments(arguments: &[OsString]) -> Option<Self> {
        let words: Option<Vec<&str>> = arguments.iter().map(|argument| argument.to_str()).collect();
        let words = words?;
        // Each argument is one word of the line: none may bring further ones.
        if words.iter().any(|word| word.contains(|c: char| c.is_whitespace() || c.is_control())) {
            return None;
        }
        Self::read(words.join(" ").as_bytes(), Via::Run).ok().flatten()
    }

    /// A line of standard input, without its newline. None where nothing is to be asked.
    ///
    /// # Errors
    /// What was found, and what was expected.
    pub fn of_line(line: &[u8]) -> Result<Option<Self>, String> {
        Self::read(line, Via::Lines)
    }

    fn read(line: &[u8], via: Via) -> Result<Option<Self>, String> {
        match parse(line).map_err(|fault| fault.to_string())? {
            Request::Check(Check { address, pid, port, .. }) => Ok(address.map(|address| Self::Check { address, pid, port, via })),
            Request::Strike { address: None, .. } => Ok(None),
            Request::Strike { address: Some(address), rule } if is_rule(rule) => Ok(Some(Self::Strike { address, rule: rule.to_owned() })),
            Request::Strike { .. } => Err("found a rule's name that is none, expected [a-z0-9-]".to_owned()),
            _ => Err("found another request, expected check or strike".to_owned()),
        }
    }

    /// The line that the resident is sent, without its newline.
    #[must_use]
    pub fn request(&self) -> String {
        match self {
            Self::Check { address, pid, port, via } => {
                let mut request = format!("check {address}");
                for (key, number) in [("pid", *pid), ("port", port.map(u32::from))] {
                    if let Some(number) = number {
                        request.push_str(&format!(" {key}={number}"));
                    }
                }
                request.push_str(match via {
                    Via::Peer => "",
                    Via::Run => " via=run",
                    Via::Lines => " via=lines",
                });
                request
            }
            Self::Strike { address, rule } => format!("strike {address} {rule}"),
        }
    }
}

fn is_rule(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The first line of what the resident answered, if it is a verdict and whole; else [`ACCEPT`].
#[must_use]
pub fn understood(answer: &str) -> &str {
    let Some((line, _)) = answer.split_once('\n') else { return ACCEPT };
    let mut words = line.split(' ');
    let is_refusal = matches!(words.next(), Some("defer" | "deny"))
        && words.next().and_then(|word| word.strip_prefix("rule=")).is_some_and(is_rule)
        && words.next().and_then(|word| word.strip_prefix("until=")).is_some_and(|until| until.parse::<i64>().is_ok());
    let is_clean = line.len() <= LONGEST_ANSWER && line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_refusal && is_clean { line } else { ACCEPT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(arguments: &[&str]) -> Option<String> {
        Query::of_arguments(&arguments.iter().map(OsString::from).collect::<Vec<_>>()).map(|query| query.request())
    }

    #[test]
    fn arguments_become_the_line_that_the_resident_is_sent() {
        assert_eq!(of(&["check", "192.0.2.1", "pid=7", "port=25"]).as_deref(), Some("check 192.0.2.1 pid=7 port=25 via=run"));
        assert_eq!(of(&["check", "::ffff:192.0.2.1"]).as_deref(), Some("check 192.0.2.1 via=run"));
        assert_eq!(of(&["check", "2001:db8::1", "pid=7", "port="]).as_deref(), Some("check 2001:db8::1 pid=7 via=run"));
        assert_eq!(of(&["strike", "192.0.2.1", "bad-helo"]).as_deref(), Some("strike 192.0.2.1 bad-helo"));
    }

    #[test]
    fn nothing_is_asked_about_local_mail_and_about_what_is_no_query() {
        for arguments in [
            &["check", ""][..],
            &["check", "", "pid=7", "port="],
            &["check", "192.0.2.1", "pid=x"],
            &["check", "192.0.2.1 pid=7"],
            &["check"],
            &["check", "mail.example.org"],
            &["check", "192.0.2.1\nban 192.0.2.2"],
            &["strike", "192.0.2.1"],
            &["strike", "192.0.2.1", "a\nb"],
            &["strike", "192.0.2.1", "A rule"],
            &["unban", "192.0.2.1"],
        ] {
            assert_eq!(of(arguments), None, "{arguments:?}");
        }
    }

    #[test]
    fn lines_are_read_as_the_resident_reads_them() {
        let request = |line: &[u8]| Query::of_line(line).map(|query| query.map(|query| query.request()));
        assert_eq!(request(b"check 192.0.2.1 port=25"), Ok(Some("check 192.0.2.1 port=25 via=lines".into())));
        assert_eq!(request(b"check "), Ok(None));
        assert_eq!(request(b"strike  rule"), Ok(None));
        for line in [&b"ban 192.0.2.1"[..], b"", b"\xff", b"strike 192.0.2.1 \x1b[2J"] {
            assert!(request(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn only_a_verdict_is_handed_on() {
        assert_eq!(understood("defer rule=exim-rate until=1800000000\n"), "defer rule=exim-rate until=1800000000");
        assert_eq!(understood("deny rule=x until=-1\nmore\n"), "deny rule=x until=-1");
        for other in [
            "",
            "\n",
            "error found x\n",
            "accepted\n",
            "defer\n",
            "deny rule=x until=18",
            "deny rule=x until=\n",
            "deny rule=X until=1\n",
            "deny rule=x until=1 \x1b\n",
            " deny rule=x until=1\n",
            &format!("deny rule=x until=1 {}\n", "x".repeat(200)),
        ] {
            assert_eq!(understood(other), "accept", "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_is_one_line_and_whatever_is_answered_is_a_verdict(words in proptest::collection::vec("\\PC{0,20}|check|strike|192\\.0\\.2\\.1|pid=[0-9]{0,9}|\n", 0..6), answer in "(accept|deny |defer |error )?(rule=x )?(until=)?\\PC{0,40}\n?") {
            let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            if let Some(query) = Query::of_arguments(&words) {
                prop_assert!(!query.request().contains('\n'));
                prop_assert!(parse(query.request().as_bytes()).is_ok());
            }
            let verdict = understood(&answer);
            prop_assert!(["accept", "defer", "deny"].iter().any(|word| verdict.starts_with(word)));
        }
    }
}
