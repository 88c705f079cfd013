//! Checks Exim's queries before they go to the daemon, and the daemon's answers before they go to Exim.

use std::fmt;
use std::net::IpAddr;

use crate::client::parse_address_bytes;
use crate::control::answer::ACCEPT;
use crate::control::request::{ACCOUNT, Check, CheckReader, MAX_LINE, MAX_REPORT, Via, is_printable_ascii, quoted};
use crate::rule_id::is_rule_name;

/// Maximum length of a verdict in bytes. A rule's name has at most 64.
const MAX_ANSWER: usize = 150;

/// Maximum length in bytes of an account's name. An address has at most 254 (RFC 5321).
const MAX_ACCOUNT: usize = 1024;

/// Maximum number of addresses that one query asks about.
const MAX_ADDRESSES: usize = 8;

/// What the daemon is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EximQuery {
    /// The requests, each a line without its newline. The first refusal is the answer.
    ///
    /// Empty if there is nothing to ask: the address is empty (mail from this machine), or the query contains none.
    pub requests: Vec<String>,
    /// What was not understood.
    pub ignored: Ignored,
}

impl EximQuery {
    /// Reads `check ADDRESS [pid=N] [port=N]`, `strike ADDRESS RULE [account=TEXT]` or `clear ADDRESS RULE [account=TEXT]`, a word each but for
    /// TEXT. A client's text may follow behind `--`: it is no part of the query, unless the query itself begins there.
    ///
    /// What is not understood never serves a banned client: in any other query, each address is looked up. A lookup counts nothing, so a
    /// client whose text stands in the query cannot have anybody else blamed. `unknown` are arguments in which an address is looked for
    /// as well; `ignored` names what was not understood before.
    #[must_use]
    pub fn from_words(words: &[&[u8]], unknown: &[&[u8]], ignored: Ignored) -> Self {
        Self::read(words, unknown, ignored, Via::Run)
    }

    /// Reads a line of standard input, without its newline, in the same way.
    #[must_use]
    pub fn from_line(line: &[u8]) -> Self {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut ignored = Ignored::default();
        // The last word of a line that was cut may have been an address, which must not become another one.
        let cut = line.get(..MAX_LINE).filter(|_| line.len() > MAX_LINE);
        let whole = cut.map(|start| start.iter().rposition(|byte| *byte == b' ').and_then(|at| start.get(..=at)).unwrap_or_default());
        let words: Vec<&[u8]> = whole.unwrap_or(line).split(|byte| *byte == b' ').collect();
        let is_text_cut = cut.is_some() && !query_and_text(&words).1.is_empty();
        if cut.is_some() && !is_text_cut {
            ignored.add(line);
        }
        let mut query = Self::read(&words, &[], ignored, Via::Lines);
        if is_text_cut {
            query.ignored.add(line);
        }
        query
    }

    fn read(words: &[&[u8]], unknown: &[&[u8]], mut ignored: Ignored, via: Via) -> Self {
        let (all, text) = query_and_text(words);
        let (words, account) = words_and_account(all);
        let understood = match words {
            [b"check", ..] if account.is_some() => None,
            [b"check", address, more @ ..] => parse_address_bytes(address).ok().map(|address| check(address, more, via, &mut ignored)),
            [verb @ (b"strike" | b"clear"), address, rule, more @ ..] => parse_address_bytes(address)
                .ok()
                .zip(std::str::from_utf8(rule).ok().filter(|rule| is_rule_name(rule)))
                .map(|(address, rule)| {
                    more.iter().for_each(|word| ignored.add(word));
                    let verb = if *verb == b"clear" { "clear" } else { "strike" };
                    let account = account.as_ref().map(|name| format!(" {ACCOUNT}{}", sendable(name))).unwrap_or_default();
                    format!("{verb} {address} {rule}{account}")
                }),
            _ => None,
        };
        if let Some(request) = understood {
            text.iter().for_each(|word| ignored.add(word));
            return Self { requests: vec![request], ignored };
        }
        let own: Vec<&[u8]> = all.iter().chain(unknown).copied().collect();
        let addresses = addresses(&[&own, text]);
        if !addresses.is_empty() || !is_local(words) {
            words.iter().for_each(|word| ignored.add(word));
            if account.is_some() {
                ignored.add(ACCOUNT.as_bytes());
            }
        }
        text.iter().for_each(|word| ignored.add(word));
        // Whether the port is one of submission decides which bans refuse.
        let mut reader = CheckReader::new(None);
        for word in words {
            let _ = read_word(&mut reader, word);
        }
        let lookup = Check { port: reader.check().port, counts: false, ..Check::of(None) };
        let request = |address| Check { address: Some(address), ..lookup }.to_string();
        Self { requests: addresses.into_iter().map(request).collect(), ignored }
    }

