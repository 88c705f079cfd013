//! Rules over any text log, in fail2ban's language. A line that lacks the text which every match needs is dropped before the expressions.

use std::sync::Arc;

use aho_corasick::AhoCorasick;

use super::health::Quarters;
use super::offence::{LogOffence, OffenceKind, Received};
use super::time::Zone;
use crate::client::{Client, parse_address};
use crate::detector::Detector;
use crate::event::Service;
use crate::fail2ban::{self, Filter, Host, Matcher};
use crate::logging::ThrottledLog;
use crate::rule::{Evidence, LinePattern, Offence, Rule, Trigger};
use crate::time::Time;

/// The rules in fail2ban's language for one log.
#[derive(Debug, Default)]
pub struct TextRules(Vec<TextRule>);

impl TextRules {
    /// Compiles those of `rules` that are in fail2ban's language.
    ///
    /// # Errors
    /// As for [`TextRule::new`].
    pub fn new<'a>(rules: impl IntoIterator<Item = &'a Arc<Rule>>, zone: &Zone) -> Result<Self, String> {
        let compile = |rule: &'a Arc<Rule>| match &rule.trigger {
            Trigger::Line(LinePattern::Exim(_)) => None,
            Trigger::Line(pattern) => Some(TextRule::new(rule, pattern, zone)),
            _ => None,
        };
        rules.into_iter().filter_map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The offences that a line records. None of them is counted before all rules have judged the line, so each rule counts it.
    #[must_use]
    pub fn judge(&mut self, line: &[u8], received: Received, detector: &Detector<'_>) -> Vec<LogOffence> {
        self.0.iter_mut().filter_map(|rule| rule.judge(line, received, detector)).collect()
    }

    /// The expressions in which a client's text decides who is blamed, each with a line that shows it.
    #[must_use]
    pub fn forgeries(&self) -> Vec<String> {
        self.0.iter().flat_map(|rule| fail2ban::forgeries(rule.matcher.filter())).map(|forgery| forgery.to_string()).collect()
    }
}

/// One rule over the lines of one log.
#[derive(Debug)]
pub struct TextRule {
    rule: Arc<Rule>,
    matcher: Matcher,
    gate: Option<AhoCorasick>,
    service: Service,
    unused: ThrottledLog,
}

impl TextRule {
    /// Compiles a rule; a filter file is read here.
    ///
    /// # Errors
    /// A message about the filter or expression that cannot be used.
    pub fn new(rule: &Arc<Rule>, pattern: &LinePattern, zone: &Zone) -> Result<Self, String> {
        let filter = filter(rule, pattern)?;
        let literals: Option<Vec<[String; 2]>> = filter.sources.iter().map(|source| halves(&required_text(source)?)).collect();
        // Where lines are joined, those without the text count too.
        let literals = literals.filter(|_| !filter.joins_lines());
        let gate =
            literals.map(|literals| AhoCorasick::new(literals.into_iter().flatten())).transpose().map_err(|error| error.to_string())?;
        let service = rule.scope.services().first().copied().unwrap_or(Service::Web);
        let matcher = Matcher::new(Arc::new(filter), zone.rules().clone());
        Ok(Self { rule: Arc::clone(rule), matcher, gate, service, unused: ThrottledLog::default() })
    }

    /// The offence that a line records. A line without a date has that of the last line with one, else the time when it was read.
    #[must_use]
    pub fn judge(&mut self, line: &[u8], received: Received, detector: &Detector<'_>) -> Option<LogOffence> {
        if self.gate.as_ref().is_some_and(|gate| !gate.is_match(line)) {
            return None;
        }
        let (uncertain, gave_up) = (self.matcher.uncertain(), self.matcher.gave_up());
        let found = self.matcher.line(line, seconds(received.at));
        let name = &self.rule.name;
        if self.matcher.uncertain() > uncertain {
            self.unused.warn(|| format!("rule {name:?}: a line matches but could blame another client, so it blames nobody"));
        }
        if self.matcher.gave_up() > gave_up {
            self.unused.warn(|| format!("rule {name:?}: a line reached the step limit of an expression, so it matches nothing"));
        }
        let found = found?;
        let address = match (&found.id, &found.host) {
            // A filter may count by something else than an address (`<F-ID>`), which can be refused only if it is one all the same.
            (Some(id), _) => parse_address(id).ok()?,
            (None, Host::Address(address)) => *address,
            (None, Host::Network(_) | Host::Text(_)) => return None,
        };
        let time = time_of_seconds(found.counted_at)?;
        // fail2ban takes a line that is being written as one of now whenever its time is more than a minute off (`processLineAndAdd`).
        let behind = received.behind(time);
        let time = received.corrected_by(behind.map_or(0, Quarters::millis)).counted_at(time);
        let client = Client::of(address, detector.prefix);
        let is_banned = |service: &Service| detector.active_refusal(time, address, client, *service).is_some();
        if detector.lists.never_banned(address).is_some() || self.rule.scope.services().iter().all(is_banned) {
            return None;
        }
        let offence =
            Offence { address, client, rules: vec![Arc::clone(&self.rule)], evidence: Evidence::new(&[line]), marks: None, account: None };
        Some(LogOffence { time, behind, service: self.service, kind: OffenceKind::Text, offence })
    }
}

