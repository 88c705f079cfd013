//! Rules over any text log, in fail2ban's language, with a gate: a line without the text that an expression needs is not looked at.

use std::sync::Arc;

use aho_corasick::AhoCorasick;

use super::rules::Seen;
use super::time::Zone;
use crate::client::{Client, parse_address};
use crate::detector::Detector;
use crate::event::Surface;
use crate::fail2ban::{Filter, Host, Matcher};
use crate::rule::{Evidence, LinePattern, Offence, Rule};
use crate::time::Time;

/// One rule over the lines of one log.
#[derive(Debug)]
pub struct TextRule {
    rule: Arc<Rule>,
    matcher: Matcher,
    gate: Option<AhoCorasick>,
    surface: Surface,
}

impl TextRule {
    /// A rule that has seen no line. Filter files are read here.
    ///
    /// # Errors
    /// A sentence on the filter or expression that cannot be used.
    pub fn new(rule: &Arc<Rule>, pattern: &LinePattern, zone: &Zone) -> Result<Self, String> {
        let filter = match pattern {
            LinePattern::Exim(_) => return Err(format!("found kinds of Exim lines in rule {:?}, expected expressions", rule.name)),
            LinePattern::Regex { failregex, ignoreregex } => {
                Filter::of(failregex, ignoreregex).map_err(|error| format!("rule {:?}: {error}", rule.name))?
            }
            LinePattern::Filter { path, options } => Filter::load(path, options).map_err(|error| error.to_string())?,
        };
        let literals: Option<Vec<[String; 2]>> = filter.sources.iter().map(|source| halves(&required_text(source)?)).collect();
        let gate =
            literals.map(|literals| AhoCorasick::new(literals.into_iter().flatten())).transpose().map_err(|error| error.to_string())?;
        let surface = rule.scope.surfaces().first().copied().unwrap_or(Surface::Web);
        Ok(Self { rule: Arc::clone(rule), matcher: Matcher::new(Arc::new(filter), zone.rules().clone()), gate, surface })
    }