    /// All lines for the daemon, without the last newline: the requests, then a report of what was not understood.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut lines = self.requests.clone();
        lines.extend(self.ignored.report().map(|report| format!("report {report}")));
        lines.join("\n")
    }

    /// The daemon's answer for Exim: the first complete refusal among the answers to the requests, otherwise [`ACCEPT`].
    #[must_use]
    pub fn verdict<'a>(&self, answer: &'a str) -> &'a str {
        let answers = answer.split_inclusive('\n').take(self.requests.len());
        answers.map(checked_verdict).find(|verdict| *verdict != ACCEPT).unwrap_or(ACCEPT)
    }
}

/// The request of `check ADDRESS` and the words after it. Those that are not understood are ignored.
fn check(address: IpAddr, more: &[&[u8]], via: Via, ignored: &mut Ignored) -> String {
    let mut reader = CheckReader::new(Some(address));
    for word in more {
        if read_word(&mut reader, word).is_none() {
            ignored.add(word);
        }
    }
    let mut check = reader.check();
    // The port may be in what was not understood. On a submission port no connection counts.
    check.counts &= ignored.is_empty() || check.port.is_some();
    Check { via, ..check }.to_string()
}

/// The words of the query, and the client's text behind `--`. A query that begins with `--` stands behind it, and one in the name of an account
/// belongs to the name.
fn query_and_text<'a, 'b>(words: &'b [&'a [u8]]) -> (&'b [&'a [u8]], &'b [&'a [u8]]) {
    let words = words.strip_prefix(&[b"--".as_slice()]).unwrap_or(words);
    let at = words.iter().take_while(|word| !word.starts_with(ACCOUNT.as_bytes())).position(|word| *word == b"--");
    at.and_then(|at| Some((words.get(..at)?, words.get(at + 1..)?))).unwrap_or((words, &[]))
}

/// The words of the query before `account=`, and the account: all the rest, because its name may contain blanks.
fn words_and_account<'a, 'b>(words: &'b [&'a [u8]]) -> (&'b [&'a [u8]], Option<Vec<u8>>) {
    let at = words.iter().position(|word| word.starts_with(ACCOUNT.as_bytes()));
    let Some((words, rest)) = at.and_then(|at| words.split_at_checked(at)) else { return (words, None) };
    (words, Some(rest.join(&b' ').split_off(ACCOUNT.len())))
}

/// An account's name as it may stand in a line: without what ends a line or is no text, and not longer than a name can be.
fn sendable(name: &[u8]) -> String {
    let name = name.get(..MAX_ACCOUNT).unwrap_or(name);
    String::from_utf8_lossy(name).replace(|c: char| c.is_control(), "\u{fffd}")
}

/// Whether a query without an address is one about mail from this machine, for which Exim has none. A shell drops the empty argument.
fn is_local(words: &[&[u8]]) -> bool {
    match words {
        [b"check", more @ ..] => {
            let mut reader = CheckReader::new(None);
            more.iter().all(|word| read_word(&mut reader, word).is_some())
        }
        [b"strike" | b"clear", b"", rule] | [b"strike" | b"clear", rule] => {
            std::str::from_utf8(rule).is_ok_and(|rule| rule.is_empty() || is_rule_name(rule))
        }
        _ => false,
    }
}

/// Reads `pid=N` or `port=N` as the daemon does. An empty word says nothing: Exim makes it of an empty variable.
///
/// The helper sets the other keys itself and takes none of them, but a query with `count=no` never counts.
fn read_word(reader: &mut CheckReader, word: &[u8]) -> Option<()> {
    match std::str::from_utf8(word).ok()? {
        "" => Some(()),
        word if word.starts_with("pid=") || word.starts_with("port=") => reader.read(word).ok(),
        word => {
            if word == "count=no" {
                let _ = reader.read(word);
            }
            None
        }
    }
}