/// The expressions of a rule; a filter file is read here.
fn filter(rule: &Rule, pattern: &LinePattern) -> Result<Filter, String> {
    match pattern {
        LinePattern::Exim(_) => Err(format!("found kinds of Exim lines in rule {:?}, expected expressions", rule.name)),
        LinePattern::Regex { failregex, ignoreregex } => {
            Filter::of(failregex, ignoreregex).map_err(|error| format!("rule {:?}: {error}", rule.name))
        }
        LinePattern::Filter { path, options } => Filter::load(path, options).map_err(|error| error.to_string()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact in an f64")]
fn seconds(time: Time) -> f64 {
    time.millis() as f64 / 1000.0
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn time_of_seconds(seconds: f64) -> Option<Time> {
    let millis = (seconds * 1000.0).round();
    (0.0..9e15).contains(&millis).then_some(Time::from_millis(millis as u64))
}

/// Both halves of a text, of which a line must hold at least one.
///
/// fail2ban cuts the date out of a line before it tries expressions, so the date may stand in the middle of the text, but only in one half.
fn halves(text: &str) -> Option<[String; 2]> {
    /// Shorter text occurs in too many lines.
    const MIN_LENGTH: usize = 4;
    if text.len() < 2 * MIN_LENGTH {
        return None;
    }
    let (first, second) = text.split_at_checked(text.len() / 2)?;
    Some([first.to_owned(), second.to_owned()])
}

/// The longest run of plain characters outside all groups of `expression`: every line that matches holds it once its date is cut out.
///
/// None where no such run is certain. It may miss text that is required, but never claims text that is not.
fn required_text(expression: &str) -> Option<String> {
    /// Shorter text occurs in too many lines.
    const MIN_LENGTH: usize = 4;
    // Flags can change what a character means (case, comments). Of the other extensions, only plain groups and lookarounds are known here.
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
            // One of fail2ban's tags, or the name of a group.
            '<' => {
                while characters
                    .next_if(|next| next.is_ascii_alphanumeric() || matches!(next, '-' | '_' | '/' | '>'))
                    .is_some_and(|next| next != '>')
                {}
                None
            }
            '\\' => match characters.next()? {
                // A character by its code, or a back-reference.
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
                // One or more: the next character need not follow the first repetition.
                if characters.peek() == Some(&'+') {
                    update_longest(&mut best, &mut run);
                }
            }
            None => update_longest(&mut best, &mut run),
        }
        if character == '{' {
            while characters.next_if(|next| *next != '}').is_some() {}
        }
    }
    update_longest(&mut best, &mut run);
    (best.len() >= MIN_LENGTH).then_some(best)
}

/// Skips the rest of a character class after its opening bracket.
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

fn update_longest(best: &mut String, run: &mut String) {
    if run.len() > best.len() {
        std::mem::swap(best, run);
    }
    run.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::rule::Trigger;
    use crate::rule_id::RuleNames;
    use crate::table::Bans;

    const NOW: Time = Time::from_secs(1_795_400_000);

    /// Client and time of the offences that the rule `text` finds in lines.
    fn offences(config: &str, lines: &[&str]) -> Vec<(String, u64)> {
        let names = RuleNames::default();
        let policy = Policy::for_tests(config, &names);
        let rule = policy.rules.by_name("text").unwrap();
        let Trigger::Line(pattern) = &rule.trigger else { panic!("{rule:?}") };
        let mut text = TextRule::new(rule, pattern, &Zone::utc()).unwrap();
        let bans = Bans::new(1);
        let detector = Detector::new(&policy, &bans);
        let found = lines.iter().filter_map(|line| text.judge(line.as_bytes(), Received::live(NOW), &detector));
        found.map(|found| (found.offence.client.to_string(), found.time.secs())).collect()
    }

    #[test]
    fn an_expression_blames_its_host_at_the_lines_own_time() {
        let config = "[[rule]]\nname = 'text'\nfailregex = '^ badd: refused <HOST>$'\nignoreregex = 'refused 192\\.0\\.2\\.9$'";
        let lines = [
            "2026-11-23 01:02:03 badd: refused 192.0.2.1",
            "2026-11-23 01:02:03 badd: refused 192.0.2.9",
            "2026-11-23 01:02:03 badd: welcomed 192.0.2.1",
            "2026-11-23 01:02:03 badd: refused 127.0.0.1",
        ];
        assert_eq!(offences(config, &lines), [("192.0.2.1".to_owned(), 1_795_395_723)]);
    }

    #[test]
    fn the_date_may_interrupt_the_required_text() {
        let config = "[[rule]]\nname = 'text'\nfailregex = '^<HOST> - - \\[\\] \"GET /x'";
        let lines = ["192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] \"GET /x HTTP/1.1\" 404 0"];
        assert_eq!(offences(config, &lines), [("192.0.2.1".to_owned(), 1_795_395_723)]);
    }

    #[test]
    fn a_line_without_a_date_counts_as_of_now() {
        let config = "[[rule]]\nname = 'text'\nfailregex = '^badd: refused <HOST>$'";
        assert_eq!(offences(config, &["badd: refused 192.0.2.1"]), [("192.0.2.1".to_owned(), NOW.secs())]);
    }

    #[test]
    fn every_rule_in_fail2bans_language_judges_a_line() {
        let names = RuleNames::default();
        let rules = "[[rule]]\nname = 'one'\nfailregex = 'refused <HOST>$'\n[[rule]]\nname = 'two'\nfailregex = '^badd: .* <HOST>$'\nscope = 'mail'";
        let policy = Policy::for_tests(rules, &names);
        let bans = Bans::new(1);
        let detector = Detector::new(&policy, &bans);
        let mut text = TextRules::new(policy.rules.rules(), &Zone::utc()).unwrap();
        let mut judge = |line: &str| {
            let found = text.judge(line.as_bytes(), Received::live(NOW), &detector);
            let mut found: Vec<_> = found.iter().map(|found| (found.offence.rules[0].name.to_string(), found.service)).collect();
            found.sort_by_key(|(name, _)| name.clone());
            found
        };
        assert_eq!(judge("badd: refused 192.0.2.1"), [("one".to_owned(), Service::Web), ("two".to_owned(), Service::Mail)]);
        assert_eq!(judge("badd: welcomed 192.0.2.1"), [("two".to_owned(), Service::Mail)]);
        assert_eq!(judge("welcomed 192.0.2.1"), []);
    }

    #[test]
    fn a_text_is_looked_for_by_halves_that_do_not_occur_in_every_line() {
        assert_eq!(halves("abcdefghi"), Some(["abcd".to_owned(), "efghi".to_owned()]));
        assert_eq!(halves("abcdefgh"), Some(["abcd".to_owned(), "efgh".to_owned()]));
        assert_eq!(halves("abcdefg"), None);
    }

    #[test]
    fn a_filter_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("badd.conf");
        std::fs::write(&path, "[Definition]\nfailregex = ^\\s*badd\\[\\d+\\]: <re>\nre = no such user .* from <HOST>\n").unwrap();
        let config = format!("[[rule]]\nname = 'text'\nfilter = '{}'", path.display());
        let lines = ["2026-11-23 01:02:03 badd[7]: no such user x from 2001:db8::1", "2026-11-23 01:02:03 other"];
        assert_eq!(offences(&config, &lines), [("2001:db8::".to_owned(), 1_795_395_723)]);
    }

    #[test]
    fn required_text_is_never_claimed_wrongly() {
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
            (r"(a|b)abcdef<HOST>", Some("abcdef")),
            (r"^ab{100000}cdef<HOST>", Some("cdef")),
            (r"^[abcdefgh]ijkl<HOST>", Some("ijkl")),
            (r"^[\]abcdef]ghij<HOST>", Some("ghij")),
            (r"^abcd\d+efgh<HOST>", Some("abcd")),
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