    /// The offence that `line` is. A line without a date of its own counts as of the last one, or as of `received`.
    #[must_use]
    pub fn look(&mut self, line: &[u8], received: Time, detector: &Detector<'_>) -> Option<Seen> {
        if self.gate.as_ref().is_some_and(|gate| !gate.is_match(line)) {
            return None;
        }
        let found = self.matcher.line(line, seconds(received))?;
        let address = match (&found.id, &found.host) {
            // What a filter counts by instead of an address (`<F-ID>`) can only be refused if it is one.
            (Some(id), _) => parse_address(id).ok()?,
            (None, Host::Address(address)) => *address,
            (None, Host::Network(_) | Host::Text(_)) => return None,
        };
        let (time, client) = (moment(found.counted_at)?, Client::of(address, detector.prefix));
        let is_banned = |surface: &Surface| detector.standing(time, address, client, *surface).is_some();
        if detector.lists.never_banned(address).is_some() || self.rule.scope.surfaces().iter().all(is_banned) {
            return None;
        }
        let offence = Offence { address, client, rules: vec![Arc::clone(&self.rule)], evidence: Evidence::new(&[line]) };
        Some(Seen { time, surface: self.surface, offence })
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact in an f64")]
fn seconds(time: Time) -> f64 {
    time.millis() as f64 / 1000.0
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn moment(seconds: f64) -> Option<Time> {
    let millis = (seconds * 1000.0).round();
    (0.0..9e15).contains(&millis).then_some(Time::from_millis(millis as u64))
}

/// Both halves of a text. The date is cut out of a line before expressions are tried, so it may stand in the midst of the text, but only
/// in one half.
fn halves(text: &str) -> Option<[String; 2]> {
    /// Shorter halves are in too many lines.
    const SHORTEST: usize = 4;
    if text.len() < 2 * SHORTEST {
        return None;
    }
    let (first, second) = text.split_at_checked(text.len() / 2)?;
    Some([first.to_owned(), second.to_owned()])
}

/// Text that every line which `expression` matches must hold once its date is cut out: its longest run of plain characters outside all groups. None where there
/// is no certain one: it must be certain, not complete.
fn required_text(expression: &str) -> Option<String> {
    /// Shorter text is in too many lines.
    const SHORTEST: usize = 4;
    // Flags may change what a character means (no case, comments); of the other extensions only the plainest are known here.
    let extensions = expression.match_indices("(?").filter_map(|(at, _)| expression.get(at + 2..));
    if extensions.into_iter().any(|rest| ![":", "!", "<", "P<"].iter().any(|known| rest.starts_with(known))) {
        return None;
    }
    let (mut best, mut run) = (String::new(), String::new());
    let mut depth = 0_u32;
    let mut characters = expression.chars().peekable();
    while let Some(character) = characters.next() {
        let plain = match character {
            '|' if depth == 0 => return None,
            '(' => {
                depth += 1;
                None
            }
            ')' => {
                depth = depth.checked_sub(1)?;
                None
            }
            '[' => {
                skip_class(&mut characters)?;
                None
            }
            // A tag of fail2ban's, or the name of a group.
            '<' => {
                while characters
                    .next_if(|next| next.is_ascii_alphanumeric() || matches!(next, '-' | '_' | '/' | '>'))
                    .is_some_and(|next| next != '>')
                {}
                None
            }
            '\\' => match characters.next()? {
                // A character by its number, or a group again.
                'x' | 'u' | 'U' | 'N' | '0'..='9' => return None,
                escaped if escaped.is_ascii_alphanumeric() => None,
                escaped => Some(escaped),
            },
            '.' | '^' | '$' | '*' | '+' | '?' | '{' | '}' | ']' | '>' => None,
            other => Some(other),
        };
        let is_optional = matches!(characters.peek(), Some('*' | '?' | '{'));
        match plain.filter(|plain| depth == 0 && plain.is_ascii() && !is_optional) {
            Some(plain) => {
                run.push(plain);
                // One or more: what follows does not follow this one directly.
                if characters.peek() == Some(&'+') {
                    keep_longer(&mut best, &mut run);
                }
            }
            None => keep_longer(&mut best, &mut run),
        }
        if character == '{' {
            while characters.next_if(|next| *next != '}').is_some() {}
        }
    }
    keep_longer(&mut best, &mut run);
    (best.len() >= SHORTEST).then_some(best)
}

/// Passes over a class, behind its opening bracket.
fn skip_class(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<()> {
    characters.next_if_eq(&'^');
    characters.next_if_eq(&']');
    loop {
        match characters.next()? {
            ']' => return Some(()),
            '\\' => {
                characters.next()?;
            }
            _ => {}
        }
    }
}

fn keep_longer(best: &mut String, run: &mut String) {
    if run.len() > best.len() {
        std::mem::swap(best, run);
    }
    run.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Ipv6Prefix;
    use crate::config::Config;
    use crate::rule::{Names, Trigger};
    use crate::table::Bans;
    use std::path::Path;

    const NOW: Time = Time::from_secs(1_795_400_000);

    /// What a rule of a configuration sees in lines.
    fn look(config: &str, lines: &[&str]) -> Vec<(String, u64)> {
        let names = Names::default();
        let config = Config::parse(config.as_bytes(), Path::new("test.toml"), &names).unwrap();
        let rule = config.rules.by_name("text").unwrap();
        let Trigger::Line(pattern) = &rule.trigger else { panic!("{rule:?}") };
        let mut text = TextRule::new(rule, pattern, &Zone::utc()).unwrap();
        let bans = Bans::new(1);
        let detector = Detector { rules: &config.rules, lists: &config.lists, bans: &bans, prefix: Ipv6Prefix::default() };
        let seen = lines.iter().filter_map(|line| text.look(line.as_bytes(), NOW, &detector));
        seen.map(|seen| (seen.offence.client.to_string(), seen.time.secs())).collect()
    }

    #[test]
    fn a_rule_of_ones_own_blames_its_host_at_the_lines_own_time() {
        let config = "[[rule]]\nname = 'text'\nfailregex = '^ badd: refused <HOST>$'\nignoreregex = 'refused 192\\.0\\.2\\.9$'";
        let lines = [
            "2026-11-23 01:02:03 badd: refused 192.0.2.1",
            "2026-11-23 01:02:03 badd: refused 192.0.2.9",
            "2026-11-23 01:02:03 badd: welcomed 192.0.2.1",
            "2026-11-23 01:02:03 badd: refused 127.0.0.1",
        ];
        assert_eq!(look(config, &lines), [("192.0.2.1".to_owned(), 1_795_395_723)]);
    }

    #[test]
    fn the_date_may_stand_within_the_text_that_an_expression_needs() {
        let config = "[[rule]]\nname = 'text'\nfailregex = '^<HOST> - - \\[\\] \"GET /x'";
        let lines = ["192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] \"GET /x HTTP/1.1\" 404 0"];
        assert_eq!(look(config, &lines), [("192.0.2.1".to_owned(), 1_795_395_723)]);
    }

    #[test]
    fn a_filter_file_is_used_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("badd.conf");
        std::fs::write(&path, "[Definition]\nfailregex = ^\\s*badd\\[\\d+\\]: <re>\nre = no such user .* from <HOST>\n").unwrap();
        let config = format!("[[rule]]\nname = 'text'\nfilter = '{}'", path.display());
        let lines = ["2026-11-23 01:02:03 badd[7]: no such user x from 2001:db8::1", "2026-11-23 01:02:03 other"];
        assert_eq!(look(&config, &lines), [("2001:db8::".to_owned(), 1_795_395_723)]);
    }

    #[test]
    fn the_text_that_an_expression_needs_is_certain() {
        for (expression, text) in [
            (r"\[<HOST>\] .*refused: too many connections", Some("refused: too many connections")),
            (r"^ badd: refused <HOST>$", Some(" badd: refused ")),
            (r"abcd|efgh", None),
            (r"(abcd|efgh) <HOST>", None),
            (r"^abcdx? <HOST>", Some("abcd")),
            (r"^abcdx* long enough<HOST>", Some(" long enough")),
            (r"^abcdx{0,2}yz<HOST>", Some("abcd")),
            (r"^ab[cd]+efgh<HOST>", Some("efgh")),
            (r"^[]x]abcd<HOST>", Some("abcd")),
            (r"^a\.b\[c\]d<HOST>", Some("a.b[c]d")),
            (r"^abc\d+defg<HOST>", Some("defg")),
            (r"(?i)abcdef<HOST>", None),
            (r"abcd(?:efgh)?ijkl mn<HOST>", Some("ijkl mn")),
            (r"abc+de<HOST>", None),
            (r"^<F-USER>abcd</F-USER>efghi<HOST>", Some("efghi")),
            (r"é<HOST>", None),
            (r"(?x) a b c d <HOST>", None),
            (r"abcd(?!ef)<HOST>", Some("abcd")),
            (r"abcd(?<!x)|efgh<HOST>", None),
            (r"\x41bcdef<HOST>", None),
            (r"a (?P<one>x) b <HOST> abcd", Some(" abcd")),
        ] {
            assert_eq!(required_text(expression).as_deref(), text, "{expression}");
        }
    }
}