/// Whether `word` belongs to a query wherever it stands: a verb, an address, or a key such as `port=N`.
#[must_use]
pub fn is_word(word: &[u8]) -> bool {
    let is_key = || std::str::from_utf8(word).is_ok_and(|word| CheckReader::new(None).read(word).is_ok());
    matches!(word, b"check" | b"strike" | b"clear") || word.starts_with(ACCOUNT.as_bytes()) || parse_address_bytes(word).is_ok() || is_key()
}

/// The addresses in arguments that are not understood, at most [`MAX_ADDRESSES`], in this order: in each group, first those that are a
/// whole argument, then those within one. So addresses in a client's text, which is one argument, do not displace the client's own.
fn addresses(groups: &[&[&[u8]]]) -> Vec<IpAddr> {
    let is_separator = |byte: &u8| !(byte.is_ascii_alphanumeric() || b".:-_".contains(byte));
    let candidates = groups.iter().flat_map(|words| {
        let whole = words.iter().filter_map(|word| parse_address_bytes(word).ok());
        whole.chain(words.iter().flat_map(move |word| word.split(is_separator)).filter_map(loose_address))
    });
    let mut found = Vec::new();
    for address in candidates {
        if found.len() < MAX_ADDRESSES && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// An address, also as people write it: with a port, as a literal of SMTP, or at the end of a sentence.
fn loose_address(piece: &[u8]) -> Option<IpAddr> {
    let parse = |piece| parse_address_bytes(piece).ok();
    let without_port = || piece.iter().position(|byte| *byte == b':').and_then(|at| piece.get(..at));
    let literal = || piece.split_at_checked(5).filter(|(tag, _)| tag.eq_ignore_ascii_case(b"IPv6:")).map(|(_, address)| address);
    parse(piece).or_else(|| parse(without_port()?)).or_else(|| parse(literal()?)).or_else(|| parse(piece.strip_suffix(b".")?))
}

/// Words and options that were not understood: the first few, for the daemon's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignored {
    named: Vec<String>,
    /// Number of further ones.
    more: usize,
    /// Why the configuration could not be read.
    pub config: Option<String>,
}

impl Ignored {
    /// Number of words that are named.
    const NAMED: usize = 4;
    /// Maximum length of the message of a configuration that cannot be read.
    const MAX_CONFIG: usize = 150;

    /// Adds a word. Of `key=value` only the key is named, because a value may be secret.
    pub fn add(&mut self, word: &[u8]) {
        if word.is_empty() {
            return;
        }
        if self.named.len() == Self::NAMED {
            self.more += 1;
            return;
        }
        let key = word.iter().position(|byte| *byte == b'=').and_then(|at| word.get(..=at));
        self.named.push(quoted(key.unwrap_or(word)));
    }

    /// Whether every word was understood.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// A message for the daemon's log; `None` if everything was understood.
    #[must_use]
    pub fn report(&self) -> Option<String> {
        let config = self.config.as_ref().map(|fault| fault.chars().take(Self::MAX_CONFIG).collect());
        let words = (!self.named.is_empty())
            .then(|| format!("found {self}, expected check ADDRESS [pid=N] [port=N], or strike or clear ADDRESS RULE [account=TEXT]"));
        let faults: Vec<String> = config.into_iter().chain(words).collect();
        let mut text = String::new();
        for c in faults.join("; ").chars().map(|c| if is_printable_ascii(c) { c } else { '?' }) {
            if text.len() + c.len_utf8() > MAX_REPORT {
                break;
            }
            text.push(c);
        }
        (!text.is_empty()).then_some(text)
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.named.join(", "))?;
        if self.more > 0 { write!(f, " and {} more", self.more) } else { Ok(()) }
    }
}

