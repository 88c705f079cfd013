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
#[path = "query_tests.rs"]
mod tests;