/// An answer of the daemon's with its newline, if it is a complete refusal; otherwise [`ACCEPT`].
fn checked_verdict(answer: &str) -> &str {
    let Some(line) = answer.strip_suffix('\n') else { return ACCEPT };
    let mut words = line.split(' ');
    let is_refusal = matches!(words.next(), Some("defer" | "deny"))
        && words.next().and_then(|word| word.strip_prefix("rule=")).is_some_and(is_rule_name)
        && words.next().and_then(|word| word.strip_prefix("until=")).is_some_and(|until| until.parse::<i64>().is_ok());
    let is_clean = line.len() <= MAX_ANSWER && line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_refusal && is_clean { line } else { ACCEPT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::request::{SocketRequest, parse};
    use proptest::prelude::*;

    fn query(words: &[&str]) -> EximQuery {
        EximQuery::from_words(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>(), &[], Ignored::default())
    }

    #[track_caller]
    fn assert_asks(words: &[&str], requests: &[&str], ignored: &str) {
        let query = query(words);
        assert_eq!(
            (query.requests, query.ignored.to_string()),
            (requests.iter().map(|line| (*line).to_owned()).collect(), ignored.to_owned())
        );
    }

    #[test]
    fn arguments_become_a_request() {
        for (words, request) in [
            (&["check", "192.0.2.1", "pid=7", "port=25"][..], "check 192.0.2.1 pid=7 port=25 via=run"),
            (&["check", "::ffff:192.0.2.1"], "check 192.0.2.1 via=run"),
            (&["check", "2001:db8::1", "pid=7", "port=", ""], "check 2001:db8::1 pid=7 via=run"),
            (&["strike", "192.0.2.1", "bad-helo"], "strike 192.0.2.1 bad-helo"),
            (&["clear", "192.0.2.1", "exim-auth"], "clear 192.0.2.1 exim-auth"),
        ] {
            assert_asks(words, &[request], "");
        }
    }

    #[test]
    fn local_mail_asks_nothing_and_is_no_fault() {
        for words in [
            &["check", ""][..],
            &["check", "", "pid=7", "port="],
            &["check", "pid=7"],
            &["check"],
            &["strike", "", "bad-helo"],
            &["strike", "bad-helo"],
        ] {
            assert_asks(words, &[], "");
        }
    }

    #[test]
    fn a_query_without_an_address_asks_nothing_and_is_reported() {
        assert_asks(&["check", "mail.example.org"], &[], "\"check\", \"mail.example.org\"");
        assert_asks(&["check", "", "junk"], &[], "\"check\", \"junk\"");
        assert_asks(&["sing", "a", "b", "c", "d", "e"], &[], "\"sing\", \"a\", \"b\", \"c\" and 2 more");
        assert_eq!(
            query(&["sing"]).lines(),
            "report found \"sing\", expected check ADDRESS [pid=N] [port=N], or strike or clear ADDRESS RULE [account=TEXT]"
        );
    }

    #[test]
    fn more_words_than_understood_are_reported_and_change_no_verdict() {
        assert_asks(
            &["check", "192.0.2.1", "port=25", "junk", "helo=203.0.113.9"],
            &["check 192.0.2.1 port=25 via=run"],
            "\"junk\", \"helo=\"",
        );
        assert_asks(&["strike", "192.0.2.1", "bad-helo", "203.0.113.9"], &["strike 192.0.2.1 bad-helo"], "\"203.0.113.9\"");
        assert_asks(&["check", "192.0.2.1", "pid=x", "port=25"], &["check 192.0.2.1 port=25 via=run"], "\"pid=\"");
    }

    #[test]
    fn a_connection_whose_port_may_not_be_understood_is_looked_up_and_not_counted() {
        for word in ["port=smtps", "ports=465", "PORT=465", "junk"] {
            let named = if word == "junk" { "\"junk\"".to_owned() } else { format!("\"{}=\"", word.split('=').next().unwrap()) };
            assert_asks(&["check", "192.0.2.1", word], &["check 192.0.2.1 via=run count=no"], &named);
        }
        let mut ignored = Ignored::default();
        ignored.add(b"--port=465");
        let query = EximQuery::from_words(&[b"check", b"192.0.2.1"], &[b"--port=465"], ignored);
        assert_eq!(query.requests, ["check 192.0.2.1 via=run count=no"]);
    }

    #[test]
    fn the_first_of_two_ports_counts_and_behind_two_dashes_no_key_is_read() {
        let counted = "check 192.0.2.1 port=25 via=run";
        assert_asks(&["check", "192.0.2.1", "port=25", "port=587"], &[counted], "\"port=\"");
        assert_asks(&["check", "192.0.2.1", "port=25", "--", "port=587"], &[counted], "\"port=\"");
        assert_asks(&["--", "check", "192.0.2.1", "port=25", "--", "port=587"], &[counted], "\"port=\"");
        for first in ["port=", "port=-1", "port=smtp"] {
            assert_eq!(query(&["check", "192.0.2.1", first, "port=587"]).requests, ["check 192.0.2.1 via=run count=no"], "{first}");
        }
        assert_asks(&["check", "192.0.2.1", "pid=7", "pid=8", "port=25"], &["check 192.0.2.1 pid=7 port=25 via=run"], "\"pid=\"");
        assert_asks(&["check", "--", "192.0.2.1", "port=587"], &["check 192.0.2.1 count=no"], "\"check\", \"192.0.2.1\", \"port=\"");
        assert_asks(&["check", "[192.0.2.1]", "--", "port=587"], &["check 192.0.2.1 count=no"], "\"check\", \"[192.0.2.1]\", \"port=\"");
        assert_asks(&["check", "", "--", "mail.example.org"], &[], "\"mail.example.org\"");
    }

    #[test]
    fn text_behind_two_dashes_does_not_keep_a_connection_from_counting() {
        for text in ["junk", "port=587", "port=smtp", "count=no", "via=lines", "203.0.113.9"] {
            assert_eq!(query(&["check", "192.0.2.1", "--", text]).requests, ["check 192.0.2.1 via=run"], "{text}");
            let line = format!("check 192.0.2.1 -- {text} {}", "x".repeat(MAX_LINE));
            assert_eq!(EximQuery::from_line(line.as_bytes()).requests, ["check 192.0.2.1 via=lines"], "{text}");
        }
        let one_word = format!("check 192.0.2.1 -- {}", "x".repeat(MAX_LINE));
        assert_eq!(EximQuery::from_line(one_word.as_bytes()).requests, ["check 192.0.2.1 via=lines"]);
    }

    #[test]
    fn the_helper_takes_no_key_but_pid_and_port_and_counts_nothing_after_count_no() {
        assert_asks(&["check", "192.0.2.1", "count=no", "port=25"], &["check 192.0.2.1 port=25 via=run count=no"], "\"count=\"");
        assert_asks(&["check", "192.0.2.1", "count=no"], &["check 192.0.2.1 via=run count=no"], "\"count=\"");
        assert_asks(&["check", "192.0.2.1", "via=lines", "port=25"], &["check 192.0.2.1 port=25 via=run"], "\"via=\"");
    }

    #[test]
    fn a_query_that_is_not_understood_looks_up_its_addresses_and_counts_nothing() {
        for words in [
            &["check", "192.0.2.1\nban 192.0.2.1"][..],
            &["check", "192.0.2.1 pid=7"],
            &["check 192.0.2.1 pid=7"],
            &["CHECK", "192.0.2.1"],
            &["unban", "192.0.2.1"],
            &["192.0.2.1"],
            &["check", "", "192.0.2.1"],
            &["check", "pid=7", "192.0.2.1"],
            &["check", "[192.0.2.1]:25"],
            &["check", "192.0.2.1:4711"],
            &["check", "192.0.2.1/32"],
            &["check", "address=192.0.2.1"],
            &["check", "IPv6:::ffff:192.0.2.1"],
            &["check", "<192.0.2.1>"],
            &["check", "\"192.0.2.1."],
            &["strike", "192.0.2.1"],
            &["strike", "192.0.2.1", "A rule"],
            &["strike", "192.0.2.1", "a\nb"],
            &["strike", "bad-helo", "192.0.2.1"],
            &["strike", "", "192.0.2.1"],
        ] {
            let query = query(words);
            assert_eq!(query.requests, ["check 192.0.2.1 count=no"], "{words:?}");
            assert!(query.ignored.report().is_some(), "{words:?}");
        }
        assert_asks(
            &["check", "helo.example", "192.0.2.1", "2001:db8::1", "192.0.2.1", "port=587"],
            &["check 192.0.2.1 port=587 count=no", "check 2001:db8::1 port=587 count=no"],
            "\"check\", \"helo.example\", \"192.0.2.1\", \"2001:db8::1\" and 2 more",
        );
        let unknown = EximQuery::from_words(&[], &[b"--check=192.0.2.1"], Ignored::default());
        assert_eq!(unknown.requests, ["check 192.0.2.1 count=no"]);
        let text = (1..=MAX_ADDRESSES).map(|number| format!("203.0.113.{number}")).collect::<Vec<_>>();
        assert_eq!(query(&["check", &text.join(" "), "192.0.2.1"]).requests[0], "check 192.0.2.1 count=no");
        let behind = [vec!["check", "[192.0.2.1]:25", "--"], text.iter().map(String::as_str).collect()].concat();
        assert_eq!(query(&behind).requests[0], "check 192.0.2.1 count=no");
        let many: Vec<String> = (0..100).map(|number| format!("192.0.2.{number}")).collect();
        assert_eq!(query(&many.iter().map(String::as_str).collect::<Vec<_>>()).requests.len(), MAX_ADDRESSES);
    }

    #[test]
    fn an_account_is_all_the_rest_of_the_query_and_stands_in_one_line() {
        let asked = |account: &[u8]| {
            let query = EximQuery::from_words(&[b"strike", b"192.0.2.1", b"exim-auth", account], &[], Ignored::default());
            assert_eq!((query.requests.len(), query.ignored.to_string().as_str()), (1, ""), "{account:?}");
            query.requests[0].strip_prefix("strike 192.0.2.1 exim-auth account=").unwrap().to_owned()
        };
        assert_eq!(asked(b"account="), "");
        assert_eq!(asked(b"account=A \"b\" <c@d> 203.0.113.9 --"), "A \"b\" <c@d> 203.0.113.9 --");
        assert_eq!(asked(b"account=a\nban 203.0.113.9\r\0\x1b\xff"), "a\u{fffd}ban 203.0.113.9\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(asked(&[b"account=".as_slice(), &[b'x'; 2 * MAX_LINE]].concat()), "x".repeat(MAX_ACCOUNT));
        assert_asks(
            &["clear", "192.0.2.1", "exim-auth", "account=a", "b", "account=c"],
            &["clear 192.0.2.1 exim-auth account=a b account=c"],
            "",
        );
        for line in ["strike 192.0.2.1 exim-auth account=a b", "strike 192.0.2.1 exim-auth account=a -- b"] {
            let query = EximQuery::from_line(line.as_bytes());
            assert_eq!((query.requests, query.ignored.to_string()), (vec![line.to_owned()], String::new()));
        }
        let long = [b"strike 192.0.2.1 exim-auth account=a ".as_slice(), &[b'x'; MAX_LINE]].concat();
        assert_eq!(EximQuery::from_line(&long).requests, ["strike 192.0.2.1 exim-auth account=a "], "a word that was cut is left out");
    }

    #[test]
    fn an_account_is_not_reported_and_nobody_is_blamed_for_what_it_contains() {
        for words in [
            &["strike", "192.0.2.1", "account=secret", "word"][..],
            &["strike", "192.0.2.1", "A rule", "account=secret", "word"],
            &["check", "192.0.2.1", "port=25", "account=secret", "word"],
            &["account=secret", "word", "strike", "192.0.2.1", "exim-auth"],
        ] {
            let query = query(words);
            assert!(query.requests.iter().all(|request| request.ends_with(" count=no")) && !query.requests.is_empty(), "{words:?}");
            let report = query.ignored.report().unwrap();
            assert!(report.contains("account=") && !report.contains("secret") && !report.contains("word"), "{report}");
        }
        assert_asks(&["strike", "", "exim-auth", "account=secret"], &[], "");
    }

    #[test]
    fn lines_are_read_as_arguments_are() {
        let requests = |line: &[u8]| EximQuery::from_line(line).requests;
        assert_eq!(requests(b"check 192.0.2.1 port=25"), ["check 192.0.2.1 port=25 via=lines"]);
        assert_eq!(requests(b"check 192.0.2.1\r"), ["check 192.0.2.1 via=lines"]);
        assert_eq!(requests(b"strike 192.0.2.1 bad-helo \xff"), ["strike 192.0.2.1 bad-helo"]);
        for line in [&b"ban 192.0.2.1"[..], b"check\t192.0.2.1", b"check  192.0.2.1", b"strike 192.0.2.1 \x1b[2J"] {
            assert_eq!(requests(line), ["check 192.0.2.1 count=no"], "{line:?}");
        }
        for line in [&b"check "[..], b"strike  rule", b"", b"\xff", b"check \xff"] {
            assert_eq!(requests(line), [""; 0], "{line:?}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_between_words() {
        let line = [b"check 192.0.2.1 port=25 ".as_slice(), &vec![b'x'; MAX_LINE - 22]].concat();
        assert_eq!(EximQuery::from_line(&line).requests, ["check 192.0.2.1 port=25 via=lines"]);
        let address = EximQuery::from_line(&[&vec![b'x'; MAX_LINE - 9], b" 192.0.2.10".as_slice()].concat());
        assert_eq!((address.requests, address.ignored.named.len()), (Vec::new(), 2));
    }

    #[test]
    fn a_line_of_the_maximum_length_is_not_cut_and_a_shorter_one_with_text_is_not_reported_whole() {
        let line = [&vec![b'x'; MAX_LINE - 10], b" 192.0.2.1".as_slice()].concat();
        assert_eq!(EximQuery::from_line(&line).requests.len(), 1, "its last word is looked up");
        let read = EximQuery::from_line(b"check 192.0.2.1 port=25 -- a helo");
        let report = read.ignored.report().unwrap();
        assert!(read.requests.len() == 1 && report.starts_with("found \"a\", \"helo\", expected "), "{report}");
    }

    #[test]
    fn a_report_is_short_and_printable_and_names_no_value() {
        let report = query(&["check", "\x1b[31m\u{e4}", "auth=c2VjcmV0", &"x".repeat(100_000), "\"", "\n"]).ignored.report().unwrap();
        assert!(report.len() < 400 && report.chars().all(is_printable_ascii) && !report.contains("c2VjcmV0"), "{report}");
        let escaped = EximQuery::from_line(&[b'\xff'; 300].chunks(70).collect::<Vec<_>>().join(&b' '));
        assert!(matches!(parse(escaped.lines().as_bytes()), Ok(SocketRequest::Report(_))), "{escaped:?}");
        let unreadable = Ignored { config: Some(format!("/\u{e4}\n{}: missing", "x".repeat(1000))), ..Ignored::default() };
        let report = unreadable.report().unwrap();
        assert!(report.len() < 400 && report.chars().all(is_printable_ascii), "{report}");
        let mut everything = unreadable;
        (0..9).for_each(|_| everything.add(&[b'\xff'; 300]));
        assert_eq!(everything.report().unwrap().len(), MAX_REPORT, "as long as a report may be");
    }

    #[test]
    fn only_verdicts_are_passed_on() {
        let verdict = |answer: &str| query(&["check", "192.0.2.1"]).verdict(answer).to_owned();
        assert_eq!(verdict("defer rule=exim-rate until=1800000000\n"), "defer rule=exim-rate until=1800000000");
        assert_eq!(verdict("deny rule=x until=-1\nmore\n"), "deny rule=x until=-1");
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
            "accept\ndeny rule=x until=1\n",
            &format!("deny rule=x until=1 {}\n", "x".repeat(200)),
        ] {
            assert_eq!(verdict(other), "accept", "{other:?}");
        }
        assert_eq!(query(&["192.0.2.1", "192.0.2.2"]).verdict("accept\ndeny rule=x until=1\n"), "deny rule=x until=1");
    }

    proptest! {
        #[test]
        fn every_request_is_one_line_and_every_answer_a_verdict(words in proptest::collection::vec("\\PC{0,20}|check|strike|exim-auth|account=\\PC{0,9}|192\\.0\\.2\\.1|pid=[0-9]{0,9}|\n", 0..6), answer in "(accept|deny |defer |error )?(rule=x )?(until=)?\\PC{0,40}\n?") {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            for query in [query(&words), EximQuery::from_line(words.join(" ").as_bytes())] {
                for line in query.lines().lines() {
                    prop_assert!(matches!(parse(line.as_bytes()), Ok(SocketRequest::Check(_) | SocketRequest::Strike(_) | SocketRequest::Report(_))), "{}", line);
                }
                let verdict = query.verdict(&answer);
                prop_assert!(["accept", "defer", "deny"].iter().any(|word| verdict.starts_with(word)));
            }
        }

        #[test]
        fn only_the_address_behind_the_verb_is_ever_counted(words in proptest::collection::vec("192\\.0\\.2\\.[1-3]|check|strike|--table|pid=7|port=25|bad-helo|account=x?|x", 1..6)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            for request in query(&words).requests {
                let counts = !request.ends_with(" count=no");
                prop_assert!(!counts || (words[0] == "check" || words[0] == "strike") && request.split(' ').nth(1) == Some(words[1]), "{:?}: {}", words, request);
            }
        }

        #[test]
        fn whatever_else_the_arguments_contain_their_address_is_asked_about(before in proptest::collection::vec("\\PC{0,9}|check|strike", 0..3), after in proptest::collection::vec("\\PC{0,9}|pid=7|port=25|bad-helo", 0..3)) {
            let words: Vec<&str> = before.iter().map(String::as_str).chain(["198.51.100.77"]).chain(after.iter().map(String::as_str)).collect();
            prop_assert!(query(&words).requests.iter().any(|request| request.split(' ').nth(1) == Some("198.51.100.77")), "{:?}", words);
        }
    }
}
